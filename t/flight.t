#!/usr/bin/perl

# Many clients, one question: one request leads, for its node, and asks the
# upstream; the others wait for what comes of it.  Nobody who waits is lost,
# whatever becomes of the leader, its worker or the upstream.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(sleep time);

use Convotic::Test;

use constant {
    CROWD   => 1000,
    KEYS    => 200,
    FEW     => 40,
    LOOKS   => 10,              # GETs of a worker for all who wait in it
    LARGE   => 200_000,         # bytes of a body
    ROUNDS  => 40,              # of fetches and purges
    WARM    => 10,              # of them, before memory is looked at
    CROWD   => 150,
    OUTDATED => 200 * 1024,     # bytes of a body that it finds
    GROWTH  => 3000,            # kB
    BACK    => 20,              # seconds until something has happened, at most
    TRICKLE => 1,               # a second, of those that have waited too long
    CONNS   => 64,              # worker_connections of a small node
    ROOM    => 32,              # half of them: as many requests may wait
    MORE    => 5,
    NEVER   => 0.3,             # seconds that nothing comes in
};

my $NOT_FOUND = '{"error":{"code":"NOT_FOUND","message":"No such contacts"}}';

# Connections are spread evenly over the workers, so that each has its share.

my $EVENLY = 'listen 127.0.0.1:%%PORT_even%% reuseport;';
my $STATUS = 'location = /status { convotic_status json; }';
my $PATIENT = 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;';

my $t = Convotic::Test->new;
my $redis = $t->redis;

# What is held is answered when the test says so: what is to be waiting by
# then, is.

my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $args = $req->args;
    my $n = ++$vars->{count};
    my $how = $vars->{how} || {};

    # only the first of all

    $how = {} if $vars->{once} && $n > 1;

    return {
        body => contacts_body(workspace => $req->tenant,
                              limit => $args->{limit},
                              version => $vars->{version}),
        hold => $vars->{once} && $n > 1 ? 0 : $vars->{hold}, %$how,
    };
});

my %scene = (
    redis => $redis, upstream => $up, workers => 2,
    main => 'worker_rlimit_nofile 8192;',
    events => 'worker_connections 4096;',
    server => "$EVENLY $STATUS",
    http => "$PATIENT upstream contacts { server %%UPSTREAM%%; }",
    location => 'proxy_set_header X-Pid $pid;',
);

my $two = $t->gateway(%scene);
my $alone = $t->gateway(%scene, name => 'alone', workers => 1);
my $bare = $t->gateway(%scene, name => 'bare',
                       http => "$scene{http} convotic_cache_local 0;");

my @acme = ('X-API-Key' => $two->key);
my $limit = 0;


# A query that nobody has asked yet.

sub cold {
    my (%how) = @_;

    $up->reset;
    $up->set(count => 0, hold => 1, once => 0, how => {}, version => 1, %how);

    return '/v1/contacts?limit=' . ++$limit;
}


sub body {
    my ($version, $workspace) = @_;

    return contacts_body(workspace => $workspace || 'acme', limit => $limit,
                         version => $version || 1);
}


sub metrics { return $_[0]->get('/status')->json }
sub waiting { return metrics($_[0])->{waiting} }


# Fills that brought a body, whether it was of any use by then or not.

sub ended {
    my $fills = metrics($_[0])->{fills};

    return $fills->{stored} + $fills->{passed};
}


# A purge, and that it is known.

sub purge {
    my ($nginx) = @_;

    my $purges = metrics($nginx)->{invalidations}{generation};

    $redis->purge('acme');

    return wait_until(sub { metrics($nginx)->{invalidations}{generation}
                            > $purges }, BACK);
}


# What a worker has of its own.

sub kilobytes {
    my ($pid) = @_;

    return Convotic::HTTP::_slurp("/proc/$pid/status")
           =~ /^RssAnon:\s*(\d+) kB/m ? $1 : 0;
}


# So many clients at once in a process of their own.  Of each: status, body,
# Cache-Status, Retry-After, method.

sub crowd {
    my ($nginx, @requests) = @_;

    my $http = Convotic::HTTP->new(port => $nginx->port('even'));

    return background(sub {
        return [ map {
            $_ ? { status => $_->status, body => $_->body,
                   method => $_->method,
                   cache => scalar $_->header('Cache-Status'),
                   length => scalar $_->header('Content-Length'),
                   retry => scalar $_->header('Retry-After'),
                   link => scalar $_->header('Link') }
               : { status => 0, body => 'no answer' }
        } $http->concurrent(\@requests, timeout => BACK) ];
    });
}


# Until all but the leader wait.

sub all_wait {
    my ($nginx, $n, $name) = @_;

    my $now;

    wait_until(sub { ($now = waiting($nginx)) == $n }, BACK);
    is($now, $n, "$name: $n wait");

    return;
}


# Who leads may be on its way to the upstream still.

sub release_ok {
    my ($n, $name) = @_;

    wait_until(sub { $up->count >= $n }, BACK);
    is($up->release, $n, $name);

    return;
}


sub answers { return @{ $_[0]->result(2 * BACK) } }


# What is wrong with answers that should be 200 and the body.

sub faults {
    my ($body, @all) = @_;

    my %faults;

    for my $res (@all) {
        my $ok = $res->{status} == 200
            && ($res->{method} eq 'HEAD' ? $res->{length} == length $body
                                         : $res->{body} eq $body);
        $faults{"$res->{status} " . substr $res->{body}, 0, 100}++ unless $ok;
    }

    return \%faults;
}


sub none_waits {
    my ($nginx, $name) = @_;

    ok(wait_until(sub { waiting($nginx) == 0 }, BACK), "$name: nobody waits");

    return;
}


# A server of keys that stands still, and whose timer is long: who asks it is
# waited for five seconds, by as many as there is room for.  It is there, and
# so what was known of the key is not used.  It takes its time: the end of this
# file has the rest.

my $still = $t->redis('still');
my $small = $t->gateway(
    redis => $still, server => $STATUS, name => 'small',
    events => 'worker_connections ' . CONNS . ';',
    http => 'convotic_redis %%REDIS%% connect_timeout=1h timeout=1h;'
          . 'convotic_key_valid 100ms; convotic_key_stale 1h;'
          . 'convotic_cache_valid 1h;',
);
my @COME_AGAIN = (503, 'INTERNAL_ERROR', 'Service temporarily unavailable');


sub ask_small {
    my $conn = $small->connect;

    $conn->write(Convotic::HTTP::request_text('/v1/contacts?limit=99', {},
                                              @acme));

    return $conn;
}


my $still_body = contacts_body(workspace => 'acme', limit => 99);

success_is(ask_small()->read, $still_body, 'no room: the key is known');
sleep 0.2;
$still->sigstop;

my $who_asks = ask_small();

sleep 0.2;

my @who_wait = map { ask_small() } 1 .. ROOM;

ok(wait_until(sub { waiting($small) == ROOM }, BACK), 'no room: they wait');
error_is(ask_small()->read('GET', BACK), @COME_AGAIN,
         'no room: one more is told to come again') for 1 .. MORE;


# A crowd; some of it ask for the header only.

for my $case ([ 'a cold query', $two ],
              [ 'a cold query, no first level', $bare ])
{
    my ($name, $nginx) = @$case;
    my $path = cold();
    my $before = metrics($nginx);
    my $job = crowd($nginx, map {
        [ $path, $_ % 10 ? {} : { method => 'HEAD' }, @acme ]
    } 1 .. CROWD);

    all_wait($nginx, CROWD - 1, $name);

    my $gets = $redis->calls('get');

    release_ok(1, "$name: one request is held");

    my @all = answers($job);
    my $after = metrics($nginx);

    is_deeply(faults(body(), @all), {}, "$name: all are served");
    is($up->count, 1, "$name: one request to the upstream");
    cmp_ok($redis->calls('get') - $gets, '<=', LOOKS,
           "$name: one of the other worker gets the body, for all of them");
    is(scalar(grep { $_->{cache} =~ /^convotic; fwd=uri-miss;.*; collapsed/ }
              @all),
       CROWD - 1, "$name: the others say that they were collapsed");
    is($after->{waits}{served} - $before->{waits}{served}, CROWD - 1,
       "$name: they are counted");
    is($after->{requests}{miss} - $before->{requests}{miss}, CROWD,
       "$name: as misses");
    is($after->{fills}{stored} - $before->{fills}{stored}, 1,
       "$name: one fill");
    none_waits($nginx, $name);
}


# One question to Redis for a key that nobody knows yet.

{
    my $name = 'a cold key';
    my $key = $redis->add_key(test_key('cold'), workspace => 'acme');
    my $path = cold(hold => 0);
    my $before = $redis->calls('hgetall');

    $redis->sigstop;

    my $job = crowd($two, map { [ $path, 'X-API-Key' => $key ] }
                              1 .. CROWD / 2);

    all_wait($two, CROWD / 2 - 1, $name);
    $redis->cont;
    is_deeply(faults(body(), answers($job)), {}, "$name: all are served");
    is($redis->calls('hgetall') - $before, 1, "$name: one HGETALL");
    is($up->count, 1, "$name: one request to the upstream");
}


# Keys are many, workspaces are what a body belongs to.

for my $workspaces ([ 'acme' ], [ 'acme', 'beta' ]) {
    my $name = KEYS . ' keys of ' . join ' and ', @$workspaces;
    my $path = cold();
    my @who = map { $workspaces->[ $_ % @$workspaces ] } 1 .. KEYS;
    my @keys = map {
        $redis->add_key(test_key("$name $_"), workspace => $who[$_])
    } 0 .. $#who;
    my $job = crowd($two, map { [ $path, 'X-API-Key' => $_ ] } @keys);

    all_wait($two, KEYS - @$workspaces, $name);
    release_ok(scalar @$workspaces, "$name: a request for each workspace");

    my @all = answers($job);

    for my $workspace (@$workspaces) {
        is_deeply(faults(body(1, $workspace),
                         map { $all[$_] } grep { $who[$_] eq $workspace }
                                          0 .. $#who),
                  {}, "$name: $workspace gets its own");
    }

    is($up->count, @$workspaces, "$name: and no other request");
}


# What was fetched for one generation is not what a later one waits for,
# whichever of them comes first.

for my $order ([ 1, 2 ], [ 2, 1 ]) {
    my $name = "a purge during a fetch, $order->[0] comes first";
    my $path = cold(hold => 'version 1');
    my $old = crowd($two, map { [ $path, @acme ] } 1 .. FEW);

    all_wait($two, FEW - 1, $name);
    ok(wait_until(sub { $up->count == 1 }, BACK), "$name: one leads");

    $up->set(version => 2, hold => 'version 2');
    ok(purge($two), "$name: it is known");

    my $new = crowd($two, map { [ $path, @acme ] } 1 .. FEW);

    all_wait($two, 2 * (FEW - 1), $name);
    is($up->count, 2, "$name: each generation has a fetch of its own");
    $up->set(hold => 0);

    for my $version (@$order) {
        my $fills = ended($two);

        $up->release("version $version");
        wait_until(sub { ended($two) > $fills }, BACK);
    }

    # who came before may have either

    is_deeply(faults(body(1), grep { $_->{body} ne body(2) } answers($old)),
              {}, "$name: who came before it");
    is_deeply(faults(body(2), answers($new)), {}, "$name: who came after it");
    is_deeply(faults(body(2), answers(crowd($two, ([ $path, @acme ]) x FEW))),
              {}, "$name: who comes later");
    is($up->count, 2, "$name: two requests in all");
}


# Who has waited for a generation that is no more, and then for the next one,
# keeps neither: a worker's memory does not grow.

{
    my $name = 'purges during fetches';
    my ($worker) = $alone->workers;
    my $path = cold();
    my (@faults, $before);

    for my $round (1 .. ROUNDS) {
        my $large = body($round) . ' ' x LARGE;
        my @conns = map { $alone->connect } 0 .. 3;

        # for the others, of whom one leads then

        $up->set(hold => 'old', how => { body => $large });
        $_->write(Convotic::HTTP::request_text($path, {}, @acme)) for @conns;
        wait_until(sub { waiting($alone) == 3 && $up->count == 2 * $round - 1 },
                   BACK);
        purge($alone);
        $up->set(hold => 'new');
        $up->release('old');
        wait_until(sub { waiting($alone) == 2 && $up->count == 2 * $round },
                   BACK);
        $up->release('new');

        push @faults, grep { !$_ || $_->status != 200 || $_->body ne $large }
                      map { $_->read } @conns;

        purge($alone);
        $before = kilobytes($worker) if $round == WARM;
    }

    is(scalar @faults, 0, "$name: all are served");
    is($up->count, 2 * ROUNDS, "$name: two fetches each time");

    SKIP: {
        skip 'a sanitizer keeps what was freed', 1 if $ENV{ASAN_OPTIONS};

        cmp_ok(kilobytes($worker) - $before, '<', GROWTH,
               "$name: the memory of the worker");
    }
}


# A crowd that finds an outdated body in Redis, each for itself, and waits for the
# next one, does not keep it.

{
    my $name = 'a crowd behind a purge';
    my ($worker) = $alone->workers;
    my $path = cold(hold => 0);
    my $old = body() . ' ' x OUTDATED;

    $up->set(how => { body => $old });
    is($alone->get($path, @acme)->body, $old, "$name: the old one");
    ok(wait_until(sub { grep { length $redis->cmd('GET', $_) > OUTDATED }
                        $redis->names('convotic:body:*') }, BACK),
       "$name: it is stored");
    purge($alone);
    $up->set(hold => 'new', how => { body => body() });

    my $before = kilobytes($worker);
    my @conns = map { $alone->connect } 1 .. CROWD;

    $_->write(Convotic::HTTP::request_text($path, {}, @acme)) for @conns;
    ok(wait_until(sub { waiting($alone) == CROWD - 1 && $up->count == 2 }, BACK),
       "$name: all wait for one");

    SKIP: {
        skip 'a sanitizer keeps what was freed', 1 if $ENV{ASAN_OPTIONS};

        cmp_ok(kilobytes($worker) - $before, '<', CROWD * OUTDATED / 1024 / 2,
               "$name: the memory of the worker");
    }

    $up->release('new');
    is(scalar(grep { $_->read->body eq body() } @conns), CROWD,
       "$name: all are served the new one");
}


# The leader's client leaves.

{
    my $name = 'the client leaves';
    my $path = cold();
    my $conn = $alone->connect;

    $conn->write(Convotic::HTTP::request_text($path, {}, @acme));
    ok(wait_until(sub { $up->count == 1 }, BACK), "$name: it leads");

    my $job = crowd($alone, map { [ $path, @acme ] } 1 .. FEW);

    all_wait($alone, FEW, $name);
    $conn->reset;
    $up->release;
    is_deeply(faults(body(), answers($job)), {},
              "$name: the others are served");
    success_is($alone->get($path, @acme), body(), "$name: it is stored");
    is($up->count, 1, "$name: and nobody asks again");
}


# Those who wait leave.

{
    my $name = 'waiters leave';
    my $path = cold();
    my @conns = map { $alone->connect } 0 .. FEW;

    for my $i (0 .. $#conns) {
        $conns[$i]->write(Convotic::HTTP::request_text($path, {}, @acme));
        wait_until(sub { $up->count == 1 }, BACK) if $i == 0;
    }

    all_wait($alone, FEW, $name);
    $_->reset for @conns[2 .. $#conns];
    all_wait($alone, 1, $name);
    $up->release;
    success_is($conns[0]->read, body(), "$name: the leader is served");
    success_is($conns[1]->read, body(), "$name: who stayed is served");
    is($up->count, 1, "$name: of one fetch");
    none_waits($alone, $name);
}

{
    my $name = 'all leave';
    my $path = cold();
    my @conns = map { $two->connect } 1 .. FEW;

    $_->write(Convotic::HTTP::request_text($path, {}, @acme)) for @conns;
    all_wait($two, FEW - 1, $name);
    $_->reset for @conns;
    none_waits($two, $name);
    $up->release;
    ok(wait_until(sub { $redis->cmd('DBSIZE')
                        && grep { $redis->cmd('GET', $_) =~ /limit=$limit\n/ }
                           $redis->names('convotic:body:*') }, BACK),
       "$name: what came is stored");
    success_is($two->get($path, @acme), body(), "$name: and served later");
    is($up->count, 1, "$name: of one fetch");
}


# The leader's worker dies.  Its clients are lost; those of the other worker
# are not, and one of them asks anew.

{
    my $name = 'the worker dies';
    my $path = cold(once => 1);
    my $job = crowd($two, map { [ $path, @acme ] } 1 .. 2 * FEW);

    $t->allow_log(qr/exited on signal 9/);
    all_wait($two, 2 * FEW - 1, $name);

    my ($first) = $up->requests;

    $two->kill_worker(scalar $first->header('X-Pid'));

    my @all = answers($job);
    my @served = grep { $_->{status} } @all;

    cmp_ok(scalar @served, '>', 0, "$name: the other worker goes on");
    cmp_ok(scalar @served, '<', 2 * FEW, "$name: its own clients are lost");
    is_deeply(faults(body(), @served), {}, "$name: all others are served");
    is($up->count, 2, "$name: of one fetch more");
    isnt(($up->requests)[1] && ($up->requests)[1]->header('X-Pid'),
         $first->header('X-Pid'), "$name: by the other worker");
    ok(wait_until(sub { 2 == (my @workers = $two->workers) }, BACK),
       "$name: there is a new one");
    success_is($two->get($path, @acme), body(), "$name: and it serves");
}


# The upstream fails: its error is for all who wait, in the same worker.  Those
# of the other worker know only that it has ended, and one of them asks again:
# the upstream is asked once per worker.

my @UNAVAILABLE = (502, 'INTERNAL_ERROR');

for my $case (
    [ '500', { status => 500, body => 'oops' },
      [ 500, 'INTERNAL_ERROR' ] ],
    [ 'a reset', { raw => '', rst => 1 }, \@UNAVAILABLE ],
    [ 'no JSON', { body => '<html>' }, \@UNAVAILABLE ],
    [ '404', { status => 404, body => $NOT_FOUND },
      [ 404, 'NOT_FOUND', 'No such contacts' ] ],
    [ 'headers', { status => 503, body => 'oops',
                   headers => [ 'Retry-After' => 7, Link => '</why>' ] },
      [ 503, 'INTERNAL_ERROR' ], 7, '</why>' ],
) {
    my ($what, $how, $error, $retry, $link) = @$case;

    for my $nginx ($alone, $two) {
        my $name = "$what, " . $nginx->name;
        my $path = cold(how => $how);
        my $job = crowd($nginx, map { [ $path, @acme ] } 1 .. FEW);

        all_wait($nginx, FEW - 1, $name);

        # the second worker's, too, once it has begun

        $up->set(hold => 0);
        $up->release;

        my ($status, $code, $message) = @$error;
        my @all = answers($job);

        is(scalar(grep { $_->{status} == $status && $_->{body} =~
                         /"code":"$code","message":"${\($message || '[^"]+')}"/
                       } @all),
           FEW, "$name: one error for all");
        is(scalar(grep { $_->{retry} eq $retry && $_->{link} eq $link } @all),
           FEW, "$name: with all that came with it") if $retry;
        cmp_ok($up->count, '<=', $nginx == $two ? 2 : 1,
               "$name: asked once per worker");
        none_waits($nginx, $name);

        $up->set(how => {});
        success_is($nginx->get($path, @acme), body(), "$name: it is over");
    }
}


# Nobody waits forever: of each query one per second goes to the upstream
# itself, the others are told to come again.

{
    my $name = 'convotic_cache_lock_timeout';
    my $late = $t->gateway(
        %scene, name => 'late', workers => 1,
        location => "$scene{location} convotic_cache_lock_timeout 300ms;",
    );
    my @queries = map { cold() } 1 .. 2;
    my $start = time();
    my $job = crowd($late, map { [ $queries[ $_ % 2 ], @acme ] } 1 .. 2 * FEW);
    my $waits;

    ok(wait_until(sub { $waits = metrics($late)->{waits};
                        $waits->{late} + $waits->{refused} == 2 * FEW - 2 },
                  BACK), "$name: nobody waits any more");

    my $seconds = time() - $start;

    release_ok(2 + $waits->{late}, "$name: those who went on, and two");
    cmp_ok($waits->{late}, '>=', 2, "$name: of each query one goes on");
    cmp_ok($waits->{late}, '<=', 2 * (1 + $seconds * TRICKLE),
           "$name: and not more than one a second");

    my @all = answers($job);
    my @refused = grep { $_->{status} == 503 } @all;

    is(scalar @refused, $waits->{refused}, "$name: the others are refused");
    is_deeply([ grep { $_->{retry} ne '2'
                       || $_->{body} !~ /\A\{"error":\{"code":"INTERNAL_ERROR",
                                          "message":"[^"]+"\}\}\z/x
                       || $_->{cache} !~ /; detail=busy\z/ } @refused ], [],
              "$name: told to come again");
    is(scalar(grep { $_->{status} == 200 } @all), 2 * FEW - @refused,
       "$name: nobody else");
    none_waits($late, $name);
    success_is($late->get($queries[1], @acme), body(),
               "$name: then all is well");
}


# What may not be given to others is not waited for one by one: once that is
# known, everybody asks, at the same time.

{
    my $name = 'no-store';
    my $path = cold(how => { headers => [ 'Cache-Control' => 'no-store' ] });
    my $job = crowd($two, map { [ $path, @acme ] } 1 .. FEW);

    all_wait($two, FEW - 1, $name);
    release_ok(1, "$name: the first");
    ok(wait_until(sub { $up->count == FEW }, BACK),
       "$name: the upstream is asked");
    is($up->release, FEW - 1, "$name: by all of the others at once");
    is_deeply(faults(body(), answers($job)), {}, "$name: all are served");
    is($up->count, FEW, "$name: each by one request");
    none_waits($two, $name);
}


# Nobody has waited for the server of keys for longer than all this took.

{
    my $name = 'no room';
    my @vain = grep { $_ && !$_->error_faults(@COME_AGAIN)
                      && $_->header('Retry-After') }
               map { $_->read('GET', BACK) } @who_wait;

    is(scalar @vain, ROOM, "$name: all who waited are told to come again");
    is(waiting($small), 0, "$name: nobody waits");
    is($who_asks->read('GET', NEVER), undef, "$name: who asks waits for Redis");
    $still->cont;
    success_is($who_asks->read('GET', BACK), $still_body,
               "$name: until it answers");
    success_is($small->get('/v1/contacts?limit=99', @acme), $still_body,
               "$name: as ever");
}

$t->finish;
