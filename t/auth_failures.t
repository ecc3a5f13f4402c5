#!/usr/bin/perl

# convotic_auth_failures: an address may try so many unknown keys a minute; then
# it is told to wait, and Redis is not asked.  Who has a good key pays nothing,
# and nobody pays for what Redis could not say.
#
# Beyond its budget an address has one look-up a second.  On a busy machine some
# of them fall between the requests of this file: they are allowed for by the
# time that has passed, and counted.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use IO::Socket::INET;
use IO::Socket::UNIX;
use Time::HiRes qw(time);

use constant {
    BUDGET  => 5,
    LARGER  => 10,              # of the location /larger
    REFUSED => 20,              # requests of an address without a budget
    CROWD   => 30,              # good keys at once
    SWARM   => 200,             # unknown ones at once
    BACK    => 20,              # seconds until something has happened, at most
};

my $PATH = '/v1/contacts';
my $LIMITED = qr/\ARate limit exceeded\. Retry after (\d+) seconds\.\z/;

# the connections for commands, not the one that tracks

my $COMMANDS = '(?s)\A(?!.*SUBSCRIBE)';

my $t = Convotic::Test->new(rates => 1);

plan(skip_all => 'this nginx has no realip module')
    if `@{[ Convotic::Nginx::binary() ]} -V 2>&1` !~ /http_realip_module/;

my $redis = $t->redis;
my $proxy = $t->byte_proxy(to => $redis);

my $g = $t->gateway(redis => $proxy, store => $redis, workers => 2,
    http => 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;'
          . 'set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;'
          . 'convotic_key_valid 1h; convotic_key_invalid 1h;'
          . 'convotic_rate_headers both;',
    location => 'convotic_auth_failures ' . BUDGET . ';',
    server => Convotic::Workers::server_conf() . <<'END');
    listen unix:%%DIR%%/socket;

    location = /default { convotic on; proxy_pass http://contacts; }

    location = /larger {
        convotic on;
        convotic_auth_failures 10;
        proxy_pass http://contacts;
    }

    location /on {
        convotic_auth_failures 1;

        location = /on/off {
            convotic on;
            convotic_auth_failures off;
            proxy_pass http://contacts;
        }
    }
END

my $workers = Convotic::Workers->new($g);
my $good = $g->key;
my $made = 0;

sub metrics { return $g->get('/status')->json }
sub limited { return metrics()->{auth_limited} }
sub look_ups { return $redis->calls('hgetall') }
sub unknown { return test_key('unknown ' . ++$made) }


# A good key that the zone has not seen.  What is read while tracking tells of
# its making would not be kept.

sub cold {
    my $before = metrics()->{invalidations}{key};
    my $key = $redis->add_key(test_key('cold ' . ++$made), workspace => 'acme');

    wait_until(sub { metrics()->{invalidations}{key} > $before }, BACK);

    return $key;
}


# From an address: of this machine, or of a client of the balancer's, which
# 127.0.0.1 is.

sub from {
    my ($address, $key, $path) = @_;

    return $g->get($path || $PATH, 'X-Forwarded-For' => $address,
                   'X-API-Key' => $key)
        unless $address =~ /\A127\./;

    my $socket = IO::Socket::INET->new(
        LocalAddr => $address, PeerAddr => '127.0.0.1', PeerPort => $g->port,
    ) or die "connect from $address: $@\n";

    return exchange($socket, $key);
}


sub exchange {
    my ($socket, $key) = @_;

    print {$socket} Convotic::HTTP::request_text(
        $PATH, {}, Connection => 'close', 'X-API-Key' => $key);

    my $bytes = do { local $/; <$socket> };

    return Convotic::Response->parse(\$bytes, eof => 1, method => 'GET');
}


# The statuses of so many unknown keys.

sub try_unknown {
    my ($address, $n, $path) = @_;

    return [ map { from($address, unknown(), $path)->status } 1 .. $n ];
}


sub all_401 { return [ (401) x $_[0] ] }


# Unknown keys until one is refused with 429, which is what is returned; as many
# as are left of the budget are not.  $since: when the address was seen first.

sub spent_ok {
    my ($address, $since, $name, %arg) = @_;

    my $least = $arg{left} || 0;
    my $denied = 0;
    my $res;

    until (($res = from($address, unknown()))->status == 429) {
        last if $res->status != 401 || ++$denied > 10 * BUDGET;
    }

    my $most = $least + int(time() - $since + 1);

    error_is($res, 429, 'RATE_LIMITED', $LIMITED, "$name: the budget is used up");
    ok($denied >= $least && $denied <= $most,
       "$name: behind $least more, and one a second")
        or diag("    $denied, not from $least to $most");

    return $res;
}


# Each worker has had an answer of Redis: its connection is there.

sub redis_answers_ok {
    my ($name) = @_;

    for my $pid ($workers->pids) {
        ok(wait_until(sub { $workers->ask($pid, '', cold())->status == 200 },
                      BACK), "$name: Redis answers");
    }

    return;
}

ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');
redis_answers_ok('at first');
is($g->contacts->status, 200, 'a good key, which is known from now on');


# The budget, and what is beyond it.

{
    my $address = '127.0.0.2';
    my $since = time();

    error_is(from($address, unknown()), 401, 'UNAUTHORIZED', 'Invalid API key',
             "unknown key $_") for 1 .. BUDGET;

    my $res = spent_ok($address, $since, 'one too many');
    my ($seconds) = $res->json->{error}{message} =~ $LIMITED;

    is($res->header('Retry-After'), $seconds, 'Retry-After is that number');
    ok($seconds >= 1 && $seconds <= 60, 'within the minute');
    is_deeply([ grep { /ratelimit/i } map { $_->[0] } $res->headers ], [],
              'nothing is told of a rate: there is no key that it is of');

    # some are let through, one a second: each of them is a look-up

    my ($before, $asked) = (limited(), look_ups());
    my $script = $redis->calls('evalsha') + $redis->calls('eval');
    my %seen;

    $since = time();
    $seen{ from($address, unknown())->status }++ for 1 .. REFUSED;

    my $refused = delete $seen{429} || 0;
    my $denied = delete $seen{401} || 0;

    is_deeply(\%seen, {}, 'all are refused');
    cmp_ok($denied, '<=', time() - $since + 1, 'nearly all with 429');
    is(limited() - $before, $refused, 'each of which is counted');
    is(look_ups() - $asked, $denied, 'Redis is not asked about them');
    is($redis->calls('evalsha') + $redis->calls('eval'), $script,
       'nor for a lease');
    is(metrics()->{rate}{refused}, 0, 'it is not the rate of a key');

    is(from($address, $good)->status, 200,
       'a known key is served to the same address');
    is_deeply(try_unknown('127.0.0.3', BUDGET), all_401(BUDGET),
              'another address has a budget of its own');
}


# The reserve: one look-up a second.  A good key pays nothing for it, and is
# known afterwards.

{
    my $address = '10.0.0.1';
    my $since = time();

    is_deeply(try_unknown($address, BUDGET), all_401(BUDGET), 'a budget is used');
    spent_ok($address, $since, 'the reserve');

    my $asked = look_ups();
    my $res;

    ok(wait_until(sub {
        $since = time();
        return from($address, unknown())->status == 401;
    }, BACK), 'an unknown key has it');

    my $key = cold();

    ok(wait_until(sub { ($res = from($address, $key))->status != 429 }, BACK),
       'a good one waits for it');

    success_is($res, contacts_body(workspace => 'acme'), 'and is served');
    cmp_ok(time() - $since, '>', 0.9, 'a second later');
    is(look_ups() - $asked, 2, 'two look-ups, however often they were asked for');

    success_is(from($address, $key), undef, 'it is known') for 1 .. 3;
    is(look_ups() - $asked, 2, 'and Redis is not asked any more');
}


# Good keys pay nothing, though nobody knew them.

{
    my $address = '10.0.0.2';
    my $since = time();

    try_unknown($address, BUDGET - 1);

    is_deeply([ map { from($address, cold())->status } 1 .. 3 * BUDGET ],
              [ (200) x (3 * BUDGET) ], 'good keys, and one failure is left');
    spent_ok($address, $since, 'good keys', left => 1);
}


# Nor does what needs no look-up.

{
    my $address = '10.0.0.3';
    my $since = time();
    my $again = unknown();
    my @for = ('X-Forwarded-For' => $address);
    my $asked;

    from($address, $again);
    try_unknown($address, BUDGET - 2);
    $asked = look_ups();

    for (1 .. 2 * BUDGET) {
        error_is(from($address, $again), 401, 'UNAUTHORIZED', 'Invalid API key',
                 "refused again, $_");
        error_is(from($address, "not a key $_"), 401, 'UNAUTHORIZED',
                 'Invalid API key', "malformed, $_");
        error_is($g->get($PATH, @for), 401, 'UNAUTHORIZED',
                 'Missing X-API-Key header', "missing, $_");
        is($g->get($PATH, @for, 'X-API-Key' => unknown(),
                   'X-API-Key' => unknown())->status, 400, "two keys, $_");
        is($g->get($PATH, { method => 'POST' }, @for, 'X-API-Key' => unknown())
           ->status, 405, "another method, $_");
    }

    is(look_ups(), $asked, 'Redis was not asked');
    spent_ok($address, $since, 'what needs no look-up', left => 1);
}


# IPv6 counts by networks of 64 bits; an IPv4 address is the same in either
# spelling.

{
    my $since = time();
    my ($one, $two, $other) = map { "2001:db8:0:$_" } '1::1', '1:8000::2', '2::1';

    is_deeply([ map { from($_ % 2 ? $one : $two, unknown())->status }
                1 .. BUDGET ], all_401(BUDGET), 'two hosts of a network');
    spent_ok($one, $since, 'the one');
    spent_ok($two, $since, 'the other');
    is_deeply(try_unknown($other, BUDGET), all_401(BUDGET), 'another network');

    $since = time();
    is_deeply([ map { from($_ % 2 ? '10.0.0.4' : '::ffff:10.0.0.4', unknown())
                      ->status } 1 .. BUDGET ], all_401(BUDGET), 'IPv4, mapped');
    spent_ok('10.0.0.4', $since, 'IPv4');
    spent_ok('::ffff:10.0.0.4', $since, 'mapped');

    # the first 64 bits of all mapped ones are the same

    is_deeply(try_unknown('::ffff:10.0.0.5', BUDGET), all_401(BUDGET),
              'another one, mapped');
}


# A key that was good: to learn that it is not any more costs nothing, and is
# not put off for an address without a budget.

{
    my $address = '10.0.0.6';
    my $since = time();
    my $key = cold();

    is(from($address, $key)->status, 200, 'revoked: it was good');
    try_unknown($address, BUDGET);
    spent_ok($address, $since, 'revoked');
    $redis->set_key($key, status => 'revoked');

    my $res;

    ok(wait_until(sub { ($res = from($address, $key))->status != 200 }, BACK),
       'revoked: and is not');
    error_is($res, 401, 'UNAUTHORIZED', 'Invalid API key', 'revoked: it is told');

    $address = '10.0.0.7';
    $since = time();
    $key = cold();

    from($address, $key);
    try_unknown($address, BUDGET - 1);
    $redis->set_key($key, status => 'disabled');
    wait_until(sub { ($res = from($address, $key))->status != 200 }, BACK);
    is($res->status, 401, 'disabled');
    spent_ok($address, $since, 'disabled', left => 1);
}


# The end of an epoch: all that was known is asked about again, by many at once,
# on nobody's account.

{
    my $address = '10.0.0.8';
    my @keys = map { cold() } 1 .. CROWD;

    from($address, $_) for @keys;

    my $before = metrics();
    my $asked = look_ups();

    $redis->cmd('CLIENT', 'KILL', 'TYPE', 'pubsub');
    ok(wait_until(sub { metrics()->{tracking}{lost} > $before->{tracking}{lost} },
                  BACK), 'the tracking is lost');

    $proxy->delay(0.1, 'down', only => $COMMANDS);

    my @all = $g->concurrent([ map { [ $PATH, 'X-Forwarded-For' => $address,
                                       'X-API-Key' => $_ ] } @keys ]);
    $proxy->clear;

    is_deeply([ map { $_ ? $_->status : 0 } @all ], [ (200) x CROWD ],
              CROWD . ' known keys at once are served');
    is(look_ups() - $asked, CROWD, 'each was looked up');
    is(metrics()->{auth_limited}, $before->{auth_limited}, 'none was refused');
}

ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');


# One good key that nobody knows, many times at once, is one look-up.

{
    my $key = cold();
    my ($before, $asked) = (limited(), look_ups());

    $proxy->delay(0.1, 'down', only => $COMMANDS);

    my @all = $g->concurrent([ map { [ $PATH, 'X-Forwarded-For' => '10.0.0.9',
                                       'X-API-Key' => $key ] } 1 .. CROWD ]);
    $proxy->clear;

    is_deeply([ map { $_ ? $_->status : 0 } @all ], [ (200) x CROWD ],
              CROWD . ' requests with a good key at once are served');
    cmp_ok(look_ups() - $asked, '<=', 2, 'it was looked up for all of them');
    is(limited(), $before, 'none was refused');
}


# Many unknown keys at once: as many look-ups may be under way as may turn out
# to be good, twice the budget in all.

{
    my ($before, $asked, $since) = (limited(), look_ups(), time());

    $proxy->delay(0.1, 'down', only => $COMMANDS);

    my %seen;
    my @all = $g->concurrent([
        map { [ '/larger', 'X-Forwarded-For' => '10.0.0.10',
                'X-API-Key' => unknown() ] } 1 .. SWARM
    ]);

    $proxy->clear;
    $seen{ $_ ? $_->status : 0 }++ for @all;

    my $most = 2 * LARGER + int(time() - $since + 1);

    is_deeply([ sort keys %seen ], [ 401, 429 ], 'no other answers');
    is(look_ups() - $asked, $seen{401}, 'those that are denied were looked up');
    cmp_ok($seen{401}, '>=', LARGER, 'the budget was used');
    cmp_ok($seen{401}, '<=', $most, 'and at most once more');
    is(limited() - $before, $seen{429}, 'the others are counted');

    my @wrong = grep { $_->status == 429
                       && $_->error_faults(429, 'RATE_LIMITED', $LIMITED) } @all;
    is(scalar @wrong, 0, 'and told as documented');
}


# Who leaves before the verdict is taken to have had no good key.  Who waits for
# another's look-up has none under way.

{
    my $address = '10.0.0.11';
    my $since = time();
    my $key = unknown();
    my $gone = () = $g->access_log =~ / 499 /g;
    my $asked = look_ups();

    my $leave = sub {
        $_->reset for @_;
        $gone += @_;

        return ok(wait_until(sub { my @all = $g->access_log =~ / 499 /g;
                                   return @all == $gone }, BACK),
                  'leaving: ' . @_ . ' have left');
    };

    my $send = sub {
        my ($n, $what) = @_;

        my @conns = map { $g->connect } 1 .. $n;

        $_->write(Convotic::HTTP::request_text(
            $PATH, {}, 'X-Forwarded-For' => $address, 'X-API-Key' => $what))
            for @conns;

        return @conns;
    };

    $proxy->swallow('down', only => $COMMANDS);

    my @first = $send->(1, $key);

    ok(wait_until(sub { look_ups() - $asked == 1 }, BACK),
       'leaving: the look-up is made');

    my @others = $send->(BUDGET, $key);

    ok(wait_until(sub { metrics()->{waiting} == BUDGET }, BACK),
       'leaving: others wait for it');
    $leave->(@others);
    $leave->(@first);
    is(look_ups() - $asked, 1, 'leaving: one look-up');

    @others = map { $send->(1, unknown()) } 2 .. BUDGET - 1;
    ok(wait_until(sub { look_ups() - $asked == BUDGET - 1 }, BACK),
       'leaving: all but one of the budget');
    $leave->(@others);

    # replies of that connection would come to nobody

    $proxy->clear;
    $proxy->rst($COMMANDS);
    redis_answers_ok('leaving');
    is(scalar $g->log_lines(qr/tried 5 unknown keys.*client: 10\.0\.0\.11,/), 0,
       'leaving: who waited is not charged');
    spent_ok($address, $since, 'leaving', left => 1);
}


# Redis cannot say: that is nobody's fault.

{
    my $address = '10.0.0.13';
    my ($since, $before) = (time(), limited());

    $proxy->accept('refuse');
    $proxy->rst($COMMANDS);

    is_deeply([ map { from($address, unknown())->status } 1 .. 4 * BUDGET ],
              [ (503) x (4 * BUDGET) ], 'away: no verdict');
    is(from($address, $good)->status, 200, 'away: a known key is served');
    is(limited(), $before, 'away: nobody is refused');

    $proxy->accept('open');
    redis_answers_ok('back again');
    spent_ok($address, $since, 'back again', left => BUDGET);
}


# A budget is one for all workers.

{
    my @pids = $workers->pids;
    my $since = time();
    my $n = 0;

    my $try = sub {
        return $workers->conn($pids[ $n++ % @pids ])->get(
            $PATH, 'X-Forwarded-For' => '10.0.0.14', 'X-API-Key' => unknown());
    };

    is_deeply([ map { $try->()->status } 1 .. BUDGET ], all_401(BUDGET),
              'two workers: the budget');

    my @statuses = map { $try->()->status } 1 .. 2 * BUDGET;
    my @denied = grep { $_ != 429 } @statuses;

    cmp_ok(scalar @denied, '<=', time() - $since, 'two workers: it is used up')
        or diag("    @statuses");
}


# Without a limit.

{
    my $before = limited();

    for my $path ('/default', '/on/off') {
        is_deeply(try_unknown('10.0.0.15', 4 * BUDGET, $path),
                  all_401(4 * BUDGET), "$path: as many as they like");
    }

    my @statuses = map {
        exchange(IO::Socket::UNIX->new($g->dir . '/socket'), unknown())->status
    } 1 .. 4 * BUDGET;

    is_deeply(\@statuses, all_401(4 * BUDGET), 'a unix socket has no address');
    is(limited(), $before, 'nobody is refused');
}


# What is logged: that a budget is used up, once; each refusal, below that.

{
    my %times;

    for my $line ($g->log_lines(qr/\[notice\].*this address has tried/)) {
        my ($n, $client) = $line =~ /tried (\d+) unknown keys .*client: (\S+?),/;
        $times{"$client $n"}++;
    }

    is_deeply({ map { $_ => $times{$_} } grep { $times{$_} != 1 } keys %times },
              {}, 'one notice for an address');
    ok($times{"$_ " . BUDGET}, "there is that of $_") for qw(127.0.0.2 10.0.0.1);
    ok($times{'10.0.0.10 ' . LARGER}, 'and one of another budget');

    my @lines = $g->log_lines(qr/\[info\].*an unknown key is refused: too many/);

    is(scalar @lines, limited(), 'one line for each refused request');
}


# The directive.

for my $value ('0', '-1', 'x', '5x', '1.5', '1000000001', '""', 'OFF', 'on') {
    my $res = $g->test_config(location => "convotic_auth_failures $value;");
    my $shown = $value eq '""' ? '' : $value;

    ok($res->{exit} != 0 && $res->{out} =~ /
        ^nginx:\ \[emerg\].*convotic_auth_failures.*"\Q$shown\E"
        .*a\ number\ from\ 1\ to\ 1000000000,\ or\ "off".*nginx|test\.conf:\d+$
    /mx, "convotic_auth_failures $value is refused") or diag($res->{out});
}

for my $case (
    [ 'convotic_auth_failures 1; convotic_auth_failures 1;', 'is duplicate' ],
    [ 'convotic_auth_failures 1 2;', 'invalid number of arguments' ],
    [ 'convotic_auth_failures;', 'invalid number of arguments' ],
) {
    my ($text, $says) = @$case;
    my $res = $g->test_config(location => $text);

    ok($res->{exit} != 0 && $res->{out} =~ /\Q$says\E/, "$text is refused")
        or diag($res->{out});
}

for my $value (qw(1 1000000000 off)) {
    is($g->test_config(location => "convotic_auth_failures $value;")->{exit}, 0,
       "convotic_auth_failures $value");
}

$t->finish;
