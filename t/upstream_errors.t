#!/usr/bin/perl

# Errors of the upstream: what is documented of them goes on, the rest is put
# into the documented shape, and nothing leaks from a 5xx.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP ();

use Convotic::Test;

use constant KEPT => qw(retry-after allow sunset deprecation link);

# The gateway's own words, by status; 4xx and 5xx are all others.

my %message = (
    '4xx' => 'The request could not be processed',
    400 => 'Malformed request',
    401 => 'Authentication required',
    403 => 'Access denied',
    404 => 'Resource not found',
    405 => 'Method not allowed',
    406 => 'Not acceptable',
    408 => 'Request timed out',
    409 => 'Conflict',
    410 => 'Resource is no longer available',
    411 => 'Content-Length is required',
    412 => 'Precondition failed',
    413 => 'Request body is too large',
    414 => 'Request URI is too long',
    415 => 'Unsupported media type',
    416 => 'Range not satisfiable',
    421 => 'Misdirected request',
    429 => 'Rate limit exceeded',
    '5xx' => 'An unexpected error occurred',
    501 => 'Not implemented',
    502 => 'The upstream service gave no valid answer',
    503 => 'Service temporarily unavailable',
    504 => 'The upstream service did not answer in time',
    505 => 'HTTP version not supported',
);

my %code = (
    401 => 'UNAUTHORIZED', 403 => 'UNAUTHORIZED', 404 => 'NOT_FOUND',
    410 => 'NOT_FOUND', 429 => 'RATE_LIMITED',
);


sub own_error {
    my ($status) = @_;

    my $class = substr($status, 0, 1) . 'xx';

    return ($status,
            $code{$status} || ($class eq '4xx' ? 'INVALID_REQUEST'
                                               : 'INTERNAL_ERROR'),
            $message{$status} || $message{$class});
}


# An error in the documented shape.

sub documented {
    my ($code, $message, %more) = @_;

    return JSON::PP->new->utf8->canonical->encode(
        { error => { code => $code, message => $message, %more } });
}


# The upstream's status and body, and what the client gets.  A name, a status,
# bytes or a specification, then status, code, message.

my $LEAK = 'leak at /srv/contacts/db.js:42 of 10.0.0.5';
my $STACK = "<html><head><title>Error</title></head>\n$LEAK</html>\n";
my $THAI = "\x{e44}\x{e21}\x{e48}\x{e1e}\x{e1a}";
my $LONG = join ' ', ('words') x 160;
my $NOT_FOUND = documented('NOT_FOUND', 'leak');

my @errors = (

    # The documented ones go on as they are.

    [ 'documented, 400', 400, documented('INVALID_REQUEST', "No 'x'"),
      400, 'INVALID_REQUEST', "No 'x'" ],
    [ 'documented, 401', 401, documented('UNAUTHORIZED', 'Who?'),
      401, 'UNAUTHORIZED', 'Who?' ],
    [ 'documented, 404', 404, documented('NOT_FOUND', "Contact 'c' not found"),
      404, 'NOT_FOUND', "Contact 'c' not found" ],
    [ 'documented, 429', 429, documented('RATE_LIMITED', 'Too fast'),
      429, 'RATE_LIMITED', 'Too fast' ],
    [ 'documented, 403', 403, documented('UNAUTHORIZED', 'Not yours'),
      403, 'UNAUTHORIZED', 'Not yours' ],
    [ 'documented, 410', 410, documented('NOT_FOUND', 'v1 has ended'),
      410, 'NOT_FOUND', 'v1 has ended' ],
    [ 'another code than its status', 404,
      documented('INVALID_REQUEST', 'No such platform'),
      404, 'INVALID_REQUEST', 'No such platform' ],
    [ 'chunked', 404, { body => documented('NOT_FOUND', 'None'), chunked => 1 },
      404, 'NOT_FOUND', 'None' ],
    [ 'to the end', 404, { body => documented('NOT_FOUND', 'None'),
                           no_length => 1, close => 1 },
      404, 'NOT_FOUND', 'None' ],
    [ 'as text/plain', 404, { body => documented('NOT_FOUND', 'None'),
                              headers => [ 'Content-Type' => 'text/plain' ] },
      404, 'NOT_FOUND', 'None' ],
    [ 'with blanks', 404, "\n { \"error\" :\t{\"message\":\"None\", "
                          . "\"code\":\"NOT_FOUND\" } }\r\n",
      404, 'NOT_FOUND', 'None' ],
    [ 'with more fields', 404,
      documented('NOT_FOUND', 'None', details => { id => $LEAK }),
      404, 'NOT_FOUND', 'None' ],
    [ 'with more members', 404,
      '{"error":{"code":"NOT_FOUND","message":"None"},"trace":"leak"}',
      404, 'NOT_FOUND', 'None' ],

    # The message is encoded anew.

    [ 'Thai', 404, documented('NOT_FOUND', $THAI), 404, 'NOT_FOUND', $THAI ],
    [ 'Thai, escaped', 404,
      '{"error":{"code":"NOT_FOUND","message":"\u0e44\u0e21"}}',
      404, 'NOT_FOUND', "\x{e44}\x{e21}" ],
    [ 'an emoji, escaped', 404,
      '{"error":{"code":"NOT_FOUND","message":"\ud83d\ude00"}}',
      404, 'NOT_FOUND', "\x{1f600}" ],
    [ 'quotes', 404, documented('NOT_FOUND', q("\\/'</script>)),
      404, 'NOT_FOUND', q("\\/'</script>) ],
    [ 'control characters', 404,
      '{"error":{"code":"NOT_FOUND","message":"a\u0000\n\r\u007f\u2028b"}}',
      404, 'NOT_FOUND', "a\0\n\r\x7f\x{2028}b" ],
    [ 'a long one', 404, documented('NOT_FOUND', $LONG),
      404, 'NOT_FOUND', $LONG ],
    [ 'more JSON', 404, documented('NOT_FOUND', '{"error":1}'),
      404, 'NOT_FOUND', '{"error":1}' ],

    # A code that is not documented: the status's, and the message stays.

    [ 'an unknown code', 418, documented('TEAPOT', 'Short and stout'),
      418, 'INVALID_REQUEST', 'Short and stout' ],
    [ 'an unknown code, 403', 403, documented('FORBIDDEN', 'Not yours'),
      403, 'UNAUTHORIZED', 'Not yours' ],
    [ 'an unknown code, 429', 429, documented('SLOW_DOWN', 'Too fast'),
      429, 'RATE_LIMITED', 'Too fast' ],
    [ 'a code in lower case', 404, documented('invalid_request', 'None'),
      404, 'NOT_FOUND', 'None' ],
    [ 'a code and more', 404, documented('INVALID_REQUESTS', 'None'),
      404, 'NOT_FOUND', 'None' ],
    [ 'the beginning of a code', 404, documented('INVALID', 'None'),
      404, 'NOT_FOUND', 'None' ],
    [ 'an empty code', 404, documented('', 'None'), 404, 'NOT_FOUND', 'None' ],
    [ 'a code with a NUL', 404,
      '{"error":{"code":"RATE_LIMITED\u0000x","message":"None"}}',
      404, 'NOT_FOUND', 'None' ],

    # Any other shape: nothing of it stays.

    (map { [ "$_->[0], 404", 404, $_->[1], own_error(404) ] }
        [ 'a bare string', '{"error":"leak"}' ],
        [ 'no code', '{"error":{"message":"leak"}}' ],
        [ 'no message', '{"error":{"code":"RATE_LIMITED"}}' ],
        [ 'an empty message', documented('RATE_LIMITED', '') ],
        [ 'a number as code', '{"error":{"code":404,"message":"leak"}}' ],
        [ 'a number as message', '{"error":{"code":"NOT_FOUND","message":1}}' ],
        [ 'null as message', '{"error":{"code":"NOT_FOUND","message":null}}' ],
        [ 'an array', "[$NOT_FOUND]" ],
        [ 'one level up', '{"code":"NOT_FOUND","message":"leak"}' ],
        [ 'one level down', qq({"data":$NOT_FOUND}) ],
        [ 'a list of errors', '{"error":[{"code":"X","message":"leak"}]}' ],
        [ 'HTML', $STACK ],
        [ 'text', $LEAK ],
        [ 'nothing', '' ],
        [ 'cut JSON', substr($NOT_FOUND, 0, -1) ],
        [ 'more than JSON', "$NOT_FOUND x" ],
        [ 'a byte order mark', "\xef\xbb\xbf$NOT_FOUND" ],
        [ 'bad UTF-8', $NOT_FOUND =~ s/leak/leak\xff/r ],
        [ 'a code twice', $NOT_FOUND =~ s/\{"code/{"code":"X","code/r ],
        [ 'deep nesting', '[' x 16000 ],
        [ 'too large', $NOT_FOUND . ' ' x 70000 ],
        [ 'encoded', { body => $NOT_FOUND,
                       headers => [ 'Content-Encoding' => 'gzip' ] } ],
        [ 'cut', { body => $NOT_FOUND, cut => 20 } ],
        [ 'cut chunks', { body => $NOT_FOUND, chunked => 1, cut => 20 } ],
    ),

    [ 'a bare string, 401', 401, '{"error":"missing_api_key"}',
      own_error(401) ],
    [ 'a bare string, 403', 403, '{"error":"revoked_api_key"}',
      own_error(403) ],

    # Nothing of a 5xx goes on.

    (map {
        my $status = $_;
        ([ "$status, documented", $status,
           documented('INTERNAL_ERROR', $LEAK), own_error($status) ],
         [ "$status, another code", $status,
           documented('NOT_FOUND', $LEAK), own_error($status) ],
         [ "$status, HTML", $status, $STACK, own_error($status) ],
         [ "$status, chunked", $status, { body => $STACK x 500, chunked => 1 },
           own_error($status) ])
    } 500 .. 505, 507, 511, 599),
);

# Every status there is, without a body and with HTML.

push @errors, map { ([ "$_, empty", $_, '', own_error($_) ],
                     [ "$_, HTML", $_, $STACK, own_error($_) ]) }
    400 .. 599;

# Headers: what the upstream sends beside an error, and what is kept of it.

my @headers = (
    [ 429, [ 'Retry-After' => 12 ] ],
    [ 503, [ 'Retry-After' => 'Wed, 21 Oct 2026 07:28:00 GMT' ] ],
    [ 405, [ Allow => 'GET, HEAD' ] ],
    [ 410, [ Sunset => 'Sat, 31 Oct 2026 23:59:59 GMT', Deprecation => 'true',
             Link => '<https://example.com/v2>; rel="successor-version"',
             Link => '<https://example.com/a>; rel="sunset"' ] ],
    [ 404, [ sunset => 'Sat, 31 Oct 2026 23:59:59 GMT' ] ],
    [ 500, [ Deprecation => 'true' ] ],
);

my @dropped = (
    'Set-Cookie' => 'leak=1', 'WWW-Authenticate' => 'Basic realm="leak"',
    Location => 'http://leak/', 'X-Powered-By' => 'leak',
    'X-RateLimit-Limit' => 'leak', 'X-RateLimit-Remaining' => 'leak',
    'Content-Language' => 'leak', ETag => '"leak"', 'X-Debug' => $LEAK,
    'Last-Modified' => 'Wed, 21 Oct 2026 07:28:00 GMT', Refresh => '1',
    'Cache-Control' => 'max-age=100', Expires => 'leak', Via => 'leak',
    'Content-Disposition' => 'attachment; filename="leak"', 'Accept-Ranges' =>
    'bytes', 'Access-Control-Allow-Origin' => 'leak', Age => 9,
);

# The upstream is told by a parameter what to answer.

my @plan = map { { status => $_->[1],
                   ref $_->[2] ? %{ $_->[2] } : (body => $_->[2]) } } @errors;
my $first_header = @plan;

push @plan, map { { status => $_->[0], headers => [ @{ $_->[1] }, @dropped ] } }
    @headers;

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream(handler => \&answer);
my $bad = $t->upstream(name => 'bad', handler => sub { $_[1]{answer} });
my $worse = $t->upstream(name => 'worse', handler => sub { $_[1]{answer} });
my $page = $t->upstream(name => 'page', handler => sub {
    return { status => 200, body => $STACK };
});


sub answer {
    my ($req, $vars) = @_;

    my $args = $req->args;

    return $vars->{answer} if $vars->{answer};
    return $plan[ $args->{plan} ] if $args->{plan} =~ /^\d+\z/;
    return contacts_body(workspace => $req->tenant, limit => $args->{limit});
}


my $g = $t->gateway(
    upstream => $up, ssl => 1,
    vars => { BAD => $bad->addr, WORSE => $worse->addr, PAGE => $page->addr },
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_forward_args plan;

    upstream some {
        server %%BAD%% max_fails=0;
        server %%UPSTREAM%% backup;
    }

    upstream none {
        server %%BAD%% max_fails=0;
        server %%WORSE%% backup max_fails=0;
    }

    upstream down {
        server 127.0.0.1:%%PORT_closed%%;
        server %%UPSTREAM%% backup;
    }

    upstream all_down {
        server 127.0.0.1:%%PORT_closed%% fail_timeout=1h;
        server 127.0.0.1:%%PORT_closed2%% fail_timeout=1h;
    }
EOC
    server => <<'EOC',
    keepalive_requests 100000;

    location = /folded {
        convotic on;
        convotic_error_status documented;
        proxy_pass http://contacts;
    }

    location = /intercepted {
        convotic on;
        proxy_intercept_errors on;
        proxy_pass http://contacts;
    }

    location = /with_pages {
        convotic on;
        proxy_intercept_errors on;
        error_page 404 429 500 502 503 504 /page;
        proxy_pass http://contacts;
    }

    location = /with_good_pages {
        convotic on;
        proxy_intercept_errors on;
        error_page 404 429 500 502 503 504 =200 @page;
        proxy_pass http://contacts;
    }

    location = /pages_alone {
        convotic on;
        error_page 404 429 500 502 503 504 =200 /page;
        proxy_pass http://contacts;
    }

    location = /page { proxy_pass http://%%PAGE%%; }
    location @page   { proxy_pass http://%%PAGE%%; }

    location /next/ {
        proxy_next_upstream error timeout invalid_header http_500 http_503
                            http_404 http_429;
        proxy_read_timeout 300ms;

        location = /next/some     { convotic on; proxy_pass http://some; }
        location = /next/none     { convotic on; proxy_pass http://none; }
        location = /next/down     { convotic on; proxy_pass http://down; }
        location = /next/all_down { convotic on; proxy_pass http://all_down; }
    }

    location = /no_next {
        convotic on;
        proxy_next_upstream off;
        proxy_pass http://some;
    }
EOC
);

my @key = ('X-API-Key' => $g->key);
my $conn = $g->connect;


# Over one connection that stays.

sub ask {
    my ($plan, $path) = @_;

    $path ||= '/v1/contacts';

    my $res = $conn->get("$path?plan=$plan", @key);

    if (!$res || $conn->eof(0)) {
        fail("plan $plan: the connection stays");
        $conn = $g->connect;
    }

    return $res;
}


sub kept {
    my ($res) = @_;

    my %kept = map { $_ => 1 } KEPT;

    return [ sort map { lc($_->[0]) . ": $_->[1]" }
             grep { $kept{ lc $_->[0] } } $res->headers ];
}


for my $plan (0 .. $#errors) {
    my ($name, undef, undef, @error) = @{ $errors[$plan] };

    my $res = ask($plan);
    my @faults = $res->error_faults(@error);

    push @faults, 'it leaks' if $res->raw =~ /leak|html/i;
    push @faults, map { "again: $_" } ask($plan)->error_faults(@error);

    ok(!@faults, $name) or diag(map { '    ' . substr($_, 0, 300) . "\n" }
                                @faults);
}

my %count;
$count{ $_->args->{plan} }++ for $up->requests;

is_deeply([ grep { ($count{$_} || 0) != 2 } 0 .. $#errors ], [],
          'no error is cached');


# Headers.

for my $i (0 .. $#headers) {
    my ($status, $headers) = @{ $headers[$i] };
    my $plan = $first_header + $i;
    my $res = ask($plan);
    my @lines = sort map { lc($headers->[ 2 * $_ ]) . ': '
                           . $headers->[ 2 * $_ + 1 ] } 0 .. @$headers / 2 - 1;

    error_is($res, own_error($status), "$status: " . join '; ', @lines);
    is_deeply(kept($res), \@lines, "$status: kept headers");
    unlike($res->raw, qr/leak|max-age|attachment/, "$status: no others");

    my $path = "/v1/contacts?plan=$plan";
    my $head = $g->head($path, @key);
    my $h2 = $g->h2($path, @key);

    error_is($head, own_error($status), "$status: HEAD");
    is_deeply(kept($head), \@lines, "$status: HEAD, kept headers");
    is($head->header('Content-Length'), length $res->body,
       "$status: HEAD, length");
    error_is($h2, own_error($status), "$status: HTTP/2");
    is_deeply(kept($h2), \@lines, "$status: HTTP/2, kept headers");
}


# Folded into the documented pairs; the message is the same.

for my $case (
    [ 400 => 400 ], [ 401 => 401 ], [ 403 => 401 ], [ 404 => 404 ],
    [ 408 => 400 ], [ 410 => 404 ], [ 418 => 400 ], [ 429 => 429 ],
    [ 499 => 400 ], [ 500 => 500 ], [ 502 => 500 ], [ 503 => 500 ],
    [ 504 => 500 ], [ 599 => 500 ],
) {
    my ($status, $folded) = @$case;
    my ($plan) = grep { $errors[$_][0] eq "$status, empty" } 0 .. $#errors;
    my (undef, $code, $message) = own_error($status);

    error_is(ask($plan, '/folded'), $folded, $code, $message,
             "documented, $status is $folded");
}


# Error pages are for others: neither intercepted nor by themselves.

for my $path (qw(/intercepted /with_pages /with_good_pages /pages_alone)) {
    for my $status (404, 429, 500, 503) {
        my ($plan) = grep { $errors[$_][0] eq "$status, HTML" } 0 .. $#errors;

        error_is(ask($plan, $path), own_error($status), "$path: $status");
    }
}

is($page->count, 0, 'no error page was asked for');


# The next upstream.

my $good = contacts_body(workspace => 'acme', limit => 20);

for my $case (
    [ 'a 500', { status => 500, body => $STACK } ],
    [ 'a 503', { status => 503, body => $STACK } ],
    [ 'a 404', { status => 404, body => $NOT_FOUND } ],
    [ 'a 429', { status => 429, body => $NOT_FOUND } ],
    [ 'no answer', { hang => 1 } ],
    [ 'a bad header', { raw => "HTTP/1.1 200 OK\r\nX\0: y\r\n\r\n",
                        close => 1 } ],
    [ 'an end', { raw => '', close => 1 } ],
) {
    my ($name, $answer) = @$case;

    $g->redis->purge('acme');
    $_->reset for $bad, $up;
    $bad->set(answer => $answer);

    success_is(ask('none', '/next/some'), $good, "$name: the next one answers");
    is($bad->count, 1, "$name: one request to the first");
    is($up->count, 1, "$name: one request to the next");
}

for my $case (
    [ 'a 500', { status => 500, body => $STACK }, own_error(500) ],
    [ 'a 404', { status => 404, body => documented('NOT_FOUND', 'None') },
      404, 'NOT_FOUND', 'None' ],
    [ 'no answer', { hang => 1 }, own_error(504) ],
    [ 'an end', { raw => '', close => 1 }, own_error(502) ],
) {
    my ($name, $answer, @error) = @$case;

    $_->reset for $bad, $worse;
    $_->set(answer => $answer) for $bad, $worse;

    error_is(ask('none', '/next/none'), @error, "$name of all: $error[0]");
    is($bad->count, 1, "$name of all: one request to the first");
    is($worse->count, 1, "$name of all: one request to the last");
}

$bad->reset;
$bad->set(answer => { status => 500, body => $STACK });
error_is(ask('none', '/no_next'), own_error(500), 'proxy_next_upstream off');
is($bad->count, 1, 'proxy_next_upstream off: one request');

$g->redis->purge('acme');
success_is(ask('none', '/next/down'), $good, 'one is down: the next answers');
error_is(ask('none', '/next/all_down'), own_error(502), 'all are down');
error_is(ask('none', '/next/all_down'), own_error(502), 'all are known to be');
ok($g->log_lines(qr/no live upstreams/), 'and not asked again');

$t->finish;
