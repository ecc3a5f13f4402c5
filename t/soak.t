#!/usr/bin/perl

# The soak itself, for some seconds: it runs, its faults can be made, and its
# clients find nothing wrong; and they do find what is wrong.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Ledger;
use Convotic::Process;
use Convotic::Test;
use Convotic::Upstream qw(contacts_body);

use JSON::PP ();

use constant {
    PATIENCE => 4,              # times as much as a quiet machine needs
    WRONG    => 30,             # wrong answers of each kind
};

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

# What may pass of a rate.

{
    my $ledger = Convotic::Ledger->new;
    my $most = sub { return $ledger->most_of_rate('k', 60, 2, @_) };

    is($most->(100, 159), 60, 'nothing is lost: the rate');

    $ledger->announce(reset => k => undef, 90);
    is($most->(100, 159), 120, 'a reset is another one');
    is($most->(151, 209), 60, '  until the next window');

    $ledger->announce(begin => 1, { uncounted => 3, losses => 1 }, 300);
    $ledger->announce(end => 1, undef, 301);
    is($most->(290, 349), 60 * 3 + 2 * 2 * 15,
       'Redis was lost: another window, the loss, and what nodes let in alone');
    is($most->(200, 259), 60, '  not before it');
}


# The flood finds each wrong answer among right ones, and says what it cannot
# judge.

sub flood_plan {
    my ($body) = @_;

    return 'return {seed=1,ends=0,age=9,factor=1,'
           . 'keys={' . join(',', map {
               qq($_={{key="$_",name="$_",kind="$_",workspace="acme",rate=60}})
           } qw(steady changing limited)) . '},'
           . "queries={{path='/v1/contacts?limit=2',name='2 all',body='$body'}},"
           . "refusals={{method='GET',path='/nowhere',headers='',status=404,body='{}'}},"
           . "errors={[401]='denied',[429]='wait',[502]='failed',[503]='away'}}\n";
}


sub right_answer {
    my ($key, $body) = @_;

    return { status => 404, body => '{}' } unless defined $key;
    return { status => 401, body => 'denied' } if $key =~ /^cvtk/;
    return { body => $body, headers => [
        ETag => '"1"', Age => 1, 'Cache-Status' => 'x; hit', Vary => 'X-API-Key',
        'Cache-Control' => 'private, no-cache', 'X-RateLimit-Limit' => 60,
        'X-RateLimit-Remaining' => 1 ] };
}


sub flood_answer {
    my ($request, $vars) = @_;

    my $key = $request->header('X-API-Key');
    my $good = contacts_body(workspace => 'acme', version => 1, limit => 2);
    my $right = right_answer($key, $good);

    return { %$right, status => 304, body => '' } if $request->header('If-None-Match');
    return $right unless defined $key && $key =~ /^(?:steady|cvtk)/;

    my @rate = ('X-RateLimit-Limit' => 60, 'X-RateLimit-Remaining' => 1);
    my %wrong = $key eq 'steady' ? (
        'wrong tenant'      => { %$right, body => $good =~ s/acme/evil/gr },
        'false 401'         => { status => 401, body => 'denied' },
        'wrong tag'         => { %$right, body => $good =~ s/ v1 / v2 /gr },
        misshaped           => { status => 502, body => '<html>', headers => \@rate },
        'rate headers'      => { body => $good },
        'unexpected status' => { status => 418, body => '{}', headers => \@rate },
        refused             => { status => 503, body => 'away',
                                 headers => [ 'Retry-After' => 1 ] },
        failed              => { status => 502, body => 'failed', headers => \@rate },
        lost                => { %$right, cut => 100 },
    ) : ('let in' => { %$right, status => 200, body => $good });

    my ($next) = sort { ($vars->{made}{$a} || 0) <=> ($vars->{made}{$b} || 0) || $a cmp $b }
        keys %wrong;

    return $right if $vars->{turn}++ % 2 || ($vars->{made}{$next} || 0) >= WRONG;

    $vars->{made}{$next}++;

    return $wrong{$next};
}


{
    my $up = $t->upstream(handler => \&flood_answer);
    my $body = contacts_body(workspace => '@W@', version => '@V@', limit => 2);
    my $out = $t->dir . '/flood.out';

    $t->write_file('flood.lua', flood_plan($body));

    my $wrk = Convotic::Process->spawn(
        name => 'flood', stdout => $out, stderr => "$out.err",
        argv => [ qw(wrk -t1 -c1 -d 60 -s), $t->top . '/t/lib/flood.lua', $up->url . '/',
                  '--', $t->dir . '/flood.lua' ],
    );

    wait_until(sub {
        my $made = $up->vars->{made} || {};
        return keys %$made == 10 && !grep { $_ < WRONG } values %$made;
    }, 30);
    $wrk->signal('INT');
    is($wrk->wait(10), 0, 'wrk ends');

    my $said = $t->read_file('flood.out');
    my ($sums) = $said =~ /^# (\{.*)/m;
    $sums = JSON::PP->new->decode($sums || '{}');

    for my $class ('wrong tenant', 'false 401', 'wrong tag', 'misshaped', 'rate headers',
                   'unexpected status', 'let in')
    {
        is($sums->{bad}{$class}, WRONG, "$class: each is found");
        like($said, qr/^! \{"class":"$class",/m, '  and told');
    }

    is($sums->{lost}, WRONG, 'answers that break off are noticed');
    is($sums->{bad}{hung}, 0, 'nothing else is wrong');

    my %count;
    $count{$1} += $2 while $said =~ /^= (\w+):.* (\d+)$/mg;
    is($count{$_}, WRONG, "$_: told") for qw(refused failed lost);
    cmp_ok($count{body}, '>', WRONG, 'so are bodies') or diag($said);
}


# The whole.

my $run = $t->run([ $^X, $t->top . '/t/soak', '0.08', '5' ], timeout => 60, env => {
    TEST_TIME_FACTOR => PATIENCE * $Convotic::Process::FACTOR, SOAK_LOG => 1,
});

is($run->{exit}, 0, 'a soak of five seconds') or diag($run->{out}, $run->{err});
like($run->{out}, qr/^faults +[1-9]\d*, errors in making them: 0$/m, 'its faults happen');
like($run->{out}, qr/^  wrong-tenant bodies +0 of [1-9]\d\d+ bodies$/m, 'bodies are compared');
like($run->{out}, qr/^    wrong tenant +0 of [1-9]\d\d\d+ bodies$/m, 'those of the flood, too');
is($run->{err}, '', 'it says nothing else');

$t->finish;
