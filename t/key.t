#!/usr/bin/perl

# The API key: the header, what may be a key at all, and every field of its
# record.  All refusals are one answer, so that nothing is disclosed; what
# Redis cannot say is a 503 and neither a 401 nor a 200.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Resp qw(:all);
use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);

my $redis = $t->redis->init;
my $fake = $t->fake_redis(behind => $redis);
my $g = $t->gateway(redis => $fake, store => $redis, ssl => 1,
                    server => 'underscores_in_headers on;');
my $key = $g->key;
my %body = map { $_ => contacts_body(workspace => $_, limit => 1) }
    qw(acme umbra);
my $keys = 0;


# A new key; undef leaves a field out of its record.

sub key_with {
    my (%field) = @_;

    return $redis->add_key(test_key('k' . ++$keys), %field);
}


sub with_key { return $g->contacts('limit=1', 'X-API-Key' => $_[0]) }


# All refusals are alike to the byte, whatever the reason.

my $refusal;

sub refused {
    my ($res, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    error_is($res, 401, 'UNAUTHORIZED', 'Invalid API key', $name) or return 0;

    my $text = $res->raw =~ s/^Date: .*\r\n//mr;

    $refusal = $text unless defined $refusal;

    return ok($text eq $refusal, "$name: like any other refusal")
        || diag(substr $text, 0, 400);
}


# Redis cannot say.

sub unsure {
    my ($res, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    error_is($res, 503, 'INTERNAL_ERROR', 'Service temporarily unavailable',
             $name);
    like($res ? $res->header('Retry-After') : '', qr/^[1-9]\d*\z/,
         "$name: Retry-After");

    return;
}


# A good key opens its own workspace.

success_is(with_key($key), $body{acme}, 'a good key');
success_is(with_key(key_with(workspace => 'umbra')), $body{umbra},
           'a good key of another workspace');
success_is($g->contacts('limit=1', { h2 => 1 }), $body{acme}, 'over HTTP/2');
success_is($g->contacts('limit=1', { version => '1.0' }), $body{acme},
           'over HTTP/1.0');
success_is($g->contacts('limit=1', 'X-API-Key' => undef, $_ => $key),
           $body{acme}, "as $_") for qw(x-api-key X-API-KEY x-Api-kEy);
success_is(with_key("  $key  "), $body{acme},
           'blanks around are none of its own');


# The header: none, or more than one.

my @missing = (
    [ 'no header' ],
    [ 'underscores', 'X_API_Key' => $key ],
    [ 'dots', 'X.API.Key' => 'x' ],         # which nginx logs
    [ 'another name', 'X-API-Key2' => $key ],
    [ 'Authorization', 'Authorization' => "Bearer $key" ],
    [ 'a cookie', 'Cookie' => "X-API-Key=$key" ],
);

$fake->reset;

for my $case (@missing) {
    my ($name, @headers) = @$case;

    error_is($g->contacts('limit=1', 'X-API-Key' => undef, @headers),
             401, 'UNAUTHORIZED', 'Missing X-API-Key header', $name);
}

error_is($g->get('/v1/contacts?limit=1&X-API-Key=' . key_with()),
         401, 'UNAUTHORIZED', 'Missing X-API-Key header', 'a parameter');
error_is($g->contacts('limit=1', { h2 => 1 }, 'X-API-Key' => undef),
         401, 'UNAUTHORIZED', 'Missing X-API-Key header', 'none over HTTP/2');
error_is($g->contacts('limit=1', { method => 'HEAD' }, 'X-API-Key' => undef),
         401, 'UNAUTHORIZED', 'Missing X-API-Key header', 'none with HEAD');

my @twice = (
    [ 'twice', 'X-API-Key' => $key, 'X-API-Key' => $key ],
    [ 'two keys', 'X-API-Key' => $key, 'X-API-Key' => test_key('other') ],
    [ 'two keys, the second good',
      'X-API-Key' => test_key('other'), 'X-API-Key' => $key ],
    [ 'two spellings', 'X-API-Key' => $key, 'x-api-key' => $key ],
    [ 'the second empty', 'X-API-Key' => $key, 'X-Api-Key' => '' ],
    [ 'both empty', 'X-API-Key' => '', 'X-Api-Key' => '' ],
    [ 'the first malformed', 'X-API-Key' => "a\tb", 'X-Api-Key' => $key ],
    [ 'five times', map { ('X-API-Key' => $key) } 1 .. 5 ],
    [ 'far apart', 'X-API-Key' => $key, (map { ("X-$_" => 'x') } 1 .. 60),
      'X-API-Key' => $key ],
);

for my $case (@twice) {
    my ($name, @headers) = @$case;

    for my $opt ({}, { h2 => 1 }) {
        error_is($g->contacts('limit=1', $opt, @headers),
                 400, 'INVALID_REQUEST',
                 "Header 'X-API-Key' must appear at most once",
                 $name . ($opt->{h2} ? ', HTTP/2' : ''));
    }
}


# What cannot be a key is no question to Redis.

my %malformed = (
    'empty'             => '',
    'only blanks'       => '    ',
    'a tab before'      => "\t$key",
    'a tab after'       => "$key\t",
    'a tab within'      => "cvtk_live_\tx",
    '0x01'              => "cvtk_live_\x01x",
    '0x1b'              => "cvtk_live_\x1b[31m",
    '0x7f'              => "cvtk_live_\x7f",
    '8-bit'             => "cvtk_live_\xe9",
    'UTF-8'             => "cvtk_live_\xc3\xa9",
    '0xff'              => "\xff" x 32,
    'a blank within'    => 'cvtk_live_a b',
    'a list'            => "$key, $key",
    'something after'   => "$key HTTP/1.1",
    '8000 characters'   => 'x' x 8000,
);

refused(with_key($malformed{$_}), $_) for sort keys %malformed;

is_deeply([ grep { $_->{argv}[0] =~ /^(?:HGETALL|EXISTS|GET|EVAL)\z/i }
            $fake->commands ], [], 'Redis was not asked for any of these');


# Keys that are none.

my ($upper, $lower) = (uc $key, lc $key);

my %unknown = (
    'unknown'             => test_key('nobody'),
    'in capitals'         => $upper,
    'in small letters'    => $lower,
    'one character less'  => substr($key, 0, -1),
    'one character more'  => "${key}A",
    'quoted'              => qq("$key"),
    'a list'              => "$key,$key",
    'with a comment'      => "$key;x=1",
    'its digest'          => sha256_hex($key),
    'its name in Redis'   => $redis->key_name($key),
    'a pattern'           => '*',
    'percent-encoding'    => '%63' . substr($key, 1),
);

refused(with_key($unknown{$_}), $_) for sort keys %unknown;

$redis->cmd('HSET', 'key:' . sha256_hex('a'), %{ $redis->keys_dump->{
    $redis->key_name($key) } });
$redis->cmd('HSET', 'convotic:key:' . uc sha256_hex('b'), %{ $redis->keys_dump
    ->{ $redis->key_name($key) } });
$redis->cmd('HSET', 'convotic:key:c', %{ $redis->keys_dump->{
    $redis->key_name($key) } });

refused(with_key('a'), 'a record without the prefix');
refused(with_key('b'), 'a record under another spelling of the digest');
refused(with_key('c'), 'a record under the key itself');


# The record, field by field.

my $now = time();
my $most = 'a' x 128;

my %good = (
    id        => [ 'a', '0', 'A.b_c-9', '-', '.', '..', $most ],
    workspace => [ 'a', '0', 'A.b_c-9', '-', '.', '..', $most ],
    status    => [ 'active' ],
    rate      => [ undef, 1, 60, 1000, 100000, '010' ],
    expires   => [ undef, $now + 3600, 4102444800 ],
    name      => [ undef, '', "Somchai's \"app\"", "\xe0\xb8\xaa" x 20 ],
    created   => [ undef, 0, $now, $now + 3600, '2026-01-01',
                   '2026-01-01T09:00:00Z' ],
    other     => [ undef, '', "\r\n\0", 'x' x 3000 ],
);

my @not_names = (
    undef, '', ' ', ' a', 'a ', 'a b', 'a/b', 'a:b', 'a{b', 'a}b', "a\r\nb",
    "a\n", "a\0", "a\0b", "\0", "\t", "a\xc3\xa9", "\xff", '*', 'a,b', '"a"',
    'a%20b', 'a&b', 'a?b', 'a@b', 'a' x 129, 'a' x 5000,
);

my @not_numbers = (
    '', ' ', '-1', '+5', '1.5', '1e3', '0x10', ' 60', '60 ', "60\n", "6\0000",
    'inf', 'nan', 'none', '6_0', '1,000', "\xd9\xa1", '9' x 20, '9' x 400,
);

my %bad = (
    id        => \@not_names,
    workspace => \@not_names,
    status    => [ undef, '', 'Active', 'ACTIVE', ' active', 'active ',
                   "active\n", "active\0", 'activ', 'actives', '1', 'true',
                   'disabled', 'revoked', 'unknown', 'deleted', 'x' x 3000 ],
    rate      => [ @not_numbers, 0, '00', '99999999999' ],
    expires   => [ @not_numbers, 0, 1, $now - 3600, $now - 1, '2030-01-01',
                   'Fri, 01 Jan 2030 00:00:00 GMT', $now + 3600 . '.5',
                   $now + 3600 . '000', 'never' ],
    name      => [ "a\0b", "a\r\nb", 'x' x 3000 ],
    created   => [ '', 'soon', '-1', '1.5', "1\n", '2026-01-0x', '9' x 30 ],
);

for my $field (sort keys %good) {
    for my $value (@{ $good{$field} }) {
        my $workspace = $field eq 'workspace' ? $value : 'acme';

        success_is(with_key(key_with($field => $value)),
                   contacts_body(workspace => $workspace, limit => 1),
                   "$field " . shown($value));
    }
}

for my $field (sort keys %bad) {
    refused(with_key(key_with($field => $_)), "$field " . shown($_))
        for @{ $bad{$field} };
}


sub shown {
    my ($value) = @_;

    return 'missing' unless defined $value;

    my $text = $value =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/egr;

    return length $text > 50 ? length($text) . ' characters' : "'$text'";
}


my %whole = (id => 'a', workspace => 'acme', status => 'active');

success_is(with_key($redis->add_key('whole', fields => { %whole })),
           $body{acme}, 'the three required fields alone');
refused(with_key($redis->add_key('alone', fields => { status => 'active' })),
        'a status alone');
refused(with_key($redis->add_key('cased', fields => {
            Id => 'a', Workspace => 'acme', Status => 'active' })),
        'names in another case');
refused(with_key($redis->add_key('both', fields => {
            %whole, status => 'revoked', Status => 'active' })),
        'revoked, whatever a like name says');

my $many = $redis->add_key('many', fields => {
    %whole, map { ("f$_" => $_) } 1 .. 200 });

success_is(with_key($many), $body{acme}, '200 fields of others');


# A record that is written in two steps is refused until it is whole.

my $half = $redis->add_key('half', fields => { id => 'h',
                                               workspace => 'acme' });

refused(with_key($half), 'half a record');
$redis->set_key($half, status => 'active');
ok(wait_until(sub { with_key($half)->status == 200 }), 'then the rest');
success_is(with_key($half), $body{acme}, 'a whole record');


# What becomes of a key while it is in use.

for my $status (qw(revoked disabled nonsense)) {
    my $used = key_with();

    success_is(with_key($used), $body{acme}, "$status: good before");
    $redis->set_key($used, status => $status);
    ok(wait_until(sub { with_key($used)->status == 401 }), "$status: refused");
    refused(with_key($used), $status);
    $redis->set_key($used, status => 'active');
    ok(wait_until(sub { with_key($used)->status == 200 }), "$status: and back");
}

my $gone = key_with();

success_is(with_key($gone), $body{acme}, 'deleted: good before');
$redis->del_key($gone);
ok(wait_until(sub { with_key($gone)->status == 401 }), 'deleted: refused');
refused(with_key($gone), 'deleted');


# What is known of a record that has expired is no refusal once it is old: it
# may have been renewed.  Nobody is told of changes here.

{
    my $expires = time() + 3;
    my $used = key_with(expires => $expires);
    my $untold = $t->fake_redis(behind => $redis);

    $untold->script('CLIENT TRACKING' => resp_error('ERR no'));

    my $knows = $t->nginx(redis => $untold, upstream => $g->upstream,
                          direct => 0, key => $used);
    my $name = 'expired, nothing is told';

    success_is($knows->contacts('limit=1'), $body{acme}, "$name: good before");
    ok(wait_until(sub { $knows->contacts('limit=1')->status == 401 }, 10),
       "$name: refused");
    $redis->set_key($used, expires => $expires + 3600);
    ok(wait_until(sub { $knows->contacts('limit=1')->status == 200 }, 10),
       "$name: renewed, and served");
}


# What is no record is no verdict.

my %types = (
    string => [ 'SET', 'active' ],
    list   => [ 'RPUSH', qw(id a workspace acme status active) ],
    set    => [ 'SADD', 'active' ],
    zset   => [ 'ZADD', 1, 'active' ],
    stream => [ 'XADD', '*', 'status', 'active' ],
);

for my $type (sort keys %types) {
    my ($command, @args) = @{ $types{$type} };

    $redis->cmd($command, $redis->key_name($type), @args);
    unsure(with_key($type), "a key that is a $type");
}

my %replies = (
    'an error'             => resp_error('ERR no'),
    'an integer'           => resp_int(1),
    'a string'             => resp_bulk('active'),
    'a status'             => resp_simple('OK'),
    'nil'                  => resp_nil(),
    'a nil array'          => "*-1\r\n",
    'a name alone'         => resp_encode([ 'id' ]),
    'a name without value' =>
        resp_encode([ qw(id a workspace acme status active rate) ]),
    'a nil name'           => resp_encode([ undef, 'a' ]),
    'a nil value'          =>
        resp_encode([ qw(id a workspace acme status), undef ]),
    'an integer as value'  =>
        resp_encode([ qw(id a workspace acme status active rate), \1 ]),
    'arrays'               =>
        resp_encode([ [ qw(id a) ], [ qw(workspace acme) ] ]),
);

for my $name (sort keys %replies) {
    my $new = key_with();

    $fake->script('HGETALL' => $replies{$name});
    unsure(with_key($new), "$name for a record");
    $fake->clear;
    success_is(with_key($new), $body{acme}, "$name: good afterwards");
}

# A record with more fields than a reply may have.

my $large = $redis->add_key('large', fields => {
    %whole, map { ("f$_" => $_) } 1 .. 5000 });

unsure(with_key($large), 'too large a record');
ok(wait_until(sub { with_key($key)->status == 200 }), 'the others go on');


# Without convotic:meta the store may not be the right one, or has lost
# everything: a key that it does not know may be good.

my ($unknown, $revoked) = (test_key('x'), key_with(status => 'revoked'));

for my $absent (
    [ 'convotic:meta is deleted', sub { $redis->cmd('DEL', 'convotic:meta') } ],
    [ 'convotic:meta is renamed',
      sub { $redis->cmd('RENAME', 'convotic:meta', 'meta') } ],
    [ 'EXISTS fails', sub { $fake->script('EXISTS' => "-ERR no\r\n") } ],
    [ 'EXISTS says 0', sub { $fake->script('EXISTS' => resp_int(0)) } ],
    [ 'EXISTS says OK', sub { $fake->script('EXISTS' => "+OK\r\n") } ],
    [ 'EXISTS says nil', sub { $fake->script('EXISTS' => resp_nil()) } ],
) {
    my ($name, $break) = @$absent;
    my $new = key_with();

    $break->();
    unsure(with_key($unknown), "$name: an unknown key");
    unsure(with_key($revoked), "$name: a revoked key");
    unsure(with_key($new), "$name: a good key");
    refused(with_key('a b'), "$name: a malformed key");
    error_is($g->contacts('limit=1', 'X-API-Key' => undef), 401, 'UNAUTHORIZED',
             'Missing X-API-Key header', "$name: no key");

    $fake->clear;
    $redis->init;
    ok(wait_until(sub { with_key($new)->status == 200 }), "$name: it is back");
    success_is(with_key($new), $body{acme}, "$name: a good key again");
    refused(with_key($unknown), "$name: an unknown key again");
}

my $flushed = key_with();

$redis->flushall;
unsure(with_key($flushed), 'an emptied store');
$redis->init;
ok(wait_until(sub { with_key($flushed)->status == 401 }), 'a store anew');
refused(with_key($flushed), 'a store anew has none of the keys');


# What nginx may do with a request once the gateway has let it pass leads to no
# other workspace, and not to the upstream as the client sent it.

my $behind = $t->nginx(redis => $redis, upstream => $g->upstream,
                       conf => <<'EOC');
http {
    convotic_redis %%REDIS%%;
    upstream contacts { server %%UPSTREAM%%; }

    server {
        listen 127.0.0.1:%%PORT%%;
        convotic_errors on;

        location = /gateway  { convotic on; try_files /none /if?$args; }
        location = /range    { convotic on; proxy_pass http://contacts;
                               error_page 416 = @plain; }
        location = /if       { convotic on; proxy_pass http://contacts;
                               if ($arg_limit) { set $x 1; } }
        location = /if_proxy { convotic on; proxy_pass http://contacts;
                               if ($arg_limit) {
                                   proxy_pass http://contacts;
                               } }
        location = /except   { convotic on; proxy_pass http://contacts;
                               limit_except GET { allow all; } }
        location @plain      { proxy_pass http://contacts; }
        location = /plain    { proxy_pass http://contacts; }
    }
}
EOC

my $passed = key_with();

for my $path (qw(/gateway /range /if /if_proxy /except)) {
    $g->upstream->reset;

    my $res = $behind->get("$path?limit=1&x=1", 'X-API-Key' => $passed,
                           'X-Convotic-Workspace' => 'umbra',
                           'Range' => $path eq '/range' ? 'bytes=999-' : undef);

    if ($res->status == 200) {
        success_is($res, $body{acme}, "$path: the key's own workspace");
    } else {
        error_is($res, $res->status, undef, undef, "$path: an error");
    }

    my @seen = $g->upstream->requests;

    is(join('', map { $_->raw } grep {
           join(' ', $_->header('X-Convotic-Workspace')) ne 'acme'
       } @seen), '', "$path: the upstream is told that workspace");
    is(join('', map { $_->raw } grep {
           defined $_->header('X-API-Key') || $_->uri =~ /x=1/
       } @seen), '', "$path: and nothing of the client's");
}


# The key itself is in no log and not in Redis, nor does the upstream see it.

my $text = $g->error_log . $g->access_log . $redis->keys_text;

is(index($text, $key), -1, 'no key in the logs and in Redis');
like($text, qr/key \Q@{[ substr sha256_hex($unknown), 0, 12 ]}\E/,
     'the log has the beginning of its digest');
is_deeply([ grep { index($_->raw, $key) >= 0 } $g->upstream->requests ], [],
          'no key at the upstream');

$t->finish;
