#!/usr/bin/perl

# What is kept of a key's rate: how it is shown, how it is begun anew on every
# node, by convoticctl and by hand, and that to delete it begins nothing anew.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;

use Convotic::Test;

use constant {
    RATE => 40,
    LATE => 0.7,                # seconds, of an answer that is overtaken
    BACK => 10,                 # until something has happened, at most
    OK => 0, NOT_FOUND => 4,
};

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis;
my $proxy = $t->byte_proxy(to => $redis);
my $key = test_key('acme');
my $hash = sha256_hex($key);
my $name = $redis->rate_name($key);

my %scene = (
    upstream => $t->upstream, key => $key,
    server => 'location = /status { convotic_status json; }',
    http => 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;',
);

$redis->init;
record();

# The second one is reached by way of a proxy.

my @nodes = map { $t->nginx(%scene, redis => $_) } $redis, $proxy;

ok(wait_until(sub { $_->get('/status')->json->{tracking_confirmed} }, BACK),
   $_->name . ': tracking is confirmed') for @nodes;


sub record {
    $redis->add_key($key, workspace => 'acme', id => 'key_acme', rate => RATE);

    return;
}


sub rate {
    my ($verb, @more) = @_;

    my $res = $t->ctl('rate', $verb, 'key_acme', '--redis', $redis->url, @more);

    $res->{json} = eval { decode_json($res->{out}) };

    return $res;
}


sub window {
    my $json = rate('show', '--json')->{json} || {};

    return [ @$json{qw(window leased left)} ];
}


# How many of so many requests are admitted, without a number until none is;
# what their headers say wrongly.

sub admitted {
    my ($node, $most, $faults) = @_;

    my ($n, $last) = (0, RATE);

    $faults ||= [];

    while (!defined $most || $n < $most) {
        my $res = $node->contacts('limit=5');
        my $left = $res->header('X-RateLimit-Remaining');

        push @$faults, 'Limit: ' . $res->header('X-RateLimit-Limit')
            if $res->header('X-RateLimit-Limit') != RATE;

        if ($res->status == 429) {
            push @$faults, "Remaining $left of a refusal" if $left;
            last;
        }

        push @$faults, 'status ' . $res->status if $res->status != 200;
        push @$faults, "Remaining $left behind $last" if $left >= $last;
        last if @$faults > 5;

        $last = $left;
        $n++;
    }

    return $n;
}


sub exhausted {
    my ($what, $before) = @_;

    my @faults;
    my @n = map { admitted($_, undef, \@faults) } @nodes;

    is($n[0] + $n[1] + ($before || 0), RATE, "$what: the rate, and no more");
    is_deeply(\@faults, [], "$what: the headers");

    for my $node (@nodes) {
        my $res = $node->contacts('limit=5');
        my $seconds = $res->header('Retry-After') || 0;

        error_is($res, 429, 'RATE_LIMITED',
                 "Rate limit exceeded. Retry after $seconds seconds.",
                 "$what: refused: " . $node->name);
        ok($seconds >= 1 && $seconds <= 60, "$what: for less than a minute");
    }

    return;
}


# How often the nodes were told of a key; that they were told once more.

sub told { return map { $_->get('/status')->json->{invalidations}{key} } @nodes }

sub all_told_ok {
    my ($what, @before) = @_;

    my @now;

    ok(wait_until(sub { @now = told();
                        $now[0] > $before[0] && $now[1] > $before[1] }, BACK),
       "$what: both are told");

    return;
}


# Used up, shown at each step.

my $res = rate('show');

is($res->{exit}, OK, 'show: no window');
like($res->{out}, qr/^id +key_acme\nrate +${\RATE}\nwindow +none is open$/,
     'show: says so');
is_deeply(window(), [ 'none', 0, RATE ], 'show: in JSON');

admitted($nodes[0], 10);
admitted($nodes[1], 5);

my $open = rate('show', '--json')->{json};

is($open->{window}, 'open', 'show: a window');
is($open->{leased} + $open->{left}, RATE, 'show: leased, and left');
cmp_ok($open->{leased}, '>=', 15, 'show: what was admitted was leased');
ok($open->{rest} > 0 && $open->{rest} <= 60000, 'show: how long it lasts');
like(rate('show')->{out},
     qr/^leased +\d+\nleft +\d+\nends in +[1-5]?\d\.\d{3} s$/m,
     'show: for people');

exhausted('a window', 15);
is_deeply(window(), [ 'open', RATE, 0 ], 'show: all is leased');


# To delete it is no reset.

{
    my $what = 'deleted';

    $redis->cmd('DEL', $name);

    is(admitted($_), 0, "$what: " . $_->name . ' goes on refusing') for @nodes;
    is($redis->cmd('EXISTS', $name), 0, "$what: and asks nothing");

    # even where they have to ask: each knows what was used

    my @before = told();

    record();
    all_told_ok($what, @before);
    is(admitted($_), 0, "$what, and to be asked: " . $_->name) for @nodes;
    is_deeply(window(), [ 'open', RATE, 0 ], "$what: it was taken up again");
}


# Reset: both admit again, the one window of both.

{
    my $what = 'reset';
    my @before = told();

    $res = rate('reset', '--json');
    is($res->{exit}, OK, "$what: exit 0");
    is_deeply($res->{json}, {
        id => 'key_acme', hash => $hash, rate => RATE, window => 'open',
        leased => 0, left => RATE, rest => 60000, replicas => 0,
        acknowledged => 0,
    }, "$what: in JSON");
    is_deeply(window(), [ 'open', 0, RATE ], "$what: nothing is leased");

    my ($left) = map { $_->header('X-RateLimit-Remaining') }
        grep { $_->status == 200 }
        wait_until(sub { my $res = $nodes[0]->contacts('limit=5');
                         $res->status == 200 && $res }, BACK);

    is($left, RATE - 1, "$what: the first one is told that all is left");
    all_told_ok($what, @before);
    exhausted($what, 1);
    is_deeply(window(), [ 'open', RATE, 0 ], "$what: all is leased again");
    cmp_ok($redis->cmd('PTTL', $name), '>', 0, "$what: with its expiry");
    is($redis->cmd('HGET', $redis->key_name($key), 'status'), 'active',
       "$what: the record is as it was");
}


# While nodes hold leases: these are not spent in the new window.

{
    my $what = 'reset when half is used';

    rate('reset');
    ok(wait_until(sub { admitted($_, 1) }, BACK), "$what: " . $_->name)
        for @nodes;
    admitted($_, 10) for @nodes;

    cmp_ok(window()->[1], '>', 22, "$what: leases are held");

    my @before = told();

    like(rate('reset')->{out}, qr/^key_acme: a new window, /, "$what: done");
    all_told_ok($what, @before);
    exhausted($what);
}


# The window is lost, with what the nodes know of it, before it is reset.

{
    my $what = 'reset of a lost window';
    my @before = told();

    $redis->cmd('DEL', $name);
    is_deeply(window(), [ 'none', 0, RATE ], "$what: none is there");
    rate('reset');
    all_told_ok($what, @before);
    exhausted($what);
}


# It overtakes an answer about the window before: that is not believed for
# longer than it was asked for.

{
    my $what = 'reset while a node asks';
    my $other = test_key('other');

    # the second node has not asked for this one yet

    $redis->add_key($other, workspace => 'acme', id => 'key_other', rate => 2);

    my @other = ('X-API-Key' => $other);

    is($nodes[0]->contacts('limit=5', @other)->status, 200, "$what: $_ of 2")
        for 1, 2;

    # the connection that is told of changes is quick

    $proxy->delay(LATE, 'down', only => '(?s)\A(?!.*SUBSCRIBE)');

    my @before = told();
    my $asked = $redis->calls('evalsha');
    my $conn = $nodes[1]->connect;

    $conn->write(Convotic::HTTP::request_text('/v1/contacts?limit=5', {},
                                              @other));
    ok(wait_until(sub { $redis->calls('evalsha') > $asked }, BACK),
       "$what: it is answered");
    $t->ctl('rate', 'reset', 'key_other', '--redis', $redis->url);
    all_told_ok($what, @before);
    $conn->read;
    $proxy->clear;

    ok(wait_until(sub {
        $nodes[1]->contacts('limit=5', @other)->status == 200 }, BACK),
       "$what: it asks again");
}


# By hand, as the documentation has it.

{
    my $what = 'by redis-cli';
    my ($line) = slurp('docs/redis-keys.md') =~ /^(keys EVAL ".*?" 2 .*?)$/ms;
    my $shell = 'keys() { redis-cli -p ' . $redis->port . ' "$@"; }; '
              . "HASH=$hash; $line";
    my @before = told();

    $res = $t->run([ 'sh', '-c', $shell ]);
    is($res->{out}, "ok\n", "$what: done");
    is_deeply(window(), [ 'open', 0, RATE ], "$what: a new window");
    like($redis->cmd('GET', $name), qr/\A\d{16} \d{13} 0 \* 0 -\z/,
         "$what: its value");
    all_told_ok($what, @before);
    exhausted($what);

    $redis->cmd('DEL', $name);
    $redis->del_key($key);
    $res = $t->run([ 'sh', '-c', $shell ]);
    is($res->{out}, "absent\n", "$what: not of a key that is not there");
    is($redis->cmd('EXISTS', $name), 0, "$what: which gets no window");
}


# A record that is lost is not made up.

{
    my $what = 'no record';

    for my $verb (qw(show reset)) {
        $res = $t->ctl('rate', $verb, $hash, '--redis', $redis->url);
        is($res->{exit}, NOT_FOUND, "$what: $verb");
        like($res->{err}, qr/\Aconvoticctl: no record of the key \S+\n\z/,
             "$what: $verb: says so");
    }

    is_deeply([ $redis->names("*$hash*") ], [], "$what: nothing is written");
}


sub slurp {
    my ($file) = @_;

    open my $fh, '<', $t->top . "/$file" or die "$file: $!\n";
    local $/;

    return scalar <$fh>;
}


$t->finish;
