#!/usr/bin/perl

# t/probe for some thousands of requests: whatever is sent, the answers are in
# the documented shape, as many as there should be, and nobody else's.  And what
# looks for the opposite finds it: a server that lies is caught at each lie.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::H2 qw(frame huffman settings);
use Convotic::Oracle;
use Convotic::Probe;
use Convotic::Test;

use constant {
    REQUESTS => 4000,
    SEED     => 1,
    RATE     => 1000,
};

my $t = Convotic::Test->new;
my ($acme, $beta) = map { test_key("probe $_") } qw(acme beta);

my $oracle = Convotic::Oracle->new(
    keys => { $acme => { workspace => 'acme', rate => RATE },
              $beta => { workspace => 'beta', rate => RATE } },
    body => sub {
        my ($ok) = @_;
        return contacts_body(workspace => $ok->{workspace}, limit => $ok->{limit});
    },
);


# How bytes are read.

my $host = "Host: a\r\n";

for my $case (
    [ 'nothing', '', '', 'open' ],
    [ 'half a line', 'GET /v1', '', 'open' ],
    [ 'half a header', "GET /x HTTP/1.1\r\nHost: a", '', 'open' ],
    [ 'a whole one', "GET /x HTTP/1.1\r\n$host\r\n", '403/404', 'open' ],
    [ 'no key', "GET /v1/contacts HTTP/1.1\r\n$host\r\n", '401', 'open' ],
    [ 'the path encoded', "GET //v1/x/%2e%2e/%63ontacts#x HTTP/1.1\r\n$host\r\n",
        '401', 'open' ],
    [ 'HTTP/1.0', "GET /v1/contacts HTTP/1.0\r\n\r\n", '401', 'closed' ],
    [ 'HTTP/0.9', "GET /v1/contacts\r\n", '401', 'closed' ],
    [ 'HTTP/2.0', "GET / HTTP/2", '505', 'closed' ],
    [ 'a blank before the colon', "GET / HTTP/1.1\r\nX : ", '400', 'closed' ],
    [ 'no Host', "GET / HTTP/1.1\r\n\r\n", '400', 'closed' ],
    [ 'a long line', 'GET /' . 'x' x 9000, '414', 'closed' ],
    [ 'two', "\r\nPUT /v1/contacts HTTP/1.1\r\n$host\r\nGET /x HTTP/1.1\r\n$host\r\n",
      '405 403/404', 'open' ],
    [ 'behind a body that is read',
        "POST /x HTTP/1.1\r\n${host}Content-Length: 2\r\n\r\nab"
        . "GET /v1/contacts HTTP/1.1\r\n$host\r\n", '403/404 401', 'open' ],
    [ 'behind chunks', "POST /x HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n"
      . "2;x\r\nab\r\n0\r\na: b\r\n\r\nGET /v1/contacts HTTP/1.1\r\n$host\r\n",
      '403/404 401', 'open' ],
    [ 'behind a body that is refused',
        "GET /v1/contacts HTTP/1.1\r\n${host}Content-Length: 2"
        . "\r\n\r\nabGET /v1/contacts HTTP/1.1\r\n$host\r\n", '400', 'closed' ],
    [ 'a good key',
        "GET /v1/contacts?limit=007 HTTP/1.1\r\n${host}X-API-Key: $acme\r\n\r\n",
        'acme:7', 'open' ],
    [ 'two keys',
      "GET /v1/contacts HTTP/1.1\r\n${host}X-API-Key: $acme\r\nx-api-key: a\r\n\r\n",
      '400', 'open' ],
    [ 'two limits',
      "GET /v1/contacts?limit=1&limi%74=1 HTTP/1.1\r\n${host}X-API-Key: $acme\r\n\r\n",
      '400', 'open' ],
) {
    my ($name, $bytes, $answers, $end) = @$case;
    my ($expect, $then) = $oracle->read($bytes);
    my @words = map { $_->{ok} ? "$_->{ok}{workspace}:$_->{ok}{limit}"
                               : join '/', map { $_->[0] } @{ $_->{any} } } @$expect;

    is("@words, $then", "$answers, $end", "read: $name");
}


# Frames.

is(unpack('H*', huffman('www.example.com')), 'f1e3c2e5f23a6ba0ab90f4ff',
   'RFC 7541, C.4.1');

for my $case (
    [ 'an answer', '', settings() . frame(1, 4, 1, "\x88") . frame(0, 1, 1, 'x') ],
    [ 'no settings', qr/no SETTINGS/, frame(1, 5, 1, "\x88") ],
    [ 'data without headers', qr/without headers/, settings() . frame(0, 1, 1, 'x') ],
    [ 'data behind the end', qr/after its end/,
      settings() . frame(1, 5, 1, "\x88") . frame(0, 1, 1, 'x') ],
    [ 'headers twice', qr/two headers/, settings() . frame(1, 4, 1, "\x88") x 2 ],
    [ 'a push', qr/frame of type 5/, settings() . frame(5, 4, 1, "\0\0\0\x02\x88") ],
    [ 'a bad code', qr/Huffman/, settings() . frame(1, 5, 1, "\x88\x0f\x10\x81\xf0") ],
) {
    my ($name, $problem, $bytes) = @$case;
    my $h2 = Convotic::H2->new;

    $h2->feed(\$bytes);
    like(join('; ', @{ $h2->{problems} }), ref $problem ? $problem : qr/\A\z/,
        "HTTP/2: $name");
}


# A server that lies.

my $liar = $t->upstream(name => 'liar', handler => sub {
    my ($req, $vars) = @_;
    return { raw => shift @{ $vars->{raw} }, close => $vars->{close} };
});

sub answer {
    my ($status, $body, %more) = @_;

    my %h = (
        'Server' => 'nginx', 'Date' => 'Mon, 02 Mar 2026 10:00:00 GMT',
        'Content-Type' => 'application/json', 'Connection' => 'keep-alive',
        'Content-Length' => length $body, 'Cache-Status' => 'convotic; detail=refused',
        %more,
    );

    return "HTTP/1.1 $status Status\r\n"
           . join('', map { "$_: $h{$_}\r\n" } grep { defined $h{$_} } sort keys %h)
           . "\r\n$body";
}

sub success {
    my ($workspace, $limit, %more) = @_;

    my $body = contacts_body(workspace => $workspace, limit => $limit);

    return answer(200, $body, 'X-RateLimit-Limit' => RATE, 'X-RateLimit-Remaining' => 9,
                  'ETag' => '"' . substr(sha256_hex($body), 0, 32) . '"', 'Age' => 0,
                  'Cache-Control' => 'private, no-cache',
                  'Vary' => 'X-API-Key, Accept-Encoding', %more);
}

sub error { return qq({"error":{"code":"$_[0]","message":"$_[1]"}}) }

sub get {
    my ($limit, $key) = @_;

    return "GET /v1/contacts?limit=$limit HTTP/1.1\r\nHost: localhost\r\n"
           . (defined $key ? "X-API-Key: $key\r\n" : '') . "\r\n";
}


# The kinds of violations that these answers to these requests are.

sub caught {
    my ($requests, $answers, %how) = @_;

    my $connection = {
        way => 'plain', mode => 'to the end', writes => 'at once',
        messages => [ map { { bytes => $_, kinds => ['test'] } } @$requests ],
    };
    my $grammar = bless { connection => $connection }, 'Convotic::Test::Grammar';
    my $probe = Convotic::Probe->new(oracle => $oracle, grammar => $grammar,
        seed => SEED, ports => { plain => $liar->port },
        $how{silent} ? (hung => 0.2) : ());

    $liar->set(raw => $answers, close => $how{close} || 0);
    $probe->visit(1);

    return join ', ', sort keys %{ $probe->sum->{bad} };
}

sub Convotic::Test::Grammar::connection { return $_[0]{connection} }

my $missing = error(UNAUTHORIZED => 'Missing X-API-Key header');
my $html = '<html><h1>401 Authorization Required</h1><hr>nginx/1.22.1</html>';
my @one = get(5, $acme);
my @none = get(5);

for my $case (
    [ 'the truth', '', \@one, [ success('acme', 5) ] ],
    [ 'two truths', '', [ @one, get(6, $beta) ],
      [ success('acme', 5), success('beta', 6) ] ],
    [ 'a refusal', '', \@none, [ answer(401, $missing) ] ],

    [ 'an HTML page', 'shape', \@none,
      [ answer(401, $html, 'Content-Type' => 'text/html') ] ],
    [ 'HTML said to be JSON', 'shape', \@none, [ answer(401, $html) ] ],
    [ 'a bare string', 'shape', \@none,
      [ answer(401, '{"error":"missing_api_key"}') ] ],
    [ 'another field', 'shape', \@none,
      [ answer(401, $missing =~ s/\}\z/,"at":1}/r) ] ],
    [ 'a list as message', 'shape', \@none,
      [ answer(401, '{"error":{"code":"UNAUTHORIZED","message":[]}}') ] ],
    [ 'another code', 'shape', \@none,
      [ answer(401, error(NOT_FOUND => 'Missing X-API-Key header')) ] ],
    [ 'a header of its own', 'shape', \@none,
      [ answer(401, $missing, 'X-Powered-By' => 'x') ] ],
    [ 'no Cache-Status', 'shape', \@none,
      [ answer(401, $missing, 'Cache-Status' => undef) ] ],
    [ 'another rate', 'shape', \@one,
      [ success('acme', 5, 'X-RateLimit-Limit' => 1) ] ],
    [ 'rates for nobody', 'shape', \@none,
      [ answer(401, $missing, 'X-RateLimit-Limit' => RATE) ] ],
    [ 'the tag of another', 'shape', \@one, [ success('acme', 5, 'ETag' => '"x"') ] ],
    [ 'an encoding that it has not', 'shape, wrong tenant', \@one,
      [ success('acme', 5, 'Content-Encoding' => 'gzip') ] ],
    [ 'a connection that it keeps', 'shape',
      [ get(5) =~ s/\r\n\z/Content-Length: 2\r\n\r\nab/r ],
      [ answer(400, error(INVALID_REQUEST => 'A request body is not allowed')) ],
      close => 1 ],

    [ 'another message', 'status', \@none,
      [ answer(401, error(UNAUTHORIZED => 'Invalid API key')) ] ],
    [ 'another status', 'status', \@none,
      [ answer(400, error(INVALID_REQUEST => 'No')) ] ],
    [ 'a 500', 'shape, status', \@one, [ answer(500, error(INTERNAL_ERROR => 'Oops')) ] ],

    [ 'let in without a key', 'let in, shape', \@none, [ success('acme', 5) ] ],
    [ "another tenant's body", 'shape, wrong tenant', \@one, [ success('beta', 5) ] ],
    [ "another query's body", 'shape, wrong tenant', \@one, [ success('acme', 6) ] ],
    [ 'answers exchanged', 'shape, wrong tenant', [ get(5, $acme), get(6, $acme) ],
      [ success('acme', 6), success('acme', 5) ] ],

    [ 'no answer', 'no answer', \@one, [''], close => 1 ],
    [ 'one of two', 'no answer', [ @one, @one ], [ success('acme', 5) ], close => 1 ],
    [ 'half an answer', 'no answer', \@one, [ substr success('acme', 5), 0, 500 ],
      close => 1 ],
    [ 'a wrong length', 'no answer', \@none,
      [ answer(401, $missing, 'Content-Length' => 999) ], close => 1 ],
    [ 'no length', 'no answer', \@none,
      [ answer(401, $missing, 'Content-Length' => undef) ], close => 1 ],
    [ 'silence', 'hung', \@one, [''], silent => 1 ],
    [ 'two for one', 'too much', \@one, [ success('acme', 5) x 2 ] ],
) {
    my ($name, $caught, $requests, $answers, @how) = @$case;

    is(caught($requests, $answers, @how), $caught, "caught: $name");
}


# The whole.

my $run = $t->run([ $^X, $t->top . '/t/probe', REQUESTS, SEED ],
                  timeout => 120, env => { PROBE_JOBS => 2 });

is($run->{exit}, 0, 'the probe finds nothing') or diag($run->{out}, $run->{err});
like($run->{out}, qr/^requests +4\d\d\d /m, 'it sends what it should');
like($run->{out}, qr/^  \Q$_\E +[1-9]\d/m, "some of them: $_")
    for 'plain', 'TLS', 'HTTP/2', 'as documented', 'method', 'target', 'version',
        'header lines',
        'Host', 'key', 'body', 'query', 'bytes changed', 'lines changed';
like($run->{out}, qr/^  $_ +[1-9]/m, "answers with $_")
    for 200, 206, 304, 400, 401, 403, 404, 405, 412, 414, 416, 429, 501, 505;
like($run->{out}, qr/^  wrong-tenant bodies +0 of [1-9]\d\d+ bodies$/m,
    'bodies are compared');
is($run->{err}, '', 'it says nothing else');

$run = $t->run([ $^X, $t->top . '/t/probe', '--only', '7', SEED ], timeout => 60);

is($run->{exit}, 0, 'one of them once more') or diag($run->{out}, $run->{err});
like($run->{out}, qr/^connection 7: /, 'that it was');

$t->finish;
