#!/usr/bin/perl

# Requests and configurations that are seldom seen: bodies that are no chunks,
# clients that leave while an error is being read, requests without a Host,
# locations with a line's end in their name, an address that was forgotten while
# its key was looked up, and Redis on a socket of this machine.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use Time::HiRes qw(sleep time);

use constant {
    BACK      => 20,            # seconds until something has happened, at most
    ADDRESSES => 1200,          # more than the smallest zone has places for
    PIPE      => 100,           # requests in one piece
    HELD      => 1,             # seconds that a look-up takes
    LEFT      => 0.3,           # seconds until an upstream goes on
};

my @NOT_FOUND = (404, 'NOT_FOUND', 'None');
my @MALFORMED = (400, 'INVALID_REQUEST', 'Malformed request');
my @INVALID_KEY = (401, 'UNAUTHORIZED', 'Invalid API key');
my @AWAY = (503, 'INTERNAL_ERROR', 'Service temporarily unavailable');

my $PATIENT = 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;';

my $t = Convotic::Test->new;
my $redis = $t->redis;
my $body = contacts_body(workspace => 'acme', limit => 2);

my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    return { status => 404, hold => $vars->{hold},
             body => '{"error":{"code":"NOT_FOUND","message":"None"}}' }
        if $req->path eq '/kept';
    return { status => 503, body => 'oops',
             headers => [ Refresh => '5; url=http://elsewhere/' ] }
        if $req->path =~ m{^/failed};

    return { body => contacts_body(workspace => $req->tenant,
                                   limit => $req->args->{limit}) };
});

my $g = $t->gateway(
    redis => $redis, upstream => $up, http => $PATIENT, server => <<'EOC',
    postpone_output 0;
    location = /kept      { proxy_ignore_client_abort on;
                            proxy_pass http://contacts; }
    location = /failed    { proxy_redirect http://elsewhere/ /;
                            proxy_pass http://contacts; }
    location = /failed/as-is { proxy_redirect off;
                               proxy_pass http://contacts; }
    location = /status    { convotic_status json; }
    location = /page      { return 404 "a page"; }
    location = /to_page   { convotic on; error_page 400 = /page;
                            proxy_pass http://contacts; }
    location = "/v1/a\nb" { convotic on; proxy_pass http://contacts; }
    location = /v1/a_b    { convotic on; proxy_pass http://contacts; }
EOC
);


# What is no sequence of chunks: the answer is the gateway's, and the connection
# ends with it.

sub chunked {
    my ($path, $method) = @_;

    return "$method $path HTTP/1.1\r\nHost: localhost\r\nX-API-Key: "
           . $g->key . "\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
}

for my $case (
    [ '/v1/contacts', 'GET' ], [ '/v1/contacts', 'POST' ], [ '/status', 'GET' ],
    [ '/to_page', 'GET', 404 ],
) {
    my ($path, $method, $status) = @$case;
    my $name = "no chunks: $method $path";
    my ($res, @more) = $g->raw(
        chunked($path, $method)
        . "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n", until_close => 1);

    error_is($res, $status ? ($status, 'NOT_FOUND', 'Resource not found')
                           : @MALFORMED, $name);
    is(scalar @more, 0, "$name: nothing else of it is a request");
}

is($up->count, 0, 'no chunks: the upstream has seen nothing');
success_is($g->contacts('limit=2'), $body, 'no chunks: the next request');


# An error is no place to go to somewhere else from.

for my $path ('/failed', '/failed/as-is') {
    my $res = $g->get($path);

    error_is($res, @AWAY, "Refresh: $path");
    is($res->header('Refresh'), undef, "Refresh: none, $path");
}


# The client is gone when the error has come.

{
    my $name = 'gone before the error';
    my $conn = $g->connect;
    my $before = $up->count;

    $up->set(hold => 1);
    $conn->write(Convotic::HTTP::request_text('/kept', {}));
    ok(wait_until(sub { $up->count > $before }, BACK),
       "$name: it is asked for");
    $conn->reset;
    sleep LEFT;
    $up->set(hold => 0);
    $up->release;
    ok(wait_until(sub { $g->access_log =~ m{"GET /kept HTTP/1.1" 404 0 } },
                  BACK), "$name: nothing was sent");
    error_is($g->get('/kept'), @NOT_FOUND, "$name: the next one has it");
}


# Locations of one name but for a line's end: it is not one in an envelope, and
# neither is served what is the other's.

{
    my %name = ("/v1/a%0Ab" => "localhost /v1/a_b",
                '/v1/a_b'   => "localhost /v1/a_b\t2");
    my @key = ('X-API-Key' => $g->key);

    $redis->cmd('DEL', $redis->names('convotic:body:*'));

    for my $path (sort keys %name) {
        $up->reset;
        success_is($g->get("$path?limit=2", @key), $body, "$path: served");
        is($up->count, 1, "$path: by the upstream");
        ok(wait_until(sub { grep { $redis->cmd('GET', $_)
                                   =~ /^namespace \Q$name{$path}\E$/m }
                            $redis->names('convotic:body:*') }, BACK),
           "$path: stored under a name of its own");
        like($g->get("$path?limit=2", @key)->header('Cache-Status'),
             qr/^convotic; hit/, "$path: and found there");
    }
}

$g->stop;


# No name of the server's, and none of the client's.

{
    my $name = 'no Host';
    my $bare = $t->gateway(redis => $redis, upstream => $up, conf => <<"EOC");
http {
    $PATIENT
    upstream contacts { server %%UPSTREAM%%; }
    server {
        listen 127.0.0.1:%%PORT%%;
        location = /v1/contacts { convotic on; proxy_pass http://contacts; }
    }
}
EOC

    $up->reset;

    my ($res) = $bare->raw("GET /v1/contacts?limit=2 HTTP/1.0\r\nX-API-Key: "
                           . $bare->key . "\r\n\r\n", until_close => 1);

    success_is($res, $body, "$name: served");
    is_deeply([ map { scalar $_->header('Host') } $up->requests ],
              [ 'contacts' ], "$name: the upstream is told its own");
    $bare->stop;
}


# An address is forgotten, for others have taken its place, while it waits for
# the verdict on its key: it has its answer, and a new budget.

SKIP: {
    skip 'this nginx has no realip module', 1
        unless `@{[ Convotic::Nginx::binary() ]} -V 2>&1`
               =~ /http_realip_module/;

    my $name = 'a forgotten address';
    my $fake = $t->fake_redis(behind => $redis);
    my $unknown = test_key('unknown');
    my $limited = $t->gateway(
        redis => $fake, store => $redis, upstream => $up, workers => 2,
        server => Convotic::Workers::server_conf(),
        http => 'set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;'
              . "convotic_auth_failures 2; convotic_zone 1m; $PATIENT");
    my $workers = Convotic::Workers->new($limited);
    my ($one, $two) = $workers->pids;
    my $held = HELD * $Convotic::Process::FACTOR;
    my @from = ('X-Forwarded-For' => '192.0.2.1');
    my $looked_up = 'HGETALL ' . $redis->key_name($unknown);

    $fake->script($looked_up => { pass => 1, delay => $held });
    $workers->conn($one)->write(Convotic::HTTP::request_text(
        '/v1/contacts', {}, 'X-API-Key' => $unknown, @from));
    ok(wait_until(sub { $fake->count($looked_up) }, BACK),
       "$name: its key is looked up");

    my $evicted = sub { $workers->conn($two)->get('/status')
                        ->json->{zone_evicted}{addresses} };
    my $conn = $workers->conn($two);
    my $start = time();
    my %seen;

    for my $piece (1 .. ADDRESSES / PIPE) {
        $conn->write(join '', map {
            Convotic::HTTP::request_text('/v1/contacts', {},
                'X-API-Key' => "cvtk_live_try.$piece.$_",
                'X-Forwarded-For' => "10.0.$piece.$_")
        } 1 .. PIPE);
        $seen{ $conn->read->status }++ for 1 .. PIPE;
    }

    is_deeply(\%seen, { 401 => ADDRESSES }, "$name: others try theirs");
    cmp_ok($evicted->(), '>', 0, "$name: some are forgotten");

    my $slow = time() - $start > $held;

    error_is($workers->conn($one)->read('GET', BACK), @INVALID_KEY,
             "$name: the verdict");

    skip 'it took too long to try so many', 1 if $slow;

    error_is($workers->conn($one)->get('/v1/contacts', 'X-API-Key' => $_,
                                       @from),
             @INVALID_KEY, "$name: it may try others")
        for 'again', 'and-again';
    ok($limited->wait_log(qr/tried 2 unknown keys.*client: 192\.0\.2\.1/, BACK),
       "$name: those are counted");
    $limited->stop;
}


# A socket that is not there, or that nobody listens on, is known at once.

{
    my $name = 'a socket of this machine';
    my $local = $t->redis('local');
    my $nginx = $t->gateway(
        store => $local, redis => $local, upstream => $up, server =>
        'location = /status { convotic_status json; }',
        http => 'convotic_redis unix:%%REDIS_SOCKET%% connect_timeout=20s'
              . ' timeout=20s; convotic_key_stale 0; convotic_key_valid 0;');

    success_is($nginx->contacts('limit=2'), $body, "$name: served");

    $local->kill;
    unlink $local->socket;
    error_is($nginx->contacts('limit=2'), @AWAY, "$name: it is away");
    ok($nginx->wait_log(qr/Redis is still away: cannot connect/, BACK),
       "$name: it is tried again");
    $local->start;
    $local->init;
    $local->add_key($nginx->key, workspace => 'acme');
    ok(wait_until(sub { $nginx->contacts('limit=2')->status == 200 }, BACK),
       "$name: it is back");
    $nginx->stop;
}

$t->finish;
