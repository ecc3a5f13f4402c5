#!/usr/bin/perl

# The fuzz targets: each seed once, and some thousands of inputs made of them.
# t/fuzz/run does it for as long as one likes.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);
my $top = $t->top;

# Building takes most of the time, and happens once.

my $BUILD = 480;

my $run = $t->run([ "$top/t/fuzz/run", '--smoke', '--no-install' ],
                  timeout => $BUILD);

SKIP: {
    skip $run->{err} =~ s/\n+\z//r, 1 if $run->{exit} == 77;

    is($run->{exit}, 0, 'no invariant is broken')
        or diag($run->{out}, $run->{err});

    # A target that stops at once would find nothing either.

    for my $dir (glob "$top/t/fuzz/corpus/*") {
        my ($target) = $dir =~ m{([^/]+)\z};
        my @seeds = glob "$dir/*";
        my ($executions) = $run->{out} =~ /^$target +(\d+) .* none$/m;

        cmp_ok(scalar @seeds, '>', 5, "$target: seeds");
        cmp_ok($executions || 0, '>', @seeds, "$target: each, and more");
    }
}

# The same without the sanitizers, which is another build: one target shows it.

my $fast = $t->run([ "$top/t/fuzz/run", '--smoke', '--fast', '--no-install',
                     'envelope' ], timeout => $BUILD);

SKIP: {
    skip $fast->{err} =~ s/\n+\z//r, 2 if $fast->{exit} == 77;

    is($fast->{exit}, 0, 'nor without the sanitizers')
        or diag($fast->{out}, $fast->{err});
    like($fast->{out}, qr/^envelope +[1-9]\d+ .* none$/m, 'it has run');
}


# How it is called.

for my $case (
    [ [ '--what' ],        qr/^t\/fuzz\/run \[--smoke\]/ ],
    [ [ 1, 'nosuch' ],     qr/no such target: nosuch; there are: resp / ],
) {
    my ($args, $message) = @$case;
    my $res = $t->run([ "$top/t/fuzz/run", @$args ]);

    is($res->{exit}, 2, "@$args: refused");
    like($res->{err}, $message, "@$args: a sentence");
}

$t->finish;
