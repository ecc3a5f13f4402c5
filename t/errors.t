#!/usr/bin/perl

# convotic_errors: every error that nginx, its modules or an upstream give in a
# server has the documented shape, whether or not the gateway has to do with
# it.  Three servers with one configuration: on, off, and without the module,
# which tells what nginx itself would have answered.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my %message = (
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
    500 => 'An unexpected error occurred',
    501 => 'Not implemented',
    502 => 'The upstream service gave no valid answer',
    503 => 'Service temporarily unavailable',
    504 => 'The upstream service did not answer in time',
    505 => 'HTTP version not supported',
);

sub code {
    my ($status) = @_;

    return $status == 401 || $status == 403 ? 'UNAUTHORIZED'
         : $status == 404 || $status == 410 ? 'NOT_FOUND'
         : $status == 429                   ? 'RATE_LIMITED'
         : $status < 500                    ? 'INVALID_REQUEST'
         :                                    'INTERNAL_ERROR';
}

sub message {
    my ($status) = @_;

    return $message{$status} ? $message{$status}
         : $status < 500     ? 'The request could not be processed'
         :                     'An unexpected error occurred';
}


# An upstream that answers /<status>/<how>.

my $html = "<html><h1>Oops</h1><pre>at line 7 of /srv/secret.rb</pre></html>\n";

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my ($status, $how) = $req->path =~ m{/(\d+)(?:/(\w+))?};
    my %answer = (
        status => $status, body => $vars->{html}, reason => 'Secret Reason',
        headers => [
            'Content-Type' => 'text/html; charset=utf-8', 'X-Kept' => 'yes',
            'ETag' => '"x"', 'Accept-Ranges' => 'bytes',
            'Last-Modified' => 'Sun, 01 Mar 2026 00:00:00 GMT',
        ],
    );

    return undef if !$status || $status == 999;
    return \%answer unless $how;
    return { %answer, chunked => 1 } if $how eq 'chunked';
    return { %answer, body => $vars->{html} x 20000 } if $how eq 'large';
    return { %answer, body => '' } if $how eq 'empty';
    return { %answer, no_length => 1, close => 1 } if $how eq 'close';
    return { %answer, cut => 20 } if $how eq 'cut';
    return { %answer, trickle => { bytes => 5, interval => 0.001 } }
        if $how eq 'slow';
    push @{ $answer{headers} }, 'Content-Encoding' => 'gzip';
    return \%answer;
});
$up->set(html => $html);

mkdir $t->dir . "/$_" for qw(html html/index);
$t->write_file('html/file.txt', 'x' x 100);
$t->write_file('html/page.html', '<html>custom</html>');
$t->write_file('htpasswd', "user:{PLAIN}password\n");

my $redis = $t->redis;
my $conf = <<'EOC';
http {
    %%REDIS_LINE%%
    %%ERRORS%%

    limit_req_zone $binary_remote_addr zone=a:1m rate=1r/m;
    limit_req_zone $binary_remote_addr zone=b:1m rate=1r/m;
    upstream up { server %%UPSTREAM%%; keepalive 4; }

    server {
        listen 127.0.0.1:%%PORT%%;
        %%LISTEN_SSL%%
        server_name localhost;
        root %%HTML%%;

        location /denied/     { deny all; }
        location /private/    { auth_basic "it";
                                auth_basic_user_file %%USERS%%; }
        location /req401/     { auth_request /check/401; }
        location /req403/     { auth_request /check/403; }
        location /req500/     { auth_request /check/500; }
        location /check/      { internal; proxy_pass http://up/; }
        location /limited/    { limit_req zone=a; try_files /file.txt =404; }
        location /limited429/ { limit_req zone=b; limit_req_status 429;
                                try_files /file.txt =404; }
        location /reads/      { limit_except GET { deny all; } }
        location /internal/   { internal; }
        location /try/        { try_files $uri $uri/ =404; }
        location /try503/     { try_files $uri =503; }
        location /loop/       { rewrite ^(.*)$ $1x last; }
        location /small/      { client_max_body_size 10;
                                proxy_pass http://up/200; }
        location /stub        { stub_status; }
        location /gzip/       { gzip on; gzip_types *; gzip_min_length 0; }
        location ~ ^/return/(?<s>\d+)$ { %%RETURNS%% return 400; }
        location /text/       { return 403 "<b>text</b>"; }
        location /json/       { default_type application/json;
                                return 404 '{"error":"bare"}'; }

        location /up/         { proxy_pass http://up/; }
        location /late/       { proxy_pass http://up/;
                                proxy_read_timeout 200ms; }
        location /unbuffered/ { proxy_pass http://up/; proxy_buffering off; }
        location /kept/       { proxy_pass http://up/; proxy_http_version 1.1;
                                proxy_set_header Connection ""; }
        location /refused/    { proxy_pass http://127.0.0.1:%%PORT_none%%; }
        location /fastcgi/    { fastcgi_pass 127.0.0.1:%%PORT_none%%; }
        location /noname/     { set $name ""; proxy_pass http://$name/; }

        location /page/       { error_page 404 /page.html; }
        location /page410/    { error_page 404 =410 /page.html; }
        location /named/      { error_page 404 = @named; }
        location @named       { return 404 "<html>named</html>"; }
        location /nowhere/    { error_page 404 /nowhere.html; }
        location /proxied/    { error_page 404 /up/503; }
        location /intercept/  { proxy_pass http://up/;
                                proxy_intercept_errors on;
                                error_page 404 /page.html; }
    }

    server {
        listen 127.0.0.1:%%SSL_PORT_client%% ssl;
        ssl_certificate %%CERT%%;
        ssl_certificate_key %%CERT_KEY%%;
        ssl_verify_client on;
        ssl_client_certificate %%CERT%%;
    }
}
EOC

my $returns = join ' ', map { "if (\$s = $_) { return $_; }" }
    400 .. 418, 421 .. 426, 428, 429, 431, 451, 460, 498, 500 .. 511, 520, 599;

sub server {
    my ($errors, $line) = @_;

    return $t->nginx(
        ssl => 1, upstream => $up, redis => $redis, conf => $conf,
        convotic => $errors ne 'none', vars => {
            ERRORS => $line, HTML => $t->dir . '/html', RETURNS => $returns,
            USERS => $t->dir . '/htpasswd', REDIS_LINE => '',
        });
}

my $on = server(on => 'convotic_errors on;');
my $off = server(off => 'convotic_errors off;');
my $none = server(none => '');


# Requests, and what nginx itself says to them.

my $host = "Host: localhost\r\n";
my $long = 'a' x 40000;

my @malformed = (
    [ 'no request line',             "GARBAGE\r\n\r\n", 400 ],
    [ 'bare LF',                     "GARBAGE\n\n", 400 ],
    [ 'NUL bytes',                   "\0\0\0\0\r\n\r\n", 400 ],
    [ 'TLS on a plain port',         "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"
                                     . "\r\n\r\n", 400 ],
    [ 'another protocol',            "SSH-2.0-OpenSSH_9.2\r\n", 400 ],
    [ 'PROXY protocol',              "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n\r\n",
                                     400 ],
    [ 'no method',                   " / HTTP/1.1\r\n$host\r\n", 400 ],
    [ 'small letters',               "get / HTTP/1.1\r\n$host\r\n", 400 ],
    [ 'a long method',               'A' x 40000 . " / HTTP/1.1\r\n$host\r\n",
                                     414 ],
    [ 'TRACE',                       "TRACE / HTTP/1.1\r\n$host\r\n", 405 ],
    [ 'CONNECT',                     "CONNECT / HTTP/1.1\r\n$host\r\n",
                                     qr/^40[05]\z/ ],
    [ 'CONNECT to a host',           "CONNECT a:80 HTTP/1.1\r\n$host\r\n",
                                     qr/^40[05]\z/ ],
    [ 'no path',                     "GET HTTP/1.1\r\n$host\r\n", 400 ],
    [ 'a relative path',             "GET x HTTP/1.1\r\n$host\r\n", 400 ],
    [ 'an asterisk',                 "OPTIONS * HTTP/1.1\r\n$host\r\n", 400 ],
    [ 'a blank in the path',         "GET /a b HTTP/1.1\r\n$host\r\n", 400 ],
    [ 'NUL in the path',             "GET /a\0b HTTP/1.1\r\n$host\r\n", 400 ],
    [ '0x01 in the path',            "GET /a\x01b HTTP/1.1\r\n$host\r\n", 400 ],
    [ '%00 in the path',             "GET /a%00b HTTP/1.1\r\n$host\r\n", 400 ],
    [ '%zz in the path',             "GET /%zz HTTP/1.1\r\n$host\r\n", 400 ],
    [ '% at the end of the path',    "GET /% HTTP/1.1\r\n$host\r\n", 400 ],
    [ 'above the root',              "GET /../x HTTP/1.1\r\n$host\r\n", 400 ],
    [ 'above the root, encoded',     "GET /%2e%2e/x HTTP/1.1\r\n$host\r\n",
                                     400 ],
    [ 'a long path',                 "GET /$long HTTP/1.1\r\n$host\r\n", 414 ],
    [ 'a long query',                "GET /?$long HTTP/1.1\r\n$host\r\n", 414 ],
    [ 'an URL without host',         "GET http:///x HTTP/1.1\r\n$host\r\n",
                                     400 ],
    [ 'an URL with a blank',         "GET http://a b/ HTTP/1.1\r\n$host\r\n",
                                     400 ],
    [ 'no version number',           "GET / HTTP/x\r\n$host\r\n", 400 ],
    [ 'another protocol\'s version', "GET / FTP/1.1\r\n$host\r\n", 400 ],
    [ 'HTTP in small letters',       "GET / http/1.1\r\n$host\r\n", 400 ],
    [ 'HTTP/0.9',                    "GET / HTTP/0.9\r\n$host\r\n", 400 ],
    [ 'HTTP/1.1000',                 "GET / HTTP/1.1000\r\n$host\r\n", 400 ],
    [ 'something after the version', "GET / HTTP/1.1x\r\n$host\r\n", 400 ],
    [ 'HTTP/2.0',                    "GET / HTTP/2.0\r\n$host\r\n", 505 ],
    [ 'HTTP/11',                     "GET / HTTP/11\r\n$host\r\n", 505 ],
    [ 'no Host',                     "GET / HTTP/1.1\r\n\r\n", 400 ],
    [ 'two Hosts',                   "GET / HTTP/1.1\r\n${host}Host: b\r\n\r\n",
                                     400 ],
    [ 'one Host twice',              "GET / HTTP/1.1\r\n$host$host\r\n", 400 ],
    [ 'an empty Host',               "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400 ],
    [ 'a slash in Host',             "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
                                     400 ],
    [ 'NUL in Host',                 "GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n",
                                     400 ],
    [ 'dots as Host',                "GET / HTTP/1.1\r\nHost: ..\r\n\r\n",
                                     400 ],
    map({ my ($name, $header, $status) = @$_;
          [ $name, "GET / HTTP/1.1\r\n$host$header\r\n\r\n", $status || 400 ] }
        [ 'a long header',           "X: $long" ],
        [ 'a long header name',      "$long: x" ],
        [ 'many long headers',       join "\r\n", map { "X-$_: " . 'a' x 1000 }
                                                  1 .. 60 ],
        [ 'a blank in a name',       'X Y: a' ],
        [ 'a blank behind a name',   'X : a' ],
        [ 'a name of no characters', ': a' ],
        [ 'NUL in a name',           "X\0Y: a" ],
        [ '0x01 in a name',          "X\x01Y: a" ],
        [ 'NUL in a value',          "X: a\0b" ],
        [ 'CR in a value',           "X: a\rb" ],
        [ 'a folded line',           "X: a\r\n b" ],
        [ 'two Authorizations',      "Authorization: a\r\nAuthorization: b" ],
        [ 'no number as length',     'Content-Length: x' ],
        [ 'no length',               'Content-Length:' ],
        [ 'a negative length',       'Content-Length: -1' ],
        [ 'a length with a sign',    'Content-Length: +1' ],
        [ 'a hexadecimal length',    'Content-Length: 0x1' ],
        [ 'a list of lengths',       'Content-Length: 1, 1' ],
        [ 'a length of 70 bits',     'Content-Length: 1180591620717411303424' ],
        [ 'two lengths',             "Content-Length: 1\r\nContent-Length: 2" ],
        [ 'one length twice',        "Content-Length: 0\r\nContent-Length: 0" ],
        [ 'length and chunks',       "Content-Length: 5\r\n"
                                     . 'Transfer-Encoding: chunked' ],
        [ 'chunked twice',           "Transfer-Encoding: chunked\r\n"
                                     . 'Transfer-Encoding: chunked' ],
        [ 'gzip as encoding',        'Transfer-Encoding: gzip', 501 ],
        [ 'gzip and chunked',        'Transfer-Encoding: gzip, chunked', 501 ],
        [ 'identity as encoding',    'Transfer-Encoding: identity', 501 ],
    ),
    [ 'a blank before a header', "GET / HTTP/1.1\r\n X: a\r\n$host\r\n", 400 ],
    [ 'chunks with HTTP/1.0',    "GET / HTTP/1.0\r\n${host}"
                                 . "Transfer-Encoding: chunked\r\n\r\n", 400 ],
);

my @usual = (
    [ 'no such file',            '/none', {}, [], 404 ],
    [ 'no such directory',       '/none/', {}, [], 404 ],
    [ 'a path through a file',   '/file.txt/x', {}, [], 404 ],
    [ 'a directory',             '/index/', {}, [], 403 ],
    [ 'POST to a file',          '/file.txt', { method => 'POST' }, [], 405 ],
    [ 'PUT to a file',           '/file.txt', { method => 'PUT' }, [], 405 ],
    [ 'POST to stub_status',     '/stub', { method => 'POST' }, [], 405 ],
    [ 'range of a file',         '/file.txt', {}, [ Range => 'bytes=200-' ],
      416 ],
    [ 'If-Match of a file',      '/file.txt', {}, [ 'If-Match' => '"x"' ],
      412 ],
    [ 'If-Unmodified-Since',     '/file.txt', {},
      [ 'If-Unmodified-Since' => 'Thu, 01 Jan 1970 00:00:00 GMT' ], 412 ],
    [ 'deny',                    '/denied/', {}, [], 403 ],
    [ 'auth_basic',              '/private/', {}, [], 401 ],
    [ 'auth_basic, malformed',   '/private/', {}, [ Authorization => 'x' ],
      401 ],
    [ 'auth_basic, wrong',       '/private/', {},
      [ Authorization => 'Basic dXNlcjp4' ], 401 ],
    [ 'limit_except',            '/reads/', { method => 'DELETE' }, [], 403 ],
    [ 'internal',                '/internal/', {}, [], 404 ],
    [ 'try_files',               '/try/none', {}, [], 404 ],
    [ 'try_files with a status', '/try503/none', {}, [], 503 ],
    [ 'a rewrite loop',          '/loop/', {}, [], 500 ],
    [ 'client_max_body_size',    '/small/', { method => 'POST',
                                              body => 'x' x 11 }, [], 413 ],
    [ 'return with a text',      '/text/', {}, [], 403 ],
    [ 'return with JSON',        '/json/', {}, [], 404 ],
    [ 'a refused connection',    '/refused/', {}, [], 502 ],
    [ 'FastCGI refused',         '/fastcgi/', {}, [], 502 ],
    [ 'a proxy to nowhere',      '/noname/', {}, [], 500 ],
    [ 'a proxy in vain',         '/late/999', {}, [], 504 ],
    [ 'a file as error page',    '/page/none', {}, [], 404 ],
    [ 'a file, another status',  '/page410/none', {}, [], 410 ],
    [ 'a named location',        '/named/none', {}, [], 404 ],
    [ 'an error page missing',   '/nowhere/none', {}, [], 404 ],
    [ 'an error page proxied',   '/proxied/none', {}, [], 404 ],
    [ 'intercepted errors',      '/intercept/404', {}, [], 404 ],
    map({ [ "return $_", "/return/$_", {}, [], $_ ] }
        400 .. 407, 409 .. 418, 421 .. 426, 428, 429, 431, 451, 460, 498,
        500 .. 511, 520, 599),
    map({ [ "upstream $_", "/up/$_", {}, [], $_ ] }
        400 .. 418, 421, 422, 425, 429, 451, 460, 499, 500 .. 505, 520, 599),
    map({ my $how = $_;
          map({ [ "upstream $_ $how", "$_/$how", {}, [], /(\d+)/ ] }
              qw(/up/404 /up/500 /kept/404 /kept/502 /unbuffered/403
                 /unbuffered/503)) }
        qw(chunked large empty close slow gzip)),
    [ 'upstream breaks off',     '/up/500/cut', {}, [], 500 ],
    [ 'auth_request 401',        '/req401/', {}, [], 401 ],
    [ 'auth_request 403',        '/req403/', {}, [], 403 ],
    [ 'auth_request fails',      '/req500/', {}, [], 500 ],
);


# The headers that do not describe the body that was replaced.

my $body_headers = qr/^(?:date|content-|transfer-encoding|etag|last-modified
                        |accept-ranges)/ix;

sub other_headers {
    my ($res) = @_;

    return 'no response' unless $res;
    return join "\n", map { "$_->[0]: $_->[1]" }
        grep { $_->[0] !~ $body_headers || $_->[0] eq 'Content-Range' }
        $res->headers;
}


sub bytes {
    my ($res) = @_;

    return 'no response' unless $res;
    return $res->raw =~ s/^Date: .*\r\n//mr;
}


# One request, and what comes until the connection ends.

sub ask {
    my ($nginx, $bytes, $method) = @_;

    my $conn = $nginx->connect;

    $conn->write($bytes);

    my $res = $conn->read($method);

    $conn->shutdown;
    $conn->eof;
    push @{ $res->{problems} }, 'extra bytes' if $res && $conn->buffer ne '';
    $conn->close;

    return $res;
}


# One request to the three servers.

sub check {
    my ($name, $bytes, $method, $expected) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my ($shaped, $untouched, $nginx) =
        map { ask($_, $bytes, $method) } $on, $off, $none;
    my $status = $nginx ? $nginx->status : 0;

    like($status, ref $expected ? $expected : qr/^$expected\z/,
         "$name: nginx says $expected");
    error_is($shaped, $status, code($status), message($status),
             "$name: $status in the shape");
    is(other_headers($shaped), other_headers($nginx),
       "$name: all other headers, Connection too, are nginx's");
    unlike($shaped ? $shaped->raw : '', qr/Secret Reason|secret\.rb|nginx.*\}/,
           "$name: nothing leaks");
    is(bytes($untouched), bytes($nginx), "$name: off leaves every byte");

    return ($shaped, $nginx);
}


for my $case (@malformed) {
    my ($name, $bytes, $status) = @$case;
    my (undef, $nginx) = check($name, $bytes, 'GET', $status);

    # a HEAD that nginx could not read so far is no HEAD to it

    next unless $bytes =~ s/^GET /HEAD /;

    check("$name, HEAD", $bytes, 'HEAD', $status)
        unless ask($none, $bytes, 'HEAD')->problems;
}

for my $case (@usual) {
    my ($name, $path, $opt, $headers, $status) = @$case;

    my ($shaped, $nginx) =
        check($name, Convotic::HTTP::request_text($path, $opt, @$headers),
              'GET', $status);

    is($shaped ? $shaped->reason : '', $nginx->reason,
       "$name: the reason phrase is nginx's") unless $name =~ /^upstream/;
    isnt($nginx->body, $shaped ? $shaped->body : '',
         "$name: nginx's own is another") unless $name =~ /^return 4(?:08|44)/;

    next if $opt->{method};

    check("$name, HEAD", Convotic::HTTP::request_text(
              $path, { %$opt, method => 'HEAD' }, @$headers), 'HEAD', $status);
}

cmp_ok($up->count, '>', 100, 'the upstream was asked');


# What other modules say beside the body is kept.

is($on->get('/private/')->header('WWW-Authenticate'), 'Basic realm="it"',
   'WWW-Authenticate');
is($on->get('/file.txt', Range => 'bytes=200-')->header('Content-Range'),
   'bytes */100', 'Content-Range');
is($on->get('/up/404')->header('X-Kept'), 'yes', "an upstream's header");
is_deeply([ map { $on->get('/up/404')->header($_) }
            qw(ETag Last-Modified Accept-Ranges Content-Encoding) ],
          [], 'but none that describes its body');


# limit_req: the first request passes.

for my $case ([ '/limited/', 503 ], [ '/limited429/', 429 ]) {
    my ($path, $status) = @$case;

    is($_->get($path)->body, 'x' x 100, "$path: the first passes")
        for $on, $off, $none;
    check("limit_req, $status, $_",
          Convotic::HTTP::request_text($path, { method => $_ }), $_, $status)
        for qw(GET HEAD);
}


# TLS: plain HTTP on its port, no certificate; HTTP/2.

for my $case ([ 'plain HTTP on a port for TLS', 'ssl_port' ],
              [ 'no client certificate', 'client', tls => 1 ])
{
    my ($name, $port, @opt) = @$case;

    for my $method (qw(GET HEAD)) {
        my ($shaped, $untouched, $nginx) = map {
            $_->get('/', {
                method => $method, @opt,
                port => $port eq 'client' ? $_->_port('SSL_PORT_client')
                                          : $_->ssl_port,
            });
        } $on, $off, $none;

        error_is($shaped, 400, 'INVALID_REQUEST', $message{400},
                 "$name, $method");
        is(bytes($untouched), bytes($nginx), "$name, $method: off");
    }
}

for my $case (grep { !$_->[2]{body} } @usual[ 0 .. 15 ]) {
    my ($name, $path, $opt, $headers, $status) = @$case;

    error_is($on->h2($path, $opt, @$headers), $status, code($status),
             message($status), "$name, HTTP/2");
    error_is($on->get($path, { %$opt, version => '1.0' }, @$headers),
             $status, code($status), message($status), "$name, HTTP/1.0");
}

error_is($on->h2("/up/$_"), /(\d+)/, code(/(\d+)/), message(/(\d+)/),
         "upstream $_, HTTP/2") for qw(404 500 500/large 404/gzip 503/chunked);


# Errors on a connection that goes on, one after the other and at once.

my @kept = qw(/none /index/ /denied/ /private/ /return/404 /return/429
              /return/503 /text/ /page/none /named/none /up/404 /up/500
              /kept/404/large /unbuffered/403/chunked /refused/ /try/none);
my @methods = map { $_ % 3 ? 'GET' : 'HEAD' } 0 .. $#kept;
my $conn = $on->connect;

for my $i (0 .. $#kept) {
    my $res = $conn->get($kept[$i], { method => $methods[$i] });
    my $status = $res ? $res->status : 0;

    error_is($res, $status, code($status), message($status),
             "kept: $methods[$i] $kept[$i]");
    is($res ? $res->header('Connection') : '', 'keep-alive', 'is kept');
}

is($conn->get('/file.txt')->status, 200, 'kept: at last a file');
$conn->close;

my @all = $on->raw(join('', map { Convotic::HTTP::request_text(
    $kept[$_], { method => $methods[$_] }) } 0 .. $#kept),
    methods => \@methods);

is(scalar @all, scalar @kept, 'pipelined: all are answered');

for my $i (0 .. $#all) {
    my $status = $all[$i]->status;

    error_is($all[$i], $status, code($status), message($status),
             "pipelined: $methods[$i] $kept[$i]");
}


# With gzip, an error is sent as it is.

for my $path ('/gzip/none', '/gzip/../index/') {
    my $res = $on->get($path, 'Accept-Encoding' => 'gzip');

    error_is($res, $res->status, code($res->status), message($res->status),
             "gzip: $path");
    is($res->header('Content-Encoding'), undef, "gzip: $path is not encoded");
}


# The response of an error page that is no error is left alone; levels.

my $levels = $t->nginx(
    ssl => 1, upstream => $up, redis => $redis,
    vars => { HTML => $t->dir . '/html' }, conf => <<'EOC');
http {
    convotic_redis %%REDIS%%;
    upstream up { server %%UPSTREAM%%; }

    server {
        listen 127.0.0.1:%%PORT%%;
        root %%HTML%%;
        convotic_errors on;

        location /ok/      { error_page 404 =200 /page.html; }
        location /named/   { error_page 404 = @named; }
        location @named    { return 200 "named\n"; }
        location /empty/   { error_page 404 =204 /page.html; }
        location /away/    { error_page 404 https://example.com/; }
        location /proxied/ { error_page 404 = /up/200; }
        location /up/      { proxy_pass http://up/; }
        location /moved/   { return 301 /file.txt; }

        location /off/     { convotic_errors off;
                             location /off/on/ { convotic_errors on; } }
        location /inner/   { location /inner/x/ { } }
        location = /v1/contacts {
            convotic on; convotic_errors off; proxy_pass http://up;
            client_max_body_size 10;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_default%%;
        root %%HTML%%;

        location /on/      { convotic_errors on; }
        location = /v1/contacts {
            convotic on; proxy_pass http://up; client_max_body_size 10;
        }
    }

    server {
        listen 127.0.0.1:%%SSL_PORT%% ssl;
        ssl_certificate %%CERT%%;
        ssl_certificate_key %%CERT_KEY%%;
        convotic_errors on;
        error_page 497 =301 https://example.com$request_uri;
    }

    server {
        listen 127.0.0.1:%%PORT_hasty%%;
        convotic_errors on;
        client_header_timeout 200ms;
    }

    server {
        listen 127.0.0.1:%%PORT_named%%;
        root %%HTML%%;
        convotic_errors on;
        error_page 400 404 414 500 @named;
        location @named    { return 404 "<html>named</html>"; }
    }
}
EOC

is($levels->get('/ok/none')->status . $levels->get('/ok/none')->body,
   '200<html>custom</html>', 'error_page =200 is left alone');
is($levels->get('/named/none')->status . $levels->get('/named/none')->body,
   "200named\n", 'a named location with 200 is left alone');
is($levels->get('/empty/none')->status, 204, 'error_page =204 is left alone');
is($levels->get('/away/none')->status, 302, 'a redirection is left alone');
like($levels->get('/away/none')->body, qr/^<html>/, 'and its body');
is($levels->get('/moved/')->status, 301, 'return 301 is left alone');
is($levels->get('/proxied/none')->status . $levels->get('/proxied/none')->body,
   "200$html", 'an upstream\'s 200 is left alone');
is($levels->get('/file.txt')->body, 'x' x 100, 'a file is left alone');
is($levels->get('/file.txt', Range => 'bytes=0-9')->status, 206,
   'a part of it, too');

my $plain = $levels->get('/x?y', { port => $levels->ssl_port });

is($plain->status . ' ' . ($plain->header('Location') || ''),
   '301 https://example.com/x?y', 'plain HTTP led to TLS is left alone');

my $not_found = qr/^<html>.*404 Not Found/s;

like($levels->get('/off/none')->body, $not_found, 'off in a location');
error_is($levels->get('/off/on/none'), 404, 'NOT_FOUND', $message{404},
         'on in a location within');
error_is($levels->get('/inner/x/none'), 404, 'NOT_FOUND', $message{404},
         'inherited from the server');

my $default = { port => $levels->port('default') };

like($levels->get('/none', $default)->body, $not_found, 'off by default');
like(($levels->raw("GARBAGE\r\n\r\n", %$default, methods => ['GET']))[0]->body,
     qr/^<html>.*400 Bad Request/s, 'off by default: a malformed request');
error_is($levels->get('/on/none', $default), 404, 'NOT_FOUND', $message{404},
         'on in a location only');

my %large = (method => 'POST', body => 'x' x 11);

error_is($levels->get('/v1/contacts', { %$default, %large }), 413,
         'INVALID_REQUEST', $message{413}, 'on by default where convotic is');
error_is($levels->get('/v1/contacts', $default), 401, 'UNAUTHORIZED',
         'Missing X-API-Key header', 'and the gateway\'s own');
like($levels->get('/v1/contacts', \%large)->body,
     qr/^<html>.*413 Request Entity/s,
     'off where convotic is on: nginx\'s own');
error_is($levels->get('/v1/contacts'), 401, 'UNAUTHORIZED',
         'Missing X-API-Key header', 'the gateway\'s own are as ever');


# No response at all stays none.

for my $case ([ 'a timeout' => 'GET / HTTP/1.1' ],
              [ 'nothing sent' => '' ]) {
    my ($name, $bytes) = @$case;
    my $slow = $levels->connect(port => $levels->port('hasty'));

    $slow->write($bytes);
    ok($slow->eof(30), "$name: closed");
    is($slow->buffer, '', "$name: no response");
    $slow->close;
}


# A named location cannot serve what has no URI yet: that is a 500, in the
# shape.

my $named = { port => $levels->port('named') };

error_is($levels->get('/none', $named), 404, 'NOT_FOUND', $message{404},
         'a named location');

for my $bytes ("GARBAGE\r\n\r\n", "GET /$long HTTP/1.1\r\n\r\n",
               "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/9.9\r\n\r\n")
{
    my ($res) = $levels->raw($bytes, %$named, methods => ['GET']);
    my $name = 'a named location for ' . substr $bytes =~ s/\r.*//sr, 0, 20;

    error_is($res, $res ? $res->status : 0, undef, undef, $name);
}


# An upstream's 4xx that has the documented shape keeps its code and message,
# encoded anew, whatever its framing.

my $json = $t->upstream(name => 'json', handler => sub {
    my ($req, $vars) = @_;

    my %answer = %{ $vars->{answer} };
    utf8::downgrade($answer{body});

    return \%answer;
});

my $other = $t->nginx(upstream => $json, redis => $redis, ssl => 1,
                      conf => <<'EOC');
http {
    convotic_errors on;
    server {
        listen 127.0.0.1:%%PORT%%;
        %%LISTEN_SSL%%
        location /v1/ { proxy_pass http://%%UPSTREAM%%; }
        location /v2/ { proxy_pass http://%%UPSTREAM%%;
                        proxy_http_version 1.1;
                        proxy_set_header Connection ""; }
        location /v3/ { proxy_pass http://%%UPSTREAM%%; proxy_buffering off; }
    }
}
EOC

my $conv = "Conversation 'conv_invalid' not found";

sub error_body { return qq({"error":{"code":"$_[0]","message":"$_[1]"}}) }

# What the upstream says, and the code and message that go on; none if they are
# ours.

my @documented = (
    [ 404, error_body(NOT_FOUND => $conv), NOT_FOUND => $conv ],
    [ 404, qq(\n{ "error" : {"message":"$conv",\t"code":"NOT_FOUND"} }\n),
      NOT_FOUND => $conv ],
    [ 404, qq({"trace":"secret","error":{"x":1,"code":"NOT_FOUND",)
           . qq("message":"$conv"}}), NOT_FOUND => $conv ],
    [ 400, error_body(INVALID_REQUEST => 'A \"b\" \\\\ \/ \u00e9 \ud83d\ude00'),
      INVALID_REQUEST => qq(A "b" \\ / \x{e9} \x{1f600}) ],
    [ 400, error_body(INVALID_REQUEST => "\xe0\xb8\xaa"),
      INVALID_REQUEST => "\x{e2a}" ],
    [ 400, error_body(INVALID_REQUEST => '<b>\u003cscript>'),
      INVALID_REQUEST => '<b><script>' ],
    [ 401, error_body(UNAUTHORIZED => 'Token expired'),
      UNAUTHORIZED => 'Token expired' ],
    [ 429, error_body(RATE_LIMITED => 'Slow down'),
      RATE_LIMITED => 'Slow down' ],
    [ 409, error_body(CONFLICT => 'Taken'), INVALID_REQUEST => 'Taken' ],
    [ 403, error_body(not_found => 'No'), UNAUTHORIZED => 'No' ],
    [ 422, error_body(NOT_FOUND => 'No such name'),
      NOT_FOUND => 'No such name' ],

    [ 404, '{"error":"not_found"}' ],
    [ 404, '{"error":{"code":"NOT_FOUND"}}' ],
    [ 404, '{"error":{"message":"x"}}' ],
    [ 404, '{"error":{"code":"NOT_FOUND","message":""}}' ],
    [ 404, '{"error":{"code":"NOT_FOUND","message":null}}' ],
    [ 404, '{"error":{"code":1,"message":"x"}}' ],
    [ 404, '{"error":{"code":"NOT_FOUND","message":["x"]}}' ],
    [ 404, '[{"error":{"code":"NOT_FOUND","message":"x"}}]' ],
    [ 404, '{"error":{"code":"NOT_FOUND","message":"x"}' ],
    [ 404, '{"error":{"code":"NOT_FOUND","message":"x"}}}' ],
    [ 404, '{"error":{"code":"NOT_FOUND","message":"x"},"error":{}}' ],
    [ 404, '{"error":{},"error":{"code":"NOT_FOUND","message":"x"}}' ],
    [ 404, "{\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"\xff\"}}" ],
    [ 404, error_body(NOT_FOUND => 'x' x 20000) ],
    [ 404, '[' x 5000 ],
    [ 404, 'not JSON' ],
    [ 404, '' ],
    [ 500, error_body(INTERNAL_ERROR => 'at line 7 of secret.rb') ],
    [ 503, error_body(RATE_LIMITED => 'at line 7 of secret.rb') ],
);

my @framings = (
    [ 'a length', {} ],
    [ 'chunks', { chunked => 1 } ],
    [ 'the end of the connection', { no_length => 1, close => 1 } ],
    [ 'a slow answer', { trickle => { bytes => 40, interval => 0.001 } } ],
);

for my $case (@documented) {
    my ($status, $body, $code, $text) = @$case;

    for my $framing (@framings) {
        my ($how, $answer) = @$framing;

        next if $how =~ /slow/ && length $body > 1000;
        $json->set(answer => { %$answer, status => $status, body => $body });

        for my $version (qw(v1 v2 v3)) {
            error_is($other->get("/$version/x"), $status,
                     defined $code ? $code : code($status),
                     defined $text ? $text : message($status),
                     "/$version, $how: $status "
                     . substr $body =~ s/[^\x20-\x7e]/./gr, 0, 60);
        }
    }
}

# Broken off, of another type, or encoded: ours.

for my $case (
    [ 'cut', cut => 20 ],
    [ 'cut before the end', cut => -1 + length error_body(NOT_FOUND => $conv) ],
    [ 'cut at once', cut => 0 ],
    [ 'reset', cut => 20, rst => 1 ],
    [ 'HTML', headers => [ 'Content-Type' => 'text/html' ] ],
    [ 'said to be gzip', headers => [ 'Content-Encoding' => 'gzip' ] ],
) {
    my ($name, @answer) = @$case;

    for my $framing ({}, { chunked => 1 }) {
        $json->set(answer => { status => 404, @answer, %$framing,
                               body => error_body(NOT_FOUND => $conv) });

        for my $version (qw(v1 v2 v3)) {
            error_is($other->get("/$version/x"), 404, 'NOT_FOUND',
                     $message{404}, join ' ', "/$version, $name", %$framing);
        }
    }
}

# HEAD has no body to be read: its length is the one of GET, or is not told.

$json->set(answer => { status => 404, body => error_body(NOT_FOUND => $conv) });

my $get = $other->get('/v1/x');
my $head = $other->head('/v1/x');

is($head->status, 404, 'HEAD of a documented error');
is($head->header('Content-Type'), 'application/json', 'its type');
ok(!defined $head->header('Content-Length')
   || $head->header('Content-Length') eq $get->header('Content-Length'),
   'no other length than that of GET');

my $after = $other->connect;

for (1 .. 3) {
    error_is($after->get('/v2/x'), 404, 'NOT_FOUND', $conv, 'kept, GET');
    is($after->get('/v2/x', { method => 'HEAD' })->status, 404, 'kept, HEAD');
}

error_is($other->h2('/v1/x'), 404, 'NOT_FOUND', $conv, 'HTTP/2');
error_is($other->get('/v1/x', { version => '1.0' }), 404, 'NOT_FOUND', $conv,
         'HTTP/1.0');
$after->close;

$t->finish;
