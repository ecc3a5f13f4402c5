#!/usr/bin/perl

# convotic_error_status: "preserve" keeps the status of an error, "documented"
# leaves only the five documented pairs of status and code.  Code, message and
# all else are the same.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my %documented = (
    UNAUTHORIZED    => 401,
    INVALID_REQUEST => 400,
    NOT_FOUND       => 404,
    RATE_LIMITED    => 429,
    INTERNAL_ERROR  => 500,
);

sub code {
    my ($status) = @_;

    return $status == 401 || $status == 403 ? 'UNAUTHORIZED'
         : $status == 404 || $status == 410 ? 'NOT_FOUND'
         : $status == 429                   ? 'RATE_LIMITED'
         : $status < 500                    ? 'INVALID_REQUEST'
         :                                    'INTERNAL_ERROR';
}

my $t = Convotic::Test->new(direct => 1);

# An upstream whose platform is the form of an error and limit its status.

my $up = $t->upstream(handler => sub {
    my ($req) = @_;

    my $args = $req->args;
    my ($form, $status) = ($args->{platform} || '', $args->{limit});

    return contacts_body(workspace => $req->tenant, limit => $status)
        if $status < 400;
    return undef if $form eq 'none';
    return {
        status => $status, headers => [ 'Retry-After' => 7, 'Allow' => 'GET' ],
        body   => $form eq 'plain' ? '<h1>Oops</h1>'
                : qq({"error":{"code":"$form","message":"From upstream"}}),
    };
});

my $redis = $t->redis->init;
my $key = $redis->add_key(test_key('acme'));

my @statuses = (400 .. 407, 409 .. 418, 421 .. 426, 428, 429, 431, 451, 460,
                498, 500 .. 511, 520, 599);

$t->write_file('page.html', '<html>page</html>');

my %vars = (
    ROOT    => $t->dir,
    CLOSED  => '127.0.0.1:' . free_port(),
    RETURNS => join ' ', map { "if (\$s = $_) { return $_; }" } @statuses,
);

my $nginx = $t->nginx(redis => $redis, upstream => $up, ssl => 1,
                      vars => \%vars, conf => <<'EOC');
http {
    convotic_redis %%REDIS%%;
    convotic_errors on;
    convotic_limit max=999;
    convotic_platforms plain none UNAUTHORIZED INVALID_REQUEST NOT_FOUND
                       RATE_LIMITED INTERNAL_ERROR CONFLICT;
    upstream contacts { server %%UPSTREAM%%; }
    root %%ROOT%%;

    server {
        listen 127.0.0.1:%%PORT%%;

        location = /v1/contacts { convotic on; proxy_pass http://contacts; }
        location = /refused { convotic on; proxy_pass http://%%CLOSED%%; }
        location = /late { convotic on; proxy_pass http://contacts;
                           proxy_read_timeout 300ms; }
        location /closed/ { proxy_pass http://%%CLOSED%%; }
        location /proxied/ { proxy_pass http://contacts/; }
        location /denied/ { deny all; }
        location /page/ { error_page 404 =410 /page.html; }
        location ~ ^/return/(?<s>\d+)$ { %%RETURNS%% }
        location /documented/ { convotic_error_status documented; }
    }

    server {
        listen 127.0.0.1:%%PORT_documented%%;
        %%LISTEN_SSL%%
        convotic_error_status documented;

        location = /v1/contacts { convotic on; proxy_pass http://contacts; }
        location = /refused { convotic on; proxy_pass http://%%CLOSED%%; }
        location = /late { convotic on; proxy_pass http://contacts;
                           proxy_read_timeout 300ms; }
        location /closed/ { proxy_pass http://%%CLOSED%%; }
        location /proxied/ { proxy_pass http://contacts/; }
        location /denied/ { deny all; }
        location /page/ { error_page 404 =410 /page.html; }
        location ~ ^/return/(?<s>\d+)$ { %%RETURNS%% }
        location /preserve/ {
            convotic_error_status preserve;
            location /preserve/documented/ { convotic_error_status documented; }
        }
    }
}
EOC

my %port = (preserve => $nginx->port, documented => $nginx->port('documented'));


# A request to both servers; the status that "preserve" keeps.

sub both {
    my ($name, $status, $code, $message, $path, $opt, @headers) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my %bytes;

    for my $mode (sort keys %port) {
        my $expected = $mode eq 'preserve' ? $status : $documented{$code};
        my $res = $nginx->get($path, { %$opt, port => $port{$mode} }, @headers);

        error_is($res, $expected, $code, $message, "$mode: $name: $expected");
        $bytes{$mode} = $res
            ? $res->raw =~ s/^(?:HTTP|Date|Age|Cache-Status).*\r\n//mgr
            : 'no response';
    }

    is($bytes{documented}, $bytes{preserve},
       "$name: the same but for the status line and what time changes");

    return;
}


# The gateway's own errors.

my @key = ('X-API-Key' => $key);

my @own = (
    [ 'a method', 405, 'INVALID_REQUEST', 'Method PUT is not allowed',
      '/v1/contacts', { method => 'PUT' }, @key ],
    [ 'a body', 400, 'INVALID_REQUEST', 'A request body is not allowed',
      '/v1/contacts', { body => 'x' }, @key ],
    [ 'no key', 401, 'UNAUTHORIZED', 'Missing X-API-Key header',
      '/v1/contacts', {} ],
    [ 'a bad key', 401, 'UNAUTHORIZED', 'Invalid API key',
      '/v1/contacts', {}, 'X-API-Key' => 'x' ],
    [ 'a limit', 400, 'INVALID_REQUEST',
      "Parameter 'limit' must be between 1 and 999",
      '/v1/contacts?limit=0', {}, @key ],
    [ 'a condition', 412, 'INVALID_REQUEST', 'Precondition failed',
      '/v1/contacts?limit=1', {}, @key, 'If-Match' => '"x"' ],
    [ 'a range', 416, 'INVALID_REQUEST', 'Range not satisfiable',
      '/v1/contacts?limit=2', {}, @key, 'Range' => 'bytes=99999-' ],
    [ 'a refused connection', 502, 'INTERNAL_ERROR', qr/no valid answer\z/,
      '/refused', {}, @key ],
    [ 'no answer', 504, 'INTERNAL_ERROR', qr/did not answer in time\z/,
      '/late?limit=400&platform=none', {}, @key ],
);

$nginx->get('/v1/contacts?limit=2', { port => $_ }, @key) for values %port;

for my $case (@own) {
    my ($name, $status, $code, $message, $path, $opt, @headers) = @$case;

    both($name, $status, $code, $message, $path, { %$opt, %$_ }, @headers)
        for {}, $opt->{method} || $opt->{body} ? () : { method => 'HEAD' };
}

for my $case (@own[0 .. 4]) {
    my ($name, undef, $code, $message, $path, $opt, @headers) = @$case;

    error_is($nginx->h2($path, $opt, @headers), $documented{$code}, $code,
             $message, "documented: $name, HTTP/2");
}


# An upstream's, of every status and form, behind the gateway.

for my $status (@statuses) {
    my $own = code($status);

    both("upstream $status, HTML", $status, $own, undef,
         "/v1/contacts?limit=$status&platform=plain", {}, @key);

    for my $code (sort(keys %documented), 'CONFLICT') {
        my $kept = $status < 500 && $documented{$code};

        both("upstream $status, $code", $status, $kept ? $code : $own,
             $status < 500 ? 'From upstream' : qr/^(?!From)/,
             "/v1/contacts?limit=$status&platform=$code", {}, @key);
    }
}


# nginx's and other locations'.

for my $status (@statuses) {
    both("return $status", $status, code($status), undef, "/return/$status",
         {});
    both("return $status, HEAD", $status, code($status), undef,
         "/return/$status", { method => 'HEAD' });
    both("proxied $status", $status, code($status), undef,
         "/proxied/?limit=$status&platform=plain", {});
}

both('no such file', 404, 'NOT_FOUND', 'Resource not found', '/none', {});
both('deny', 403, 'UNAUTHORIZED', 'Access denied', '/denied/', {});
both('POST to a file', 405, 'INVALID_REQUEST', 'Method not allowed',
     '/page.html', { method => 'POST' });
both('an error page', 410, 'NOT_FOUND', 'Resource is no longer available',
     '/page/none', {});
both('bad gateway', 502, 'INTERNAL_ERROR', qr/no valid answer\z/, '/closed/',
     {});
both('no Host', 400, 'INVALID_REQUEST', 'Malformed request', '/',
     { no_host => 1 });
both('a long path', 414, 'INVALID_REQUEST', 'Request URI is too long',
     '/' . 'a' x 40000, {});
both('a long header', 400, 'INVALID_REQUEST', 'Malformed request', '/', {},
     'X' => 'a' x 40000);
both('TRACE', 405, 'INVALID_REQUEST', 'Method not allowed', '/',
     { method => 'TRACE' });
both('an encoding', 501, 'INTERNAL_ERROR', 'Not implemented', '/', {},
     'Transfer-Encoding' => 'gzip');
both('HTTP/2.0', 505, 'INTERNAL_ERROR', 'HTTP version not supported', '/',
     { version => '2.0' });


# The reason phrase goes with the status, headers stay.

my $line = sub {
    my ($mode, $path, $opt, @headers) = @_;
    my $res = $nginx->get($path, { %$opt, port => $port{$mode} }, @headers);
    return $res->status . ' ' . $res->reason;
};

is($line->(documented => '/denied/', {}), '401 Unauthorized', 'for 403');
is($line->(documented => '/closed/', {}), '500 Internal Server Error',
   'for 502');
is($line->(documented => '/return/410', {}), '404 Not Found', 'for 410');
is($line->(documented => '/v1/contacts', { method => 'PUT' }),
   '400 Bad Request', 'for 405');

my $put = $nginx->get('/v1/contacts',
                      { method => 'PUT', port => $port{documented} });
my $busy = $nginx->get('/v1/contacts?limit=503&platform=plain',
                       { port => $port{documented} }, @key);

is($put->header('Allow'), 'GET, HEAD', 'Allow is kept');
is($busy->header('Retry-After'), 7, 'Retry-After is kept');


# What is no error is not touched.

for my $mode (sort keys %port) {
    my @opt = ({ port => $port{$mode} }, @key);
    my $res = $nginx->get('/v1/contacts?limit=3', @opt);

    success_is($res, contacts_body(workspace => 'acme', limit => 3),
               "$mode: 200");
    is($nginx->get('/v1/contacts?limit=3', @opt,
                   'If-None-Match' => $res->header('ETag'))->status, 304,
       "$mode: 304");
    is($nginx->get('/v1/contacts?limit=3', @opt,
                   'Range' => 'bytes=0-1')->status, 206, "$mode: 206");
}


# Levels.

error_is($nginx->get('/return/502', { port => $port{preserve} }),
         502, 'INTERNAL_ERROR', undef, 'preserve is the default');

for my $case (
    [ preserve   => '/documented/none.html/x', {}, 404 ],
    [ preserve   => '/documented/none', { method => 'PUT' }, 400 ],
    [ preserve   => '/none', { method => 'PUT' }, 405 ],
    [ documented => '/preserve/none', { method => 'PUT' }, 405 ],
    [ documented => '/preserve/documented/none', { method => 'PUT' }, 400 ],
    [ documented => '/none', { method => 'PUT' }, 400 ],
) {
    my ($mode, $path, $opt, $status) = @$case;

    error_is($nginx->get($path, { %$opt, port => $port{$mode} }), $status,
             code($status), undef, "$mode, $path: $status");
}

$t->finish;
