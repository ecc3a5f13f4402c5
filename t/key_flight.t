#!/usr/bin/perl

# Many requests with a key that nobody knows yet: one of them asks Redis, the
# others of its worker wait for the verdict.  Whoever has waited goes on as if
# it had known the key from the start, and is not harmed by how the look-up
# ends: in a verdict, in none, or with the client that began it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use constant {
    CROWD => 100,
    FEW   => 5,
    BACK  => 20,                # seconds until something has happened, at most
};

my $CONF = 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;'
         . 'convotic_key_valid 1h; convotic_cache_valid 1h;';
my $PATH = '/v1/contacts?limit=2';
my $BODY = contacts_body(workspace => 'acme', limit => 2);

my $t = Convotic::Test->new;
my $up = $t->upstream;


sub metrics { return $_[0]->get('/status')->json }


# A key that Redis alone knows.

sub cold_key {
    my ($redis, $label) = @_;

    return $redis->add_key(test_key($label), workspace => 'acme');
}


sub send_to {
    my ($key, @conns) = @_;

    $_->write(Convotic::HTTP::request_text($PATH, {}, 'X-API-Key' => $key))
        for @conns;

    return;
}


sub all_wait {
    my ($nginx, $n, $name) = @_;

    my $now;

    wait_until(sub { ($now = metrics($nginx)->{waiting}) == $n }, BACK);
    is($now, $n, "$name: $n wait");

    return;
}


# One worker: what Redis is asked is seen, and answered when it goes on.

{
    my $redis = $t->redis('one');
    my $fake = $t->fake_redis(behind => $redis);
    my $nginx = $t->gateway(
        redis => $fake, store => $redis, upstream => $up, http => $CONF,
        server => 'location = /status { convotic_status json; }');
    my $key = cold_key($redis, 'waited for');
    my $look_up = 'HGETALL ' . $redis->key_name($key);
    my $name = 'a body that is at hand';

    $nginx->contacts('limit=2') for 1 .. 2;

    my $before = metrics($nginx);
    my @conns = map { $nginx->connect } 0 .. FEW;

    $redis->sigstop;
    send_to($key, @conns);
    all_wait($nginx, FEW, $name);
    $redis->cont;

    my @all = map { $_->read } @conns;
    my $after = metrics($nginx);

    success_is($_, $BODY, "$name: served") for @all;
    is_deeply([ grep { !/^convotic; hit; ttl=\d+(?:; detail=local)?\z/ }
                map { scalar $_->header('Cache-Status') } @all ], [],
              "$name: it is a hit, for those who waited for the key too");
    is($after->{requests}{miss}, $before->{requests}{miss},
       "$name: counted as such");
    is_deeply($after->{waits}, $before->{waits},
              "$name: nobody has waited for a fetch");
    is($fake->count($look_up), 1, "$name: one look-up");


    # The client that began it leaves: one of the others leads, not each.

    $name = 'the client leaves';
    $key = cold_key($redis, 'left');
    $look_up = 'HGETALL ' . $redis->key_name($key);
    @conns = map { $nginx->connect } 0 .. CROWD;

    $redis->sigstop;
    send_to($key, $conns[0]);
    ok(wait_until(sub { $fake->count($look_up) == 1 }, BACK),
       "$name: it is the first");
    send_to($key, @conns[1 .. CROWD]);
    all_wait($nginx, CROWD, $name);
    $conns[0]->reset;
    ok(wait_until(sub { $nginx->access_log =~ / 499 / }, BACK),
       "$name: it is gone");
    $redis->cont;

    @all = map { $_->read } @conns[1 .. CROWD];
    is(scalar(grep { $_ && $_->status == 200 && $_->body eq $BODY } @all),
       CROWD, "$name: all others are served");
    cmp_ok($fake->count($look_up), '<=', 2, "$name: two look-ups at most");
    $nginx->stop;
}


# The look-up of one worker fails while another one has learnt the record: who
# has waited for the first finds what the second knows.

{
    my $redis = $t->redis('two');
    my $proxy = $t->byte_proxy(to => $redis);
    my $name = 'a failed look-up';
    my $nginx = $t->gateway(
        redis => $proxy, store => $redis, upstream => $up, workers => 2,
        http => "$CONF upstream contacts { server %%UPSTREAM%%; }",
        server => Convotic::Workers::server_conf() . <<'END');
    location = /alone {
        convotic on;
        convotic_key_valid 0;
        proxy_pass http://contacts;
    }
END
    my @workers = map { Convotic::Workers->new($nginx) } 0 .. FEW;
    my ($one, $two) = $workers[0]->pids;
    my @conns = map { $_->conn($one) } @workers;
    my $key = cold_key($redis, 'learnt by another');

    ok(wait_until(sub { metrics($nginx)->{tracking_confirmed} }, BACK),
       "$name: tracking is confirmed");
    $workers[0]->ask_each('limit=2');

    my $look_ups = $redis->calls('hgetall');

    # the connection of one worker for commands: nothing comes any more

    my $commands = "(?s)\\A(?!.*SUBSCRIBE).*ngx_convotic-$one\\r";

    $proxy->swallow('down', only => $commands);
    send_to($key, $conns[0]);
    ok(wait_until(sub { $redis->calls('hgetall') > $look_ups }, BACK),
       "$name: it is made");
    send_to($key, @conns[1 .. FEW]);
    all_wait($nginx, FEW, $name);

    # where records are not kept, it is not waited for a look-up

    is($workers[0]->conn($two)->get('/alone?limit=2', 'X-API-Key' => $key)
       ->status, 200, "$name: the other worker knows the key");
    $proxy->accept('refuse');
    is($proxy->rst($commands), 1, "$name: the connection is lost");

    my ($asked, @waited) = map { $_->read } @conns;

    error_is($asked, 503, 'INTERNAL_ERROR', undef, "$name: who asked");
    success_is($_, $BODY, "$name: who waited") for @waited;
    is_deeply([ sort { $a <=> $b } $nginx->workers ], [ $one, $two ],
              "$name: the workers are the same");
    $proxy->accept('open');
    $nginx->stop;
}

$t->finish;
