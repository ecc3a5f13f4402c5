#!/usr/bin/perl

# The test library itself: every kind of server and client once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Resp qw(:all);
use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);


# Redis.

my $redis = $t->redis('keys', 'maxmemory 20mb');

is($redis->cmd('SET', 'a', "b\r\n"), 'OK', 'redis: a command');
is($redis->cmd('GET', 'a'), "b\r\n", 'redis: a value');
is($redis->cmd('GET', 'none'), undef, 'redis: nil');
is($redis->try_cmd('LPUSH', 'a', 1) =~ /^WRONGTYPE/, 1, 'redis: an error');
ok(!eval { $redis->cmd('NOSUCH'); 1 }, 'redis: cmd dies of an error');

$redis->init;
$redis->add_key('k', workspace => 'acme', rate => 5, name => undef);
is($redis->keys_dump->{ $redis->key_name('k') }{rate}, 5, 'redis: a record');
ok(!exists $redis->keys_dump->{ $redis->key_name('k') }{name}, 'a field less');
$redis->set_key('k', status => 'revoked', rate => undef);
is($redis->cmd('HGET', $redis->key_name('k'), 'status'), 'revoked', 'set_key');
is($redis->purge('acme'), 1, 'redis: purge');
like($redis->keys_text, qr/^convotic:gen:\{acme\} = 1$/m, 'keys_text');
like(join('', $redis->monitor(sub { $redis->cmd('GET', 'watched') })),
     qr/"watched"/, 'redis: monitor');
ok($redis->calls('get') >= 3, 'redis: calls');

my $replica = $t->redis('replica', 'replicaof 127.0.0.1 ' . $redis->port);
ok($replica->wait_replica, 'redis: a replica');
$replica->kill;
$redis->sigstop;
ok($redis->cont, 'redis: stopped and continued');
$redis->restart;
is($redis->cmd('DBSIZE'), 0, 'redis: restarted empty');


# A proxy for bytes.

my $proxy = $t->byte_proxy(to => $redis);

sub through {
    my ($port, @argv) = @_;

    my $conn = Convotic::Redis::Connection->new(name => 'c', port => $port);
    $conn->write(resp_command(@argv));
    my @reply = eval { $conn->read_reply(0.3) };
    $conn->close;

    return $@ ? 'closed' : @reply ? $reply[0] : 'nothing';
}

is(through($proxy->port, 'PING'), 'PONG', 'proxy: passes');
$proxy->split(1);
is(through($proxy->port, 'ECHO', 'x' x 20), 'x' x 20, 'proxy: splits');
$proxy->clear;
$proxy->delay(0.6, 'down');
is(through($proxy->port, 'PING'), 'nothing', 'proxy: delays');
$proxy->delay(0);
$proxy->swallow('down', only => 'PING');
is(through($proxy->port, 'PING'), 'nothing', 'proxy: swallows');
is(through($proxy->port, 'ECHO', 'a'), 'a', 'proxy: only what is meant');
$proxy->clear;
$proxy->truncate(3, 'down');
is(through($proxy->port, 'PING'), 'closed', 'proxy: truncates');
$proxy->clear;
$proxy->accept('refuse');
is(eval { through($proxy->port, 'PING') }, undef, 'proxy: refuses');
$proxy->clear;
is(through($proxy->port, 'PING'), 'PONG', 'proxy: passes again');
ok(wait_until(sub { $proxy->counters->{open} == 0 }, 2),
   'proxy: none open');
is($proxy->counters->{accepted}, 7, 'proxy: counts');

my $conn = Convotic::Redis::Connection->new(name => 'c', port => $proxy->port);
$proxy->duplicate('down');
$conn->cmd('ECHO', 1);
is($conn->read_reply(1), 1, 'proxy: duplicates');
is($proxy->drop, 1, 'proxy: drops');
ok(!eval { $conn->read_reply(1); 1 }, 'proxy: dropped');


# A fake Redis.

my $fake = $t->fake_redis(behind => $redis, handler => sub {
    my ($ctx, $name, @args) = @_;
    return resp_int(7) if $name eq 'INCR';
    return [ 'a', undef, \3 ] if $name eq 'LRANGE';
    return { pass => 1 };
});

is(through($fake->port, 'SET', 'f', 'g'), 'OK', 'fake: passes');
is(through($fake->port, 'INCR', 'f'), 7, 'fake: answers');
is_deeply(through($fake->port, 'LRANGE', 'f'), [ 'a', undef, 3 ], 'fake: data');
$fake->script('GET f' => resp_error('LOADING now'));
is(through($fake->port, 'GET', 'f') . '', 'LOADING now', 'fake: a script');
is(through($fake->port, 'GET', 'other'), undef, 'fake: of some arguments only');
$fake->script('*' => { hang => 1 });
is(through($fake->port, 'PING'), 'nothing', 'fake: hangs');
$fake->clear;
is($fake->count('GET'), 2, 'fake: counts');
is_deeply(($fake->commands)[1]{argv}, [ 'INCR', 'f' ], 'fake: records');

$conn = Convotic::Redis::Connection->new(name => 'c', port => $fake->port);
is($conn->cmd('SUBSCRIBE', 'ch')->[0], 'subscribe', 'fake: a subscription');
$redis->cmd('PUBLISH', 'ch', 'hello');
is_deeply($conn->read_reply, [ qw(message ch hello) ], 'fake: a message');
is($fake->push(resp_array(resp_bulk('x')), 'SUBSCRIBE'), 1, 'fake: pushes');
is_deeply($conn->read_reply, [ 'x' ], 'fake: pushed');
$conn->close;


# An upstream behind a plain nginx.

my $up = $t->upstream;
my $odd = $t->upstream(name => 'odd', ignore_bodies => 1, handler => sub {
    my ($req, $vars) = @_;
    return { chunked => [ 'a', 'bc' ], delay => $vars->{delay} }
        if $req->path eq '/chunked';
    return { body => 'abc', cut => 2 } if $req->path eq '/cut';
    return 'ok';
});

my $nginx = $t->nginx(
    upstream => $up, convotic => 0, ssl => 1, workers => 2,
    vars => { ODD => $odd->addr },
    server => <<'EOC',
    location /odd/ { proxy_pass http://%%ODD%%/; }
    location /error { return 400 '{"error":{"code":"C","message":"M"}}';
                      default_type application/json; }
EOC
    location => 'proxy_set_header X-Convotic-Workspace w;',
);

my $body = contacts_body(workspace => 'w', limit => 3, platform => 'line');

success_is($nginx->get('/v1/contacts?limit=3&platform=line'), $body, 'get');
success_is($nginx->head('/v1/contacts?limit=3&platform=line'), $body, 'head');
success_is($nginx->get('/v1/contacts?limit=3&platform=line', { tls => 1 }),
           $body, 'get over TLS');
success_is($nginx->get('/v1/contacts?limit=3&platform=line',
                       { version => '1.0' }), $body, 'get, HTTP/1.0');
my $h2 = $nginx->h2('/v1/contacts?limit=3&platform=line', 'X-A' => 'b');
success_is($h2, $body, 'get over HTTP/2');
is($h2->version, 2, 'HTTP/2');

my ($req) = grep { $_->header('X-A') } $up->requests;
is($req->header('X-A'), 'b', 'upstream: the header');
is($req->tenant, 'w', 'upstream: the tenant');
is_deeply($req->args, { limit => 3, platform => 'line' }, 'upstream: arguments');
is($up->count, 5, 'upstream: counts');
$up->reset;
is($up->count, 0, 'upstream: forgets');

{
    $up->set(hold => 'a');

    my $held = $nginx->connect;

    $held->write(Convotic::HTTP::request_text('/v1/contacts', {}));
    ok(wait_until(sub { $up->count == 1 }), 'upstream: asked');
    is($up->release('b'), 0, 'upstream: holds what is not meant');
    is($held->read('GET', 0.2), undef, 'upstream: holds');
    is($up->release('a'), 1, 'upstream: releases');
    is($held->read->status, 200, 'upstream: answers then');
    $up->set(hold => 0);
    $up->reset;
}


is($nginx->get('/odd/chunked', 'X' => undef)->body, 'abc', 'upstream: chunks');
$odd->set(delay => 0.3);
cmp_ok($nginx->get('/odd/chunked')->time, '>=', 0.29, 'upstream: delay');
my $cut = $nginx->get('/odd/cut', { lax => 1 });
ok($cut->problems, 'a body that breaks off is a problem');
error_is($nginx->get('/error'), 400, 'C', qr/^M$/);

my @all = $nginx->raw(join '', map { "$_ /error HTTP/1.1\r\nHost: a\r\n\r\n" }
                                   qw(GET HEAD GET));
is_deeply([ map { length $_->body } @all ], [ 36, 0, 36 ], 'raw: pipelined');
ok(!$all[-1]->closed, 'raw: kept alive');

$conn = $nginx->connect;
is($conn->get('/error')->status, 400, 'connection: first');
is($conn->get('/error', { method => 'HEAD' })->status, 400, 'second');
ok(!$conn->eof(0), 'connection: open');
$conn->reset;

my @many = $nginx->concurrent([ map { [ "/v1/contacts?limit=$_" ] } 1 .. 30 ]);
is(scalar(grep { $_ && $_->status == 200 } @many), 30, 'concurrent');
is($many[6]->body, contacts_body(workspace => 'w', limit => 7), 'in order');
is_deeply([ parallel(3, sub { $nginx->get('/error')->status + $_[0] }) ],
          [ 400, 401, 402 ], 'parallel');

my @h2 = $nginx->h2_many([ '/error' ], [ '/error', { method => 'HEAD' } ]);
is(join(' ', map { $_->status . $_->{new_connection} } @h2), '4001 4000',
   'HTTP/2: two on a connection');


# nginx's life.

my $job = background(sub {
    my ($go) = @_;
    return $nginx->load($go, requests => [ [ '/error' ], [ '/odd/' ] ],
        check => sub { $_[0]->status == (400, 200)[ $_[1] ] ? '' : 'status' });
});

my @old = $nginx->workers;
is(scalar @old, 2, 'nginx: two workers');
ok($nginx->reload(gone => 1), 'nginx: reload');
my $sum = $job->end->result;
is(join(', ', @{ $sum->{faults} }), '', 'load: no faults');
cmp_ok($sum->{count}, '>', 2, 'load: requests');
ok(!grep({ my $pid = $_; grep { $_ == $pid } $nginx->workers } @old), 'new ones');
is($nginx->test_config->{exit}, 0, 'nginx: good configuration');
like($nginx->test_config(http => 'nonsense;')->{out},
     qr/unknown directive "nonsense"/, 'nginx: bad configuration');
$nginx->kill_worker(($nginx->workers)[0]);
$t->allow_log(qr/exited on signal 9/);
ok($nginx->wait_log(qr/exited on signal 9/), 'nginx: the log');
ok(wait_until(sub { $nginx->workers == 2 }, 5), 'nginx: a new worker');
like($nginx->access_log, qr{"GET /v1/contacts\?limit=3&platform=line HTTP/2.0"},
     'nginx: access log');

my $daemon = $t->nginx(name => 'daemon', convotic => 0, daemon => 1);
ok($daemon->upgrade, 'nginx: binary upgrade');
is($daemon->workers, 1, 'nginx: one worker after it');

is_deeply($t->run([ 'sh', '-c', 'cat; echo e >&2; exit 3' ], stdin => 'i'),
          { exit => 3, signal => 0, timeout => !1, out => 'i', err => "e\n" },
          'run');

$t->finish;
