#!/usr/bin/perl

# Where the module is off, nginx is what it was: with the module loaded and
# nothing of it on, and with it on for another location and another server, the
# same requests get the same bytes, and the same lines in the log, as without.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Select;
use IO::Socket::INET;

use Convotic::Test;

use constant PATIENCE => 20;            # seconds

my $t = Convotic::Test->new;

my $redis = $t->redis;
my $key = test_key('acme');

$redis->init;
$redis->add_key($key, workspace => 'acme');

my $up = $t->upstream(handler => sub {
    my ($req) = @_;

    my ($status) = $req->path =~ m{/status/(\d+)};

    return {
        status => $status || 200,
        headers => [
            'Content-Type' => 'application/json', 'ETag' => '"of-the-upstream"',
            'X-RateLimit-Limit' => 7, 'Cache-Status' => 'upstream; hit',
            'Last-Modified' => 'Sun, 06 Nov 1994 08:49:37 GMT',
            'Set-Cookie' => 'a=b',
        ],
        body => '{"path":"' . $req->path . '"}' . ('x' x 3000),
    };
});

my $HTTP = <<'EOC';
    log_format  told  '"$request" $status $body_bytes_sent "$sent_http_etag"';
    access_log  %%DIR%%/access.log told;

    proxy_cache_path  %%DIR%%/cache keys_zone=proxy:1m;
    limit_req_zone    $server_name zone=one:64k rate=1r/m;
    map $http_upgrade $up { default 0; ~. 1; }
EOC

my $SERVER = <<'EOC';
    root         %%DIR%%/html;
    error_page   418 = /named;
    error_page   503 /sorry.html;
    client_max_body_size  1k;
    lingering_timeout     200ms;
    large_client_header_buffers  2 1k;

    location /            { index index.html; add_header X-Added yes always; }
    location /gzipped     { gzip on; gzip_types *; gzip_min_length 1;
                            proxy_pass http://contacts; }
    location /upstream    { proxy_pass http://contacts; }
    location /intercepted { proxy_pass http://contacts;
                            proxy_intercept_errors on; }
    location /unbuffered  { proxy_pass http://contacts; proxy_buffering off; }
    location /stored      { proxy_pass http://contacts; proxy_cache proxy;
                            proxy_cache_valid any 1h;
                            proxy_ignore_headers Set-Cookie; }
    location /dead        { proxy_pass http://127.0.0.1:1; }
    location /moved       { return 301 /elsewhere; }
    location /text        { return 200 "a text\n"; }
    location /teapot      { return 418; }
    location /named       { return 200 "named $request_method\n"; }
    location /closed      { return 444; }
    location /limited     { limit_req zone=one; proxy_pass http://contacts; }
    location /denied      { deny all; }
    location /tried       { try_files $uri /text; }
    location /guarded     { auth_request /upstream/status/401;
                            proxy_pass http://contacts; }
EOC

# The same server three times, with more and more of the module around it.

my %setup = (
    without => { convotic => 0, location => 'return 404;', http => $HTTP },
    loaded  => {
        convotic => 1, http => $HTTP, location => 'convotic off; return 404;',
        server => 'convotic_errors off;',
    },
    on => { convotic => 1, http => $HTTP, server => 'convotic_errors off;' },
);

my %nginx;

for my $name (sort keys %setup) {
    my %arg = %{ $setup{$name} };

    $nginx{$name} = $t->nginx(
        %arg, name => $name, upstream => $up, start => 0, no_access_log => 1,
        ($name eq 'on' ? (redis => $redis) : ()),
        server => ($arg{server} || '') . $SERVER,
    );

    my $html = $nginx{$name}->dir . '/html';

    mkdir $html or die "$html: $!\n";
    $t->write_file("$name/html/index.html", "<p>index</p>\n");
    $t->write_file("$name/html/sorry.html", "<p>sorry</p>\n");
    $t->write_file("$name/html/file.txt", join '', map { "line $_\n" } 1 .. 400);
    utime 1e9, 1e9, glob "$html/*";

    $nginx{$name}->start;
}


# What differs from one nginx to the next for reasons of its own.

sub told {
    my ($nginx, $bytes) = @_;

    my $port = $nginx->port;

    $bytes =~ s/^Date: .*?\r\n//mg;
    $bytes =~ s/\b127\.0\.0\.1:$port\b/ADDRESS/g;
    $bytes =~ s/\blocalhost:$port\b/ADDRESS/g;

    return $bytes;
}


sub same {
    my ($request, $name) = @_;

    my %got = map { ($_ => told($nginx{$_}, bytes($nginx{$_}, $request))) }
        keys %nginx;

    for my $with (qw(loaded on)) {
        is($got{$with}, $got{without}, "$name: $with");
    }

    return;
}


# All that comes, to the end of the connection.

sub bytes {
    my ($nginx, $request) = @_;

    my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1:' . $nginx->port)
        or die "connect: $!\n";

    $socket->syswrite($request);

    my $select = IO::Select->new($socket);
    my $all = '';

    while ($select->can_read(PATIENCE)) {
        $socket->sysread($all, 65536, length $all) or return $all;
    }

    die 'no end of: ' . substr($request, 0, 60) . "\n";
}


sub request {
    my ($line, @headers) = @_;

    return join "\r\n", $line, 'Host: localhost', @headers, 'Connection: close',
        '', '';
}

my @GET = (
    '/', '/file.txt', '/none', '/none?a=%zz', '/upstream', '/gzipped', '/unbuffered',
    '/moved', '/text', '/teapot', '/closed', '/denied', '/dead', '/tried',
    '/guarded', '/stored', '/stored', '/limited', '/limited',
    map { ("/upstream/status/$_", "/intercepted/status/$_") }
        qw(204 301 304 400 401 403 404 405 410 412 416 429 500 502 503 504),
);

same(request("GET $_ HTTP/1.1"), "GET $_") for @GET;
same(request("HEAD $_ HTTP/1.1"), "HEAD $_")
    for '/', '/file.txt', '/none', '/upstream', '/upstream/status/404', '/text';
same(request("GET $_ HTTP/1.0"), "GET $_, HTTP/1.0")
    for '/file.txt', '/none', '/upstream', '/dead';

my %headers = (
    'a range' => 'Range: bytes=3-9', 'two ranges' => 'Range: bytes=0-1,5-9',
    'a range too far' => 'Range: bytes=999999-',
    'modified since' => 'If-Modified-Since: Sun, 09 Sep 2001 01:46:40 GMT',
    'unmodified since' => 'If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT',
    'a tag' => 'If-None-Match: "of-the-upstream"', 'no tag' => 'If-Match: "x"',
    'gzip' => 'Accept-Encoding: gzip', 'a key' => "X-API-Key: $key",
    'our own names' => 'X-Convotic-Workspace: acme',
);

for my $name (sort keys %headers) {
    same(request("GET $_ HTTP/1.1", $headers{$name}), "GET $_, $name")
        for '/file.txt', '/upstream', '/gzipped';
}

same(request("POST /upstream HTTP/1.1", 'Content-Length: 0'), 'an empty POST');
same(request("POST /upstream HTTP/1.1", 'Content-Length: 3') . 'abc', 'a POST');
same(request("POST /upstream HTTP/1.1", 'Transfer-Encoding: chunked')
     . "3\r\nabc\r\n0\r\n\r\n", 'a chunked POST');
same(request("PUT /file.txt HTTP/1.1", 'Content-Length: 3') . 'abc', 'PUT a file');
same(request("POST /upstream HTTP/1.1", 'Content-Length: 9999'), 'too large a body');

# What nginx refuses before it has a location, or a URI.

same(request($_), "the line \"$_\"") for
    'GET', 'GET / HTTP/3.1', 'GET / HTTP/1.1 x', 'get / HTTP/1.1',
    'TRACE / HTTP/1.1', 'CONNECT / HTTP/1.1', 'OPTIONS * HTTP/1.1',
    'GET /../.. HTTP/1.1', 'GET /%00 HTTP/1.1', 'GET http://localhost/text HTTP/1.1';
same(request('GET /' . ('x' x 3000) . ' HTTP/1.1'), 'a line too long');
same(request('GET / HTTP/1.1', 'X-Long: ' . ('x' x 3000)), 'a header too long');
same("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 'no Host');
same("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
     'two of them');
same("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 'TLS to the plain port');

# One after the other on one connection.

same("GET /text HTTP/1.1\r\nHost: localhost\r\n\r\n"
     . "GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n"
     . request('GET /upstream HTTP/1.1'), 'three on one connection');

# The order of two connections' lines is nobody's promise.

sub lines {
    my ($name) = @_;

    return join "\n", sort $nginx{$name}->access_log;
}

for my $with (qw(loaded on)) {
    wait_until(sub { lines($with) eq lines('without') }, PATIENCE);
    is(lines($with), lines('without'), "the same lines in the log: $with");
}

# And the location that it is on for is one.

is($nginx{on}->get('/v1/contacts')->status, 401, 'where it is on, it is');
is($nginx{loaded}->get('/v1/contacts')->status, 404, 'and where it is off, not');

$t->finish;
