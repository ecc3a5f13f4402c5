#!/usr/bin/perl

# A worker that has been told to leave, and still has requests: it tries no
# server that is away, asks nobody for his role, gives the replies that are to
# come to those who wait for them, and hands the tracking over once, whatever
# becomes of the connections meanwhile.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use constant {
    BACK  => 20,                # seconds until something has happened, at most
    LATE  => 1.3,               # seconds, of a reply: a server is asked for its
                                # role, or tried again, once a second
};

my $HOUR = 'convotic_key_valid 1h; convotic_cache_valid 1h;';
my $PATIENT = 'connect_timeout=20s timeout=20s';

my $t = Convotic::Test->new;
my $redis = $t->redis;
my $up = $t->upstream;


# One worker; and a location that keeps it, for it is answered on release.

sub gateway {
    my (%arg) = @_;

    return $t->gateway(
        store => $redis, upstream => $up,
        http => "convotic_redis %%REDIS%% $PATIENT; $HOUR",
        server => Convotic::Workers::server_conf()
                  . 'location = /held { proxy_pass http://contacts; }',
        %arg);
}


sub status { return $_[0]->get('/status')->json }


sub tracked_ok {
    my ($nginx, $name) = @_;

    return ok(wait_until(sub { status($nginx)->{tracking_confirmed} }, BACK),
              "$name: tracking is confirmed");
}


# A request that is under way until it is released.

sub hold {
    my ($nginx) = @_;

    $up->reset;
    $up->set(hold => 1);

    my $conn = $nginx->connect;
    $conn->write(Convotic::HTTP::request_text('/held', {}));
    wait_until(sub { $up->count == 1 }, BACK);

    return $conn;
}


sub gone_ok {
    my ($nginx, $name) = @_;

    return ok(wait_until(sub { !$nginx->old_workers }, BACK),
              "$name: the old worker has ended");
}


# Whose connection that tracks will be lost later on, when it is one that works.

my $lost_fake = $t->fake_redis(behind => $redis);
my $lost = gateway(redis => $lost_fake);

tracked_ok($lost, 'the first one');


# A reply that is still to come, and later than the next question for the role.

sub late_reply {
    my $name = 'a late reply';
    my $fake = $t->fake_redis(behind => $redis);
    my $nginx = gateway(redis => $fake);
    my $key = $redis->add_key(test_key('late'), workspace => 'acme');
    my $conn = $nginx->connect;

    $up->set(hold => 0);
    tracked_ok($nginx, $name);
    is($nginx->contacts('limit=2')->status, 200, "$name: all is well");
    $fake->script('HGETALL ' . $redis->key_name($key) => { pass => 1,
                                                           delay => LATE });
    $conn->write(Convotic::HTTP::request_text('/v1/contacts?limit=2', {},
                                              'X-API-Key' => $key));
    ok(wait_until(sub { $fake->count('HGETALL ' . $redis->key_name($key)) },
                  BACK), "$name: it is asked for");

    my ($id) = map { $_->{conn} } grep { $_->{argv}[0] eq 'HGETALL' }
               $fake->commands;
    my $roles = sub { return scalar grep { $_->{conn} == $id
                                           && $_->{argv}[0] eq 'ROLE' }
                                    $fake->commands };

    ok($nginx->reload(redis => $redis), "$name: a reload");

    my $before = $roles->();

    success_is($conn->read('GET', BACK),
               contacts_body(workspace => 'acme', limit => 2),
               "$name: it is answered");
    is($roles->(), $before, "$name: nobody has asked for the role");
    gone_ok($nginx, $name);
    $nginx->stop;

    return;
}


# The server is away: the new worker has another one.

{
    my $name = 'a server that is away';
    my $proxy = $t->byte_proxy(to => $redis);
    my $nginx = gateway(redis => $proxy);

    tracked_ok($nginx, $name);

    my $held = hold($nginx);

    $proxy->accept('close');
    $proxy->drop;
    ok(wait_until(sub { status($nginx)->{redis_away}{keys} }, BACK),
       "$name: it is seen");
    ok($nginx->reload(redis => $redis), "$name: a reload");

    my $tried = $proxy->counters->{accepted};

    late_reply();                       # takes longer than that
    is($proxy->counters->{accepted}, $tried, "$name: it is not tried again");
    is($nginx->contacts('limit=2', { port => $nginx->port('each') },
                        'X-API-Key' => test_key('x'))->status, 401,
       "$name: the new worker has its own");
    $up->release;
    is($held->read->status, 200, "$name: the old worker answers");
    gone_ok($nginx, $name);
    $nginx->stop;
}


# The one who hands over: the new worker's tracking is not confirmed yet.

for my $case (
    [ 'its connection is lost' => sub {
          my ($nginx, $fake, $old) = @_;

          return $redis->cmd('CLIENT', 'KILL', 'ID',
                             Convotic::Workers::trackers($redis)->{$old});
      }, $lost, $lost_fake ],
    [ 'it is to end at once' => sub { 1 } ],
) {
    my ($what, $meanwhile, $nginx, $fake) = @$case;
    my $name = "hands over: $what";

    $fake ||= $t->fake_redis(behind => $redis);
    $nginx ||= gateway(redis => $fake,
                       main => 'worker_shutdown_timeout 300ms;');

    my ($old) = $nginx->workers;

    tracked_ok($nginx, $name);
    $nginx->contacts('limit=2');
    $fake->script(SUBSCRIBE => { hang => 1 });

    my $subscribed = $fake->count('SUBSCRIBE');

    ok($nginx->reload, "$name: a reload");
    ok(wait_until(sub { $fake->count('SUBSCRIBE') > $subscribed }, BACK),
       "$name: the new worker is not confirmed");
    ok($meanwhile->($nginx, $fake, $old), $name);
    $redis->set_key($nginx->key, status => 'revoked');
    gone_ok($nginx, $name);
    $fake->clear;
    $fake->drop('SUBSCRIBE');
    tracked_ok($nginx, "$name, afterwards");
    ok(wait_until(sub { $nginx->contacts('limit=2')->status == 401 }, BACK),
       "$name: a change meanwhile is seen");
    ok(!Convotic::Workers::trackers($redis)->{$old},
       "$name: the old worker does not track");
    $redis->set_key($nginx->key, status => 'active');
    ok(wait_until(sub { $nginx->contacts('limit=2')->status == 200 }, BACK),
       "$name: and the next change is seen");
    $nginx->stop;
}


# The new worker's connection is confirmed, but the old one is not answered, so
# that nothing is handed over; and then the new one is lost.

{
    my $name = 'hands over: the other connection is lost';
    my $fake = $t->fake_redis(behind => $redis, handler => sub {
        my ($ctx, $command) = @_;

        return { pass => 1 } unless $command eq 'PING'
            && $ctx->conn == ($ctx->vars->{mute} || 0);
        return undef;
    });
    my $nginx = gateway(redis => $fake);

    tracked_ok($nginx, $name);
    $nginx->contacts('limit=2');

    my ($conn) = map { $_->{conn} } grep { $_->{argv}[0] eq 'SUBSCRIBE' }
                 $fake->commands;

    $fake->set(mute => $conn);
    ok($nginx->reload, "$name: a reload");

    my ($new) = $nginx->workers;

    ok(wait_until(sub { Convotic::Workers::trackers($redis)->{$new} }, BACK),
       "$name: two track");

    my $id = Convotic::Workers::trackers($redis)->{$new};

    is($redis->cmd('CLIENT', 'KILL', 'ID', $id), 1, "$name: it is killed");
    $redis->set_key($nginx->key, status => 'revoked');
    ok(wait_until(sub { my $now = Convotic::Workers::trackers($redis)->{$new};
                        $now && $now != $id }, BACK), "$name: it comes again");
    gone_ok($nginx, $name);
    tracked_ok($nginx, "$name, afterwards");
    ok(wait_until(sub { $nginx->contacts('limit=2')->status == 401 }, BACK),
       "$name: a change meanwhile is seen");
    $nginx->stop;
}


# One that stood still and was succeeded goes on just when its successor leaves:
# it has listened all the time, and may be given the tracking back.

{
    my $name = 'given back';
    my $own = $t->redis('own');
    my $nginx = $t->gateway(redis => $own, upstream => $up, workers => 3,
        http => "convotic_redis %%REDIS%% $PATIENT; $HOUR",
        server => Convotic::Workers::server_conf());
    my $workers = Convotic::Workers->new($nginx);
    my $holders = sub { return keys %{ Convotic::Workers::trackers($own) } };

    tracked_ok($nginx, $name);

    my ($first) = $holders->();

    $workers->ask_each('limit=2');
    kill 'STOP', $first;
    $workers->forget($first);
    ok(wait_until(sub { 2 == (my @now = $holders->()) }, BACK),
       "$name: another one tracks");

    my ($second) = grep { $_ != $first } $holders->();
    my ($third) = grep { $_ != $first && $_ != $second } $nginx->workers;

    ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK),
       "$name: it is confirmed");
    $workers->forget($second);
    kill 'STOP', $third;
    kill 'QUIT', $second;
    kill 'CONT', $first;
    ok(wait_until(sub { !grep { $_ == $second } $holders->() }, BACK),
       "$name: it leaves");
    kill 'CONT', $third;
    $own->set_key($nginx->key, status => 'revoked');

    my $all = Convotic::Workers->new($nginx);

    ok($all->all_see(sub { $_[0]->status == 401 }, BACK, 'limit=2'),
       "$name: every worker sees a change");
    ok(wait_until(sub { 1 == (my @now = $holders->()) }, BACK),
       "$name: one tracks in the end");
    $own->set_key($nginx->key, status => 'active');
    ok($all->all_see(sub { $_[0]->status == 200 }, BACK, 'limit=2'),
       "$name: and tells of the next change");
    is(scalar(my @now = $nginx->workers), 3, "$name: there are three workers");
    $nginx->stop;
}

$t->finish;
