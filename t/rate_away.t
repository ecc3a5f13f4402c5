#!/usr/bin/perl

# convotic_rate_fallback: what a node admits while Redis does not answer, what it
# says to who is refused, and that all of it is counted once Redis is back, with
# what it had or with nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    LIMIT  => 40,
    SPENT  => 10,               # of it, before Redis is away
    SHARE  => 10,               # a quarter: "local" without a number
    FEW    => 3,
    CROWD  => 60,               # requests at once
    WINDOW => 60,               # seconds
    BACK   => 20,               # until something has happened, at most
};

my @AWAY = (503, 'INTERNAL_ERROR', 'Service temporarily unavailable');

my %fallback = (local => 'local', few => 'local=' . FEW, open => 'open',
                closed => 'closed');

# What a node admits of a key beyond its lease.

my %share = (local => SHARE, few => FEW, open => undef, closed => 0);

my $t = Convotic::Test->new(rates => 1);
my $up = $t->upstream;

my $SERVER = join "\n", 'location = /status { convotic_status json; }',
    'location = /free { convotic on; convotic_rate off;'
    . ' proxy_pass http://contacts; }',
    map { "location = /$_ { convotic on; proxy_pass http://contacts;"
          . " convotic_rate_fallback $fallback{$_}; }" } sort keys %fallback;


# In what state a key is when Redis goes: the node has spent a part of it, all
# of it, none of it (but it knows the key), or another node has spent some.

my @states = qw(begun over new elsewhere);

sub key { return test_key("$_[0] $_[1]") }

sub cases {
    return map { my $way = $_; map { [ $way, $_ ] } @states }
        sort keys %fallback;
}


sub store {
    my ($redis) = @_;

    $redis->init;
    $redis->add_key(key(@$_), workspace => 'acme', rate => LIMIT) for cases();

    return $redis;
}


sub status { return $_[0]->get('/status')->json }

# So many requests of a key over one connection.

sub burst {
    my ($node, $way, $state, $n, $path) = @_;

    my $conn = $node->connect;

    $conn->write(Convotic::HTTP::request_text('/' . ($path || $way), {},
                     'X-API-Key' => key($way, $state)) x $n);

    my @all = map { $conn->read(undef, BACK) || () } 1 .. $n;

    $conn->close;

    return @all;
}


sub admitted { return scalar grep { $_->status == 200 } @_ }


# What Redis counts as used, how long its window lasts yet.

sub used {
    my ($redis, @case) = @_;

    my $value = $redis->cmd('GET', $redis->rate_name(key(@case)));

    return defined $value ? (split / /, $value)[2] : 0;
}


sub ready {
    my ($node) = @_;

    return wait_until(sub {
        my $m = status($node);
        $m->{tracking_confirmed} && !$m->{redis_away}{keys}
            && !$m->{redis_away}{bodies};
    }, BACK);
}


sub node {
    my ($name, $redis, %arg) = @_;

    return $t->nginx(name => $name, redis => $redis, upstream => $up,
                     server => $SERVER,
                     http => 'convotic_cache_valid 1h; convotic_key_valid 1h;',
                     %arg);
}


# Before: all keys are known to the node, and a node that has spent some of one
# holds what is left of a lease.

sub before {
    my ($name, $redis, $node, $other) = @_;

    ok(ready($_), "$name: tracking is confirmed") for $node, $other;

    my (%sum, %left);

    for my $case (cases()) {
        my ($way, $state) = @$case;
        my $sum = \$sum{"@$case"};

        $$sum = 0;
        admitted(burst($node, @$case, 1, 'free'));
        $$sum += admitted(burst($node, @$case, SPENT)) if $state eq 'begun';
        $$sum += admitted(burst($node, @$case, LIMIT + 1)) if $state eq 'over';
        $$sum += admitted(burst($other, @$case, SPENT))
            if $state eq 'elsewhere';

        $left{"@$case"} = used($redis, @$case) - $$sum;
    }

    is_deeply(\%sum, { map { ("@$_" => { begun => SPENT, over => LIMIT, new => 0,
                                         elsewhere => SPENT }->{ $_->[1] })
                       } cases() }, "$name: before");

    return (\%sum, \%left);
}


# Redis is away: a lease that is left is spent, then the node's share.  Adds up
# what is admitted.

sub away_ok {
    my ($name, $node, $sum, $left) = @_;

    my ($unverified, $unsure) = (0, 0);

    for my $case (cases()) {
        my ($way, $state) = @$case;
        my @all = burst($node, @$case, CROWD);
        my $admitted = admitted(@all);
        my @refused = grep { $_->status != 200 } @all;
        my $what = "$name: $way, $state";
        my $share = $state eq 'over' ? 0 : $share{$way};
        my $own = $state eq 'elsewhere' ? 0 : $left->{"@$case"};

        is(scalar @all, CROWD, "$what: all are answered");
        is($admitted, defined $share ? $own + $share : CROWD,
           "$what: what is admitted");
        $sum->{"@$case"} += $admitted;
        $unverified += $admitted - $own;

        next unless @refused;

        my $last = $refused[-1];

        is_deeply([ grep { $_->status != $last->status } @refused ], [],
                  "$what: all others are refused alike");
        is($last->header('X-RateLimit-Limit'), LIMIT,
           "$what: X-RateLimit-Limit");

        if ($way eq 'closed' && $state ne 'over') {
            error_is($last, @AWAY, "$what: refused");
            is($last->header('Retry-After'), 2, "$what: Retry-After");
            $unsure += @refused;
            next;
        }

        my $rest = $last->header('Retry-After') || 0;

        error_is($last, 429, 'RATE_LIMITED',
                 "Rate limit exceeded. Retry after $rest seconds.",
                 "$what: refused");
        cmp_ok($rest, '>', 0, "$what: Retry-After");
        cmp_ok($rest, '<=', WINDOW, "$what: Retry-After");
        is($last->header('X-RateLimit-Remaining'), 0,
           "$what: X-RateLimit-Remaining");
    }

    my $m = status($node)->{rate};

    is($m->{unverified}, $unverified, "$name: counted as unverified");
    is($m->{unsure}, $unsure, "$name: counted as unsure");

    return;
}


# Redis is back: the rest of the limit, for who has any.  Of a key of which too
# much was admitted, another node may spend what it holds.  A question that Redis
# answers too late is a lease lost.

sub back_ok {
    my ($name, $redis, $nodes, $sum, $left, $lost) = @_;

    ok(ready($_), "$name: Redis is back") for @$nodes;

    for my $case (cases()) {
        my ($way, $state) = @$case;
        my $what = "$name, back: $way, $state";
        my $away = $sum->{"@$case"};
        my @asked = $state eq 'elsewhere' ? @$nodes : $nodes->[0];

        my $is_over = wait_until(sub {
            my $n = admitted(map { burst($_, @$case, 5) } @asked);
            $sum->{"@$case"} += $n;

            !$n && used($redis, @$case) >= LIMIT;
        }, BACK);

        ok($is_over, "$what: until all is used");

        my $all = $sum->{"@$case"};
        my $held = $state eq 'elsewhere' ? $left->{"@$case"} : 0;
        my $most = $away + $held > LIMIT ? $away + $held : LIMIT;

        cmp_ok($all, '<=', $most,
               "$what: the limit, with what was admitted meanwhile");
        cmp_ok($all, '>=', $most - $held - ($lost ? LIMIT / 4 : 0),
               "$what: not less than that");
        cmp_ok(used($redis, @$case), '>=', $all, "$what: all is counted");
    }

    return;
}


sub outage {
    my ($name, $redis, %do) = @_;

    my $proxy = $t->byte_proxy(to => $redis);
    my @nodes = map { node("$name $_" =~ s/\W/_/gr, $proxy) } 1, 2;
    my ($sum, $left) = before($name, $redis, @nodes);

    $do{begin}->($proxy);
    ok(wait_until(sub { burst($nodes[0], 'local', 'begun', 1, 'free');
                        status($nodes[0])->{redis_away}{keys} }, BACK),
       "$name: Redis is away") unless $do{late};
    away_ok($name, $nodes[0], $sum, $left);
    $do{end}->($proxy);
    back_ok($name, $redis, \@nodes, $sum, $left, $do{late});
    $_->stop for @nodes;

    return;
}


# Nobody sees it between its start and its records.

sub start_empty {
    my ($redis, $proxy) = @_;

    $proxy->accept('refuse');
    $proxy->drop;
    $redis->kill if $redis->process->alive;
    $redis->start;
    store($redis);
    $proxy->accept('open');

    return;
}


my $redis = store($t->redis('cut'));

outage('cut off', $redis,
       begin => sub { $_[0]->accept('refuse'); $_[0]->drop },
       end   => sub { $_[0]->accept('open') });

$redis = store($t->redis('stopped'));

outage('stopped', $redis, late => 1,
       begin => sub { $redis->sigstop },
       end   => sub { $redis->cont });

$redis = store($t->redis('durable', 'appendonly yes', 'appendfsync always'));

outage('restarted', $redis,
       begin => sub { $redis->kill },
       end   => sub { $redis->start });

$redis = store($t->redis('empty'));

outage('restarted empty', $redis,
       begin => sub { $redis->kill },
       end   => sub { start_empty($redis, $_[0]) });


# Four nodes, and a Redis that is restarted empty in the middle of the window.
# What is admitted in all is the limit and what was granted since the node that
# knows most has asked, unless it asks again: here all do, and that is nothing.

my $proxy = $t->byte_proxy(to => $redis);
my @nodes = map { node("four_$_", $proxy, workers => 1 + $_ % 2) } 1 .. 4;


sub each_of {
    my ($way, $state, $n) = @_;

    return admitted(map { burst($_, $way, $state, $n) } @nodes);
}


sub unverified {
    my $n = 0;
    $n += status($_)->{rate}{unverified} for @nodes;

    return $n;
}


for my $way (qw(closed local)) {
    my $name = "four nodes, $way";
    my $limit = 1000;
    my @case = ($way, 'new');

    $redis->cmd('DEL', $redis->rate_name(key(@case)));
    $redis->set_key(key(@case), rate => $limit);
    ok(ready($_), "$name: " . $_->name) for @nodes;
    burst($_, @case, 1, 'free') for @nodes;

    my $sum = 0;
    my $borrowed = unverified();

    $sum += each_of(@case, 5) until $sum >= $limit / 2;
    my $old = used($redis, @case);
    my $before = $sum;

    start_empty($redis, $proxy);
    $redis->set_key(key(@case), rate => $limit);

    my $over = wait_until(sub {
        my $n = each_of(@case, 5);
        $sum += $n;
        !$n && used($redis, @case) >= $limit;
    }, BACK);

    ok($over, "$name: until all is used");
    $borrowed = unverified() - $borrowed;

    # a node that knows less may ask first: then what it is granted was leased
    # before, and is not told yet

    cmp_ok($sum, '<=', $limit + $old + $borrowed,
           "$name: never more than the limit, what was leased before, and what"
           . ' was admitted unverified');
    diag("$name: $before of $limit admitted and $old leased before, $sum in all,"
         . " $borrowed unverified");
}


# A node that knows that nothing is left tells that to a Redis that does not,
# though it was refused an answer meanwhile; who knows less gets nothing more.

{
    my $name = 'who knows most';
    my @case = ('local', 'over');
    my ($knows, $less) = @nodes;

    $redis->cmd('DEL', $redis->rate_name(key(@case)));
    ok(ready($_), "$name: " . $_->name) for @nodes;

    my $sum = admitted(burst($less, @case, SPENT));

    $sum += admitted(burst($knows, @case, LIMIT));
    my $left = used($redis, @case) - $sum;

    $proxy->accept('refuse');
    $proxy->drop;
    ok(wait_until(sub { status($knows)->{redis_away}{keys} }, BACK),
       "$name: Redis is away");
    is(admitted(burst($knows, @case, 5)), 0, "$name: refused meanwhile");

    start_empty($redis, $proxy);
    ok(ready($_), "$name: Redis is back: " . $_->name) for @nodes;

    ok(wait_until(sub {
           $sum += admitted(burst($knows, @case, 1));
           used($redis, @case) >= LIMIT;
       }, BACK), "$name: tells it");

    $sum += admitted(burst($less, @case, LIMIT));
    is($sum, LIMIT, "$name: the limit is admitted, and what was leased of it");
}

$t->finish;
