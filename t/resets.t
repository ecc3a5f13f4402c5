#!/usr/bin/perl

# Clients that reset their connections after any number of bytes: of what they
# send, byte by byte; of what they get, be it fetched, cached, compressed, an
# error or a part; and while they wait for somebody else's fetch.  Nothing of
# theirs is left: no connection, no file, nobody who waits, no fetch that is
# not counted.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use IO::Select;
use List::Util qw(shuffle sum);
use Time::HiRes qw(sleep time);

use constant {
    BACK    => 15,              # seconds until something has happened, at most
    KEPT    => 8,               # idle connections to the upstream
    CUTS    => 25,              # of each kind of response
    CROWD   => 30,
    ROUNDS  => 6,
    LARGE   => 150_000,         # bytes of a body
    SOON    => 60_000,          # of them, that are sent at once
};

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis;
my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $args = $req->args;
    my $body = contacts_body(workspace => $req->tenant,
                             limit => $args->{limit});

    # no two bytes alike, so that it stays large when it is compressed

    $body =~ s/^\{/'{"pad":"' . join('', map { chr(48 + rand 43) } 1 .. LARGE)
                   . '",'/e if $req->path eq '/large';

    return { body => $body, hold => $vars->{hold} };
});
my $nginx = $t->gateway(
    redis => $redis, upstream => $up,
    http => <<'EOC',
    upstream contacts { server %%UPSTREAM%%; keepalive 8; }
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_rate 1000000;
    convotic_forward_args n;
    convotic_cache_valid 1h;
    convotic_key_valid 1h;
EOC
    server => <<'EOC',
    location = /large {
        convotic on;
        limit_rate 64k;
        proxy_pass http://contacts/large;
    }
    location = /status      { convotic_status json; }
    location = /connections { stub_status; }
EOC
);
my ($worker) = $nginx->workers;
my @key = ('X-API-Key' => $nginx->key);
my $n = 0;


sub metrics { return $nginx->get('/status')->json }

sub text {
    my ($path, @headers) = @_;

    return Convotic::HTTP::request_text($path, {}, @headers);
}


# One client: sends so many bytes, takes so many, and resets.

sub cut {
    my ($bytes, $sent, $taken) = @_;

    my $conn = $nginx->connect;

    $conn->write(substr $bytes, 0, $sent);

    while ($taken > 0) {
        IO::Select->new($conn->socket)->can_read(1) or last;
        $taken -= sysread($conn->socket, my $some, $taken) || last;
    }

    $conn->reset;

    return;
}


sub active {
    my ($active) = $nginx->get('/connections')->body
        =~ /Active connections: (\d+)/;

    return $active;
}

sub files { return scalar(my @fds = glob "/proc/$worker/fd/*") }


# What the gateway has counted and what there was, are they the same?

sub balanced_ok {
    my ($name) = @_;

    my $now;

    ok(wait_until(sub { active() == 1 }, BACK),
       "$name: no connection of a client is left");
    ok(wait_until(sub { $now = metrics();
                        $now->{waiting} == 0
                            && sum(values %{ $now->{fills} }) == $up->count },
                  BACK), "$name: nobody waits, each fetch has ended");

    my $looked_up = sum(@{ $now->{keys} }{qw(valid denied unsure)});

    # who left before the verdict was told has had none

    cmp_ok($looked_up, '<=', $redis->calls('hgetall'),
           "$name: no verdict without a look-up");
    cmp_ok($up->counters->{open}, '<=', KEPT, "$name: connections to the "
                                              . 'upstream are those it keeps');
    is(($nginx->workers)[0], $worker, "$name: it is still the same worker");

    return;
}


my $large = $nginx->get('/large?limit=3', @key);

is($large->status, 200, 'before');
cmp_ok(length $large->body, '>', LARGE, 'a large body');
balanced_ok('before');

my $files = files();


# Of the request: after each byte.  A whole one is answered to nobody.

for my $request (text('/v1/contacts?limit=3', @key),
                 text('/v1/contacts?limit=3', 'X-API-Key' => 'nobody'),
                 text('/v1/contacts?limit=0', @key, 'Content-Length' => 5)
                 . 'abcde')
{
    cut($request, $_, 0) for 0 .. length $request;
}

balanced_ok('requests');


# Of the response: after any byte of its head, after some of its body.

my $etag = $large->header('ETag');
my %response = (
    'a hit'        => [ '/v1/contacts?limit=3', @key ],
    'a large hit'  => [ '/large?limit=3', @key ],
    'compressed'   => [ '/large?limit=3', @key,
                        'Accept-Encoding' => 'gzip' ],
    'a range'      => [ '/large?limit=3', @key,
                        'Range' => 'bytes=1000-140000' ],
    'ranges'       => [ '/large?limit=3', @key,
                        'Range' => 'bytes=0-50000,60000-120000' ],
    'not modified' => [ '/large?limit=3', @key,
                        'If-None-Match' => $etag ],
    'a refusal'    => [ '/v1/contacts', 'X-API-Key' => 'nobody' ],
    'an error'     => [ '/v1/contacts?limit=0', @key ],
    'a miss'       => [ '/large?limit=3&n=', @key ],
);

for my $name (sort keys %response) {
    my ($path, @headers) = @{ $response{$name} };

    for my $i (1 .. CUTS) {
        my $bytes = text($path =~ /=\z/ ? $path . ++$n : $path, @headers);

        # several at once over one connection, now and then

        $bytes .= $bytes if $i % 5 == 0;
        cut($bytes, length $bytes, 1 + int rand(
            $path !~ /large/ || $name eq 'not modified' || $i % 2 ? 250 : SOON));
    }
}

balanced_ok('responses');


# Of those that wait for one fetch, some leave, among them perhaps who leads; in
# the last rounds all of them.

for my $round (1 .. ROUNDS) {
    my $path = '/v1/contacts?limit=3&n=crowd' . ++$n;
    my $before = $up->count;

    $up->set(hold => 1);

    my @conns = map { my $conn = $nginx->connect;
                      $conn->write(text($path, @key));
                      $conn } 1 .. CROWD;

    ok(wait_until(sub { $up->count > $before
                        && metrics()->{waiting} == CROWD - 1 }, BACK),
       "crowd $round: all but one wait");

    my @order = shuffle(@conns);
    my @gone = splice @order, 0, $round > ROUNDS - 2 ? CROWD : CROWD / 2;

    $_->reset for @gone;
    ok(wait_until(sub { metrics()->{waiting} <= @order }, BACK),
       "crowd $round: who has left does not wait any more");
    $up->set(hold => 0);
    $up->release;

    my @wrong = grep { !$_ || $_->status != 200
                       || $_->body ne contacts_body(workspace => 'acme',
                                                    limit => 3) }
        map { $_->read } @order;

    is(scalar @wrong, 0, "crowd $round: the others are served");
    $_->close for @order;
    is($up->count, $before + 1, "crowd $round: of one fetch");
}

balanced_ok('crowds');

ok(wait_until(sub { files() <= $files + KEPT }, BACK), 'no file is left open')
    or diag(files() . " of $files");

success_is($nginx->get('/v1/contacts?limit=3', @key),
           contacts_body(workspace => 'acme', limit => 3), 'all is as it was');
is($nginx->get('/large?limit=3', @key)->body, $large->body,
   'also of the large one');
is(scalar $nginx->log_lines(qr/exited on signal/), 0, 'no worker has died');

$t->finish;
