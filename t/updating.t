#!/usr/bin/perl

# A copy whose time is over is handed out at once while one request renews it;
# a copy near its end is renewed before anybody notices.  Neither is done with
# what was purged, or may not be used.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(sleep time);

use Convotic::Test;

use constant {
    FEW    => 30,
    FILLS  => 50,
    BACK   => 20,               # seconds until something has happened, at most
    NEVER  => 0.3,              # seconds that nothing comes in
    EXPIRY => 0.3,              # after which what lives for 200 ms has expired
    VALID  => 30,               # seconds, by default
    STALE  => 300,
    HOUR   => 3_600_000,        # ms
    BEHIND => 10_000,           # ms, for so long an expired copy is handed out
};

my $UPDATING = qr/^convotic; hit; ttl=-\d+; detail=updating\z/;
my $STALE =
    qr/^convotic; fwd=stale; .*ttl=-\d+;( collapsed;)? detail=stale-if-error\z/;

my $t = Convotic::Test->new;
my $redis = $t->redis;

# What is held is answered when the test says so.

my $up = $t->upstream;

my %scene = (
    redis => $redis, upstream => $up,
    server => 'location = /status { convotic_status json; }',
    http => 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;'
            . "log_format own '\$arg_limit \$convotic_cache_status';",
);

# Where nothing lives long, and where it does.

my $g = $t->gateway(%scene, name => 'short',
                    location => 'convotic_cache_valid 200ms;'
                                . 'access_log %%DIR%%/own.log own;');
my $long = $t->gateway(%scene, name => 'long',
                       location => 'convotic_cache_valid 1h;');

# Without a first level: what is changed in Redis is what is served.

my $bare = $t->gateway(%scene, name => 'bare',
                       http => "$scene{http} convotic_cache_local 0;");

# Nor of keys and generations: they are asked for, each time.

my $direct = $t->gateway(%scene, name => 'direct',
                         http => "$scene{http} convotic_cache_local 0;"
                                 . 'convotic_key_valid 0;');

my @acme = ('X-API-Key' => $g->key);
my $limit = 0;


sub metrics { return $_[0]->get('/status')->json }


# Nothing is held any more, and a query that nobody has asked yet.

sub cold {
    my (%how) = @_;

    $up->reset;
    $up->set(hold => 0, status => 200, headers => [], version => 1, %how);

    return '/v1/contacts?limit=' . ++$limit;
}


sub body {
    return contacts_body(workspace => 'acme', limit => $limit,
                         version => $_[0]);
}


# Over a connection that stays open: who renews a copy has its answer at once,
# but the connection's end would come after the renewal.

sub ask {
    my ($nginx, $path, @rest) = @_;

    my $opt = ref $rest[0] ? shift @rest : {};

    return $nginx->connect->get($path, $opt, @acme, @rest);
}


sub cache { return $_[0] ? $_[0]->header('Cache-Status') : 'nothing' }


# In the cache, and expired.

sub expired {
    my ($nginx, $path, $name) = @_;

    success_is(ask($nginx, $path), body(1), "$name: the first");
    $up->reset;
    $up->set(hold => 1, version => 2);

    return;
}


# Until a request has found it expired; its answer.

sub first_updating {
    my ($nginx, $path, @rest) = @_;

    my $res;

    wait_until(sub { $res = ask($nginx, $path, @rest);
                     cache($res) =~ /updating|stale/ }, BACK);

    return $res;
}


sub renewed_ok {
    my ($nginx, $path, $name) = @_;

    $up->set(hold => 0);
    $up->release;

    ok(wait_until(sub { ask($nginx, $path)->body eq body(2) }, BACK),
       "$name: then the new body");

    return;
}


# The envelope of the query's body in Redis, with other times; the clock of
# "stored" is in ms.

sub age {
    my (%field) = @_;

    my ($name) = grep { $redis->cmd('GET', $_) =~ /^query limit=$limit$/m }
        $redis->names('convotic:body:*');
    my $envelope = $redis->cmd('GET', $name);

    $envelope =~ s/^$_ \d+$/$_ $field{$_}/m for keys %field;
    $redis->cmd('SET', $name, $envelope, 'PX', HOUR);

    return;
}


sub ago { return int(1000 * time()) - $_[0] }

sub stored {
    my $query = qr/^query limit=$limit$/m;

    return wait_until(sub { grep { $redis->cmd('GET', $_) =~ $query }
                            $redis->names('convotic:body:*') }, BACK);
}


# A query whose copy has been expired for a second, of the minute that it may
# be handed out for; the upstream has another version, and holds it.

sub just_expired {
    my ($name) = @_;

    my $path = cold();

    ask($long, $path);
    ok(stored(), "$name: stored");
    age(fresh => 60_000, stored => ago(61_000));
    $up->reset;
    $up->set(hold => 1, version => 2);

    return $path;
}


# Expired: all have the old one at once, one renews it.

{
    my $name = 'expired';
    my $path = cold();

    expired($g, $path, $name);

    my $before = metrics($g)->{refreshes};
    my $res = first_updating($g, $path);
    my @all = map { ask($g, $path) } 1 .. FEW;

    success_is($res, body(1), "$name: the old body");
    like(cache($res), $UPDATING, "$name: it says so");
    is_deeply([ grep { $_->body ne body(1) || cache($_) !~ $UPDATING } @all ],
              [], "$name: as all others have it");
    is($up->count, 1, "$name: one request to the upstream");
    renewed_ok($g, $path, $name);
    cmp_ok(metrics($g)->{refreshes}, '>', $before, "$name: it is counted");
    ok(wait_until(sub { $g->access_log('own.log') =~ /^$limit UPDATING$/m }),
       "$name: the variable");
}


# The same bytes again are counted, and keep their tag.

{
    my $name = 'unchanged';
    my $path = cold();
    my $etag = ask($g, $path)->header('ETag');
    my $before = metrics($g)->{fills_unchanged};

    ok(wait_until(sub { ask($g, $path);
                        metrics($g)->{fills_unchanged} > $before }, BACK),
       "$name: it is counted");
    is(ask($g, $path)->header('ETag'), $etag, "$name: the tag");
}


# Whoever renews has its own answer, and the next one after the renewal.

{
    my $name = 'the same connection';
    my $path = just_expired($name);
    my $conn = $bare->connect;
    my $res = $conn->get($path, @acme);

    success_is($res, body(1), "$name: the old body");
    like(cache($res), $UPDATING, "$name: marked");
    ok(wait_until(sub { $up->count == 1 }, BACK), "$name: it renews");
    $conn->write(Convotic::HTTP::request_text($path, {}, @acme));
    is($conn->read('GET', NEVER), undef, "$name: its next request waits");
    success_is(ask($bare, $path), body(1), "$name: others do not");
    is($up->count, 1, "$name: one request to the upstream");
    $up->release;
    success_is($conn->read, body(2), "$name: then it has the new body");
}


# It may leave, too.

for my $how ('reset', 'close') {
    my $name = "the client leaves, $how";
    my $path = just_expired($name);
    my $conn = $bare->connect;

    success_is($conn->get($path, @acme), body(1), "$name: the old body");
    ok(wait_until(sub { $up->count == 1 }, BACK), "$name: it renews");
    $conn->$how;
    success_is(ask($bare, $path), body(1), "$name: the old body for others");
    renewed_ok($bare, $path, $name);
    is($up->count, 1, "$name: one request to the upstream");
}


# In whatever form it is asked for.

for my $case (
    [ 'HEAD', { method => 'HEAD' } ],
    [ 'HTTP/1.0', { version => '1.0' }, Connection => 'keep-alive' ],
    [ 'Range', {}, Range => 'bytes=0-9' ],
    [ 'If-None-Match', {}, 'If-None-Match' => '*' ],
) {
    my ($name, $opt, @headers) = @$case;
    my $path = just_expired($name);
    my $res = ask($bare, $path, $opt, @headers);

    if ($name eq 'If-None-Match') {
        is($res->status, 304, "$name: not modified");
    } elsif ($name eq 'Range') {
        is($res->body, substr(body(1), 0, 10), "$name: a part of the old body");
    } else {
        success_is($res, body(1), "$name: the old body");
    }

    like(cache($res), $UPDATING, "$name: marked");
    ok(wait_until(sub { $up->count == 1 }, BACK), "$name: it renews");
    renewed_ok($bare, $path, $name);
    is($up->count, 1, "$name: one request to the upstream");
}


# In the last tenth of its time it is renewed while it is fresh.

{
    my $name = 'near its end';
    my $path = cold();

    ask($long, $path);
    ok(stored(), "$name: stored");
    age(fresh => HOUR, stored => ago(0.95 * HOUR));
    $up->reset;
    $up->set(hold => 1, version => 2);

    my @all = map { ask($bare, $path) } 1 .. FEW;

    is_deeply([ grep { $_->body ne body(1)
                       || cache($_) !~ /^convotic; hit; ttl=\d+\z/ } @all ],
              [], "$name: all have the old body, as a hit");
    is($up->count, 1, "$name: one request to the upstream");
    renewed_ok($bare, $path, $name);
    is($up->count, 1, "$name: and no other");
}

{
    my $name = 'near its end, first level';
    my $path = cold();
    my $nginx = $t->gateway(%scene, name => 'other');

    ask($long, $path);
    ok(stored(), "$name: stored");

    # in the ninth tenth, then, within seconds, in the last

    age(fresh => 60_000, stored => ago(53_500));
    $up->reset;
    $up->set(version => 2);

    my %seen;

    ok(wait_until(sub { my $res = ask($nginx, $path);
                        $seen{ cache($res) =~ s/ttl=\d+/ttl/r }++;
                        $res->body eq body(2) }, BACK),
       "$name: it is renewed");
    is_deeply([ grep { !/^convotic; hit; ttl(?:; detail=local)?\z/ }
                sort keys %seen ], [], "$name: nobody has waited");
    ok($seen{'convotic; hit; ttl; detail=local'},
       "$name: from the first level");
    is($up->count, 1, "$name: one request to the upstream");
    $nginx->stop;
}


# What is filled at one time does not expire at one time.

{
    my $name = 'jitter';

    cold();
    $redis->purge('acme');
    $redis->cmd('DEL', $_) for $redis->names('convotic:body:*');
    ask($bare, "/v1/contacts?limit=$_") for 1 .. FILLS;
    wait_until(sub { FILLS == (my @all = $redis->names('convotic:body:*')) },
               BACK);

    my (%fresh, @bad);

    for my $body ($redis->names('convotic:body:*')) {
        my ($fresh) = $redis->cmd('GET', $body) =~ /^fresh (\d+)$/m;
        my $left = $redis->cmd('PTTL', $body);

        $fresh{$fresh}++;
        push @bad, $fresh
            if $fresh > 1000 * VALID || $fresh < 900 * VALID
               || $left > $fresh + 1000 * STALE;
    }

    is_deeply(\@bad, [], "$name: lifetimes are within a tenth");
    cmp_ok(scalar keys %fresh, '>', FILLS / 5, "$name: and differ");
}


# Too old to be handed out: who asks waits for the next one.

$limit = 50;

{
    my $name = 'too old';
    my $path = cold();

    ask($bare, $path);
    ok(stored(), "$name: stored");
    age(fresh => 1000, stored => ago(1000 + BEHIND + 1));
    $up->reset;
    $up->set(hold => 1, version => 2);

    my @conns = map { $bare->connect } 1 .. 3;

    $_->write(Convotic::HTTP::request_text($path, {}, @acme)) for @conns;
    ok(wait_until(sub { $up->count == 1
                        && metrics($bare)->{waiting} == 2 }, BACK),
       "$name: all wait");
    $up->release;

    my @all = map { $_->read } @conns;

    success_is($_, body(2), "$name: for the new body") for @all;
    is(scalar(grep { cache($_) =~ /^convotic; fwd=stale; fwd-status=200; / }
              @all), 1, "$name: one has fetched it");
    is($up->count, 1, "$name: one request to the upstream");
}

for my $nginx ($bare, $direct) {
    my $name = 'too old, the upstream fails, ' . $nginx->name;
    my $path = cold();

    ask($nginx, $path);
    ok(stored(), "$name: stored");
    age(fresh => 1000, stored => ago(1000 + BEHIND + 1));
    $up->reset;
    $up->set(hold => 1, status => 500);

    my @conns = map { $nginx->connect } 1 .. 3;

    $_->write(Convotic::HTTP::request_text($path, {}, @acme)) for @conns;
    ok(wait_until(sub { $up->count == 1
                        && metrics($nginx)->{waiting} == 2 }, BACK),
       "$name: all wait");
    $up->release;

    for my $conn (@conns) {
        my $res = $conn->read;

        success_is($res, body(1), "$name: the old body");
        like(cache($res), $STALE, "$name: it says so");
    }

    is($up->count, 1, "$name: one request to the upstream");

    my $res = ask($nginx, $path);

    success_is($res, body(1), "$name: and at once from now on");
    like(cache($res), $STALE, "$name: marked as such");
}


# An error that is an answer is no failure: it is told, though not to who came
# first.

{
    my $name = '404';
    my $path = just_expired($name);

    $up->set(hold => 0, status => 404);
    success_is(ask($bare, $path), body(1), "$name: the old body");

    my $res;

    wait_until(sub { ($res = ask($bare, $path))->status != 200 });
    error_is($res, 404, 'NOT_FOUND', undef, "$name: then the answer");
}


# A renewal that is given up is a failure like any other, wherever its client is
# by then: the old copy goes on being served, until one succeeds.

for my $case (
    [ 'convotic_fill_timeout', { hold => 1 }, 'convotic_fill_timeout 300ms;' ],
    [ 'an answer that is refused by its header', { refused => 1 }, '' ],
) {
    my ($name, $how, $directive) = @$case;
    my $path = cold();
    my $other = $t->upstream(handler => sub {
        my ($req, $vars) = @_;

        # the rest of it is never sent

        return { raw => "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                        . "Content-Encoding: gzip\r\nContent-Length: 5000\r\n"
                        . "\r\nx" } if $vars->{refused};

        return { body => contacts_body(workspace => 'acme',
                                       limit => $req->args->{limit},
                                       version => $vars->{version}),
                 hold => $vars->{hold} };
    });
    my $nginx = $t->gateway(
        %scene, upstream => $other,
        location => "convotic_cache_valid 200ms; $directive");
    my @workers = $nginx->workers;

    $other->set(version => 1);
    success_is(ask($nginx, $path), body(1), "$name: the first");
    $other->reset;
    $other->set(version => 2, %$how);

    sleep EXPIRY;

    # over a connection that stays

    my $conn = $nginx->connect;
    my $old = $conn->get($path, @acme);

    success_is($old, body(1), "$name: the old body");
    like(cache($old), $UPDATING, "$name: it is expired");
    ok(wait_until(sub { $other->count }, BACK), "$name: it is renewed");
    ok(wait_until(sub { my $fills = metrics($nginx)->{fills};
                        $fills->{failed} + $fills->{refused} }, BACK),
       "$name: which fails");

    my $res = ask($nginx, $path);

    success_is($res, body(1), "$name: the old body all the same");
    like(cache($res), $STALE, "$name: it says so");
    is_deeply([ $nginx->workers ], \@workers, "$name: by the same worker");
    $other->set(hold => 0, refused => 0);
    ok(wait_until(sub { ask($nginx, $path)->body eq body(2) }, BACK),
       "$name: then the new body");
    $nginx->stop;
}


# What must not be used after its time is not.

for my $control ('must-revalidate', 's-maxage=1') {
    my $path = cold(headers => [ 'Cache-Control' => $control ]);

    success_is(ask($g, $path), body(1), "$control: the first");
    $up->set(version => 2, headers => []);

    my (%seen, $res);

    ok(wait_until(sub { $res = ask($g, $path);
                        $seen{ cache($res) =~ s/=-?\d+/=N/gr }++;
                        $res->body eq body(2) }, BACK),
       "$control: the new body");
    is_deeply([ grep { /updating|stale/ } keys %seen ], [],
              "$control: never after its time");
}

for my $control ('must-revalidate', 's-maxage=1') {
    my $path = cold(headers => [ 'Cache-Control' => $control ]);

    success_is(ask($g, $path), body(1), "$control, then a failure: the first");
    $up->set(status => 500);

    my (%seen, $res);

    wait_until(sub { $res = ask($g, $path);
                     $seen{ cache($res) =~ s/=-?\d+/=N/gr }++;
                     $res->status != 200 }, BACK);
    error_is($res, 500, 'INTERNAL_ERROR', undef,
             "$control, then a failure: it is told");
    is_deeply([ grep { /updating|stale/ } keys %seen ], [],
              "$control, then a failure: never after its time");
}

{
    my $name = 'stale-if-error=1';
    my $path = cold(headers => [ 'Cache-Control' => $name ]);

    success_is(ask($g, $path), body(1), "$name: the first");

    my $filled = time();
    my ($res, $last, %seen);

    $up->set(status => 500);
    wait_until(sub { my $asked = time();
                     $res = ask($g, $path);
                     $seen{ $1 }++ if cache($res) =~ /detail=([\w-]+)/;
                     $last = $asked if $res->status == 200;
                     $res->status != 200 }, BACK);
    error_is($res, 500, 'INTERNAL_ERROR', undef, "$name: then it is over");
    ok($seen{'stale-if-error'}, "$name: a stale copy until then");
    cmp_ok($last - $filled, '<=', 1.2, "$name: not for longer than that");
}


# Nor what was purged, from that moment on.

for my $case ([ 'updating', 200 ], [ 'stale-if-error', 500 ]) {
    my ($detail, $status) = @$case;
    my $name = "$detail, then a purge";
    my $path = cold();

    expired($g, $path, $name);
    $up->set(status => $status, hold => $status == 200);

    my $res;

    ok(wait_until(sub { $res = ask($g, $path);
                        cache($res) =~ /detail=$detail\z/ }, BACK), $name);
    success_is($res, body(1), "$name: the old body");

    my $purges = metrics($g)->{invalidations}{generation};
    my $asked = $up->count;

    $redis->purge('acme');
    ok(wait_until(sub { metrics($g)->{invalidations}{generation} > $purges },
                  BACK), "$name: it is known");

    if ($status != 200) {
        error_is(ask($g, $path), 500, 'INTERNAL_ERROR', undef,
                 "$name: no old body for an error");
        next;
    }

    my $conn = $g->connect;

    $conn->write(Convotic::HTTP::request_text($path, {}, @acme));
    ok(wait_until(sub { $up->count > $asked }, BACK),
       "$name: the upstream is asked");
    $up->set(hold => 0);
    $up->release;
    success_is($conn->read, body(2), "$name: and waited for");
}

$up->set(hold => 0, status => 200, headers => []);
$up->release;

$t->finish;
