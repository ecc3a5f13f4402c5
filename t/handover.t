#!/usr/bin/perl

# Workers come and go, and the node goes on listening: at a reload the new
# worker is confirmed before the old one ceases, so that what is known stays
# known and no change is missed; with nobody to follow an end is prompt; two
# masters during an upgrade each listen for themselves.
#
# What is known of keys lives for an hour here, so that a change which nobody
# heard of would not be seen at all.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep time);

use constant {
    BACK    => 10,              # seconds until something has happened, at most
    RELOADS => 10,
    CLIENTS => 2,
    STOP    => 3,               # seconds for an end that nobody waits for
    STAMP   => 2,               # seconds that the word of a holder counts
};

my $HTTP = 'convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;'
         . 'convotic_key_valid 1h; convotic_cache_valid 1h;';

my $t = Convotic::Test->new;
my $up = $t->upstream;
my $version = 1;


sub gateway {
    my (%arg) = @_;

    return $t->gateway(workers => 2, upstream => $up, http => $HTTP,
                       server => Convotic::Workers::server_conf(), %arg);
}


sub confirmed_ok {
    my ($workers, $name) = @_;

    ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK),
       "$name: tracking is confirmed");

    return;
}


# The one connection that tracks is a new worker's.

sub handed_ok {
    my ($redis, $nginx, $name) = @_;

    my %now = map { $_ => 1 } $nginx->workers;

    ok(wait_until(sub {
           my @pids = keys %{ Convotic::Workers::trackers($redis) };
           @pids == 1 && $now{ $pids[0] };
       }, BACK), "$name: a new worker tracks");

    return;
}


sub is_new {
    my $body = contacts_body(workspace => 'acme', limit => 2,
                             version => $version);

    return sub { $_[0]->status == 200 && $_[0]->body eq $body };
}


sub purge {
    my ($redis) = @_;

    $up->set(version => ++$version);
    $redis->purge('acme');

    return;
}


# A reload leaves what is known as it is.

for my $count (1, 2) {
    my $redis = $t->redis("known_by_$count");
    my $nginx = gateway(redis => $redis, workers => $count);
    my $workers = Convotic::Workers->new($nginx);
    my $name = "$count of a kind";

    confirmed_ok($workers, $name);

    my @key = map { test_key("known $_") } 1 .. 20;
    $redis->add_key($_, workspace => 'acme') for @key;
    $workers->ask_each('limit=2', $_) for @key;

    my $before = $redis->calls('hgetall');

    for my $round (1 .. 3) {
        ok($nginx->reload(gone => 1), "$name: reload $round");
        handed_ok($redis, $nginx, "$name, reload $round");

        $workers = Convotic::Workers->new($nginx);
        is_deeply([ map { $_->status } map { $workers->ask_each('limit=2', $_) }
                    @key ], [ (200) x (@key * $count) ],
                  "$name, reload $round: all keys");
    }

    is($redis->calls('hgetall'), $before, "$name: no key was asked for again");
    is_deeply($workers->status->{tracking}, { confirmed => 1, lost => 0 },
              "$name: nothing was begun anew");

    $redis->set_key($key[0], status => 'revoked');
    ok($workers->all_see(sub { $_[0]->status == 401 }, BACK, 'limit=2',
                         $key[0]), "$name: a key is revoked: seen by every worker");
    purge($redis);
    ok($workers->all_see(is_new(), BACK, 'limit=2', $key[1]),
       "$name: a purge: seen by every worker");
    $nginx->stop;
}


# Changes at any moment of a reload, under load.

{
    my $redis = $t->redis('load');
    my $nginx = gateway(redis => $redis);
    my $key = $nginx->key;
    my $other = $redis->add_key(test_key('other'), workspace => 'other');

    confirmed_ok(Convotic::Workers->new($nginx), 'load');

    my @jobs = map {
        background(sub {
            my ($go) = @_;

            return $nginx->load($go, requests => [
                map { [ "/v1/contacts?limit=$_", 'X-API-Key' => $other ] }
                    1 .. 5
            ], check => sub { $_[0]->status == 200 ? '' : $_[0]->status });
        });
    } 1 .. CLIENTS;

    my @missed;

    my $all_see = sub {
        my ($sub) = @_;

        return wait_until(sub {
            4 == grep { $sub->($_) } map { $nginx->contacts('limit=2') } 1 .. 4;
        }, BACK);
    };

    for my $round (1 .. RELOADS) {
        $nginx->contacts('limit=2') for 1 .. 4;

        my %old = map { $_ => 1 } $nginx->workers;
        $nginx->signal('HUP');
        sleep rand() * 0.3;

        $redis->set_key($key, status => 'revoked');
        $all_see->(sub { $_[0]->status == 401 })
            or push @missed, "a revoked key, round $round";

        $redis->set_key($key, status => 'active');
        purge($redis);
        $all_see->(is_new())
            or push @missed, "a purge, round $round";

        wait_until(sub { my @now = $nginx->workers;
                         @now == 2 && !grep { $old{$_} } @now }, BACK);
    }

    my @sums = map { $_->end->result } @jobs;
    my @faults = map { @{ $_->{faults} } } @sums;

    is_deeply(\@missed, [], RELOADS . ' reloads: every change is seen');
    is_deeply(\@faults, [], 'and no request has failed');
    cmp_ok($_->{count}, '>', RELOADS, 'there were enough of them') for @sums;

    ok(wait_until(sub { !$nginx->old_workers }, BACK), 'no old worker stays');
    handed_ok($redis, $nginx, 'in the end');

    my $workers = Convotic::Workers->new($nginx);
    purge($redis);
    ok($workers->all_see(is_new(), BACK, 'limit=2'), 'in the end: a purge');

    # Nobody follows.

    my $start = time();
    ok($nginx->stop, 'an end');
    cmp_ok(time() - $start, '<', STOP * $Convotic::Process::FACTOR,
           'it does not wait for somebody to follow');
    is_deeply(Convotic::Workers::trackers($redis), {}, 'nobody tracks then');
}


# The one that hands over stands still before the other one is confirmed: what
# was told to it alone has been heard by nobody.

{
    my $redis = $t->redis('stopped');
    my $proxy = $t->byte_proxy(to => $redis);
    my $nginx = gateway(redis => $proxy, store => $redis, workers => 1);
    my $workers = Convotic::Workers->new($nginx);
    my ($old) = $workers->pids;

    confirmed_ok($workers, 'stopped');
    is($_->status, 200, 'stopped: the key is known')
        for $workers->ask_each('limit=2');

    my $accepted = $proxy->counters->{accepted};

    # the new worker connects, and nobody answers it yet

    $proxy->delay(0.5, 'down', only => '\A(?s)(?!.*SUBSCRIBE)');
    ok($nginx->reload, 'stopped: a reload');
    wait_until(sub { $proxy->counters->{accepted} >= $accepted + 2 }, BACK);
    kill 'STOP', $old;
    my $stopped = time();
    $redis->set_key($nginx->key, status => 'revoked');
    $proxy->clear;

    my ($new) = $nginx->workers;
    ok(wait_until(sub { Convotic::Workers::trackers($redis)->{$new} }, BACK),
       'stopped: the new worker tracks');

    # later than this, it is the new one who says that all is told; nobody asks
    # for the key before, for that alone could have it read again

    my $now = Convotic::Workers->new($nginx, $new);
    ok(wait_until(sub { time() > $stopped + STAMP
                        && $now->status->{tracking_confirmed} }, BACK),
       'stopped: tracking is confirmed by the new worker');
    is(($now->ask_each('limit=2'))[0]->status, 401,
       'stopped: a change that only the old worker was told of');

    kill 'CONT', $old;
    ok(wait_until(sub { !$nginx->old_workers }, BACK), 'it ends as well');
    $nginx->stop;
}


# A reload to another server of keys.

{
    my ($one, $two) = map { $t->redis("server_$_") } 1, 2;
    my $nginx = gateway(redis => $one, workers => 1);

    confirmed_ok(Convotic::Workers->new($nginx), 'another server');
    $nginx->contacts('limit=2');

    $two->init;
    $two->add_key($nginx->key, workspace => 'acme');
    ok($nginx->reload(redis => $two, gone => 1), 'another server: a reload');
    handed_ok($two, $nginx, 'another server');

    my $workers = Convotic::Workers->new($nginx);
    confirmed_ok($workers, 'another server');
    $workers->ask_each('limit=2');

    my $before = $two->calls('hgetall');
    my $until = time() + 1.2;
    $workers->ask_each('limit=2') while time() < $until;
    is($two->calls('hgetall'), $before,
       'another server: what is known is believed for longer than a second');

    purge($two);
    ok($workers->all_see(is_new(), BACK, 'limit=2'), 'another server: a purge');
    $nginx->stop;
}


# Another binary: two masters, two zones, two connections.

{
    my $redis = $t->redis('upgrade');
    my $nginx = gateway(redis => $redis, daemon => 1);
    my $workers = Convotic::Workers->new($nginx);
    my $master = $nginx->pid_of_file;

    confirmed_ok($workers, 'upgrade');
    $workers->ask_each('limit=2');

    kill 'USR2', $master;
    ok(wait_until(sub { $nginx->workers == 4
                        && $nginx->pid_of_file('.oldbin') }, BACK),
       'upgrade: two workers of each binary');
    ok(wait_until(sub { keys %{ Convotic::Workers::trackers($redis) } == 2 },
                  BACK), 'upgrade: one of each tracks');

    my @old = $workers->pids;
    my $all = Convotic::Workers->new($nginx);
    is(scalar(my @all = $all->pids), 4, 'upgrade: all four answer');

    for my $round (1 .. 5) {
        purge($redis);
        ok($all->all_see(is_new(), BACK, 'limit=2'),
           "upgrade: a purge is seen by all four, round $round");
    }

    $redis->set_key($nginx->key, status => 'revoked');
    ok($all->all_see(sub { $_[0]->status == 401 }, BACK, 'limit=2'),
       'upgrade: so is a revoked key');
    $redis->set_key($nginx->key, status => 'active');

    $all->forget(@old);
    kill 'QUIT', $master;
    purge($redis);
    ok($all->all_see(is_new(), BACK, 'limit=2'),
       'upgrade: a purge while the old binary ends');
    ok(wait_until(sub { $nginx->workers == 2 && !$nginx->old_workers }, BACK),
       'upgrade: the old binary has ended');
    handed_ok($redis, $nginx, 'upgrade');
    is($all->status->{tracking}{lost}, 0, 'upgrade: nothing was lost');
    purge($redis);
    ok($all->all_see(is_new(), BACK, 'limit=2'), 'upgrade: a purge afterwards');
}

$t->finish;
