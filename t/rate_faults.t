#!/usr/bin/perl

# A Redis that answers the question for a rate with an error, with nonsense, too
# late or not at all.  Nobody gets more than was asked for, or than the fallback
# admits; every request is answered; and a server that has failed is asked about
# once a second for a key, and complained of once a minute.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Resp qw(resp_bulk resp_encode);
use Convotic::Test;

use Time::HiRes qw(sleep time);

use constant {
    LIMIT  => 40,
    SHARE  => 10,               # a quarter: convotic_rate_fallback local
    CROWD  => 60,               # requests that are sent at once
    SPENT  => 10,               # of a key, before anything is wrong: not so
                                # many that more is asked for already
    WINDOW => 60,               # seconds
    MINUTE => 60,               # seconds between two complaints of one kind
    BACK   => 20,               # seconds until something has happened, at most
    FEW    => 4,                # requests, of each of some clients
    SLOW   => 0.6,              # seconds, of an answer that is waited for
    QUIET  => 1.5,              # seconds of requests to a server that fails
    KILLS  => 2,                # of all connections
    APART  => 1.1,              # seconds between them: one that fails at once
                                # is another matter
    PENDING => 0.1,             # seconds, of a question that is under way then
    MANY   => 400,              # requests, of which some wait for it
};

my $FACTOR = $Convotic::Process::FACTOR;
my $MINT = 2 ** 31 - 1;
my $MAXT = '9223372036854775807';

my $t = Convotic::Test->new(rates => 1);
my $up = $t->upstream;
my $redis = $t->redis->init;
my $made = 0;

# What is asked of rates is answered as a test says, all else by Redis.

my $fake = $t->fake_redis(behind => $redis, handler => sub {
    my ($ctx, $name, @args) = @_;
    my $answer = $ctx->vars->{ uc $name };

    return { pass => 1 } unless defined $answer && "@args" =~ /convotic:rate:/;
    return $answer;
});

my $HTTP = 'convotic_cache_valid 1h; convotic_key_valid 1h;';

my $SERVER = join "\n", 'location = /status { convotic_status json; }',
    'location = /free { convotic on; convotic_rate off;'
    . ' proxy_pass http://contacts; }',
    map { "location = /$_ { convotic on; proxy_pass http://contacts;"
          . " convotic_rate_fallback $_; }" } qw(open closed);


sub node {
    my ($name, %arg) = @_;

    my $node = $t->nginx(redis => $fake, upstream => $up, name => $name,
                         http => $HTTP, server => $SERVER, %arg);

    ok(ready($node), "$name: tracking is confirmed");

    return $node;
}


sub ready {
    my ($node) = @_;

    return wait_until(sub {
        my $m = status($node);
        $m->{tracking_confirmed} && !$m->{redis_away}{keys}
            && !$m->{redis_away}{bodies};
    }, BACK);
}


sub status { return $_[0]->get('/status')->json }


# A key that the node knows, but nothing of its rate.

sub new_key {
    my ($node, $limit) = @_;

    my $key = $redis->add_key(test_key('key ' . ++$made),
                              rate => $limit || LIMIT);

    is(burst($node, $key, 1, 'free')->{200}, 1, 'the key is known')
        or diag($made);

    return $key;
}


sub text {
    my ($key, $path) = @_;

    return Convotic::HTTP::request_text('/' . ($path || 'v1/contacts'), {},
                                        'X-API-Key' => $key);
}


# So many requests over one connection: how many were of which status, and
# the last response of each.

sub burst {
    my ($node, $key, $n, $path) = @_;

    my $conn = $node->connect;
    my %seen = (200 => 0, last => {});

    $conn->write(text($key, $path) x $n);

    for (1 .. $n) {
        my $res = $conn->read(undef, BACK);
        my $status = $res ? $res->status : 'lost';

        $seen{$status}++;
        $seen{last}{$status} = $res;
        last unless $res;
    }
    $conn->close;

    return \%seen;
}


# The questions for a key's rate that the server was asked.

sub questions {
    my ($key, $command) = @_;

    my $name = $redis->rate_name($key);

    return grep { ($_->{argv}[3] || '') eq $name
                  && (!$command || uc $_->{argv}[0] eq $command) }
        $fake->commands;
}


# What was wanted in all of them.

sub wanted {
    my $sum = 0;
    $sum += $_->{argv}[6] for questions($_[0], 'EVALSHA');

    return $sum;
}


# What Redis counts as used.

sub used {
    my $value = $redis->cmd('GET', $redis->rate_name($_[0]));

    return defined $value ? (split / /, $value)[2] : 0;
}


# The server's answer to the commands of a rate, from now on.

sub answer {
    my (%answer) = @_;

    return $fake->set(EVALSHA => undef, EVAL => undef, %answer);
}


sub answer_of {
    my @told = @_;

    return resp_encode([ map { /^-?\d{1,15}\z/ ? \$_ : $_ } @told ]);
}


sub refused_ok {
    my ($res, $name) = @_;

    my $rest = $res && $res->header('Retry-After') || 0;

    error_is($res, 429, 'RATE_LIMITED',
             "Rate limit exceeded. Retry after $rest seconds.",
             "$name: refused");
    ok($rest > 0 && $rest <= WINDOW, "$name: Retry-After") or diag($rest);
    is($res && $res->header('X-RateLimit-Remaining'), 0,
       "$name: X-RateLimit-Remaining");

    return headers_ok($res, $name);
}


sub headers_ok {
    my ($res, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return is($res && $res->header('X-RateLimit-Limit'), LIMIT,
              "$name: X-RateLimit-Limit");
}


# No more than one a second, however many requests there were.

sub no_storm_ok {
    my ($key, $since, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $asked = questions($key, 'EVALSHA');

    cmp_ok($asked, '<=', 1 + (time() - $since),
           "$name: one question a second, at most");

    return;
}


# The server is no help: the node's share, and $own of a lease.

sub unsure_ok {
    my ($node, $key, $name, $own) = @_;

    my $since = time();
    my $seen = burst($node, $key, CROWD);

    is($seen->{200}, SHARE + ($own || 0), "$name: the node's share");
    is($seen->{429}, CROWD - SHARE - ($own || 0), "$name: no other answers");
    headers_ok($seen->{last}{200}, "$name: admitted");
    refused_ok($seen->{last}{429}, $name);
    no_storm_ok($key, $since, $name);

    return;
}


# The complaints of a node since it was started: once a minute, for each kind.

sub said_ok {
    my ($node, $since, $pattern, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my @lines = $node->log_lines(qr/\[(?:warn|error|crit)\]/);
    my $times = 1 + int((time() - $since) / MINUTE);

    ok(@lines && @lines <= $times && !grep({ !/$pattern/ } @lines),
       "$name: is said once a minute")
        or diag(map { "$_\n" } @lines);

    return;
}


# No answer of the script's.

my %nonsense = (
    'a number'             => ":1\r\n",
    'a word'               => "+OK\r\n",
    'a string'             => resp_bulk('1 60000 1 1 1'),
    'nil'                  => "\$-1\r\n",
    'no array'             => "*-1\r\n",
    'an empty array'       => "*0\r\n",
    'four elements'        => answer_of(1, 60_000, 1, 1),
    'six elements'         => answer_of(1, 60_000, 1, 1, 1, 1),
    'five strings'         => answer_of(qw(a b c d e)),
    'nil in it'            => resp_encode([ \1, \60_000, undef, \1, \1 ]),
    'an array in it'       => resp_encode([ \1, \60_000, [ \1 ], \1, \1 ]),
    'an error in it'       => "*5\r\n:1\r\n:60000\r\n:1\r\n-ERR no\r\n:1\r\n",
    'an empty string in it' => answer_of('', 60_000, 1, 1, 1),
    'a sign in it'         => answer_of('+1', 60_000, 1, 1, 1),
    'a space in it'        => answer_of(' 1', 60_000, 1, 1, 1),
    'a fraction in it'     => answer_of(1, 60_000, '1.5', 1, 1),
    'no window'            => answer_of(0, 60_000, 1, 1, 1),
    'a negative window'    => answer_of(-1, 60_000, 1, 1, 1),
    'a negative rest'      => answer_of(1, -1, 1, 1, 1),
    'negative: used'       => answer_of(1, 60_000, -1, 0, 1),
    'negative: granted'    => answer_of(1, 60_000, 1, -1, 1),
    'negative: kept'       => answer_of(1, 60_000, 1, 1, -1),
    'no rest'              => answer_of(1, 0, 1, 1, 1),
    'a long rest'          => answer_of(1, 60_001, 1, 1, 1),
    'a rest of 2^31-1'     => answer_of(1, $MINT, 1, 1, 1),
    'a rest of 2^63-1'     => answer_of(1, $MAXT, 1, 1, 1),
    'granted: 2^31'        => answer_of(1, 60_000, $MINT + 1, $MINT + 1, 1),
    'granted: 2^32'        => answer_of(1, 60_000, 2 ** 32, 2 ** 32, 1),
    'granted: 2^63-1'      => answer_of(1, 60_000, $MAXT, $MAXT, 1),
    'used: 2^63'           => answer_of(1, 60_000, '9223372036854775808', 1, 1),
    'used: 2^64'           => answer_of(1, 60_000, '18446744073709551616', 1,
                                        1),
    'used: 2^63-1'         => answer_of(1, 60_000, $MAXT, 0, 1),
    'more granted than used' => answer_of(1, 60_000, 3, 4, 1),
    'more granted than wanted' => answer_of(1, 60_000, LIMIT / 2, 2, 1),
    'all granted'          => answer_of(1, 60_000, LIMIT, LIMIT, 1),
    'more than the limit granted'
                           => answer_of(1, 60_000, 2 * LIMIT, 2 * LIMIT, 1),
    'granted: 2^31-1'      => answer_of(1, 60_000, $MINT, $MINT, 1),
    'nothing granted, though there is some'
                           => answer_of(1, 60_000, 3, 0, 1),
    'nothing used or granted' => answer_of(1, 60_000, 0, 0, 1),
);

{
    my $node = node('nonsense');
    my ($since, $failed) = (time(), 0);

    for my $what (sort keys %nonsense) {
        my $key = new_key($node);

        answer(EVALSHA => $nonsense{$what});
        unsure_ok($node, $key, $what);
        answer();
    }

    said_ok($node, $since, qr/answered the script of rates with something else/,
            'nonsense');
    is(status($node)->{rate}{unverified}, SHARE * keys %nonsense,
       'nonsense: all that was admitted is counted as unverified');
    is(status($node)->{rate_leases}{granted}, 0,
       'nonsense: nothing was leased');

    # one that has a lease spends it first

    for my $what ('four elements', 'no rest', 'negative: granted') {
        my $key = new_key($node);

        is(burst($node, $key, SPENT)->{200}, SPENT, "$what, later: before");

        my $left = used($key) - SPENT;

        $fake->reset;
        answer(EVALSHA => $nonsense{$what});
        unsure_ok($node, $key, "$what, later", $left);
        answer();
    }

    $node->stop;
}


# Numbers that are strange, but could be: they are believed.

my %strange = (
    'half of it used'         => [ 1, 60_000, LIMIT / 2, 1, 1 ],
    'used: 2^31-1'            => [ 1, 60_000, $MINT, 0, 1 ],
    'used: 2^31-1, one more'  => [ 1, 60_000, $MINT, 1, 1 ],
    'window: 2^63-1'          => [ $MAXT, 60_000, LIMIT, 1, 1 ],
    'kept: 2^63-1'            => [ 1, 60_000, LIMIT, 1, $MAXT ],
    'not kept'                => [ 1, 60_000, LIMIT, 1, 0 ],
    'a rest of 1 ms, used up' => [ 1, 1, LIMIT, 1, 1 ],
);

{
    my $node = node('strange');

    for my $what (sort keys %strange) {
        my $key = new_key($node);

        $fake->reset;
        answer(EVALSHA => answer_of(@{ $strange{$what} }));

        my $seen = burst($node, $key, CROWD);

        is($seen->{200} + ($seen->{429} || 0), CROWD,
           "$what: all are answered");
        cmp_ok($seen->{200}, '<=', wanted($key),
               "$what: no more than was asked for");
        headers_ok($_, $what) for values %{ $seen->{last} };
        refused_ok($seen->{last}{429}, $what) if $seen->{429};
        answer();
    }

    is($node->log_lines(qr/\[(?:warn|error|crit)\]/), 0,
       'strange numbers: nothing to say');
    $node->stop;
}


# Errors.

my %errors = (
    NOPERM    => 'NOPERM this user has no permissions to run the command',
    OOM       => "OOM command not allowed when used memory > 'maxmemory'.",
    WRONGTYPE => 'WRONGTYPE Operation against a key holding the wrong kind',
);

for my $code (sort keys %errors) {
    my $node = node(lc $code);
    my $since = time();
    my $before = status($node)->{redis_errors}{keys};
    my @keys = map { new_key($node) } 1 .. 4;
    my $asked = 0;

    answer(EVALSHA => "-$errors{$code}\r\n");
    unsure_ok($node, $_, $code) for @keys[0, 1];

    my $seen = burst($node, $keys[2], CROWD, 'closed');

    is($seen->{503}, CROWD, "$code: closed, all are refused");
    error_is($seen->{last}{503}, 503, 'INTERNAL_ERROR',
             'Service temporarily unavailable', "$code: closed");
    is($seen->{last}{503}->header('Retry-After'), 2,
       "$code: closed, Retry-After");
    headers_ok($seen->{last}{503}, "$code: closed");

    $seen = burst($node, $keys[3], CROWD, 'open');
    is($seen->{200}, CROWD, "$code: open, all are admitted");
    headers_ok($seen->{last}{200}, "$code: open");

    said_ok($node, $since, qr/\Q$errors{$code}\E/, $code);
    $asked += questions($_) for @keys;
    is(status($node)->{redis_errors}{keys} - $before, $asked,
       "$code: counted as errors of Redis");
    is(status($node)->{rate_leases}{failed}, $asked, "$code: as failed leases");

    # it can again, and all that was admitted is told

    answer();
    ok(wait_until(sub { burst($node, $keys[0], 1);
                        used($keys[0]) > SHARE }, BACK),
       "$code: it is asked again, and told of what was admitted");
    $node->stop;
}


# A client that goes on and on, of a server that cannot.

{
    my $node = node('patient');
    my $key = new_key($node);
    my $since = time();
    my $sent = 0;

    answer(EVALSHA => "-$errors{OOM}\r\n");

    while (time() < $since + QUIET || questions($key) < 2) {
        burst($node, $key, CROWD);
        $sent += CROWD;
    }

    no_storm_ok($key, $since, "$sent requests");
    said_ok($node, $since, qr/OOM/, "$sent requests");
    answer();
    $node->stop;
}


# A server that never has the script is sent it with each question, which is
# neither an error nor worth a word.

{
    my $node = node('noscript');
    my $key = new_key($node);

    $fake->reset;
    answer(EVALSHA => "-NOSCRIPT No matching script. Please use EVAL.\r\n");

    my $seen = burst($node, $key, CROWD);

    is($seen->{200}, LIMIT, 'NOSCRIPT: the limit is admitted');
    refused_ok($seen->{last}{429}, 'NOSCRIPT');
    is(scalar questions($key, 'EVAL'), scalar questions($key, 'EVALSHA'),
       'NOSCRIPT: each question is repeated, once');
    is(status($node)->{redis_errors}{keys}, 0, 'NOSCRIPT: no error');
    is(status($node)->{rate_leases}{failed}, 0, 'NOSCRIPT: no failed lease');
    is($node->log_lines(qr/NOSCRIPT|No matching script/), 0,
       'NOSCRIPT: not a word');

    # and may not be sent it, or says the same of that

    my $since = time();

    for my $error ($errors{NOPERM}, 'NOSCRIPT No matching script.') {
        my ($code) = $error =~ /^(\w+)/;
        my $name = "NOSCRIPT, then $code";

        $key = new_key($node);
        answer(EVALSHA => "-NOSCRIPT No matching script.\r\n",
               EVAL => "-$error\r\n");
        unsure_ok($node, $key, $name);
        is(scalar questions($key, 'EVAL'), scalar questions($key, 'EVALSHA'),
           "$name: each question is repeated, once");
        answer();
    }

    said_ok($node, $since, qr/NOPERM/, 'NOSCRIPT, then NOPERM');
    is(status($node)->{redis_errors}{keys},
       status($node)->{rate_leases}{failed} / 2,
       'NOSCRIPT: only the other error is counted');
    $node->stop;
}


# Late, but in time: all wait for it, whichever worker has asked.

{
    my $node = node('slow', workers => 2, http => $HTTP
                    . 'convotic_redis %%REDIS%% timeout=20s;');
    my $key = new_key($node);
    my $admitted = burst($node, $key, SPENT)->{200};

    $fake->reset;
    answer(EVALSHA => { pass => 1, delay => SLOW });

    my @seen = parallel(4, sub { return burst($node, $key, FEW)->{200} },
                        4 * BACK);

    is_deeply(\@seen, [ (FEW) x 4 ], 'slow: what is there is admitted');
    cmp_ok(scalar questions($key), '>', 0, 'slow: it was asked for');
    answer();

    # an answer may still be on its way, with the last of it

    $admitted += $_ for @seen;
    wait_until(sub { $admitted += burst($node, $key, CROWD)->{200};
                     $admitted >= LIMIT }, BACK);
    is($admitted, LIMIT, 'slow: the limit, in all');
    is(status($node)->{rate}{unverified}, 0, 'slow: Redis was asked for all');
    $node->stop;
}


# Too late: what was leased is lost, and nobody is given it again.

{
    my $ms = 300 * $FACTOR;
    my $node = node('late', http => $HTTP
                    . "convotic_redis %%REDIS%% timeout=${ms}ms"
                    . " connect_timeout=20s;");
    my $key = new_key($node);
    my $admitted = burst($node, $key, SPENT)->{200};
    my $left = used($key) - $admitted;

    answer(EVALSHA => { pass => 1, delay => 3 * $ms / 1000 });

    my $seen = burst($node, $key, CROWD);

    is($seen->{200}, $left + SHARE, 'too late: the lease, and the share');
    refused_ok($seen->{last}{429}, 'too late');
    $admitted += $seen->{200};

    answer();
    ok(ready($node), 'too late: Redis is back');
    ok(wait_until(sub { my $n = burst($node, $key, CROWD)->{200};
                        $admitted += $n;
                        !$n && used($key) >= LIMIT }, BACK),
       'too late: until all is used');
    cmp_ok($admitted, '<=', LIMIT, 'too late: never more than the limit');
    cmp_ok($admitted, '>=', LIMIT - LIMIT / 4, 'too late: a lease is lost');
    $node->stop;
}


# Memory is at its end: nothing can be written, nor counted.

{
    my $node = node('full');
    my ($new, $known) = map { new_key($node) } 1, 2;
    my $since = time();

    is(burst($node, $known, SPENT)->{200}, SPENT, 'full: before');

    my $left = used($known) - SPENT;
    my $value = $redis->cmd('GET', $redis->rate_name($known));

    $redis->cmd('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
    $redis->cmd('CONFIG', 'SET', 'maxmemory', 1);
    $fake->reset;
    unsure_ok($node, $new, 'full');
    unsure_ok($node, $known, 'full, known', $left);
    said_ok($node, $since, qr/OOM/, 'full');
    is($redis->cmd('GET', $redis->rate_name($known)), $value,
       'full: nothing was written');

    $redis->cmd('CONFIG', 'SET', 'maxmemory', 0);

    my $more = 0;

    ok(wait_until(sub { my $n = burst($node, $known, 1)->{200};
                        $more += $n;
                        !$n && used($known) >= LIMIT }, BACK),
       'room: until all is used');
    is(SPENT + $left + SHARE + $more, LIMIT, 'room: the limit, in all');
    $node->stop;
}


# All connections are closed, under a question that Redis has answered.  That
# lease is lost, but Redis is not away: all are refused when nothing is left,
# none before.

{
    my $limit = 4000;
    my $node = node('killed', workers => 2, http => $HTTP
                    . 'convotic_redis %%REDIS%% timeout=20s'
                    . ' connect_timeout=20s;');
    my $key = new_key($node, $limit);
    my ($admitted, $refused, $lost) = (0, 0, 0);

    answer(EVALSHA => { pass => 1, delay => PENDING });

    for my $n (1 .. KILLS) {
        my $conn = $node->connect;
        my $asked = $redis->calls('evalsha');

        sleep APART;
        $conn->write(text($key) x MANY);
        ok(wait_until(sub { $redis->calls('evalsha') > $asked }, BACK),
           "killed: question $n");
        $redis->cmd('CLIENT', 'KILL', 'TYPE', 'normal');

        my @all = map { $conn->read(undef, BACK) || () } 1 .. MANY;

        is(scalar(grep { $_->status == 200 } @all), MANY,
           "killed: all are admitted, $n");
        $admitted += @all;
        $conn->close;
    }

    answer();

    until ($refused || $lost) {
        my $seen = burst($node, $key, CROWD);

        $admitted += $seen->{200};
        $refused = $seen->{429};
        $lost = CROWD - $seen->{200} - ($refused || 0);
    }

    is($lost, 0, 'killed: all are answered');
    is(used($key), $limit, 'killed: refused when nothing is left');
    cmp_ok($admitted, '<=', $limit, 'killed: never more than the limit');
    is(status($node)->{rate}{unverified}, 0, 'killed: Redis was asked for all');
    diag("killed: $admitted of $limit admitted");
    $node->stop;
}

$t->finish;
