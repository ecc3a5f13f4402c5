#!/usr/bin/perl

# Redis Sentinel makes a replica the master: because the master was killed, and
# because it was asked to.  Meanwhile a good key is served or told to come again
# and never called bad, a revoked one opens nothing, and no purged body comes
# back.  Then what is written to the new master counts, and what the old one had
# counted of a rate does, too.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Sentinel;
use Convotic::Test;

use Time::HiRes qw(sleep time);

use constant {
    BACK   => 20,               # seconds until something has happened, at most
    LIMIT  => 12,               # requests a minute, of one key
    WINDOW => 60,               # seconds
    PAUSE  => 0.005,            # seconds between requests
    SOON   => 1.5,              # seconds that old answers are watched for
};

my %key = map { ($_ => test_key($_)) } qw(good revoked late few new);

my $t = Convotic::Test->new(rates => 1);
my $up = $t->upstream;


sub body {
    my ($version) = @_;

    return contacts_body(workspace => 'acme', limit => 2, version => $version);
}


# What a client sees that goes on all the time, with a good key and a revoked
# one in turn: answers that nobody may get, and how many there were.

sub client {
    my ($go, $nginx) = @_;

    my %sum = (answers => 0, served => 0, faults => {});

    while ($go->()) {
        for my $who (qw(good revoked)) {
            my $res = eval { $nginx->contacts('limit=2', { lax => 1 },
                                              'X-API-Key' => $key{$who}) };
            my $status = $res && $res->status || 0;
            my $fault = $status == 503 ? join '; ', $res->error_faults(503)
                : $who eq 'revoked'    ? $status != 401 && "status $status"
                : $status != 200       ? "status $status"
                : $res->body ne body(2) && $res->body ne body(3)
                                         && 'another body';

            $sum{answers}++;
            $sum{served}++ if $status == 200;
            $sum{faults}{"$who: $fault"}++ if $fault;
        }
        sleep PAUSE;
    }

    return \%sum;
}


for my $case ([ 'killed', 1 ], [ 'asked', 0 ]) {
    my ($how, $dies) = @$case;

    $up->set(version => 1);

    my $master = $t->redis("master_$how");
    my $proxy = $t->byte_proxy(to => $master);
    my $nginx = $t->nginx(
        name => $how, redis => $proxy, upstream => $up, key => $key{good},
        http => <<'END', server => 'location = /status { convotic_status json; }',
    convotic_redis %%REDIS%%;
    convotic_cache_valid 1h;
    convotic_key_valid 1s;
    convotic_key_invalid 1s;
END
        start => 0);

    $master->init;
    $master->add_key($key{$_}, workspace => 'acme', rate => 1_000_000)
        for qw(good late);
    $master->add_key($key{revoked}, workspace => 'acme', status => 'revoked');
    $master->add_key($key{few}, workspace => 'few', rate => LIMIT);

    my $replica = $t->redis("replica_$how", 'replicaof 127.0.0.1 ' . $master->port,
                            'repl-diskless-load swapdb');

    ok($replica->wait_replica(BACK), "$how: there is a replica");

    my $sentinel = Convotic::Sentinel->new(dir => $t->dir, master => $master);
    my $status = sub { return $nginx->get('/status')->json };
    my $ready = sub { my $now = $status->();
                      $now->{tracking_confirmed} && !$now->{redis_away}{keys} };
    my $ask = sub { my ($who) = @_;
                    return $nginx->contacts('limit=2', 'X-API-Key' => $key{$who}) };

    $nginx->start;
    ok(wait_until($ready, BACK), "$how: tracked");


    # A body that is purged, and a rate that is used up.

    success_is($ask->('good'), body(1), "$how: the first body");
    $up->set(version => 2);
    $master->purge('acme');
    ok(wait_until(sub { $ask->('good')->body eq body(2) }, BACK), "$how: purged");

    my $begin = time();
    my @few = map { $ask->('few')->status } 0 .. LIMIT;

    is($few[-1], 429, "$how: a rate is used up");
    $master->cmd('WAIT', 1, 1000);


    # A third body is there, which a new server's generation asks for.

    $up->set(version => 3);

    my $client = background(sub { client($_[0], $nginx) });

    $sentinel->failover($replica, sub { $dies ? $master->kill : $sentinel->ask });
    $proxy->lead($replica);
    $replica->set_key($key{late}, status => 'revoked');

    ok(wait_until($ready, BACK), "$how: used again");
    sleep SOON;

    my $sum = $client->end->result;

    is_deeply($sum->{faults}, {},
              "$how: none of $sum->{answers} answers is wrong");
    cmp_ok($sum->{served}, '>', 10, "$how: most are served");

    is($ask->('late')->status, 401, "$how: what was revoked meanwhile is");

    push @few, map { $ask->('few')->status } 0 .. LIMIT;

    my $windows = 1 + int(time() / WINDOW) - int($begin / WINDOW);

    cmp_ok(scalar(grep { $_ == 200 } @few), '<=', $windows * LIMIT,
           "$how: no second allowance");


    # What is written now is seen as ever.

    $replica->add_key($key{new}, workspace => 'acme');
    ok(wait_until(sub { $ask->('new')->status == 200 }, BACK), "$how: a new key");
    $replica->purge('acme');
    ok(wait_until(sub { $ask->('good')->body eq body(3) }, BACK), "$how: a purge");
    $replica->set_key($key{good}, status => 'revoked');
    ok(wait_until(sub { $ask->('good')->status == 401 }, BACK), "$how: a revocation");

    $nginx->stop;
    $sentinel->stop;
}

$t->finish;
