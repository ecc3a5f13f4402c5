#!/usr/bin/perl

# What "nginx -t" says: every refusal is one sentence with the directive, what
# was given, what is allowed, and the line; no password is ever in it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis;

$t->write_file($_->[0], $_->[1]) for (
    [ 'password', "hunter2\n" ], [ 'password-crlf', "hunter2\r\nother\n" ],
    [ 'password-bare', 'hunter2' ], [ 'empty', '' ], [ 'blank', "\nhunter2\n" ],
    [ 'long', 'hunter2' x 1000 ],
);

# One nginx is never started: its configuration is tested.

my $nginx = $t->nginx(start => 0, redis => $redis, ssl => 1,
                      vars => { TOP => $t->dir });
my $location = 'convotic on; proxy_pass http://127.0.0.1:1;';


# The configuration with a text at each level; %%HERE%% is where it stands.

sub conf {
    my (%at) = @_;

    my ($http, $server, $loc) = map { defined $at{$_} ? $at{$_} : '' }
        qw(http server location);
    my $first = defined $at{redis} ? $at{redis} : 'convotic_redis %%REDIS%%;';

    # a small zone is made sooner

    $first .= ' convotic_zone 1m;'
        unless grep { /convotic_zone/ } $first, $http, $server, $loc;

    return <<"EOC";
http {
$first
$http
server {
listen 127.0.0.1:%%PORT%%;
$server
location = /v1/contacts {
$location
$loc
}
}
}
EOC
}


sub accepted {
    my ($name, %at) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $res = $nginx->test_config(conf => conf(%at));

    return ok($res->{exit} == 0 && $res->{signal} == 0
              && $res->{out} !~ /\[(?:emerg|alert|crit|warn)\]/, $name)
        || diag($res->{out});
}


# Refused, in one line that matches all patterns and names the file's line.

sub refused {
    my ($name, $at, @patterns) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $res = $nginx->test_config(conf => conf(%$at));
    my @lines = grep { /\[emerg\]/ } split /\n/, $res->{out};
    my @faults;

    push @faults, "exit $res->{exit}, signal $res->{signal}"
        if $res->{exit} != 1 || $res->{signal};
    push @faults, scalar @lines . ' lines' if @lines != 1;
    push @faults, 'no place' if $res->{out} !~ m{/test\.conf:\d+$}m;
    push @faults, 'a password' if $res->{out} =~ /hunter/;
    push @faults, map { "does not match $_" }
        grep { $res->{out} !~ $_ } map { ref $_ ? $_ : qr/\Q$_\E/ } @patterns;

    return ok(!@faults, $name) || diag(join "\n", @faults, $res->{out});
}


# What was given, as a message has it; what is not printable need not be there.

sub given {
    my ($value) = @_;

    return $value =~ /[^\x20-\x7e]/ ? () : qq("$value");
}


# A location with the gateway, and one within.

sub nested {
    my ($text) = @_;

    return "location /x/ { $location location /x/y/ { $text } }";
}


# All directives, at all of their levels.

my %usual = (
    convotic_errors          => [ 'on', 'off' ],
    convotic_error_status    => [ 'preserve', 'documented' ],
    convotic_platforms       => [ 'a', 'instagram line telegram' ],
    convotic_limit           => [ 'default=1', 'max=1000000', 'max=20',
                                  'default=5 max=10', 'max=10 default=5' ],
    convotic_unknown_args    => [ 'ignore', 'reject' ],
    convotic_forward_args    => [ 'cursor', 'a b c LIMIT Platform' ],
    convotic_cache           => [ 'on', 'off' ],
    convotic_cache_valid     => [ '30s', '0', '500ms', '1d', '3650d' ],
    convotic_cache_stale     => [ '5m', '0', '1h 30m' =~ s/ //r ],
    convotic_cache_max_size  => [ '1', '256k', '16m' ],
    convotic_cache_bypass    => [ '$arg_x', '$http_pragma $arg_x' ],
    convotic_cache_namespace => [ 'x', 'a:b/c', 'n' x 128 ],
    convotic_cache_lock_timeout => [ '5s', '0', '1ms' ],
    convotic_gzip            => [ 'on', 'off', 'on level=1', 'on level=9',
                                  'off level=6' ],
    convotic_key_valid       => [ '10s', '0', '1h' ],
    convotic_key_invalid     => [ '1s', '0', '1h' ],
    convotic_key_stale       => [ '60s', '0', '1h' ],
    convotic_fill_timeout    => [ '10s', '1ms' ],
    convotic_rate            => [ '1', '1000', '0060', '1000000000', 'off' ],
    convotic_rate_fallback   => [ 'local', 'local=1', 'local=1000000000',
                                  'open', 'closed' ],
    convotic_rate_headers    => [ 'documented', 'draft', 'both' ],
    convotic_rate_dry_run    => [ 'on', 'off' ],
    convotic_auth_failures   => [ '1', '60', '1000000000', 'off' ],
);

for my $directive (sort keys %usual) {
    for my $value (@{ $usual{$directive} }) {
        accepted("$directive $value at $_", $_ => "$directive $value;")
            for qw(http server location);
    }

    my $value = $usual{$directive}[0];

    accepted("$directive at all levels",
             map { $_ => "$directive $value;" } qw(http server location));
    refused("$directive twice", { location => "$directive $value;" x 2 },
            qq("$directive" directive), 'duplicate')
        unless $directive eq 'convotic_cache_bypass';       # which adds up
    refused("$directive without a value", { location => "$directive;" },
            qq(invalid number of arguments in "$directive" directive));
    refused("$directive in events",
            { location => "}\n}\n}\nevents { $directive $value;" },
            qq("$directive" directive is not allowed here));
    refused("$directive in if",
            { location => "if (\$arg_x) { $directive $value; }" },
            qq("$directive" directive is not allowed here));
}

my %main = (
    convotic_redis        => 'redis://127.0.0.1',
    convotic_cache_redis  => 'redis://127.0.0.1',
    convotic_redis_prefix => 'x:',
    convotic_zone         => '2m',
    convotic_cache_local  => '1m',
);

for my $directive (sort keys %main) {
    my $line = "$directive $main{$directive};";
    my $first = $directive eq 'convotic_redis' ? ''
              : 'convotic_redis %%REDIS%%;';

    accepted("$directive at http", redis => "$first $line");
    refused("$directive twice", { redis => "$first $line $line" },
            qq("$directive" directive), 'duplicate');
    refused("$directive without a value", { redis => "$first $directive;" },
            qq(invalid number of arguments in "$directive" directive));
    refused("$directive at $_", { $_ => $line },
            qq("$directive" directive is not allowed here))
        for qw(server location);
}

accepted("convotic $_", server => "location /x { convotic $_; }")
    for qw(on off);
accepted('convotic is inherited', server => nested(''));
accepted("convotic_status $_", server => "location /s { convotic_status $_; }")
    for qw(json prometheus);
refused("convotic at $_", { $_ => 'convotic on;' },
        '"convotic" directive is not allowed here') for qw(http server);
refused('convotic in if', { location => 'if ($arg_x) { convotic on; }' },
        '"convotic" directive is not allowed here');
refused('convotic twice', { location => 'convotic on;' },
        '"convotic" directive is duplicate');
refused("convotic_status at $_", { $_ => 'convotic_status json;' },
        '"convotic_status" directive is not allowed here') for qw(http server);
refused('convotic_status twice',
        { server => 'location /s { ' . 'convotic_status json;' x 2 . '}' },
        '"convotic_status" directive', 'duplicate');


# Values: what was given, what is allowed.

my @one_of = (
    [ convotic_errors       => qw(on off) ],
    [ convotic_cache        => qw(on off) ],
    [ convotic_error_status => qw(preserve documented) ],
    [ convotic_unknown_args => qw(ignore reject) ],
    [ convotic_rate_headers => qw(documented draft both) ],
    [ convotic_rate_dry_run => qw(on off) ],
);

for my $case (@one_of) {
    my ($directive, @allowed) = @$case;

    refused("$directive $_", { http => "$directive $_;" }, $directive,
            qq("$_"), @allowed) for 'nonsense', 'yes', '1';
    refused("$directive of nothing", { http => "$directive '';" }, $directive,
            '""', @allowed);
    refused("$directive $allowed[0] $allowed[1]",
            { http => "$directive @allowed;" },
            qq(invalid number of arguments in "$directive" directive));
}

refused("convotic $_", { server => "location /x { convotic $_; }" },
        'convotic', qq("$_"), qw(on off)) for 'nonsense', 'yes', '1';
refused("convotic_status $_",
        { server => "location /s { convotic_status $_; }" },
        'convotic_status', qq("$_"), qw(json prometheus))
    for 'nonsense', 'yes', 'on';

for my $directive (qw(convotic_cache_valid convotic_cache_stale
                      convotic_cache_lock_timeout convotic_key_valid
                      convotic_key_invalid convotic_key_stale
                      convotic_fill_timeout))
{
    refused("$directive $_", { http => "$directive $_;" }, $directive, qq("$_"),
            qr/\btime\b/)
        for 'nonsense', '-1', '1x', '1.5s', '1s1h', '30seconds',
            '99999999999999999999', '9000000000000000000ms', '10y1ms', '3651d';
    refused("$directive of nothing", { http => "$directive '';" }, $directive,
            '""', qr/\btime\b/);
}

for my $directive (qw(convotic_rate convotic_auth_failures)) {
    refused("$directive " . (length $_ ? $_ : 'of nothing'),
            { http => qq($directive "$_";) }, qq("$directive"), qq("$_"),
            'a number from 1 to 1000000000', '"off"')
        for '', '0', '00', '-1', '+5', 'NaN', 'inf', '1.5', '1e3', '0x10',
            '5 ', ' 5', '1,000', '60r/m', 'on', 'OFF', 'none', 'unlimited',
            '1000000001', '10000000000', '9' x 20, '9' x 400;
    refused("$directive 60 off", { http => "$directive 60 off;" },
            qq(invalid number of arguments in "$directive" directive));
}

refused('convotic_rate_fallback ' . (length $_ ? $_ : 'of nothing'),
        { http => qq(convotic_rate_fallback "$_";) },
        '"convotic_rate_fallback"', qq("$_"), 'local=', '1 to 1000000000',
        'open', 'closed')
    for '', 'nonsense', 'on', 'off', '5', 'Local', 'OPEN', 'locally', 'local=',
        'local=0', 'local=-1', 'local=x', 'local=1.5', 'local=1e3', 'local= 5',
        'local=5 ', 'local=off', 'open=5', 'closed=5', 'local=1000000001',
        'local=' . '9' x 20;
refused('convotic_rate_fallback with two',
        { http => 'convotic_rate_fallback local open;' },
        'invalid number of arguments in "convotic_rate_fallback" directive');

refused('convotic_fill_timeout 0', { http => 'convotic_fill_timeout 0;' },
        '"convotic_fill_timeout" must be above 0');
refused('convotic_cache_max_size ' . $_,
        { http => "convotic_cache_max_size $_;" }, 'convotic_cache_max_size',
        qq("$_"), qr/16m|16777216/)
    for 'nonsense', '-1', '0', '17m', '1g', '1x', '99999999999999999999';
refused("convotic_zone $_", { http => "convotic_zone $_;" }, 'convotic_zone',
        qq("$_"), '1m')
    for 'nonsense', '-1', '0', '1023k', '1x', '99999999999999999999';

accepted("convotic_cache_local $_", http => "convotic_cache_local $_;")
    for '0', '64k', '1024m', '0 valid=1s', '1m valid=1ms', '1m valid=1h';
refused("convotic_cache_local $_", { http => "convotic_cache_local $_;" },
        'convotic_cache_local', qq("$_"), '64k')
    for 'nonsense', '-1', '1', '63k', '1x', 'off', '99999999999999999999';
refused("convotic_cache_local 1m $_",
        { http => "convotic_cache_local 1m $_;" }, 'convotic_cache_local',
        qq("$_"), 'valid=', qr/\btime above 0\b/)
    for 'valid=0', 'valid=', 'valid=x', 'valid=-1', 'valid', '5s', 'Valid=5s',
        'invalid=5s';
refused('convotic_cache_local with three',
        { http => 'convotic_cache_local 1m valid=1s valid=2s;' },
        'invalid number of arguments in "convotic_cache_local" directive');

refused("convotic_gzip $_", { http => "convotic_gzip $_;" }, 'convotic_gzip',
        qq("$_"), qw(on off)) for 'nonsense', 'yes', '6', 'level=6', 'ON';
refused("convotic_gzip on $_", { http => "convotic_gzip on $_;" },
        'convotic_gzip', qq("$_"), 'level=', 'from 1 to 9')
    for 'level=0', 'level=10', 'level=', 'level=x', 'level=-1', 'level=1.5',
        '6', 'off', 'Level=6';
refused('convotic_gzip with three', { http => 'convotic_gzip on level=1 x;' },
        'invalid number of arguments in "convotic_gzip" directive');

for my $value ('default=0', 'max=0', 'default=-1', 'max=1000001', 'default=',
               'max=', 'default=x', 'max=1.5', 'max=+5', '50', 'nonsense',
               'maximum=5', 'Max=5', 'default=99999999999999999999',
               'max=18446744073709551617')
{
    refused("convotic_limit $value", { http => "convotic_limit $value;" },
            qq("$value"), 'default=', 'max=', 'from 1 to 1000000',
            'convotic_limit');
}

refused('convotic_limit with a parameter twice',
        { http => 'convotic_limit max=5 max=6;' },
        '"convotic_limit" directive has the same parameter twice');
refused('convotic_limit with three', { http => 'convotic_limit a b c;' },
        'invalid number of arguments in "convotic_limit" directive');

for my $case (
    [ 'in one', { http => 'convotic_limit default=11 max=10;' }, 11, 10 ],
    [ 'above the default maximum',
      { http => 'convotic_limit default=101;' }, 101, 100 ],
    [ 'below the default default',
      { http => 'convotic_limit max=19;' }, 20, 19 ],
    [ 'inherited', { http => 'convotic_limit default=50;',
                     location => 'convotic_limit max=40;' }, 50, 40 ],
) {
    my ($name, $at, $default, $max) = @$case;

    refused("convotic_limit, $name", $at, '"convotic_limit"',
            qr/default $default\b/, qr/maximum $max\b/);
}

for my $directive (qw(convotic_platforms convotic_forward_args)) {
    refused("$directive with " . ($_ || 'nothing'),
            { http => qq($directive x "$_";) }, qq("$directive"),
            given($_), 'visible ASCII')
        for '', 'a b', ' a', "a\tb", "a\x01", "\xc3\xa9", "a\x7f";
    refused("$directive with a name twice", { http => "$directive a b a;" },
            qq("$directive"), '"a"', 'twice');
}

refused("convotic_forward_args $_", { http => "convotic_forward_args x $_;" },
        '"convotic_forward_args"', qq("$_"), 'always') for qw(limit platform);

refused("convotic_redis_prefix $_", { http => qq(convotic_redis_prefix "$_";) },
        '"convotic_redis_prefix"', given($_), 'visible ASCII', 'braces')
    for 'a b', 'a{b', 'a}', '{}', "a\tb", "\xc3\xa9";
refused('convotic_redis_prefix of 129 characters',
        { http => 'convotic_redis_prefix ' . 'p' x 129 . ';' },
        '"convotic_redis_prefix"', '128');
accepted('convotic_redis_prefix of 128 characters',
         http => 'convotic_redis_prefix ' . 'p' x 128 . ';');

refused('convotic_cache_namespace ' . $_,
        { http => qq(convotic_cache_namespace "$_";) },
        '"convotic_cache_namespace"', given($_), 'visible ASCII')
    for 'a b', "a\tb", "\xc3\xa9";
refused('convotic_cache_namespace of nothing',
        { http => 'convotic_cache_namespace "";' },
        '"convotic_cache_namespace"', '1 to 128');
refused('convotic_cache_namespace of 129 characters',
        { http => 'convotic_cache_namespace ' . 'n' x 129 . ';' },
        '"convotic_cache_namespace"', '1 to 128');


# Servers.  A URL is never repeated: there may be a password in it, even where
# it should not be.

my @good = (
    'redis://127.0.0.1', 'redis://127.0.0.1/', 'redis://127.0.0.1:6379',
    'redis://127.0.0.1:6379/', 'redis://127.0.0.1:6379/0',
    'redis://127.0.0.1:6379/65535', 'redis://localhost', 'redis://[::1]',
    'redis://[::1]:6379/1', 'redis://:hunter2@127.0.0.1',
    'redis://user:hunter2@127.0.0.1:1/2', 'redis://:%00%2f%40@127.0.0.1',
    'redis://us%65r:a:b@127.0.0.1', 'unix:/tmp/redis.sock',
    'unix:/tmp/redis.sock?db=3', 'unix:/x',
);

my @bad = (
    [ 'nothing',            '""' ],
    [ 'no URL',             'nonsense' ],
    [ 'an address',         '127.0.0.1:6379' ],
    [ 'HTTP',               'http://:hunter2@127.0.0.1' ],
    [ 'TLS',                'rediss://:hunter2@127.0.0.1', 'TLS' ],
    [ 'capitals',           'REDIS://:hunter2@127.0.0.1' ],
    [ 'one slash',          'redis:/:hunter2@127.0.0.1' ],
    [ 'no host',            'redis://' ],
    [ 'a port alone',       'redis://:6379' ],
    [ 'a password alone',   'redis://:hunter2@' ],
    [ 'a slash alone',      'redis:///0' ],
    [ 'port 0',             'redis://:hunter2@127.0.0.1:0' ],
    [ 'port 65536',         'redis://:hunter2@127.0.0.1:65536' ],
    [ 'port x',             'redis://:hunter2@127.0.0.1:x' ],
    [ 'database x',         'redis://:hunter2@127.0.0.1/x' ],
    [ 'database -1',        'redis://:hunter2@127.0.0.1/-1' ],
    [ 'database 65536',     'redis://:hunter2@127.0.0.1/65536' ],
    [ 'two databases',      'redis://:hunter2@127.0.0.1/1/2' ],
    [ 'a database as query', 'redis://:hunter2@127.0.0.1?db=1' ],
    [ 'a fragment',         'redis://:hunter2@127.0.0.1#x' ],
    [ 'half an address',    'redis://:hunter2@[::1' ],
    [ 'an unknown host',    'redis://:hunter2@no-such-host.invalid' ],
    [ 'malformed user',     'redis://us%zz:hunter2@127.0.0.1' ],
    [ 'malformed password', 'redis://:hunter2%@127.0.0.1' ],
    [ 'a user alone',       'redis://hunter@127.0.0.1' ],
    [ 'a user, no password', 'redis://hunter:@127.0.0.1' ],
    [ 'an @ in a password', 'redis://:hunt@er2@127.0.0.1' ],
    [ 'a slash in a password', 'redis://:hunter/2@127.0.0.1' ],
    [ 'a user and a slash', 'redis://user:hunter/2@127.0.0.1' ],
    [ 'a user and no host', 'redis://user:hunter2' ],
    [ 'a # in a password',  'redis://user:hunter#2' ],
    [ 'a relative path',    'unix:tmp/redis.sock' ],
    [ 'no path',            'unix:' ],
    [ 'a slash',            'unix:/' ],
    [ 'a long path',        'unix:/' . 'x' x 200 ],
    [ 'another parameter',  'unix:/tmp/redis.sock?password=hunter2' ],
    [ 'no number',          'unix:/tmp/redis.sock?db=hunter2' ],
    [ 'a large number',     'unix:/tmp/redis.sock?db=65536' ],
    [ 'two parameters',     'unix:/tmp/redis.sock?db=1&password=hunter2' ],
);

my @good_options = (
    'timeout=50ms', 'connect_timeout=1s', 'timeout=1s connect_timeout=2s',
    'password_file=%%TOP%%/password', 'password_file=%%TOP%%/password-crlf',
    'password_file=%%TOP%%/password-bare',
    'password_file=%%TOP%%/password timeout=1m',
);

my @bad_options = (
    [ 'timeout=0', 'timeout=0' ],
    [ 'timeout=', 'timeout=' ],
    [ 'timeout=x', 'timeout=x' ],
    [ 'timeout=200000000y', 'timeout=200000000y' ],
    [ 'timeout=-1s', 'timeout=-1s' ],
    [ 'connect_timeout=0', 'connect_timeout=0' ],
    [ 'connect_timeout=1x', 'connect_timeout=1x' ],
    [ 'nonsense', 'connect_timeout=', 'timeout=', 'password_file=' ],
    [ 'Timeout=1s', 'connect_timeout=', 'timeout=', 'password_file=' ],
    [ 'password=hunter2', 'password_file=' ],
    [ 'passwd=hunter2', 'password_file=' ],
    [ 'password_file=', 'password_file' ],
    [ 'password_file=%%TOP%%/none', '/none' ],
    [ 'password_file=%%TOP%%/empty', '/empty', 'no password' ],
    [ 'password_file=%%TOP%%/blank', '/blank', 'no password' ],
    [ 'password_file=%%TOP%%/long', '/long' ],
    [ 'password_file=%%TOP%%', qr/\Q@{[ $t->dir ]}\E/ ],
    [ 'redis://:hunter2@127.0.0.1', 'one URL' ],
    [ 'Redis://:hunter2@127.0.0.1' ],
    [ 'unix:/tmp/redis.sock', 'one URL' ],
);

for my $directive (qw(convotic_redis convotic_cache_redis)) {
    my $first = $directive eq 'convotic_redis' ? ''
              : 'convotic_redis %%REDIS%%;';

    accepted("$directive $_", redis => "$first $directive $_;") for @good;
    accepted("$directive $_",
             redis => "$first $directive redis://127.0.0.1 $_;")
        for @good_options;

    for my $case (@bad) {
        my ($name, $url, @patterns) = @$case;

        refused("$directive: $name", { redis => "$first $directive $url;" },
                qr/$directive|Redis server/, @patterns);
    }

    for my $case (@bad_options) {
        my ($option, @patterns) = @$case;

        refused("$directive: $option", {
            redis => "$first $directive redis://127.0.0.1 $option;" },
            @patterns);
    }

    refused("$directive: two passwords", {
        redis => "$first $directive redis://:hunter2\@127.0.0.1 "
                 . 'password_file=%%TOP%%/password;' },
        $directive, 'password_file');
    accepted("$directive: a user, and a file for the password",
        redis => "$first $directive redis://user\@127.0.0.1 "
                 . 'password_file=%%TOP%%/password;');
}


# What does not go together.

refused('convotic without convotic_redis', { redis => '' },
        '"convotic on" needs "convotic_redis"');
refused('convotic_cache_redis without convotic_redis',
        { redis => 'convotic_cache_redis redis://127.0.0.1;' },
        '"convotic_cache_redis" needs "convotic_redis"');

my $cache = 'proxy_cache_path %%DIR%%/cache keys_zone=c:1m;';
my $fastcgi = 'fastcgi_cache_path %%DIR%%/fcache keys_zone=f:1m;'
              . 'fastcgi_cache_key x;';

for my $case (
    [ 'proxy_cache', { http => $cache, location => 'proxy_cache c;' } ],
    [ 'proxy_cache of the server', { http => $cache,
                                     server => 'proxy_cache c;' } ],
    [ 'proxy_cache of http', { http => "$cache proxy_cache c;" } ],
    [ 'proxy_cache of a variable', { http => $cache,
                                     location => 'proxy_cache $arg_x;' } ],
    [ 'proxy_store', { location => 'proxy_store on;' } ],
    [ 'proxy_store of a path', { location => 'proxy_store /tmp/x;' } ],
    [ 'proxy_store of http', { http => 'proxy_store on;' } ],
    [ 'proxy_cache of a nested location',
      { http => $cache, server => nested('proxy_cache c;') } ],
    [ 'fastcgi_cache', { http => $fastcgi,
                         location => 'fastcgi_cache f;' } ],
    [ 'fastcgi_store', { location => 'fastcgi_store on;' } ],
    [ 'uwsgi_store', { location => 'uwsgi_store on;' } ],
    [ 'scgi_store', { location => 'scgi_store on;' } ],
) {
    my ($name, $at) = @$case;

    refused("convotic and $name", $at, '"convotic on"', 'know no tenant',
            $name =~ /store/ ? 'store' : 'cache');
}

accepted('convotic and proxy_cache off below another', http => $cache,
         server => 'proxy_cache c;', location => 'proxy_cache off;');
accepted('proxy_cache in another location', http => $cache,
         server => 'location /x { proxy_cache c; return 404; }');
accepted('convotic off below it', http => $cache,
         server => nested('convotic off; proxy_cache c;'));

refused("convotic and proxy_pass_request_headers off at $_",
        { $_ => 'proxy_pass_request_headers off;' },
        '"convotic on"', 'pass_request_headers')
    for qw(http server location);
accepted('proxy_pass_request_headers on below off',
         http => 'proxy_pass_request_headers off;',
         location => 'proxy_pass_request_headers on;');
accepted('proxy_pass_request_body off',
         location => 'proxy_pass_request_body off;');


# Another module has a zone of the name.

refused('a zone of our name', { http =>
            'limit_req_zone $uri zone=ngx_convotic:1m rate=1r/s;' },
        'zone "ngx_convotic" is already declared for a different use');


# A module that is loaded and not used.

my $unused = $nginx->test_config(conf => <<'EOC');
http { server { listen 127.0.0.1:%%PORT%%; } }
EOC

is($unused->{exit}, 0, 'no directive at all') || diag($unused->{out});


# Passwords are in no log either, when such a configuration runs.

my $locked = $t->redis('locked', 'requirepass hunter2');
my $running = $t->nginx(vars => { URL => $locked->url, TOP => $t->dir,
                                  OPEN => $locked->addr }, conf => <<'EOC');
http {
    convotic_redis %%URL%%;
    convotic_cache_redis redis://%%OPEN%% password_file=%%TOP%%/password;
    server {
        listen 127.0.0.1:%%PORT%%;
        location = /v1/contacts { convotic on; proxy_pass http://127.0.0.1:1; }
    }
}
EOC

$locked->init;
$locked->add_key('k');
is($running->get('/v1/contacts', 'X-API-Key' => 'k')->status, 502,
   'both passwords are used');
unlike($running->error_log, qr/hunter/, 'and in no log');

$t->finish;
