#!/usr/bin/perl

# A 200, fetched or cached: its headers and bytes, conditional and partial
# requests, HEAD, and gzip.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Uncompress::Gunzip qw(gunzip);

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);

# What an upstream may send beside its body; little of it is for the client.

my @upstream_headers = (
    'ETag' => '"upstream"', 'Last-Modified' => 'Sun, 01 Mar 2026 00:00:00 GMT',
    'Cache-Control' => 'public, max-age=3600', 'Accept-Ranges' => 'bytes',
    'Vary' => 'Accept-Encoding', 'Content-Language' => 'th',
    'Content-Type' => 'application/json; charset=utf-8',
    'Server' => 'Secret/1.0', 'X-Powered-By' => 'Secret',
    'X-Accel-Buffering' => 'no', 'Cache-Status' => 'other; hit',
    'X-Convotic-Workspace' => 'acme', 'X-Convotic-Key-Id' => 'secret',
);

my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $args = $req->args;
    my %answer = (
        headers => [ @{ $vars->{headers} }, @{ $vars->{more} || [] } ],
        body    => contacts_body(workspace => $req->tenant, %$args),
    );

    %answer = (%answer, %{ $vars->{answer} || {} });
    utf8::downgrade($answer{body});

    return \%answer;
});

$up->set(headers => \@upstream_headers);

my $g = $t->gateway(
    ssl => 1, upstream => $up, location => 'proxy_http_version 1.1;',
    server => <<'EOC');
    location = /gzip {
        convotic on;
        proxy_pass http://contacts;
        convotic_gzip off;
        gzip on;
        gzip_types *;
        gzip_min_length 0;
        gzip_vary on;
    }
EOC
my @key = ('X-API-Key' => $g->key);
my $limit = 0;


# A query that has not been asked before, and its body.

sub fresh {
    $limit++;

    return ("limit=$limit", contacts_body(workspace => 'acme',
                                          limit => $limit));
}


sub headers {
    my ($res, @except) = @_;

    my %except = map { lc $_ => 1 } @except;

    return 'no response' unless $res;
    return join "\n", $res->status, map { "$_->[0]: $_->[1]" }
        grep { !$except{ lc $_->[0] } } $res->headers;
}


# Headers: all of them, on a miss and on a hit.

my ($query, $body) = fresh();
my %common = (
    'Server'         => qr/^nginx/,
    'Date'           => qr/ GMT\z/,
    'Content-Type'   => qr/^application\/json\z/,
    'Content-Length' => qr/^${\ length $body }\z/,
    'Connection'     => qr/^close\z/,
    'ETag'           => qr/^"[!\x23-\x7e]{16,}"\z/,
    'Age'            => qr/^\d\z/,
    'Cache-Control'  => qr/^private, no-cache\z/,
    'Vary'           => qr/^X-API-Key, Accept-Encoding\z/,
    'Accept-Ranges'  => qr/^bytes\z/,
);

# A lifetime is up to a tenth shorter than was said.

my %status = (
    miss => qr/^convotic;\ fwd=uri-miss;\ fwd-status=200;\ stored;
               \ ttl=(?:3600|3[2-5]\d\d)\z/x,
    hit  => qr/^convotic; hit; ttl=(?:3600|3[2-5]\d\d)\z/,
);
my %etag;

for my $kind (qw(miss hit)) {
    my $res = $g->contacts($query);
    my %expected = (%common, 'Cache-Status' => $status{$kind});

    success_is($res, $body, "$kind: the body");
    is_deeply([ sort map { $_->[0] } $res->headers ], [ sort keys %expected ],
              "$kind: no other headers");
    like(scalar $res->header($_), $expected{$_}, "$kind: $_")
        for sort keys %expected;
    $etag{$kind} = $res->header('ETag');
}

is($etag{hit}, $etag{miss}, 'one ETag for the same bytes');
is($up->count, 1, 'the hit came from the cache');

($query, $body) = fresh();
isnt($g->contacts($query)->header('ETag'), $etag{hit},
     'another for other bytes');


# Some of the upstream's headers are kept with the answer, an age is counted on.

$up->set(more => [ 'Sunset' => 'Sat, 31 Oct 2026 23:59:59 GMT',
                   'deprecation' => 'true',
                   'Link' => '<https://example.com/v2>; rel="successor"',
                   'Age' => 100 ]);
($query, $body) = fresh();

for my $kind (qw(miss hit)) {
    my $res = $g->contacts($query);

    success_is($res, $body, "$kind of a deprecated version");
    is($res->header('Sunset'), 'Sat, 31 Oct 2026 23:59:59 GMT',
       "$kind: Sunset");
    is($res->header('Deprecation'), 'true', "$kind: Deprecation");
    is($res->header('Link'), '<https://example.com/v2>; rel="successor"',
       "$kind: Link");
    like($res->header('Age'), qr/^10\d\z/, "$kind: Age");
    like($res->header('Cache-Status'), qr/; ttl=(?:3500|3[1-4]\d\d)\z/,
         "$kind: an age is taken off the time that is left");
}

$up->set(more => []);


# Bytes arrive as they were sent.

my $odd = '{ "contacts" : [ {"a":0.1,"b":1.10,"c":12345678901234567890,'
          . '"d":"\\/","e":"\\u00e9\\ud83d\\ude00","f":-0.0,"g":1E+2,"h":null,'
          . qq("i":"\xc3\xa9","unknown":{"x":[[]]}}\t] ,\r\n "more":[],"total")
          . ' : 1.0e2 , "limit":%s }';

my %forms = (
    'with a length'  => {},
    'in one chunk'   => { chunked => 1 },
    'to the end of the connection' => { no_length => 1, close => 1 },
    'byte by byte'   => { trickle => { bytes => 50, interval => 0.001 } },
);

for my $form (sort keys %forms) {
    for my $text ($odd, "$odd\n\n", "\n  $odd",
                  qq({"limit":%s,"total":0,"contacts":[]}),
                  '{"contacts":["' . 'x' x 250_000 . '"],"total":1,"limit":%s}')
    {
        my ($query) = fresh();
        my $bytes = sprintf $text, $limit;
        my @chunks = $form =~ /chunk/
                   ? (chunked => [ $bytes =~ /(.{1,20000})/gs ]) : ();

        # a long one byte by byte would take long

        next if $form =~ /byte/ && length $bytes > 1000;

        $up->set(answer => { body => $bytes, %{ $forms{$form} }, @chunks });

        for my $kind (qw(miss hit)) {
            my $res = $g->contacts($query);

            success_is($res, $bytes,
                       "$form: " . length($bytes) . " bytes, $kind");
            like($res->header('Cache-Status'),
                 $kind eq 'hit' ? qr/; hit;/ : qr/; stored;/, "a $kind");
        }
    }
}

$up->set(answer => undef);


# If-None-Match: 304 and nothing in it; whatever does not match is ignored.

($query, $body) = fresh();
my $tag = $g->contacts($query)->header('ETag');

my @none_match = (
    [ 304, $tag ], [ 304, "W/$tag" ], [ 304, '*' ], [ 304, qq("x", $tag) ],
    [ 304, qq("x",W/"y" , $tag, "z") ], [ 304, qq(W/"x",  W/$tag) ],
    [ 200, '"x"' ], [ 200, 'W/"x"' ], [ 200, qq("x", "y") ], [ 200, '' ],
    [ 200, $tag =~ s/"//gr ], [ 200, substr($tag, 0, -2) . '"' ],
    [ 200, substr($tag, 0, -1) ], [ 200, uc $tag ], [ 200, '"*"' ],
    [ 200, 'x' x 3000 ], [ 200, '"upstream"' ],
);

for my $case (@none_match) {
    my ($expected, $value) = @$case;

    for my $method (qw(GET HEAD)) {
        my $res = $g->contacts($query, { method => $method },
                               'If-None-Match' => $value);
        my $name = "$method, If-None-Match " . substr $value, 0, 60;

        if ($expected == 304) {
            not_modified($res, $tag, $name);
        } else {
            success_is($res, $body, $name);
        }
    }
}

success_is($g->contacts($query, 'If-Modified-Since' => $_), $body,
           "If-Modified-Since $_")
    for 'Sun, 01 Mar 2026 00:00:00 GMT', 'Fri, 01 Jan 2038 00:00:00 GMT', 'x';


sub not_modified {
    my ($res, $tag, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my @faults;

    push @faults, 'status ' . $res->status if $res->status != 304;
    push @faults, 'a body' if length $res->body;
    push @faults, 'ETag ' . ($res->header('ETag') || '')
        if ($res->header('ETag') || '') ne $tag;
    push @faults, "$_ is missing" for grep { !defined $res->header($_) }
        qw(Cache-Control Vary Cache-Status);
    push @faults, "$_ is there" for grep { defined $res->header($_) }
        qw(Content-Length Content-Type Content-Encoding Transfer-Encoding);

    return ok(!@faults, $name) || diag(join "\n", @faults);
}


# If-Match: 412 in the shape unless it holds, by the strong comparison.

my @match = (
    [ 200, $tag ], [ 200, '*' ], [ 200, qq("x", $tag) ], [ 200, "$tag,\"x\"" ],
    [ 200, qq("x",,  "y" ,$tag) ], [ 200, qq(W/"x", $tag) ],
    [ 200, qq("a, b", $tag) ],
    [ 412, "W/$tag" ], [ 412, '"x"' ], [ 412, qq("x", "y") ], [ 412, '' ],
    [ 412, qq(W/"x", W/$tag) ], [ 412, $tag =~ s/"//gr ], [ 412, '"' ],
    [ 412, substr($tag, 0, -1) ], [ 412, '"*"' ], [ 412, ',' ], [ 412, '"x' ],
    [ 412, uc $tag ], [ 412, '"upstream"' ], [ 412, 'x' x 3000 ],
    [ 412, qq("x$tag) ], [ 412, qq("x, $tag) ],
);

for my $case (@match) {
    my ($expected, $value) = @$case;

    for my $opt ({}, { method => 'HEAD' }, { version => '1.0' }) {
        my $res = $g->contacts($query, $opt, 'If-Match' => $value);
        my $name = join(' ', %$opt) . ' If-Match ' . substr $value, 0, 60;

        if ($expected == 412) {
            error_is($res, 412, 'INVALID_REQUEST', 'Precondition failed',
                     $name);
        } else {
            success_is($res, $body, $name);
        }
    }
}

my $conn = $g->connect;

for my $value ('"x"', $tag, '"y"', '*') {
    my $res = $conn->get("/v1/contacts?$query", @key, 'If-Match' => $value);

    is($res ? $res->status : 0, $value =~ /x|y/ ? 412 : 200,
       "If-Match $value on a kept connection");
}

$conn->close;

my $precedence = $g->contacts($query, 'If-Match' => '"x"',
                              'If-None-Match' => $tag);

error_is($precedence, 412, 'INVALID_REQUEST', 'Precondition failed',
         'If-Match stands above If-None-Match');
not_modified($g->contacts($query, 'If-Match' => $tag, 'If-None-Match' => $tag),
             $tag, 'both hold');


# No date is known: If-Unmodified-Since has nothing to compare with.

for my $date ('Thu, 01 Jan 1970 00:00:00 GMT', 'Fri, 01 Jan 2038 00:00:00 GMT',
              'x', '')
{
    success_is($g->contacts($query, 'If-Unmodified-Since' => $date), $body,
               "If-Unmodified-Since $date");
    success_is($g->contacts($query, 'If-Unmodified-Since' => $date,
                            'If-Match' => $tag), $body,
               "If-Unmodified-Since $date, If-Match");
}


# Range.

my $length = length $body;

my @ranges = (
    [ 'bytes=0-0',         0, 0 ],
    [ 'bytes=0-9',         0, 9 ],
    [ 'bytes=10-19',       10, 19 ],
    [ 'bytes=100-',        100, $length - 1 ],
    [ 'bytes=-1',          $length - 1, $length - 1 ],
    [ 'bytes=-10',         $length - 10, $length - 1 ],
    [ 'bytes=-99999999',   0, $length - 1 ],
    [ 'bytes=5-99999999',  5, $length - 1 ],
    [ "bytes=$length-" ],
    [ 'bytes=99999999-' ],
    [ 'bytes=9-5' ],
    [ 'bytes=x' ],
    [ 'bytes=-0' ],
);

for my $case (@ranges) {
    my ($range, $first, $last) = @$case;

    for my $opt ({}, { method => 'HEAD' }, { h2 => 1 }) {
        my $res = $g->contacts($query, $opt, 'Range' => $range);
        my $name = join ' ', %$opt, $range;

        if (!defined $first) {
            error_is($res, 416, 'INVALID_REQUEST', 'Range not satisfiable',
                     $name);
            is($res->header('Content-Range'), "bytes */$length",
               "$name: Content-Range");
            next;
        }

        is($res->status, 206, "$name: status");
        is($res->header('Content-Range'), "bytes $first-$last/$length",
           "$name: Content-Range");
        is($res->header('Content-Length'), $last - $first + 1,
           "$name: Content-Length");
        is($res->header('Content-Type'), 'application/json',
           "$name: Content-Type");
        is($res->body, $opt->{method} ? ''
                     : substr($body, $first, $last - $first + 1),
           "$name: the bytes");
    }
}

success_is($g->contacts($query, 'Range' => $_), $body, "Range: $_: all of it")
    for 'items=0-9', 'x', '', 'bytes=0-9,20-29', 'bytes=0-0,-1';
success_is($g->contacts($query, 'Range' => 'bytes=0-9', 'If-Range' => $_),
           $body, "If-Range $_: all of it")
    for '"x"', "W/$tag", 'Fri, 01 Jan 2038 00:00:00 GMT';
is($g->contacts($query, 'Range' => 'bytes=0-9', 'If-Range' => $tag)->status,
   206, 'If-Range holds');

error_is($g->contacts('limit=0', 'Range' => $_), 400, 'INVALID_REQUEST',
         "Parameter 'limit' must be between 1 and 100",
         "an error is always whole: $_")
    for 'bytes=0-9', 'bytes=99999-', 'bytes=-1';


# All that is alike on a miss, which is fetched and stored as a whole; the
# upstream sees nothing of it.

my @alike = (
    [ 'GET' ],
    [ 'HEAD', {}, ],
    [ 'GET',  { h2 => 1 } ],
    [ 'HEAD', { h2 => 1 } ],
    [ 'GET',  { version => '1.0' } ],
    [ 'GET',  {}, 'If-None-Match' => '"x"' ],
    [ 'GET',  {}, 'If-None-Match' => '*' ],
    [ 'HEAD', {}, 'If-None-Match' => '*' ],
    [ 'GET',  {}, 'If-Match' => '"x"' ],
    [ 'HEAD', {}, 'If-Match' => '"x"' ],
    [ 'GET',  {}, 'If-Match' => '*' ],
    [ 'GET',  {}, 'If-Unmodified-Since' => 'Thu, 01 Jan 1970 00:00:00 GMT' ],
    [ 'GET',  {}, 'If-Modified-Since' => 'Fri, 01 Jan 2038 00:00:00 GMT' ],
    [ 'GET',  {}, 'Range' => 'bytes=0-9' ],
    [ 'HEAD', {}, 'Range' => 'bytes=0-9' ],
    [ 'GET',  {}, 'Range' => 'bytes=0-9,20-29' ],
    [ 'GET',  {}, 'Range' => 'bytes=99999-' ],
    [ 'HEAD', {}, 'Range' => 'bytes=99999-' ],
    [ 'GET',  {}, 'Range' => 'bytes=0-9', 'If-Range' => '"x"' ],
    [ 'GET',  {}, 'Accept-Encoding' => 'gzip, br, identity;q=0' ],
    [ 'GET',  {}, 'Accept' => 'text/html', 'Cache-Control' => 'no-cache',
                  'Pragma' => 'no-cache' ],
);

for my $case (@alike) {
    my ($method, $opt, @headers) = @$case;
    my $name = join ' ', $method, %{ $opt || {} }, @headers;
    my ($query, $body) = fresh();

    $opt = { %{ $opt || {} }, method => $method };
    $up->reset;

    my $miss = $g->contacts($query, $opt, @headers);
    my $hit = $g->contacts($query, $opt, @headers);
    my @except = qw(Date Age Cache-Status);

    like($miss->header('Cache-Status'), qr/; fwd=uri-miss;/, "$name: a miss");
    like($hit->header('Cache-Status'), qr/; hit;/, "$name: a hit");
    is(headers($hit, @except), headers($miss, @except),
       "$name: the same status and headers");
    is($hit->body, $miss->body, "$name: the same bytes");
    success_is($g->contacts($query), $body, "$name: all of it is stored");

    my ($req) = $up->requests;

    is($up->count, 1, "$name: one request to the upstream");
    is($req->method, 'GET', "$name: which is GET");
    is_deeply([ grep { /^(?:if-|range|accept-enc|cache-|pragma)/ }
                     $req->names ], [],
              "$name: with nothing of the client's conditions");
    is(scalar $req->header('Accept'), 'application/json', "$name: Accept");
}


# HEAD is GET without the body: also of errors.

$up->set(answer => { status => 404, body => 'not here' });

my @errors = (
    [ 200, $query ],
    [ 400, 'limit=0' ],
    [ 400, '%' ],
    [ 400, $query, 'X-API-Key' => 'a', 'X-API-Key' => 'b' ],
    [ 401, $query, 'X-API-Key' => undef ],
    [ 401, $query, 'X-API-Key' => 'x' ],
    [ 404, 'limit=99' ],
    [ 412, $query, 'If-Match' => '"x"' ],
    [ 416, $query, 'Range' => 'bytes=99999-' ],
);

for my $case (@errors) {
    my ($status, $query, @headers) = @$case;

    for my $opt ({}, { h2 => 1 }) {
        my $get = $g->contacts($query, $opt, @headers);
        my $head = $g->contacts($query, { %$opt, method => 'HEAD' }, @headers);
        my $name = join ' ', $status, %$opt, map { defined $_ ? $_ : '-' }
                                                 $query, @headers;

        is($get->status, $status, "$name: status");
        is(headers($head, qw(Date Age Cache-Status)),
           headers($get, qw(Date Age Cache-Status)), "$name: HEAD is like GET");
        is($head->body, '', "$name: without a body");
    }
}


# With convotic_gzip off, nginx's may compress for those who accept it.  Errors
# are not: their length is always given.

my @gzip = ('Accept-Encoding' => 'gzip');

$up->set(answer => undef);

for my $kind (qw(miss hit)) {
    my $res = $g->get('/gzip?limit=50', @key, @gzip);
    my $text;

    gunzip(\$res->body, \$text);
    is($res->status, 200, "gzip, $kind: status");
    is($res->header('Content-Encoding'), 'gzip', "gzip, $kind: encoded");
    is($res->header('Content-Type'), 'application/json', "gzip, $kind: type");
    is($text, contacts_body(workspace => 'acme', limit => 50),
       "gzip, $kind: the same bytes");
    like($res->header('ETag'), qr/^W\/"\w+"\z/, "gzip, $kind: a weak ETag");
    like(join(', ', $res->header('Vary')), qr/X-API-Key.*Accept-Encoding/,
         "gzip, $kind: Vary");

    my $head = $g->get('/gzip?limit=50', { method => 'HEAD' }, @key, @gzip);

    is($head->header('Content-Encoding'), 'gzip', "gzip, $kind: HEAD");
    is($g->get('/gzip?limit=50', @key, @gzip,
               'If-None-Match' => $res->header('ETag'))->status, 304,
       "gzip, $kind: If-None-Match");
    success_is($g->get('/gzip?limit=50', @key),
               contacts_body(workspace => 'acme', limit => 50),
               "gzip, $kind: not for those who do not ask");
}

success_is($g->get('/gzip?limit=51', @key, 'Accept-Encoding' => 'gzip;q=0'),
           contacts_body(workspace => 'acme', limit => 51),
           'gzip: not for those who refuse it');

for my $status (400, 403, 404, 410, 500, 503) {
    $up->set(answer => { status => $status, body => 'x' x 1000 });

    for my $method (qw(GET HEAD)) {
        my $res = $g->get('/gzip?limit=98', { method => $method }, @key, @gzip);

        error_is($res, $status, undef, undef, "gzip: $method, $status");
        is($res->header('Content-Encoding'), undef,
           "gzip: $method, $status: not encoded");
    }
}

$t->finish;
