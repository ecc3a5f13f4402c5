#!/usr/bin/perl

# Redis is killed and started again, each second.  Whoever is known is served
# all the time, others are served or told to come again, nobody is told that his
# key is bad; the server that comes back is not overrun with connections, and
# is used at its first.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep time);

use constant {
    FLAPS   => 2,
    DOWN    => 1,               # seconds
    UP      => 1,
    BACK    => 10,              # seconds until something has happened, at most
    WORKERS => 2,
    NEW     => 1500,            # keys that the node does not know, for once each

    # A connection that is lost is made again at once, after 0.1 to 0.2 seconds
    # and after 0.7 to 1 seconds each, until one is good.
    TRIES   => 5,               # for each time that the server goes
};

my $t = Convotic::Test->new;
my $redis = $t->redis('keys', 'appendonly yes', 'appendfsync no');
my $proxy = $t->byte_proxy(to => $redis);
my $up = $t->upstream;
my $nginx = $t->gateway(
    redis => $proxy, store => $redis, upstream => $up, workers => WORKERS,
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=1s timeout=1s;
    convotic_key_valid 200ms; convotic_key_invalid 100ms;
    convotic_key_stale 5m; convotic_cache_valid 1h;
EOC
    server => Convotic::Workers::server_conf(),
);

my @new = map { test_key("new $_") } 1 .. NEW;
my $conn = $redis->connect;

for my $key (@new) {
    $conn->cmd('HSET', $redis->key_name($key), 'id', 'new', 'workspace', 'acme',
               'status', 'active');
}

$conn->close;

my $workers = Convotic::Workers->new($nginx);

ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK), 'tracked');
$workers->ask_each("limit=$_") for 2, 3;


# A client of each kind; what it may be answered, and what it was instead.

sub is_away {
    my ($res) = @_;

    return !$res->error_faults(503, 'INTERNAL_ERROR')
           && ($res->header('Retry-After') || '') =~ /^[1-9]\d*\z/;
}

sub is_good {
    my ($res, $limit) = @_;

    return $res->status == 200 && $res->body
        eq contacts_body(workspace => 'acme', limit => $limit);
}

sub client {
    my ($kind) = @_;

    return background(sub {
        my ($go) = @_;
        my (%seen, %wrong);

        for (my $i = 0; $go->(); $i++) {
            my $limit = 2 + $i % 2;
            my $key = $kind eq 'known' ? $nginx->key
                    : $kind eq 'new'   ? $new[ $i % @new ] : "nobody$i";
            my $res = $nginx->contacts("limit=$limit", 'X-API-Key' => $key);
            my $ok = $res && (
                $kind eq 'known' ? is_good($res, $limit)
              : $kind eq 'new'   ? is_good($res, $limit) || is_away($res)
              : !$res->error_faults(401, 'UNAUTHORIZED') || is_away($res));

            $seen{ $res ? $res->status : 0 }++;
            $wrong{ $res ? $res->raw : 'no answer' }++ unless $ok;
            sleep 0.005;
        }

        return { seen => \%seen, wrong => \%wrong };
    });
}

my %clients = map { ($_ => client($_)) } qw(known new nobody);
my $accepted = $proxy->counters->{accepted};
my $start = time();

for my $flap (1 .. FLAPS) {
    $redis->kill;
    sleep DOWN;
    $redis->start;
    sleep UP;
}

my $seconds = time() - $start;
my $made = $proxy->counters->{accepted} - $accepted;

$redis->kill;
wait_until(sub { $workers->status->{redis_away}{keys} == WORKERS }, BACK);
$redis->start;

my $back = time();
my $again = wait_until(sub { !$workers->status->{redis_away}{keys} }, BACK);

ok($again, 'back: by all workers');
note(sprintf 'back after %.2f s; %d connections were made in %.1f s, for %d',
     time() - $back, $made, $seconds, WORKERS + 1);

my %result = map { ($_ => $clients{$_}->end->result) } sort keys %clients;

is_deeply($result{$_}{wrong}, {}, "$_: nothing else was answered")
    for sort keys %result;
is_deeply([ keys %{ $result{known}{seen} } ], [ 200 ],
          'known: served all the time');
cmp_ok($result{$_}{seen}{503} || 0, '>', 0, "$_: some could not be told")
    for qw(new nobody);
cmp_ok($result{new}{seen}{200} || 0, '>', 0, 'new: some were served');
cmp_ok($result{nobody}{seen}{401} || 0, '>', 0, 'nobody: some were refused');

# requests of each worker, and tracking, each try for themselves

cmp_ok($made, '>=', FLAPS, 'it was tried again');
cmp_ok($made, '<=', (WORKERS + 1) * FLAPS * TRIES, 'not over and over');

ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK),
   'changes are told');
$redis->set_key($nginx->key, status => 'revoked');
ok($workers->all_see(sub { $_[0]->status == 401 }, BACK, 'limit=2'),
   'and seen by every worker');

my @said = $nginx->log_lines(qr/\[error\].*Redis is away/);
cmp_ok(scalar @said, '<=', (FLAPS + 1) * WORKERS,
       'each going is logged once by each worker, at most')
    or diag(map { "    $_\n" } @said);

$t->finish;
