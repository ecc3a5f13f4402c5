#!/usr/bin/perl

# Shared memory that is not as it should be: entries that a worker left half
# written when it died, and a zone of another version of the module.  The test
# writes into the memory of the processes; nginx is told nothing of it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK  => 20,                # seconds until something has happened, at most
    SIZE  => 1024 * 1024,       # of the zone
    WORDS => 32,                # of the slab pool's header
    ENTRY => 24,                # bytes of an entry before its name: a sequence
                                # number, the time of its last use, the scope
    KEYS  => 20,
};

my $t = Convotic::Test->new;
my $redis = $t->redis;
my $up = $t->upstream;
my @key = map { $redis->add_key(test_key("key $_"), workspace => 'acme') }
          1 .. KEYS;
my %conf = (
    http => 'convotic_zone 1m; convotic_key_valid 1h; convotic_key_invalid 1h;'
          . 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;'
          . 'convotic_cache_valid 1h;',
    server => 'location = /status { convotic_status json; }',
);
my $g = $t->gateway(redis => $redis, upstream => $up, %conf);


sub metrics { return $g->get('/status')->json }


# Where a process has the zone, and its bytes.

sub zone_of {
    my ($pid) = @_;

    no warnings 'portable';             # addresses have 64 bits

    open my $maps, '<', "/proc/$pid/maps" or return;

    for (<$maps>) {
        my ($from, $to) = /^([0-9a-f]+)-([0-9a-f]+) rw-s / or next;
        return hex $from if hex($to) - hex($from) == SIZE;
    }

    return;
}


sub peek {
    my ($pid, $at, $length) = @_;

    open my $memory, '<:raw', "/proc/$pid/mem" or return '';
    sysseek $memory, $at, 0;

    my $bytes = '';
    sysread $memory, $bytes, $length;

    return $bytes;
}


sub poke {
    my ($pid, $at, $bytes) = @_;

    open my $memory, '+<:raw', "/proc/$pid/mem" or return;
    sysseek $memory, $at, 0;

    return (syswrite($memory, $bytes) || 0) == length $bytes;
}


# The entries in use with the digest for a name; of each, where it begins.

sub entries {
    my ($pid, $digest) = @_;

    my $from = zone_of($pid);
    my $bytes = peek($pid, $from, SIZE);
    my ($at, @found) = (-1);

    while (($at = index $bytes, $digest, $at + 1) >= 0) {
        my $used = $at >= ENTRY && unpack 'x8 Q<', substr $bytes, $at - ENTRY;
        push @found, $from + $at - ENTRY if $used;
    }

    return @found;
}


# As if the worker had died while it wrote: an odd number.

sub break {
    my ($pid, @entries) = @_;

    for my $at (@entries) {
        my $sequence = unpack 'Q<', peek($pid, $at, 8);
        poke($pid, $at, pack 'Q<', $sequence | 1) or return 0;
    }

    return scalar @entries;
}


sub statuses {
    return map { $g->contacts('limit=2', 'X-API-Key' => $_)->status } @_;
}


ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');

my ($worker) = $g->workers;

unless (zone_of($worker) && length peek($worker, zone_of($worker), 8)
        && poke($worker, zone_of($worker), peek($worker, zone_of($worker), 8)))
{
    pass('the memory of a process cannot be written to here');
    $t->finish;
    exit;
}


# Half-written entries of keys, good ones and refused ones.

{
    my $unknown = test_key('unknown');
    my @all = (@key, $unknown);
    my @expected = ((200) x @key, 401);

    is_deeply([ statuses(@all) ], \@expected, 'entries: as they are');

    my $asked = $redis->calls('hgetall');
    my $before = metrics()->{zone_entries};

    is_deeply([ statuses(@all) ], \@expected, 'entries: known');
    is($redis->calls('hgetall'), $asked, 'entries: nobody is asked');

    my @digests = map { pack 'H*', sha256_hex($_) } @all;
    my @entries = map { entries($worker, $_) } @digests;

    cmp_ok(scalar @entries, '>=', @all, 'entries: found');
    is(break($worker, @entries), scalar @entries, 'entries: half written');
    is_deeply([ statuses(@all) ], \@expected, 'half written: the same answers');
    is($redis->calls('hgetall') - $asked, scalar @all,
       'half written: each was asked for');
    is_deeply([ statuses(@all) ], \@expected, 'half written: once more');
    is($redis->calls('hgetall') - $asked, scalar @all,
       'half written: known again');
    is_deeply(metrics()->{zone_entries}, $before,
              'half written: their places were taken');

    $redis->set_key($key[0], status => 'revoked');
    ok(wait_until(sub { (statuses($key[0]))[0] == 401 }, BACK),
       'half written: a change of one is seen');
    $redis->set_key($key[0], status => 'active');
}


# The generation of the workspace.

{
    my $digest = pack 'H*', sha256_hex('acme');
    my $before = $redis->calls('get');

    cmp_ok(break($worker, entries($worker, $digest)), '>', 0,
           'a generation: half written');

    my $res = $g->contacts('limit=2', 'X-API-Key' => $key[1]);

    success_is($res, contacts_body(workspace => 'acme', limit => 2),
               'a generation: the answer');
    like($res->header('Cache-Status'), qr/; hit; /,
         'a generation: what is cached is used, once it is known');
    cmp_ok($redis->calls('get'), '>', $before,
           'a generation: it was asked for');
    $up->set(version => 2);
    $redis->purge('acme');
    ok(wait_until(sub { $g->contacts('limit=2', 'X-API-Key' => $key[1])->body
                        eq contacts_body(workspace => 'acme', limit => 2,
                                         version => 2) }, BACK),
       'a generation: a purge is seen');
}


# A zone of another version: a reload is refused, and all goes on as it was.

{
    my $name = 'another version';
    my $master = $g->pid;
    my $from = zone_of($master);
    my @words = unpack 'Q<*', peek($master, $from, 8 * WORDS);

    # of the addresses in the pool's header, that of a small number and a size

    my ($at) = grep {
        my ($layout, $size) = unpack 'Q<2', peek($master, $_, 16);
        $layout && $layout < 100 && $size > 1000 && $size < SIZE / 2;
    } grep { $_ > $from && $_ < $from + SIZE } @words;

    ok($at, "$name: its number is found");

    my $layout = unpack 'Q<', peek($master, $at, 8);

    ok(poke($master, $at, pack 'Q<', $layout + 1), "$name: and raised");
    ok(!$g->reload, "$name: the reload is refused");
    like(($g->log_lines(qr/\[emerg\]/))[0] || '',
         qr/the\ zone\ "ngx_convotic"\ in\ memory\ is\ of\ another\ version
            .*restart\ nginx,\ or\ give\ "convotic_zone"\ another\ size/x,
         "$name: with the reason, and what to do");
    is(join(',', $g->workers), $worker, "$name: the worker is the same");
    is((statuses($key[1]))[0], 200, "$name: and serves");

    # as it is told

    ok($g->reload(http => $conf{http} =~ s/convotic_zone 1m/convotic_zone 2m/r,
                  gone => 1), "$name: a reload with another size");
    is_deeply([ statuses(@key[1 .. 3]) ], [ (200) x 3 ], "$name: it serves");
    $t->allow_log(qr/the zone "ngx_convotic" in memory is of another version/);
}

$t->finish;
