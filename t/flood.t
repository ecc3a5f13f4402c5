#!/usr/bin/perl

# A flood of changes: somebody writes 50,000 keys, generations and names that
# are neither in each second.  All are told and counted, the connection that
# tracks is kept, requests are answered meanwhile, and a change among them is
# seen as ever.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Resp qw(resp_command);
use Convotic::Test;
use Convotic::Workers;

use List::Util qw(max);
use Time::HiRes qw(sleep time);

use constant {
    SECONDS => 3,
    RATE    => 50_000,          # writes a second, if the machine can
    BATCH   => 999,             # in one piece
    BACK    => 20,              # seconds until something has happened, at most
};

my @KINDS = qw(key generation foreign);

my $t = Convotic::Test->new;
my $redis = $t->redis;
my $up = $t->upstream;
my $nginx = $t->gateway(
    redis => $redis, upstream => $up, workers => 2,
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_key_valid 1h; convotic_key_invalid 1h; convotic_cache_valid 1h;
EOC
    server => Convotic::Workers::server_conf()
              . 'location = /alive { return 204; }',
);
my $workers = Convotic::Workers->new($nginx);
my $body = contacts_body(workspace => 'acme', limit => 2);
my @fresh = map { test_key("fresh $_") } 1 .. 2000;

$redis->add_key($_, workspace => 'acme') for @fresh;

ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK),
   'changes are told');

# what was written before has been told by now, for this one has been

$redis->purge('acme');
ok(wait_until(sub { $workers->status->{invalidations}{generation} == 1 }, BACK),
   'all that was written before was told');
$workers->ask_each('limit=2');

my $before = $workers->status;
my $trackers = Convotic::Workers::trackers($redis);


# Names that are all different: what is written twice before it is told is told
# once.

sub name {
    my ($i) = @_;

    return $i % 3 == 0 ? sprintf 'convotic:key:%064x', $i
         : $i % 3 == 1 ? "convotic:gen:{flood$i}" : "convotic:key:flood$i";
}

my $flood = background(sub {
    my $conn = $redis->connect;
    my $start = time();
    my $sent = 0;

    while (time() - $start < SECONDS) {
        my $may = (time() - $start) * RATE;

        if ($sent > $may) {
            sleep 0.002;
            next;
        }

        $conn->write(join '', map { resp_command('SET', name($_), 1) }
                              $sent .. $sent + BATCH - 1);
        $conn->read_reply for 1 .. BATCH;
        $sent += BATCH;
    }

    return { sent => $sent, seconds => time() - $start };
});

my (%wrong, @times);
my $answered = 0;
my $until = time() + SECONDS;

while (time() < $until) {
    my $new = $fresh[ $answered % @fresh ];

    for my $pid ($workers->pids) {
        my $conn = $workers->conn($pid);
        my %ask = (
            alive     => [ '/alive', 204, '' ],
            known     => [ '/v1/contacts?limit=2', 200, $body, $nginx->key ],
            'not yet' => [ '/v1/contacts?limit=2', 200, $body, $new ],
            unknown   => [ '/v1/contacts?limit=2', 401, undef, 'nobody' ],
        );

        for my $what (sort keys %ask) {
            my ($path, $status, $expected, $key) = @{ $ask{$what} };
            my $start = time();
            my $res = $conn->get($path, 'X-API-Key' => $key);

            push @times, time() - $start if $what eq 'alive';
            $answered++;
            $wrong{"$what: " . ($res ? $res->status : 'no answer')}++
                unless $res && $res->status == $status
                       && (!defined $expected || $res->body eq $expected);
        }
    }
}

# a change in the middle of what has not been told yet

$redis->set_key($nginx->key, status => 'revoked');
ok($workers->all_see(sub { $_[0]->status == 401 }, BACK, 'limit=2'),
   'a key that is revoked behind the flood: seen by every worker');

my $result = $flood->result;
my ($sent, $seconds) = @$result{qw(sent seconds)};

is_deeply(\%wrong, {}, "none of $answered answers was wrong");
cmp_ok($answered, '>', 100, 'there were enough of them');
cmp_ok($sent, '>', 10 * BATCH, "$sent names were written");

my %expected = map { ($_ => 0) } @KINDS;
$expected{ $KINDS[ $_ % 3 ] }++ for 0 .. $sent - 1;
$expected{key}++;

my $told = sub {
    my $now = $workers->status->{invalidations};

    return { map { ($_ => $now->{$_} - $before->{invalidations}{$_}) } @KINDS };
};

wait_until(sub { my $now = $told->();
                 !grep { $now->{$_} != $expected{$_} } @KINDS }, BACK);

is_deeply($told->(), \%expected, 'each was told and counted, once');
is($workers->status->{invalidations}{all}, $before->{invalidations}{all},
   'none of it was taken for a flush');
is($workers->status->{tracking}{lost}, 0, 'the connection was never lost');
is_deeply(Convotic::Workers::trackers($redis), $trackers, 'and is the same');

my @said = $nginx->log_lines(qr/\[(?:warn|error|crit)\]/);
cmp_ok(scalar @said, '<=', 1, 'it is not told of in the log one by one')
    or diag(map { "    $_\n" } @said[0 .. 2]);

note(sprintf '%.0f writes a second; of %d answers that need nothing the '
             . 'slowest took %.1f ms', $sent / $seconds, scalar @times,
     1000 * max(@times));

$redis->set_key($nginx->key, status => 'active');
ok($workers->all_see(sub { $_[0]->status == 200 }, BACK, 'limit=2'),
   'active again');

my $asked = $redis->calls('hgetall');
$workers->ask_each('limit=2') for 1 .. 10;
is($redis->calls('hgetall'), $asked, 'and known as ever');

$t->finish;
