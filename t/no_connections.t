#!/usr/bin/perl

# A worker has no connection left: clients hold all of them, with requests half
# sent.  Who finishes one then is told in the documented shape what has become
# of it: what is known is served, what needs the upstream or Redis cannot be, a
# good key is not called bad, and what was refused for this is not remembered.
# When they have gone, all is as ever.  The same where files run out first.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK  => 15,                # seconds until something has happened, at most
    PLACES => 48,               # connections or files that a worker may have
    HELD => 64,                 # connections of clients
    ASKED => 16,                # of them, those who finish their request
};

# What is asked over a connection, in turn.

my @KINDS = (
    { kind => 'known',  query => 'limit=1', who => 'acme' },
    { kind => 'cold',   query => 'limit=2', who => 'acme' },
    { kind => 'new',    query => 'limit=1', who => 'new' },
    { kind => 'nobody', query => 'limit=1', who => 'nobody' },
);

my $t = Convotic::Test->new;
my %key = map { ($_ => test_key($_)) } qw(acme new nobody);


sub body {
    my ($limit, $workspace) = @_;

    return contacts_body(workspace => $workspace || 'acme', limit => $limit);
}


# All of a request but its last line: it is under way, and nginx does not take
# the connection away for another.

sub begin {
    my ($nginx, $ask) = @_;

    my $conn = $nginx->connect;
    my $text = Convotic::HTTP::request_text("/v1/contacts?$ask->{query}", {},
                                            'X-API-Key' => $key{ $ask->{who} });

    $conn->write($text =~ s/\r\n\z//r);

    return $conn;
}


# What is wrong with an answer.  A file may have become free since the others
# were refused: then the upstream can be asked.

sub fault_of {
    my ($ask, $res) = @_;

    return 'no answer' unless $res && $res->status;

    my $good = $ask->{who} eq 'acme';

    return $res->body eq body($ask->{query} =~ /(\d+)/) ? '' : 'another body'
        if $good && $res->status == 200;
    return 'status ' . $res->status
        if $ask->{kind} eq 'known' || $res->status < 500;

    return join '; ', $res->error_faults($res->status);
}


for my $case (
    [ 'connections', qr/worker_connections are not enough/,
      events => 'worker_connections ' . PLACES . ';' ],
    [ 'files', qr/Too many open files/,
      main => 'worker_rlimit_nofile ' . PLACES . ';' ],
) {
    my ($what, $log, @conf) = @$case;

    my $redis = $t->redis("redis_$what");
    my $up = $t->upstream;
    my $nginx = $t->gateway(
        name => $what, redis => $redis, upstream => $up, key => $key{acme}, @conf,
        http => 'convotic_cache_valid 1h;',
        server => 'location = /status { convotic_status json; }',
    );
    my $status = sub { return $nginx->get('/status')->json };

    $redis->add_key($key{new}, workspace => 'other');

    ok(wait_until(sub { $status->()->{tracking_confirmed} }, BACK),
       "$what: tracked");
    ok(wait_until(sub { my $res = $nginx->contacts('limit=1');
                        $res->header('Cache-Status') =~ /detail=local/ }, BACK),
       "$what: one query is known");

    my @held = map { { ask => $_, conn => begin($nginx, $_) } }
        map { $KINDS[ $_ % @KINDS ] } 1 .. HELD;

    $t->allow_log($log);
    ok($nginx->wait_log($log, BACK), "$what: nothing is left");

    # The way to Redis is lost, and there is no place for a new one.

    $redis->cmd('CLIENT', 'KILL', 'TYPE', 'normal');

    my %wrong;

    for my $held (@held[ 0 .. ASKED - 1 ]) {
        my $res = eval { $held->{conn}->write("\r\n"); $held->{conn}->read };
        my $fault = fault_of($held->{ask}, $res);

        $wrong{"$held->{ask}{kind}: $fault"}++ if length $fault;
    }

    is_deeply(\%wrong, {},
              "$what: what is known is served, all others are told so");
    $_->{conn}->close for @held;

    ok(wait_until(sub { my $now = eval { $status->() };
                        $now && $now->{tracking_confirmed}
                        && !$now->{redis_away}{keys} }, BACK),
       "$what: they have gone");
    success_is($nginx->contacts('limit=2'), body(2), "$what: the upstream");
    success_is($nginx->contacts('limit=1', 'X-API-Key' => $key{new}),
               body(1, 'other'), "$what: a new key");
    is($nginx->contacts('', 'X-API-Key' => $key{nobody})->status, 401,
       "$what: one that is none");
    is($status->()->{waiting}, 0, "$what: nobody waits");
}

$t->finish;
