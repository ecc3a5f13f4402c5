#!/usr/bin/perl

# Clients that leave: while Redis is asked, while the upstream is, while the
# answer is sent, and at any other time.  A fill goes on without its client;
# nothing is left behind, and nobody gets what was meant for another.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(sleep);

use Convotic::Test;

use constant {
    KEEPALIVE => 8,                     # idle connections to the upstream
    CLIENTS   => 4,                     # processes that come and go
    VISITS    => 50,                    # of each of them
    PENDING   => 0.8,                    # s, a reply that is waited for
};

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis;
my $fake = $t->fake_redis(behind => $redis);
my $proxy = $t->byte_proxy(to => $fake->addr);
my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $args = $req->args;
    my $limit = $args->{limit};
    my $body = contacts_body(workspace => $req->tenant, limit => $limit);

    $body =~ s/^\{/'{"pad":"' . 'x' x 200000 . '",'/e
        if $req->path eq '/large';

    return { body => $body, delay => $vars->{delay}, %{ $vars->{how} || {} } };
});
my $g = $t->gateway(
    redis => $proxy, store => $redis, upstream => $up,
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_forward_args n;
    convotic_cache_valid 10m;
    log_format own '$args $status';
EOC
    server => (Convotic::Nginx::has_version('1.25.1')
               ? 'listen 127.0.0.1:%%PORT_h2%%; http2 on;'
               : 'listen 127.0.0.1:%%PORT_h2%% http2;') . <<'EOC',
    access_log %%DIR%%/own.log own;

    location = /large {
        convotic on;
        limit_rate 100k;
        proxy_pass http://contacts/large;
    }

    location = /short {
        convotic on;
        convotic_fill_timeout 100ms;
        proxy_pass http://contacts;
    }

    location = /connections { stub_status; }
EOC
);

my %key = (acme => $g->key,
           beta => $redis->add_key(test_key('beta'), workspace => 'beta'));


# The ways to leave: a sub that gets an open connection.  Each is one of
# HTTP/1.1's or one of HTTP/2's.

my %leave = (
    'HTTP/1.1, RST'   => [ '', sub { $_[0]->reset } ],
    'HTTP/1.1, FIN'   => [ '', sub { $_[0]->close } ],
    'HTTP/2, RST'     => [ 'h2', sub { $_[0]->reset } ],
    'HTTP/2, FIN'     => [ 'h2', sub { $_[0]->close } ],
    'HTTP/2, RST_STREAM' => [ 'h2', sub { $_[0]->reset_stream(1) } ],
    'HTTP/2, GOAWAY, FIN' => [ 'h2', sub { $_[0]->go_away; $_[0]->close } ],
);

# One that closes its own side only is taken for one that leaves, where
# nothing but its request is waited for.

my %half = ('HTTP/1.1, half' => [ '', sub { $_[0]->shutdown } ]);

my $requests = 0;
my @kept;                               # connections that stay open


# A connection on which the request has been sent.

sub enter {
    my ($way, $path) = @_;

    if ($way->[0] eq 'h2') {
        my $conn = Client::H2->new($g->port('h2'));
        $conn->request(1, $path, 'x-api-key' => $key{acme});
        return $conn;
    }

    my $conn = $g->connect;
    $conn->write(Convotic::HTTP::request_text($path, {},
                                              'X-API-Key' => $key{acme}));

    return $conn;
}


sub leave {
    my ($way, $conn) = @_;

    $way->[1]->($conn);
    push @kept, $conn;

    return;
}


# Each tenant gets its own, and what was asked for so far is sorted out.

sub all_is_well {
    my ($name) = @_;

    my $n = ++$requests;

    for my $workspace (qw(acme beta acme beta)) {
        success_is($g->get("/v1/contacts?limit=7&n=w$n",
                           'X-API-Key' => $key{$workspace}),
                   contacts_body(workspace => $workspace, limit => 7),
                   "$name: then all is well for $workspace");
    }

    return;
}


sub stored { return scalar(my @names = $redis->names('convotic:body*')) }


sub logged {
    my ($pattern) = @_;

    return wait_until(sub { $g->access_log('own.log') =~ $pattern });
}


# While Redis is asked: the request ends, and its reply is nobody's.  One reply
# is late, and all the others wait behind it.

for my $command ('HGETALL', 'GET convotic:gen', 'GET convotic:body',
                 'SET convotic:lock')
{
    my @ways = map { [ $_, { %leave, %half }->{$_} ] } sort keys %leave,
                                                            keys %half;
    my $n = 'r' . ++$requests;
    my @conns;

    $_->reset for $fake, $up;
    $fake->script($command => { pass => 1, delay => PENDING });

    for my $i (0 .. $#ways) {
        $conns[$i] = enter($ways[$i][1], "/v1/contacts?n=$n-$i");
        $fake->script($command => undef) if $i == 0
            && ok(wait_until(sub { $fake->count($command) == 1 }),
                  "$command: Redis is asked");
    }

    ok(wait_until(sub { $fake->count('HGETALL') == @ways }),
       "$command: for all of them") if $command eq 'HGETALL';

    leave($ways[$_][1], $conns[$_]) for 0 .. $#ways;

    ok(logged(qr/^n=$n-$_ 499$/m), "$command, $ways[$_][0]: the request ends")
        for 0 .. $#ways;

    all_is_well($command);
    is((grep { $_->args->{n} =~ /^$n/ } $up->requests), 0,
       "$command: the upstream is not asked");

    next if $command ne 'SET convotic:lock';

    # a lease that nobody needs is nobody's

    for my $i (0 .. $#ways) {
        $fake->reset;
        success_is($g->get("/v1/contacts?n=$n-$i", 'X-API-Key' => $key{acme}),
                   contacts_body(workspace => 'acme', limit => 20),
                   "$command, $ways[$i][0]: it is fetched for another");
        is($fake->count($command), 1,
           "$command, $ways[$i][0]: who has not to wait for it");
    }
}


# While the upstream is asked: the fill goes on, and what it brings is stored.

my %ways = (%leave, %half);

for my $name (sort keys %ways) {
    my $n = 'u' . ++$requests;
    my $path = "/v1/contacts?limit=7&n=$n";

    $redis->cmd('DEL', $_) for $redis->names('convotic:body*');
    $up->reset;
    $up->set(delay => 0.1);

    my $conn = enter($ways{$name}, $path);

    ok(wait_until(sub { $up->count == 1 }), "$name: the upstream is asked");
    leave($ways{$name}, $conn);
    success_is($conn->read, contacts_body(workspace => 'acme', limit => 7),
               "$name: who can still read gets the answer") if $half{$name};
    ok(wait_until(sub { grep { ($redis->cmd('GET', $_) || '') =~ /\bn=$n$/m }
                        $redis->names('convotic:body*') }),
       "$name: what it answers is stored");

    $up->set(delay => 0);

    my $res = $g->get($path, 'X-API-Key' => $key{acme});

    success_is($res, contacts_body(workspace => 'acme', limit => 7),
               "$name: and is served");
    like($res->header('Cache-Status') || '', qr/; hit/, "$name: as a hit");
    is($up->count, 1, "$name: one request");
    all_is_well($name);
}


# The upstream may as well fail, or never answer.

for my $case (
    [ 'an error' => { status => 500, body => 'x', delay => 0.1 } ],
    [ 'an end' => { raw => '', close => 1, close_delay => 0.1 } ],
    [ 'a reset' => { raw => '', rst => 1, close_delay => 0.1 } ],
    [ 'a body cut off' => { cut => 100, close_delay => 0.1, delay => 0.1 } ],
    [ 'HTML' => { body => '<html>', delay => 0.1 } ],
    [ 'no answer' => { hang => 1 } ],
    [ 'a trickle' => { trickle => { bytes => 50, interval => 0.02 } } ],
) {
    my ($what, $how) = @$case;
    my @names = sort keys %leave;
    my $n = 'f' . ++$requests;

    $up->reset;
    $up->set(how => $how);

    my @conns = map { enter($leave{ $names[$_] }, "/short?n=$n-$_") }
        0 .. $#names;

    ok(wait_until(sub { $up->count >= @names }),
       "$what: the upstream is asked");
    leave($leave{ $names[$_] }, $conns[$_]) for 0 .. $#names;

    ok(logged(qr/^n=$n-$_ \d+$/m), "$what, $names[$_]: the request ends")
        for 0 .. $#names;

    $up->set(how => {});
    all_is_well($what);
}


# While the answer is sent, after a miss and after a hit.

for my $name (sort keys %leave) {
    for my $round ('miss', 'hit') {
        my $n = 's' . ++$requests;
        my $path = "/large?limit=7&n=" . ($round eq 'miss' ? $n : 'same');
        my $conn = enter($leave{$name}, $path);

        ok($conn->comes(1000), "sending, $name, $round: it has begun");
        leave($leave{$name}, $conn);
    }

    all_is_well("sending, $name");
}


# Some streams of a connection end, the others do not notice.

sub limit_of { return 1 + $_[0] % 7 }

{
    my $conn = Client::H2->new($g->port('h2'));
    my @streams = map { 2 * $_ + 1 } 0 .. 19;
    my %of = map { $_ => $_ % 4 == 1 ? 'acme' : 'beta' } @streams;

    $up->set(delay => 0.1);

    $conn->request($_, '/v1/contacts?limit=' . limit_of($_) . '&n=h2',
                   'x-api-key' => $key{ $of{$_} }) for @streams;
    $conn->reset_stream($_) for grep { $_ % 3 == 0 } @streams;

    for my $id (grep { $_ % 3 } @streams) {
        is($conn->body($id),
           contacts_body(workspace => $of{$id}, limit => limit_of($id)),
           "stream $id: its own");
    }

    $up->set(delay => 0);
    $conn->close;
}


# A worker that is to go waits for a fill without a client.

{
    my $nginx = $t->gateway(
        name => 'reloaded', redis => $redis, upstream => $up,
        http => 'convotic_redis %%REDIS%% connect_timeout=5s timeout=1s;',
    );

    $redis->purge('acme');
    $redis->cmd('DEL', $_) for $redis->names('convotic:body*');
    $up->reset;
    $up->set(delay => 0.5);

    my $conn = $nginx->connect;
    $conn->write(Convotic::HTTP::request_text('/v1/contacts', {},
                                              'X-API-Key' => $nginx->key));

    ok(wait_until(sub { $up->count == 1 }), 'reload: the upstream is asked');
    $conn->reset;
    ok($nginx->reload(gone => 1), 'reload: the old worker goes');
    ok(stored(), 'reload: and has stored the answer');
    $up->set(delay => 0);
}


# At any time.

$up->set(how => {}, delay => 0.005);
$proxy->split(997, 'down');

my @wrong = map { @$_ } parallel(CLIENTS, sub {
    my ($i) = @_;

    my @faults;

    srand 1000 + $i;

    for my $visit (1 .. VISITS) {
        my $workspace = (sort keys %key)[ rand 2 ];
        my $path = rand() < 0.2 ? '/large' : '/v1/contacts';
        my $limit = 1 + int rand 9;
        my $request = Convotic::HTTP::request_text(
            "$path?limit=$limit&n=" . int(rand 4), {},
            'X-API-Key' => rand() < 0.1 ? 'unknown' : $key{$workspace},
        ) x (1 + rand 3);

        if (rand() < 0.3) {
            my $conn = Client::H2->new($g->port('h2'));

            for my $id (map { 2 * $_ + 1 } 0 .. rand 5) {
                $conn->request($id, "$path?limit=$limit&n=" . int(rand 4),
                               'x-api-key' => $key{$workspace});
                $conn->reset_stream($id) if rand() < 0.2;
            }

            sleep rand 0.02;
            rand() < 0.5 ? $conn->reset : $conn->close;
            next;
        }

        my $conn = $g->connect;
        my $part = rand() < 0.3 ? int rand length $request : length $request;

        $conn->write(substr $request, 0, $part);
        sleep rand 0.02;
        rand() < 0.5 ? $conn->reset : $conn->close;

        next if $visit % 10;

        my $res = $g->get("/v1/contacts?limit=$limit&n=0",
                          'X-API-Key' => $key{$workspace});

        push @faults, $res ? $res->status . ' ' . substr($res->body, 0, 100)
                           : 'nothing'
            if !$res || $res->status != 200
               || $res->body ne contacts_body(workspace => $workspace,
                                              limit => $limit);
    }

    return \@faults;
});

is_deeply(\@wrong, [], 'at any time: nobody else is disturbed');
$proxy->clear;
$up->set(delay => 0);
all_is_well('at any time');


# Nothing is left.

$_->close for @kept;
@kept = ();

ok(wait_until(sub {
    ($g->get('/connections')->body =~ /Active connections: (\d+)/)[0] == 1
}), 'no connection of a client is left');

my $open;
ok(wait_until(sub { ($open = $up->counters->{open}) <= KEEPALIVE }),
   "connections to the upstream: $open");

is(scalar $g->log_lines(qr/exited on signal/), 0, 'no worker has died');

$t->finish;


# HTTP/2 as little as it takes: one frame for a request, no compression, no
# more window than the protocol begins with.

package Client::H2;

use IO::Select;
use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

use constant {
    DATA => 0, HEADERS => 1, RST_STREAM => 3, SETTINGS => 4, GOAWAY => 7,
    END_STREAM => 1, END_HEADERS => 4,
    CANCEL => 8,
};


sub new {
    my ($class, $port) = @_;

    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                       PeerPort => $port)
        or die "connect to port $port: $@\n";
    my $self = bless { socket => $socket, in => '', body => {}, done => {},
                       received => 0 }, $class;

    $self->_write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
                  . _frame(SETTINGS, 0, 0, ''));

    return $self;
}


sub request {
    my ($self, $id, $path, @headers) = @_;

    my $block = '';

    for my $field ([ ':method', 'GET' ], [ ':scheme', 'http' ],
                   [ ':authority', 'localhost' ], [ ':path', $path ],
                   map { [ @headers[ 2 * $_, 2 * $_ + 1 ] ] }
                       0 .. @headers / 2 - 1)
    {
        $block .= "\0" . join '', map { chr(length) . $_ } @$field;
    }

    return $self->_write(_frame(HEADERS, END_STREAM | END_HEADERS, $id,
                                $block));
}


sub reset_stream {
    my ($self, $id) = @_;

    return $self->_write(_frame(RST_STREAM, 0, $id, pack 'N', CANCEL));
}


sub go_away { return $_[0]->_write(_frame(GOAWAY, 0, 0, pack 'NN', 0, 0)) }
sub close   { return CORE::close($_[0]{socket}) }


sub reset {
    my ($self) = @_;

    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0;

    return CORE::close($self->{socket});
}


# The body of a stream, once it is complete.

sub body {
    my ($self, $id) = @_;

    $self->_read until $self->{done}{$id} || $self->{eof};

    return $self->{body}{$id};
}


# Whether so many bytes of bodies come.

sub comes {
    my ($self, $bytes) = @_;

    $self->_read until $self->{received} >= $bytes || $self->{eof};

    return $self->{received} >= $bytes;
}


sub _frame {
    my ($type, $flags, $id, $payload) = @_;

    return substr(pack('N', length $payload), 1)
           . pack('CCN', $type, $flags, $id) . $payload;
}


sub _write {
    my ($self, $bytes) = @_;

    return syswrite $self->{socket}, $bytes;
}


sub _read {
    my ($self) = @_;

    my $n = IO::Select->new($self->{socket})->can_read(10)
            && sysread $self->{socket}, $self->{in}, 65536, length $self->{in};

    $self->{eof} = 1 unless $n;

    while (length $self->{in} >= 9) {
        my ($high, $low, $type, $flags, $id) = unpack 'CnCCN', $self->{in};
        my $length = ($high << 16) + $low;

        last if length $self->{in} < 9 + $length;

        my $payload = substr substr($self->{in}, 0, 9 + $length, ''), 9;

        if ($type == DATA) {
            $self->{body}{$id} .= $payload;
            $self->{received} += $length;
        }

        $self->{done}{$id} = 1
            if $type == RST_STREAM
               || $type <= HEADERS && $flags & END_STREAM;
    }

    return;
}


package Convotic::HTTP::Connection;

sub comes {
    my ($self, $bytes) = @_;

    while (length $self->{in} < $bytes && !$self->{eof}) {
        $self->_fill(10) or last;
    }

    return length $self->{in} >= $bytes;
}
