#!/usr/bin/perl

# What the upstream is sent: the canonical query, the identity headers, and
# nothing of the client's that could steer the answer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $KEY = test_key('acme');
my $KEY_ID = 'key_' . substr sha256_hex($KEY), 0, 8;

# Everything that goes to the upstream where the configuration adds nothing.

my @OWN = (
    'accept: application/json',
    'host: contacts',
    "x-convotic-key-id: $KEY_ID",
    'x-convotic-workspace: acme',
);

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my $g = $t->gateway(upstream => $up, key => $KEY, ssl => 1,
                   start => 0, conf => <<'EOC');
http {
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    upstream contacts { server %%UPSTREAM%%; keepalive 8; }

    underscores_in_headers on;
    ignore_invalid_headers off;
    proxy_http_version 1.1;
    proxy_set_header Connection "";

    log_format own '$request|$request_uri|$args|$http_cookie'
                   '|$http_user_agent|$request_id';

    map $http_cookie $of_cookie { default none; ~. $http_cookie; }

    server {
        listen 127.0.0.1:%%PORT%%;
        %%LISTEN_SSL%%
        server_name localhost;
        convotic_errors on;
        convotic_cache off;
        access_log %%DIR%%/own.log own;
        set $backend contacts;

        location = /v1/contacts {
            convotic on;
            proxy_pass http://contacts;
        }

        location = /default {
            convotic on;
            proxy_http_version 1.0;
            proxy_set_header X-Added "";
            proxy_pass http://contacts;
        }

        # Forms of proxy_pass.

        location = /uri {
            convotic on;
            proxy_pass http://contacts/internal/list;
        }

        location = /variable {
            convotic on;
            proxy_pass http://$backend;
        }

        location = /request_uri {
            convotic on;
            proxy_pass http://$backend$request_uri;
        }

        location = /args {
            convotic on;
            proxy_pass http://$backend/internal$uri?$args;
        }

        location = /is_args {
            convotic on;
            proxy_pass http://$backend$uri$is_args$query_string;
        }

        location ~ ^/api/(?<api>v\d)/contacts$ {
            convotic on;
            proxy_pass http://$backend/$api/list?$args;
        }

        location = /rewritten {
            convotic on;
            rewrite ^ /inner break;
            proxy_pass http://contacts;
        }

        location /prefix/ {
            convotic on;
            proxy_set_header X-Uri $request_uri;
            proxy_set_header Connection "";
            proxy_pass http://contacts;
        }

        location /prefix_uri/ {
            convotic on;
            proxy_pass http://contacts/internal/;
        }

        location /prefix_variable/ {
            convotic on;
            proxy_pass http://$backend$request_uri;
        }

        # Where the query is not the canonical one, the answer is not cached.

        location = /no_query {
            convotic on;
            convotic_cache on;
            proxy_pass http://$backend/fixed;
        }

        location = /raw_query {
            convotic on;
            convotic_cache on;
            set $raw $request_uri;
            proxy_pass http://$backend$raw;
        }

        # Headers that the configuration adds.

        location = /added {
            convotic on;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Static one;
            proxy_set_header X-Real-IP $remote_addr;
            proxy_set_header X-Workspace $convotic_workspace;
            proxy_set_header X-Key $convotic_key_id;
            proxy_set_header X-Limit $convotic_limit;
            proxy_set_header X-Platform $convotic_platform;
            proxy_pass http://contacts;
        }

        location = /of_the_client {
            convotic on;
            include %%DIR%%/of_the_client;
            proxy_pass http://contacts;
        }

        location = /of_the_client_early {
            convotic on;
            set $seen "$http_cookie$cookie_a$http_user_agent$http_x_api_key";
            set $seen "$seen$http_x_any$http_range$content_type$remote_user";
            set $seen "$seen$request_uri$args$arg_x$request_method$http_host";
            set $seen "$seen$proxy_add_x_forwarded_for$host$of_cookie";
            include %%DIR%%/of_the_client;
            proxy_pass http://contacts;
        }

        location = /request_id {
            convotic on;
            proxy_set_header Connection "";
            proxy_set_header X-Request-Id $request_id;
            proxy_pass http://contacts;
        }

        location = /request_id_early {
            convotic on;
            set $seen $request_id;
            proxy_set_header Connection "";
            proxy_set_header X-Request-Id $request_id;
            proxy_pass http://contacts;
        }
    }
}
EOC

$t->write_file('nginx/of_the_client', <<'EOC');
proxy_set_header Connection "";
proxy_set_header Cookie $http_cookie;
proxy_set_header X-Cookie-A $cookie_a;
proxy_set_header User-Agent $http_user_agent;
proxy_set_header X-Key $http_x_api_key;
proxy_set_header X-Any $http_x_any;
proxy_set_header Range $http_range;
proxy_set_header X-Type $content_type;
proxy_set_header X-User $remote_user;
proxy_set_header X-Uri $request_uri;
proxy_set_header X-Args $args;
proxy_set_header X-Arg-X $arg_x;
proxy_set_header X-Method $request_method;
proxy_set_header X-Host "$http_host $host";
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header X-Of-Cookie $of_cookie;
EOC

$g->start;


# The header lines of a request, in a form that can be compared.

sub lines {
    my ($req) = @_;

    return [ sort map { lc($_->[0]) . ": $_->[1]" } $req->headers ];
}


# The one request that the upstream gets while the sub runs.

sub sent {
    my ($sub) = @_;

    $up->reset;

    my $res = $sub->();
    my @sent = $up->requests;

    return ($res, @sent == 1 ? $sent[0] : undef);
}


sub sent_is {
    my ($name, $sub, $uri, @lines) = @_;

    my ($res, $req) = sent($sub);

    is($res && $res->status, 200, "$name: 200");

    return fail("$name: one request") unless $req;

    is($req->method, 'GET', "$name: method");
    is($req->uri, $uri, "$name: URI") if defined $uri;
    is(join("\n", @{ lines($req) }), join("\n", sort @lines),
       "$name: headers");
    is(length $req->raw, index($req->raw, "\r\n\r\n") + 4, "$name: no body");

    return $req;
}


# The query.

for my $case (
    [ ''                                => 'limit=20' ],
    [ 'limit=5'                         => 'limit=5' ],
    [ 'limit=010'                       => 'limit=10' ],
    [ 'limit=%31%30'                    => 'limit=10' ],
    [ '%6Cimit=7'                       => 'limit=7' ],
    [ 'limit=5&platform=line'           => 'platform=line&limit=5' ],
    [ 'platform=line&limit=5'           => 'platform=line&limit=5' ],
    [ 'plat%66orm=li%6ee'               => 'platform=line&limit=20' ],
    [ 'x=1&limit=5&y&=z&'               => 'limit=5' ],
    [ 'workspace=other&Limit=9&PLATFORM=x' => 'limit=20' ],
) {
    my ($query, $canonical) = @$case;
    my ($res, $req) = sent(sub { $g->contacts($query) });

    is($req && $req->uri, "/v1/contacts?$canonical", "query '$query'");
    success_is($res, contacts_body(workspace => 'acme', %{ $req->args }),
               "query '$query': the answer");
}


# Methods and versions.

for my $case (
    [ 'GET', {} ],
    [ 'HEAD', { method => 'HEAD' } ],
    [ 'HTTP/1.0', { version => '1.0' } ],
    [ 'TLS', { tls => 1 } ],
    [ 'HTTP/2', { h2 => 1 } ],
    [ 'HEAD over HTTP/2', { h2 => 1, method => 'HEAD' } ],
) {
    my ($name, $opt) = @$case;

    sent_is($name, sub { $g->contacts('limit=3', { %$opt }) },
            '/v1/contacts?limit=3', @OWN);
}


# With nginx's own defaults only the connection's header is not ours.

{
    my (undef, $req) = sent(sub { $g->get('/default', 'X-API-Key' => $KEY) });

    is_deeply([ grep { !/^connection: / } @{ lines($req) } ], \@OWN,
              'the default of proxy_set_header');
}


# The path is what nginx has matched, not what the client wrote.

for my $path (qw(
    /v1//contacts //v1/contacts /v1/%63ontacts /x/../v1/contacts
    /v1/./contacts /v1/x/%2e%2e/contacts http://localhost/v1/contacts
    HTTP://localhost:80//v1/contacts
)) {
    my ($res, $req) = sent(sub {
        $g->get("$path?limit=3&x=1", 'X-API-Key' => $KEY);
    });

    is($res->status, 200, "$path: 200");
    is($req && $req->uri, '/v1/contacts?limit=3', "$path: URI");
}


# Forms of proxy_pass.

for my $case (
    [ '/uri'             => '/internal/list?platform=line&limit=3' ],
    [ '/variable'        => '/variable?platform=line&limit=3' ],
    [ '/request_uri'     => '/request_uri?platform=line&limit=3' ],
    [ '/args'            => '/internal/args?platform=line&limit=3' ],
    [ '/is_args'         => '/is_args?platform=line&limit=3' ],
    [ '/api/v1/contacts' => '/v1/list?platform=line&limit=3' ],
    [ '/rewritten'       => '/inner?platform=line&limit=3' ],
    [ '/prefix_uri/a'    => '/internal/a?platform=line&limit=3' ],
    [ '/prefix_uri/a%20%3f' => '/internal/a%20%3F?platform=line&limit=3' ],
) {
    my ($path, $uri) = @$case;

    sent_is("proxy_pass, $path", sub {
        $g->get("$path?limit=3&x=1&platform=line", 'X-API-Key' => $KEY);
    }, $uri, $path =~ /prefix\// ? () : @OWN);
}

for my $case (
    [ '/no_query', '/fixed' ],
    [ '/raw_query', '/raw_query?x=1&limit=20' ],
) {
    my ($path, $uri) = @$case;
    my $get = sub { $g->get("$path?x=1&limit=20", 'X-API-Key' => $KEY) };

    sent_is("proxy_pass, $path", $get, $uri, @OWN);
    sent_is("proxy_pass, $path, not cached", $get, $uri, @OWN);
    ok($g->wait_log(qr/not cached: the query that went to the upstream/),
       "proxy_pass, $path: logged");
}


# A decoded path must not end a line, end the path or begin a query.

for my $case (
    [ 'a%0d%0aX-Convotic-Workspace:%20evil%0d%0aX:', 'a line break' ],
    [ 'a%20HTTP/1.1%0d%0aHost:%20x%0d%0a%0d%0aGET%20/b', 'a second request' ],
    [ 'a%20b', 'a blank' ],
    [ 'a%3flimit=99', 'a question mark' ],
    [ 'a%23b', 'a hash' ],
    [ 'a%25b', 'a percent sign' ],
    [ 'a%c3%a9', 'bytes above ASCII' ],
) {
    my ($tail, $name) = @$case;

    for my $place (qw(prefix prefix_variable)) {
        my (undef, $req) = sent(sub {
            $g->get("/$place/$tail?limit=3", 'X-API-Key' => $KEY);
        });

        is_deeply([ $req ? $req->header('X-Convotic-Workspace') : () ],
                  [ 'acme' ], "$name in /$place/: the workspace");
        is($req && decoded($req->uri), decoded("/$place/$tail?limit=3"),
           "$name in /$place/: URI");
        unlike($req ? $req->uri =~ s/\?limit=3\z//r : '', qr/[^!-~]|[?#]/,
               "$name in /$place/: encoded");
        is_deeply([ grep { !/^x-uri: / } @{ $req ? lines($req) : [] } ],
                  \@OWN, "$name in /$place/: headers");
    }
}


# A percent-encoding has several forms of the same meaning.

sub decoded {
    my ($uri) = @_;

    my ($path, $query) = split /\?/, $uri, 2;

    return ($path || '') =~ s/%([0-9a-fA-F]{2})/chr hex $1/ger
           . (defined $query ? "?$query" : '');
}


# Headers of the client's.  Each alone, then all at once.

my @steering = (
    [ 'If-Range', '"x"' ],
    [ 'If-None-Match', '"x"' ],
    [ 'If-Modified-Since', 'Thu, 01 Jan 2026 00:00:00 GMT' ],
    [ 'If-Unmodified-Since', 'Thu, 01 Jan 2099 00:00:00 GMT' ],
    [ 'If-Match', '*' ],
    [ 'Cookie', 'a=1' ],
    [ 'Accept', 'text/html' ],
    [ 'Accept-Encoding', 'gzip' ],
    [ 'Accept-Language', 'th' ],
    [ 'User-Agent', 'Mozilla/5.0' ],
    [ 'Referer', 'http://localhost/' ],
    [ 'Origin', 'http://localhost' ],
    [ 'Authorization', 'Basic dTpw' ],
    [ 'Proxy-Authorization', 'Bearer x' ],
    [ 'Content-Type', 'text/plain' ],
    [ 'Content-Length', '0' ],
    [ 'Cache-Control', 'no-cache' ],
    [ 'Pragma', 'no-cache' ],
    [ 'X-HTTP-Method-Override', 'DELETE' ],
    [ 'X-HTTP-Method', 'DELETE' ],
    [ 'X-Method-Override', 'DELETE' ],
    [ 'X-Original-URL', '/v1/admin' ],
    [ 'X-Rewrite-URL', '/v1/admin' ],
    [ 'X-Forwarded-For', '10.1.1.1' ],
    [ 'X-Forwarded-Host', 'evil.example.com' ],
    [ 'X-Forwarded-Proto', 'http' ],
    [ 'X-Forwarded-Port', '1' ],
    [ 'X-Forwarded-Prefix', '/evil' ],
    [ 'X-Forwarded-Uri', '/v1/admin' ],
    [ 'Forwarded', 'for=10.1.1.1;host=evil.example.com' ],
    [ 'X-Real-IP', '10.1.1.1' ],
    [ 'X-Host', 'evil.example.com' ],
    [ 'X-Accel-Redirect', '/v1/admin' ],
    [ 'X-Accel-Expires', '100' ],
    [ 'Via', '1.1 evil' ],
    [ 'TE', 'trailers' ],
    [ 'Trailer', 'X-Convotic-Workspace' ],
    [ 'Upgrade', 'websocket' ],
    [ 'Connection', 'X-Convotic-Workspace, X-Convotic-Key-Id, close' ],
    [ 'Keep-Alive', 'timeout=1' ],
    [ 'Proxy-Connection', 'keep-alive' ],
    [ 'Expect', '100-continue' ],
    [ 'Max-Forwards', '0' ],
    [ 'Early-Data', '1' ],
    [ 'Priority', 'u=0' ],
    [ 'X-Any', 'any' ],
    [ 'X-Convotic-Workspace', 'evil' ],
    [ 'x-convotic-workspace', 'evil' ],
    [ 'X-CONVOTIC-WORKSPACE', 'evil' ],
    [ 'X_Convotic_Workspace', 'evil' ],
    [ 'x_convotic_workspace', 'evil' ],
    [ 'X.Convotic.Workspace', 'evil' ],
    [ 'X-Convotic_Workspace', 'evil' ],
    [ 'HTTP_X_CONVOTIC_WORKSPACE', 'evil' ],
    [ 'X-Convotic-Key-Id', 'evil' ],
    [ 'x_convotic_key_id', 'evil' ],
    [ 'X.Convotic.Key.Id', 'evil' ],
    [ 'X-Convotic-Other', 'evil' ],
    [ 'X_API_Key', $KEY ],
    [ 'X.API.Key', $KEY ],
    [ 'X-API_Key', $KEY ],
    [ 'API-Key', $KEY ],
    [ 'X_Request_Id', 'evil' ],
    [ 'trace_parent', 'evil' ],
);

for my $header (@steering) {
    sent_is("$header->[0]: $header->[1]", sub {
        $g->contacts('limit=3', @$header);
    }, '/v1/contacts?limit=3', @OWN);
}

my @all = map { @$_ } grep { $_->[0] !~ /^(?:Connection|Expect)\z/ }
    @steering;

sent_is('all of them', sub { $g->contacts('limit=3', @all) },
        '/v1/contacts?limit=3', @OWN);
sent_is('all of them with HEAD', sub {
    $g->contacts('limit=3', { method => 'HEAD' }, @all);
}, '/v1/contacts?limit=3', @OWN);

my @h2 = map { @$_ } grep {
    $_->[0] !~ /^(?:Connection|Expect|TE|Upgrade|Keep-Alive
                    |Proxy-Connection|Content-Length)\z/x
} @steering;

sent_is('all of them over HTTP/2', sub {
    $g->contacts('limit=3', { h2 => 1 }, @h2);
}, '/v1/contacts?limit=3', @OWN);


# A range is cut out of the answer here.

{
    my ($res, $req) = sent(sub {
        $g->contacts('limit=3', Range => 'bytes=0-9');
    });

    is($res->status, 206, 'Range: 206');
    is($res->body, '{"contacts', 'Range: its bytes');
    is_deeply(lines($req), \@OWN, 'Range: headers');
}


# Trace ids go on: the first of each, if it is plain and short.

my $PARENT = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

for my $case (
    [ 'all three', [ traceparent => $PARENT, tracestate => 'a=b,c=d',
                     'X-Request-Id' => 'r-1' ],
      "traceparent: $PARENT", 'tracestate: a=b,c=d', 'x-request-id: r-1' ],
    [ 'in any case', [ TraceParent => $PARENT, 'X-REQUEST-ID' => 'r-1' ],
      "traceparent: $PARENT", 'x-request-id: r-1' ],
    [ 'one twice', [ 'X-Request-Id' => 'r-1', 'X-Request-Id' => 'r-2' ],
      'x-request-id: r-1' ],
    [ 'the longest', [ 'X-Request-Id' => 'r' x 512 ],
      'x-request-id: ' . 'r' x 512 ],
    [ 'one too long', [ 'X-Request-Id' => 'r' x 513 ] ],
    [ 'a tab', [ 'X-Request-Id' => "r\t1" ] ],
    [ 'a control character', [ tracestate => "a\x01b" ] ],
    [ 'bytes above ASCII', [ tracestate => "a=\xc3\xa9" ] ],
) {
    my ($name, $headers, @lines) = @$case;

    sent_is("trace ids, $name", sub { $g->contacts('limit=3', @$headers) },
            '/v1/contacts?limit=3', @OWN, @lines);
}


# What proxy_set_header adds.

sent_is('proxy_set_header', sub {
    $g->get('/added?limit=03&platform=line', 'X-API-Key' => $KEY,
            Host => 'other.example.com', 'X-Real-IP' => '10.1.1.1');
}, '/added?platform=line&limit=3',
   (map { s/^host: .*/host: localhost/r } @OWN),
   'x-static: one', 'x-real-ip: 127.0.0.1', 'x-workspace: acme',
   "x-key: $KEY_ID", 'x-limit: 3', 'x-platform: line');

# Variables that read the request read the one to the upstream, also where
# they had a value before.

for my $path (qw(/of_the_client /of_the_client_early)) {
    sent_is($path, sub {
        $g->get("$path?x=1&limit=3", Host => 'other.example.com',
                'X-API-Key' => $KEY, @all);
    }, "$path?limit=3", @OWN,
       "x-uri: $path?limit=3", 'x-args: limit=3', 'x-method: GET',
       'x-host: localhost localhost', 'x-forwarded-for: 127.0.0.1',
       'x-of-cookie: none');
}


# The log tells of the client's request.

for my $path (qw(/of_the_client /of_the_client_early)) {
    my $mark = "m=1$path";

    $g->get("$path?$mark&limit=003", 'X-API-Key' => $KEY, Cookie => 'c=1',
            'User-Agent' => 'agent');

    my $line;
    wait_until(sub {
        ($line) = $g->access_log('own.log') =~ /^(.*\Q$mark\E.*)\|[0-9a-f]+$/m;
    });

    is($line,
       join('|', "GET $path?$mark&limit=003 HTTP/1.1",
            "$path?$mark&limit=003", "$mark&limit=003", 'c=1', 'agent'),
       "$path: the access log");
}


# One request has one id, in the log and at the upstream.

for my $path (qw(/request_id /request_id_early)) {
    my (undef, $req) = sent(sub { $g->get($path, 'X-API-Key' => $KEY) });
    my $logged;

    wait_until(sub {
        ($logged) = $g->access_log('own.log')
            =~ m{^GET \Q$path\E HTTP/1\.1\|.*\|([0-9a-f]+)$}m;
    });

    is($req->header('X-Request-Id'), $logged, "$path: as in the log");
}


# The raw key went nowhere but to the gateway.

unlike($g->error_log, qr/\Q$KEY\E/, 'no key in the error log');

$t->finish;
