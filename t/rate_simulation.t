#!/usr/bin/perl

# Up to a hundred nodes that share one key's rate, in a simulation of the
# module's own code of leases and its script: t/simulate/simulate.c says what
# is simulated and what is checked at each step.  The seeds are always the
# same.  What fails is made minimal by
#
#     build/simulate -s KIND SEED 1

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BUILDING => 120,            # seconds, at most
    RUNNING  => 60,
    TRIALS   => 40,             # of each kind
    COMPARED => 8,              # trials whose questions a Redis is asked, too
};

my $t = Convotic::Test->new;
my $simulate = $t->top . '/build/simulate';


sub simulation_ok {
    my ($name, @args) = @_;

    my $run = $t->run([ $simulate, @args ], timeout => RUNNING);

    ok($run->{exit} == 0 && $run->{out} =~ /\Aok /, $name)
        or diag("exit code $run->{exit}, signal $run->{signal}\n",
                substr $run->{err}, 0, 4000);
    diag($run->{out} =~ s/\n\z//r);

    return;
}


# The sanitizers are always in it.

my $make = $t->run([ 'make', '-s', '-C', $t->top, 'build/simulate' ],
                   timeout => BUILDING);

is($make->{exit}, 0, 'the simulation is built')
    or BAIL_OUT($make->{err});


# One node has exactly the limit, and what remains falls by one.

simulation_ok("one node, a limit of $_", 'one', $_)
    for 1, 2, 3, 10, 1000, 1_000_000;


# Nodes in number.  None admits beyond what was leased to it; no more is leased
# than the limit, but for what a store has lost and no node has told of; nobody
# is refused while something is left; nothing is counted twice; nobody waits
# for ever.

my %kinds = (
    calm     => 'nothing fails',
    slow     => 'answers that take seconds',
    lost     => 'questions and answers that are lost, or asked twice',
    away     => 'Redis is away, and requests are admitted all the same',
    late     => 'likewise, and answers are lost',
    dying    => 'nodes and workers die',
    limits   => 'the limit changes within a window',
    forgets  => 'Redis loses the window',
    restored => 'Redis comes back with an older one',
    clock    => 'its clock is set',
    reset    => 'the window is reset, or replaced by something else',
    all      => 'all of that',
);

simulation_ok("$_: $kinds{$_}", $_, 1, TRIALS) for sort keys %kinds;


# The Lua of the simulation is that of Redis.

my $redis = $t->redis;

simulation_ok('Redis answers and stores the same', 'same', $redis->socket, 1,
              COMPARED);
simulation_ok('and counts so by its own clock', 'real', $redis->socket);

$t->finish;
