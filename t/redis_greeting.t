#!/usr/bin/perl

# Before a server is asked for anything it is greeted: password, database,
# run_id, role.  One that refuses, or is no master, is not believed: 503 for
# every key until it has changed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Outage;
use Convotic::Resp qw(resp_bulk resp_encode);
use Convotic::Test;

use Time::HiRes qw(sleep time);

my $SLAVE = [ 'slave', '127.0.0.1', \6379, 'connected', \1 ];
my $OPTIONS = timeouts();

my $t = Convotic::Test->new(direct => 1);
my %scene = outage($t);
my ($up, $redis, $body, $key) = @scene{qw(upstream redis body key)};


# A greeting that goes wrong.  Each case has its own server and gateway: they
# fail, wait and come back side by side.

my $OK = "+OK\r\n";

my %greeting = (
    'INFO refused'            => [ INFO => "-NOPERM no permissions\r\n" ],
    'INFO while loading'      => [ INFO => "-LOADING Redis is loading\r\n" ],
    'INFO is nil'             => [ INFO => "\$-1\r\n" ],
    'INFO is an array'        => [ INFO => "*0\r\n" ],
    'INFO has no run_id'      => [ INFO => resp_bulk("# Server\r\nos:x\r\n") ],
    'INFO has an empty run_id'
        => [ INFO => resp_bulk("# Server\r\nrun_id:\r\nos:x\r\n") ],
    'ROLE refused'            => [ ROLE => "-NOPERM no permissions\r\n" ],
    'ROLE unknown'            => [ ROLE => "-ERR unknown command 'ROLE'\r\n" ],
    'ROLE is empty'           => [ ROLE => "*0\r\n" ],
    'ROLE is nil'             => [ ROLE => "*-1\r\n" ],
    'ROLE is a string'        => [ ROLE => resp_bulk('master') ],
    'ROLE is an integer'      => [ ROLE => resp_encode([ \1 ]) ],
    'ROLE is slave'           => [ ROLE => resp_encode($SLAVE) ],
    'ROLE is sentinel'        => [ ROLE => resp_encode([ 'sentinel', [] ]) ],
    'ROLE is almost a master' => [ ROLE => resp_encode([ 'masters', \0, [] ]) ],
    'PING refused'            => [ PING => "-NOAUTH Authentication required.\r\n" ],
    'PING while loading'      => [ PING => "-LOADING Redis is loading\r\n" ],
    'AUTH refused'            => [ AUTH => "-WRONGPASS wrong\r\n", ':pw@', 0 ],
    'AUTH without need'
        => [ AUTH => "-ERR AUTH called without a password set\r\n", ':pw@', 0 ],
    'SELECT refused'
        => [ SELECT => "-ERR DB index is out of range\r\n", '', 9 ],
    'all refused'
        => [ '*' => "-ERR max number of clients reached\r\n" ],
);

my %case;

for my $name (sort keys %greeting) {
    my ($command, $reply, $userinfo, $db) = @{ $greeting{$name} };
    my $server = $t->fake_redis(behind => $redis);

    $server->script(SELECT => $OK, AUTH => $OK, $command => $reply);

    my $url = 'redis://' . ($userinfo || '') . $server->addr . '/' . ($db || 0);
    my $gateway = gateway(redis => $server,
                          http => "convotic_redis $url $OPTIONS;");

    $case{$name} = { server => $server, nginx => $gateway };
    away_ok($gateway, $name);
}

for my $name (sort keys %case) {
    my ($server, $gateway) = @{ $case{$name} }{qw(server nginx)};

    ok($gateway->wait_log(qr/\[error\].*Redis/, BACK), "$name: logged");
    cmp_ok(scalar complaints($gateway), '<=', 2, "$name: not over and over")
        or diag(map { "    $_\n" } complaints($gateway));
    is($server->count('HGETALL'), 0, "$name: it is not asked for keys");

    # it is as it should be, from here on

    my $command = $greeting{$name}[0];
    $server->script($command => $command =~ /SELECT|AUTH/ ? $OK : undef);
}

ok($case{'all refused'}{nginx}->log_lines(qr/max number of clients/),
   'all refused: the log says why');

for my $name (sort keys %case) {
    back_ok($case{$name}{nginx}, $name);
    $case{$name}{nginx}->stop;
}


# A name is a courtesy.

my $fake = $t->fake_redis(behind => $redis);
$fake->script(CLIENT => "-NOPERM no permissions\r\n");
my $nginx = gateway(redis => $fake);
is($nginx->contacts('limit=5')->status, 200, 'CLIENT refused: no matter');
$fake->clear;


# A master that ceases to be one.

$fake->reset;
$fake->script(ROLE => resp_encode($SLAVE));
ok(wait_until(sub { !faults_of_away($nginx->contacts('limit=5')) }, BACK),
   'a master became a replica: 503');
$fake->clear;
back_ok($nginx, 'a replica became a master');
$nginx->stop;


# A real one asks for a password that it did not have before.

$nginx = gateway(redis => $redis);
back_ok($nginx, 'no password');
$redis->cmd('CONFIG', 'SET', 'requirepass', 'secret');
$redis->cmd('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
away_ok($nginx, 'a password is required');
ok($nginx->wait_log(qr/NOAUTH/), 'a password is required: logged');
$redis->cmd('CONFIG', 'SET', 'requirepass', '');
back_ok($nginx, 'no password is required');


# A replica is not believed, and is when it has become the master.

$nginx->stop;

my $replica = $t->redis('replica', 'replicaof 127.0.0.1 ' . $redis->port);
ok($replica->wait_replica, 'a replica with all keys');
ok(wait_until(sub { $replica->cmd('EXISTS', $redis->key_name($key)) }, BACK),
   'the key is there');

$nginx = gateway(redis => $replica);
away_ok($nginx, 'a replica');
ok($nginx->wait_log(qr/\[error\].*not a master/), 'a replica: logged');
$replica->cmd('REPLICAOF', 'NO', 'ONE');
back_ok($nginx, 'promoted');
$replica->cmd('REPLICAOF', '127.0.0.1', $redis->port);
ok(wait_until(sub { !faults_of_away($nginx->contacts('limit=5')) }, BACK),
   'demoted: 503');
$nginx->stop;


# A replica as the bodies' server: everything is served, nothing is stored, and
# neither the log nor the replica suffers for it.

ok($replica->wait_replica, 'a replica again');
$nginx = gateway(
    redis => $redis, cache_redis => $replica,
    location => 'convotic_cache_namespace elsewhere;',
    http => "convotic_redis %%REDIS%% $OPTIONS;"
          . "convotic_cache_redis %%CACHE_REDIS%% $OPTIONS;");

my ($asked, @wrong) = 0;
my $start = time();
$up->reset;

while (time() - $start < 2.5) {
    my $res = $nginx->contacts('limit=5');

    push @wrong, $res->status if $res->status != 200 || $res->body ne $body;
    $asked++;
    sleep 0.02;
}

is_deeply(\@wrong, [], 'bodies on a replica: the answers are right');
is($up->count, $asked, 'bodies on a replica: from the upstream');

my @away = $nginx->log_lines(qr/\[error\].*Redis is away/);
cmp_ok(scalar @away, '<=', (time() - $start) / 0.7 + 2,
       'bodies on a replica: it is left and tried again once a second at most')
    or diag(map { "    $_\n" } @away[0 .. 2]);

$t->finish;
