#!/usr/bin/perl

# convotic_cache_local: each worker keeps bodies in its own memory, within
# bounds.  A hit there asks Redis nothing; what is evicted or purged while it
# is being sent stays whole; nobody gets what is not his.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK   => 10,               # seconds until something has happened, at most
    HITS   => 1000,
    MANY   => 10_000,           # different queries
    PIPE   => 100,              # of them in one piece
    LARGE  => 400_000,          # bytes of a body that no socket takes at once
};

my $LEASE = 'convotic_cache_lock_timeout 20s;';

my $t = Convotic::Test->new;
my $keys = $t->redis('keys');
my $bodies = $t->redis('bodies');
my ($acme, $beta) = map { test_key($_) } qw(acme beta);

$keys->init;
$keys->add_key($acme, workspace => 'acme');
$keys->add_key($beta, workspace => 'beta');

# A body for each workspace, kind and version.

my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    return body($req->tenant, $req->args->{kind}, $vars->{version} || 1);
});

sub body {
    my ($who, $kind, $version) = @_;

    my $size = $kind =~ /^large/ ? LARGE : $kind =~ /^half/ ? 40_000 : 300;

    return sprintf '{"contacts":["%s %s v%d","%s"],"total":1,"limit":20}',
                   $who, $kind, $version, 'x' x $size;
}

my $METRICS = 'location = /status { convotic_status json; access_log off; }';

sub gateway {
    my (%arg) = @_;

    my $http = delete $arg{http};

    return $t->nginx(
        redis => $keys, cache_redis => $bodies, upstream => $up, key => $acme,
        log_level => 'notice', server => $METRICS,
        http => "convotic_forward_args kind; convotic_cache_valid 1h;
                 convotic_key_valid 1h; convotic_gzip off;
                 convotic_cache_max_size 1m; keepalive_requests 1000000; $http",
        %arg,
    );
}

my $g = gateway(http => 'convotic_cache_local 4m;');


sub metrics { return $_[0]->get('/status')->json }

sub status_is {
    my ($res, $status, $name) = @_;

    like($res->header('Cache-Status') || '', $status, $name);

    return;
}

my $LOCAL = qr/^convotic; hit; ttl=\d+; detail=local\z/;
my $HIT = qr/^convotic; hit; ttl=\d+\z/;
my $MISS = qr/^convotic; fwd=uri-miss; /;


# Requests for these kinds in order over one connection, many at a time; what
# is wrong with the answers.

sub ask_all {
    my ($nginx, $key, @kinds) = @_;

    my $conn = $nginx->connect;
    my @faults;

    while (my @some = splice @kinds, 0, PIPE) {
        $conn->write(join '', map {
            "GET /v1/contacts?kind=$_ HTTP/1.1\r\nHost: localhost\r\n"
            . "X-API-Key: $key\r\n\r\n"
        } @some);

        for my $kind (@some) {
            my $res = $conn->read;
            my $who = $key eq $acme ? 'acme' : 'beta';

            push @faults, "$kind: " . ($res ? $res->status : 'nothing')
                unless $res && $res->status == 200
                       && $res->body eq body($who, $kind, 1);
        }
    }

    $conn->close;

    return @faults;
}


# What Redis was asked for by requests; the gateway's own questions about the
# server's health and the test's are none of theirs.

sub commands {
    my ($redis) = @_;

    my $calls = $redis->calls;

    return { map { ($_ => $calls->{$_}) }
             grep { !/^(?:ping|role|info|client\||hello|config|select|subscribe)/ }
             keys %$calls };
}


# A hit asks nothing.

{
    success_is($g->contacts('kind=a'), body('acme', 'a', 1), 'a miss');
    wait_until(sub { $g->contacts('kind=a')->header('Cache-Status') =~ $LOCAL
                     && metrics($g)->{tracking_confirmed} }, BACK);

    my @before = map { commands($_) } $keys, $bodies;
    my $commands = metrics($g)->{redis_commands};
    my @faults = ask_all($g, $acme, ('a') x HITS);

    is_deeply(\@faults, [], HITS . ' hits');
    is_deeply([ map { commands($_) } $keys, $bodies ], \@before,
              'neither server was asked anything');
    is_deeply(metrics($g)->{redis_commands}, $commands, 'say the metrics, too');
    is($up->count, 1, 'the upstream was asked once');

    my $res = $g->contacts('kind=a');

    status_is($res, $LOCAL, 'marked as local');
    ok(wait_until(sub { metrics($g)->{requests}{local} >= HITS }, BACK),
       'and counted');
}


# Two system calls a request, on a connection that is kept alive: one that
# reads it and one that sends the answer.

SKIP: {
    my ($strace) = grep { -x } map { "$_/strace" } split /:/, $ENV{PATH};

    skip 'no strace', 1 unless $strace;
    skip 'a sanitizer makes calls of its own', 1 if $ENV{ASAN_OPTIONS};

    my ($worker) = $g->workers;
    my $file = $t->dir . '/calls';
    my $conn = $g->connect;

    $conn->get('/v1/contacts?kind=a', 'X-API-Key' => $acme);

    my $trace = Convotic::Process->spawn(
        name => 'strace', stderr => "$file.err",
        argv => [ $strace, '-qq', '-e', 'trace=!epoll_wait,epoll_pwait',
                  '-e', 'signal=none', '-o', $file, '-p', $worker ],
    );

    my $attached = wait_until(sub {
        Convotic::HTTP::_slurp("/proc/$worker/status") =~ /^TracerPid:\s*[1-9]/m
    }, BACK);

    if (!$attached) {
        $trace->kill;
        skip 'strace may not attach', 1;
    }

    for (1 .. HITS) {
        $conn->get('/v1/contacts?kind=a', 'X-API-Key' => $acme);
    }

    $trace->stop('INT', 5);

    # of the log, of timers and of tracking there are a few besides

    my @calls = map { /^(\w+)\(/ ? $1 : () }
        split /\n/, Convotic::HTTP::_slurp($file);
    my %calls;
    $calls{$_}++ for @calls;

    cmp_ok(($calls{recvfrom} || 0) + ($calls{writev} || 0)
           + ($calls{sendto} || 0), '>=', 2 * HITS, 'it was traced');
    is_deeply([ grep { $calls{$_} >= HITS / 2 } sort keys %calls ],
              [ qw(recvfrom write writev) ],
              'a hit reads, sends and writes its line of the log');
}


# Nobody gets another's: not another workspace's, nor what was purged.

success_is($g->contacts('kind=a', 'X-API-Key' => $beta), body('beta', 'a', 1),
           'the same query of another workspace');
success_is($g->contacts('kind=a'), body('acme', 'a', 1), 'and of the first');

$up->set(version => 2);
$keys->purge('acme');
ok(wait_until(sub { $g->contacts('kind=a')->body eq body('acme', 'a', 2) },
              BACK), 'a purge');
success_is($g->contacts('kind=a', 'X-API-Key' => $beta), body('beta', 'a', 1),
           'of one workspace only');
status_is($g->contacts('kind=a'), $LOCAL, 'the new one is kept');
$up->set(version => 1);


# Full: what was not asked for longest leaves.  What is being sent meanwhile
# stays whole, though it is evicted, purged and replaced.

sub full_ok {
    my ($nginx, $size, $count) = @_;

    my $before = metrics($nginx);
    my @slow;

    if ($size > 4 * LARGE) {
        for my $i (1 .. 3) {
            my $conn = $nginx->connect;
            $conn->write("GET /v1/contacts?kind=large$i HTTP/1.1\r\n"
                         . "Host: localhost\r\nX-API-Key: $acme\r\n\r\n");
            push @slow, $conn;
        }

        wait_until(sub { metrics($nginx)->{local_stored}
                         >= $before->{local_stored} + 3 }, BACK);
    }

    my $name = "a level of $size bytes";
    my @faults = ask_all($nginx, $acme, map { "m$_" } 1 .. $count);
    my $after = metrics($nginx);

    is_deeply(\@faults, [], "$name: $count queries");
    cmp_ok($after->{local_bytes}, '<=', $size, 'it is no larger');
    cmp_ok($after->{local_bytes}, '>', $size / 2, 'and in use');
    cmp_ok($after->{local_bodies}, '>', $size / 2000, 'there are bodies in it');
    is($after->{local_stored} - $after->{local_evicted}
       - ($before->{local_stored} - $before->{local_evicted}),
       $after->{local_bodies} - $before->{local_bodies},
       'each other one was evicted, and counted');
    cmp_ok($after->{local_evicted} - $before->{local_evicted}, '>', $count / 4,
           'and those were many');

    my $last = $after->{local_bodies} > 20 ? 20 : 5;
    my @newest = map { 'm' . ($count - $_) } reverse 0 .. $last - 1;
    my $asked = $up->count;

    @faults = ask_all($nginx, $acme, @newest);
    is_deeply(\@faults, [], 'the newest are right');
    is(metrics($nginx)->{requests}{local} - $after->{requests}{local}, $last,
       'and still there');
    is($up->count, $asked, 'nobody asks the upstream again');

    if (@slow) {
        status_is($nginx->contacts('kind=large1'), $HIT,
                  'a large body was evicted');
        $keys->purge('acme');
        $bodies->flushall;
    }

    for my $i (1 .. @slow) {
        success_is($slow[$i - 1]->read, body('acme', "large$i", 1),
                   "and is sent as a whole to client $i, who reads slowly");
    }

    return;
}

$g->stop;
$bodies->flushall;

for my $case ([ '1m', 1 << 20, 2000 ], [ '64k', 64 << 10, 500 ]) {
    my ($size, $bytes, $count) = @$case;
    my $nginx = gateway(http => "convotic_cache_local $size; $LEASE");

    full_ok($nginx, $bytes, $count);
    $nginx->stop;
}

my $large = gateway(http => "convotic_cache_local 2m; $LEASE");

full_ok($large, 2 << 20, MANY);
$large->stop;


# A body that would take more than a quarter of the level is not kept there.

{
    my $small = gateway(http => 'convotic_cache_local 64k;');

    for my $turn (1 .. 3) {
        success_is($small->contacts('kind=half'), body('acme', 'half', 1),
                   "a body of half the level, $turn");
    }

    my $res = $small->contacts('kind=half');

    status_is($res, $HIT, 'it comes from Redis');
    is(metrics($small)->{local_bodies}, 0, 'and is not kept');
    $small->stop;
}


# valid=: Redis is asked again after that time, and what is there counts.

{
    my $short = gateway(http => 'convotic_cache_local 1m valid=1s;');

    $short->contacts('kind=short');
    status_is($short->contacts('kind=short'), $LOCAL, 'valid=1s: at first');
    ok(wait_until(sub { my @names = $bodies->names('convotic:body:*') }, BACK),
       'stored');

    $up->reset;
    ok(wait_until(sub { $short->contacts('kind=short')->header('Cache-Status')
                        =~ $HIT }, BACK), 'then Redis is asked');
    status_is($short->contacts('kind=short'), $LOCAL, 'and its answer is kept');
    is($up->count, 0, 'the upstream is not asked');
    $short->stop;
}


# 0: one question for each request, the key and the generation being known.

{
    my $none = gateway(http => 'convotic_cache_local 0;');

    $none->contacts('kind=none');
    ok(wait_until(sub { $none->contacts('kind=none')->header('Cache-Status')
                        =~ $HIT && metrics($none)->{tracking_confirmed} },
                  BACK), 'without a first level');

    my @before = map { commands($_) } $keys, $bodies;

    is_deeply([ ask_all($none, $acme, ('none') x HITS) ], [], HITS . ' hits');

    my @after = map { commands($_) } $keys, $bodies;

    is_deeply($after[0], $before[0], 'the server of keys was asked nothing');
    is(delete($after[1]{get}) - delete $before[1]{get}, HITS,
       'that of bodies for one body each');
    is_deeply($after[1], $before[1], 'and nothing else');
    is(metrics($none)->{local_bodies}, 0, 'nothing is kept');
    is(metrics($none)->{local_bytes}, 0, 'of any size');
    $none->stop;
}


# Each worker has its own, and a reload begins with none: what the metrics say
# is of the workers that are there.

{
    my $two = gateway(http => 'convotic_cache_local 1m;', workers => 2);

    ok(wait_until(sub { $two->contacts('kind=two');
                        metrics($two)->{local_bodies} == 2 }, BACK),
       'two workers, a body in each');
    ok($two->reload(workers => 1, gone => 1), 'a reload to one worker');
    ok(wait_until(sub { $two->contacts('kind=two');
                        metrics($two)->{local_bodies} == 1 }, BACK),
       'a body in one');
    ok($two->reload(http => $two->{http} =~ s/local 1m/local 0/r, gone => 1),
       'a reload without a first level');
    $two->contacts('kind=two');
    ok(wait_until(sub { my $m = metrics($two);
                        $m->{local_bodies} == 0 && $m->{local_bytes} == 0 },
                  BACK), 'none');
    $two->stop;
}

$t->finish;
