#!/usr/bin/perl

# While Redis is away: whose key was known to be good is served, the upstream is
# asked for what is not at hand, once, and nobody else is let in or told that
# his key is bad.  When Redis is back, what was changed meanwhile counts from
# the first request on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK => 15,                 # seconds until something has happened, at most
    SIDE_BY_SIDE => 40,
};

my @AWAY = (503, 'INTERNAL_ERROR', 'Service temporarily unavailable');
my @DENIED = (401, 'UNAUTHORIZED', 'Invalid API key');

my $LOCAL = qr/^convotic; hit; ttl=\d+; detail=local\z/;

my $t = Convotic::Test->new;
my $up = $t->upstream;
my %key = map { ($_ => test_key($_)) } qw(acme beta revoked new lost);
my $version = 1;

my $CONF = 'convotic_cache_valid 1h; keepalive_requests 10000;';
my $SERVER = <<'EOC';
    location = /status { convotic_status json; }
    location = /nocache {
        convotic on;
        convotic_cache off;
        proxy_pass http://contacts;
    }
EOC


sub body {
    my ($limit, $of, $who) = @_;

    return contacts_body(workspace => $who || 'acme', limit => $limit,
                         version => $of || $version);
}


sub change {
    $up->set(version => ++$version);

    return;
}


sub metrics { return $_[0]->get('/status')->json }

sub ask {
    my ($g, $query, $who) = @_;

    return $g->contacts($query, 'X-API-Key' => $key{ $who || 'acme' });
}


sub is_local {
    my ($res, $body, $name) = @_;

    success_is($res, $body, $name);
    like($res->header('Cache-Status'), $LOCAL, "$name: from the first level");

    return;
}


# A store with a good key, a revoked one, and one of whose workspace the
# generation is not known to the gateway.

sub store {
    my ($redis) = @_;

    $redis->init;
    $redis->add_key($key{acme}, workspace => 'acme');
    $redis->add_key($key{beta}, workspace => 'beta');
    $redis->add_key($key{lost}, workspace => 'lost');
    $redis->add_key($key{revoked}, workspace => 'acme');

    return $redis;
}


sub known_ok {
    my ($g, $name) = @_;

    ok(wait_until(sub { metrics($g)->{tracking_confirmed} }, BACK),
       "$name: tracked");
    is($_->status, 200, "$name: before")
        for ask($g, 'limit=2'), ask($g, 'limit=3'), ask($g, 'limit=2', 'revoked'),
            $g->get('/nocache', 'X-API-Key' => $key{beta});

    return;
}


sub revoke {
    my ($g, $store) = @_;

    $store->set_key($key{revoked}, status => 'revoked');
    ok(wait_until(sub { ask($g, 'limit=2', 'revoked')->status == 401 }, BACK),
       'a key is revoked, and refused');

    return;
}


# What is promised while the server of keys is away.

sub away_ok {
    my ($g, $name) = @_;

    my $old = $version;

    change();
    $up->reset;

    is_local(ask($g, 'limit=2'), body(2, $old), "$name: a known key");
    is_local(ask($g, 'limit=3'), body(3, $old), "$name: another query");
    is($up->count, 0, "$name: nobody else was asked");

    # what is not at hand

    my $res = ask($g, 'limit=4');

    success_is($res, body(4), "$name: a query that is not cached");
    like($res->header('Cache-Status'), qr/; fwd=uri-miss; .*; stored/,
         "$name: it is kept");
    is_local(ask($g, 'limit=4'), body(4), "$name: the same again");

    my @all = $g->concurrent([ map {
        [ '/v1/contacts?limit=5', 'X-API-Key' => $key{acme} ]
    } 1 .. SIDE_BY_SIDE ]);

    is(scalar(grep { $_ && $_->status == 200 && $_->body eq body(5) } @all),
       SIDE_BY_SIDE, "$name: many side by side");
    is_local(ask($g, 'limit=5'), body(5), "$name: and after them");
    is($up->count, 2, "$name: the upstream was asked once for each");

    # whose generation is not known

    for my $turn (1, 2) {
        success_is(ask($g, 'limit=2', 'beta'), body(2, undef, 'beta'),
                   "$name: an unknown generation, $turn");
    }
    is($up->count, 3, "$name: the upstream was asked once for it");

    # who is not known, and who was turned away

    for my $who (qw(lost new)) {
        $res = ask($g, 'limit=2', $who);
        error_is($res, @AWAY, "$name: an unknown key");
        is($res->header('Retry-After'), 2, "$name: Retry-After");
    }

    like(ask($g, 'limit=2', 'revoked')->status, qr/^(?:401|503)\z/,
         "$name: a key that was revoked before");
    error_is(ask($g, 'limit=0'), 400, 'INVALID_REQUEST', undef,
             "$name: a bad parameter");
    error_is($g->get('/v1/contacts', 'X-API-Key' => undef), 401,
             'UNAUTHORIZED', 'Missing X-API-Key header', "$name: no key");
    is($up->count, 3, "$name: the upstream saw none of these");
    cmp_ok(metrics($g)->{known_keys}{aged}, '>', 0, "$name: counted");

    return;
}


# Asks the metrics only: the first request comes after it.

sub back_ok {
    my ($g, $name) = @_;

    ok(wait_until(sub {
           my $m = metrics($g);
           $m->{redis_away}{keys} == 0 && $m->{redis_away}{bodies} == 0
               && $m->{tracking_confirmed};
       }, BACK), "$name: Redis is back");

    return;
}


sub gone_ok {
    my ($g, $name, $role) = @_;

    ok(wait_until(sub { metrics($g)->{redis_away}{ $role || 'keys' } }, BACK),
       "$name: Redis is away");

    return;
}


# The connections are cut, and the server lives on and is changed: with one
# server for both roles, and with two.

for my $layout ('one server', 'two servers') {
    my $redis = store($t->redis);
    my $proxy = $t->byte_proxy(to => $redis);
    my %bodies = $layout eq 'one server' ? () : (cache_redis => $t->redis('bodies'));
    my $g = $t->nginx(redis => $proxy, %bodies, upstream => $up,
                      key => $key{acme}, http => $CONF, server => $SERVER);
    my $name = "cut off, $layout";

    known_ok($g, $name);
    revoke($g, $redis);

    $proxy->accept('refuse');
    $proxy->drop;
    gone_ok($g, $name);
    away_ok($g, $name);

    change();
    $redis->purge('acme');
    $redis->set_key($key{beta}, status => 'revoked');
    $redis->add_key($key{new}, workspace => 'acme');
    $redis->set_key($key{revoked}, status => 'active');

    is_local(ask($g, 'limit=2'), body(2, $version - 2),
             "$name: a purge that nobody can know of");
    success_is(ask($g, 'limit=2', 'beta'), body(2, $version - 1, 'beta'),
               "$name: a revocation that nobody can know of");

    $proxy->accept('open');
    back_ok($g, $name);

    error_is(ask($g, 'limit=2', 'beta'), @DENIED,
             "$name, back: what was revoked meanwhile is refused");
    success_is(ask($g, "limit=$_"), body($_),
               "$name, back: what was purged meanwhile is gone, limit=$_")
        for 2 .. 5;
    success_is(ask($g, 'limit=2', $_), body(2), "$name, back: a key that is $_")
        for qw(new revoked);

    # what was fetched without a generation was for that time only

    $redis->set_key($key{beta}, status => 'active');
    ok(wait_until(sub { ask($g, 'limit=2', 'beta')->status == 200 }, BACK),
       "$name, back: active again");
    success_is(ask($g, 'limit=2', 'beta'), body(2, undef, 'beta'),
               "$name, back: not what was kept for want of a generation");

    $g->stop;
}


# Killed, and restarted with its data, in which somebody has revoked a key.

{
    my $redis = store($t->redis('durable', 'appendonly yes',
                                'appendfsync always'));
    my $g = $t->nginx(redis => $redis, upstream => $up, key => $key{acme},
                      http => $CONF, server => $SERVER);

    known_ok($g, 'killed');
    revoke($g, $redis);
    $redis->kill;
    gone_ok($g, 'killed');
    away_ok($g, 'killed');
    $redis->start;
    back_ok($g, 'killed');
    success_is(ask($g, 'limit=2'), body(2), 'restarted: all is fetched anew');
    error_is(ask($g, 'limit=2', 'revoked'), @DENIED, 'restarted: still revoked');
    $g->stop;
}


# It hangs, and answers errors.

{
    my $redis = store($t->redis);
    my $g = $t->nginx(redis => $redis, upstream => $up, key => $key{acme},
                      http => "$CONF convotic_key_valid 500ms;",
                      server => $SERVER);

    known_ok($g, 'hung');
    revoke($g, $redis);
    $redis->sigstop;
    ok(wait_until(sub { ask($g, 'limit=2');
                        metrics($g)->{redis_away}{keys} }, BACK),
       'hung: Redis is away');
    away_ok($g, 'hung');
    $redis->cont;
    back_ok($g, 'hung');
    success_is(ask($g, 'limit=4'), body(4), 'hung: and back');
    $g->stop;
}

for my $error ('LOADING Redis is loading the dataset in memory',
               'MASTERDOWN Link with MASTER is down',
               'NOPERM this user has no permissions', 'ERR anything')
{
    my ($name) = $error =~ /^(\w+)/;
    my $redis = store($t->redis);
    my $fake = $t->fake_redis(behind => $redis);
    my $g = $t->nginx(redis => $fake, upstream => $up, key => $key{acme},
                      http => "$CONF convotic_key_valid 200ms;",
                      server => $SERVER);

    known_ok($g, $name);
    revoke($g, $redis);

    $fake->script(map { ($_ => "-$error\r\n") } qw(HGETALL GET SET EXISTS EVAL));
    ok(wait_until(sub { ask($g, 'limit=2');
                        metrics($g)->{known_keys}{aged} }, BACK),
       "$name: Redis cannot say");
    away_ok($g, $name);
    $fake->clear;
    ok(wait_until(sub { ask($g, 'limit=2', 'lost')->status == 200 }, BACK),
       "$name: and back");
    $g->stop;
}


# The server of bodies alone: keys are checked as ever, bodies are kept here.

{
    my $redis = store($t->redis);
    my $bodies = $t->redis('bodies');
    my $g = $t->nginx(redis => $redis, cache_redis => $bodies, upstream => $up,
                      key => $key{acme}, http => $CONF, server => $SERVER);

    known_ok($g, 'bodies');
    $bodies->kill;
    gone_ok($g, 'bodies', 'bodies');

    my $old = $version;

    change();
    $up->reset;
    is_local(ask($g, 'limit=2'), body(2, $old), 'no bodies: at hand');
    success_is(ask($g, 'limit=4'), body(4), 'no bodies: not at hand');
    is_local(ask($g, 'limit=4'), body(4), 'no bodies: and now it is');
    is($up->count, 1, 'no bodies: the upstream was asked once');
    success_is(ask($g, 'limit=4', 'lost'), body(4, undef, 'lost'),
               'no bodies: another key');
    error_is($g->contacts('limit=4', 'X-API-Key' => 'unknown'), @DENIED,
             'no bodies: an unknown key');
    $redis->purge('acme');
    ok(wait_until(sub { ask($g, 'limit=2')->body eq body(2) }, BACK),
       'no bodies: a purge counts');
    $bodies->start;
    back_ok($g, 'bodies');
    ok(wait_until(sub { ask($g, 'limit=' . (10 + int rand 80));
                        my @names = $bodies->names('convotic:body:*') }, BACK),
       'bodies are stored again');
    $g->stop;
}


# Not for longer than convotic_key_stale, and never with 0.

for my $case (
    [ 'convotic_key_stale 2s', 1 ], [ 'convotic_key_stale 0', 0 ],
) {
    my ($directive, $served) = @$case;
    my $redis = store($t->redis);
    my $g = $t->nginx(redis => $redis, upstream => $up, key => $key{acme},
                      http => "$CONF $directive;", server => $SERVER);
    my (%seen, $last);

    known_ok($g, $directive);
    is(ask($g, 'limit=2')->status, 200, "$directive: known");
    $redis->kill;

    ok(wait_until(sub {
           $last = ask($g, 'limit=2');
           $seen{ $last->status }++;
           $last->status == 503;
       }, BACK), "$directive: it ends");
    error_is($last, @AWAY, "$directive: as for any other");
    is($last->header('Retry-After'), 2, "$directive: Retry-After");
    is_deeply([ grep { !/^(?:200|503)\z/ } keys %seen ], [],
              "$directive: until then it is served");
    error_is(ask($g, "limit=$_"), @AWAY, "$directive: nothing is served")
        for 2 .. 4;
    $g->stop;
}


# Two workers: each has bodies of its own, so the upstream is asked once by
# each at most.

{
    my $redis = store($t->redis);
    my $g = $t->nginx(redis => $redis, upstream => $up, key => $key{acme},
                      workers => 2, http => $CONF, server => $SERVER);

    known_ok($g, 'two workers');
    $redis->kill;
    ok(wait_until(sub { metrics($g)->{redis_away}{keys} == 2 }, BACK),
       'two workers: both know it');
    $up->reset;

    my @all = $g->concurrent([ map {
        [ '/v1/contacts?limit=' . (10 + $_ % 5), 'X-API-Key' => $key{acme} ]
    } 0 .. 199 ]);

    is_deeply([ grep { !$all[$_] || $all[$_]->status != 200
                       || $all[$_]->body ne body(10 + $_ % 5) } 0 .. $#all ],
              [], 'two workers: all are answered');
    cmp_ok($up->count, '<=', 10, 'two workers: the upstream was asked at most '
                                 . 'twice for each of five queries');
    $g->stop;
}

$t->finish;
