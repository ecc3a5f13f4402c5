#!/usr/bin/perl

# An upstream that fails is asked again after 1, 2, 4, 8, then every 10 seconds,
# for each query and node: not for each client.  Meanwhile all are served what
# is there.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(sleep time);

use Convotic::Test;

use constant {
    PAUSE    => 0.05,           # seconds, between two clients
    ERRORS   => 2,              # attempts that are answered with 500
    ATTEMPTS => 4,              # until the upstream is back
    BACK     => 30,             # seconds until something has happened, at most
    PAUSES   => [ 1, 2, 4, 8 ], # seconds, after each failure
};

my $t = Convotic::Test->new;
my $up = $t->upstream;
my $g = $t->gateway(
    upstream => $up, workers => 2,
    http => 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;'
            . 'upstream contacts { server %%UPSTREAM%%; }',
    server => 'location = /status { convotic_status json; }',
    location => 'convotic_cache_valid 200ms;',
);

my $old = contacts_body(workspace => 'acme', limit => 5, version => 1);
my $new = contacts_body(workspace => 'acme', limit => 5, version => 2);


# How often the upstream was asked in vain, and has told so.

sub fills { return $g->get('/status')->json->{fills} }


sub attempts {
    my $fills = fills();

    return $fills->{error} + $fills->{failed};
}


# At most so many attempts in a time: the first, and one after each pause that
# is over by then.

sub allowed {
    my ($seconds) = @_;

    my $n = 1;

    for my $pause (@{ +PAUSES }) {
        $seconds -= $pause;
        last if $seconds < 0;
        $n++;
    }

    return $n;
}


success_is($g->contacts('limit=5'), $old, 'before it fails');
$up->set(status => 500, version => 2);
$up->reset;

my $start = time();
my ($attempts, $clients, $too_many, $res, %seen) = (0, 0, 0);

# First it answers with errors, then not at all, then it is back.

my $end = $start + BACK * $Convotic::Process::FACTOR;

while (time() < $end) {
    $res = $g->contacts('limit=5');
    $clients++;
    last if $res->body eq $new;

    my $status = $res->header('Cache-Status');

    $seen{ $res->status . ($res->body eq $old ? ' old' : ' other') }++;
    $seen{$1}++ if $status =~ /detail=([\w-]+)/;

    my $now = attempts();

    if ($now > $attempts) {
        $attempts = $now;
        $too_many++ if $attempts > allowed(time() - $start);

        $up->accept('refuse') if $attempts == ERRORS;

        if ($attempts == ATTEMPTS) {
            $up->accept('open');
            $up->set(status => 200);
        }
    }

    sleep PAUSE;
}

my $seconds = time() - $start;

success_is($res, $new, 'once it is back, the new body');
cmp_ok($attempts, '>=', ATTEMPTS, "attempts in $seconds s of $clients clients");
is($too_many, 0, 'never sooner than after the pause');
is($up->count, fills()->{error} + 1, 'what the upstream has seen of them');
cmp_ok(fills()->{failed}, '>=', 1, 'and what it has not');
cmp_ok($seconds, '>=', 15, 'the pauses grow');

is_deeply([ grep { /^\d/ && $_ ne '200 old' } keys %seen ], [],
          'all were served the old body');
cmp_ok($seen{'stale-if-error'} || 0, '>', $clients / 2,
       'which says why it is stale');


# It is over: an expired copy is renewed as ever, and the pauses begin anew.

$up->reset;
ok(wait_until(sub { $g->contacts('limit=5'); $up->count >= 2 }, BACK),
   'it is asked as before');

$up->set(status => 500);
$attempts = attempts();
ok(wait_until(sub { $g->contacts('limit=5'); attempts() >= $attempts + 2 },
              BACK), 'another failure: the second attempt is not far');
success_is($g->contacts('limit=5'), $new, 'and a copy is there');

$t->finish;
