#!/usr/bin/perl

# Workers that are killed at any moment, one or all of them, while everything
# that is in shared memory is read and written: keys, refusals, generations,
# leases, the flights of look-ups and of fetches.  Those who were being served
# are lost; whoever connects anew is served, rightly, and nobody hangs.
#
# TEST_KILLS is how often; t/trials asks for many.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use List::Util qw(max);
use Time::HiRes qw(sleep time);

use constant {
    KILLS    => $ENV{TEST_KILLS} || 50,
    ALL      => 10,             # each so many times, all workers at once
    WORKERS  => 2,
    CLIENTS  => 4,
    CALM     => 0.06,           # seconds at most between two kills
    BACK     => 10,             # seconds until something has happened, at most
    HUNG     => 5,              # seconds, of a request: nobody takes so long
    TENANTS  => 5,
    LIMITS   => 8,
};

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis;
my $up = $t->upstream;

# Each key has a rate that nobody uses up, so that leases are taken and told.

my $nginx = $t->gateway(
    redis => $redis, upstream => $up, workers => WORKERS, log_level => 'notice',
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_zone 1m;
    convotic_rate 1000000;
    convotic_cache_valid 1s;
EOC
    server => Convotic::Workers::server_conf(),
);

my @keys = map { my $n = $_; map { [ "w$n", test_key("$n $_") ] } 1 .. 10 }
    1 .. TENANTS;

$redis->add_key($_->[1], workspace => $_->[0]) for @keys;


sub metrics { return $nginx->get('/status')->json }


# What is wrong with an answer to a good key of this workspace.

sub fault_of {
    my ($res, $workspace, $limit) = @_;

    return 'no rate'
        unless ($res->header('X-RateLimit-Limit') || '') eq '1000000';
    return 'status ' . $res->status if $res->status != 200;
    return 'the body of another' if $res->body
        ne contacts_body(workspace => $workspace, limit => $limit);
    return;
}


# A client: a good key, or now and then one that is unknown; over connections
# that are kept for some requests.

sub client {
    my ($go) = @_;

    my %sum = (done => 0, lost => 0, faults => {}, slowest => 0);
    my $conn;

    while ($go->()) {
        my $bad = rand() < 0.2;
        my ($workspace, $key) = @{ $keys[ rand @keys ] };
        my $limit = 1 + int rand LIMITS;
        my $start = time();
        my $res = eval {
            $conn ||= $nginx->connect(port => $nginx->port('each'));
            $conn->get("/v1/contacts?limit=$limit", 'X-API-Key' =>
                       $bad ? 'nobody' . int rand 1e6 : $key);
        };

        my $took = time() - $start;

        $sum{slowest} = max($sum{slowest}, $took);
        $sum{faults}{"a request of $took s"}++
            if $took > HUNG * $Convotic::Process::FACTOR;

        if (!$res || !$res->status) {
            $sum{lost}++;
            undef $conn;
            next;
        }

        my $fault = $bad ? $res->status != 401 && 'status ' . $res->status
                         : fault_of($res, $workspace, $limit);

        $sum{faults}{$fault}++ if $fault;
        $sum{done}++;
        undef $conn if rand() < 0.05;
    }

    return \%sum;
}


sub files_of_master { return scalar(my @fds = glob '/proc/' . $nginx->pid . '/fd/*') }

my $files = files_of_master();
my @clients = map { background(\&client) } 1 .. CLIENTS;

# Purges and changes of keys, so that the one that tracks writes as well.

my $writer = background(sub {
    my ($go) = @_;

    my $conn = $redis->connect;

    for (my $i = 0; $go->(); $i++) {
        my ($workspace, $key) = @{ $keys[ $i % @keys ] };

        $conn->cmd('HSET', $redis->key_name($key), 'name', "again $i");
        $conn->cmd('INCR', $redis->gen_name($workspace)) if $i % 4 == 0;
        sleep 0.002;
    }
});

my (@missed, @refused, @served);


# Until a new connection brings this answer; how long that took.

sub in_time {
    my ($times, $sub, $key) = @_;

    my $start = time();
    my $good = wait_until(sub {
        my $res = eval { $nginx->contacts('limit=3', { lax => 1 },
                                          'X-API-Key' => $key) };
        $res && $res->status && $sub->($res);
    }, BACK);

    push @$times, 1000 * (time() - $start);

    return $good;
}


for my $turn (1 .. KILLS) {
    sleep rand CALM;

    my @now = $nginx->workers;
    my @gone = $turn % ALL ? $now[ rand @now ] : @now;
    my %gone = map { $_ => 1 } @gone;

    $nginx->kill_worker($_) for @gone;

    # from here on, somebody who connects is told about his key, and served

    my ($workspace, $key) = @{ $keys[ $turn % @keys ] };

    push @missed, "turn $turn: nobody is refused"
        unless in_time(\@refused, sub { $_[0]->status == 401 },
                       "nobody$turn");
    push @missed, "turn $turn: nobody is served"
        unless in_time(\@served, sub { !fault_of($_[0], $workspace, 3) }, $key);
    push @missed, "turn $turn: no new worker"
        unless wait_until(sub { my @then = $nginx->workers;
                                @then == WORKERS && !grep { $gone{$_} } @then },
                          BACK);
}

my @sums = map { $_->end->result } @clients;
$writer->end->result;

my ($done, $lost, %faults) = (0, 0);

for my $sum (@sums) {
    $done += $sum->{done};
    $lost += $sum->{lost};
    $faults{$_} += $sum->{faults}{$_} for keys %{ $sum->{faults} };
}

is_deeply(\@missed, [], KILLS . ' kills: the service resumes after each');
is_deeply(\%faults, {}, "none of $done answers is wrong, and nobody hung");
cmp_ok($lost, '<=', 2 * KILLS * CLIENTS, "$lost were lost with their worker");
cmp_ok($done, '>', 10 * KILLS, 'there were many');

for my $case ([ 'refused', @refused ], [ 'served', @served ]) {
    my ($what, @times) = @$case;

    @times = sort { $a <=> $b } @times;
    note(sprintf '%s again after a kill: median %.0f ms, slowest %.0f ms of %d',
         $what, $times[ @times / 2 ], $times[-1], scalar @times);
}

note(sprintf 'slowest request of a client: %.0f ms',
     1000 * max(map { $_->{slowest} } @sums));

# nginx tells of a lock that it has taken from the dead

$t->allow_log(qr/worker process \d+ exited on signal 9/,
              qr/shared memory zone "\w+" was locked by \d+/);


# What is left is in order: nobody waits for the dead, no connection of theirs
# is open, all is told, and what was known is known.

my $workers = Convotic::Workers->new($nginx);

ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'changes are told');
ok(wait_until(sub { metrics()->{waiting} == 0 }, BACK), 'nobody waits');
is_deeply(metrics()->{redis_away}, { keys => 0, bodies => 0 }, 'Redis is there');

my %pids = map { $_ => 1 } $nginx->workers;
my @names;

ok(wait_until(sub {
    @names = $redis->cmd('CLIENT', 'LIST') =~ / name=(ngx_convotic-\S+)/g;
    @names == WORKERS + 1 && !grep { /-(\d+)/ && !$pids{$1} } @names;
}, BACK), 'one connection for each worker, and one that tracks')
    or diag("@names");
ok(wait_until(sub { files_of_master() <= $files }, BACK),
   'the master has no more files open');

$workers->ask_each('limit=3', $_->[1]) for @keys;

my $asked = $redis->calls('hgetall');
my @wrong = grep { $_ } map {
    my ($workspace, $key) = @$_;
    map { fault_of($_, $workspace, 3) } $workers->ask_each('limit=3', $key);
} @keys;

is_deeply(\@wrong, [], 'every key is served its own');
is($redis->calls('hgetall'), $asked, 'and known to every worker');

$redis->set_key($keys[0][1], status => 'revoked');
ok($workers->all_see(sub { $_[0]->status == 401 }, BACK, 'limit=3',
                     $keys[0][1]), 'a revocation is seen by every worker');

$t->finish;
