#!/usr/bin/perl

# Redis answers with errors.  While the key is asked for, an error is no
# verdict: 503, neither a 401 for a good key nor a 200 for any.  Behind the key,
# it only costs the cache.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Outage;
use Convotic::Resp qw(resp_command);
use Convotic::Test;

my @errors = (
    'LOADING Redis is loading the dataset in memory',
    'NOAUTH Authentication required.',
    q(NOPERM this user has no permissions to run the command),
    'WRONGTYPE Operation against a key holding the wrong kind of value',
    'OOM command not allowed when used memory > maxmemory.',
    'BUSY Redis is busy running a script.',
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is 'no'.",
    'READONLY You can\'t write against a read only replica.',
    'CLUSTERDOWN The cluster is down',
    'MOVED 1234 127.0.0.1:7001',
    'ERR max number of clients reached',
    'ERR',
    '',
);

my $t = Convotic::Test->new(direct => 1);
my %scene = outage($t);
my ($up, $redis, $body) = @scene{qw(upstream redis body)};


# Errors of a single command.

my $fake = $t->fake_redis(behind => $redis);
my $nginx = gateway(redis => $fake);

back_ok($nginx, 'nothing wrong');

for my $command (qw(EXISTS HGETALL)) {
    for my $error (@errors) {
        my ($word) = $error =~ /^(\w*)/;

        $fake->script($command => "-$error\r\n");
        away_ok($nginx, "$command: " . ($word || 'an error without a text'));
        $fake->clear;
        back_ok($nginx, "$command: $word");
    }
}

for my $command ('GET convotic:gen', 'GET convotic:body', 'SET', 'EVAL') {
    for my $error (@errors) {
        my ($word) = $error =~ /^(\w*)/;

        $redis->cmd('DEL', $redis->gen_name('acme')) if $command eq 'EVAL';
        $fake->script($command => "-$error\r\n");

        my @faults;

        for my $n (6, 7) {
            my $res = $nginx->contacts("limit=$n");

            # a replica is left, which takes a moment
            next if $word eq 'READONLY' && !faults_of_away($res);

            push @faults, 'status ' . $res->status if $res->status != 200;
            push @faults, 'body'
                if $res->body ne contacts_body(workspace => 'acme', limit => $n);
        }

        ok(!@faults, "$command: " . ($word || 'an error without a text')
                     . ': the upstream answers')
            or diag(map { "    $_\n" } @faults);
        $fake->clear;
        back_ok($nginx, "$command: $word");
    }
}


# Each kind of failure is logged, and not once a request.

for my $case (
    [ 'EXISTS',            'LOADING Redis is loading the dataset' ],
    [ 'HGETALL',           'LOADING Redis is loading the dataset' ],
    [ 'EXISTS',            'NOPERM this user has no permissions' ],
    [ 'GET convotic:gen',  'WRONGTYPE Operation against a wrong type' ],
    [ 'GET convotic:body', 'MASTERDOWN Link with MASTER is down' ],
    [ 'SET',               'OOM command not allowed' ],
) {
    my ($command, $error) = @$case;
    my ($word) = $error =~ /^(\w+)/;
    my $gateway = gateway(redis => $fake);

    back_ok($gateway, 'before it fails');
    $redis->purge('acme');
    $fake->script($command => "-$error\r\n");
    $gateway->contacts("limit=$_") for 1 .. 20;

    my @lines = complaints($gateway);
    my @named = grep { /\Q$error\E/ } @lines;

    is(scalar @named, 1, "$command: $word is logged, once");
    cmp_ok(scalar @lines, '<=', 2, "$command: $word: little else is")
        or diag(map { "    $_\n" } @lines[0 .. 5]);

    $fake->clear;
    $gateway->stop;
}


# Redis 6 has a text of its own before the error that a script met.

my $IN_SCRIPT = 'ERR Error running script (call to f_0a1b2c): @user_script:1: '
                . '@user_script: 1: -';

{
    my $gateway = gateway(redis => $fake);

    back_ok($gateway, 'in a script: before');

    for my $error ('OOM command not allowed', 'MISCONF Redis cannot save') {
        $fake->script(EVAL => "-$IN_SCRIPT$error\r\n");
        $redis->cmd('DEL', $redis->gen_name('acme'));
        $gateway->contacts("limit=$_") for 1 .. 20;
        $fake->clear;
        is(scalar(grep { /Redis cannot say: \Q$error\E/ } complaints($gateway)),
           1, "in a script: $error: is logged, once");
    }

    $gateway->stop;
}


# -READONLY: the master is somewhere else now, so the connection is left.

for my $wrapped ('', $IN_SCRIPT) {
    my $name = $wrapped ? 'READONLY in a script' : 'READONLY';
    my $before = $fake->counters->{accepted};

    $redis->cmd('DEL', $redis->gen_name('acme'));
    $fake->script(
        EVAL => "-${wrapped}READONLY You can't write against a replica.\r\n");
    $nginx->contacts('limit=5');
    $fake->clear;
    back_ok($nginx, $name);
    cmp_ok($fake->counters->{accepted}, '>', $before,
           "$name: over another connection");
}

$nginx->stop;


# Real ones from here: wrong types.

$nginx = gateway(redis => $redis);
my $string = test_key('string');
$redis->cmd('SET', $redis->key_name($string), 'acme');

ok(!faults_of_away($nginx->contacts('limit=5', 'X-API-Key' => $string)),
   'a record that is a string: Redis cannot say');
back_ok($nginx, 'the others are not affected');

my $gen = $redis->cmd('GET', $redis->gen_name('acme'));
$redis->cmd('DEL', $redis->gen_name('acme'));
$redis->cmd('RPUSH', $redis->gen_name('acme'), 1);
$up->reset;
success_is($nginx->contacts('limit=5'), $body, 'a generation that is a list')
    for 1, 2;
is($up->count, 2, 'a generation that is a list: the cache is bypassed');
$redis->cmd('DEL', $redis->gen_name('acme'));

$redis->cmd('DEL', $redis->names('convotic:body:*'));
$nginx->contacts('limit=5');
my $name;
ok(wait_until(sub { ($name) = $redis->names('convotic:body:*') }, BACK),
   'a body is stored');
$redis->cmd('DEL', $name);
$redis->cmd('RPUSH', $name, 'a');
$up->reset;
success_is($nginx->contacts('limit=5'), $body, 'a body that is a list');
ok(wait_until(sub { $redis->cmd('TYPE', $name) eq 'string' }, 3),
   'a body that is a list: it is overwritten');
success_is($nginx->contacts('limit=5'), $body, 'a body that was a list');
is($up->count, 1, 'a body that was a list: cached');


# Memory is at its end: what is there can be read.

$redis->cmd('CONFIG', 'SET', 'maxmemory', 1);
$redis->cmd('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
success_is($nginx->contacts('limit=5'), $body, 'no memory: what is cached');
$redis->cmd('DEL', $redis->gen_name('acme'));
$up->reset;
success_is($nginx->contacts('limit=5'), $body, 'no memory: what is not')
    for 1, 2;
is($up->count, 2, 'no memory: nothing is stored');
$redis->cmd('CONFIG', 'SET', 'maxmemory', 0);
back_ok($nginx, 'memory');


# A script that does not end.

$redis->cmd('CONFIG', 'SET', 'lua-time-limit', 10);
my $loop = $redis->connect;
$loop->write(resp_command('EVAL', 'while true do end', 0));
ok(wait_until(sub { $redis->try_cmd('PING') =~ /^BUSY/ }, BACK), 'a busy Redis');
away_ok($nginx, 'busy');
$redis->cmd('SCRIPT', 'KILL');
$loop->close;
back_ok($nginx, 'busy');


# No room for another client.

my @clients = map { $redis->connect } 1 .. 3;
$_->cmd('PING') for @clients;
my ($id) = map { /^id=(\d+) .* name=ngx_convotic-\d+ / ? $1 : () }
    split /\n/, $redis->cmd('CLIENT', 'LIST');
my $clients = () = $redis->cmd('CLIENT', 'LIST') =~ /^id=/mg;
$redis->cmd('CONFIG', 'SET', 'maxclients', $clients - 1);
$redis->cmd('CLIENT', 'KILL', 'ID', $id);
away_ok($nginx, 'no room for a client');
ok($nginx->wait_log(qr/max number of clients/, 2),
   'no room for a client: logged');
$_->close for @clients;
back_ok($nginx, 'room');
$redis->cmd('CONFIG', 'SET', 'maxclients', 1000);


# Loading its data: 32 MB, for it listens only after every 2 MB.

$redis->cmd('EVAL', q(local y = string.rep('y', 8192)
                      for i = 1, 4096 do redis.call('SET', 'x' .. i, y) end),
            0);
$redis->cmd('CONFIG', 'SET', 'rdbcompression', 'no');
$redis->cmd('CONFIG', 'SET', 'key-load-delay', 300);
my $reload = $redis->connect;
$reload->write(resp_command('DEBUG', 'RELOAD'));

my $loading = wait_until(sub { $redis->try_cmd('EXISTS', 'x1') =~ /^LOADING/ },
                         BACK);
ok($loading, 'a Redis that loads');
away_ok($nginx, 'loading');
$redis->try_cmd('CONFIG', 'SET', 'key-load-delay', 0);      # Redis 6.2 waits
$reload->read_reply;
$reload->close;
back_ok($nginx, 'loaded');


$t->finish;
