#!/usr/bin/perl

# What one worker cannot ask is not kept from the others: one of two has lost its
# way to Redis, and the other one leases as ever.  And a question that fails is
# put again: a rate that was reset meanwhile begins anew as soon as Redis is back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep);

use constant {
    BACK => 15,                 # seconds until something has happened, at most
    KEYS => 20,
    RATE => 5,
    REST => 30,                 # seconds of a window that are enough
};

my $MS = 200 * $Convotic::Process::FACTOR;

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis;
my $up = $t->upstream;
my @keys = map { test_key("key$_") } 1 .. KEYS;
my $few = test_key('few');


sub scene {
    my ($name, $workers) = @_;

    my $proxy = $t->byte_proxy(to => $redis);
    my $nginx = $t->nginx(
        name => $name, redis => $proxy, upstream => $up, key => $few,
        workers => $workers, server => Convotic::Workers::server_conf(),
        http => <<"EOC");
    convotic_redis %%REDIS%% connect_timeout=${MS}ms timeout=${MS}ms;
    convotic_key_valid 1h;
    convotic_cache_valid 1h;
EOC
    my $on = Convotic::Workers->new($nginx);

    ok(wait_until(sub { $on->status->{tracking_confirmed} }, BACK),
       "$name: tracked");

    return ($proxy, $nginx, $on);
}

$redis->init;
$redis->add_key($_, workspace => 'acme', rate => 1000) for @keys;
$redis->add_key($few, workspace => 'acme', id => 'key_few', rate => RATE);


# A worker that has lost its way.  Its keys are known, and no lease of any.

{
    my ($proxy, $nginx, $on) = scene('two', 2);
    my ($lost, $other) = $on->pids;

    for my $key (@keys) {
        $on->ask($lost, 'limit=2', $key);
        $redis->cmd('DEL', $redis->rate_name($key));
    }

    my ($few_lost) = grep { $_->status == 200 } $on->ask($lost, 'limit=2', $few);

    ok($few_lost, 'one more key');
    $proxy->swallow('both', only => "ngx_convotic-$lost\\r");
    $proxy->drop("ngx_convotic-$lost\\r");
    ok(wait_until(sub { $on->status->{redis_away}{keys} == 1 }, BACK),
       'one worker has no Redis');

    my $before = $on->status;
    my $missed = 0;

    # Each key is asked of both, the lost one first, until its lease is spent.

    for my $key (@keys) {
        for my $turn (1 .. 3) {
            $on->ask($lost, 'limit=2', $key);
            $missed++ if $on->ask($other, 'limit=2', $key)->status != 200;
        }
    }

    my $now = $on->status;

    is($missed, 0, 'all are served by the other one');
    cmp_ok($now->{rate_leases}{granted}, '>=', $before->{rate_leases}{granted} + KEYS,
           'which leases of each key');
    $proxy->clear;
    ok(wait_until(sub { $on->status->{redis_away}{keys} == 0 }, BACK), 'back');
    $nginx->stop;
}


# A reset, and a question about it that nobody answers.

{
    my ($proxy, $nginx) = scene('one', 1);
    my $ask = sub { return $nginx->contacts('limit=2') };
    my ($res, $rest);

    # Used up, with much of the window to come: it is the window's own 429.

    ok(wait_until(sub {
        $res = $ask->();
        $rest = $res->status == 429 ? $res->header('Retry-After') : 0;
        $rest >= REST;
    }, 2 * 60), 'the rate is used up');

    # The node is told of the reset, and its commands are not answered.

    $proxy->swallow('down', only => 'ngx_convotic-\\d+\\r');
    is($t->ctl('rate', 'reset', 'key_few', '--redis', $redis->url)->{exit}, 0,
       'it is reset');
    $res = $ask->();
    isnt($res->status, 401, 'nobody answers: ' . $res->status);
    $proxy->clear;
    ok(wait_until(sub { $ask->()->status == 200 }, BACK),
       'and then it begins anew, in the same window');
}

$t->finish;
