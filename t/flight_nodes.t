#!/usr/bin/perl

# Two nodes, one Redis: a lease there keeps the second from fetching what the
# first is fetching.  It is a saving, not a lock: whoever holds it may die, and
# Redis may be away.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(sleep time);

use Convotic::Test;

use constant {
    CROWD => 500,               # clients of each node
    FEW   => 20,
    LEASE => 3,                 # seconds
    HELD  => 1.5,               # of which a fetch may take so many here
    KEPT_UP => 1.1,             # after which a connection is one that works
    BACK  => 20,                # until something has happened, at most
};

my $t = Convotic::Test->new;
my $keys = $t->redis('keys');
my $bodies = $t->redis('bodies');

# What is held is answered when the test says so.

my $up = $t->upstream;

my %scene = (
    redis => $keys, cache_redis => $bodies, upstream => $up,
    main => 'worker_rlimit_nofile 8192;',
    events => 'worker_connections 4096;',
    server => 'location = /status { convotic_status json; }'
              . 'location = /short { convotic on; convotic_cache_valid 300ms;'
              . 'proxy_pass http://contacts; }',
    http => <<'END',
convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;
convotic_cache_redis %%CACHE_REDIS%% connect_timeout=20s timeout=20s;
END
);

my $first = $t->gateway(%scene, name => 'first');
my $second = $t->gateway(%scene, name => 'second');

my @acme = ('X-API-Key' => $first->key);
my $limit = 0;


# A query that nobody has asked yet.

sub cold {
    my (%how) = @_;

    $up->reset;
    $up->set(hold => 1, version => 1, %how);

    return '/v1/contacts?limit=' . ++$limit;
}


sub body {
    return contacts_body(workspace => 'acme', limit => $limit,
                         version => $_[0] || 1);
}


sub metrics { return $_[0]->get('/status')->json }


sub locks {
    my @locks = $bodies->names('convotic:lock:*');

    return @locks;
}


sub crowd {
    my ($nginx, $path, $n) = @_;

    return background(sub {
        return [ map { $_ ? [ $_->status, $_->body ] : [ 0, 'no answer' ] }
            $nginx->concurrent([ map { [ $path, @acme ] } 1 .. $n ],
                               timeout => BACK) ];
    });
}


sub all_served {
    my ($name, $body, @jobs) = @_;

    my %faults;

    for my $res (map { @{ $_->result(2 * BACK) } } @jobs) {
        $faults{"$res->[0] " . substr $res->[1], 0, 100}++
            if $res->[0] != 200 || $res->[1] ne $body;
    }

    is_deeply(\%faults, {}, "$name: all are served");

    return;
}


# Whether it comes true before the lease ends.

sub in_time {
    my ($cond) = @_;

    my $end = time() + HELD;

    sleep 0.01 until $cond->() || time() > $end;

    return;
}


# One request over a connection that is kept; it has been sent.

sub ask {
    my ($nginx, $path) = @_;

    my $conn = $nginx->connect;

    $conn->write(Convotic::HTTP::request_text($path, {}, @acme));

    return $conn;
}


# A crowd at both.

{
    my $name = 'a cold query';
    my $path = cold();
    my @jobs = map { crowd($_, $path, CROWD) } $first, $second;

    in_time(sub { $up->count && !grep { metrics($_)->{waiting} < CROWD - 1 }
                                 $first, $second });

    my @locks = locks();
    my @left = map { $bodies->cmd('PTTL', $_) } @locks;

    $up->set(hold => 0);
    $up->release;
    all_served($name, body(), @jobs);
    is($up->count, 1, "$name: one request to the upstream");
    is(scalar @locks, 1, "$name: one lease");
    like($locks[0] || '', qr/^convotic:lock:v1:\{acme\}:[0-9a-f]{64}\z/,
         "$name: its name");
    is_deeply([ grep { $_ <= 0 || $_ > 1000 * LEASE } @left ], [],
              "$name: it ends by itself");
    ok(wait_until(sub { !locks() }, BACK), "$name: or when it is not needed");
}


# The lease is taken in one step with its end, and left by its holder only.

{
    my $name = 'the commands';
    my $path = cold(hold => 0);
    my @lines = grep { /convotic:lock:/ }
        $bodies->monitor(sub { $first->get($path, @acme);
                               wait_until(sub { !locks() }, BACK); });

    is(scalar(grep { /"SET" "convotic:lock:[^"]+" "[^"]+" "NX" "PX" "3000"\z/ }
              @lines), 1, "$name: SET NX PX");
    ok(!(grep { /\] "DEL"/ && !/ lua\]/ } @lines), "$name: no plain DEL");
}

{
    my $name = 'a lease that has become another\'s';
    my $path = cold();
    my $conn = ask($first, $path);

    ok(wait_until(sub { $up->count == 1 && locks() }, BACK), "$name: ours");

    my ($lock) = locks();

    $bodies->cmd('SET', $lock, 'another', 'PX', 1000 * BACK);
    $up->release;
    success_is($conn->read, body(), "$name: the answer");

    # commands of a connection come in order

    $up->set(hold => 0);
    $first->get('/v1/contacts?limit=' . ($limit + 50), @acme);
    is($bodies->cmd('GET', $lock), 'another', "$name: it is left alone");
    success_is($second->get($path, @acme), body(),
               "$name: what was stored is found all the same");
    $bodies->cmd('DEL', $lock);
}


# Its holder dies: all of its processes, at once.

{
    my $name = 'a node dies';
    my $path = cold();
    my $conn = ask($first, $path);

    ok(wait_until(sub { $up->count == 1 && locks() }, BACK), "$name: it leads");

    my $job = crowd($second, $path, FEW);

    ok(wait_until(sub { metrics($second)->{waiting} == FEW - 1 }, BACK),
       "$name: the other one waits");

    $t->allow_log(qr/exited on signal 9/);
    $first->kill_all;
    $up->set(hold => 0);
    all_served($name, body(), $job);
    is($up->count, 2, "$name: of one fetch more");
    ok(wait_until(sub { !locks() }, BACK), "$name: no lease is left");
    $first->start;
}


# A worker dies that holds it: the one that leads after it on this node removes
# what was left behind, and so asks for its own but once, with one body's SET
# behind it.

{
    my $name = 'a worker dies';
    my $path = cold();
    my $conn = ask($first, $path);

    ok(wait_until(sub { $up->count == 1 && locks() }, BACK), "$name: it leads");

    my ($lock) = locks();
    my $token = $bodies->cmd('GET', $lock);
    my $job = crowd($second, $path, FEW);

    ok(wait_until(sub { metrics($second)->{waiting} == FEW - 1 }, BACK),
       "$name: another node waits");
    $first->kill_worker($first->workers);
    $up->set(hold => 0);

    my @monitored = $bodies->monitor(sub {
        in_time(sub { my $res = eval { $first->get($path, { lax => 1 }, @acme) };
                      $res && $res->status == 200 });
        ok(wait_until(sub { !locks() }, BACK), "$name: no lease is left");
    });

    my @own = grep { /"EVAL" .*\Q$lock\E.*\Q$token\E/ } @monitored;

    is(scalar @own, 1, "$name: what was left behind is removed, by its token");
    all_served($name, body(), $job);
    is($up->count, 2, "$name: of one fetch more");
}


# An expired copy is renewed by one of them; both go on with what they have.

{
    my $name = 'an expired copy';

    cold(hold => 0);

    my $path = "/short?limit=$limit";

    success_is($_->get($path, @acme), body(), "$name: " . $_->name)
        for $first, $second;

    $up->reset;
    $up->set(hold => 1, version => 2);

    # whoever renews it is answered, but its connection is not free until then

    my @conns;

    ok(wait_until(sub { push @conns, $first->connect;
                        $conns[-1]->get($path, @acme); $up->count }, BACK),
       "$name: the first one renews it");

    my $other;

    in_time(sub { $other = $second->connect->get($path, @acme);
                  $other->header('Cache-Status') =~ /updating/ });
    success_is($other, body(1), "$name: the other one has the old body");
    is($other->header('Cache-Status'),
       'convotic; hit; ttl=-1; detail=updating', "$name: it says so");
    $up->set(hold => 0);
    $up->release;
    is($up->count, 1, "$name: one request to the upstream");

    for my $nginx ($first, $second) {
        my $res;

        ok(wait_until(sub { $res = $nginx->connect->get($path, @acme);
                            $res->body eq body(2) }, BACK),
           "$name: the new one, " . $nginx->name);
    }
}


# The reply to a lease is lost with the connection.  Whether it was given is not
# known: it is not asked for again, to be refused by what is one's own, and not
# waited for either.

{
    my $name = 'a lost reply';
    my $fake = $t->fake_redis(behind => $bodies);
    my $third = $t->gateway(%scene, name => 'third', cache_redis => $fake);
    my $path = cold(hold => 0);
    my $late = { pass => 1, delay => 2 * BACK };

    # what is asked over a connection that has kept up is asked again

    success_is($third->get($path, @acme), body(), "$name: it is up");
    sleep KEPT_UP;
    $path = cold(hold => 0);
    $fake->reset;
    $fake->script('SET convotic:lock:' => $late);

    my $conn = ask($third, $path);

    ok(wait_until(sub { locks() }, BACK), "$name: the lease was given");
    $fake->clear;
    $fake->drop('SET convotic:lock:');

    my $res = $conn->read;

    success_is($res, body(), "$name: an answer");
    unlike($res->header('Cache-Status'), qr/collapsed/,
           "$name: for which nobody was waited");
    is($fake->count('SET convotic:lock:'), 1, "$name: asked for once");
    is($up->count, 1, "$name: one request to the upstream");
    $third->stop;
}


# Redis for bodies is away: no lease, and each node asks once.

{
    my $name = 'no Redis for bodies';
    my $path = cold();

    $bodies->kill;

    my @jobs = map { crowd($_, $path, FEW) } $first, $second;

    ok(wait_until(sub { !grep { metrics($_)->{waiting} < FEW - 1 }
                        $first, $second }, BACK), "$name: they wait");
    is($up->count, 2, "$name: one request of each node");
    $up->set(hold => 0);
    $up->release;
    all_served($name, body(), @jobs);
    is($up->count, 2, "$name: and no other");
}

$t->finish;
