#!/usr/bin/perl

# A request body is refused before the key is looked at, and no byte of it is
# ever forwarded or taken for a request.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant REFUSAL =>
    (400, 'INVALID_REQUEST', 'A request body is not allowed');

my $t = Convotic::Test->new(direct => 1);

# It does not read bodies, keeps its connections, and is late.

my $up = $t->upstream(ignore_bodies => 1, handler => sub {
    my ($req, $vars) = @_;
    return {
        body  => contacts_body(workspace => $req->tenant, %{ $req->args }),
        delay => $vars->{delay},
    };
});

my $g = $t->gateway(ssl => 1, upstream => $up,
    http => 'upstream contacts { server %%UPSTREAM%%; keepalive 1; }');
my $key = $g->key;


sub request {
    my ($method, $query, @headers) = @_;

    my $text = "$method /v1/contacts?$query HTTP/1.1\r\nHost: localhost\r\n";

    $text .= "$_\r\n" for @headers;

    return "$text\r\n";
}


sub chunks {
    return join '',
        (map { sprintf "%x\r\n%s\r\n", length, $_ } @_), "0\r\n\r\n";
}


# GET over HTTP/2 with DATA frames, the length announced or not.

sub h2_data {
    my ($bytes, @args) = @_;

    my $res = $t->run(
        [ qw(curl --http2 -k -sS --max-time 20 -X GET -T -), @args,
          '-w', '\n%{http_version} %{http_code} %{content_type}', '-H',
          "X-API-Key: $key",
          'https://127.0.0.1:' . $g->ssl_port . '/v1/contacts?limit=1' ],
        stdin => $bytes,
    );

    return $res->{out} . $res->{err};
}


# No body.

my $one = contacts_body(workspace => 'acme', limit => 1);

for my $length (qw(0 00 000)) {
    success_is($g->contacts('limit=1', 'Content-Length' => $length), $one,
               "Content-Length: $length");
}

success_is($g->contacts('limit=1', { method => 'HEAD' },
                        'Content-Length' => 0), $one, 'HEAD, no bytes');
success_is($g->contacts('limit=1', { version => '1.0' },
                        'Content-Length' => 0), $one, 'HTTP/1.0, no bytes');
success_is($g->contacts('limit=1', { h2 => 1, body => '' }), $one,
           'HTTP/2, no bytes');

my ($res) = $g->raw(request('GET', 'limit=1', "X-API-Key: $key",
                            'Content-Length: 0', 'Expect: 100-continue'));

success_is($res, $one, 'no bytes, with Expect');
is_deeply([ $res ? $res->interim : 'none' ], [], 'no 100');

my ($first, $second) = $g->raw(
    request('GET', 'limit=1', "X-API-Key: $key", 'Content-Length: 0')
    . request('GET', 'limit=1', "X-API-Key: $key"));

success_is($first, $one, 'no bytes: the first of two');
success_is($second, $one, 'no bytes: the second of two');

is($up->count, 1, 'the upstream was asked once');
$up->reset;


# A body, in every form; of those marked as waiting, bytes are missing.

my $long = 'x' x 70000;

my @bodies = (
    [ 'one byte', [ 'Content-Length: 1' ], 'x' ],
    [ '70 KB', [ 'Content-Length: ' . length $long ], $long ],
    [ 'leading zeros', [ 'Content-Length: 0001' ], 'x' ],
    [ 'chunks', [ 'Transfer-Encoding: chunked' ], chunks('abc', 'def') ],
    [ 'chunks of no bytes', [ 'Transfer-Encoding: chunked' ], chunks() ],
    [ 'Chunked', [ 'Transfer-Encoding: Chunked' ], chunks('abc') ],
    [ 'a trailer', [ 'Transfer-Encoding: chunked', 'Trailer: X-API-Key' ],
      "0\r\nX-API-Key: $key\r\n\r\n" ],
    [ 'bytes that never come', [ 'Content-Length: 5' ], '', 'waiting' ],
    [ 'chunks that never come', [ 'Transfer-Encoding: chunked' ], '',
      'waiting' ],
    [ 'half a chunk', [ 'Transfer-Encoding: chunked' ], "a\r\nabc", 'waiting' ],
    [ 'JSON', [ 'Content-Length: 2', 'Content-Type: application/json' ], '{}' ],
    [ 'Expect', [ 'Content-Length: 5', 'Expect: 100-continue' ], '',
      'waiting' ],
    [ 'Expect and the bytes',
      [ 'Content-Length: 5', 'Expect: 100-continue' ], 'abcde' ],
    [ 'Expect, chunks',
      [ 'Transfer-Encoding: chunked', 'Expect: 100-continue' ], chunks('a') ],
);

my $asked = $g->redis->calls('hgetall');

for my $case (@bodies) {
    my ($name, $headers, $body, $waiting) = @$case;

    for my $method (qw(GET HEAD)) {
        my $conn = $g->connect;

        $conn->write(request($method, 'limit=1', "X-API-Key: $key", @$headers)
                     . $body);
        $res = $conn->read($method);

        error_is($res, REFUSAL, "$method, $name");
        is_deeply([ $res ? $res->interim : 'none' ], [],
                  "$method, $name: no 100");

        $conn->shutdown if $waiting;

        ok($conn->eof(10), "$method, $name: the connection is closed");
        is($conn->buffer, '', "$method, $name: nothing more came");
        $conn->close;
    }
}

error_is($g->contacts('limit=1', { version => '1.0', body => 'x' }), REFUSAL,
         'HTTP/1.0');
error_is($g->contacts('limit=1', { tls => 1, body => 'x' }), REFUSAL, 'TLS');
error_is($g->contacts('limit=1', { h2 => 1, body => $_ }), REFUSAL,
         'HTTP/2, ' . length . ' bytes') for 'x', $long;

like(h2_data($_), qr/not allowed"\}\}\n2 400 application\/json\z/,
     'HTTP/2, ' . length($_) . ' bytes, no length announced') for 'x', $long;
like(h2_data('x', '-H', 'Content-Length: 1'),
     qr/not allowed"\}\}\n2 400 application\/json\z/,
     'HTTP/2, the length announced');


# Before the key and all that follows; nginx's own check of the size is first.

error_is($g->contacts('limit=1', { body => 'x' }, 'X-API-Key' => $_), REFUSAL,
         'before the key ' . (defined $_ ? "'$_'" : 'that is missing'))
    for undef, '', test_key('nobody');
error_is($g->contacts('limit=1', { body => 'x' }, 'X-API-Key' => 'a',
                      'X-API-Key' => 'b'), REFUSAL, 'before two keys');
error_is($g->contacts($_, { body => 'x' }), REFUSAL, "before '$_'")
    for 'limit=0', 'platform=x', '%';
error_is($g->contacts('limit=1', { body => 'x' x 1_100_000 }), 413,
         'INVALID_REQUEST', 'Request body is too large',
         'after client_max_body_size');

is($g->redis->calls('hgetall'), $asked, 'Redis was not asked for a key');
is($up->count, 0, 'the upstream was not asked');


# Bytes that come after the response are no request either.

my $other = test_key('evil');
$g->redis->add_key($other, workspace => 'evil');

my $spoof = "GET /v1/contacts?limit=1 HTTP/1.1\r\nHost: localhost\r\n"
            . "X-API-Key: $key\r\nX-Convotic-Workspace: acme\r\n\r\n";

for my $header ('Content-Length: ' . length $spoof,
                'Transfer-Encoding: chunked')
{
    my $conn = $g->connect;

    $conn->write(request('GET', 'limit=1', "X-API-Key: $other", $header));
    error_is($conn->read, REFUSAL, "$header: refused before its bytes");

    $conn->write($spoof);
    $conn->write($spoof);
    ok($conn->eof(10), "$header: the connection is closed");
    is($conn->buffer, '', "$header: nothing more came");
    $conn->close;
}


# The attack: a body that is a second request, of another workspace.  First
# behind a plain proxy, to see that this upstream falls for it.

my $plain = $t->nginx(
    name => 'plain', convotic => 0, upstream => $up,
    location => 'proxy_http_version 1.1; proxy_set_header Connection "";
                 proxy_set_header X-Convotic-Workspace evil;');

my $smuggled = "GET /v1/contacts?limit=66 HTTP/1.1\r\nHost: contacts\r\n"
               . "X-Convotic-Workspace: acme\r\n\r\n";

$plain->get('/v1/contacts?limit=7', { body => $smuggled, lax => 1 });
ok(wait_until(sub { grep { $_->uri =~ /limit=66/ } $up->requests }),
   'a plain proxy smuggles the second request');
$plain->stop;
$up->reset;
$up->set(delay => 0.02);

my @attacks = (
    [ { body => $smuggled } ],
    [ { body => $smuggled, method => 'HEAD' } ],
    [ { body => chunks($smuggled) }, 'Transfer-Encoding' => 'chunked' ],
    [ { body => $smuggled }, 'Expect' => '100-continue' ],
    [ { body => $smuggled, version => '1.0' } ],
);

my @requests = map {
    my ($opt, @headers) = @{ $attacks[ $_ % @attacks ] };

    (
        [ '/v1/contacts?limit=5', $opt, 'X-API-Key' => $other, @headers ],
        [ '/v1/contacts?limit=' . ($_ % 30 + 1), {}, 'X-API-Key' => $key ],
        [ '/v1/contacts?limit=' . ($_ % 30 + 31), {}, 'X-API-Key' => $other ],
    )
} 0 .. 59;

my @all = $g->concurrent(\@requests);
my (%faults, %count);

for my $i (0 .. $#requests) {
    my ($path, $opt, undef, $of) = @{ $requests[$i] };
    my $res = $all[$i];

    if (%$opt) {
        $count{refused}++;
        $faults{refused} ||= join '; ',
            $res ? $res->error_faults(REFUSAL) : 'no response';
        next;
    }

    my ($limit) = $path =~ /(\d+)\z/;
    my $workspace = $of eq $key ? 'acme' : 'evil';

    $count{$workspace}++;
    $faults{$workspace} ||= "limit=$limit: " . ($res ? $res->raw : 'nothing')
        unless $res && $res->status == 200
               && $res->body eq contacts_body(workspace => $workspace,
                                              limit => $limit);
}

is_deeply(\%count, { refused => 60, acme => 60, evil => 60 }, 'all were sent');
is($faults{refused} || '', '', 'each attack is refused');
is($faults{acme} || '', '', "each of acme's responses is acme's");
is($faults{evil} || '', '', "each of evil's responses is evil's");

my @seen = $up->requests;

is_deeply([ grep { $_->uri =~ /limit=(?:5|66)\z/ && $_->tenant ne 'acme'
                   || $_->uri =~ /limit=66/ } @seen ], [],
          'the upstream saw no attack');
is_deeply([ grep { grep { /^(?:content-length|transfer-encoding|expect)\z/ }
                        $_->names } @seen ], [],
          'no request to the upstream announced a body');
is_deeply([ grep { length $_->body } @seen ], [], 'or had one');

$t->finish;
