#!/usr/bin/perl

# Waiting that does not end well: for a fetch that another worker makes, that
# was purged meanwhile, or that another node makes; and none at all, where that
# is configured.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep);

use constant {
    BACK    => 20,              # seconds until something has happened, at most
    DENIED  => 4,               # times that a lease is asked for
    NEVER   => 0.3,             # seconds that nothing comes in
};

my $PATIENT = 'convotic_redis %%REDIS%% connect_timeout=60s timeout=60s;';
my $STATUS = 'location = /status { convotic_status json; }';

my $t = Convotic::Test->new;
my $up = $t->upstream;
my $limit = 0;


sub metrics { return $_[0]->get('/status')->json }


sub body {
    my ($n, $version) = @_;

    return contacts_body(workspace => 'acme', limit => $n, version => $version);
}


sub send_to {
    my ($conn, $n, $key) = @_;

    $conn->write(Convotic::HTTP::request_text("/v1/contacts?limit=$n", {},
                                              'X-API-Key' => $key));

    return $conn;
}


# A query that nobody has asked yet; what is held is answered on release.

sub cold {
    $up->reset;
    $up->set(hold => 1, version => 1, status => 200, headers => []);

    return ++$limit;
}


sub wait_for {
    my ($sub, $name) = @_;

    return ok(wait_until($sub, BACK), $name);
}


sub release_all {
    $up->set(hold => 0);

    return $up->release;
}


# No waiting for a fetch.

my $redis = $t->redis;
my $fake = $t->fake_redis(behind => $redis);

{
    my $name = 'convotic_cache_lock_timeout 0';
    my $g = $t->gateway(redis => $redis, upstream => $up, server => $STATUS,
        http => "$PATIENT convotic_cache_lock_timeout 0;");
    my $n = cold();
    my @conns = map { send_to($g->connect, $n, $g->key) } 1 .. 3;

    wait_for(sub { $up->count == 3 }, "$name: each asks for itself");
    is(metrics($g)->{waiting}, 0, "$name: nobody waits");
    is(release_all(), 3, "$name: all are held");
    success_is($_->read, body($n), "$name: served") for @conns;
    success_is($g->contacts("limit=$n"), body($n), "$name: and stored");
    is($up->count, 3, "$name: nobody asks again");
    $g->stop;
}


# Two workers: of what one of them renews, the other serves the copy.

{
    my $name = 'renewed by another worker';
    my $g = $t->gateway(
        redis => $redis, upstream => $up, workers => 2,
        server => Convotic::Workers::server_conf(), http => $PATIENT,
        location => 'convotic_cache_valid 100ms;');
    my $workers = Convotic::Workers->new($g);
    my ($one, $two) = $workers->pids;
    my $n = cold();

    release_all();
    $workers->ask($_, "limit=$n") for $one, $two;
    sleep 0.2;
    $up->reset;
    $up->set(hold => 1, version => 2);
    success_is($workers->ask($one, "limit=$n"), body($n, 1),
               "$name: the copy, where it is renewed");
    wait_for(sub { $up->count == 1 }, "$name: it is asked for");

    my $res = $workers->ask($two, "limit=$n");

    success_is($res, body($n, 1), "$name: the copy, where it is not");
    like($res->header('Cache-Status'), qr/; detail=updating\z/,
         "$name: it says so");
    is($up->count, 1, "$name: one asks the upstream");
    release_all();
    ok($workers->all_see(sub { $_[0]->body eq body($n, 2) }, BACK, "limit=$n"),
       "$name: both have it then");
    $g->stop;
}


# Purged while it was waited for, and for too long: what is fetched then is for
# the new generation, and the lateness of the old one is nothing to it.

{
    my $name = 'purged, then late';
    my $g = $t->gateway(redis => $redis, upstream => $up, server => $STATUS,
        http => $PATIENT, location => 'convotic_cache_lock_timeout 500ms;');
    my $n = cold();
    my $first = send_to($g->connect, $n, $g->key);

    wait_for(sub { $up->count == 1 }, "$name: one leads");

    my @late = map { send_to($g->connect, $n, $g->key) } 1 .. 3;
    my $before = metrics($g)->{invalidations}{generation};

    wait_for(sub { metrics($g)->{waiting} == 3 }, "$name: the others wait");
    $up->set(version => 2);
    $redis->purge('acme');
    wait_for(sub { metrics($g)->{invalidations}{generation} > $before },
             "$name: purged");
    wait_for(sub { metrics($g)->{waits}{late} }, "$name: one goes on");
    wait_for(sub { $up->count == 2 }, "$name: to the upstream");
    wait_for(sub { metrics($g)->{waits}{refused} == 2 },
             "$name: the others are refused");
    release_all();
    is($first->read->status, 200, "$name: who led");

    my @all = map { $_->read } @late;

    is_deeply([ sort map { $_->status } @all ], [ 200, 503, 503 ],
              "$name: who was late");
    is_deeply([ map { $_->body eq body($n, 2) ? 'new' : 'old' }
                grep { $_->status == 200 } @all ], [ 'new' ],
              "$name: what came after the purge");
    success_is($g->contacts("limit=$n"), body($n, 2),
               "$name: as for all later");
    $g->stop;
}


# Another node has the lease; the client leaves between two questions for it.

{
    my $name = 'leaves while another node fetches';
    my $g = $t->gateway(
        redis => $fake, store => $redis, upstream => $up, server => $STATUS,
        http => $PATIENT, location => 'convotic_cache_lock_timeout 60s;');
    my $n = cold();

    release_all();
    $fake->script('SET convotic:lock' => "\$-1\r\n");

    my $conn = send_to($g->connect, $n, $g->key);
    my $asked = sub { return $fake->count('SET convotic:lock') };

    wait_for(sub { $asked->() >= DENIED }, "$name: it is asked for again");
    $conn->reset;
    wait_for(sub { $g->access_log =~ / 499 / }, "$name: it is gone");

    my $count = $asked->();

    sleep NEVER;
    is($asked->(), $count, "$name: nobody asks any more");
    is($fake->count('EVAL'), 0,
       "$name: a lease that it did not have is not given back");
    is($up->count, 0, "$name: the upstream was not asked");
    $fake->clear;
    success_is($g->contacts("limit=$n"), body($n),
               "$name: the next one is served");
    is($up->count, 1, "$name: by one fetch");
    $g->stop;
}


$t->finish;
