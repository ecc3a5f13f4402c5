package Convotic::Bench::Subjects;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(subjects sizes);

# Bodies: so many contacts.

my %limits = (S => 3, M => 20, L => 100);
my @order = qw(S M L);

# name        as --only and the tables have it
# title       for people
# server      instance and name of the port in conf/<kind>.conf.in
# sizes       of the bodies that it is measured with
# query       instead of platform=instagram&limit=N; without a value for N
# key         good (default), unknown, malformed, spent
# gzip        the client accepts it
# unique      no two requests alike
# status      200 unless given
# body        exact (default), gzip (of the exact one), any
# cache       what Cache-Status must say once the cache is warm
# to          the subject, of the same size, that it is divided by
# upstream    requests to the upstream per request: 0 unless given
# redis       commands to Redis per request: 0 unless given
# needs       directives that the module must know
# workers     1 unless given
# counted     by bench/instructions only: it differs from another by too little

my @subjects = (
    {
        name => 'return', title => 'nginx `return 200`',
        server => 'nginx.return_SIZE', sizes => \@order, to => 'return',
    },
    {
        name => 'proxy-cache', title => '`proxy_cache`, no key check',
        server => 'nginx.cache', sizes => \@order, cache => qr/HIT/,
        to => 'return',
    },
    {
        name => 'auth-request', title => '`proxy_cache` and `auth_request`, both cached',
        server => 'nginx.auth', sizes => \@order, cache => qr/HIT/,
        to => 'return',
    },
    {
        name => 'lua-worker', title => 'Lua, lrucache of the worker before it',
        server => 'lua.worker', sizes => \@order, to => 'return',
    },
    {
        name => 'lua-shared', title => 'Lua, shared dict before Redis',
        server => 'lua.shared', sizes => \@order, to => 'return',
    },
    {
        name => 'lua-redis', title => 'Lua, Redis, one pipeline',
        server => 'lua.redis', sizes => \@order, redis => 2,
        to => 'return',
    },
    {
        name => 'local', title => 'ours, first level', ours => 1,
        server => 'local.contacts', sizes => \@order, cache => qr/hit/,
        to => 'return', needs => ['convotic_cache_local'],
    },
    {
        name => 'local-unlimited', title => 'ours, first level, `convotic_rate off`',
        ours => 1, server => 'local.unlimited', cache => qr/hit/,
        to => 'return', counted => 1,
        needs => [ 'convotic_cache_local', 'convotic_rate' ],
    },
    {
        name => 'redis', title => 'ours, Redis', ours => 1,
        server => 'redis.contacts', sizes => \@order, redis => 1,
        cache => qr/hit/, to => 'return',
    },
    {
        name => 'gzip-return', title => 'nginx `return 200` of the compressed size',
        server => 'nginx.return_gzip_SIZE', sizes => [ 'M', 'L' ], gzip => 1,
        body => 'any', to => 'gzip-return',
    },
    {
        name => 'gzip-proxy-cache', title => '`proxy_cache`, `gzip_comp_level 1`',
        server => 'nginx.cache_gzip', sizes => [ 'M', 'L' ], gzip => 1,
        body => 'gzip', cache => qr/HIT/, to => 'gzip-return',
    },
    {
        name => 'gzip-local', title => 'ours, first level, stored gzip form',
        ours => 1, server => 'local.contacts', sizes => [ 'M', 'L' ],
        gzip => 1, body => 'gzip', cache => qr/hit/, to => 'gzip-return',
        needs => [ 'convotic_cache_local', 'convotic_gzip' ],
    },
    {
        name => 'return-401', title => 'nginx `return 401`',
        server => 'nginx.return_401', status => 401, body => 'any',
        key => 'unknown', to => 'return-401',
    },
    {
        name => '401-unknown', title => 'ours, 401, unknown key', ours => 1,
        server => 'local.contacts', status => 401, body => 'any',
        key => 'unknown', to => 'return-401', redis_free => 1,
        needs => ['convotic_key_invalid'],
    },
    {
        name => '401-malformed', title => 'ours, 401, malformed key', ours => 1,
        server => 'local.contacts', status => 401, body => 'any',
        key => 'malformed', to => 'return-401',
    },
    {
        name => '400', title => 'ours, 400, `limit=500`', ours => 1,
        server => 'local.contacts', status => 400, body => 'any',
        query => 'platform=instagram&limit=500', to => 'return-401',
    },
    {
        name => '429', title => 'ours, 429', ours => 1,
        server => 'local.contacts', status => 429, body => 'any',
        key => 'spent', to => 'return-401', needs => ['convotic_rate'],
    },
    {
        name => 'miss-pass', title => '`proxy_pass`', server => 'nginx.pass',
        sizes => [ 'M', 'L' ], unique => 1, upstream => 1, to => 'miss-pass',
    },
    {
        name => 'miss-proxy-cache', title => '`proxy_cache`, a miss',
        server => 'nginx.cache_miss', sizes => [ 'M', 'L' ], unique => 1,
        upstream => 1, cache => qr/MISS/, to => 'miss-pass',
    },
    {
        name => 'miss', title => 'ours, a miss, bytes that are known', ours => 1,
        server => 'local.miss', sizes => [ 'M', 'L' ], unique => 1,
        upstream => 1, redis => 7, cache => qr/fwd=/, to => 'miss-pass',
    },
    {
        name => 'miss-news', title => 'ours, a miss, other bytes', ours => 1,
        server => 'local.news', sizes => [ 'M', 'L' ], unique => 1,
        upstream => 1, redis => 7, cache => qr/fwd=/, to => 'miss-pass',
        body => 'any',
    },
    {
        name => 'two-return', title => 'nginx `return 200`, two workers',
        server => 'nginx2.return_SIZE', sizes => ['M'], to => 'return',
        workers => 2,
    },
    {
        name => 'two-local', title => 'ours, first level, two workers', ours => 1,
        server => 'local2.contacts', sizes => ['M'], cache => qr/hit/,
        to => 'local', workers => 2, needs => ['convotic_cache_local'],
    },
);

for my $subject (@subjects) {
    $subject->{sizes} ||= ['M'];
    $subject->{$_} ||= 0 for qw(upstream redis);
    $subject->{status} ||= 200;
    $subject->{workers} ||= 1;
    $subject->{body} ||= 'exact';
    $subject->{key} ||= 'good';
}


sub subjects { return @subjects }
sub sizes    { return map { $_ => $limits{$_} } @order }


1;

__END__

=head1 NAME

Convotic::Bench::Subjects - what is measured: ours and what it is compared to

=cut
