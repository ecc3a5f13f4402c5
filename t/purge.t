#!/usr/bin/perl

# A purge is one INCR.  What was fetched before it is never served after it,
# however slow the fetch, and whatever becomes of generations, bodies and
# servers.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(time);

use constant {
    BACK       => 10,           # seconds until something has happened, at most
    WORKSPACES => 20,
    ROUNDS     => 10,           # of a purge for each of them
    REFILLS    => 300,
    VALID      => 30,           # seconds, as the gateway has it by default
    STALE      => 300,
    OLD        => 20_000,       # ms, of a copy that is not served at once
};

my $PATIENT = 'connect_timeout=20s timeout=20s';
my $SERVERS = "convotic_redis %%REDIS%% $PATIENT;"
            . "convotic_cache_redis %%CACHE_REDIS%% $PATIENT;";

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my $version = 1;
my $key = test_key('acme');

my $keys = $t->redis('keys', 'appendonly yes', 'appendfsync always');
my $bodies = $t->redis('bodies');

sub write_keys {
    $keys->init;
    $keys->add_key($key, workspace => 'acme');
    $keys->add_key(test_key("w$_"), workspace => "w$_") for 1 .. WORKSPACES;

    return;
}

write_keys();

my $nginx = $t->nginx(redis => $keys, cache_redis => $bodies, upstream => $up,
                      key => $key, workers => 2, http => $SERVERS);


# What the upstream tells changes; nobody knows but those who ask it.

sub change {
    $up->set(version => ++$version);
    $up->reset;

    return;
}


sub body {
    my ($limit, $of, $who) = @_;

    return contacts_body(workspace => $who || 'acme', limit => $limit,
                         version => $of || $version);
}


sub newest_ok {
    my ($limit, $name) = @_;

    success_is($nginx->contacts("limit=$limit"), body($limit), $name);

    return;
}


# In the cache, in the version that the upstream tells now.

sub fill {
    my (@limits) = @_;

    for my $limit (@limits) {
        ok(wait_until(sub {
               my $res = $nginx->contacts("limit=$limit");
               $up->reset;
               $res = $nginx->contacts("limit=$limit");
               $res->body eq body($limit) && $up->count == 0;
           }, BACK), "limit=$limit is cached in version $version");
    }

    return;
}


# Each worker finds its own way back to a server.

sub back_ok {
    my ($name) = @_;

    ok(wait_until(sub {
           my @there = $keys->cmd('CLIENT', 'LIST') =~ / name=ngx_convotic-\d+ /g;
           @there == 2 && !grep { $_->status != 200 }
                          map { $nginx->contacts('limit=50') } 1 .. 8;
       }, BACK), $name);

    return;
}


sub generation { return $keys->cmd('GET', $keys->gen_name('acme')) }


# The plain case, and only for the one workspace.

fill(2, 3);
$nginx->contacts('limit=2', 'X-API-Key' => test_key('w1'));
wait_until(sub { $bodies->cmd('DBSIZE') == 3 }, BACK);

like(generation(), qr/^\d{16}\z/, 'a generation has 16 digits');
cmp_ok(abs(generation() / 1e6 - time()), '<', 60,
       'it is the time of its creation, in microseconds');

change();
success_is($nginx->contacts('limit=2'), body(2, $version - 1),
           'not purged: the cached version');

my $before = generation();
is($keys->cmd('INCR', 'convotic:gen:{acme}'), $before + 1, 'a purge');

for my $limit (2, 3) {
    newest_ok($limit, "purged: limit=$limit is the new version");
    ok(wait_until(sub { $up->reset; $nginx->contacts("limit=$limit");
                        $up->count == 0 }, BACK), 'and cached');
    newest_ok($limit, 'as it is now');
}

success_is($nginx->contacts('limit=2', 'X-API-Key' => test_key('w1')),
           body(2, $version - 1, 'w1'), "another workspace's is still there");

change();
$keys->purge('acme') for 1 .. 3;
newest_ok(2, 'three purges at once');
$keys->purge('w1');
$up->reset;
fill(2);
is($up->count, 0, "another workspace's purge is not ours");


# During a fetch: the upstream has read before the change and answers after
# the purge.  In every round, of every workspace.

sub during_ok {
    my ($gateway, $name) = @_;

    my (%bad, %first);
    my @who = map { "w$_" } 1 .. WORKSPACES;

    $up->set(delay => 0.05);

    for my $round (1 .. ROUNDS) {
        $up->reset;

        my @conns = map {
            my $conn = $gateway->connect;
            $conn->write("GET /v1/contacts?limit=$round HTTP/1.1\r\n"
                         . "Host: localhost\r\nX-API-Key: " . test_key($_)
                         . "\r\n\r\n");
            $conn;
        } @who;

        wait_until(sub { $up->count >= @who }, BACK);
        $up->set(version => ++$version);
        $keys->purge($_) for @who;

        for my $i (0 .. $#who) {
            my $res = $conns[$i]->read;
            $first{ $res && $res->body eq body($round, $version - 1, $who[$i]) }++;
        }

        for my $again (1, 2) {
            my @all = $gateway->concurrent([ map {
                [ "/v1/contacts?limit=$round", 'X-API-Key' => test_key($_) ]
            } @who ]);

            for my $i (0 .. $#who) {
                $bad{"$who[$i], round $round, answer $again: "
                     . substr $all[$i] ? $all[$i]->body : 'nothing', 0, 60}++
                    if !$all[$i]
                       || $all[$i]->body ne body($round, $version, $who[$i]);
            }
        }
    }

    $up->set(delay => 0);

    is_deeply([ sort keys %bad ], [], "$name: the old body is never served again");
    cmp_ok($first{1} || 0, '>', WORKSPACES * ROUNDS / 2,
           "$name: though it came after the purge");

    return;
}

during_ok($nginx, 'a purge during a fetch');

# The same where storing is slow: old bodies arrive behind new ones.

my $proxy = $t->byte_proxy(to => $bodies);
my $slow = $t->nginx(redis => $keys, cache_redis => $proxy, upstream => $up,
                     key => $key, workers => 2, http => $SERVERS);
$proxy->delay(0.03, 'up');
during_ok($slow, 'a purge during a fetch that is stored late');
$slow->stop;


# A stale copy stands in for an upstream that fails; not one that was purged
# while the upstream was failing.

{
    my $stale = $t->nginx(
        redis => $keys, cache_redis => $bodies, upstream => $up, key => $key,
        http => $SERVERS, location => 'convotic_cache_valid 100ms;'
                                    . 'convotic_cache_namespace stale;');

    $stale->contacts("limit=$_") for 2, 3;

    # so old that it is not handed out before the upstream was asked

    my @copies;
    my $then = int(1000 * time()) - OLD;

    wait_until(sub { @copies = grep { $bodies->cmd('GET', $_)
                                          =~ /^namespace stale$/m }
                               $bodies->names('convotic:body:*');
                     @copies == 2 }, BACK);
    $bodies->cmd('SET', $_,
                 $bodies->cmd('GET', $_) =~ s/^stored \d+$/stored $then/mr,
                 'PX', 600_000) for @copies;

    $up->set(status => 500);
    $up->reset;
    success_is($stale->contacts('limit=2'), body(2),
               'a copy stands in for an error');
    is($up->count, 1, 'after the upstream was asked');

    $up->reset;
    $up->set(delay => 0.3);

    my $conn = $stale->connect;
    $conn->write("GET /v1/contacts?limit=3 HTTP/1.1\r\nHost: localhost\r\n"
                 . "X-API-Key: $key\r\n\r\n");
    wait_until(sub { $up->count }, BACK);
    $keys->purge('acme');
    error_is($conn->read, 500, 'INTERNAL_ERROR', undef,
             'it was purged while the upstream was failing');
    error_is($stale->contacts('limit=2'), 500, 'INTERNAL_ERROR', undef,
             'it was purged before');
    $up->set(status => 200, delay => 0);
    $stale->stop;
}


# A generation that is lost.

$keys->purge('acme');
fill(2);
$before = generation();
change();
$keys->cmd('DEL', $keys->gen_name('acme'));
newest_ok(2, 'DEL: the new version');
cmp_ok(generation(), '>', $before, 'DEL: above all that were used');
fill(2);

for my $times (1 .. 3) {
    $before = generation();
    change();
    $keys->cmd('DEL', $keys->gen_name('acme'));
    is($keys->purge('acme'), 1, 'a lost generation, and a purge: it is 1');
    newest_ok(2, 'and the new version is served');
    cmp_ok(generation(), '>', $before, 'and the generation is a good one again');
    fill(2);
}

for my $value (0, 7, 999_999_999_999_999) {
    $before = generation();
    change();
    $keys->cmd('SET', $keys->gen_name('acme'), $value);
    newest_ok(2, "a generation of $value: the new version");
    cmp_ok(generation(), '>', $before, "a generation of $value: replaced");
    fill(2);
}

# A body of a generation that never was one of ours, waiting for its turn.

my ($name) = grep { $bodies->cmd('GET', $_)
                        =~ /\nnamespace (?!stale\n).*\nquery limit=2\n/ }
    $bodies->names('convotic:body:v1:{acme}:*');
my $forged = $bodies->cmd('GET', $name) =~ s/^generation .*/generation 1/mr;

change();
$bodies->cmd('SET', $name, $forged, 'PX', 60_000);
$keys->cmd('SET', $keys->gen_name('acme'), 1);
newest_ok(2, 'a body of the generation 1 is not served');


# A generation that is no plain integer: Redis would not increment it either.

for my $value ('abc', '', ' 1', "1774878120000000\n", '-5', '-1774878120000000',
               '+1774878120000000', '1.5', '1e15', '0x10', '0000000000000001',
               '9999999999999999999', '99999999999999999999', '9' x 400,
               'x' x 5000)
{
    my $shown = length $value > 30 ? length($value) . ' characters'
                                   : $value =~ s/\n/\\n/r;

    change();
    $keys->cmd('SET', $keys->gen_name('acme'), $value);
    like($keys->try_cmd('INCR', $keys->gen_name('acme')),
         $value eq '-5' || $value eq '-1774878120000000' ? qr/^-\d/ : qr/^ERR/,
         "'$shown' is what INCR makes of it");
    $keys->cmd('SET', $keys->gen_name('acme'), $value);

    newest_ok(2, "'$shown': from the upstream");
    change();
    newest_ok(2, "'$shown': always");
    is($keys->cmd('GET', $keys->gen_name('acme')), $value,
       "'$shown': it is left as it is");
}

ok($nginx->wait_log(qr/generation.*acme/), 'bad generations are logged');
$keys->cmd('DEL', $keys->gen_name('acme'));

# Nor of a type that GET refuses.

$keys->cmd('RPUSH', $keys->gen_name('acme'), 'x');
change();
newest_ok(2, 'a list: from the upstream');
change();
newest_ok(2, 'a list: always');
$keys->cmd('DEL', $keys->gen_name('acme'));


# Servers that lose what they had.

fill(2, 3);
change();
$bodies->cmd('FLUSHALL');
newest_ok(2, 'the bodies were flushed: the new version');
newest_ok(3, 'of everything');

fill(2, 3);
$before = generation();
change();
$keys->cmd('FLUSHDB');
is($nginx->contacts('limit=2')->status, 503, 'the keys were flushed');
write_keys();
newest_ok(2, 'and written again: the new version');
cmp_ok(generation(), '>', $before, 'with another generation');

# The same data, but who knows what the server has forgotten at its end.

fill(2, 3);
$before = generation();
my $run_id = $keys->info('run_id');
change();
$keys->restart;
isnt($keys->info('run_id'), $run_id, 'the key server was restarted');
is(generation(), $before, 'with its data');

back_ok('both workers have found it');
newest_ok(2, 'restarted: the new version');
newest_ok(3, 'restarted: of everything');

# It had lost the last purge.

fill(2);
my $kept = $bodies->cmd('GET', $name);
$before = generation();
$keys->purge('acme');
change();
fill(2);
$keys->restart;
$keys->cmd('SET', $keys->gen_name('acme'), $before);
$bodies->cmd('SET', $name, $kept, 'PX', 60_000);
back_ok('both workers have found it again');
newest_ok(2, 'a lost purge: what was purged is not revived');


# Memory: refills take the place of what was purged, and everything ends.

$bodies->cmd('FLUSHALL');
my $size = $keys->cmd('DBSIZE');
my @refilled;

for my $round (1 .. REFILLS) {
    $keys->purge('acme');
    push @refilled, map { $nginx->contacts("limit=$_")->status } 2, 3;
}

is_deeply([ grep { $_ != 200 } @refilled ], [], REFILLS . ' purges and refills');
is($bodies->cmd('DBSIZE'), 2, 'one body for each query');
is($keys->cmd('DBSIZE'), $size, 'no key more than before');

$nginx->contacts("limit=$_") for 1 .. 20;
wait_until(sub { $bodies->cmd('DBSIZE') == 20 }, BACK);

my @forever = grep {
    my $ttl = $bodies->cmd('PTTL', $_);
    $ttl <= 0 || $ttl > 1000 * (VALID + STALE);
} $bodies->names('*');

is_deeply(\@forever, [], 'every body has an expiry');
is_deeply([ map { s/:[^:]*\z//r } grep { !/^convotic:body:v1:\{acme\}:[0-9a-f]+\z/ }
            $bodies->names('*') ], [], 'and nothing else is there');

$t->finish;
