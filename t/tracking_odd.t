#!/usr/bin/perl

# The connection that tracks, when it is answered or told what no Redis should:
# what has the form of a message is counted and no more, anything else ends the
# connection, and all that was known is asked for again.  So it is where the
# connection breaks while it is written to, or is to another server than the
# commands go to.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Resp qw(resp_array resp_bulk resp_encode resp_int resp_nil);
use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep);

use constant {
    BACK => 20,                 # seconds until something has happened, at most
    MANY => 5000,               # elements: more than a reply may have
    DEEP => 12,                 # arrays in each other: more than there may be
    HELD => 1.1,                # seconds that a worker stands still
};

my $CHANNEL = '__redis__:invalidate';
my $PATIENT = 'connect_timeout=20s timeout=20s';
my $HOUR = 'convotic_key_valid 1h; convotic_key_invalid 1h;'
         . 'convotic_cache_valid 1h;';

my $t = Convotic::Test->new;
my $up = $t->upstream;


sub gateway {
    my (%arg) = @_;

    return $t->gateway(upstream => $up,
                       http => "convotic_redis %%REDIS%% $PATIENT; $HOUR",
                       server => Convotic::Workers::server_conf(), %arg);
}


sub status { return $_[0]->get('/status')->json }


sub tracked_ok {
    my ($nginx, $name) = @_;

    return ok(wait_until(sub { status($nginx)->{tracking_confirmed} }, BACK),
              "$name: tracking is confirmed");
}


# A change is seen, so that the connection is as good as ever.

sub seen_ok {
    my ($redis, $nginx, $name) = @_;

    $redis->set_key($nginx->key, status => 'revoked');
    ok(wait_until(sub { $nginx->contacts('limit=2')->status == 401 }, BACK),
       "$name: a key is revoked");
    $redis->set_key($nginx->key, status => 'active');
    ok(wait_until(sub { $nginx->contacts('limit=2')->status == 200 }, BACK),
       "$name: and active again");

    return;
}


sub message {
    return resp_array(resp_bulk('message'), resp_bulk($CHANNEL), @_);
}


sub deep {
    my ($n) = @_;

    return $n ? resp_array(deep($n - 1)) : resp_int(1);
}


# The commands are answered by another server than the one that tells of
# changes: after a while the first is left as well, see the end.

my @apart;

{
    my $redis = $t->redis('apart');
    my $fake = $t->fake_redis(behind => $redis, handler => sub {
        my ($ctx, $name) = @_;

        return { pass => 1 } unless $name eq 'INFO' && $ctx->vars->{other};
        return resp_bulk("# Server\r\nrun_id:" . 'b' x 40 . "\r\n");
    });
    my $nginx = gateway(redis => $fake, store => $redis);

    tracked_ok($nginx, 'apart');
    is($nginx->contacts('limit=2')->status, 200, 'apart: a known key');
    $fake->set(other => 1);
    is($fake->drop('HGETALL'), 1, 'apart: the commands go elsewhere');
    @apart = ($redis, $nginx, $fake);
}


# Messages of any form.

{
    my $redis = $t->redis('messages');
    my $fake = $t->fake_redis(behind => $redis);
    my $nginx = gateway(redis => $fake, store => $redis);
    my $hex = sha256_hex('a key');

    tracked_ok($nginx, 'messages');

    my $told = sub {
        my ($bytes) = @_;

        return $fake->push($bytes, 'SUBSCRIBE');
    };

    for my $case (
        [ 'more elements than any' => resp_array((resp_int(1)) x MANY) ],
        [ 'of a shard' => resp_encode([ 'smessage', 'x', 'y' ]) ],
        [ 'nothing but its name' => resp_encode([ 'message' ]) ],
        [ 'a channel that is a number'
              => resp_array(resp_bulk('message'), resp_int(1), resp_int(2)) ],
        [ 'a digest that is too short'
              => message(resp_encode([ 'convotic:key:abc' ])) ],
        [ 'a digest of other letters'
              => message(resp_encode([ 'convotic:key:' . 'z' x 64 ])) ],
        [ 'a digest with an odd end'
              => message(resp_encode([ 'convotic:key:' . 'a' x 63 . 'g' ])) ],
        [ 'a workspace of nothing'
              => message(resp_encode([ 'convotic:gen:{}' ])) ],
        [ 'too long a workspace'
              => message(resp_encode([ 'convotic:gen:{' . 'w' x 129 . '}' ])) ],
    ) {
        my ($name, $bytes) = @$case;
        my $before = status($nginx)->{invalidations};

        is($told->($bytes), 1, "$name: sent");
        ok(wait_until(sub { status($nginx)->{invalidations}{foreign}
                            == $before->{foreign} + 1 }, BACK),
           "$name: counted as foreign");
        is(status($nginx)->{invalidations}{all}, $before->{all},
           "$name: nothing is forgotten");
    }

    is(scalar(my @warned = $nginx->log_lines(qr/a purge of the wrong name/)), 1,
       'wrong names: told of once a minute');

    # so many that all may have changed, whatever they are

    my $before = status($nginx)->{invalidations};

    $told->(message(resp_array(
        (resp_int(1), resp_nil(), resp_bulk('x'),
         resp_bulk("convotic:key:$hex"),
         resp_array(resp_int(1), resp_nil(), resp_array())) x (MANY / 5))));
    ok(wait_until(sub { status($nginx)->{invalidations}{all}
                        == $before->{all} + 1 }, BACK),
       'many names: taken as a flush');
    is(status($nginx)->{invalidations}{foreign}, $before->{foreign},
       'many names: nothing else');
    is(status($nginx)->{tracking}{lost}, 0, 'it is the same connection');
    seen_ok($redis, $nginx, 'messages');

    # what is no message was not asked for

    for my $case (
        [ 'an empty list'     => resp_array() ],
        [ 'a list of numbers' => resp_array(resp_int(1), resp_int(2)) ],
        [ 'many in deep lists'
              => message(resp_array(deep(DEEP), (resp_int(1)) x MANY)) ],
    ) {
        my ($name, $bytes) = @$case;
        my $before = status($nginx)->{tracking};
        my $asked = $redis->calls('hgetall');

        $nginx->contacts('limit=2');
        $told->($bytes);
        ok(wait_until(sub { status($nginx)->{tracking}{confirmed}
                            > $before->{confirmed} }, BACK),
           "$name: it is connected anew");
        is(status($nginx)->{tracking}{lost}, $before->{lost} + 1,
           "$name: the connection was given up");
        is($nginx->contacts('limit=2')->status, 200, "$name: all is well");
        cmp_ok($redis->calls('hgetall'), '>', $asked,
               "$name: what was known was asked for again");
    }

    seen_ok($redis, $nginx, 'after all that');
    $nginx->stop;
}


# A handshake that is answered otherwise: as with a server that does not allow
# it.

my $redis = $t->redis;

for my $case (
    [ 'tracking in a list', 'CLIENT TRACKING', resp_array(), '' ],
    [ 'an odd error', 'CLIENT TRACKING', "-ERR no\x01, \xff\r\n",
      'ERR no?, ?' ],
    [ 'another subscription', 'SUBSCRIBE',
      resp_array(resp_bulk('unsubscribe'), resp_bulk($CHANNEL), resp_int(0)),
      '' ],
) {
    my ($name, $command, $answer, $reason) = @$case;
    my $fake = $t->fake_redis(behind => $redis);
    my $warning = qr/\[warn\].*does not let its keys be tracked/;

    $fake->script($command => $answer);

    my $nginx = gateway(redis => $fake, store => $redis);

    ok($nginx->wait_log($warning, BACK), "$name: a warning");
    like(($nginx->log_lines($warning))[0] || '',
         length $reason ? qr/: \Q$reason\E\z/ : qr/"[^"]+"\z/,
         "$name: with what was answered");
    is(status($nginx)->{tracking_confirmed}, 0, "$name: it is not confirmed");
    is($nginx->contacts('limit=2')->status, 200, "$name: a request");
    $nginx->stop;
}


# The connections break, and it is a write that meets that first: the worker
# stood still meanwhile.  Tracking asks every 200 ms for a sign of life, and for
# commands the server is asked for its role once a second.

{
    my $name = 'writes';
    my $proxy = $t->byte_proxy(to => $redis);
    my $nginx = gateway(redis => $proxy, store => $redis);
    my ($worker) = $nginx->workers;

    tracked_ok($nginx, $name);
    is($nginx->contacts('limit=2')->status, 200, "$name: a known key");

    my $confirmed = status($nginx)->{tracking}{confirmed};

    kill 'STOP', $worker;
    wait_until(sub { grep { $_->{pid} == $worker && $_->{state} eq 'T' }
                     Convotic::Process::living() }, BACK);
    is($proxy->rst, 2, "$name: the connections break");
    $redis->set_key($nginx->key, status => 'revoked');
    sleep HELD;
    kill 'CONT', $worker;
    ok($nginx->wait_log(qr/\d: tracking connection to Redis lost: cannot write/,
                        BACK), "$name: tracking");
    ok($nginx->wait_log(qr/\d: connection to Redis lost: cannot write/, BACK),
       "$name: commands");
    is($nginx->contacts('limit=2')->status, 401,
       "$name: what changed meanwhile is seen");
    is(status($nginx)->{redis_failures}{keys}, 0,
       "$name: the server is not away for that");
    ok(wait_until(sub { status($nginx)->{tracking}{confirmed} > $confirmed },
                  BACK), "$name: tracked again");
    $redis->set_key($nginx->key, status => 'active');
    ok(wait_until(sub { $nginx->contacts('limit=2')->status == 200 }, BACK),
       "$name: and the next change is seen");
    $nginx->stop;
}


# The two servers of the beginning.

{
    my ($redis, $nginx, $fake) = @apart;
    my $name = 'apart';

    ok(wait_until(sub { status($nginx)->{tracking}{lost} }, BACK),
       "$name: the connection that tracks is given up");
    tracked_ok($nginx, "$name, afterwards");
    is($fake->count('SUBSCRIBE'), 2, "$name: by another connection");
    seen_ok($redis, $nginx, $name);
}

$t->finish;
