#!/usr/bin/perl

# convotic_zone: what Redis has said of keys and generations stands in shared
# memory.  It may be too small, be filled with the keys of somebody who tries
# many, outlive reloads and lose a worker at any moment: that costs questions to
# Redis, and never an error or a wrong answer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(sleep);

use constant {
    BACK      => 15,            # seconds until something has happened, at most
    GOOD      => 200,           # keys that fit into the smallest zone
    MORE      => 3000,          # keys that do not
    TRIED     => 100_000,       # keys that do not exist
    CLIENTS   => 4,
    PIPE      => 100,           # requests in one piece
    KILLS     => 5,
    RELOADS   => 5,
};

# All that is read is to stay for the whole test, as far as it fits.

my $LONG = 'convotic_key_valid 1h; convotic_key_invalid 1h;'
         . 'convotic_key_stale 1h; convotic_cache_valid 1h;';

my $t = Convotic::Test->new;
my $redis = $t->redis;
my $up = $t->upstream;
my @good = map { test_key("good $_") } 1 .. GOOD;
my @more = map { test_key("more $_") } 1 .. MORE;

sub workspace { return "w$_[0]" }
sub expected  { return contacts_body(workspace => workspace($_[0]), limit => 3) }


# Ten workspaces, by the last digit of a key's number.

sub write_keys {
    my ($conn, @keys) = @_;

    for my $i (0 .. $#keys) {
        $conn->cmd('HSET', $redis->key_name($keys[$i]), 'id', "key_$i",
                   'workspace', workspace($i % 10), 'status', 'active');
    }

    return;
}

$redis->init;
write_keys($redis, @good);
write_keys($redis, @more);

my %conf = (
    redis => $redis, upstream => $up, workers => 2, log_level => 'error',
    no_access_log => 1, events => 'worker_connections 512;',
    http => "access_log off; keepalive_requests 1000000; $LONG",
    server => 'location = /status { convotic_status json; }',
);

my $g = $t->nginx(%conf, http => "convotic_zone 1m; $conf{http}");

sub metrics { return $g->get('/status')->json }

ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');


# One answer for each of these keys, over one connection, many at a time; what
# is wrong with them.

sub ask {
    my (@keys) = @_;

    my @numbers = (0 .. $#keys);
    my $conn = $g->connect;
    my @faults;

    while (my @some = splice @numbers, 0, PIPE) {
        $conn->write(join '', map { request($keys[$_]) } @some);

        for my $i (@some) {
            my $res = $conn->read;
            push @faults, "key $i: " . ($res ? $res->status : 'no answer')
                unless $res && $res->status == 200
                       && $res->body eq expected($i % 10);
        }
    }

    $conn->close;

    return @faults;
}


sub request {
    my ($key) = @_;

    return "GET /v1/contacts?limit=3 HTTP/1.1\r\nHost: localhost\r\n"
           . "X-API-Key: $key\r\n\r\n";
}


sub known_ok {
    my ($name) = @_;

    my $before = $redis->calls('hgetall');

    is_deeply([ ask(@good) ], [], "$name: " . GOOD . ' keys are served');
    is($redis->calls('hgetall') - $before, 0,
       "$name: and Redis is not asked about any");

    return;
}

is_deeply([ ask(@good) ], [], 'all are asked for');
known_ok('all are known');


# Somebody tries keys.  What is counted are the bytes of the answers, which are
# all the same: to parse them takes longer than to make them.

{
    my $each = TRIED / CLIENTS;

    my @counts = parallel(CLIENTS, sub {
        my ($i) = @_;

        my $socket = $g->connect->socket;
        my %seen;

        for my $n (1 .. $each / PIPE) {
            my $bytes = join '', map { request("cvtk_live_try.$i.$n.$_") }
                                     1 .. PIPE;
            my $answers = '';

            syswrite($socket, $bytes) == length $bytes or last;

            my $left = PIPE;

            while ($left > 0) {
                sysread($socket, $answers, 65536, length $answers) or last;

                while ($answers =~ s{\AHTTP/1\.1\ (\d+)\ .*?\r\n\r\n
                                     (\{"error".*?\}\})}{}sx) {
                    $seen{"$1 $2"}++;
                    $left--;
                }
            }
        }

        return \%seen;
    }, 120);

    my %seen;

    for my $count (@counts) {
        $seen{$_} += $count->{$_} for keys %$count;
    }

    is_deeply(\%seen, { '401 {"error":{"code":"UNAUTHORIZED",'
                        . '"message":"Invalid API key"}}' => TRIED },
              TRIED . ' keys are refused');

    my $now = metrics();

    is($now->{zone_evicted}{keys}, 0, 'no good key was evicted for them');
    is($now->{zone_evicted}{refusals} + $now->{zone_entries}{refusals},
       $now->{keys}{denied}, 'each of them was kept, or evicted and counted');
    cmp_ok($now->{zone_entries}{refusals}, '<=',
           $now->{zone_places}{refusals}, 'no more are kept than have a place');
    cmp_ok($now->{zone_evicted}{refusals}, '>', TRIED / 2, 'most had to go');

    known_ok('after that');
}


# More keys than the zone has places for.

for my $turn (1, 2) {
    is_deeply([ ask(@more) ], [], MORE . " keys are served, $turn");
}

{
    my $now = metrics();

    cmp_ok($now->{zone_evicted}{keys}, '>=',
           MORE - $now->{zone_places}{keys}, 'some were evicted, and counted');
    cmp_ok($now->{zone_entries}{keys}, '<=', $now->{zone_places}{keys},
           'no more are kept than have a place');
    cmp_ok($now->{zone_entries}{keys}, '>', $now->{zone_places}{keys} * 3 / 4,
           'and nearly all places are in use');
}

is_deeply([ ask(@good) ], [], 'the first ones are served');
known_ok('and known again');


# A reload keeps what is known.  A machine that is too busy to hand over the
# tracking in time may begin anew: not every time.

sub reload {
    my ($name, %arg) = @_;

    ok($g->reload(gone => 1, %arg), $name);
    ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');

    return;
}

{
    my $asked;

    for my $turn (1 .. RELOADS) {
        ask(@good);
        $g->reload(gone => 1) or last;
        $asked = $redis->calls('hgetall');
        is_deeply([ ask(@good) ], [], "reload $turn: all are served");
        $asked = $redis->calls('hgetall') - $asked;
        last if $asked == 0;
    }

    is($asked, 0, 'reloaded: Redis is not asked about known keys');
}


# Another prefix, another database: other keys, though they have the same names.

for my $case (
    [ 'another prefix', [ 0, 'other:' ], 'convotic_redis_prefix other:;',
      $redis->url ],
    [ 'another database', [ 5, 'convotic:' ], '', $redis->url(db => 5) ],
) {
    my ($name, $place, $http, $url) = @$case;
    my ($db, $prefix) = @$place;
    my $conn = $redis->connect;

    ask(@good);
    $conn->cmd('SELECT', $db);
    $conn->cmd('HSET', "${prefix}meta", 'schema', 1);
    $conn->cmd('HSET', $prefix . 'key:' . sha256_hex($good[0]), 'id', 'x',
               'workspace', 'elsewhere', 'status', 'active');

    reload("$name: a reload", redis => $url,
           http => "convotic_zone 1m; $http $conf{http}");

    success_is($g->contacts('limit=3', 'X-API-Key' => $good[0]),
               contacts_body(workspace => 'elsewhere', limit => 3),
               "$name: a key of the same name is another's");
    error_is($g->contacts('limit=3', 'X-API-Key' => $good[1]), 401,
             'UNAUTHORIZED', undef, "$name: one that is not there is refused");

    # nobody listens to the first place now

    $redis->set_key($good[2], status => 'revoked');
    $redis->purge(workspace(3));

    reload("$name: and back", redis => $redis,
           http => "convotic_zone 1m; $conf{http}");

    error_is($g->contacts('limit=3', 'X-API-Key' => $good[2]), 401,
             'UNAUTHORIZED', undef,
             "$name: what was revoked meanwhile is refused");
    like($g->contacts('limit=3', 'X-API-Key' => $good[3])
           ->header('Cache-Status'), qr/fwd=/,
         "$name: what was purged meanwhile is not served");

    $redis->set_key($good[2], status => 'active');
    ok(wait_until(sub { !ask(@good) }, BACK), "$name: all is as it was");
}


# Another size begins with nothing.

{
    reload('another size', http => "convotic_zone 2m; $conf{http}");

    my $now = metrics();
    my $asked = $redis->calls('hgetall');

    is($now->{zone_entries}{keys}, 0, 'nothing is known');
    is_deeply([ ask(@good) ], [], 'all are served');
    is($redis->calls('hgetall') - $asked, GOOD, 'each was asked for once');
    cmp_ok(metrics()->{zone_places}{keys}, '>', 2000, 'there are more places');
}


# Workers that are killed, between any two instructions, while keys and bodies
# are written all the time: the others go on.  What a worker had in hand is
# lost; nothing that is answered is wrong.

{
    my @names = (@good, @more[0 .. 500]);

    my $job = background(sub {
        my ($go) = @_;

        my $conn = $redis->connect;

        for (my $i = 0; $go->(); $i++) {
            $conn->cmd('HSET', $redis->key_name($good[ $i % GOOD ]),
                       'name', "again $i");
            $conn->cmd('INCR', $redis->gen_name(workspace($i % 10)));
        }
    });

    my @clients = map {
        my $first = $_ * 50;

        background(sub {
            my ($go) = @_;

            return $g->load($go,
                requests => [ map {
                    [ '/v1/contacts?limit=3', 'X-API-Key' => $names[$_] ]
                } $first .. $first + 400 ],
                check => sub {
                    my ($res, $i) = @_;

                    my $n = $first + $i;
                    $n -= GOOD if $n >= GOOD;

                    return if $res->status == 200
                              && $res->body eq expected($n % 10);
                    return 'wrong: ' . $res->status . ' '
                           . substr $res->body, 0, 80;
                });
        });
    } 1 .. CLIENTS;

    for my $turn (1 .. KILLS) {
        sleep 0.3;

        my @workers = $g->workers;
        my $one = $workers[ $turn % @workers ];

        $g->kill_worker($one);
        ok(wait_until(sub { my @now = $g->workers;
                            @now == 2 && !grep { $_ == $one } @now }, BACK),
           "a worker is killed and replaced, $turn");
    }

    my @results = map { $_->end->result } @clients;
    $job->end->result;

    my $count = 0;
    my %faults;

    for my $result (@results) {
        $count += $result->{count};
        $faults{$_}++ for @{ $result->{faults} };
    }

    my $lost = delete $faults{'no response'} || 0;

    is_deeply(\%faults, {}, "of $count answers none is wrong");
    cmp_ok($lost, '<=', KILLS * CLIENTS, 'those of a killed worker are lost');
    cmp_ok($count, '>', 10 * KILLS, 'there were many');
}

$t->allow_log(qr/worker process \d+ exited on signal 9/);

ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');
ok(wait_until(sub { !ask(@good) }, BACK), 'all are served');
known_ok('all are known');

$redis->set_key($good[7], status => 'revoked');
ok(wait_until(sub { $g->contacts('limit=3', 'X-API-Key' => $good[7])->status
                    == 401 }, BACK), 'and a revocation is seen');

$t->finish;
