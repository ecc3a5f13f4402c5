#!/usr/bin/perl

# The variables, in the access log and elsewhere, and that nginx's own stay
# those of the client's request when the upstream has been asked.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my @fields = qw(
    status request_method request_uri uri args arg_limit http_user_agent
    http_cookie host mobile
    convotic_workspace convotic_key_id convotic_platform convotic_limit
    convotic_cache_status convotic_error_code convotic_redis_time
    convotic_rate_remaining
    upstream_status upstream_addr
);

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis->init;
my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $args = $req->args;
    my ($limit, $platform) = ($args->{limit} || 20, $args->{platform});

    return { status => $vars->{status} } if $vars->{status};
    return { body => '<h1>Oops</h1>' } if $limit == 66;
    return { status => $limit * 10 + 3, body => '{"error":{"code":"NOT_FOUND",'
             . '"message":"Gone"}}' } if $limit == 40;
    return { body => contacts_body(workspace => $req->tenant, limit => $limit,
                                   platform => $platform),
             headers => [ 'Cache-Control' => $vars->{control} ] };
});

$redis->add_key('good', id => 'k1', workspace => 'acme');
$redis->add_key('other', id => 'k2', workspace => 'umbra');
$redis->add_key('revoked', id => 'k3', workspace => 'acme',
                status => 'revoked');
$redis->add_key('half', fields => { id => 'k4', status => 'active' });

$t->write_file($_, '<html>page</html>') for qw(page.html page2.html);

my $nginx = $t->nginx(
    redis => $redis, upstream => $up, ssl => 1,
    vars => {
        ROOT => $t->dir, FIELDS => join('', map { "|$_=\$$_" } @fields),
    }, conf => <<'EOC');
http {
    convotic_redis %%REDIS%%;
    convotic_errors on;
    convotic_rate off;
    upstream contacts { server %%UPSTREAM%%; }

    map $http_user_agent $mobile { default no; ~Phone yes; }
    log_format all 'id=$http_x_id|%%FIELDS%%';
    access_log %%DIR%%/all.log all;
    root %%ROOT%%;

    server {
        listen 127.0.0.1:%%PORT%%;
        %%LISTEN_SSL%%
        server_name localhost;

        location = /v1/contacts {
            convotic on;
            proxy_pass http://contacts;
            proxy_set_header X-Agent "agent=$http_user_agent";
            proxy_set_header X-Mobile $mobile;
            proxy_set_header X-Uri $request_uri;
            proxy_set_header X-Args "$args $arg_limit $arg_x";
            proxy_set_header X-Workspace $convotic_workspace;
            proxy_set_header X-Key $convotic_key_id;
            proxy_set_header X-Platform "platform=$convotic_platform";
            proxy_set_header X-Limit $convotic_limit;
            add_header X-Cache $convotic_cache_status always;
            add_header X-Error "code=$convotic_error_code" always;
        }
        location = /evaluated {
            convotic on;
            proxy_pass http://contacts;
            set $before "$http_user_agent $mobile $request_uri $arg_limit";
            set $own "$convotic_workspace$convotic_key_id";
            proxy_set_header X-Own "own=$own";
            add_header X-Before $before always;
        }
        location = /bypass {
            convotic on;
            proxy_pass http://contacts;
            convotic_cache_bypass $arg_x;
        }
        location = /uncached {
            convotic on; proxy_pass http://contacts; convotic_cache off;
        }
        location = /documented {
            convotic on; proxy_pass http://contacts;
            convotic_error_status documented;
        }
        location = /limited {
            convotic on; proxy_pass http://contacts;
            convotic_rate 4;
            proxy_set_header X-Remaining "remaining=$convotic_rate_remaining";
            add_header X-Remaining $convotic_rate_remaining always;
        }
        location = /page {
            convotic on; proxy_pass http://contacts;
            error_page 416 =200 /page.html;
        }
        location = /named {
            convotic on; proxy_pass http://contacts;
            error_page 416 = @named;
        }
        location = /twice {
            convotic on; proxy_pass http://contacts;
            error_page 416 = /none.html;
        }
        location = /loop {
            convotic on; proxy_pass http://contacts;
            error_page 416 = /page2.html;
        }
        location @named { max_ranges 0; return 200 "$convotic_workspace\n"; }
        location = /page.html { max_ranges 0; }
        location = /again {
            convotic on; proxy_pass http://contacts;
            error_page 416 = /v1/contacts;
        }
        location /moved/ { error_page 404 = /v1/contacts; }
        location /rewritten/ { rewrite ^ /v1/contacts last; }
        location /static/ { }
        location /denied/ { deny all; convotic_error_status documented; }
        location /off/ { convotic_errors off; }
    }
}
EOC

my $id = 0;


# A request; its response, and its line of the log as a hash.

sub request {
    my ($path, $opt, @headers) = @_;

    $id++;

    my $res = $nginx->get($path, $opt || {}, 'X-Id' => $id, @headers);
    my $line;

    wait_until(sub {
        ($line) = grep { /^id=$id\|/ }
            split /\n/, $nginx->access_log('all.log');
    });

    my %field = map { /^(\w+)=(.*)/s ? ($1 => $2) : () }
        split /\|/, defined $line ? $line : '';

    return ($res, \%field);
}


# Checks some fields; the others of the gateway's are to be as given last.

sub logged {
    my ($name, $log, %expected) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my %all = (
        convotic_workspace    => '-', convotic_key_id => '-',
        convotic_platform     => '-', convotic_limit  => '-',
        convotic_cache_status => '-', convotic_error_code => '-',
        convotic_redis_time   => qr/^\d+\.\d{3}\z/,
        convotic_rate_remaining => '-',
        %expected,
    );
    my @faults = map {
        my $value = defined $log->{$_} ? $log->{$_} : 'none';
        my $wanted = $all{$_};
        (ref $wanted ? $value =~ $wanted : $value eq $wanted) ? ()
            : "$_ is '$value', not '$wanted'"
    } sort keys %all;

    return ok(!@faults, $name) || diag(join "\n", @faults);
}

my %acme = (convotic_workspace => 'acme', convotic_key_id => 'k1');
my @key = ('X-API-Key' => 'good');
my ($res, $log);


# Success.

for my $kind (qw(MISS HIT)) {
    ($res, $log) = request('/v1/contacts?x=1&limit=05&platform=line', {}, @key,
                           'User-Agent' => 'A Phone', 'Cookie' => 'c=d');

    success_is($res, contacts_body(workspace => 'acme', limit => 5,
                                   platform => 'line'), $kind);
    is($res->header('X-Cache'), $kind, "$kind: in add_header");
    is($res->header('X-Error'), 'code=', "$kind: no error in add_header");
    logged($kind, $log, %acme,
        status                => 200,
        request_method        => 'GET',
        request_uri           => '/v1/contacts?x=1&limit=05&platform=line',
        uri                   => '/v1/contacts',
        args                  => 'x=1&limit=05&platform=line',
        arg_limit             => '05',
        http_user_agent       => 'A Phone',
        http_cookie           => 'c=d',
        host                  => 'localhost',
        mobile                => 'yes',
        convotic_platform     => 'line',
        convotic_limit        => 5,
        convotic_cache_status => $kind,
        upstream_status       => $kind eq 'HIT' ? '-' : 200,
        upstream_addr         => $kind eq 'HIT' ? '-' : $up->addr,
    );
}

my ($req) = $up->requests;
my %seen = map { lc $_->[0] => $_->[1] } $req->headers;

is_deeply([ @seen{qw(x-agent x-mobile x-uri x-args x-workspace x-key x-platform
                     x-limit)} ],
          [ 'agent=', 'no', '/v1/contacts?platform=line&limit=5',
            'platform=line&limit=5 5', 'acme', 'k1', 'platform=line', 5 ],
          'for the upstream they are those of its own request');

my $limit = 10;

for my $opt ({ method => 'HEAD' }, { h2 => 1 }, { version => '1.0' }) {
    $limit++;

    for my $kind (qw(MISS HIT)) {
        ($res, $log) = request("/v1/contacts?limit=$limit", $opt, @key,
                               'User-Agent' => 'x');
        logged(join(' ', %$opt, $kind), $log, %acme,
               status => 200, request_method => $opt->{method} || 'GET',
               request_uri => "/v1/contacts?limit=$limit",
               http_user_agent => 'x', convotic_limit => $limit,
               convotic_cache_status => $kind);
    }
}

($res, $log) = request('/v1/contacts', {}, 'X-API-Key' => 'other');
logged('another workspace', $log, convotic_workspace => 'umbra',
       convotic_key_id => 'k2', convotic_limit => 20, status => 200,
       convotic_cache_status => 'MISS', request_uri => '/v1/contacts',
       args => '-');

for my $kind (qw(MISS HIT)) {
    ($res, $log) = request('/evaluated?limit=7', {}, @key,
                           'User-Agent' => 'A Phone');
    is($res->header('X-Before'), 'A Phone yes /evaluated?limit=7 7',
       "$kind: what was evaluated before");
    logged("$kind: evaluated before", $log, %acme, status => 200,
           http_user_agent => 'A Phone', mobile => 'yes', arg_limit => 7,
           request_uri => '/evaluated?limit=7', convotic_limit => 7,
           convotic_cache_status => $kind);
}

is(($up->requests)[-1]->header('X-Own'), 'own=', 'none before the checks');


# The cache.

for my $case ([ '/uncached' => 'BYPASS' ], [ '/uncached' => 'BYPASS' ],
              [ '/bypass?x=1' => 'BYPASS' ], [ '/bypass?x=0' => 'MISS' ],
              [ '/bypass' => 'HIT' ], [ '/bypass?x=1' => 'BYPASS' ]) {
    my ($path, $kind) = @$case;

    ($res, $log) = request($path, {}, @key);
    logged("$path: $kind", $log, %acme, status => 200, convotic_limit => 20,
           convotic_cache_status => $kind);
}

for my $case ([ 'If-None-Match' => '*', 304 ], [ Range => 'bytes=0-1', 206 ]) {
    my ($name, $value, $status) = @$case;

    ($res, $log) = request('/bypass', {}, @key, $name => $value);
    logged("$name: $status", $log, %acme, status => $status,
           convotic_limit => 20,
           convotic_cache_status => 'HIT');
}

$up->set(control => 'max-age=1');
request('/v1/contacts?limit=8', {}, @key);
$up->set(status => 500);
ok(wait_until(sub {
    ($res, $log) = request('/v1/contacts?limit=8', {}, @key);
    $log->{convotic_cache_status} eq 'STALE';
}, 10), 'a copy expires, while the upstream fails');
success_is($res, contacts_body(workspace => 'acme', limit => 8), 'STALE');
logged('STALE', $log, %acme, status => 200, convotic_limit => 8,
       convotic_cache_status => 'STALE', upstream_status => '-');
$up->set(status => undef, control => undef);


# With all that is on by default: LOCAL, HIT from another one's store, UPDATING.

{
    my @two = map {
        $t->nginx(direct => 0, redis => $redis, upstream => $up, key => 'good',
                  http => 'log_format s "$convotic_cache_status";
                           access_log %%DIR%%/s.log s;')
    } 1, 2;
    my @expected = ([ 0, 'MISS' ], [ 0, 'LOCAL' ], [ 1, 'HIT' ], [ 1, 'LOCAL' ]);

    for my $n (0 .. $#expected) {
        my ($which, $kind) = @{ $expected[$n] };

        $two[$which]->contacts('limit=9');
        ok(wait_until(sub { $two[$which]->access_log('s.log')
                            =~ /^$kind\n\z/m }, 10), $kind);
    }

    # its lifetime is over at once, for who does not have it yet

    $two[0]->contacts('limit=77');

    my $body;

    ok(wait_until(sub { ($body) = grep { $redis->cmd('GET', $_)
                                         =~ /^query limit=77$/m }
                                       $redis->names('convotic:body:*') }, 10),
       'it is stored');

    my $envelope = $redis->cmd('GET', $body) =~ s/^fresh \d+$/fresh 1/mr;

    $redis->cmd('SET', $body, $envelope, 'PX', 60_000);
    $two[1]->contacts('limit=77');
    ok(wait_until(sub { $two[1]->access_log('s.log') =~ /^UPDATING\n\z/m }, 10),
       'UPDATING');
    $_->stop for @two;
}


# Errors.

my @errors = (
    [ '/v1/contacts', { method => 'POST' }, [ @key ], 405,
      convotic_error_code => 'INVALID_REQUEST', request_method => 'POST',
      convotic_redis_time => '0.000' ],
    [ '/v1/contacts', { body => 'x' }, [ @key ], 400,
      convotic_error_code => 'INVALID_REQUEST',
      convotic_redis_time => '0.000' ],
    [ '/v1/contacts', {}, [], 401, convotic_error_code => 'UNAUTHORIZED',
      convotic_redis_time => '0.000' ],
    [ '/v1/contacts', {}, [ 'X-API-Key' => '' ], 401,
      convotic_error_code => 'UNAUTHORIZED', convotic_redis_time => '0.000' ],
    [ '/v1/contacts', {}, [ 'X-API-Key' => 'nobody' ], 401,
      convotic_error_code => 'UNAUTHORIZED' ],
    [ '/v1/contacts', {}, [ 'X-API-Key' => 'revoked' ], 401,
      convotic_error_code => 'UNAUTHORIZED', convotic_workspace => 'acme',
      convotic_key_id => 'k3' ],
    [ '/v1/contacts', {}, [ 'X-API-Key' => 'half' ], 401,
      convotic_error_code => 'UNAUTHORIZED', convotic_key_id => 'k4' ],
    [ '/v1/contacts?limit=0', {}, [ @key ], 400, %acme, arg_limit => 0,
      convotic_error_code => 'INVALID_REQUEST',
      convotic_limit => qr/^(?:20|-)\z/ ],
    [ '/v1/contacts?platform=x', {}, [ @key ], 400, %acme,
      convotic_error_code => 'INVALID_REQUEST',
      convotic_limit => qr/^(?:20|-)\z/ ],
    [ '/v1/contacts?%', {}, [ @key ], 400, %acme,
      convotic_error_code => 'INVALID_REQUEST' ],
    [ '/v1/contacts?limit=40', {}, [ @key ], 403, %acme, convotic_limit => 40,
      convotic_error_code => 'NOT_FOUND', convotic_cache_status => 'MISS',
      upstream_status => 403 ],
    [ '/v1/contacts?limit=66', {}, [ @key ], 502, %acme, convotic_limit => 66,
      convotic_error_code => 'INTERNAL_ERROR', convotic_cache_status => 'MISS',
      upstream_status => 200 ],
    [ '/bypass', {}, [ @key, 'If-Match' => '"x"' ], 412, %acme,
      convotic_error_code => 'INVALID_REQUEST', convotic_limit => 20,
      convotic_cache_status => 'HIT' ],
    [ '/bypass', {}, [ @key, 'Range' => 'bytes=99999-' ], 416, %acme,
      convotic_error_code => 'INVALID_REQUEST', convotic_limit => 20,
      convotic_cache_status => 'HIT' ],

    [ '/documented', { method => 'POST' }, [ @key ], 400,
      convotic_error_code => 'INVALID_REQUEST', request_method => 'POST' ],
    [ '/documented?limit=66', {}, [ @key ], 500, %acme, convotic_limit => 66,
      convotic_error_code => 'INTERNAL_ERROR', convotic_cache_status => 'MISS',
      upstream_status => 200 ],
    [ '/documented?limit=40', {}, [ @key ], 404, %acme, convotic_limit => 40,
      convotic_error_code => 'NOT_FOUND', convotic_cache_status => 'MISS',
      upstream_status => 403 ],
    [ '/documented', {}, [ @key, 'Range' => 'bytes=99999-' ], 400, %acme,
      convotic_error_code => 'INVALID_REQUEST', convotic_limit => 20,
      convotic_cache_status => 'MISS' ],
    [ '/documented', {}, [ @key, 'If-Match' => '"x"' ], 400, %acme,
      convotic_error_code => 'INVALID_REQUEST', convotic_limit => 20,
      convotic_cache_status => 'HIT' ],

    map({ [ @$_, convotic_redis_time => qr/^(?:-|0\.000)\z/ ] }
        [ '/static/none', {}, [], 404, convotic_error_code => 'NOT_FOUND' ],
        [ '/page.html', { method => 'POST' }, [], 405,
          convotic_error_code => 'INVALID_REQUEST' ],
        [ '/denied/', {}, [], 401, convotic_error_code => 'UNAUTHORIZED' ],
        [ '/off/none', {}, [], 404 ],
        [ '/page.html', {}, [], 200 ],
        [ '/v1/contacts', { no_host => 1 }, [ @key ], 400,
          convotic_error_code => 'INVALID_REQUEST' ],
    ),
);

for my $case (@errors) {
    my ($path, $opt, $headers, $status, %expected) = @$case;

    ($res, $log) = request($path, $opt, @$headers, 'User-Agent' => 'x');
    is($res->status, $status, "$path @$headers: status");
    logged("$path @$headers: $status", $log, status => $status,
           request_uri => $path, http_user_agent => 'x', %expected);
}

($res) = request('/v1/contacts?limit=0', {}, @key);
is($res->header('X-Error'), 'code=INVALID_REQUEST', 'the code in add_header');
is($res->header('X-Cache'), '-', 'the cache in add_header');


# What is left of the rate; nothing is said of it before the key is known.

for my $case (
    [ 200, 3, '', {}, [ @key ], %acme, convotic_limit => 20,
      convotic_cache_status => 'MISS' ],
    [ 200, 2, '', { h2 => 1 }, [ @key ], %acme, convotic_limit => 20,
      convotic_cache_status => 'HIT' ],
    [ 400, 1, '?limit=0', {}, [ @key ], %acme,
      convotic_error_code => 'INVALID_REQUEST',
      convotic_limit => qr/^(?:20|-)\z/ ],
    [ 405, '-', '', { method => 'PUT' }, [ @key ],
      convotic_error_code => 'INVALID_REQUEST' ],
    [ 401, '-', '', {}, [], convotic_error_code => 'UNAUTHORIZED' ],
    [ 401, '-', '', {}, [ 'X-API-Key' => 'nobody' ],
      convotic_error_code => 'UNAUTHORIZED' ],
    [ 403, 0, '?limit=40', {}, [ @key ], %acme, convotic_limit => 40,
      convotic_error_code => 'NOT_FOUND', convotic_cache_status => 'MISS' ],
    [ 429, 0, '', {}, [ @key ], %acme, convotic_error_code => 'RATE_LIMITED' ],
    [ 429, 0, '', { method => 'HEAD' }, [ @key ], %acme,
      convotic_error_code => 'RATE_LIMITED' ],
) {
    my ($status, $remaining, $query, $opt, $headers, %expected) = @$case;

    ($res, $log) = request("/limited$query", $opt, @$headers);
    is($res->status, $status, "/limited$query: $status");
    is($res->header('X-Remaining'), $remaining eq '-' ? undef : $remaining,
       "/limited$query, $status: in add_header");
    logged("/limited$query: $status", $log, %expected, status => $status,
           convotic_rate_remaining => $remaining,
           convotic_redis_time => qr/^(?:-|\d+\.\d{3})\z/);
}

is_deeply([ map { $_->header('X-Remaining') || () } $up->requests ],
          [ 'remaining=3', 'remaining=0' ],
          'the upstream is told of the request that it is asked for');


# Internal redirects, to the gateway and from it.

# error_page does not take the query along

for my $case ([ '/moved/none?limit=9', 20 ], [ '/rewritten/?limit=9', 9 ]) {
    my ($path, $limit) = @$case;

    ($res, $log) = request($path, {}, @key, 'User-Agent' => 'x');
    success_is($res, contacts_body(workspace => 'acme', limit => $limit),
               $path);
    logged($path, $log, %acme, status => 200, convotic_limit => $limit,
           convotic_cache_status => qr/^(?:MISS|HIT)\z/, http_user_agent => 'x',
           request_uri => $path, uri => '/v1/contacts');
}

# What the gateway answers is its own to send: an error page leads nowhere.

for my $path (qw(/page /named /twice /loop /again)) {
    for my $kind (qw(MISS HIT)) {
        ($res, $log) = request("$path?limit=4", {}, @key,
                               'Range' => 'bytes=99999-');
        error_is($res, 416, 'INVALID_REQUEST', 'Range not satisfiable',
                 "$path, $kind");
        logged("$path, $kind", $log, %acme, status => 416,
               request_uri => "$path?limit=4", convotic_limit => 4,
               convotic_cache_status => $kind,
               convotic_error_code => 'INVALID_REQUEST');
    }
}


# No key in any of it.

unlike($nginx->access_log('all.log'), qr/\b(?:good|revoked|nobody)\b/,
       'no variable is the key');

$t->finish;
