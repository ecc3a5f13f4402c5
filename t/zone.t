#!/usr/bin/perl

# convotic_zone: what Redis has said of keys and generations, the leases of keys
# and the budgets of addresses stand in shared memory.  It may be too small, be
# filled with the keys of somebody who tries many, outlive reloads and lose a
# worker at any moment: that costs questions to Redis, and never an error or a
# wrong answer.

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

$redis->set_key($good[7], status => 'active');


# Leases, in the smallest zone: a key whose entry went asks Redis again, and
# counts on where it was.  With two requests each has leased one, then one more,
# and told what is left: evicted or not.

{
    my $rated = $t->nginx(%conf, log_level => 'info',
        http => "convotic_zone 1m; convotic_rate 1000; $conf{http}");
    my $status = sub { return $rated->get('/status')->json };
    my %left;

    $redis->set_key($good[0], rate => 5);
    ok(wait_until(sub { $rated->contacts('limit=3', 'X-API-Key' => $good[0])
                        ->status == 429 }, BACK), 'leases: a rate is used up');

    for my $turn (1, 2) {
        my $conn = $rated->connect;
        my @numbers = (0 .. $#more);

        while (my @some = splice @numbers, 0, PIPE) {
            $conn->write(join '', map { request($more[$_]) } @some);

            for my $i (@some) {
                my $res = $conn->read;
                my $left = $res && $res->status == 200 && $res->body eq
                    expected($i % 10) && $res->header('X-RateLimit-Remaining');

                $left{"$turn: " . ($left || 'wrong')}++;
            }
        }

        $conn->close;
    }

    is_deeply(\%left, { '1: 999' => MORE, '2: 998' => MORE },
              'leases: each key is told what is left to it');

    my $now = $status->();
    my $places = $now->{zone_places}{leases};

    cmp_ok($places, '<', MORE, 'leases: not all have a place');
    cmp_ok($now->{zone_evicted}{leases}, '>=', MORE - $places,
           'leases: some were evicted, and counted');
    cmp_ok($now->{zone_entries}{leases}, '<=', $places,
           'leases: no more are kept than have a place');
    cmp_ok($now->{zone_entries}{leases}, '>', $places * 3 / 4,
           'leases: nearly all places are in use');
    is($now->{rate}{unverified}, 0, 'leases: nobody was admitted without one');
    is($now->{rate_leases}{failed}, 0, 'leases: no question has failed');

    # what Redis has counted is not forgotten with an entry

    my $asked = $redis->calls('evalsha');

    is_deeply([ map { $rated->contacts('limit=3', 'X-API-Key' => $good[0])
                      ->status } 1 .. 3 ], [ (429) x 3 ],
              'leases: a key that had used its rate up is refused');
    cmp_ok($redis->calls('evalsha'), '>', $asked, 'leases: after it was evicted');
    $rated->stop;
}


# Addresses that try keys, more of them than have a place: one whose place was
# taken begins anew, and nothing else in the zone is lost.

SKIP: {
    skip 'this nginx has no realip module', 1
        unless `@{[ Convotic::Nginx::binary() ]} -V 2>&1`
               =~ /http_realip_module/;

    my $limited = $t->nginx(%conf, http => 'set_real_ip_from 127.0.0.1;'
        . 'real_ip_header X-Forwarded-For; convotic_auth_failures 1;'
        . "convotic_zone 1m; $conf{http}");
    my $status = sub { return $limited->get('/status')->json };
    my $made = 0;
    my %seen;

    my $try = sub {
        my ($conn, $label, @addresses) = @_;

        while (my @some = splice @addresses, 0, PIPE) {
            $conn->write(join '', map {
                request('cvtk_live_unknown' . ++$made)
                    =~ s/\r\n\z/X-Forwarded-For: $_\r\n\r\n/r
            } @some);

            $seen{"$label " . $conn->read->status}++ for @some;
        }

        return;
    };

    my $conn = $limited->connect;
    my %once = map { join('.', 10, map { int rand 256 } 1 .. 3) => 1 } 1 .. MORE;

    $try->($conn, 'one', keys %once);
    is_deeply(\%seen, { 'one 401' => scalar keys %once },
              'addresses: each may try a key');

    my $now = $status->();
    my $places = $now->{zone_places}{addresses};

    is($now->{zone_entries}{addresses} + $now->{zone_evicted}{addresses},
       keys %once, 'addresses: each was kept, or evicted and counted');
    cmp_ok($now->{zone_entries}{addresses}, '<=', $places,
           'addresses: no more are kept than have a place');
    cmp_ok($now->{zone_entries}{addresses}, '>', $places * 3 / 4,
           'addresses: nearly all places are in use');
    is($now->{zone_evicted}{keys} + $now->{zone_evicted}{leases}, 0,
       'addresses: nothing else was evicted for them');

    $try->($conn, 'two', ('192.0.2.1') x 10);
    cmp_ok($seen{'two 429'}, '>', 0, 'addresses: one that goes on is limited');
    $limited->stop;
}

$t->finish;
