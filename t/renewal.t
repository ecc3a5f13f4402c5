#!/usr/bin/perl

# The renewal of a copy, where it ends in another way than most: what comes may
# be for one client only, be the same bytes as before, or come when the time of
# the copy is over; it may be refused for two reasons; and an envelope may be
# one that no node has written.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Compress::Zlib qw(memGunzip);

use Convotic::Test;

use Time::HiRes qw(sleep time);

use constant {
    BACK   => 20,               # seconds until something has happened, at most
    HOUR   => 3_600_000,        # ms
    MINUTE => 60_000,           # ms
    LEFT   => 500,              # ms, of a copy that is to be renewed
};

my @INVALID = (502, 'INTERNAL_ERROR',
               'The upstream service gave no valid answer');

my $PATIENT = 'convotic_redis %%REDIS%% connect_timeout=60s timeout=60s;';

my $t = Convotic::Test->new;
my $redis = $t->redis;
my $fake = $t->fake_redis(behind => $redis);
my $up = $t->upstream;

my %scene = (
    redis => $fake, store => $redis, upstream => $up, http => $PATIENT,
    server => 'location = /status { convotic_status json; }',
);

my $g = $t->gateway(%scene, name => 'short',
                    location => 'convotic_cache_valid 200ms;');
my $bare = $t->gateway(%scene, name => 'bare', location => '',
                       http => "$PATIENT convotic_cache_local 0;"
                               . 'convotic_cache_valid 1h;');
my $limit = 0;


sub metrics { return $_[0]->get('/status')->json }


sub cold {
    $up->reset;
    $up->set(hold => 0, status => 200, headers => [], version => 1);

    return 'limit=' . ++$limit;
}


sub body {
    return contacts_body(workspace => 'acme', limit => $limit,
                         version => $_[0] || 1);
}


# Who renews a copy has its answer at once, but not the connection's end.

sub ask {
    my ($nginx, $query, @headers) = @_;

    return $nginx->connect->get("/v1/contacts?$query",
                                'X-API-Key' => $nginx->key, @headers);
}


sub cache { return $_[0] ? $_[0]->header('Cache-Status') || '' : 'nothing' }


# The envelope of the query's body, and another one in its place.

sub envelope {
    my ($sub) = @_;

    my $name;

    wait_until(sub { ($name) = grep { $redis->cmd('GET', $_)
                                      =~ /^query limit=$limit$/m }
                              $redis->names('convotic:body:*') }, BACK);

    my $changed = $sub->($redis->cmd('GET', $name));

    $redis->cmd('SET', $name, $changed, 'PX', HOUR);

    return;
}


# What comes may be given to nobody else: the copy is of no use any more, and
# nobody waits for others.

{
    my $name = 'then no-store';
    my $query = cold();

    success_is(ask($g, $query), body(1), "$name: the first");
    sleep 0.3;
    $up->set(version => 2, headers => [ 'Cache-Control' => 'no-store' ]);
    success_is(ask($g, $query), body(1), "$name: the copy");
    ok(wait_until(sub { metrics($g)->{fills}{passed} }, BACK),
       "$name: it is renewed in vain");
    $up->reset;

    my $res = ask($g, $query);

    success_is($res, body(2), "$name: this one asks for itself");
    like(cache($res), qr/^convotic; fwd=stale; /, "$name: it says so");
    is($up->count, 1, "$name: the upstream was asked");
}


# The same bytes again need not be packed again.

{
    my $name = 'the same bytes';
    my $query = cold();
    my @gzip = ('Accept-Encoding' => 'gzip');
    my $first = ask($g, $query, @gzip);
    my $before = metrics($g);

    is(memGunzip($first->body), body(1), "$name: as gzip");
    ok(wait_until(sub { ask($g, $query, @gzip);
                        metrics($g)->{fills_unchanged}
                            > $before->{fills_unchanged} }, BACK),
       "$name: fetched again, and known");

    my $res = ask($g, $query, @gzip);

    is($res->header('Content-Encoding'), 'gzip', "$name: still as gzip");
    is($res->body, $first->body, "$name: the same form");
    is($res->header('ETag'), $first->header('ETag'), "$name: the same tag");
    success_is(ask($g, $query), body(1), "$name: and as it is");
}


# The time of a copy is over before it is known who renews it.

{
    my $name = 'a late lease';
    my $query = cold();

    success_is(ask($bare, $query), body(1), "$name: the first");
    envelope(sub {
        my $then = int(1000 * time()) - MINUTE + LEFT;

        return $_[0] =~ s/^fresh \d+$/fresh @{[ MINUTE ]}/mr
                     =~ s/^stored \d+$/stored $then/mr;
    });
    $fake->script('SET convotic:lock' => { pass => 1,
                                           delay => 1.5 * LEFT / 1000 });
    $up->set(version => 2);

    my $res = ask($bare, $query);

    success_is($res, body(1), "$name: the copy");
    like(cache($res), qr/^convotic; hit; ttl=-\d+; detail=updating\z/,
         "$name: it is not said to be fresh");
    $fake->clear;
    ok(wait_until(sub { ask($bare, $query)->body eq body(2) }, BACK),
       "$name: renewed all the same");
}


# A lease that is neither given nor refused: whoever asked fetches, and gives
# nothing back.

for my $reply (":1\r\n", "\$2\r\nOK\r\n", "*0\r\n", "-ERR no such thing\r\n") {
    my $name = 'a lease is answered ' . $reply =~ s/\r\n/ /gr;
    my $query = cold();

    $fake->reset;
    $fake->script('SET convotic:lock' => $reply);
    success_is(ask($bare, $query), body(1), "$name: served");
    ok(wait_until(sub { cache(ask($bare, $query)) =~ /; hit; / }, BACK),
       "$name: and stored");
    is($up->count, 1, "$name: by one fetch");
    is($fake->count('EVAL'), 0, "$name: it is not given back");
    $fake->clear;
}


# What no node writes is not used, and replaced.

for my $case (
    [ 'from the future', sub {
          my $then = int(1000 * time()) + 2 * MINUTE;
          return $_[0] =~ s/^stored \d+$/stored $then/mr;
      }, 'outdated', 0 ],
    [ 'an odd tag', sub { return $_[0] =~ s/^etag "\K./X/mr }, '', 1 ],
    [ 'a tag without an end', sub { return $_[0] =~ s/^(etag ".*)"$/${1}x/mr },
      '', 1 ],
) {
    my ($what, $change, $detail, $malformed) = @$case;
    my $name = "an envelope: $what";
    my $query = cold();

    success_is(ask($bare, $query), body(1), "$name: the first");
    envelope($change);
    $up->reset;
    $up->set(version => 2);

    my $logged = () = $bare->log_lines(qr/malformed envelope/);
    my $res = ask($bare, $query);

    success_is($res, body(2), "$name: fetched anew");
    $detail ? like(cache($res), qr/; detail=$detail\z/, "$name: and says why")
            : unlike(cache($res), qr/detail=/, "$name: as if there was none");
    is(() = $bare->log_lines(qr/malformed envelope in "convotic:body:v1:/),
       $logged + 2 * $malformed, "$name: the log");
    ok(wait_until(sub { cache(ask($bare, $query)) =~ /; hit; / }, BACK),
       "$name: then it is in the cache");
    is($up->count, 1, "$name: by one fetch");
}


# One reason is told, the first.

{
    my $name = 'two reasons';
    my $query = cold();

    $up->set(headers => [ 'X-Convotic-Workspace' => 'umbra',
                          'Content-Encoding' => 'gzip',
                          'X-Convotic-Workspace' => 'other' ]);
    error_is(ask($bare, $query), @INVALID, $name);

    my @told = $bare->log_lines(qr/the upstream's answer to "$query"/);

    is(scalar @told, 1, "$name: one is told");
    like($told[0], qr/ is refused: it is marked as another workspace's/,
         "$name: the first");
    $up->set(headers => []);
    success_is(ask($bare, $query), body(1), "$name: the next one is served");
}

$t->finish;
