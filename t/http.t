#!/usr/bin/perl

# The same request has the same answer over HTTP/1.0, HTTP/1.1 and HTTP/2,
# with TLS and without, on a new connection and on a used one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);

my %special = (
    90 => { status => 404, body =>
            '{"error":{"code":"NOT_FOUND","message":"Not \"here\""}}' },
    91 => { status => 500, body => '<h1>Oops</h1>',
            headers => [ 'Content-Type' => 'text/html' ] },
    92 => { body => '<h1>Welcome</h1>' },
    93 => { status => 503, headers => [ 'Retry-After' => 7 ] },
);

my $up = $t->upstream(handler => sub {
    my ($req) = @_;

    my $args = $req->args;

    return $special{ $args->{limit} }
        || { body => contacts_body(workspace => $req->tenant, %$args) };
});

my $g = $t->gateway(ssl => 1, upstream => $up,
                    location => 'convotic_cache_valid 1h;');
my $key = $g->key;
my @key = ('X-API-Key' => $key);

$g->contacts('limit=10');
my $tag = $g->contacts('limit=10')->header('ETag');

# Name, status, options, query, headers; the code and message of an error.

my @cases = (
    [ 'hit',        200, {}, 'limit=10', [ @key ] ],
    [ 'equivalent', 200, {}, '&limit=%310&x', [ @key ] ],
    [ 'HEAD',       200, { method => 'HEAD' }, 'limit=10', [ @key ] ],
    [ 'condition',  304, {}, 'limit=10', [ @key, 'If-None-Match' => $tag ] ],
    [ 'condition of HEAD', 304, { method => 'HEAD' }, 'limit=10',
      [ @key, 'If-None-Match' => $tag ] ],
    [ 'range',      206, {}, 'limit=10', [ @key, 'Range' => 'bytes=5-19' ] ],
    [ 'match',      412, {}, 'limit=10', [ @key, 'If-Match' => '"x"' ],
      'INVALID_REQUEST', 'Precondition failed' ],
    [ 'no range',   416, {}, 'limit=10', [ @key, 'Range' => 'bytes=99999-' ],
      'INVALID_REQUEST', 'Range not satisfiable' ],
    [ 'limit',      400, {}, 'limit=500', [ @key ],
      'INVALID_REQUEST', "Parameter 'limit' must be between 1 and 100" ],
    [ 'limit of HEAD', 400, { method => 'HEAD' }, 'limit=500', [ @key ],
      'INVALID_REQUEST', "Parameter 'limit' must be between 1 and 100" ],
    [ 'malformed',  400, {}, '%', [ @key ],
      'INVALID_REQUEST', 'Malformed query string' ],
    [ 'no key',     401, {}, 'limit=10', [],
      'UNAUTHORIZED', 'Missing X-API-Key header' ],
    [ 'bad key',    401, {}, 'limit=10', [ 'X-API-Key' => 'x' ],
      'UNAUTHORIZED', 'Invalid API key' ],
    [ 'two keys',   400, {}, 'limit=10', [ @key, @key ],
      'INVALID_REQUEST', "Header 'X-API-Key' must appear at most once" ],
    [ 'method',     405, { method => 'DELETE' }, 'limit=10', [ @key ],
      'INVALID_REQUEST', 'Method DELETE is not allowed' ],
    [ 'body',       400, { body => 'x' }, 'limit=10', [ @key ],
      'INVALID_REQUEST', 'A request body is not allowed' ],
    [ 'not found',  404, {}, 'limit=90', [ @key ],
      'NOT_FOUND', 'Not "here"' ],
    [ 'failure',    500, {}, 'limit=91', [ @key ],
      'INTERNAL_ERROR', 'An unexpected error occurred' ],
    [ 'garbage',    502, {}, 'limit=92', [ @key ],
      'INTERNAL_ERROR', qr/gave no valid answer\z/ ],
    [ 'unavailable', 503, { method => 'HEAD' }, 'limit=93', [ @key ],
      'INTERNAL_ERROR', 'Service temporarily unavailable' ],
);

my %version = (
    '1.0'     => { version => '1.0' },
    '1.1'     => {},
    '1.1 TLS' => { tls => 1 },
    '2'       => { h2 => 1 },
);


# What differs by the version, and by the time.

sub essence {
    my ($res) = @_;

    return 'no response' unless $res;

    my @headers = map { lc($_->[0]) . ": $_->[1]" } $res->headers;

    return join "\n", $res->status,
        sort(grep { !/^(?:date|connection|keep-alive|age|cache-status):/ }
                  @headers), '', $res->body;
}


sub answer_is {
    my ($res, $case, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my ($what, $status, undef, undef, undef, @error) = @$case;

    $name = "$name: $what";

    return error_is($res, $status, @error, $name) if @error;
    return success_is($res, contacts_body(workspace => 'acme', limit => 10),
                      $name) if $status == 200;
    return is($res ? $res->status : 'none', $status, $name);
}


# Each over each version.

for my $case (@cases) {
    my ($what, $status, $opt, $query, $headers) = @$case;
    my $first;

    for my $version (sort keys %version) {
        my $res = $g->get("/v1/contacts?$query",
                          { %$opt, %{ $version{$version} } }, @$headers);

        answer_is($res, $case, "HTTP/$version");
        is($res->version, $version eq '2' ? 2 : '1.1',
           "HTTP/$version: $what: version");
        $first ||= essence($res);
        is(essence($res), $first, "HTTP/$version: $what: as with all others");
    }
}

for my $version (sort keys %version) {
    $up->reset;
    success_is($g->contacts('limit=20', $version{$version}),
               contacts_body(workspace => 'acme', limit => 20),
               "HTTP/$version: $_") for qw(miss hit);
    is($up->count, 1, "HTTP/$version: fetched once");
    $g->redis->purge('acme');
}


# A connection that is kept: one after the other, with all of their errors.

my @kept = grep { $_->[0] ne 'body' } @cases;

for my $tls (0, 1) {
    my $conn = $g->connect(tls => $tls);

    for my $case (@kept, $kept[0]) {
        my ($what, $status, $opt, $query, $headers) = @$case;
        my $res = $conn->get("/v1/contacts?$query", $opt, @$headers);

        answer_is($res, $case, 'kept' . ($tls ? ' with TLS' : ''));
        is($res ? $res->header('Connection') : '', 'keep-alive',
           "$what: is kept");
    }

    ok(!$conn->eof(0), 'still open');
    $conn->close;
}

my $old = $g->connect;

for my $case (@kept, $kept[0]) {
    my ($what, $status, $opt, $query, $headers) = @$case;
    my $res = $old->get("/v1/contacts?$query", { %$opt, version => '1.0' },
                        @$headers, 'Connection' => 'keep-alive');

    answer_is($res, $case, 'kept with HTTP/1.0');
}

answer_is($old->get('/v1/contacts?limit=10', { version => '1.0' }, @key),
          $cases[0], 'kept with HTTP/1.0: the last');
ok($old->eof(10), 'closed: HTTP/1.0 has to ask');


# Pipelining: all at once, in parts of odd sizes, and with a last one that
# closes.

sub text {
    my ($case, @more) = @_;

    my (undef, undef, $opt, $query, $headers) = @$case;

    return Convotic::HTTP::request_text("/v1/contacts?$query", $opt, @$headers,
                                        @more);
}

my @order = map { @kept[ grep { $_ % 3 == 0 } 0 .. $#kept ],
                  @kept[ grep { $_ % 3 == 1 } 0 .. $#kept ],
                  @kept[ grep { $_ % 3 == 2 } 0 .. $#kept ] } 1 .. 3;
my @methods = map { $_->[2]{method} || 'GET' } @order;
my $bytes = join '', map { text($_) } @order;

for my $size (length $bytes, 1000, 333) {
    my @all = $g->raw([ $bytes =~ /(.{1,$size})/gs ], methods => \@methods,
                      pause => 0.001);

    is(scalar @all, scalar @order, "pipelined by $size bytes: all answered");
    answer_is($all[$_], $order[$_], "pipelined by $size bytes, no. $_")
        for 0 .. $#order;
    ok(@all && !$all[-1]->closed, "pipelined by $size bytes: still open");
}

my @all = $g->raw(join('', text($kept[0]), text($kept[8]),
                       text($kept[0], 'Connection' => 'close'),
                       text($kept[0]), text($kept[8])));

is(scalar @all, 3, 'pipelined: none behind one that closes');
ok($all[-1]->closed, 'pipelined: closed');

my @misses = map {
    [ "miss $_", 200, {}, "limit=$_&platform=line", [ @key ] ]
} 30 .. 49;

@all = $g->raw(join '', map { text($_) } @misses);
success_is($all[$_], contacts_body(workspace => 'acme', limit => 30 + $_,
                                   platform => 'line'),
           "pipelined: $misses[$_][0]") for 0 .. $#misses;

my ($slow) = $g->raw([ split //, text($kept[0]) ], pause => 0.0005,
                     methods => ['GET']);

answer_is($slow, $kept[0], 'byte by byte');


# Streams side by side on one connection.

my @urls = map { "limit=$_&platform=facebook" } 50 .. 69;
my $base = 'https://127.0.0.1:' . $g->ssl_port . '/v1/contacts?';

my $run = $t->run([
    qw(curl --http2 -k -sS -Z --max-time 20), -H => "X-API-Key: $key",
    map { ('-o', $t->dir . "/stream$_", "$base$urls[$_]") } 0 .. $#urls ]);

is($run->{exit}, 0, 'HTTP/2: streams side by side') || diag($run->{err});
is($t->read_file("stream$_"),
   contacts_body(workspace => 'acme', limit => 50 + $_,
                 platform => 'facebook'), "HTTP/2: $urls[$_]")
    for 0 .. $#urls;


# Host: HTTP/1.1 must have one, HTTP/1.0 need not.

error_is($g->contacts('limit=10', { no_host => 1 }), 400, 'INVALID_REQUEST',
         'Malformed request', 'HTTP/1.1 without Host');
answer_is($g->contacts('limit=10', { no_host => 1, version => '1.0' }),
          $kept[0], 'HTTP/1.0 without Host');
answer_is($g->contacts('limit=10', { version => '1.9' }), $kept[0],
          'HTTP/1.9 is HTTP/1.1');


# HTTP/0.9 has no headers, hence no key, and the body of the answer alone.

for my $case (
    [ 'GET /v1/contacts', 'UNAUTHORIZED', 'Missing X-API-Key header' ],
    [ 'GET /v1/contacts?limit=10', 'UNAUTHORIZED', 'Missing X-API-Key header' ],
    [ 'GET /elsewhere', 'NOT_FOUND', 'Resource not found' ],
) {
    my ($line, $code, $message) = @$case;
    my $conn = $g->connect;

    $conn->write("$line\r\n");
    ok($conn->eof(10), "HTTP/0.9: $line: closed");
    is($conn->buffer, qq({"error":{"code":"$code","message":"$message"}}),
       "HTTP/0.9: $line: the body alone");
    $conn->close;
}

$t->finish;
