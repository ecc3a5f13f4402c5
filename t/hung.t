#!/usr/bin/perl

# Redis hangs: it accepts and says nothing.  Whoever is known is served; of the
# others, those who ask before that is noticed wait for the reply's timer, and
# nobody after them: commands are refused then, not queued, until the server has
# greeted again.  Then what has changed meanwhile counts.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep time);

use constant {
    BACK    => 15,              # seconds until something has happened, at most
    WORKERS => 3,
    TURNS   => 50,              # requests of each kind and worker
    PAUSE   => 0.03,            # seconds between them
    SLACK   => 1.75,            # timers that a request may take, of one
};

my @AWAY = (503, 'INTERNAL_ERROR', 'Service temporarily unavailable');

# So long that nothing but another turn of it takes as long once more.

my $MS = 800 * $Convotic::Process::FACTOR;

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis;
my $up = $t->upstream;
my $nginx = $t->gateway(
    redis => $redis, upstream => $up, workers => WORKERS,
    http => <<"EOC",
    convotic_redis %%REDIS%% connect_timeout=${MS}ms timeout=${MS}ms;
    convotic_key_valid 50ms; convotic_key_invalid 50ms;
    convotic_cache_valid 1h;
    log_format own '\$arg_who \$status \$convotic_redis_time \$request_time';
EOC
    server => Convotic::Workers::server_conf() . <<'EOC',
    access_log %%DIR%%/own.log own;
EOC
);
my $new = $redis->add_key(test_key('new'), workspace => 'acme');
my $workers = Convotic::Workers->new($nginx);
my $body = contacts_body(workspace => 'acme', limit => 2);


sub commands {
    my $now = $workers->status;

    return map { $now->{"redis_$_"}{keys} } qw(commands refused failures);
}

sub is_away {
    my ($res) = @_;

    return $res && !$res->error_faults(@AWAY)
           && ($res->header('Retry-After') || '') =~ /^[1-9]\d*\z/;
}

ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK), 'tracked');
is_deeply([ map { $_->status } $workers->ask_each('limit=2&who=before') ],
          [ (200) x WORKERS ], 'before');

$redis->sigstop;


# The first ones have to wait for what nobody will say, for one timer and not
# for one after the other.  Known keys are served all the same.

# The same key, asked of each worker.

my @first = map { $workers->conn($_) } $workers->pids;

$_->write(Convotic::HTTP::request_text('/v1/contacts?limit=2&who=first', {},
                                       'X-API-Key' => $new)) for @first;

is(scalar(grep { is_away($_->read) } @first), WORKERS,
   'the first ones: 503');
ok(wait_until(sub { $_->body eq $body or die $_->raw
                        for $workers->ask_each('limit=2&who=known');
                    $workers->status->{redis_away}{keys} == WORKERS }, BACK),
   'all workers have noticed');


# From here on nothing is queued, whoever asks.

my ($commands, $refused, $failures) = commands();
my (%wrong, $asked);
my $start = time();

for my $turn (1 .. TURNS) {
    for my $pid ($workers->pids) {
        my %res = (
            known  => $workers->ask($pid, 'limit=2&who=known'),
            new    => $workers->ask($pid, 'limit=2&who=new', $new),
            nobody => $workers->ask($pid, 'limit=2&who=nobody', "nobody$turn"),
        );

        $wrong{'known: ' . $res{known}->raw}++
            if $res{known}->status != 200 || $res{known}->body ne $body;
        $wrong{"$_: " . $res{$_}->raw}++
            for grep { !is_away($res{$_}) } qw(new nobody);
        $asked += 3;
    }

    sleep PAUSE;
}

my $seconds = time() - $start;
my @now = commands();

is_deeply(\%wrong, {}, 'known: served; others: told to come again');
is($now[0], $commands, "no command was queued in $asked requests");
cmp_ok($now[1] - $refused, '>=', 2 * WORKERS * TURNS,
       'each was refused instead');
cmp_ok($now[2] - $failures, '>', 0, 'the server is tried again');
cmp_ok($now[2] - $failures, '<=', WORKERS * ($seconds / 0.7 + 2),
       'about once a second by each worker');


# The log has what the workers have measured.

my @lines = map { [ split ' ' ] } split /\n/, $nginx->access_log('own.log');
my @waited = grep { $_->[0] =~ /^(?:new|nobody)\z/ && $_->[2] ne '-'
                    && $_->[2] > 0 } @lines;

is_deeply([ map { "@$_" } @waited ], [], 'nobody waited for Redis');

my @known = sort { $a <=> $b } map { $_->[3] } grep { $_->[0] eq 'known' } @lines;
my @first_times = sort { $a <=> $b } map { $_->[3] }
    grep { $_->[0] eq 'first' } @lines;

cmp_ok($first_times[-1], '<', SLACK * $MS / 1000,
       'the first ones waited for one timer');

note(sprintf 'the timer is %d ms: the first ones took up to %.0f ms; known '
             . 'keys: median %.0f, slowest %.0f ms of %d; %d attempts in %.1f s',
     $MS, 1000 * $first_times[-1], 1000 * $known[ @known / 2 ],
     1000 * $known[-1], scalar @known, $now[2] - $failures, $seconds);


# It goes on: what was said to nobody is read by nobody.

my $gone = time();

$redis->cont;
ok(wait_until(sub { !$workers->status->{redis_away}{keys} }, BACK),
   'it is back for all workers');
note(sprintf 'back after %.2f s', time() - $gone);
ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK),
   'changes are told');
is($_->status, 200, 'a new key is served')
    for $workers->ask_each('limit=2&who=after', $new);
is($_->status, 401, 'an unknown one is refused')
    for $workers->ask_each('limit=2&who=after', 'nobody');

$redis->set_key($new, status => 'revoked');
ok($workers->all_see(sub { $_[0]->status == 401 }, BACK, 'limit=2&who=after',
                     $new), 'a revocation is seen by every worker');

$t->finish;
