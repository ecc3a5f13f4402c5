#!/usr/bin/perl

# Replies that are late, doubled, cut off or lost, and clients that leave before
# theirs has come.  A connection on which the order of replies may be wrong is
# closed: nobody gets what was meant for another.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK    => 10,              # seconds until it is well again, at most
    SEED    => 20260401,
    OFFSETS => 12,
};

my $MS = 250 * $Convotic::Process::FACTOR;
my $LATE = 2 * $MS / 1000;      # seconds
my $SERVER = "convotic_redis %%REDIS%% connect_timeout=${MS}ms timeout=${MS}ms;";
my $PATIENT = 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;';

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my @tenants = qw(acme bravo charlie);
my %key = map { $_ => test_key($_) } @tenants, 'nobody';

my $redis = $t->redis('keys');
$redis->init;
$redis->add_key($key{$_}, workspace => $_) for @tenants;

my ($nginx, $server);


sub use_server {
    my ($with, %arg) = @_;

    $nginx->stop if $nginx;
    $server = $with;
    $nginx = $t->nginx(redis => $server, upstream => $up, key => $key{acme},
                       http => $SERVER, %arg);

    return;
}


# Is this what the tenant may see?  A 503, where Redis was not to be had.

sub is_own {
    my ($who, $limit, $res) = @_;

    return 0 unless $res;
    return 1 if $res->status == 503;
    return $res->status == 401 if $who eq 'nobody';

    return $res->status == 200
           && $res->body eq contacts_body(workspace => $who, limit => $limit);
}


sub shown {
    my ($res) = @_;

    return $res ? $res->status . ' ' . substr($res->body, 0, 80) : 'nothing';
}


# All tenants at once, in the same queries and in others.

sub mixed {
    my @jobs = map { my $limit = $_; map { [ $_, $limit ] } @tenants, 'nobody' }
        2, 2, 3, 2;

    my @all = $nginx->concurrent([ map {
        [ "/v1/contacts?limit=$_->[1]", 'X-API-Key' => $key{ $_->[0] } ]
    } @jobs ]);

    return map {
        my ($who, $limit) = @{ $jobs[$_] };
        is_own($who, $limit, $all[$_]) ? () :
            "$who got " . shown($all[$_])
    } 0 .. $#jobs;
}


sub own_ok {
    my ($name, @faults) = @_;

    ok(!@faults, $name) or diag(map { "    $_\n" } @faults);

    return;
}


sub well_ok {
    my ($name) = @_;

    for my $who (@tenants) {
        my $res;

        wait_until(sub { $res = $nginx->contacts('limit=4',
                                                 'X-API-Key' => $key{$who});
                         $res->status == 200 }, BACK);
        success_is($res, contacts_body(workspace => $who, limit => 4),
                   "$name: $who");
    }

    return;
}


# A fresh worker does not wait to try again.

sub next_worker {
    my ($old) = $nginx->workers;

    $server->clear;
    $nginx->kill_worker($old, 'TERM');
    wait_until(sub { my ($new) = $nginx->workers; $new && $new != $old }, BACK)
        or die "no new worker\n";

    return;
}


# Later than the timer: each of the commands, of one tenant.

my $fake = $t->fake_redis(behind => $redis);
use_server($fake);
well_ok('before');

for my $command ('EXISTS', 'HGETALL ' . $redis->key_name($key{bravo}),
                 'GET ' . $redis->gen_name('bravo'),
                 'GET convotic:body:v1:{bravo}', 'SET convotic:body:v1:{bravo}',
                 'EVAL', 'ROLE')
{
    my ($name) = $command =~ /^(\w+(?: convotic:\w+)?)/;
    my $accepted = $fake->counters->{accepted};

    $redis->purge('bravo');
    $redis->cmd('DEL', $redis->gen_name('bravo')) if $command eq 'EVAL';
    $fake->script($command => { pass => 1, delay => $LATE });
    $fake->reset;
    own_ok("late: $name", mixed());
    wait_until(sub { $fake->count($command) }, BACK);
    $fake->script($command => undef);
    own_ok("late: $name: afterwards", mixed());
    ok(wait_until(sub { mixed(); $fake->counters->{accepted} > $accepted }, BACK),
       "late: $name: another connection is used");
    next_worker();
}

well_ok('after late replies');


# Never later than the timer, but in all sorts of delays: nothing is lost.

use_server($fake, http => $PATIENT);
srand SEED;
$fake->script($_ => { pass => 1, delay => int(1 + rand 30) / 1000 })
    for 'EXISTS', 'HGETALL', 'GET convotic:gen', 'GET convotic:body', 'SET';

{
    my $accepted = $fake->counters->{accepted};
    my @faults = map { mixed() } 1 .. 5;

    own_ok('slow replies', @faults);
    is($fake->counters->{accepted}, $accepted, 'slow replies: one connection');
    $fake->clear;
}


# Clients that leave while their reply is on its way.  It is read and thrown
# away; what follows it is the next one's.

for my $command ('HGETALL', 'GET convotic:gen', 'GET convotic:body') {
    my $accepted = $fake->counters->{accepted};

    $up->reset;
    $fake->reset;
    $fake->script($command => { pass => 1, delay => 1.2 });

    my @gone = map {
        my $conn = $nginx->connect;
        $conn->write("GET /v1/contacts?limit=5 HTTP/1.1\r\nHost: localhost\r\n"
                     . "X-API-Key: $key{$_}\r\n\r\n");
        $conn;
    } qw(acme bravo);

    # wherever the second one is, its replies come behind that of the first

    ok(wait_until(sub { $fake->count($command) && $fake->count('EXISTS') >= 2 },
                  BACK),
       "$command: both are on their way");
    $_->reset for @gone;
    ok(wait_until(sub { 2 == grep { / 499 / } split /\n/, $nginx->access_log },
                  BACK),
       "$command: both clients are gone");
    $fake->clear;

    own_ok("$command: those who follow", map { mixed() } 1 .. 3);
    well_ok("$command: afterwards");
    is($fake->counters->{accepted}, $accepted,
       "$command: over the same connection");
    is(scalar(grep { $_->args->{limit} == 5 } $up->requests), 0,
       "$command: nothing is fetched for those who left");

    use_server($fake, http => $PATIENT);
}

# Gone, and late beyond the timer too.

use_server($fake);
$fake->script(HGETALL => { pass => 1, delay => $LATE });

{
    my $accepted = $fake->counters->{accepted};
    my $conn = $nginx->connect;

    $fake->reset;
    $conn->write("GET /v1/contacts?limit=5 HTTP/1.1\r\nHost: localhost\r\n"
                 . "X-API-Key: $key{acme}\r\n\r\n");
    wait_until(sub { $fake->count('HGETALL') }, BACK);
    $conn->reset;
    $fake->clear;
    own_ok('gone and late: those who follow', mixed());
    well_ok('gone and late: afterwards');
    cmp_ok($fake->counters->{accepted}, '>', $accepted,
           'gone and late: over another connection');
}


# Bytes that are lost, cut off or doubled on the way.

my $proxy = $t->byte_proxy(to => $redis);
use_server($proxy);
well_ok('through the proxy');

for my $way (qw(up down both)) {
    $proxy->swallow($way);
    own_ok("swallowed, $way", mixed());
    $proxy->clear;
    own_ok("swallowed, $way: afterwards", mixed());
    next_worker();
    well_ok("swallowed, $way: well again");
}

for my $way (qw(up down)) {
    my @faults;

    for my $offset (map { int rand 3000 } 1 .. OFFSETS) {
        $proxy->truncate($offset, $way);
        push @faults, mixed();
        next_worker();
    }

    own_ok("cut off, $way", @faults);
    well_ok("cut off, $way: well again");
}

for my $end (qw(drop rst)) {
    my @faults;

    for (1 .. 3) {
        $proxy->delay(0.05);
        my @jobs = map { [ '/v1/contacts?limit=2', 'X-API-Key' => $key{$_} ] }
            @tenants;
        my @conns = map {
            my $conn = $nginx->connect;
            $conn->write("GET $_->[0] HTTP/1.1\r\nHost: localhost\r\n"
                         . "X-API-Key: $_->[2]\r\n\r\n");
            $conn;
        } @jobs;

        $proxy->$end;
        $proxy->delay(0);

        for my $i (0 .. $#conns) {
            my $res = $conns[$i]->read;
            push @faults, $tenants[$i] unless is_own($tenants[$i], 2, $res);
        }

        push @faults, mixed();
    }

    own_ok("$end", @faults);
    well_ok("$end: well again");
}


# A doubled reply is one that nobody has asked for.

for my $way (qw(up down)) {
    my @faults;

    for my $who (('acme', 'bravo') x 3) {
        $proxy->duplicate($way);
        my $res = $nginx->contacts('limit=2', 'X-API-Key' => $key{$who});
        push @faults, "$who got " . shown($res) unless is_own($who, 2, $res);
        $proxy->clear;

        for my $next (reverse @tenants) {
            $res = $nginx->contacts('limit=2', 'X-API-Key' => $key{$next});
            push @faults, "$next got " . shown($res)
                unless is_own($next, 2, $res);
        }

        next_worker();
    }

    own_ok("doubled, $way", @faults);
    well_ok("doubled, $way: well again");

    @faults = ();

    for (1 .. 4) {
        $proxy->duplicate($way);
        push @faults, mixed();
        $proxy->clear;
        push @faults, mixed();
        next_worker();
    }

    own_ok("doubled, $way, all at once", @faults);
    well_ok("doubled, $way, all at once: well again");
}


# A connection that has been good ends between two replies: what is asked again
# of the next one is judged by what the next one says alone.

my $emptied = $t->fake_redis(behind => $redis, handler => sub {
    my ($ctx, $name) = @_;
    my $trap = $ctx->vars->{trap} or return { pass => 1 };

    return { raw => '', close => 1 } if $name eq 'HGETALL' && $ctx->conn == $trap;
    return [] if $name eq 'HGETALL';
    return ":0\r\n" if $name eq 'EXISTS' && $ctx->conn != $trap;
    return { pass => 1 };
});

use_server($emptied);
well_ok('before it is emptied');
$emptied->reset;
ok(wait_until(sub { $emptied->count('ROLE') }, BACK),
   'a connection that has kept up');
my ($conn) = map { $_->{conn} } $emptied->commands;
$emptied->set(trap => $conn);
error_is($nginx->contacts('limit=4'), 503, 'INTERNAL_ERROR', undef,
         'restarted empty between EXISTS and HGETALL: no 401');
$emptied->set(trap => 0);
well_ok('filled again');

$t->finish;
