#!/usr/bin/perl

# No way leads around the gate: subrequests into the location are refused,
# redirections within nginx pass it, nginx's own checks come before it and
# open nothing, and what knows no tenant is refused at start.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my @MISSING = (401, 'UNAUTHORIZED', 'Missing X-API-Key header');
my @INVALID = (401, 'UNAUTHORIZED', 'Invalid API key');
my @DENIED = (403, 'UNAUTHORIZED', 'Access denied');
my @NOT_FOUND = (404, 'NOT_FOUND', 'Resource not found');

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis;
my $fake = $t->fake_redis(behind => $redis);
my $up = $t->upstream;
my $other = $t->upstream(name => 'other', handler => sub {
    my ($req) = @_;

    return { body => 'other', headers => [
        'Content-Type' => 'text/plain', 'Cache-Control' => 'max-age=9',
        'X-Accel-Redirect' => '/v1/contacts?limit=2',
    ] } if $req->path eq '/accel';

    return { body => 'other', headers => [ 'Content-Type' => 'text/plain' ] };
});
my @if = ($up, map { $t->upstream(name => "if$_") } 1, 2);
my $g = $t->gateway(
    redis => $fake, store => $redis, upstream => $up, ssl => 1,
    vars => { OTHER => $other->addr, FIRST => $if[1]->addr,
              SECOND => $if[2]->addr },
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_cache off;
    upstream other  { server %%OTHER%%; }
    upstream first  { server %%FIRST%%; }
    upstream second { server %%SECOND%%; }

    limit_req_zone $server_name zone=once:64k rate=1r/m;
    limit_req_zone $server_name zone=twice:64k rate=1r/m;
    limit_req_zone $server_name zone=plenty:64k rate=1r/m;
EOC
    server => <<'EOC',
    root %%DIR%%/html;

    location = /other     { proxy_pass http://other; }
    location = /elsewhere { proxy_pass http://other; }
    location = /page      { return 200 "a page"; }
    location = /no_page   { return 404 "a page"; }

    # Subrequests into the location.

    location = /by_auth_request {
        auth_request /v1/contacts;
        proxy_pass http://other;
    }

    location = /by_auth_request_of_ours {
        convotic on;
        auth_request /v1/contacts;
        proxy_pass http://contacts;
    }

    location = /by_mirror {
        mirror /v1/contacts;
        proxy_pass http://other;
    }

    location = /by_mirror_of_ours {
        convotic on;
        mirror /v1/contacts;
        proxy_pass http://contacts;
    }

    location /ssi/ { ssi on; }

    # Subrequests out of it.

    location = /auth_request_204 {
        convotic on;
        auth_request /allowed;
        proxy_pass http://contacts;
    }

    location = /auth_request_401 {
        convotic on;
        auth_request /unauthorized;
        proxy_pass http://contacts;
    }

    location = /auth_request_403 {
        convotic on;
        auth_request /forbidden;
        proxy_pass http://contacts;
    }

    location = /auth_request_500 {
        convotic on;
        auth_request /failing;
        proxy_pass http://contacts;
    }

    location = /allowed      { return 204; }
    location = /unauthorized { return 401; }
    location = /forbidden    { return 403; }
    location = /failing      { return 503; }

    location = /mirror {
        convotic on;
        mirror /other;
        proxy_pass http://contacts;
    }

    # nginx's own checks.

    location = /satisfy_any {
        convotic on;
        satisfy any;
        allow all;
        auth_basic x;
        auth_basic_user_file %%DIR%%/users;
        proxy_pass http://contacts;
    }

    location = /satisfy_password {
        convotic on;
        satisfy any;
        deny all;
        auth_basic x;
        auth_basic_user_file %%DIR%%/users;
        proxy_pass http://contacts;
    }

    location = /deny {
        convotic on;
        deny all;
        proxy_pass http://contacts;
    }

    location = /auth_basic {
        convotic on;
        auth_basic x;
        auth_basic_user_file %%DIR%%/users;
        proxy_pass http://contacts;
    }

    location = /limit_except {
        convotic on;
        limit_except GET { deny all; }
        proxy_pass http://contacts;
    }

    location = /limit_req {
        convotic on;
        limit_req zone=once;
        proxy_pass http://contacts;
    }

    location = /limit_req_429 {
        convotic on;
        limit_req zone=twice;
        limit_req_status 429;
        proxy_pass http://contacts;
    }

    location = /limit_req_plenty {
        convotic on;
        limit_req zone=plenty burst=2 nodelay;
        proxy_pass http://contacts;
    }

    location = /max_body {
        convotic on;
        client_max_body_size 1;
        proxy_pass http://contacts;
    }

    # Redirections into it.

    location = /in/rewrite        { rewrite ^ /v1/contacts last; }
    location = /in/rewrite_args   { rewrite ^ /v1/contacts?limit=3? last; }
    location = /in/rewrite_twice  { rewrite ^ /in/rewrite last; }
    location = /in/try_files      { try_files /none /v1/contacts; }
    location = /in/try_files_args { try_files /none /v1/contacts?$args; }
    location = /in/try_named      { try_files /none @ours; }
    location = /in/error_page     { error_page 404 = /v1/contacts;
                                    return 404; }
    location = /in/error_page_kept { error_page 404 /v1/contacts;
                                     return 404; }
    location = /in/error_named    { error_page 404 = @ours; return 404; }
    location = /in/denied         { error_page 403 = /v1/contacts;
                                    deny all; }
    location = /in/missing        { error_page 404 = /v1/contacts; }
    location = /in/accel          { proxy_pass http://other/accel; }
    location = /in/internal       { rewrite ^ /internal last; }
    location = /internal          { internal; convotic on;
                                    proxy_pass http://contacts/v1/contacts; }
    location @ours                { convotic on; proxy_pass http://contacts; }

    # Redirections out of it.

    location = /out/try_files {
        convotic on;
        try_files /none /elsewhere;
        proxy_pass http://contacts;
    }

    location = /out/try_404 {
        convotic on;
        try_files /none =404;
        proxy_pass http://contacts;
    }

    location = /out/try_named {
        convotic on;
        try_files /none @named;
        proxy_pass http://contacts;
    }

    location = /out/rewrite {
        convotic on;
        rewrite ^ /elsewhere last;
        proxy_pass http://contacts;
    }

    location = /out/error_page {
        convotic on;
        error_page 401 404 =200 /elsewhere;
        proxy_pass http://contacts;
    }

    location = /out/deny {
        convotic on;
        error_page 403 /page;
        deny all;
    }

    location = /out/deny_404 {
        convotic on;
        error_page 403 = /no_page;
        deny all;
    }

    location = /out/deny_200 {
        convotic on;
        error_page 403 =200 /page;
        deny all;
    }

    location = /out/deny_named {
        convotic on;
        error_page 403 = @named;
        deny all;
    }

    location @named { proxy_pass http://other; }

    # "if"

    location = /if/set {
        convotic on;
        if ($http_x_if) { set $seen 1; }
        proxy_pass http://contacts;
    }

    location = /if/add_header {
        convotic on;
        if ($http_x_if) { add_header X-If yes always; }
        proxy_pass http://contacts;
    }

    location = /if/return {
        convotic on;
        if ($http_x_if) { return 404; }
        proxy_pass http://contacts;
    }

    location = /if/upstream {
        convotic on;
        convotic_cache on;
        if ($http_x_if = 1) { proxy_pass http://first; }
        if ($http_x_if = 2) { proxy_pass http://second; }
        proxy_pass http://contacts;
    }

    location = /post_action {
        convotic on;
        post_action /elsewhere;
        proxy_pass http://contacts;
    }

    location = /by_post_action {
        post_action /v1/contacts;
        proxy_pass http://other;
    }

    location /nested/ {
        convotic on;
        location /nested/on/  { proxy_pass http://contacts; }
        location /nested/off/ { convotic off; proxy_pass http://other; }
    }
EOC
    start => 0,
);

mkdir "$g->{dir}/html";
mkdir "$g->{dir}/html/ssi";
$t->write_file('nginx/users', "user:{PLAIN}password\n");
$t->write_file("nginx/html/ssi/$_->[0].html", "<p>$_->[1]</p>\n") for
    [ 'include', '<!--#include virtual="/v1/contacts?limit=1" -->' ],
    [ 'wait', '<!--#include virtual="/v1/contacts?limit=1" wait="yes" -->' ],
    [ 'set', '<!--#include virtual="/v1/contacts?limit=1" set="x" -->'
             . '<!--#echo var="x" encoding="none" -->' ],
    [ 'other', '<!--#include virtual="/other" -->' ];

$g->start;

my @key = ('X-API-Key' => $g->key);
my @password = (Authorization => 'Basic dXNlcjpwYXNzd29yZA==');


sub body { return contacts_body(workspace => 'acme', limit => $_[0] || 20) }


# What the sub leads to: requests of the upstream and of the other one, and
# whether Redis was asked for a key.

sub effects {
    my ($sub) = @_;

    $_->reset for $up, $other, $fake;

    my $res = $sub->();

    return ($res, $up->count, $other->count, $fake->count('HGETALL'));
}


# Refused before Redis is asked, with a good key and without one.

sub comes_first {
    my ($path, $opt, @error) = @_;

    for my $headers ([], [ @key ], [ 'X-API-Key' => 'x' ]) {
        my ($res, $asked, undef, $keys) = effects(sub {
            $g->get($path, { %$opt }, @$headers);
        });
        my $name = join ' ', $path, @$headers ? ('with', $headers->[1]) : ();

        error_is($res, @error, $name =~ s/cvtk_.*/a good key/r);
        is("$asked $keys", '0 0', "$path: nobody is asked");
    }

    return;
}


# Behind whatever led to it, the gate is the same.

sub is_gated {
    my ($path, $body, $opt) = @_;

    for my $case ([ [], @MISSING ], [ [ 'X-API-Key' => 'x' ], @INVALID ]) {
        my ($headers, @error) = @$case;
        my ($res, $asked) = effects(sub {
            $g->get($path, { %{ $opt || {} } }, @$headers);
        });

        error_is($res, @error, "$path: $error[2]");
        is($asked, 0, "$path: $error[2], nobody is asked");
    }

    my ($res, $asked) = effects(sub {
        $g->get($path, { %{ $opt || {} } }, @key);
    });

    success_is($res, $body, "$path: with a key");
    is($asked, 1, "$path: one request");

    return $res;
}


# Subrequests into the location.

for my $path ('/by_auth_request', '/by_auth_request_of_ours') {
    for my $headers ([], \@key) {
        my ($res, $asked, $also) = effects(sub { $g->get($path, @$headers) });

        error_is($res, @DENIED, "$path @{[ scalar @$headers ]}");
        is("$asked $also", '0 0', "$path: nobody is asked");
    }
}

for my $headers ([], \@key) {
    my ($res, $asked, $also) = effects(sub {
        $g->get('/by_mirror', @$headers);
    });

    is($res->body, 'other', '/by_mirror: the request itself');
    is("$asked $also", '0 1', '/by_mirror: the mirrored one is refused');

    for my $page (qw(include wait set)) {
        ($res, $asked) = effects(sub { $g->get("/ssi/$page.html", @$headers) });

        is($res->status, 200, "SSI, $page: the page");
        like($res->body, qr/^<p>/, "SSI, $page: is there");
        unlike($res->body, qr/contacts|ct_/, "SSI, $page: without contacts");
        is($asked, 0, "SSI, $page: nobody is asked");
    }
}

is($g->get('/ssi/other.html')->body, "<p>other</p>\n", 'SSI works');

is_gated('/by_mirror_of_ours', body());

ok($g->wait_log(qr/a subrequest to "\/v1\/contacts".* is refused/),
   'a refusal is logged');


# Subrequests out of it.

is_gated('/auth_request_204', body());
comes_first('/auth_request_401', {}, 401, 'UNAUTHORIZED',
            'Authentication required');
comes_first('/auth_request_403', {}, @DENIED);
comes_first('/auth_request_500', {}, 500, 'INTERNAL_ERROR',
            'An unexpected error occurred');

is_gated('/mirror', body());
ok(wait_until(sub { $other->count == 1 }), '/mirror: is mirrored');


# nginx's own checks come first and replace nothing.

is_gated('/satisfy_any', body());
comes_first('/deny', {}, @DENIED);
comes_first('/deny', { method => 'POST', body => 'x' }, @DENIED);
comes_first('/auth_basic', {}, 401, 'UNAUTHORIZED', 'Authentication required');
comes_first('/satisfy_password', {}, 401, 'UNAUTHORIZED',
            'Authentication required');
comes_first('/limit_except', { method => 'DELETE' }, @DENIED);
comes_first('/max_body', { method => 'POST', body => 'xx' },
            413, 'INVALID_REQUEST', 'Request body is too large');

is_gated('/limit_except', body());
is_gated('/limit_except', body(), { method => 'HEAD' });

for my $path ('/auth_basic', '/satisfy_password') {
    error_is($g->get($path, @password), @MISSING, "$path: a password alone");
    success_is($g->get($path, @password, @key), body(), "$path: and a key");
}

like($g->get('/auth_basic')->header('WWW-Authenticate') || '', qr/^Basic realm/,
     '/auth_basic: its own header');

success_is($g->get('/limit_req', @key), body(), '/limit_req: the first');
comes_first('/limit_req', {}, 503, 'INTERNAL_ERROR',
            'Service temporarily unavailable');
success_is($g->get('/limit_req_429', @key), body(),
           '/limit_req_429: the first');
comes_first('/limit_req_429', {}, 429, 'RATE_LIMITED', 'Rate limit exceeded');

# A request is one request, though it leads to another.

success_is($g->get('/limit_req_plenty', @key), body(), "/limit_req_plenty: $_")
    for 1 .. 3;
comes_first('/limit_req_plenty', {}, 503, 'INTERNAL_ERROR',
            'Service temporarily unavailable');


# Redirections into it.

is_gated('/in/rewrite', body());
is_gated('/in/rewrite?limit=3', body(3));
is_gated('/in/rewrite_args', body(3));
is_gated('/in/rewrite_twice', body());
is_gated('/in/try_files', body());
is_gated('/in/try_files_args?limit=3', body(3));
is_gated('/in/try_named', body());
is_gated('/in/error_page', body());
is_gated('/in/error_page_kept', body());
is_gated('/in/error_named', body());
is_gated('/in/denied', body());
is_gated('/in/missing', body());
is_gated('/in/internal', body());
is_gated('/in/rewrite', body(), { h2 => 1 });
is_gated('/in/error_page', body(), { h2 => 1 });

my $accel = is_gated('/in/accel', body(2));

is(join(' ', $accel->header($_)), $_ eq 'Cache-Control' ? 'private, no-cache'
                                                        : 'application/json',
   "/in/accel: $_ once") for qw(Cache-Control Content-Type);

error_is($g->get('/internal', @key), @NOT_FOUND, 'an internal location');
error_is($g->get('/in/rewrite?limit=0', @key), 400, 'INVALID_REQUEST',
         "Parameter 'limit' must be between 1 and 100", '/in/rewrite?limit=0');

# error_page turns a POST into a GET, and its body stays one.

for my $path ('/in/error_page', '/in/error_named', '/in/rewrite') {
    my ($res, $asked) = effects(sub {
        $g->get($path, { method => 'POST', body => "GET /x HTTP/1.1\r\n\r\n" },
                @key);
    });

    ok($res->status == 400 || $res->status == 405, "POST $path: refused");
    error_is($res, $res->status, 'INVALID_REQUEST', undef, "POST $path");
    is($asked, 0, "POST $path: nobody is asked");
}


# Redirections out of it: try_files leads nowhere, for what it finds is not
# guarded; rewrite comes before the gate.

for my $path (qw(/out/try_files /out/try_named /out/try_404)) {

    for my $refused ([ [], @MISSING ], [ [ 'X-API-Key' => 'x' ], @INVALID ]) {
        my ($headers, @error) = @$refused;
        my ($res, undef, $also) = effects(sub { $g->get($path, @$headers) });

        error_is($res, @error, "$path: $error[2]");
        is($also, 0, "$path: $error[2], nobody is asked");
    }

    my ($res, $asked) = effects(sub { $g->get($path, @key) });

    success_is($res, body(), "$path: with a key");
    cmp_ok($asked, '<=', 1, "$path: nobody but the upstream is asked");
}

ok($g->wait_log(qr/"try_files" has no effect where "convotic" is on/),
   'try_files: said at the start');

is($g->get('/out/rewrite')->body, 'other', '/out/rewrite');
error_is($g->get('/out/error_page'), @MISSING, 'error_page has no part in it');
comes_first('/out/deny', {}, @DENIED);
comes_first('/out/deny_404', {}, @NOT_FOUND);
is($g->get('/out/deny_200')->body, 'a page', 'error_page =200 is left alone');
is($g->get('/out/deny_200')->status, 200, 'error_page =200: its status');
is($g->get('/out/deny_named')->body, 'other', 'error_page = @named');


# "if"

is_gated("/if/$_", body()) for qw(set add_header return);

for my $path (qw(/if/set /if/add_header /if/return)) {
    my @if = ('X-If' => 1);

    error_is($g->get($path, @if), $path =~ /return/ ? @NOT_FOUND : @MISSING,
             "$path: $if[0]");

    my $res = $g->get($path, @if, @key);

    if ($path =~ /return/) {
        error_is($res, @NOT_FOUND, "$path: $if[0], with a key");
    } else {
        success_is($res, body(), "$path: $if[0], with a key");
    }
}

is($g->get('/if/add_header', 'X-If' => 1, @key)->header('X-If'), 'yes',
   '/if/add_header: the header');

# Each "if" with a proxy_pass of its own has bodies of its own.

$if[$_]->set(version => 10 + $_) for 0 .. 2;
$_->reset for @if;

for my $round (1 .. 2) {
    for my $n (0 .. 2) {
        success_is($g->get('/if/upstream', 'X-If' => $n, @key),
                   contacts_body(workspace => 'acme', limit => 20,
                                 version => 10 + $n),
                   "/if/upstream: $n, round $round");
    }
}

is(join(' ', map { $_->count } @if), '1 1 1', '/if/upstream: cached');
$up->set(version => 1);


# After the request, and nested.

is_gated('/post_action', body());
ok(wait_until(sub { $other->count == 1 }), '/post_action: is done');

for my $headers ([], \@key) {
    my ($res) = effects(sub { $g->get('/by_post_action', @$headers) });

    is($res->body, 'other', '/by_post_action: the request itself');
}

is_gated('/nested/on/x', body());
is($g->get('/nested/off/x')->body, 'other', '/nested/off/');
is($g->get('/nested/x')->status, 401, '/nested/: inherits the gate');


# nginx's own caches are refused at start, wherever they come from.

my $CACHE = 'proxy_cache_path %%DIR%%/cache keys_zone=c:1m; '
            . 'fastcgi_cache_path %%DIR%%/other keys_zone=f:1m; '
            . 'convotic_redis %%REDIS%%;';

for my $case (
    [ 'proxy_cache', location => 'proxy_cache c;' ],
    [ 'proxy_cache of a variable', location => 'proxy_cache $host;' ],
    [ 'proxy_store', location => 'proxy_store on;' ],
    [ 'proxy_store of a path', location => 'proxy_store %%DIR%%/x;' ],
    [ 'proxy_cache of the server', server => 'proxy_cache c;' ],
    [ 'proxy_store of the server', server => 'proxy_store on;' ],
    [ 'proxy_cache of http', http => 'proxy_cache c;' ],
    [ 'proxy_cache of a nested location',
      server => 'location /n/ { convotic on; proxy_pass http://contacts; '
                . 'location /n/n/ { proxy_cache c; '
                . 'proxy_pass http://contacts; } }' ],
    [ 'fastcgi_cache', location => 'fastcgi_pass 127.0.0.1:1; '
                                   . 'fastcgi_cache f; fastcgi_cache_key x;' ],
    [ 'uwsgi_store', server => 'uwsgi_store on;' ],
    [ 'no request headers', location => 'proxy_pass_request_headers off;' ],
    [ 'no request headers of http', http => 'proxy_pass_request_headers off;' ],
) {
    my ($name, $level, $text) = @$case;
    my %text = (http => $CACHE, server => '', location => '');

    $text{$level} .= $text;

    my $res = $g->test_config(%text);

    is($res->{exit}, 1, "$name: refused");
    like($res->{out}, qr/\[emerg\].*"convotic on".*test\.conf:\d+/,
         "$name: with a sentence");
}

for my $case (
    [ 'proxy_cache off', server => 'proxy_cache c;',
      location => 'proxy_cache off;' ],
    [ 'proxy_cache elsewhere',
      server => 'location /c { proxy_cache c; proxy_pass http://contacts; }' ],
    [ 'proxy_cache, convotic off', location => 'convotic off; proxy_cache c;' ],
) {
    my ($name, %text) = @$case;
    my $res = $g->test_config(server => '', location => '', http => $CACHE,
                              %text);

    is($res->{exit}, 0, "$name: accepted") or diag($res->{out});
}

$t->finish;
