#!/usr/bin/perl

# The zone is given another size, again and again, by reloads under load.  What
# was known is not known any more, and nobody notices: no request fails, no
# change is missed, no key gets more than its rate, and nothing is left of the
# zones that were.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep time);

use constant {
    SIZES   => 8,               # reloads
    WARM    => 2,               # of them, before memory is looked at
    CLIENTS => 3,
    WORKERS => 2,
    KEYS    => 20,
    RATE    => 300,             # of one key that asks all the time
    GROWTH  => 2048,            # KB that the master may grow in all the others
    BACK    => 15,              # seconds until something has happened, at most
};

my @SIZE = qw(1m 3m 2m 4m);
my $HTTP = 'convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;'
         . 'convotic_key_valid 1h; convotic_cache_valid 1h;'
         . 'convotic_rate 1000000;';

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis;
my $up = $t->upstream;
my $nginx = $t->gateway(
    redis => $redis, upstream => $up, workers => WORKERS, log_level => 'notice',
    http => "convotic_zone $SIZE[0]; $HTTP",
    server => Convotic::Workers::server_conf(),
);
my @keys = map { $redis->add_key(test_key("key $_"), workspace => 'w' . $_ % 4) }
    0 .. KEYS - 1;
my $limited = $redis->add_key(test_key('limited'), workspace => 'acme',
                              rate => RATE);
my $revoked = $redis->add_key(test_key('revoked'), workspace => 'acme');


sub metrics { return $nginx->get('/status')->json }


# Shared memory and files of the master: zones that are gone are not mapped.

sub kilobytes {
    return Convotic::HTTP::_slurp('/proc/' . $nginx->pid . '/status')
           =~ /^VmRSS:\s*(\d+) kB/m ? $1 : 0;
}

sub zones {
    return scalar grep { /\brw-s\b.* (?:\/dev\/zero|\/SYSV|\/memfd)/ }
        split /\n/, Convotic::HTTP::_slurp('/proc/' . $nginx->pid . '/maps');
}


ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');

my $zones = zones();

cmp_ok($zones, '>', 0, 'the zone is mapped');

my @clients = map {
    background(sub {
        my ($go) = @_;

        return $nginx->load($go,
            requests => [ map {
                [ '/v1/contacts?limit=3', 'X-API-Key' => $keys[$_] ]
            } 0 .. $#keys ],
            check => sub {
                my ($res, $i) = @_;

                return 'status ' . $res->status if $res->status != 200;
                return 'the body of another' if $res->body
                    ne contacts_body(workspace => 'w' . $i % 4, limit => 3);
                return 'no rate' unless
                    ($res->header('X-RateLimit-Remaining') || 0) > 0;
                return;
            });
    });
} 1 .. CLIENTS;

# One key asks for more than it may; its window lasts longer than this test.

my $greedy = background(sub {
    my ($go) = @_;

    return $nginx->load(sub { sleep 0.002; $go->() },
        requests => [ [ '/v1/contacts?limit=3', 'X-API-Key' => $limited ] ],
        check => sub { $_[0]->status });
});

my (@missed, %kilobytes);

for my $turn (1 .. SIZES) {
    my $size = $SIZE[ $turn % @SIZE ];

    push @missed, "reload to $size"
        unless $nginx->reload(http => "convotic_zone $size; $HTTP",
                              gone => $turn == WARM || $turn == SIZES);

    # whichever zone it was that had the key

    $redis->set_key($revoked, status => $turn % 2 ? 'revoked' : 'active');

    my $expected = $turn % 2 ? 401 : 200;

    push @missed, "change $turn" unless wait_until(sub {
        4 == grep { $nginx->contacts('limit=3', 'X-API-Key' => $revoked)->status
                    == $expected } 1 .. 4;
    }, BACK);

    $kilobytes{$turn} = kilobytes();
}

my @sums = map { $_->end->result } @clients;
my $sum = $greedy->end->result;
my %status;

$status{$_}++ for @{ $sum->{faults} };

my @faults = map { @{ $_->{faults} } } @sums;

is_deeply(\@missed, [], SIZES . ' sizes: every change is seen');
is_deeply(\@faults, [], 'and no request has failed');
cmp_ok($_->{count}, '>', SIZES, 'there were enough of them') for @sums;

is_deeply([ grep { !/^(?:200|429)\z/ } keys %status ], [],
          'a limited key: served or refused');
cmp_ok($status{200}, '<=', RATE, 'a limited key: never more than its rate');
note("a limited key: $sum->{count} requests, $status{200} served, of " . RATE);

ok(wait_until(sub { !$nginx->old_workers }, BACK), 'no old worker stays');
is(zones(), $zones, 'no zone is left behind');

SKIP: {
    skip 'a sanitizer keeps what was freed', 1 if $ENV{ASAN_OPTIONS};
    cmp_ok($kilobytes{+SIZES} - $kilobytes{+WARM}, '<', GROWTH,
           'the master does not grow');
}

my $workers = Convotic::Workers->new($nginx);

ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');
ok(wait_until(sub { my @pids = keys %{ Convotic::Workers::trackers($redis) };
                    @pids == 1 && grep { $_ == $pids[0] } $workers->pids }, BACK),
   'by one worker that is there');

$workers->ask_each('limit=3', $_) for @keys;
my $asked = $redis->calls('hgetall');
$workers->ask_each('limit=3', $_) for @keys;
is($redis->calls('hgetall'), $asked, 'all keys are known');

# Too small a one is refused, and the one that is there goes on.

$t->allow_log(qr/\[emerg\].*convotic_zone/);
ok(!$nginx->reload(http => "convotic_zone 8k; $HTTP"), 'too small: refused');
is($_->status, 200, 'too small: and all go on')
    for $workers->ask_each('limit=3', $keys[0]);
is($redis->calls('hgetall'), $asked, 'too small: knowing what they knew');

$t->finish;
