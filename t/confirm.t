#!/usr/bin/perl

# Before a stale copy stands in for a failed answer, Redis is asked whether it
# was purged meanwhile.  What it does not say is taken from what was known last;
# a copy that was purged is never handed out, whoever fetched in vain.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(sleep time);

use constant {
    OLD  => 20_000,             # ms, too old to be handed out at once
    HOUR => 3_600_000,          # ms
    BACK => 20,                 # seconds until something has happened, at most
};

my @FAILED = (500, 'INTERNAL_ERROR', 'An unexpected error occurred');

my $STATUS = 'location = /status { convotic_status json; }';
my $PATIENT = 'connect_timeout=60s timeout=60s';

my $t = Convotic::Test->new;
my ($redis, $bodies) = map { $t->redis($_) } qw(keys bodies);
my $fake = $t->fake_redis(behind => $redis);
my $up = $t->upstream;

# The generation is asked for with each request; and where nothing is known of
# it for longer than a moment.

my %scene = (
    redis => $fake, store => $redis, cache_redis => $bodies, upstream => $up,
    server => $STATUS,
);
my $HTTP = "convotic_redis %%REDIS%% $PATIENT;"
           . "convotic_cache_redis %%CACHE_REDIS%% $PATIENT;";

my $g = $t->gateway(%scene, name => 'asks', http => "$HTTP "
    . 'convotic_cache_local 0; convotic_key_valid 100ms;'
    . 'convotic_key_stale 1h; convotic_cache_valid 1h;');
my $limit = 0;


sub metrics { return $_[0]->get('/status')->json }


sub body {
    my ($version, $n) = @_;

    return contacts_body(workspace => 'acme', limit => $n || $limit,
                         version => $version);
}


sub send_to {
    my ($nginx, $n) = @_;

    my $conn = $nginx->connect;
    $conn->write(Convotic::HTTP::request_text("/v1/contacts?limit=$n", {},
                                              'X-API-Key' => $nginx->key));

    return $conn;
}


sub wait_for {
    my ($sub, $name) = @_;

    return ok(wait_until($sub, BACK), $name);
}


sub stale_is {
    my ($res, $name) = @_;

    success_is($res, body(1), $name);
    like($res ? $res->header('Cache-Status') : '',
         qr/^convotic; fwd=stale; .*detail=stale-if-error/, "$name: marked");

    return;
}


# A query whose copy is too old to be handed out, while the upstream fails but
# has not answered yet.

sub failing {
    my ($nginx, $name) = @_;

    $up->reset;
    $up->set(hold => 0, version => 1, status => 200);
    ++$limit;
    $nginx->contacts("limit=$limit");

    my @names;

    wait_until(sub { @names = grep { $bodies->cmd('GET', $_)
                                     =~ /^query limit=$limit$/m }
                              $bodies->names('convotic:body:*') }, BACK);

    my $then = int(1000 * time()) - OLD;
    my $envelope = $bodies->cmd('GET', $names[0]) =~ s/^fresh \d+$/fresh 1/mr
                   =~ s/^stored \d+$/stored $then/mr;

    $bodies->cmd('SET', $names[0], $envelope, 'PX', HOUR);
    $up->reset;
    $up->set(hold => 1, version => 2, status => 500);

    my $conn = send_to($nginx, $limit);

    wait_for(sub { $up->count == 1 }, "$name: the upstream is asked");

    return $conn;
}


sub fails { $up->set(hold => 0); return $up->release }


# What was known, once it is too old to be taken without asking.

sub purge {
    my ($nginx) = @_;

    my $before = metrics($nginx)->{invalidations}{generation};

    $redis->purge('acme');

    return wait_until(sub { metrics($nginx)->{invalidations}{generation}
                            > $before }, BACK);
}


wait_for(sub { metrics($g)->{tracking_confirmed} }, 'tracked');


# Redis does not say.

{
    my $name = 'an error';
    my $conn = failing($g, $name);

    sleep 0.2;
    $fake->script('GET convotic:gen' => "-LOADING Redis is loading\r\n");
    fails();
    stale_is($conn->read('GET', BACK), "$name: what was known last will do");
    cmp_ok($fake->count('GET convotic:gen'), '>', 0, "$name: it was asked");
    $fake->clear;
}

{
    my $name = 'an error after a purge';
    my $conn = failing($g, $name);

    sleep 0.2;
    $fake->script('GET convotic:gen' => "-LOADING Redis is loading\r\n");
    ok(purge($g), "$name: it is known");
    fails();
    error_is($conn->read('GET', BACK), @FAILED, "$name: the failure");
    $fake->clear;
}

{
    my $name = 'another answer';
    my $conn = failing($g, $name);

    sleep 0.2;
    $fake->script('GET convotic:gen' => "\$16\r\n1774878120000000\r\n");
    fails();
    error_is($conn->read('GET', BACK), @FAILED, "$name: the failure");
    $fake->clear;
}


# Redis goes while the upstream is asked.

{
    my $name = 'away';
    my $conn = failing($g, $name);

    sleep 0.2;
    $fake->accept('refuse');
    $fake->drop;
    wait_for(sub { metrics($g)->{redis_away}{keys} }, "$name: it is seen");
    fails();
    stale_is($conn->read('GET', BACK), "$name: what was known last will do");
    $fake->accept('open');
    wait_for(sub { metrics($g)->{tracking_confirmed} }, "$name: it is back");
}


# Several have waited for the one that failed.

for my $case (
    [ 'waiting', sub { 1 }, 1 ],
    [ 'waiting, purged', sub { purge($_[0]) }, 0 ],
    [ 'waiting, purged and asked for', sub {
          my ($nginx) = @_;

          return purge($nginx) && $up->set(hold => 0, status => 200)
                 && $nginx->contacts('limit=99')->status == 200;
      }, 0 ],
) {
    my ($name, $meanwhile, $stale) = @$case;
    my $known = $t->gateway(%scene, http => "$HTTP convotic_cache_local 0;"
        . 'convotic_key_valid 1h; convotic_cache_valid 1h;'
        . 'convotic_cache_lock_timeout 60s;');

    wait_for(sub { metrics($known)->{tracking_confirmed} }, "$name: tracked");

    my @conns = failing($known, $name);

    push @conns, map { send_to($known, $limit) } 1, 2;
    wait_for(sub { metrics($known)->{waiting} == 2 }, "$name: two wait");
    ok($meanwhile->($known), "$name: meanwhile");
    fails();

    for my $conn (@conns) {
        my $res = $conn->read('GET', BACK);

        $stale ? stale_is($res, "$name: the copy")
               : error_is($res, @FAILED, "$name: the failure");
    }

    $known->stop;
}


# Redis is away from the start of it: the copy is of a generation of the node's
# own, which nobody can purge.

{
    my $name = 'of a time without Redis';
    my $alone = $t->gateway(
        %scene,
        http => "$HTTP convotic_key_valid 100ms; convotic_key_stale 1h;",
        location => 'convotic_cache_valid 100ms;', server => "$STATUS "
        . 'location = /known { convotic on; convotic_cache off;'
        . ' proxy_pass http://contacts; }');

    $up->set(hold => 0, version => 1, status => 200);
    ++$limit;
    is($alone->get('/known', 'X-API-Key' => $alone->key)->status, 200,
       "$name: the key is known");
    $fake->accept('refuse');
    $fake->drop;
    wait_for(sub { metrics($alone)->{redis_away}{keys} }, "$name: it is away");
    success_is($alone->contacts("limit=$limit"), body(1), "$name: fetched");
    sleep 0.2;

    # an upstream that says no is asked by the next one, and then it fails

    $up->set(status => 404);
    $alone->contacts("limit=$limit");
    wait_for(sub { $alone->contacts("limit=$limit")->status == 404 },
             "$name: it is refused");
    $up->set(status => 500);
    stale_is($alone->contacts("limit=$limit"), "$name: the copy");
    $fake->accept('open');
    $alone->stop;
}

$t->finish;
