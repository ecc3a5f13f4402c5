#!/usr/bin/perl

# Four nodes, one Redis, one key: what they admit together is the limit, neither
# more nor less, and who knows that nothing is left asks nobody.  A worker that
# dies, a reload or a node that begins anew may lose a lease, never gain one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use constant {
    LIMIT => 1000,
    CONNS => 4,                 # connections to a node at a time
    BATCH => 8,                 # requests that are sent at once over each
    BACK  => 20,                # seconds until something has happened, at most
    QUIET => 0.3,               # seconds without an answer, of one that waits
};

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis->init;
my $proxy = $t->byte_proxy(to => $redis);
my $up = $t->upstream;

# A busy machine is no Redis that is away.

my $HTTP = 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;'
         . 'convotic_cache_valid 1h;';

my @nodes = map {
    $t->nginx(name => "node$_", redis => $_ == 4 ? $proxy : $redis,
              upstream => $up, workers => 1 + ($_ + 1) % 2, http => $HTTP,
              server => Convotic::Workers::server_conf())
} 1 .. 4;

is_deeply([ map { scalar $_->workers } @nodes ], [ 1, 2, 1, 2 ],
          'four nodes of one worker or two');

for my $node (@nodes) {
    ok(wait_until(sub { status($node)->{tracking_confirmed} }, BACK),
       $node->name . ': tracking is confirmed');
}


# A key that nobody has used yet: a window of its own.

sub fresh_key {
    my ($name, $limit) = @_;

    return $redis->add_key(test_key($name), workspace => 'acme',
                           rate => $limit || LIMIT);
}


sub status { return $_[0]->get('/status')->json }

sub text {
    my ($key) = @_;

    return Convotic::HTTP::request_text('/v1/contacts?limit=1', {},
                                        'X-API-Key' => $key);
}


# How often the nodes have asked Redis for a part of any rate.

sub questions { return $redis->calls('evalsha') + $redis->calls('eval') }


# What Redis counts as used in the key's window.

sub used { return (split / /, $redis->cmd('GET', $redis->rate_name($_[0])))[2] }


# One batch over each of the connections to each of the nodes; "meanwhile" runs
# when all is sent.  What came, by status; what did not as "lost".

sub burst {
    my ($key, $nodes, $meanwhile) = @_;

    my $text = text($key) x BATCH;
    my @conns = map { my $node = $_; map { $node->connect } 1 .. CONNS }
        @$nodes;
    my %seen;

    $_->write($text) for @conns;
    $meanwhile->() if $meanwhile;

    for my $conn (@conns) {
        for my $left (reverse 1 .. BATCH) {
            my $res = $conn->read(undef, BACK);

            unless ($res) {
                $seen{lost} += $left;
                last;
            }
            $seen{ $res->status }++;
        }
        $conn->close;
    }

    return %seen;
}


# Bursts until all are refused; with { middle }, that happens during the burst
# after half of the limit.  The sum of what came.

sub flood {
    my ($key, %arg) = @_;

    my $nodes = $arg{nodes} || \@nodes;
    my $limit = $arg{limit} || LIMIT;
    my $middle = $arg{middle};
    my %sum = (200 => 0, 429 => 0, lost => 0);

    for (1 .. 1000) {
        my $now = $middle && $sum{200} >= $limit / 2;
        my %seen = burst($key, $nodes, $now ? $middle : undef);

        $middle = undef if $now;
        $sum{$_} += $seen{$_} for keys %seen;
        last unless $seen{200} || $seen{lost};
    }

    return \%sum;
}


sub all_of_it {
    my ($name, $sum, $limit) = @_;

    is($sum->{200}, $limit || LIMIT, "$name: the limit is admitted");
    is_deeply([ grep { !/^(?:200|429|lost)\z/ } keys %$sum ], [],
              "$name: all others are refused");
    is($sum->{lost}, 0, "$name: all are answered");

    return;
}


# What was lost was asked for by a client that got no answer, or leased by who
# is no more: a quarter of the limit at most.

sub most_of_it {
    my ($name, $sum, $limit) = @_;

    $limit ||= LIMIT;

    cmp_ok($sum->{200}, '<=', $limit, "$name: never more than the limit");
    cmp_ok($sum->{200} + $sum->{lost}, '>=', $limit - $limit / 4,
           "$name: a lease is lost, at most");
    is_deeply([ grep { !/^(?:200|429|lost)\z/ } keys %$sum ], [],
              "$name: all others are refused");
    diag("$name: $sum->{200} admitted of $limit, $sum->{lost} not answered");

    return;
}


# Nothing else happens.

{
    my $key = fresh_key('plain');
    my $before = questions();
    my $sum = flood($key);
    my $asked = questions() - $before;

    all_of_it('plain', $sum);
    cmp_ok($asked, '<', LIMIT / 4, 'plain: most requests ask nobody');
    diag(sprintf '%.0f questions for 1000 admitted by four nodes',
         1000 * $asked / $sum->{200});

    $before = questions();

    my %seen = burst($key, \@nodes);

    is_deeply(\%seen, { 429 => @nodes * CONNS * BATCH },
              'plain: all are refused from then on');
    is(questions(), $before, 'plain: who refuses asks nobody');
    is(used($key), LIMIT, 'plain: Redis has counted the same');
}


# A limit that is smaller than the number of nodes.

{
    my $key = fresh_key('small', 3);

    all_of_it('three a minute', flood($key, limit => 3), 3);
}


# The script is forgotten.

{
    my $key = fresh_key('script');
    my $evals = $redis->calls('eval');

    all_of_it('SCRIPT FLUSH', flood($key, middle => sub {
        $redis->cmd('SCRIPT', 'FLUSH');
    }));
    cmp_ok($redis->calls('eval'), '>', $evals,
           'SCRIPT FLUSH: the script was sent again');
    is(status($_)->{redis_errors}{keys}, 0,
       'SCRIPT FLUSH: ' . $_->name . ': that is no error') for @nodes;
}


# Workers die while they serve.

{
    my $key = fresh_key('killed');

    $t->allow_log(qr/exited on signal 9/);

    most_of_it('kill -9', flood($key, middle => sub {
        $_->kill_worker(($_->workers)[0]) for @nodes[0, 1];
    }));
    ok(wait_until(sub { my $node = $_;
                        $node->workers == ($node == $nodes[1] ? 2 : 1) }, BACK),
       'kill -9: ' . $_->name . ' has its workers again') for @nodes[0, 1];
}


# The worker that asks dies, with the answer on its way: what was leased is lost,
# and another worker of the node asks.

{
    my $name = 'kill -9 of the one that asks';
    my $limit = 100;
    my $key = fresh_key('asker', $limit);
    my $node = $nodes[3];
    my $workers = Convotic::Workers->new($node);
    my ($pid) = $workers->pids;
    my $conn = $workers->conn($pid);
    my $admitted = 0;

    for (1 .. 10) {
        $admitted++ if $workers->ask($pid, 'limit=1', $key)->status == 200;
    }
    is($admitted, 10, "$name: a few are admitted");

    my ($asked, $used) = (questions(), used($key));

    $proxy->delay(BACK, 'down');

    for (1 .. $limit) {
        $conn->write(text($key));

        my $res = $conn->read(undef, QUIET);

        last if !$res && wait_until(sub { questions() > $asked }, BACK);
        $admitted++ if $res && $res->status == 200;
    }

    is(questions(), $asked + 1, "$name: it waits for an answer");

    my $lost = used($key) - $used;

    cmp_ok($lost, '>', 0, "$name: something was leased");
    $node->kill_worker($pid);

    # what is delayed for the other worker would still come late

    my $accepted = $proxy->counters->{accepted};

    $proxy->clear;
    $proxy->drop;
    ok(wait_until(sub {
           $proxy->counters->{accepted} >= $accepted + 2
               && $node->workers == 2 && status($node)->{tracking_confirmed}
               && !status($node)->{redis_away}{keys};
       }, BACK), "$name: there is another one, and Redis");

    my $sum = flood($key, nodes => [ $node ], limit => $limit);

    # the request that waited was never admitted, or that was not seen

    cmp_ok($admitted + $sum->{200}, '<=', $limit - $lost,
           "$name: what was leased is not given twice");
    cmp_ok($admitted + $sum->{200}, '>=', $limit - $lost - 1,
           "$name: all else is admitted");
    is($sum->{lost}, 0, "$name: the other worker answers");
}


# A reload: the zone stays.

{
    my $key = fresh_key('reload');

    most_of_it('reload', flood($key, middle => sub {
        $_->signal('HUP') for @nodes;
    }));
    ok(wait_until(sub { !$_->old_workers }, BACK),
       'reload: ' . $_->name . ': the old workers are gone') for @nodes;
}


# A node is stopped and started: it has forgotten what it held.

{
    my $key = fresh_key('started');
    my $sum = flood($key, middle => sub { $nodes[1]->stop; $nodes[1]->start });

    most_of_it('stop and start', $sum);

    my $before = questions();
    my %seen = burst($key, \@nodes);

    is_deeply([ keys %seen ], [ 429 ], 'stop and start: all are refused');
    is(questions(), $before, 'stop and start: nobody asks');
}


# The rate in the record is changed.  Every worker of every node obeys as soon
# as it was told; what is asked meanwhile counts.

{
    my $key = fresh_key('changed');
    my $admitted = 0;

    my $is_told = sub {
        my ($node, $limit, $status) = @_;

        return wait_until(sub {
            my $res = $node->contacts('limit=1', 'X-API-Key' => $key);

            $admitted++ if $res->status == 200;
            $res->header('X-RateLimit-Limit') == $limit
                && $res->status == $status;
        }, BACK);
    };

    while ($admitted < LIMIT / 2) {
        my %seen = burst($key, \@nodes);
        $admitted += $seen{200};
    }

    $redis->set_key($key, rate => 100);
    ok($is_told->($_, 100, 429), 'lowered: ' . $_->name) for @nodes;

    my %seen = burst($key, \@nodes);

    is_deeply([ keys %seen ], [ 429 ], 'lowered: all are refused');

    $redis->set_key($key, rate => 2 * LIMIT);
    ok($is_told->($_, 2 * LIMIT, 200), 'raised: ' . $_->name) for @nodes;

    $admitted += flood($key)->{200};
    is($admitted, 2 * LIMIT, 'raised: the new limit, in all');

    # no rate of its own: the directive's

    $redis->set_key($key, rate => undef);
    ok($is_told->($_, 1000, 429), 'taken away: ' . $_->name) for @nodes;

    $redis->set_key($key, rate => 2 * LIMIT + 50);
    ok($is_told->($_, 2 * LIMIT + 50, 200), 'raised a little: ' . $_->name)
        for @nodes;

    $admitted += flood($key)->{200};
    is($admitted, 2 * LIMIT + 50, 'raised a little: the new limit, in all');
}

$t->finish;
