#!/usr/bin/perl

# convotic_cache and convotic_cache_bypass: the request goes to the upstream,
# nothing is read from the cache or put into it, and all else is as usual.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis('keys');
my $bodies = $t->redis('bodies');
my $keys = $t->fake_redis(behind => $redis, name => 'fake_keys');
my $cache = $t->fake_redis(behind => $bodies, name => 'fake_bodies');
my $up = $t->upstream;
my $g = $t->gateway(
    redis => $keys, cache_redis => $cache, store => $redis, upstream => $up,
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_cache_redis %%CACHE_REDIS%% connect_timeout=5s timeout=5s;
    map $convotic_workspace $of_workspace { default 0; beta 1; }
    log_format own '$request_uri $status $convotic_cache_status';
EOC
    server => <<'EOC',
    access_log %%DIR%%/own.log own;

    location = /off {
        convotic on;
        convotic_cache off;
        proxy_pass http://contacts;
    }

    location /inherited/ {
        convotic_cache off;
        location = /inherited/off { convotic on; proxy_pass http://contacts; }
        location = /inherited/on  { convotic on; convotic_cache on;
                                    proxy_pass http://contacts; }
    }

    location = /one {
        convotic on;
        convotic_cache_bypass $http_x_bypass;
        proxy_pass http://contacts;
    }

    location = /two {
        convotic on;
        convotic_cache_bypass $http_x_bypass $arg_bypass;
        proxy_pass http://contacts;
    }

    location = /always {
        convotic on;
        convotic_cache_bypass 1;
        proxy_pass http://contacts;
    }

    location = /known {
        convotic on;
        convotic_cache_bypass $of_workspace;
        proxy_pass http://contacts;
    }

    location = /stale {
        convotic on;
        convotic_cache_valid 100ms;
        convotic_cache_bypass $http_x_bypass;
        proxy_pass http://contacts;
    }
EOC
);

my $beta = $redis->add_key(test_key('beta'), workspace => 'beta');


sub ask {
    my ($path, @headers) = @_;

    my $opt = ref $headers[0] ? shift @headers : {};

    push @headers, 'X-API-Key' => $g->key
        unless grep { $_ eq 'X-API-Key' } @headers;

    return $g->get($path, $opt, @headers);
}


sub cache_status { return $_[0]->header('Cache-Status') || '' }

sub v {
    my ($version, %more) = @_;

    return contacts_body(workspace => 'acme', limit => 20,
                         version => $version, %more);
}


# The commands about generations and bodies that the sub leads to.

sub commands {
    my ($sub) = @_;

    $_->reset for $keys, $cache;
    $sub->();

    return [ sort map { uc($_->[0]) . ' ' . ($_->[1] =~ /(gen|body):/)[0] }
             grep { @$_ > 1 && $_->[1] =~ /^convotic:(?:gen|body):/ }
             map { $_->{argv} } $keys->commands, $cache->commands ];
}


# Bypassed: the new version is given, and Redis has nothing to do with it.

sub bypass_is {
    my ($name, $path, @headers) = @_;

    my $res;

    $up->set(version => 1);
    $up->reset;

    my $commands = commands(sub {
        success_is(ask($path, @headers), v(1), "$name: the first version");
        $up->set(version => 2);
        success_is($res = ask($path, @headers), v(2), "$name: the second");
    });

    is(cache_status($res), 'convotic; fwd=bypass; fwd-status=200; '
       . 'detail=configured', "$name: Cache-Status");
    is($up->count, 2, "$name: two requests");
    is_deeply($commands, [], "$name: no generation, no body");

    return;
}


# Cached: one request, and the first version once more.

sub cached_is {
    my ($name, $path, @headers) = @_;

    $redis->purge('acme');
    $up->set(version => 1);
    $up->reset;

    success_is(ask($path, @headers), v(1), "$name: the first version");
    $up->set(version => 2);

    my $res;
    wait_until(sub { cache_status($res = ask($path, @headers)) =~ /; hit/ });

    success_is($res, v(1), "$name: the first version again");
    is($up->count, 1, "$name: one request");

    return;
}


# convotic_cache

bypass_is('off', '/off');
bypass_is('inherited off', '/inherited/off');
cached_is('on inside of off', '/inherited/on');
cached_is('the default', '/v1/contacts');


# convotic_cache_bypass: a string that is neither empty nor 0.

cached_is('no header', '/one');

for my $value ('', '0') {
    cached_is("header '$value'", '/one', 'X-Bypass' => $value);
}

for my $value (qw(1 00 -1 no off false x 0x 0.0)) {
    bypass_is("header '$value'", '/one', 'X-Bypass' => $value);
}

cached_is('none of two', '/two?bypass=0', 'X-Bypass' => '');
bypass_is('the first of two', '/two', 'X-Bypass' => 1);
bypass_is('the second of two', '/two?bypass=1', 'X-Bypass' => 0);
bypass_is('both', '/two?bypass=1', 'X-Bypass' => 1);
bypass_is('a constant', '/always');


# The workspace is known by then.

{
    cached_is('another workspace', '/known');

    $up->reset;
    ask('/known', 'X-API-Key' => $beta) for 1 .. 3;
    is($up->count, 3, 'this workspace');
}


# What is cached stays as it is.

{
    cached_is('before', '/one');
    $up->set(version => 3);
    success_is(ask('/one', 'X-Bypass' => 1), v(3), 'around it');

    my $res = ask('/one');
    success_is($res, v(1), 'after it');
    like(cache_status($res), qr/; hit/, 'after it: a hit');
}


# Neither does a stale copy stand in.

{
    $redis->purge('acme');
    $up->set(version => 1, status => 200);
    success_is(ask('/stale'), v(1), 'stale: stored');
    $up->set(status => 500);

    my $res;
    wait_until(sub { cache_status($res = ask('/stale')) !~ /; hit/ });
    success_is($res, v(1), 'stale: without a bypass');

    $res = ask('/stale', 'X-Bypass' => 1);
    error_is($res, 500, 'INTERNAL_ERROR', 'An unexpected error occurred',
             'stale: with a bypass');
    is(cache_status($res), 'convotic; fwd=bypass; fwd-status=500; '
       . 'detail=configured', 'stale: Cache-Status');
    $up->set(status => 200);
}


# The checks before it are the same, and so is the answer's form.

error_is($g->get('/off'), 401, 'UNAUTHORIZED', 'Missing X-API-Key header');
error_is(ask('/off', 'X-API-Key' => 'cvtk_live_unknown'), 401, 'UNAUTHORIZED',
         'Invalid API key');
error_is(ask('/off?limit=0'), 400, 'INVALID_REQUEST',
         "Parameter 'limit' must be between 1 and 100");
error_is(ask('/off', { method => 'POST' }), 405, 'INVALID_REQUEST',
         'Method POST is not allowed');

{
    $up->set(version => 1);

    my ($on, $off) = map { ask($_) } '/v1/contacts?limit=20', '/off';
    my @names = grep { $_ ne 'cache-status' }
        sort map { lc $_->[0] } $on->headers;

    is_deeply([ grep { $_ ne 'cache-status' }
                sort map { lc $_->[0] } $off->headers ], \@names,
              'the same headers as with the cache');
    is($off->header('ETag'), ask('/always')->header('ETag'), 'the same ETag');
    is(ask('/off', 'If-None-Match' => $off->header('ETag'))->status, 304,
       'If-None-Match');
    success_is(ask('/off', { method => 'HEAD' }), v(1), 'HEAD');
}

ok(wait_until(sub { $g->access_log('own.log') =~ m{^/off 200 BYPASS$}m }),
   'the log');

$t->finish;
