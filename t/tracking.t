#!/usr/bin/perl

# Changes of keys and generations are told by Redis and seen by every worker,
# over one connection of the node; messages that are none do no harm; what
# cannot be told, because the connection is refused, lost, silent or nobody's,
# is seen by age.
#
# What is known of keys lives for an hour here, unless a case says otherwise,
# so that none of this is seen by waiting long enough.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep time);

use constant {
    BACK    => 10,              # seconds until something has happened, at most
    BULK    => 20_000,          # names in one message
    HELD    => 1,               # seconds that an answer is under way
    KEPT_UP => 1.1,             # after which a connection is one that works
};

my $PATIENT = 'connect_timeout=20s timeout=20s';
my $HOUR = 'convotic_key_valid 1h; convotic_key_invalid 1h;'
         . 'convotic_cache_valid 1h;';

# The connection that tracks, and all others.

my $TRACKS = 'SUBSCRIBE';
my $ASKS = '(?s)\A(?!.*SUBSCRIBE)';

my $t = Convotic::Test->new;
my $up = $t->upstream;
my $version = 1;


sub gateway {
    my (%arg) = @_;

    my $http = delete $arg{http};

    return $t->gateway(
        workers => 2, upstream => $up,
        http => ($http || "convotic_redis %%REDIS%% $PATIENT;$HOUR"),
        server => Convotic::Workers::server_conf(), %arg);
}


# The node's connection and its two workers, once changes are told.

sub tracked {
    my ($nginx, $name) = @_;

    my $workers = Convotic::Workers->new($nginx);

    ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK),
       "$name: tracking is confirmed");

    return $workers;
}


sub tracker {
    my ($redis) = @_;

    my $id = Convotic::Workers::trackers($redis);

    return keys %$id == 1 ? %$id : ();
}


sub body {
    my ($limit, $of) = @_;

    return contacts_body(workspace => 'acme', limit => $limit,
                         version => $of || $version);
}


sub is_new {
    my ($limit) = @_;

    my $body = body($limit);

    return sub { $_[0]->status == 200 && $_[0]->body eq $body };
}


sub is_refused { return $_[0]->status == 401 }
sub is_served  { return $_[0]->status == 200 }


# A change, and that every worker sees it.

sub seen_ok {
    my ($workers, $change, $sub, $name, @what) = @_;

    $change->();
    ok($workers->all_see($sub, BACK, @what), "$name: seen by every worker");

    return;
}


sub purge_seen_ok {
    my ($redis, $workers, $name) = @_;

    $up->set(version => ++$version);
    seen_ok($workers, sub { $redis->purge('acme') }, is_new(2), $name,
            'limit=2');

    return;
}


# Revoked and active again, deleted and written again, purged.

sub changes_ok {
    my ($redis, $workers, $key, $name) = @_;

    seen_ok($workers, sub { $redis->set_key($key, status => 'revoked') },
            \&is_refused, "$name: a key is revoked", 'limit=2');
    seen_ok($workers, sub { $redis->set_key($key, status => 'active') },
            \&is_served, "$name: a key is active again", 'limit=2');
    purge_seen_ok($redis, $workers, "$name: a purge");

    return;
}


# The handshake, in this order, on a connection for nothing else.

{
    my $redis = $t->redis('handshake');
    my $fake = $t->fake_redis(behind => $redis);
    my $nginx = gateway(redis => $fake, store => $redis, workers => 4);
    my $workers = tracked($nginx, 'handshake');

    my %by_conn;
    push @{ $by_conn{ $_->{conn} } }, $_->{argv} for $fake->commands;

    my @tracking = grep { grep { $_->[0] eq 'SUBSCRIBE' } @$_ } values %by_conn;
    is(scalar @tracking, 1, 'four workers, one connection that tracks');

    my @argv = @{ $tracking[0] };
    my ($at) = grep { "@{ $argv[$_] }" eq 'CLIENT ID' } 0 .. $#argv;
    my ($id) = values %{ Convotic::Workers::trackers($redis) };

    is_deeply([ @argv[ $at .. $at + 2 ] ], [
        [ 'CLIENT', 'ID' ],
        [ qw(CLIENT TRACKING ON REDIRECT), $id,
          qw(BCAST PREFIX convotic:key: PREFIX convotic:gen:) ],
        [ 'SUBSCRIBE', '__redis__:invalidate' ],
    ], 'CLIENT ID, CLIENT TRACKING to itself, SUBSCRIBE');

    my %after = map { $_->[0] => 1 } @argv[ $at + 3 .. $#argv ];
    is_deeply([ keys %after ], [ 'PING' ], 'and nothing but PING afterwards');

    changes_ok($redis, $workers, $nginx->key, 'four workers');
    $nginx->stop;
}


# What is told, what is not asked, and what nobody has to believe.

{
    my $redis = $t->redis('plain');
    my $nginx = gateway(redis => $redis);
    my $workers = tracked($nginx, 'plain');
    my ($holder, $id) = tracker($redis);
    my $key = $nginx->key;

    ok($id, 'two workers, one connection that tracks');
    ok((grep { $_ == $holder } $workers->pids), 'it is one of theirs');

    $workers->ask_each('limit=2') for 1 .. 2;

    my $before = $redis->calls;
    $workers->ask_each('limit=2') for 1 .. 100;
    my $after = $redis->calls;

    is($after->{$_} || 0, $before->{$_} || 0,
       "known to both workers: no $_ in 200 requests") for qw(hgetall get);

    changes_ok($redis, $workers, $key, 'plain');

    # a refusal is known as well, until there is such a key

    my $new = test_key('new');
    ok($workers->all_see(\&is_refused, 0, 'limit=2', $new), 'an unknown key');
    $before = $redis->calls('hgetall');
    $workers->ask_each('limit=2', $new) for 1 .. 10;
    is($redis->calls('hgetall'), $before, 'its refusal is known');
    seen_ok($workers, sub { $redis->add_key($new, workspace => 'acme') },
            \&is_served, 'it is created', 'limit=2', $new);
    seen_ok($workers, sub { $redis->del_key($new) }, \&is_refused,
            'it is deleted', 'limit=2', $new);

    my $status = $workers->status;
    cmp_ok($status->{invalidations}{key}, '>=', 4,
           'changes of keys are counted');
    cmp_ok($status->{invalidations}{generation}, '>=', 1, 'purges, too');
    is($status->{invalidations}{foreign}, 0, 'nothing else came');

    # FLUSHALL is told by a message without names

    seen_ok($workers, sub { $redis->flushall },
            sub { $_[0]->status == 503 }, 'FLUSHALL', 'limit=2');
    $redis->init;
    $redis->add_key($key, workspace => 'acme');
    ok($workers->all_see(\&is_served, BACK, 'limit=2'), 'it is written again');
    ok($workers->status->{invalidations}{all} >= 1, 'FLUSHALL: counted');

    # more names than a message should have: all may have changed

    $before = $workers->status->{invalidations}{all};
    seen_ok($workers, sub {
        $redis->cmd('EVAL', <<'EOS', 1, $redis->key_name($key), BULK);
            redis.call('HSET', KEYS[1], 'status', 'revoked')
            for i = 1, ARGV[1] do
                redis.call('SET', 'convotic:key:bulk' .. i, 'x')
            end
EOS
    }, \&is_refused, 'a bulk write with a key among it', 'limit=2');
    is($workers->status->{invalidations}{all}, $before + 1,
       BULK . ' names: taken as a flush');
    $redis->set_key($key, status => 'active');
    ok($workers->all_see(\&is_served, BACK, 'limit=2'), 'the next single one');

    # whoever can publish, or track, cannot do more than be counted

    my $foreign = sub { $workers->status->{invalidations}{foreign} };
    my $count = $foreign->();

    is($redis->cmd('PUBLISH', '__redis__:invalidate', 'convotic:key:x'), 1,
       'a forged message has one listener');
    is($redis->cmd('PUBLISH', 'another', 'x'), 0, 'another channel has none');
    ok(wait_until(sub { $foreign->() == $count + 1 }, BACK),
       'a forged message is counted');

    my $other = $redis->connect;
    $other->cmd(qw(CLIENT TRACKING ON REDIRECT), $id);
    $other->cmd('GET', 'of another');
    $redis->cmd('SET', 'of another', 1);
    ok(wait_until(sub { $foreign->() == $count + 2 }, BACK),
       "another client's tracking, sent to this connection, is counted");
    $other->close;

    $redis->cmd('INCR', 'convotic:gen:acme');
    ok($nginx->wait_log(qr/\[warn\].*wrong name.*convotic:gen:\{workspace\}/,
                        BACK), 'a purge without braces is told of in the log');
    ok(wait_until(sub { $foreign->() == $count + 3 }, BACK), 'and counted');

    changes_ok($redis, $workers, $key, 'after all that');
    is_deeply({ tracker($redis) }, { $holder => $id },
              'it is still the same connection');
    is($workers->status->{tracking}{lost}, 0, 'it was never lost');
    $nginx->stop;
}


# Messages that Redis would not send.

{
    my $redis = $t->redis('forged');
    my $fake = $t->fake_redis(behind => $redis);
    my $nginx = gateway(redis => $fake, store => $redis);
    my $workers = tracked($nginx, 'forged');
    my $known = sha256_hex($nginx->key);
    my %tracker = tracker($redis);

    my $message = sub {
        my ($names, $channel, $kind) = @_;

        $channel ||= '__redis__:invalidate';
        $kind ||= 'message';

        return '*3' . join '', map { "\r\n$_" }
            (map { '$' . length($_) . "\r\n$_" } $kind, $channel), $names, '';
    };

    my @forged = (
        [ 'a string' => $message->("\$1\r\nx") ],
        [ 'a number' => $message->(':7') ],
        [ 'names that are numbers' => $message->("*1\r\n:7") ],
        [ 'a name in a list of its own' => $message->("*1\r\n*1\r\n\$1\r\nx") ],
        [ 'a name of nothing' => $message->("*1\r\n\$-1") ],
        [ 'an empty name' => $message->("*1\r\n\$0\r\n") ],
        [ 'a name of no key' => $message->("*1\r\n\$13\r\nconvotic:key:") ],
        [ 'a name of another prefix' => $message->("*1\r\n\$7\r\nacme:x1") ],
        [ 'another channel' => $message->("*1\r\n\$1\r\nx", 'another') ],
        [ 'a pattern' => "*4\r\n\$8\r\npmessage\r\n\$1\r\n*\r\n\$1\r\nx\r\n"
                         . "\$1\r\nx\r\n" ],
    );

    $workers->ask_each('limit=2');
    my $hgetall = $redis->calls('hgetall');

    for my $case (@forged) {
        my ($name, $bytes) = @$case;
        my $before = $workers->status->{invalidations}{foreign};

        is($fake->push($bytes, 'SUBSCRIBE'), 1, "$name: sent");
        ok(wait_until(sub { $workers->status->{invalidations}{foreign}
                            == $before + 1 }, BACK), "$name: counted");
    }

    ok($workers->all_see(\&is_served, 0, 'limit=2'), 'nothing is forgotten');
    is($redis->calls('hgetall'), $hgetall, 'nor asked for again');

    # a well-made one does the harm that it can: one more question

    my $name = "convotic:key:$known";
    $fake->push($message->("*1\r\n\$" . length($name) . "\r\n$name"),
                'SUBSCRIBE');
    ok(wait_until(sub { $workers->ask_each('limit=2');
                        $redis->calls('hgetall') == $hgetall + 1 }, BACK),
       'a forged name of a key: it is asked for once');

    is_deeply({ tracker($redis) }, \%tracker, 'the connection is the same');
    $nginx->stop;
}


# An answer is under way while its subject changes: not stored.

{
    my $redis = $t->redis('race');
    my $proxy = $t->byte_proxy(to => $redis);
    my $nginx = gateway(redis => $proxy, store => $redis);
    my $workers = tracked($nginx, 'race');
    my @key = map { test_key("race $_") } 'revoked', 'deleted', 'created';
    my ($one, $two) = $workers->pids;

    $redis->add_key($_, workspace => 'acme') for @key[0, 1];

    # the generation is forgotten, the gateway's own key is known

    $workers->ask_each('limit=2');
    my $told = $workers->status->{invalidations}{generation};
    $redis->purge('acme');
    ok(wait_until(sub { $workers->status->{invalidations}{generation} > $told },
                  BACK), 'race: a purge');

    my $before = $workers->status;
    my $asked = $redis->calls;
    my @conns = map { $nginx->connect } 0 .. 3;

    $proxy->delay(HELD, 'down', only => $ASKS);
    $conns[$_]->write(Convotic::HTTP::request_text(
        '/v1/contacts?limit=2', {}, 'X-API-Key' => $_ < 3 ? $key[$_]
                                                          : $nginx->key))
        for 0 .. 3;

    ok(wait_until(sub {
           my $now = $redis->calls;
           $now->{hgetall} >= $asked->{hgetall} + 3
               && $now->{get} > $asked->{get};
       }, BACK), 'race: Redis has answered all of them');

    $up->set(version => ++$version);
    $redis->set_key($key[0], status => 'revoked');
    $redis->del_key($key[1]);
    $redis->add_key($key[2], workspace => 'acme');
    $redis->purge('acme');

    ok(wait_until(sub {
           my $now = $workers->status->{invalidations};
           $now->{key} >= $before->{invalidations}{key} + 3
               && $now->{generation} > $before->{invalidations}{generation};
       }, BACK), 'race: the changes were told');

    $proxy->clear;
    $conns[$_]->read for 0 .. 3;

    my $races = $workers->status->{races} - $before->{races};
    cmp_ok($races, '>=', 4, 'race: no answer of before the change is kept');

    for my $pid ($one, $two) {
        is($workers->ask($pid, 'limit=2', $key[0])->status, 401,
           'race: a revoked key is refused at once');
        is($workers->ask($pid, 'limit=2', $key[1])->status, 401,
           'race: so is a deleted one');
        is($workers->ask($pid, 'limit=2', $key[2])->status, 200,
           'race: one that was created is served');
        success_is($workers->ask($pid, 'limit=2'), body(2),
                   'race: what was purged is fetched');
    }
    $nginx->stop;
}


# What one server says of a key is not proved by another one's PING: a record of
# the first is not kept as if the second would tell of its changes.

{
    my $redis = $t->redis('tells');
    my $fake = $t->fake_redis(behind => $redis, handler => sub {
        my ($ctx, $name, @args) = @_;
        my $vars = $ctx->vars;

        # the first connection for commands is to a server of its own, which
        # has the key, and leaves before it is asked whether it is still there

        $vars->{first} ||= $ctx->conn
            if $name eq 'CLIENT' && $args[0] =~ /^SETNAME\z/i
               && $args[1] !~ /tracking/;

        return { pass => 1 } if $ctx->conn != ($vars->{first} || 0);

        my $info = "# Server\r\nrun_id:" . 'a' x 40 . "\r\n";

        return '$' . length($info) . "\r\n$info\r\n" if $name eq 'INFO';
        return [ id => 'k', workspace => 'acme', status => 'active' ]
            if $name eq 'HGETALL';
        return { raw => '', close => 1 }
            if $name eq 'PING' && @args && length $args[0] == 64;
        return { pass => 1 };
    });
    my $nginx = gateway(redis => $fake, store => $redis, workers => 1);
    my $workers = tracked($nginx, 'another server');

    $redis->set_key($nginx->key, status => 'revoked');

    # what is asked over a connection that has kept up is asked again

    ok(wait_until(sub { my $first = $fake->vars->{first} || 0;
                        grep { $_->{conn} == $first && $_->{argv}[0] eq 'INFO' }
                             $fake->commands }, BACK),
       'another server: it is up');
    sleep KEPT_UP;

    my %seen;

    ok(wait_until(sub { $seen{ $_->status }++ for $workers->ask_each('limit=2');
                        $seen{401} }, BACK), 'another server: it is refused');
    is_deeply([ grep { !/^(?:401|503)\z/ } keys %seen ], [],
              'another server: a key that is revoked where changes are told');
    $nginx->stop;
}


# Redis does not let anybody track: said once, and everything is seen by age.

{
    my $redis = $t->redis('refused');
    $redis->cmd('ACL', 'SETUSER', 'poor', 'reset', 'on', '>pw', '~*', '&*',
                '+@all', '-client', '+client|id', '+client|setname');

    my $fake = $t->fake_redis(behind => $redis);
    $fake->script('CLIENT TRACKING' => "-ERR Unknown subcommand or wrong number "
                                     . "of arguments for 'TRACKING'\r\n");

    for my $case (
        [ 'no permission', $redis->url(user => 'poor', password => 'pw'),
          qr/NOPERM/ ],
        [ 'an old server', $fake, qr/Unknown subcommand/ ],
    ) {
        my ($name, $server, $reason) = @$case;
        my $warning = qr/\[warn\].*does not let its keys be tracked/;
        my $nginx = gateway(redis => $server, store => $redis,
                            key => test_key('acme'));
        $redis->init;
        $redis->add_key($nginx->key, workspace => 'acme');

        my $workers = Convotic::Workers->new($nginx);

        ok($nginx->wait_log($warning, BACK), "$name: a warning");
        like(($nginx->log_lines($warning))[0] || '', $reason,
             "$name: the reason");
        is($workers->status->{tracking_confirmed}, 0, "$name: not confirmed");
        changes_ok($redis, $workers, $nginx->key, $name);
        cmp_ok($workers->status->{known_keys}{valid}, '>', 0,
               "$name: what is known is used for a second");
        ok($nginx->reload(gone => 1), "$name: a reload");
        success_is($nginx->contacts('limit=2'), body(2), "$name: an answer");
        is(scalar(my @said = $nginx->log_lines($warning)), 1,
           "$name: it is said once");
        is_deeply(Convotic::Workers::trackers($redis), {},
                  "$name: nobody tracks");
        $nginx->stop;
    }
}


# The connection is lost, and cannot be made again for a while.

{
    my $redis = $t->redis('lost');
    my $proxy = $t->byte_proxy(to => $redis);
    my $nginx = gateway(redis => $proxy, store => $redis);
    my $workers = tracked($nginx, 'lost');
    my $key = $nginx->key;

    $workers->ask_each('limit=2');
    $proxy->accept('hang');
    $redis->cmd('CLIENT', 'KILL', 'TYPE', 'pubsub');
    ok(wait_until(sub { $workers->status->{tracking}{lost} }, BACK),
       'lost: counted');
    is($workers->status->{tracking_confirmed}, 0, 'lost: not confirmed');

    $redis->set_key($key, status => 'revoked');
    is_deeply([ map { $_->status } $workers->ask_each('limit=2') ],
              [ 401, 401 ], 'lost: all that was known is asked for again');

    # who has asked meanwhile is not told of what changes now

    my $other = test_key('gap');
    $redis->add_key($other, workspace => 'acme');
    $workers->ask_each('limit=2', $other);
    $redis->set_key($other, status => 'revoked');
    $up->set(version => ++$version);
    $redis->set_key($key, status => 'active');
    $redis->purge('acme');
    $proxy->accept('open');
    ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK),
       'lost: confirmed again');
    is_deeply([ map { $_->status } $workers->ask_each('limit=2', $other) ],
              [ 401, 401 ], 'lost: a change in the gap is seen at once');
    is_deeply([ map { $_->body eq body(2) } $workers->ask_each('limit=2') ],
              [ 1, 1 ], 'lost: so is a purge');

    # many times, without a pause

    for my $round (1 .. 4) {
        $redis->cmd('CLIENT', 'KILL', 'TYPE', 'pubsub');
        purge_seen_ok($redis, $workers, "lost, round $round");
    }

    $nginx->stop;
}


# The connection stays, but nothing comes.

{
    my $redis = $t->redis('silent');
    my $proxy = $t->byte_proxy(to => $redis);
    my $nginx = gateway(redis => $proxy, store => $redis, http => $HOUR
                        . 'convotic_redis %%REDIS%% timeout=1s;');
    my $workers = tracked($nginx, 'silent');
    my $key = $nginx->key;

    $workers->ask_each('limit=2');

    my $lost = $workers->status->{tracking}{lost};
    $proxy->swallow('down', only => $TRACKS);
    changes_ok($redis, $workers, $key, 'silent');
    $proxy->clear;
    ok(wait_until(sub { $workers->status->{tracking_confirmed} }, BACK),
       'silent: over');
    cmp_ok($workers->status->{tracking}{lost}, '>', $lost, 'silent: counted');
    changes_ok($redis, $workers, $key, 'silent, afterwards');
    $nginx->stop;
}


# SWAPDB is told to nobody: "convotic_key_valid" bounds what is believed.

{
    my $redis = $t->redis('swapdb');
    my $nginx = gateway(redis => $redis, http => 'convotic_key_valid 2s;'
                                               . 'convotic_redis %%REDIS%%;');
    my $workers = tracked($nginx, 'SWAPDB');

    $redis->set_key($nginx->key, status => 'revoked');
    $redis->cmd('COPY', $_, $_, 'DB', 1) for $redis->meta_name,
                                             $redis->key_name($nginx->key);
    $redis->set_key($nginx->key, status => 'active');
    ok($workers->all_see(\&is_served, BACK, 'limit=2'), 'SWAPDB: before');
    seen_ok($workers, sub { $redis->cmd('SWAPDB', 0, 1) }, \&is_refused,
            'SWAPDB', 'limit=2');
    $nginx->stop;
}


# The worker that tracks stands still, or dies: another one does it.

{
    my $redis = $t->redis('holder');
    my $nginx = gateway(redis => $redis);
    my $workers = tracked($nginx, 'holder');
    my ($holder) = tracker($redis);
    my ($other) = grep { $_ != $holder } $workers->pids;
    my $one = Convotic::Workers->new($nginx, $other);

    $workers->ask_each('limit=2');
    kill 'STOP', $holder;
    $up->set(version => ++$version);
    $redis->purge('acme');
    ok($one->all_see(is_new(2), BACK, 'limit=2'),
       'holder stopped: the other one sees a change');
    ok(wait_until(sub { Convotic::Workers::trackers($redis)->{$other} }, BACK),
       'holder stopped: the other one tracks');
    ok(wait_until(sub { $one->status->{tracking_confirmed} }, BACK),
       'holder stopped: confirmed');
    changes_ok($redis, $one, $nginx->key, 'holder stopped');

    $up->set(version => ++$version);
    $redis->purge('acme');
    kill 'CONT', $holder;
    ok($workers->all_see(is_new(2), BACK, 'limit=2'),
       'holder goes on: it sees what has changed');
    ok(wait_until(sub { join(',', keys %{ Convotic::Workers::trackers($redis) })
                        eq $other }, BACK),
       'holder goes on: it gives its connection up');
    changes_ok($redis, $workers, $nginx->key, 'holder goes on');

    $t->allow_log(qr/exited on signal 9/);
    $one->forget($other);
    $workers->forget($other);
    $nginx->kill_worker($other);
    $up->set(version => ++$version);
    $redis->purge('acme');
    ok($workers->all_see(is_new(2), BACK, 'limit=2'),
       'holder killed: a change is seen');
    ok(wait_until(sub { my ($pid) = tracker($redis); $pid && $pid != $other },
                  BACK), 'holder killed: another one tracks');
    ok(wait_until(sub { $nginx->workers == 2 }, BACK),
       'holder killed: there are two workers again');

    my $both = tracked($nginx, 'holder killed');
    changes_ok($redis, $both, $nginx->key, 'holder killed');
    $nginx->stop;
}

$t->finish;
