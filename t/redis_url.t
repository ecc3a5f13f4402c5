#!/usr/bin/perl

# How a Redis server is named: URLs, sockets, users, passwords, databases,
# prefixes, and a second server for the bodies.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use IO::Socket::IP;

use constant {
    BACK => 10,                         # seconds until it is well, at most
    PASSWORD => 'p@ss/w:or?d#1%&',      # every delimiter of a URL
    ENCODED  => 'p%40ss%2Fw%3aor%3fd%231%25&',
};

my $MS = 1000 * $Convotic::Process::FACTOR;
my $OPTIONS = "connect_timeout=${MS}ms timeout=${MS}ms";

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my $key = test_key('acme');
my $body = contacts_body(workspace => 'acme', limit => 3);


sub gateway {
    my ($server, %arg) = @_;

    return $t->nginx(upstream => $up, key => $key,
                     http => "convotic_redis $server;", %arg);
}


# A gateway of this server lets the key in, and a worker of it is connected.

sub works_ok {
    my ($server, $name, %arg) = @_;

    my $nginx = gateway($server, %arg);

    success_is($nginx->contacts('limit=3'), $body, $name);
    error_is($nginx->contacts('limit=3', 'X-API-Key' => 'another'), 401,
             'UNAUTHORIZED', 'Invalid API key', "$name: the right store");
    is($nginx->stop, 1, "$name: a clean end");

    return;
}


sub fails_ok {
    my ($server, $name) = @_;

    my $nginx = gateway($server);

    error_is($nginx->contacts('limit=3'), 503, 'INTERNAL_ERROR', undef, $name);
    ok($nginx->wait_log(qr/\[error\].*Redis/), "$name: logged");
    is($nginx->stop, 1, "$name: a clean end");

    return;
}


sub filled {
    my ($redis) = @_;

    $redis->init;
    $redis->add_key($key, workspace => 'acme');

    return $redis;
}


# Addresses.

my $redis = filled($t->redis('plain', 'bind 127.0.0.1 -::1'));
my $port = $redis->port;
my $socket = $redis->socket;

works_ok("redis://127.0.0.1:$port/0 $OPTIONS", 'an address and a database');
works_ok("redis://127.0.0.1:$port $OPTIONS", 'no database');
works_ok("redis://127.0.0.1:$port/ $OPTIONS", 'an empty database');
works_ok("redis://localhost:$port/0 $OPTIONS", 'a name');
works_ok("unix:$socket $OPTIONS", 'a socket');
works_ok("unix:$socket?db=0 $OPTIONS", 'a socket and a database');
works_ok("redis://127.0.0.1:$port timeout=2s", 'timeout');
works_ok("redis://127.0.0.1:$port connect_timeout=2s", 'connect_timeout');
works_ok("redis://127.0.0.1:$port timeout=500ms connect_timeout=1s500ms",
         'both timeouts');

my $v6 = IO::Socket::IP->new(PeerHost => '::1', PeerPort => $port, Timeout => 2);

SKIP: {
    skip 'no IPv6 loopback', 3 unless $v6;
    works_ok("redis://[::1]:$port/0 $OPTIONS", 'an IPv6 address');
}


# A literal address is not a name: a resolver that cannot resolve anything is
# not asked for it.

for my $host ('127.0.0.1', '[::1]') {
    SKIP: {
        skip 'no IPv6 loopback', 2 unless $v6;

        my $nginx = gateway("redis://$host:$port/0 $OPTIONS",
            server => 'resolver 127.0.0.1:1; resolver_timeout 1s;',
            http => "resolver 127.0.0.1:1; resolver_timeout 1s;"
                  . "convotic_redis redis://$host:$port/0 $OPTIONS;");

        is($nginx->contacts('limit=3')->status, 200, "$host: before");
        $redis->cmd('CLIENT', 'PAUSE', 3 * $MS);
        is($nginx->contacts('limit=3')->status, 503, "$host: while it hangs");
        $redis->cmd('CLIENT', 'UNPAUSE');
        ok(wait_until(sub { $nginx->contacts('limit=3')->status == 200 }, BACK),
           "$host: back, in spite of a resolver that fails");
        $nginx->stop;
    }
}


# Databases are apart.

$redis->cmd('SELECT', 3);
filled($redis);
my $third = test_key('of the third');
$redis->add_key($third, workspace => 'third');
$redis->cmd('SELECT', 0);

for my $server ("redis://127.0.0.1:$port/3", "unix:$socket?db=3") {
    my $nginx = gateway("$server $OPTIONS");
    my ($way) = $server =~ /^(\w+)/;

    is($nginx->contacts('limit=3', 'X-API-Key' => $third)->status, 200,
       "$way: database 3: its key");
    $nginx->stop;
}

{
    my $nginx = gateway("redis://127.0.0.1:$port/0 $OPTIONS");

    error_is($nginx->contacts('limit=3', 'X-API-Key' => $third), 401,
             'UNAUTHORIZED', 'Invalid API key', 'database 0: not that of 3');
    $nginx->stop;
}

fails_ok("redis://127.0.0.1:$port/4 $OPTIONS", 'a database that is not ours');
fails_ok("redis://127.0.0.1:$port/99 $OPTIONS", 'a database that is not there');

is(scalar(grep { /^convotic:(?!key:|meta)/ } $redis->names('*')), 2,
   'database 0 has what was stored from there');
$redis->cmd('SELECT', 4);
is($redis->cmd('DBSIZE'), 0, 'database 4 has nothing');
$redis->cmd('SELECT', 0);


# Passwords.

my $locked = filled($t->redis('locked', 'requirepass ' . PASSWORD));

sub locked { return "redis://$_[0]127.0.0.1:" . $locked->port . "/0 $OPTIONS" }

works_ok(locked(':' . ENCODED . '@'), 'a percent-encoded password');
works_ok(locked('default:' . ENCODED . '@'), 'the default user');
fails_ok(locked(''), 'no password');
fails_ok(locked(':wrong@'), 'a wrong password');
fails_ok(locked(':' . ENCODED . '%20@'), 'a blank too many');
fails_ok(locked('nobody:' . ENCODED . '@'), 'an unknown user');

my %file = (
    'with a newline'      => PASSWORD . "\n",
    'with CR and LF'      => PASSWORD . "\r\n",
    'without a newline'   => PASSWORD,
    'with a second line'  => PASSWORD . "\nold-password\n",
);

for my $name (sort keys %file) {
    my $path = $t->write_file('password', $file{$name});

    works_ok(locked('') . " password_file=$path", "a password file $name");
    works_ok(locked('default@') . " password_file=$path",
             "a password file $name, and a user") if $name eq 'with a newline';
}

{
    my $path = $t->write_file('password', 'wrong');

    fails_ok(locked('') . " password_file=$path", 'a wrong password in a file');

    my $nginx = gateway("redis://127.0.0.1:$port", start => 0);
    my %bad = (
        'an empty file'      => [ $t->write_file('empty', ''), qr/no password/ ],
        'an empty line'      => [ $t->write_file('line', "\nx\n"), qr/no password/ ],
        'only CR and LF'     => [ $t->write_file('crlf', "\r\n"), qr/no password/ ],
        'no such file'       => [ $t->dir . '/none', qr/failed.*No such file/ ],
        'a directory'        => [ $t->dir, qr/failed|Is a directory/ ],
    );

    for my $name (sort keys %bad) {
        my ($file, $message) = @{ $bad{$name} };
        my $result = $nginx->test_config(
            http => 'convotic_redis ' . locked('') . " password_file=$file;");

        is($result->{exit}, 1, "password_file: $name: refused");
        like($result->{out}, $message, "password_file: $name: a sentence");
    }

    my $file = $t->write_file('relative.txt', PASSWORD . "\n");
    my $relative = $nginx->test_config(http => 'convotic_redis ' . locked('')
                                               . ' password_file=../relative.txt;');
    is($relative->{exit}, 0, 'password_file: relative to the configuration')
        or diag($relative->{out});
}


# Users.

$redis->cmd('ACL', 'SETUSER', 'gate.way', 'on', '>' . PASSWORD, '~*', '&*',
            '+@all');
works_ok("redis://gate.way:${\ENCODED}\@127.0.0.1:$port/0 $OPTIONS", 'a user');
works_ok("redis://gate%2eway:${\ENCODED}\@127.0.0.1:$port/0 $OPTIONS",
         'a percent-encoded user');
fails_ok("redis://gate.way:wrong\@127.0.0.1:$port/0 $OPTIONS",
         'a user and a wrong password');

$locked->cmd('ACL', 'SETUSER', 'default', 'on', '>second');
works_ok(locked(':second@'), 'one of two passwords');


# A prefix of one's own.

my $prefixed = Convotic::Redis->new(name => 'prefixed', dir => $t->dir,
                                    prefix => 'eu:prod/')->start;
filled($prefixed);

my $nginx = gateway('redis://127.0.0.1:' . $prefixed->port . " $OPTIONS",
    http => 'convotic_redis redis://127.0.0.1:' . $prefixed->port
          . " $OPTIONS; convotic_redis_prefix eu:prod/;");

success_is($nginx->contacts('limit=3'), $body, 'a prefix');
ok(wait_until(sub { $prefixed->cmd('DBSIZE') == 4 }, BACK), 'a prefix: stored');
is(scalar(grep { !/^eu:prod\/(?:meta|key:|gen:\{acme\}|body:v1:\{acme\}:)/ }
               $prefixed->names('*')), 0, 'a prefix: everything has it');
$nginx->stop;

$nginx = gateway('redis://127.0.0.1:' . $prefixed->port . " $OPTIONS");
is($nginx->contacts('limit=3')->status, 503, 'the usual prefix: another store');
$nginx->stop;
ok($prefixed->stop, 'the server with the prefix ends');


# Two servers.

my $keys = filled($t->redis('keys'));
my $bodies = $t->redis('bodies');

$nginx = gateway('', redis => $keys, cache_redis => $bodies, workers => 1,
    http => "convotic_redis %%REDIS%% $OPTIONS;"
          . "convotic_cache_redis %%CACHE_REDIS%% $OPTIONS;");

$up->reset;
success_is($nginx->contacts('limit=3'), $body, 'two servers: a miss');
ok(wait_until(sub { $bodies->cmd('DBSIZE') == 1 }, BACK), 'two servers: stored');
success_is($nginx->contacts('limit=3'), $body, 'two servers: a hit');
is($up->count, 1, 'two servers: one fetch');

is_deeply([ sort map { s/:[0-9a-f]{64}\z/:#/r } $keys->names('*') ],
          [ 'convotic:gen:{acme}', 'convotic:key:#', 'convotic:meta' ],
          'keys and generations on one');
is_deeply([ map { s/:[0-9a-f]{64}\z/:#/r } $bodies->names('*') ],
          [ 'convotic:body:v1:{acme}:#' ], 'bodies on the other');
is($bodies->calls('hgetall'), 0, 'no key is asked of the other');
is($keys->calls('set'), 1, 'the one is written to once, for the generation');

for my $server ($keys, $bodies) {
    my @clients = grep { / name=ngx_convotic-\d+ / }
        split /\n/, $server->cmd('CLIENT', 'LIST');
    my ($worker) = $nginx->workers;

    is(scalar @clients, 1, $server->name . ': a connection for each worker');
    like($clients[0], qr/ name=ngx_convotic-$worker /,
         $server->name . ': with the name of the worker');
}

$nginx->stop;
is(scalar(grep { /name=ngx_convotic/ }
          split /\n/, $bodies->cmd('CLIENT', 'LIST')), 0,
   'no connection is left');

# The second one's password is its own.

$bodies->cmd('CONFIG', 'SET', 'requirepass', 'of-the-bodies');
$nginx = gateway('', redis => $keys,
    http => "convotic_redis %%REDIS%% $OPTIONS;"
          . 'convotic_cache_redis redis://:of-the-bodies@' . $bodies->addr
          . "/5 $OPTIONS;");
$nginx->contacts('limit=4');
ok(wait_until(sub {
       $bodies->cmd('SELECT', 5);
       $bodies->cmd('DBSIZE') == 1;
   }, BACK), 'bodies: a password and a database of their own');
$nginx->stop;

$t->finish;
