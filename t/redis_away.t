#!/usr/bin/perl

# Redis is away: not there yet, stopped, killed, restarted, flapping, hung.
# Nobody is let in and nobody is told that a key is invalid: 503 with
# Retry-After, at once, and back to normal without anybody's help.  Without
# the server of the bodies everything goes on, from the upstream.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(sleep time);

use constant {
    RETRY_MIN => 0.7,       # seconds from a failure to the next attempt
    BACK      => 10,        # seconds; it is back within two, on a calm machine
    WATCH     => 2.5,       # seconds
};

# Long enough for a busy machine, short enough to wait for.

my $MS = 300 * $Convotic::Process::FACTOR;
my $SERVER = "convotic_redis %%REDIS%% connect_timeout=${MS}ms timeout=${MS}ms;";

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my $key = test_key('acme');


# A Redis that keeps its data when it is killed.

sub lasting_redis {
    my ($name) = @_;

    return $t->redis($name, 'appendonly yes', 'appendfsync always');
}


sub away_is {
    my ($res, $name) = @_;

    my $after = $res ? $res->header('Retry-After') : undef;
    my @faults = $res ? $res->error_faults(503, 'INTERNAL_ERROR', qr/^[A-Z]/)
                      : 'no response';

    push @faults, 'Retry-After ' . (defined $after ? $after : 'is missing')
        unless defined $after && $after =~ /^[1-9]\d?\z/;
    push @faults, 'the message tells of Redis'
        if $res && $res->body =~ /redis/i;

    ok(!@faults, $name) or diag(map { "    $_\n" } @faults);

    return;
}


sub all_away {
    my ($gateway, $n, $name) = @_;

    my @bad = grep { $_->error_faults(503, 'INTERNAL_ERROR') }
        map { $gateway->contacts("limit=$_") } 1 .. $n;

    is(scalar @bad, 0, $name);

    return;
}


sub works_again {
    my ($gateway, $name) = @_;

    my $res;

    wait_until(sub { $res = $gateway->contacts('limit=2');
                     $res->status == 200 }, BACK);
    success_is($res, contacts_body(workspace => 'acme', limit => 2), $name);

    return;
}


sub errors_of {
    my ($gateway) = @_;

    return grep { /\[(?:warn|error|crit)\]/ && /redis/i }
        $gateway->log_lines(qr/./);
}


# Not there when nginx starts.

my $redis = lasting_redis('keys');
$redis->init;
$redis->add_key($key, workspace => 'acme');
$redis->kill;

my $nginx = $t->nginx(redis => $redis, upstream => $up, key => $key,
                   http => $SERVER);

away_is($nginx->contacts('limit=2'), 'not there yet: 503');
all_away($nginx, 5, 'not there yet: always');
is($up->count, 0, 'not there yet: the upstream is not asked');
error_is($nginx->contacts('limit=2', 'X-API-Key' => undef), 401,
         'UNAUTHORIZED', 'Missing X-API-Key header',
         'what needs no Redis is answered as ever');

$redis->start;
works_again($nginx, 'started later');


# Killed, and started again.

for my $signal (qw(KILL TERM)) {
    $redis->stop($signal);
    away_is($nginx->contacts('limit=2'), "SIG$signal: 503, cached or not");
    all_away($nginx, 5, "SIG$signal: always");
    away_is($nginx->contacts('limit=2', 'X-API-Key' => 'unknown'),
            "SIG$signal: an unknown key gets no 401");
    is($nginx->head('/v1/contacts', 'X-API-Key' => $key)->status, 503,
       "SIG$signal: HEAD");

    $redis->start;
    works_again($nginx, "after SIG$signal");
}


# Said once when it goes and once when it comes back.

{
    my $before = () = errors_of($nginx);

    $redis->kill;
    all_away($nginx, 20, 'twenty requests without Redis');
    ok($nginx->wait_log(qr/still away/, BACK), 'it is tried again');
    all_away($nginx, 20, 'twenty more');

    my @after = errors_of($nginx);
    splice @after, 0, $before;

    is(scalar(grep { /Redis is away/ } @after), 1, 'the change is logged once')
        or diag(map { "    $_\n" } @after);
    cmp_ok(scalar @after, '<=', 2, 'and nothing else as often as it is tried')
        or diag(map { "    $_\n" } @after);

    my $back = () = $nginx->log_lines(qr/Redis is back/);
    $redis->start;
    works_again($nginx, 'back');
    is(scalar(() = $nginx->log_lines(qr/Redis is back/)), $back + 1,
       'its return is logged once');
}


# Flapping: whatever comes is a good answer or a 503.

{
    my %seen;

    for my $round (1 .. 6) {
        $round % 2 ? $redis->kill : $redis->start;
        $seen{ $nginx->contacts("limit=$_")->status }++ for 1 .. 10;
    }

    delete @seen{ 200, 503 };
    is_deeply(\%seen, {}, 'flapping: 200 or 503');
    works_again($nginx, 'after flapping');
}

$nginx->stop;


# Hung, like a process that is stopped: it accepts and says nothing.

$nginx = $t->nginx(
    redis => $redis, upstream => $up, key => $key, http => $SERVER,
    server => 'location = /alive { return 204; }',
);

works_again($nginx, 'before it hangs');
$redis->sigstop;

my @all = $nginx->concurrent(
    [ map { [ "/v1/contacts?limit=$_", 'X-API-Key' => $key ] } 1 .. 20 ]);

is(scalar(grep { $_ && !$_->error_faults(503, 'INTERNAL_ERROR') } @all), 20,
   'hung: all who wait get 503');
is($nginx->get('/alive')->status, 204, 'hung: the worker is not');
$redis->cont;
works_again($nginx, 'running again');
$nginx->stop;


# The breaker, counted at a server that answers as it is told.

my $fake = $t->fake_redis(behind => $redis);

$nginx = $t->nginx(redis => $fake, upstream => $up, key => $key,
                http => $SERVER);
works_again($nginx, 'through the fake');

$fake->script('*' => { hang => 1 });
$fake->reset;
away_is($nginx->contacts('limit=2'), 'no reply in time');
is($fake->count('HGETALL'), 1, 'breaker: the first has asked');
all_away($nginx, 20, 'breaker: those who follow are refused');
is($fake->count('HGETALL'), 1, 'breaker: without a question');
$fake->clear;
works_again($nginx, 'breaker: closed by itself');
$nginx->stop;


# Who comes back is not overrun: about one attempt a second and worker, for
# whatever reason the attempts fail.

my %failing = (
    'a server that closes at once'
        => sub { $_[0]->accept('close'); $_[0]->drop },
    'a server that hangs'
        => sub { $_[0]->script('*' => { hang => 1 }) },
    'a server that is loading'
        => sub { $_[0]->script('PING' => "-LOADING Redis is loading\r\n");
                 $_[0]->drop },
    'a server that greets, and closes when it is asked'
        => sub { $_[0]->script('HGETALL' => { raw => '', close => 1 }) },
    'a server that greets, and hangs when it is asked'
        => sub { $_[0]->script('HGETALL' => { hang => 1 }) },
);

my %made = map { $_ => $t->fake_redis(behind => $redis) } keys %failing;
my %asks = map {
    $_ => $t->nginx(redis => $made{$_}, upstream => $up, key => $key)
} keys %failing;

works_again($asks{$_}, "before: $_") for sort keys %failing;

my %before = map { $_ => $made{$_}->counters->{accepted} } keys %made;
my $start = time();

$failing{$_}->($made{$_}) for keys %failing;

while (time() - $start < WATCH) {
    $_->contacts('limit=2') for values %asks;
    sleep 0.02;
}

# two connections, of requests and of tracking, each try for themselves

my $may = 2 * ((time() - $start) / RETRY_MIN + 2);

for my $name (sort keys %failing) {
    my $made = $made{$name}->counters->{accepted} - $before{$name};

    cmp_ok($made, '>', 0, "$name: tried again");
    cmp_ok($made, '<=', $may, "$name: connections are few");
}

for my $name (sort keys %failing) {
    $made{$name}->clear;
    works_again($asks{$name}, "after: $name");
    $asks{$name}->stop;
}


# A connection that ends while nobody uses it is no fault of anybody.

$nginx = $t->nginx(redis => $fake, upstream => $up, key => $key,
                http => $SERVER);
works_again($nginx, 'before the connection is closed');
$fake->reset;
ok(wait_until(sub { $fake->count('ROLE') }, BACK),
   'the server is asked for its role from time to time');
$fake->drop;
is($nginx->contacts('limit=2')->status, 200,
   'an idle connection was closed: the next request does not notice');
is(scalar(errors_of($nginx)), 0, 'and no error is logged');
$nginx->stop;


# Two servers: without the bodies' one, the upstream answers.

my $keys = lasting_redis('keys2');
my $bodies = lasting_redis('bodies');

$nginx = $t->gateway(
    redis => $keys, cache_redis => $bodies, upstream => $up,
    http => $SERVER . $SERVER =~ s/redis %%/cache_redis %%CACHE_/r,
);
$up->reset;

success_is($nginx->contacts('limit=3'),
           contacts_body(workspace => 'acme', limit => 3), 'two servers');
ok(wait_until(sub { $nginx->contacts('limit=3'); $up->reset;
                    $nginx->contacts('limit=3'); $up->count == 0 }, 3),
   'two servers: cached');

for my $way (qw(kill sigstop)) {
    $bodies->$way;
    $up->reset;

    for my $i (1 .. 4) {
        success_is($nginx->contacts('limit=3'),
                   contacts_body(workspace => 'acme', limit => 3),
                   "bodies away ($way): answer $i");
    }

    is($up->count, 4, "bodies away ($way): by the upstream");
    error_is($nginx->contacts('limit=3', 'X-API-Key' => 'unknown'), 401,
             'UNAUTHORIZED', 'Invalid API key',
             "bodies away ($way): keys are checked all the same");

    $way eq 'kill' ? $bodies->start : $bodies->cont;

    ok(wait_until(sub { $nginx->contacts('limit=3'); $up->reset;
                        $nginx->contacts('limit=3'); $up->count == 0 }, BACK),
       "bodies back ($way): cached again");
}

$keys->kill;
$up->reset;
away_is($nginx->contacts('limit=3'), 'keys away: what is cached is not served');
is($up->count, 0, 'keys away: the upstream is not asked');
$keys->start;
works_again($nginx, 'keys back');

$t->finish;
