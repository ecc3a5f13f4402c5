#!/usr/bin/perl

# The window of a minute, waited for once, by all that follows side by side:
# it ends, whoever was told to wait is served then, the next one has the whole
# allowance and begins with the request that opens it.  Redis never keeps it
# for longer, whatever somebody did to the value.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(sleep time);

use constant {
    WINDOW   => 60,             # seconds
    WAITERS  => 12,             # clients that wait for their own windows
    APART    => 0.09,           # seconds between their beginnings
    SOME     => 3.7,            # at most, between two refusals of one
    LATE     => 0.3,            # of an answer of Redis
    SAMPLE   => 0.5,            # seconds between two looks
    TICK     => 0.05,           # by which two clocks may differ
    BACK     => 15,             # until something has happened, at most
};

my @NAMES = qw(X-RateLimit-Limit X-RateLimit-Remaining);

my $t = Convotic::Test->new(rates => 1);
my $g = $t->gateway(
    workers => 2,
    http => 'convotic_key_valid 1h; convotic_cache_valid 1h;'
            . 'convotic_rate_headers both;',
    server => 'location = /status { convotic_status json; }',
);
my $redis = $g->redis;
my $n = 0;

my ($spent, $half, $alone, $kept, $busy) =
    map { new_key(rate => $_) } 3, 40, 5, 3, 1_000_000;


sub metrics { return $g->get('/status')->json }

sub new_key { return $redis->add_key(test_key('key ' . ++$n), @_) }

sub name_of { return $redis->rate_name($_[0]) }

sub ask { return $g->contacts('limit=2', 'X-API-Key' => $_[0]) }


sub told {
    my ($res) = @_;

    return join ' ', map { defined $_ ? $_ : '-' }
        $res->status, map { scalar $res->header($_) } @NAMES;
}


sub told_is {
    my ($key, $expected, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return is(told(ask($key)), $expected, "$name: $expected");
}


# The server's clock, in us; a value of now, with its end in so many ms.

sub now_us {
    my ($s, $us) = @{ $redis->cmd('TIME') };

    return $s * 1_000_000 + $us;
}


sub value_of {
    my ($end, $used, $id) = @_;

    my $now = now_us();

    return join ' ', $id || $now, int($now / 1000) + $end, $used, 0, 0, '-';
}


# What is wrong with the expiries: one has none, or too late a one.  What is
# gone meanwhile had one.

sub expiry_faults {
    my %left = map { $_ => $redis->cmd('PTTL', $_) }
        grep { $_ ne name_of($kept) } $redis->names('convotic:rate:v1:*');

    return map { "$_: $left{$_} ms" }
        grep { $left{$_} != -2 && ($left{$_} < 0
                                   || $left{$_} > 1000 * WINDOW) }
        sort keys %left;
}


ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK),
   'tracking is confirmed');


# Clients that use up what they have, ask now and then, and wait as they are
# told, to the millisecond.

sub wait_as_told {
    my ($res) = @_;

    my $until = time() + ($res->header('Retry-After') || 0);

    while ((my $rest = $until - time()) > 0) {
        sleep $rest;
    }

    return $res->header('Retry-After');
}

my @waiters = map {
    my $i = $_;
    my $key = new_key(rate => 1 + $i % 3);

    background(sub {
        my ($last, @seen);

        sleep APART * $i;
        push @seen, ask($key)->status for 0 .. $i % 3;

        # some take the first refusal's word, others a later one's

        for my $turn (0 .. $i % 4) {
            sleep rand SOME if $turn;
            $last = ask($key);
            push @seen, $last->status;
        }

        return { after => wait_as_told($last), before => "@seen",
                 told => told(ask($key)) };
    });
} 0 .. WAITERS - 1;


# One that is refused as soon as the window has begun, and is back as soon as it
# may be.

my $prompt = do {
    my @ask = ('/v1/contacts?limit=2', 'X-API-Key' => new_key(rate => 1));

    background(sub {
        my $conn = $g->connect;
        my @first = map { $conn->get(@ask) } 1, 2;

        return { before => join(' ', map { $_->status } @first),
                 after => wait_as_told($first[1]),
                 told => told($conn->get(@ask)) };
    });
};


# A node that hears late of a window's beginning takes it to end as late, and
# must not refuse for so long who has waited as another node has told it.

my $fake = $t->fake_redis(behind => $redis);
my $late = $t->nginx(redis => $fake, upstream => $g->upstream, key => 'none',
                     http => 'convotic_key_valid 1h;');

$fake->script('EVALSHA' => { pass => 1, delay => LATE });

my $elsewhere = do {
    my @key = ('X-API-Key' => new_key(rate => 1));

    is(told($late->contacts('limit=2', @key)), '200 1 0',
       'told elsewhere: the first one');

    my ($end) = $redis->cmd('GET', name_of($key[1])) =~ /^\d+ (\d+) /;

    background(sub {

        # what is left is a little less than whole seconds, and is rounded up

        my $left = $end / 1000 - time() + LATE / 5;

        sleep $left - int $left;

        my $res = $g->contacts('limit=2', @key);

        return { before => $res->status, after => wait_as_told($res),
                 told => told($late->contacts('limit=2', @key)) };
    });
};


# Windows that are opened now: one used up, one of which half is used, one
# that is left alone, and one that somebody keeps from ending.

told_is($spent, "200 3 $_", 'used up') for 2, 1, 0;
told_is($spent, '429 3 0', 'used up');
told_is($half, "200 40 $_", 'half of it') for reverse 20 .. 39;
told_is($alone, '200 5 4', 'left alone');
told_is($kept, '200 3 2', 'kept');
is($redis->cmd('PERSIST', name_of($kept)), 1, 'kept: there was an expiry');

my $first = $redis->cmd('GET', name_of($spent));

like($first, qr/^\d+ \d+ 3 0 0 \S+\z/, 'the value of one that is used up');
my $left = $redis->cmd('PTTL', name_of($spent));

ok($left > 0 && $left <= 1000 * WINDOW, 'it ends by itself') or diag($left);


# What somebody put in the place of a window.  Where the node knows nothing of
# the key, a new window begins; where it does, that goes on.

my %not_windows = (
    'nothing'        => '',
    'a word'         => 'x',
    'a number'       => '1000',
    'three numbers'  => '1 2 3',
    'seven numbers'  => '1 2 3 4 5 6 7',
    'words'          => 'a b c d e f',
    'a sign'         => '-1 2 3 0 0 -',
    'a fraction'     => '1.5 2 3 0 0 -',
    'an exponent'    => '1 1e30 3 0 0 -',
    'bytes'          => "\0\r\n\xff" x 20,
    'a lot'          => '1 ' x 50_000,
    'one long ended' => '1 2 3 0 0 -',
    'an early one'   => '0 0 0 0 0 0',
);

my %others = (
    list   => [ 'RPUSH', 1, 2, 3 ],
    hash   => [ 'HSET', 'used', 1 ],
    set    => [ 'SADD', 1 ],
    zset   => [ 'ZADD', 1, 'used' ],
    stream => [ 'XADD', '*', 'used', 1 ],
);

my %put = (
    map({ my $value = $not_windows{$_};
          ($_ => sub { $redis->cmd('SET', $_[0], $value) }) }
        keys %not_windows),
    map({ my ($command, @args) = @{ $others{$_} };
          ("a $_" => sub { $redis->cmd('DEL', $_[0]);
                           $redis->cmd($command, $_[0], @args) }) }
        keys %others),
    'nothing at all' => sub { $redis->cmd('DEL', $_[0]) },
);

my @repaired;


sub repaired_ok {
    my ($key, $expected, $name) = @_;

    told_is($key, $expected, $name);
    like($redis->cmd('GET', name_of($key)), qr/^\d+ \d+ \d+ \d+ \d+ \S+\z/,
         "$name: a window again");

    my $left = $redis->cmd('PTTL', name_of($key));

    ok($left > 0 && $left <= 1000 * WINDOW, "$name: which ends")
        or diag($left);
    push @repaired, $key;

    return;
}


for my $what (sort keys %put) {
    my ($new, $used) = map { new_key(rate => 10) } 1, 2;

    $put{$what}->(name_of($new));
    repaired_ok($new, '200 10 9', "$what, for a new one");

    told_is($used, '200 10 9', "$what, for a used one");
    $put{$what}->(name_of($used));
    repaired_ok($used, '200 10 8', "$what, for a used one");
}

# one that is kept, and its end is still to come

{
    my $key = new_key(rate => 10);
    my $name = 'kept, and used';

    told_is($key, '200 10 9', $name);

    my ($end) = $redis->cmd('GET', name_of($key)) =~ /^\d+ (\d+) /;

    $redis->cmd('PERSIST', name_of($key));
    is($redis->cmd('PTTL', name_of($key)), -1, "$name: it would not end");
    repaired_ok($key, '200 10 8', $name);
    like($redis->cmd('GET', name_of($key)), qr/^\d+ $end /,
         "$name: the end is what it was");
}

# The server's clock was set back by an hour: the end is far away.

{
    my ($new, $used, $other) = map { new_key(rate => 10) } 1 .. 3;
    my $hour = 3600 * 1000;

    $redis->cmd('SET', name_of($new), value_of($hour, 3), 'PX', $hour);
    repaired_ok($new, '200 10 6', 'an hour, for a new one');

    told_is($used, '200 10 9', 'an hour, for a used one');

    my ($id) = split / /, $redis->cmd('GET', name_of($used));

    $redis->cmd('SET', name_of($used), value_of($hour, 3, $id), 'PX', $hour);
    repaired_ok($used, '200 10 6', 'an hour, for a used one');

    # of another window: both count

    told_is($other, '200 10 9', 'an hour, of another');
    $redis->cmd('SET', name_of($other), value_of($hour, 3), 'PX', $hour);
    repaired_ok($other, '200 10 5', 'an hour, of another');
}


# Until the first of them ends: all that is in Redis ends by itself, and what
# clients are told counts down.

{
    my (@faults, %seen);
    my ($last, $turns) = (WINDOW, 0);

    while ($redis->cmd('PTTL', name_of($spent)) > 1000) {
        my $res = ask($spent);
        my $least = $redis->cmd('PTTL', name_of($spent)) / 1000;
        my $after = $res->header('Retry-After');

        $seen{ $res->status }++;
        last if $res->status != 429;

        my ($rest) = $res->header('RateLimit') =~ /;t=(\d+)\z/;

        push @faults, "t is $rest, not $after" if $rest != $after;
        push @faults, "$after after $last" if $after > $last;
        push @faults, "$after, and $least are left" if $after < $least - TICK;
        $last = $after;
        $turns++;

        ask($busy);

        push @faults, expiry_faults();
        sleep SAMPLE;
    }

    splice @faults, 5, @faults - 5, '...' if @faults > 5;
    is_deeply(\@faults, [], 'until it ends');
    is_deeply([ keys %seen ], [ 429 ], 'until then it is refused');
    cmp_ok($last, '<', WINDOW / 2, 'what is told counts down');
    cmp_ok($turns, '>', 1, 'more than once');
}


# It ends.  The gateway learnt of the end a little later than it was set, by
# as long as the answer took.

{
    my $res;

    ok(wait_until(sub { $redis->cmd('PTTL', name_of($spent)) == -2 }, BACK),
       'used up: it ends');
    ok(wait_until(sub { $res = ask($spent); $res->status == 200 }, BACK),
       'used up: and is admitted');
    is(told($res), '200 3 2', 'used up: all of it is there again');
    told_is($spent, "200 3 $_", 'used up: again') for 1, 0;
    told_is($spent, '429 3 0', 'used up: again');

    my ($old) = split / /, $first;
    my ($new) = split / /, $redis->cmd('GET', name_of($spent));

    cmp_ok($new, '>', $old, 'used up: another window');
    my $hex = $redis->rate_name($spent) =~ s/.*://r;

    my $said = () = $g->log_lines(
        qr/nothing is left of the rate of key \Q@{[ substr $hex, 0, 12 ]}\E/);
    my $more = metrics()->{tracking}{confirmed} - 1;

    # whenever tracking begins anew Redis is asked once more

    ok($said >= 2 && $said <= 2 + $more, 'used up: said once in each')
        or diag($said);
}

# What was left of a lease is not taken along.

{
    ok(wait_until(sub { $redis->cmd('PTTL', name_of($half)) == -2 }, BACK),
       'half of it: it ends');

    my %status;

    $status{ $_ ? told($_) =~ s/^(\d+) (\d+) .*/$1 $2/r : 'none' }++
        for $g->concurrent([ map { [ '/v1/contacts?limit=2',
                                     'X-API-Key' => $half ] } 1 .. 60 ]);

    is_deeply(\%status, { '200 40' => 40, '429 40' => 20 },
              'half of it: the whole of the next, and no more');
}

# What has no expiry is there still, and is over all the same.

{
    my $name = 'kept';
    my $old = $redis->cmd('GET', name_of($kept));
    my ($id, $end) = split / /, $old;

    is($redis->cmd('PTTL', name_of($kept)), -1, "$name: it is there still");
    ok(wait_until(sub { now_us() / 1000 > $end }, BACK), "$name: it is over");
    repaired_ok($kept, '200 3 2', $name);
    isnt((split / /, $redis->cmd('GET', name_of($kept)))[0], $id,
         "$name: another window");

    $name = 'kept, for who knows nothing of it';

    my $late = new_key(rate => 3);

    $redis->cmd('SET', name_of($late), $old);
    repaired_ok($late, '200 3 2', $name);
}


# Nobody who waited was refused, and each has the whole again.

for my $i (0 .. WAITERS - 1) {
    my $got = $waiters[$i]->result(2 * WINDOW);
    my $rate = 1 + $i % 3;
    my $turns = 1 + $i % 4;
    my $name = "who waits, $i";

    is($got->{before}, join(' ', (200) x $rate, (429) x $turns),
       "$name: refused $turns times");
    is($got->{told}, "200 $rate " . ($rate - 1),
       "$name: admitted after $got->{after} seconds");
}


for my $case ([ $prompt, 'who is prompt', '200 429' ],
              [ $elsewhere, 'who was told elsewhere', 429 ])
{
    my ($job, $name, $before) = @$case;
    my $got = $job->result(2 * WINDOW);

    is($got->{before}, $before, "$name: refused");
    is($got->{told}, '200 1 0',
       "$name: admitted after $got->{after} seconds");
}


# A window begins with the first request, and not before.

{
    my ($before, $left);

    ok(wait_until(sub { $redis->cmd('PTTL', name_of($alone)) == -2 }, BACK),
       'left alone: it ends');
    sleep SAMPLE;
    $before = now_us();
    told_is($alone, '200 5 4', 'left alone');
    $left = $redis->cmd('PTTL', name_of($alone));
    cmp_ok($left, '>=', 1000 * WINDOW - (now_us() - $before) / 1000
                        - 1000 * TICK, 'left alone: it begins with it');
}

# Those that were repaired have ended as well.

{
    my %status;

    $status{ told(ask($_)) }++
        for grep { $redis->cmd('PTTL', name_of($_)) == -2 } @repaired;
    is_deeply([ keys %status ], [ '200 10 9' ],
              'those repaired: each has all of it again');
}

is_deeply([ expiry_faults() ], [], 'in the end all of them have an expiry');

$t->finish;
