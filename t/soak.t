#!/usr/bin/perl

# The soak itself, for some seconds: it runs, its faults can be made, and its
# client finds nothing wrong; and it does find what is wrong.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Ledger;
use Convotic::Test;

use constant PATIENCE => 4;     # times as much as a quiet machine needs

my $t = Convotic::Test->new;


# What may be seen, and until when.

{
    my $ledger = Convotic::Ledger->new;
    my ($good, $bad) = map { { status => $_, rate => 9 } } qw(active revoked);
    my $seen = sub {
        my ($node, $start) = @_;
        return scalar(my @values = $ledger->values_of('k', $node, $start, 10));
    };

    $ledger->announce(key => k => $good);
    $ledger->announce(changing => k => $bad, 10);
    is($seen->('a', 12), 2,
       'a revocation that is not acknowledged: either');

    $ledger->announce(changed => k => undef, 20);
    is($seen->('a', 20.05), 2, 'acknowledged just now: either');
    is($seen->('a', 29), 1, 'a while ago: revoked');

    $ledger->announce(begin => 1, { old => 1, away => 1, after => 4, node => 'a' }, 19);
    is($seen->('a', 29), 2, 'Redis is away: either');
    is($seen->('b', 29), 1, '  for another node: revoked');
    is($seen->('a', 39), 1, '  for too long: revoked');

    $ledger->announce(key => good => $good);
    ok(!$ledger->may_deny('good', 'a', 29), 'a good key is not denied, whatever is wrong');

    $ledger->announce(version => w => 2);
    $ledger->announce(purged => w => 2, 50);
    is($ledger->version_fault('w', 2, 'b', 60, 10), '', 'a body from after a purge');
    like($ledger->version_fault('w', 1, 'b', 60, 10), qr/purged 10\.000 s before/,
         'a body from before it');
}


# The whole.

my $run = $t->run([ $^X, $t->top . '/t/soak', '0.08', '5' ], timeout => 60, env => {
    TEST_TIME_FACTOR => PATIENCE * $Convotic::Process::FACTOR, SOAK_LOG => 1,
});

is($run->{exit}, 0, 'a soak of five seconds') or diag($run->{out}, $run->{err});
like($run->{out}, qr/^faults +[1-9]\d*, errors in making them: 0$/m, 'its faults happen');
like($run->{out}, qr/^  wrong-tenant bodies +0 of [1-9]\d\d+ bodies$/m, 'bodies are compared');
is($run->{err}, '', 'it says nothing else');

$t->finish;
