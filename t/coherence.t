#!/usr/bin/perl

# Two nodes, one Redis: what is revoked, activated or purged is seen by each
# worker of both, and whoever has seen it does not go back; an answer that was
# under way meanwhile is never what is believed in the end.  The long form,
# with its figures, is t/trials.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep);

use constant {
    BACK   => 10,               # seconds until something has happened, at most
    ROUNDS => 20,               # of each kind of change
    AGAIN  => 5,                # questions to those who have seen it
    RACES  => 100,
    FETCHES => 30,
    DELAY  => 0.004,            # seconds, of Redis's answers in a race
};

my $HTTP = 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;'
         . 'convotic_key_valid 1h; convotic_key_invalid 1h;'
         . 'convotic_cache_valid 1h;';

my $t = Convotic::Test->new;
my $up = $t->upstream;
my $redis = $t->redis;
my $proxy = $t->byte_proxy(to => $redis);
my $key = test_key('acme');
my $version = 1;

$redis->init;
$redis->add_key($key, workspace => 'acme');

my @workers = map {
    Convotic::Workers->new(
        $t->nginx(redis => $proxy, upstream => $up, key => $key, workers => 2,
                  http => $HTTP, server => Convotic::Workers::server_conf()));
} 1, 2;

for my $node (0, 1) {
    ok(wait_until(sub { $workers[$node]->status->{tracking_confirmed} }, BACK),
       "node $node: tracking is confirmed");
}

# Every worker: [node, pid].

my @each = map { my $node = $_; map { [ $node, $_ ] } $node->pids } @workers;

is(scalar @each, 4, 'two nodes of two workers');


sub ask {
    my ($who, @what) = @_;

    return $who->[0]->ask($who->[1], @what);
}


sub shown {
    my ($res) = @_;

    return 'no answer' unless $res;
    return $res->status . ' ' . ($res->body =~ /( v\d+ )/ ? $1 : '');
}


# What is wrong: somebody never saw it, or saw it and went back.

sub faults_of {
    my ($name, $is_new, @what) = @_;

    my (%seen, @faults);

    wait_until(sub {
        for my $i (0 .. $#each) {
            my $res = ask($each[$i], @what);

            if ($res && $is_new->($res)) {
                $seen{$i}++;
            } elsif ($seen{$i}) {
                push @faults, "$name: back to " . shown($res);
            }
        }
        keys %seen == @each;
    }, BACK);

    push @faults, "$name: not seen by " . (@each - keys %seen)
        if keys %seen < @each;

    for my $who ((@each) x AGAIN) {
        my $res = ask($who, @what);
        push @faults, "$name: afterwards " . shown($res)
            unless $res && $is_new->($res);
    }

    return @faults;
}


sub none_ok {
    my ($name, @faults) = @_;

    splice @faults, 5, @faults - 5, '...' if @faults > 5;
    ok(!@faults, $name) or diag(map { "    $_\n" } @faults);

    return;
}


# The new body and no other.

sub is_version {
    my ($of, $limit) = @_;

    my $body = contacts_body(workspace => 'acme', limit => $limit || 2,
                             version => $of);

    return sub { $_[0]->status == 200 && $_[0]->body eq $body };
}


# Change after change, seen by all.

{
    my %faults;

    for my $round (1 .. ROUNDS) {
        $redis->set_key($key, status => 'revoked');
        push @{ $faults{revoked} },
            faults_of("round $round", sub { $_[0]->status == 401 }, 'limit=2');

        $redis->set_key($key, status => 'active');
        push @{ $faults{active} },
            faults_of("round $round", sub { $_[0]->status == 200 }, 'limit=2');

        $up->set(version => ++$version);
        $redis->purge('acme');
        push @{ $faults{purged} },
            faults_of("round $round", is_version($version), 'limit=2');
    }

    none_ok(ROUNDS . " times $_", @{ $faults{$_} }) for sort keys %faults;
}


# Every answer of Redis is late, and the key changes while it is under way.

{
    my (%status, @faults);
    my $before = 0;
    $before += $_->status->{races} for @workers;

    $proxy->delay(DELAY, 'down', only => '\A(?s)(?!.*SUBSCRIBE)');

    for my $n (1 .. RACES) {
        my $who = $each[ $n % @each ];
        my $conn = $who->[0]->conn($who->[1]);
        my $racing = $redis->add_key(test_key("race $n"), workspace => 'acme');

        $conn->write(Convotic::HTTP::request_text(
            '/v1/contacts?limit=2', {}, 'X-API-Key' => $racing));
        sleep rand() * 2 * DELAY;
        $redis->set_key($racing, status => 'revoked');
        $status{ $conn->read->status }++;

        push @faults, faults_of("race $n", sub { $_[0]->status == 401 },
                                'limit=2', $racing);
    }

    $proxy->clear;

    my $races = 0;
    $races += $_->status->{races} for @workers;

    none_ok(RACES . ' keys revoked while they were read', @faults);
    is_deeply([ grep { !/^(?:200|401)\z/ } keys %status ], [],
              'the answers themselves are the one or the other');
    cmp_ok($races - $before, '>', 0, 'some were dropped');
}


# The upstream answers late, and is purged meanwhile.

{
    my @faults;

    $up->set(delay => 0.03);

    for my $n (1 .. FETCHES) {
        my $who = $each[ $n % @each ];
        my $conn = $who->[0]->conn($who->[1]);
        my $limit = $n + 2;             # nobody has this one yet

        $up->reset;
        $conn->write(Convotic::HTTP::request_text(
            "/v1/contacts?limit=$limit", {}, 'X-API-Key' => $key));
        wait_until(sub { $up->count }, BACK);
        $up->set(version => ++$version);
        $redis->purge('acme');
        $conn->read;

        push @faults, faults_of("fetch $n", is_version($version, $limit),
                                "limit=$limit");
    }

    $up->set(delay => 0);
    none_ok(FETCHES . ' purges while a body was fetched', @faults);
}

for my $node (0, 1) {
    is($workers[$node]->status->{tracking}{lost}, 0,
       "node $node: the connection was never lost");
}

$t->finish;
