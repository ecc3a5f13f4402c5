#!/usr/bin/perl

# A Redis that is there and does half of its work: it loads, is a replica now,
# has no memory left, wants a password, forbids, finds other types, has no room.
# Whoever is known is served, nobody is told that his key is bad, the error is
# told of in the log and not once a request; two errors at once are two lines.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(sleep time);

use constant {
    BACK  => 15,                # seconds until something has happened, at most
    TURNS => 40,                # requests of each kind while it lasts
};

my %error = (
    LOADING    => 'LOADING Redis is loading the dataset in memory',
    READONLY   => "READONLY You can't write against a read only replica.",
    OOM        => "OOM command not allowed when used memory > 'maxmemory'.",
    MISCONF    => 'MISCONF Redis is configured to save RDB snapshots, but',
    WRONGTYPE  => 'WRONGTYPE Operation against a key holding the wrong kind',
    NOAUTH     => 'NOAUTH Authentication required.',
    NOPERM     => 'NOPERM this user has no permissions to run the command',
    NOREPLICAS => 'NOREPLICAS Not enough good replicas to write.',
    maxclients => 'ERR max number of clients reached',
);

my @ALL = qw(HGETALL EXISTS GET SET EVAL EVALSHA);
my @AWAY = (503, 'INTERNAL_ERROR', 'Service temporarily unavailable');

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis;
my $fake = $t->fake_redis(behind => $redis);
my $up = $t->upstream;
my $body = contacts_body(workspace => 'acme', limit => 2);
my %key = map { ($_ => test_key($_)) } qw(good new revoked);

$redis->init;
$redis->add_key($key{good}, workspace => 'acme');
$redis->add_key($key{new}, workspace => 'acme');
$redis->add_key($key{revoked}, workspace => 'acme', status => 'revoked');


# With keys and bodies that are asked for again all the time.

sub gateway {
    return $t->nginx(
        redis => $fake, upstream => $up, key => $key{good},
        http => 'convotic_key_valid 1ms; convotic_key_invalid 1ms;'
                . 'convotic_cache_valid 1h; convotic_cache_local 0;',
        server => 'location = /status { convotic_status json; }',
    );
}


sub ask {
    my ($nginx, $who) = @_;

    return $nginx->contacts('limit=2', 'X-API-Key' => $key{$who} || $who);
}


sub works_ok {
    my ($nginx, $name) = @_;

    my $res;

    wait_until(sub { $res = ask($nginx, 'good');
                     $res->status == 200
                         && !$nginx->get('/status')->json->{redis_away}{keys} },
               BACK);
    success_is($res, $body, $name);

    return;
}


sub complaints {
    my ($nginx) = @_;

    return $nginx->log_lines(qr/\[(?:warn|error|crit)\]/);
}


for my $name (sort keys %error) {
    my $nginx = gateway();
    my $text = $error{$name};

    works_ok($nginx, "$name: before");
    error_is(ask($nginx, 'revoked'), 401, 'UNAUTHORIZED', undef,
             "$name: before, a revoked key");

    $fake->script(map { ($_ => "-$text\r\n") } @ALL);

    my %wrong;

    for my $turn (1 .. TURNS) {
        my $res = ask($nginx, 'good');
        $wrong{'known: ' . $res->raw}++
            if $res->status != 200 || $res->body ne $body
               || !defined $res->header('X-RateLimit-Limit');

        for my $who ('new', "nobody$turn") {
            $res = ask($nginx, $who);
            $wrong{"$who: " . $res->raw}++
                if $res->error_faults(@AWAY)
                   || ($res->header('Retry-After') || '') !~ /^[1-9]\d*\z/;
        }

        $res = ask($nginx, 'revoked');
        $wrong{'revoked: ' . $res->raw}++ if $res->status !~ /^(?:401|503)\z/;
    }

    is_deeply(\%wrong, {}, "$name: served if known, or told to come again");

    my @said = grep { index($_, $text) >= 0 } complaints($nginx);

    is(scalar @said, 1, "$name: said once in the log")
        or diag(map { "    $_\n" } grep { defined } @said[0 .. 2]);

    $fake->clear;
    works_ok($nginx, "$name: afterwards");
    is(ask($nginx, 'new')->status, 200, "$name: afterwards, a new key");
    is(ask($nginx, 'nobody')->status, 401, "$name: afterwards, an unknown one");
    $nginx->stop;
}


# Another error than before is another line; two at the same time, for two kinds
# of commands, are no more than two.

{
    my $nginx = gateway();

    works_ok($nginx, 'two in turn: before');

    for my $name (qw(NOPERM OOM)) {
        $fake->script(HGETALL => "-$error{$name}\r\n");
        ask($nginx, 'good') for 1 .. 5;
        is(scalar(grep { index($_, $error{$name}) >= 0 } complaints($nginx)), 1,
           "two in turn: $name is said");
        $fake->clear;
    }

    $nginx->stop;
}

for my $case (
    [ 'bodies and keys', 'GET convotic:body' => 'WRONGTYPE',
                         HGETALL => 'NOPERM' ],
    [ 'reading and writing', 'GET convotic:body' => 'WRONGTYPE',
                             SET => 'OOM' ],
    [ 'rates and keys', EVALSHA => 'NOPERM', HGETALL => 'LOADING' ],
) {
    my ($name, %both) = @$case;
    my $nginx = gateway();

    works_ok($nginx, "$name: before");
    $fake->script(map { ($_ => "-$error{ $both{$_} }\r\n") } keys %both);
    ask($nginx, 'good') for 1 .. TURNS;

    my @said = complaints($nginx);

    cmp_ok(scalar @said, '<=', 2, "two at once, $name: not once a request")
        or diag(scalar @said, " lines\n",
                map { "    $_\n" } grep { defined } @said[0 .. 3]);
    $fake->clear;
    works_ok($nginx, "$name: afterwards");
    $nginx->stop;
}

$t->finish;
