#!/usr/bin/perl

# An API key in clear and a Redis password are nowhere but where their owners
# put them: in no log line of the module's, at debug level neither; in no name
# and no value in Redis, nor in a command to it; in no response; in no request
# to the upstream; not in shared memory.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK     => 10,                     # seconds, at most
    PASSWORD => 'Zx9-redis-password-Qw7',
    USER     => 'gw-user',
};

my $MS = 300 * $Convotic::Process::FACTOR;
my $OPTIONS = "connect_timeout=${MS}ms timeout=${MS}ms";

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my $redis = $t->redis('keys', 'requirepass ' . PASSWORD);

$redis->init;
$redis->cmd('ACL', 'SETUSER', USER, 'on', '>' . PASSWORD, '~*', '&*', '+@all');


# Keys of every fate.

my %key = map { $_ => test_key("secret $_") }
    qw(active revoked disabled expired malformed unknown);

$redis->add_key($key{active});
$redis->add_key($key{revoked}, status => 'revoked');
$redis->add_key($key{disabled}, status => 'disabled');
$redis->add_key($key{expired}, expires => 1);
$redis->add_key($key{malformed}, workspace => undef);

# Not keys, but somebody sent them in their place.

my @odd = ("cvtk_live_with blank_Sx8", "cvtk_live_with\ttab_Sx8",
           "cvtk_live_with\x{e9}_Sx8", 'cvtk_live_' . 'long_Sx8' x 100);

my @secrets = (values %key, @odd, PASSWORD);


# A secret in a text; also a good part of one, or in another spelling.

sub found_in {
    my ($text) = @_;

    my $lower = lc $text;

    return grep {
        my $part = substr $_, length($_) / 3, 16;
        my $hex = unpack 'H*', $part;
        my $base64 = substr encode($part), 0, 18;

        index($text, $part) >= 0 || index($lower, lc $hex) >= 0
            || index($text, $base64) >= 0;
    } @secrets;
}


sub encode {
    my ($text) = @_;

    my $packed = pack 'u', $text;
    my @digits = ('A' .. 'Z', 'a' .. 'z', 0 .. 9, '+', '/');

    return join '', map {
        my @bit = split //, unpack 'B*', $_;
        map { $digits[ oct '0b' . join '', @bit[ 6 * $_ .. 6 * $_ + 5 ] ] }
            0 .. @bit / 6 - 1;
    } $text =~ /(...)/gs;
}


sub clean_ok {
    my ($text, $name) = @_;

    my @found = found_in($text);

    is(scalar @found, 0, $name)
        or diag(map { "    ...$_\n" } map { substr $_, 0, 30 } @found);

    return;
}


# The finder finds: in clear, and written in two other ways.

for my $secret ($key{active}, PASSWORD) {
    is(scalar(my @clear = found_in("a $secret b")), 1, 'in clear');
    is(scalar(my @hex = found_in('a ' . unpack('H*', $secret))), 1, 'as hex');
}


# Everything that can be asked, with everything that is logged.

sub probe {
    my ($nginx, @with) = @_;

    my @res;

    for my $key (values %key, @odd) {
        my @all = ('X-API-Key' => $key, @with);

        push @res,
            $nginx->contacts('limit=2', @all),
            $nginx->contacts('limit=2', @all),
            $nginx->contacts('limit=0', @all),
            $nginx->contacts('platform=nothing', @all),
            $nginx->contacts('limit=2', @all, 'X-API-Key' => 'second'),
            $nginx->head('/v1/contacts?limit=3', @all),
            $nginx->get('/v1/contacts', { method => 'POST', body => 'b' }, @all),
            $nginx->get('/v1/contacts', { version => '1.0' }, @all),
            $nginx->get('/nothing', @all),
            $nginx->contacts('limit=4', @all, 'If-Match' => '"x"'),
            $nginx->contacts('limit=4', @all, Range => 'bytes=0-3');
    }

    return join '', map { $_ ? $_->raw : '' } @res;
}


sub as_they_were {
    return join '', map { $_->raw } $up->requests;
}


for my $level (qw(info debug)) {
    my $nginx = $t->nginx(redis => $redis, upstream => $up, log_level => $level,
        http => "convotic_redis %%REDIS%% $OPTIONS;");

    wait_until(sub { $nginx->contacts('', 'X-API-Key' => $key{active})->status
                     == 200 }, BACK);

    my $responses;
    my @monitor = $redis->monitor(sub { $responses = probe($nginx) });

    clean_ok($responses, "$level: responses");
    like($responses, qr/"contacts"/, "$level: there are some");
    like($responses, qr/Invalid API key/, "$level: of both kinds");

    clean_ok(join("\n", @monitor), "$level: commands to Redis");
    cmp_ok(scalar(grep { /"HGETALL"/ } @monitor), '>', 20,
           "$level: Redis was asked");

    clean_ok($redis->keys_text, "$level: names and values in Redis");
    clean_ok(as_they_were(), "$level: requests to the upstream");
    cmp_ok($up->count, '>', 0, "$level: the upstream was asked");

    my $log = $nginx->error_log;
    my @lines = split /\n/, $log;

    # nginx's own lines have what clients send, at this level

    @lines = grep { /convotic/i } @lines if $level eq 'debug';
    clean_ok(join("\n", @lines), "$level: the error log");
    clean_ok($nginx->access_log, "$level: the access log");
    clean_ok(join('', map { "$_\n" } grep { /Redis|redis/ } split /\n/, $log),
             "$level: whatever is said of Redis");
    cmp_ok(scalar @lines, '>', $level eq 'debug' ? 500 : 10,
           "$level: there is something to read");
    $nginx->stop;
}


# Rates: leases in Redis, refusals of keys and of addresses, in all headers.

for my $level (qw(info debug)) {
    my $rated = $t->nginx(redis => $redis, upstream => $up, log_level => $level,
        http => "convotic_redis %%REDIS%% $OPTIONS; convotic_rate 3;"
              . 'convotic_rate_headers both; convotic_auth_failures 2;');
    my $name = "rates, $level";

    $redis->cmd('DEL', $redis->rate_name($key{active}));

    my $responses;
    my @monitor = $redis->monitor(sub {
        wait_until(sub { $rated->contacts('', 'X-API-Key' => $key{active})
                         ->status == 429 }, BACK);
        $responses = probe($rated);
    });
    my $names = $redis->keys_text;
    my $log = $rated->error_log;

    like($responses, qr/Rate limit exceeded/, "$name: some are refused");
    like($responses, qr/RateLimit-Policy/, "$name: with all headers");
    clean_ok($responses, "$name: responses");

    cmp_ok(scalar(grep { /"EVAL/i } @monitor), '>', 0, "$name: leases are asked for");
    clean_ok(join("\n", @monitor), "$name: commands to Redis");

    like($names, qr/^\Q@{[ $redis->rate_name($key{active}) ]}\E = \d/m,
         "$name: one is counted by its digest");
    clean_ok($names, "$name: names and values in Redis");

    my $digest = sha256_hex($key{active});
    my $start = substr $digest, 0, 12;

    like($log, qr/nothing is left of the rate of key \Q$start\E\.\.\./,
         "$name: the log has the beginning of the digest");
    like($log, qr/too many from this address/, "$name: and the address's refusal");

    my @lines = grep { $level eq 'info' || /convotic/i } split /\n/, $log;
    clean_ok(join("\n", @lines), "$name: the error log");
    unlike($log, qr/\Q$digest\E/, "$name: not the whole digest")
        if $level eq 'info';
    $rated->stop;
}


# The zone: keys and the networks of addresses stand in it by their digests.

SKIP: {
    skip 'another system, or no realip module', 1
        unless $^O eq 'linux' && `@{[ Convotic::Nginx::binary() ]} -V 2>&1`
                                 =~ /http_realip_module/;

    my $zoned = $t->nginx(redis => $redis, upstream => $up,
        http => "convotic_redis %%REDIS%% $OPTIONS; convotic_zone 1m;"
              . 'set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;'
              . 'convotic_key_valid 1h; convotic_key_invalid 1h;'
              . 'convotic_rate 1000; convotic_auth_failures 2;');

    my @for = ('X-Forwarded-For' => '2001:db8:a7c3:51e9::1');
    my $network = pack 'n4', 0x2001, 0x0db8, 0xa7c3, 0x51e9;

    wait_until(sub { $zoned->contacts('', 'X-API-Key' => $key{active}, @for)
                     ->status == 200 }, BACK);
    is($zoned->contacts('', 'X-API-Key' => $key{unknown}, @for)->status, 401,
       'the zone: an unknown key');

    my $memory = shared_memory($zoned->workers);
    skip 'the memory of a process cannot be read', 1 unless length $memory;

    clean_ok($memory, 'the zone: no key is in it');
    is(index($memory, $network), -1, 'the zone: nor a network');
    cmp_ok(index($memory, pack 'H*', sha256_hex($_->[1])), '>=', 0,
           "the zone: but the digest of $_->[0]")
        for [ 'a key', $key{active} ], [ 'a refused one', $key{unknown} ],
            [ 'a network', $network ];
    $zoned->stop;
}


# What a process has mapped to share it.

sub shared_memory {
    my ($pid) = @_;

    no warnings 'portable';             # addresses have 64 bits

    open my $maps, '<', "/proc/$pid/maps" or return '';
    open my $memory, '<:raw', "/proc/$pid/mem" or return '';

    my $all = '';

    for (<$maps>) {
        my ($from, $to) = /^([0-9a-f]+)-([0-9a-f]+) rw-s / or next;
        sysseek $memory, hex $from, 0;
        sysread $memory, $all, hex($to) - hex($from), length $all;
    }

    return $all;
}


# While Redis is away, refuses, or talks too much.

my $fake = $t->fake_redis(behind => $redis);
my $args = '`' . USER . '`, `' . PASSWORD . '`, ';

my %failing = (
    'away'          => [],
    'a wrong password'
        => [ AUTH => "-WRONGPASS invalid username-password pair\r\n" ],
    'AUTH is unknown, and its arguments are repeated'
        => [ AUTH => "-ERR unknown command `AUTH`, with args beginning with:"
                     . " $args\r\n" ],
    'AUTH is unknown, as Redis 7 says'
        => [ AUTH => "-ERR unknown command 'AUTH', with args beginning with: '"
                     . USER . "' '" . PASSWORD . "' \r\n" ],
    'AUTH is repeated in an error of another command'
        => [ INFO => '-ERR after AUTH ' . PASSWORD . "\r\n" ],
    'AUTH is echoed' => [ AUTH => '+' . PASSWORD . "\r\n" ],
    'AUTH is an odd type' => [ AUTH => '$' . length(PASSWORD) . "\r\n" . PASSWORD
                                       . "\r\n" ],
    'no RESP'       => [ AUTH => 'AUTH ' . PASSWORD . "\r\n" ],
    'HGETALL is unknown, and its arguments are repeated'
        => [ HGETALL => "-ERR unknown command `HGETALL`, with args beginning"
                        . " with: `convotic:key:0`\r\n" ],
);

my $url = 'redis://' . USER . ':' . PASSWORD . '@' . $fake->addr . '/0';

for my $name (sort keys %failing) {
    for my $level (qw(info debug)) {
        $fake->clear;
        $fake->script(@{ $failing{$name} }) if @{ $failing{$name} };
        $fake->accept('close') if $name eq 'away';

        my $nginx = $t->nginx(
            redis => $fake, upstream => $up, log_level => $level,
            http => "convotic_redis $url $OPTIONS;");
        my $res = $nginx->contacts('limit=2', 'X-API-Key' => $key{active});
        my @lines = split /\n/, $nginx->error_log . $nginx->stderr;

        @lines = grep { /convotic|redis/i } @lines if $level eq 'debug';
        is($res->status, 503, "$name: refused");
        clean_ok($res->raw, "$name: the response");
        clean_ok(join("\n", @lines), "$name: the log ($level)");
        cmp_ok(scalar(grep { /Redis/ } @lines), '>', 0, "$name: it has something");
        $nginx->stop;
    }
}

# A real one whose AUTH has another name.

{
    my $renamed = $t->redis('renamed', 'rename-command AUTH ""');
    my $nginx = $t->nginx(
        redis => $renamed, upstream => $up,
        http => 'convotic_redis redis://:' . PASSWORD . '@' . $renamed->addr
              . "/0 $OPTIONS;");

    $nginx->contacts('limit=2', 'X-API-Key' => $key{active});
    ok($nginx->wait_log(qr/\[error\].*Redis/, BACK), 'AUTH renamed: it is logged');
    clean_ok($nginx->error_log, 'AUTH renamed: the log');
    $nginx->stop;
}


# Configurations that are refused do not repeat it.

my $nginx = $t->nginx(redis => $redis, upstream => $up, start => 0);
my $host = $redis->addr;
my $p = PASSWORD;

for my $server (
    "redis://:$p\@$host/x", "redis://:$p\@$host/-1", "redis://:$p\@$host/0/1",
    "redis://:$p\@/0", "redis://:$p\@", "redis://:$p\@:6379/0",
    "redis://:$p\@$host:99999/0", "redis://:$p\@no.such.host.invalid/0",
    "redis://:$p%\@$host/0", "redis://:$p%zz\@$host/0", "redis://$p\@$host/0",
    "redis://:$p\@$host\@/0", "redis://u:$p/x\@$host/0",
    "redis:/:$p\@$host/0", "redis:$p\@$host/0", "rediss://:$p\@$host/0",
    "http://:$p\@$host/0", ":$p\@$host", "$p", "unix:$p",
    "redis://:$p\@$host/0 redis://:$p\@$host/1",
    "redis://:$p\@$host/0 timeout=x", "redis://:$p\@$host/0 timeout=0",
    "redis://:$p\@$host/0 password=$p", "redis://$host/0 password=$p",
    "redis://:$p\@$host/0 password_file=/none",
    "redis://:$p\@$host/0; convotic_redis redis://:$p\@$host/0",
) {
    my $result = $nginx->test_config(http => "convotic_redis $server;");
    my $shown = $server =~ s/\Q$p\E/***/gr =~ s/\Q$host\E/host/gr;

    isnt($result->{exit}, 0, "refused: $shown");
    clean_ok($result->{out}, "not repeated: $shown");
}

$t->finish;
