#!/usr/bin/perl

# The rate of a key's own record, in place of convotic_rate: what it may be,
# and that a change counts from the first request on that comes after it was
# told of; what was used in the window stays used.  What is no rate at all is
# in key.t.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant BACK => 15;        # seconds until something has happened, at most

my $t = Convotic::Test->new(rates => 1);
my $g = $t->gateway(
    http => 'convotic_key_valid 1h; convotic_key_invalid 1h;'
            . 'convotic_cache_valid 1h;',
    server => <<'END',
    location = /status { convotic_status json; }
    location = /small { convotic on; convotic_rate 5;
                        proxy_pass http://contacts; }
    location = /large { convotic on; convotic_rate 20;
                        proxy_pass http://contacts; }
    location = /off { convotic on; convotic_rate off;
                      proxy_pass http://contacts; }
END
);
my $redis = $g->redis;
my $n = 0;


sub metrics { return $g->get('/status')->json }

sub new_key { return $redis->add_key(test_key('key ' . ++$n), @_) }

sub ask {
    my ($key, $path) = @_;

    return $g->get(($path || '/v1/contacts') . '?limit=2', 'X-API-Key' => $key);
}


# The status, the limit and what is left.

sub told {
    my ($res) = @_;

    return join ' ', $res->status, map {
        my @values = $res->header($_);
        @values ? join ',', @values : '-';
    } qw(X-RateLimit-Limit X-RateLimit-Remaining);
}


sub told_is {
    my ($key, $expected, $name, $path) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return is(told(ask($key, $path)), $expected, "$name: $expected");
}


# Writes the record, and returns when the gateway has been told.

sub change {
    my ($key, %field) = @_;

    my $before = metrics()->{invalidations}{key};

    $redis->set_key($key, %field);
    wait_until(sub { metrics()->{invalidations}{key} > $before }, BACK)
        or die "nobody was told\n";

    return;
}


ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK),
   'tracking is confirmed');


# What a record may say.

for my $rate (1, 2, 999, 1001, 1_000_000, 1_000_000_000) {
    told_is(new_key(rate => $rate), "200 $rate " . ($rate - 1), 'a new key');
}

told_is(new_key(rate => '0010'), '200 10 9', 'zeroes before it');
told_is(new_key(), '200 1000 999', 'none');

{
    my $key = new_key(rate => 1);

    told_is($key, '200 1 0', 'one a minute');
    told_is($key, '429 1 0', 'one a minute, refused') for 1 .. 3;
}


# A change, while the key is in use.

{
    my $key = new_key(rate => 10);

    told_is($key, "200 10 $_", 'ten') for reverse 4 .. 9;       # 6 are used

    my @steps = (
        [ 20, '200 20 13', '200 20 12' ],               # 8
        [ 12, '200 12 3', '200 12 2' ],                 # 10
        [ 1_000_000, '200 1000000 999989' ],            # 11
        [ 12, '200 12 0', '429 12 0', '429 12 0' ],     # 12
        [ 3, '429 3 0', '429 3 0' ],
        [ 11, '429 11 0' ],
        [ 14, '200 14 1', '200 14 0', '429 14 0' ],     # 14
        [ undef, '200 1000 985', '200 1000 984' ],      # 16
        [ 1, '429 1 0' ],
        [ undef, '200 1000 983' ],                      # 17
        [ 17, '429 17 0' ],
        [ 18, '200 18 0', '429 18 0' ],                 # 18
    );

    for my $step (@steps) {
        my ($rate, @expected) = @$step;
        my $name = 'now ' . (defined $rate ? $rate : 'none');

        change($key, rate => $rate);
        told_is($key, $_, $name) for @expected;
    }
}


# What is no rate refuses the key, as any malformed record does, and is no
# window of its own.

{
    my $key = new_key(rate => 10);

    told_is($key, "200 10 $_", 'before') for 9, 8;

    for my $rate (0, -1, 'NaN', '1e3', '10.5', '', ' ', ' 10', '0xA', '1_000',
                  10_000_000_000, 1_000_000_001, 'off', 'unlimited')
    {
        my $before = metrics()->{malformed_records};

        change($key, rate => $rate);

        my $res = ask($key);

        error_is($res, 401, 'UNAUTHORIZED', 'Invalid API key', "now '$rate'");
        is(told($res), '401 - -', "now '$rate': nothing of a rate");
        error_is(ask($key, '/off'), 401, 'UNAUTHORIZED', 'Invalid API key',
                 "now '$rate': even where there is none");
        is(metrics()->{malformed_records} - $before, 1,
           "now '$rate': counted, and known from then on");
    }

    change($key, rate => 10);
    told_is($key, '200 10 7', 'a good one again');
}


# Anything else in the record may change, and the rate is what it was.

{
    my $key = new_key(rate => 3);

    told_is($key, '200 3 2', 'another field');
    change($key, name => 'another name');
    told_is($key, '200 3 1', 'another field');
    change($key, workspace => 'beta');
    told_is($key, '200 3 0', 'another workspace');
    change($key, name => 'a third');
    told_is($key, '429 3 0', 'another field');
    change($key, status => 'revoked');
    told_is($key, '401 - -', 'revoked');
    change($key, status => 'active');
    told_is($key, '429 3 0', 'active again');
    $redis->del_key($key);
    ok(wait_until(sub { ask($key)->status == 401 }, BACK), 'deleted');
    $redis->add_key($key, rate => 3);
    ok(wait_until(sub { ask($key)->status != 401 }, BACK), 'added again');
    told_is($key, '429 3 0', 'added again');
}


# The count is the key's, whichever location it is that asks.

{
    my $key = new_key();

    told_is($key, "200 20 $_", 'large', '/large') for 19, 18, 17;
    told_is($key, '200 5 1', 'small', '/small');
    told_is($key, '200 1000 995', 'the default');
    told_is($key, '429 5 0', 'small', '/small');
    told_is($key, '200 20 14', 'large', '/large');
    told_is($key, '429 5 0', 'small', '/small');
    told_is($key, '200 - -', 'off', '/off') for 1 .. 30;
    told_is($key, "200 20 $_", 'large', '/large') for reverse 0 .. 13;
    told_is($key, '429 20 0', 'large', '/large');
    told_is($key, '200 1000 979', 'the default');

    change($key, rate => 22);
    told_is($key, '200 22 0', 'its own, at the small one', '/small');
    told_is($key, '429 22 0', 'its own, at the large one', '/large');
    told_is($key, '429 22 0', 'its own');
    change($key, rate => undef);
    told_is($key, '429 5 0', 'its own no more', '/small');
    told_is($key, '200 1000 977', 'its own no more');
}

# Two keys of one workspace share nothing.

{
    my @keys = map { new_key(rate => 2, workspace => 'acme') } 1, 2;

    told_is($keys[0], "200 2 $_", 'one key') for 1, 0;
    told_is($keys[0], '429 2 0', 'one key');
    told_is($keys[1], "200 2 $_", 'another one') for 1, 0;
    told_is($keys[1], '429 2 0', 'another one');
}

$t->finish;
