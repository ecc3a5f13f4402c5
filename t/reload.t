#!/usr/bin/perl

# The life of the processes: reloads under load, a worker that is killed, a
# graceful end with work pending, another binary.  No request fails for it, and
# nothing is left behind.
#
# TEST_RELOADS is how many under load; t/trials asks for more.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(sleep time);

use constant {
    BACK    => 15,              # seconds until something has happened, at most
    RELOADS => $ENV{TEST_RELOADS} || 50,
    WARM    => 10,              # of them, before memory is looked at
    CLIENTS => 4,
    WORKERS => 2,
    GROWTH  => 4096,            # KB that the master may grow in all the others
};

my $PATIENT = 'connect_timeout=800ms timeout=800ms';
my $SERVERS = "convotic_redis %%REDIS%% $PATIENT;"
            . "convotic_cache_redis %%CACHE_REDIS%% $PATIENT;";

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my $keys = $t->redis('keys');
my $bodies = $t->redis('bodies');
my $key = test_key('acme');

$keys->init;
$keys->add_key($key, workspace => 'acme');


sub body { return contacts_body(workspace => 'acme', limit => $_[0]) }


# The workers that Redis knows of, by the names of their connections.

sub clients_of {
    my ($redis) = @_;

    return sort { $a <=> $b }
        $redis->cmd('CLIENT', 'LIST') =~ / name=ngx_convotic-(\d+) /g;
}


sub connections_ok {
    my ($nginx, $name) = @_;

    for my $redis ($keys, $bodies) {
        my @clients;

        wait_until(sub { @clients = clients_of($redis);
                         "@clients" eq join ' ', $nginx->workers }, BACK);
        is("@clients", join(' ', $nginx->workers),
           "$name: " . $redis->name . ': one connection for each worker');
    }

    return;
}


sub kilobytes {
    my ($pid) = @_;

    open my $fh, '<', "/proc/$pid/status" or return 0;
    my ($kilobytes) = map { /^VmRSS:\s*(\d+) kB/ ? $1 : () } <$fh>;

    return $kilobytes;
}


sub files { return scalar(my @files = glob "/proc/$_[0]/fd/*") }


# A cache elsewhere in the configuration brings two processes more, which are
# no workers.

my $nginx = $t->nginx(
    redis => $keys, cache_redis => $bodies, upstream => $up, key => $key,
    workers => WORKERS,
    http => $SERVERS . 'proxy_cache_path %%DIR%%/cache keys_zone=z:1m;',
    server => <<'EOC',
    location /elsewhere {
        proxy_cache z;
        proxy_cache_valid 1m;
        proxy_pass http://contacts;
    }
EOC
);

success_is($nginx->contacts('limit=2'), body(2), 'started');
ok(wait_until(sub { $nginx->process_count == WORKERS + 3 }, BACK),
   'a cache manager and a cache loader are there, too')
    or diag($nginx->process_count . ' processes');
connections_ok($nginx, 'started');
$nginx->get('/elsewhere');


# Load: new connections, and old ones.  A request on a new connection never
# fails; one on a connection that was closed meanwhile does not the second time.

my $stop = $t->dir . '/stop';

sub client {
    my ($i) = @_;

    my ($conn, @faults);
    my $done = 0;

    until (-e $stop) {
        my $limit = 1 + $done % 40;
        my $path = "/v1/contacts?limit=$limit";
        my @headers = ('X-API-Key' => $key);
        my $res;

        if ($i % 2) {
            $conn ||= $nginx->connect;
            $res = $conn->get($path, @headers);
            undef $conn if !$res || !$res->status
                           || $res->header('Connection') eq 'close';
            undef $res if $res && !$res->status;
        }

        $res ||= $nginx->get($path, @headers);

        push @faults, !$res ? 'no answer'
                            : $res->status . ' ' . substr $res->body, 0, 60
            unless $res && $res->status == 200 && $res->body eq body($limit);
        $done++;
        $keys->purge('acme') if $i == 0 && $done % 50 == 0;
    }

    return { done => $done, faults => \@faults };
}


sub under_load {
    my ($sub) = @_;

    unlink $stop;

    my ($result, @clients) = parallel(CLIENTS + 1, sub {
        my ($i) = @_;

        return client($i) if $i;

        my $value = eval { $sub->() };
        my $error = $@;
        $t->write_file('stop', '');
        die $error if $error;

        return $value;
    }, 120);

    my @faults = map { @{ $_->{faults} } } @clients;
    my $done = 0;
    $done += $_->{done} for @clients;

    return ($result, $done, @faults);
}


{
    my ($result, $done, @faults) = under_load(sub {
        my %at;

        for my $n (1 .. RELOADS) {
            $nginx->reload(gone => $n == WARM) or die "reload $n failed\n";
            %at = (memory => kilobytes($nginx->pid), files => files($nginx->pid))
                if $n == WARM;
        }

        return \%at;
    });

    is(scalar @faults, 0, RELOADS . " reloads: no failure in $done requests")
        or diag(map { "    $_\n" } @faults[0 .. ($#faults < 5 ? $#faults : 5)]);
    cmp_ok($done, '>', RELOADS, 'there were enough of them');

    ok(wait_until(sub { !$nginx->old_workers }, BACK), 'no old worker stays');
    ok(wait_until(sub { $nginx->process_count <= WORKERS + 3 }, BACK),
       'nor any other process');

    SKIP: {
        skip 'a sanitizer keeps what was freed', 1 if $ENV{ASAN_OPTIONS};
        cmp_ok(kilobytes($nginx->pid) - $result->{memory}, '<', GROWTH,
               'the master does not grow');
    }

    # those of workers that have just ended are closed a moment later

    ok(wait_until(sub { files($nginx->pid) <= $result->{files} }, BACK),
       'the master has no more files open');
    connections_ok($nginx, 'after ' . RELOADS . ' reloads');
}


# A worker is killed.  It takes its requests with it, but no others, later.

{
    my ($result, $done, @faults) = under_load(sub {
        for (1 .. 5) {
            my ($old) = $nginx->workers;

            $nginx->kill_worker($old);
            wait_until(sub { my @now = $nginx->workers;
                             @now == WORKERS && !grep { $_ == $old } @now }, BACK)
                or die "no new worker\n";
        }
        return 1;
    });

    $t->allow_log(qr/exited on signal 9/);
    cmp_ok(scalar @faults, '<=', 5 * CLIENTS, 'workers killed: only theirs fail')
        or diag(map { "    $_\n" } @faults[0 .. 5]);
    is(scalar(grep { /^401/ } @faults), 0, 'workers killed: no 401');
    success_is($nginx->contacts('limit=2'), body(2), 'workers killed: afterwards');
    connections_ok($nginx, 'workers killed');
}


# Another configuration: another server of the bodies, and a bad one.

my $others = $t->redis('others');
ok($nginx->reload(cache_redis => $others, gone => 1), 'another server');
$keys->purge('acme');
success_is($nginx->contacts('limit=2'), body(2), 'another server: an answer');
ok(wait_until(sub { $others->cmd('DBSIZE') == 1 }, BACK),
   'another server: it is used');
is(scalar(my @none = clients_of($bodies)), 0, 'the one before is left');

my $conf = $nginx->conf_text;
$t->write_file('nginx/nginx.conf', "$conf\nnonsense;\n");
$nginx->signal('HUP');
ok($nginx->wait_log(qr/\[emerg\].*nonsense/, BACK), 'a bad configuration');
$t->allow_log(qr/\[emerg\].*nonsense/);
success_is($nginx->contacts('limit=2'), body(2), 'a bad one changes nothing');
is($nginx->stop, 1, 'a graceful end');
is(scalar(grep { clients_of($_) } $keys, $bodies, $others), 0,
   'no connection is left');


# Work that is pending when the old workers, or all, are told to end.

my $fake = $t->fake_redis(behind => $keys);
my $slow = $t->fake_redis(behind => $bodies);

sub pending {
    my ($gateway, $limit) = @_;

    my $conn = $gateway->connect;
    $conn->write("GET /v1/contacts?limit=$limit HTTP/1.1\r\nHost: localhost\r\n"
                 . "X-API-Key: $key\r\n\r\n");

    return $conn;
}

my $limit = 2;
my %pending = (
    HUP  => [ 'EXISTS', 'HGETALL', 'GET convotic:gen', 'EVAL',
              'GET convotic:body', 'the upstream' ],
    QUIT => [ 'HGETALL', 'the upstream' ],
);

for my $how (sort keys %pending) {
    for my $stage (@{ $pending{$how} }) {
        my $gateway = $t->nginx(redis => $fake, cache_redis => $slow,
                                upstream => $up, key => $key, http => $SERVERS);
        my $redis = $stage =~ /body/ ? $slow : $fake;
        my $waits = $stage eq 'the upstream' ? $up : $redis;
        my $prefix = $waits == $up ? undef : $stage;

        $gateway->contacts('limit=1');
        $keys->cmd('DEL', $keys->gen_name('acme')) if $stage eq 'EVAL';
        $waits->reset;
        $waits == $up ? $up->set(delay => 0.2)
                      : $redis->script($stage => { pass => 1, delay => 0.2 });

        my $conn = pending($gateway, ++$limit);
        ok(wait_until(sub { $waits->count($prefix) }, BACK),
           "$how: $stage has been asked");
        $how eq 'HUP' ? ok($gateway->reload, 'reloaded') : $gateway->signal($how);

        success_is($conn->read, body($limit), "$how while $stage is slow: 200");
        $redis->clear;
        $up->set(delay => 0);
        ok($gateway->stop, "$how: a graceful end");
        ok(wait_until(sub { grep { /\nquery limit=$limit\n/ }
                            map { $bodies->cmd('GET', $_) || '' }
                            $bodies->names('convotic:body:*') }, BACK),
           "$how while $stage is slow: stored");
    }
}

# The client has gone, the fetch goes on, and so does the worker until its end.

{
    my $gateway = $t->nginx(redis => $keys, cache_redis => $bodies,
                            upstream => $up, key => $key, http => $SERVERS);

    $gateway->contacts('limit=1');
    $up->reset;
    $up->set(delay => 0.2);
    my $conn = pending($gateway, ++$limit);
    wait_until(sub { $up->count }, BACK);
    $conn->reset;
    $gateway->signal('QUIT');
    ok($gateway->stop, 'nobody waits for the fetch: a graceful end');
    $up->set(delay => 0);
    ok(wait_until(sub { grep { /\nquery limit=$limit\n/ }
                        map { $bodies->cmd('GET', $_) || '' }
                        $bodies->names('convotic:body:*') }, BACK),
       'nobody waits for the fetch: stored');
}


# What has come is not waited for.

{
    my $gateway = $t->nginx(redis => $keys, upstream => $up, key => $key,
        http => 'convotic_redis %%REDIS%% connect_timeout=60s timeout=60s;');

    $gateway->contacts("limit=$_") for 1 .. 3;
    ok($gateway->stop, 'an end does not wait for timers of replies that came');
}


# An end while Redis is away, or hangs, does not wait for it.

for my $how ('hang', 'refuse') {
    my $gateway = $t->nginx(redis => $fake, upstream => $up, key => $key);

    $gateway->contacts('limit=1');
    $how eq 'hang' ? $fake->script('*' => { hang => 1 }) : $fake->accept($how);
    $fake->drop;
    $gateway->contacts('limit=1');
    ok($gateway->reload(gone => 1), "Redis away ($how): a reload");
    ok($gateway->stop, "Redis away ($how): a graceful end");
    $fake->clear;
}


# Another binary.

my $daemon = $t->nginx(
    name => 'daemon', daemon => 1, workers => WORKERS,
    redis => $keys, cache_redis => $bodies, upstream => $up, key => $key,
    http => $SERVERS,
);

success_is($daemon->contacts('limit=2'), body(2), 'a daemon');
$nginx = $daemon;

my ($upgraded, $done, @faults) = under_load(sub { $daemon->upgrade });

ok($upgraded, 'another binary has taken over');
is(scalar @faults, 0, "no failure in $done requests")
    or diag(map { "    $_\n" } @faults[0 .. ($#faults < 5 ? $#faults : 5)]);
success_is($daemon->contacts('limit=2'), body(2), 'another binary: an answer');
connections_ok($daemon, 'another binary');

$t->finish;
