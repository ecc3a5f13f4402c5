#!/usr/bin/perl

# Bodies are kept apart by what the upstream was asked: by server, location,
# path, and the Host where that is the client's choice.  They are shared where
# the configuration says so, and by nodes of the same configuration.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

# What the upstreams answer tells whom was asked for what.

sub told {
    my ($who, $host, $path, $workspace, $limit) = @_;

    return contacts_body(workspace => $workspace || 'acme',
                         limit => $limit || 1, version => "$who $host$path");
}


sub handler {
    my ($who) = @_;

    return sub {
        my ($req) = @_;

        return told($who, scalar $req->header('Host'), $req->path,
                    $req->tenant, $req->args->{limit});
    };
}


my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis;
my %up = map { $_ => $t->upstream(name => $_, handler => handler($_)) }
    qw(a b);
my $conf = <<'EOC';
http {
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    upstream a { server %%A%%; }
    upstream b { server %%B%%; }

    proxy_set_header Host $host;

    server {
        listen 127.0.0.1:%%PORT%%;
        listen 127.0.0.1:%%PORT_other%%;
        server_name one.example.com;
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
        location = /v2/contacts     { convotic on; proxy_pass http://b; }
        location ~ /v2/contacts     { convotic on; proxy_pass http://a; }
        location = /to_b            { convotic on;
                                      proxy_pass http://b/v1/contacts; }
        location /prefix/           { convotic on; proxy_pass http://a; }
        location /mapped/           { convotic on; proxy_pass http://a/m/; }
        location ~ ^/(?<x>\w+)/list$ { convotic on; proxy_pass http://a; }
        location /nested/ {
            location = /nested/contacts { convotic on; proxy_pass http://b; }
        }
    }

    server {
        listen 127.0.0.1:%%PORT%%;
        server_name two.example.com;
        location = /v1/contacts     { convotic on; proxy_pass http://b; }
    }

    # The same names once more.

    server {
        listen 127.0.0.1:%%PORT_same%%;
        server_name one.example.com;
        location = /v1/contacts     { convotic on; proxy_pass http://b; }
        location = /v1/contacts#2   { convotic on; proxy_pass http://a; }
    }

    server {
        listen 127.0.0.1:%%PORT_same2%%;
        server_name one.example.com;
        location = /v1/contacts     { convotic on;
                                      proxy_pass http://b/v3/contacts; }
    }

    # No name, twice.

    server {
        listen 127.0.0.1:%%PORT_none%%;
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
        location = /http_host       { convotic on;
                                      proxy_set_header Host $http_host;
                                      proxy_pass http://a; }
    }

    server {
        listen 127.0.0.1:%%PORT_none2%%;
        location = /v1/contacts     { convotic on; proxy_pass http://b; }
    }

    # Names that leave a choice.

    server {
        listen 127.0.0.1:%%PORT_wildcard%%;
        server_name *.example.org;
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
        location = /http_host       { convotic on;
                                      proxy_set_header Host $http_host;
                                      proxy_pass http://a; }
    }

    server {
        listen 127.0.0.1:%%PORT_dot%%;
        server_name .example.org;
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
    }

    server {
        listen 127.0.0.1:%%PORT_end%%;
        server_name www.example.*;
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
    }

    server {
        listen 127.0.0.1:%%PORT_regex%%;
        server_name ~^(?<sub>\w+)\.example\.org$;
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
    }

    server {
        listen 127.0.0.1:%%PORT_underscore%%;
        server_name _;
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
    }

    server {
        listen 127.0.0.1:%%PORT_mixed%%;
        server_name api.example.org *.example.org;
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
    }

    server {
        listen 127.0.0.1:%%PORT_empty%%;
        server_name api.example.org "";
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
    }

    # Names that do not.

    server {
        listen 127.0.0.1:%%PORT_plain%%;
        server_name api.example.org other.example.org;
        location = /v1/contacts     { convotic on; proxy_pass http://a; }
        location = /http_host       { convotic on;
                                      proxy_set_header Host $http_host;
                                      proxy_pass http://a; }
        location = /default         { convotic on;
                                      proxy_set_header X-Y z;
                                      proxy_pass http://a; }
    }

    # One namespace on purpose.

    server {
        listen 127.0.0.1:%%PORT_shared%%;
        server_name shared.example.com;
        convotic_cache_namespace ours;
        location = /v1/contacts     { convotic on; proxy_pass http://a/c; }
        location = /alias           { convotic on; proxy_pass http://a/c; }
        location = /apart           { convotic on; proxy_pass http://a/c;
                                      convotic_cache_namespace theirs; }
    }

    server {
        listen 127.0.0.1:%%PORT_shared2%%;
        server_name shared.example.com;
        location = /v1/contacts     { convotic on; proxy_pass http://a/c;
                                      convotic_cache_namespace ours; }
    }
}
EOC

my %own = (redis => $redis, conf => $conf,
           vars => { A => $up{a}->addr, B => $up{b}->addr });
my $g = $t->gateway(%own, upstream => $up{a});
my $beta = $redis->add_key(test_key('beta'), workspace => 'beta');


sub ask {
    my ($port, $host, $path, @headers) = @_;

    push @headers, 'X-API-Key' => $g->key
        unless grep { $_ eq 'X-API-Key' } @headers;

    $path .= ($path =~ /\?/ ? '&' : '?') . 'limit=1' unless $path =~ /limit=/;

    return $g->get($path, { port => $g->port($port) },
                   Host => $host, @headers);
}


sub cache_status { return $_[0]->header('Cache-Status') || '' }


# Requests in turn and turned back: each gets its own, and each different one
# has been asked for once.  A case is port, Host, path, and what is told.

sub apart {
    my ($name, @cases) = @_;

    my %different = map { join(' ', @$_[3 .. 5]) => 1 } @cases;

    $redis->purge('acme');
    $_->reset for values %up;

    for my $round (1 .. 2) {
        for my $case (@cases) {
            my ($port, $host, $path, @told) = @$case;

            success_is(ask($port, $host, $path), told(@told),
                       join ' ', "$name:", $port || 'main', $host, $path,
                       $round);
        }

        @cases = reverse @cases;
    }

    is($up{a}->count + $up{b}->count, scalar keys %different,
       "$name: and once each");

    return;
}


# Servers and locations.

apart('servers and locations',
    [ '', 'one.example.com', '/v1/contacts', a => 'one.example.com',
      '/v1/contacts' ],
    [ '', 'two.example.com', '/v1/contacts', b => 'two.example.com',
      '/v1/contacts' ],
    [ '', 'one.example.com', '/v2/contacts', b => 'one.example.com',
      '/v2/contacts' ],
    [ '', 'one.example.com', '/x/v2/contacts', a => 'one.example.com',
      '/x/v2/contacts' ],
    [ '', 'one.example.com', '/to_b', b => 'one.example.com',
      '/v1/contacts' ],
    [ '', 'one.example.com', '/nested/contacts', b => 'one.example.com',
      '/nested/contacts' ],
    [ 'same2', 'one.example.com', '/v1/contacts', b => 'one.example.com',
      '/v3/contacts' ],
    [ 'none', 'x', '/v1/contacts', a => 'x', '/v1/contacts' ],
    [ 'none2', 'x', '/v1/contacts', b => 'x', '/v1/contacts' ],
);

apart('the same names',
    [ '', 'one.example.com', '/v1/contacts', a => 'one.example.com',
      '/v1/contacts' ],
    [ 'other', 'one.example.com', '/v1/contacts', a => 'one.example.com',
      '/v1/contacts' ],
    [ 'same', 'one.example.com', '/v1/contacts', b => 'one.example.com',
      '/v1/contacts' ],
    [ 'same', 'one.example.com', '/v1/contacts%232', a => 'one.example.com',
      '/v1/contacts%232' ],
);


# A location of many paths.

apart('paths of one location',
    (map { [ '', 'one.example.com', $_, a => 'one.example.com', $_ ] }
        qw(/prefix/contacts /prefix/people /prefix/ /prefix/contacts/
           /prefix/Contacts /prefix/a%20b /prefix/a%2520b)),
    (map { [ '', 'one.example.com', "/mapped$_", a => 'one.example.com',
             "/m$_" ] } qw(/contacts /people)),
    (map { [ '', 'one.example.com', "/$_/list", a => 'one.example.com',
             "/$_/list" ] } qw(contacts people)),
);

apart('one path in several forms',
    map { [ '', 'one.example.com', $_, a => 'one.example.com',
            '/prefix/contacts' ] }
        qw(/prefix/contacts /prefix//contacts /prefix/./contacts
           /prefix/%63ontacts /x/../prefix/contacts
           http://one.example.com/prefix/contacts));


# The client's Host goes on where the names leave a choice, in one form, and
# then tells bodies apart.

for my $port (qw(none wildcard dot regex underscore mixed)) {
    for my $path ('/v1/contacts', $port =~ /none|wildcard/ ? '/http_host' : ())
    {
        apart("$port $path",
            (map { [ $port, $_, $path, a => 'api.example.org', $path ] }
                'api.example.org', 'API.Example.ORG', 'api.example.org:8080',
                'api.example.org.'),
            (map { [ $port, $_, $path, a => 'evil.example.org', $path ] }
                'evil.example.org', 'Evil.example.org:1'),

            # the request line's goes first
            [ $port, 'api.example.org', "http://evil.example.org$path",
              a => 'evil.example.org', $path ],
            [ $port, 'evil.example.org', "http://API.example.org:81$path",
              a => 'api.example.org', $path ],
        );
    }
}

apart('an end',
    map { [ 'end', $_, '/v1/contacts', a => lc $_, '/v1/contacts' ] }
        'www.example.org', 'www.example.com', 'WWW.example.com');

apart('an empty name',
    [ 'empty', 'api.example.org', '/v1/contacts', a => 'api.example.org',
      '/v1/contacts' ],
    [ 'empty', 'x.example.org', '/v1/contacts', a => 'x.example.org',
      '/v1/contacts' ]);


# Where they do not, the first name goes on, whatever the client has sent.

for my $path ('/v1/contacts', '/http_host') {
    apart("plain $path",
        map { [ 'plain', $_, $path, a => 'api.example.org', $path ] }
            'api.example.org', 'other.example.org', 'evil.example.com',
            'api.example.org:81', '127.0.0.1', 'API.EXAMPLE.ORG', '_');

    apart("plain $path, in the request line",
        map { [ 'plain', 'x', "$_$path", a => 'api.example.org', $path ] }
            'http://api.example.org', 'http://evil.example.com',
            'http://evil.example.com:81');
}

apart('plain, the default of proxy_set_header',
    map { [ 'plain', $_, '/default', a => 'a', '/default' ] }
        'api.example.org', 'evil.example.com');

{
    my $body = told(a => 'api.example.org', '/v1/contacts');
    my $old = sub {
        $g->get('/v1/contacts?limit=1', { port => $g->port('plain'),
                                          version => '1.0', no_host => 1 },
                'X-API-Key' => $g->key);
    };

    success_is($old->(), $body, 'plain, no Host');
    $up{a}->reset;
    success_is(ask('plain', 'api.example.org', '/v1/contacts'), $body,
               'plain, a Host after none');
    is($up{a}->count, 0, 'plain, a Host after none: a hit');
}


# Shared on purpose: by namespace, never by workspace or query.

{
    my $body = told(a => 'shared.example.com', '/c');
    my @same = ([ 'shared', '/v1/contacts' ], [ 'shared', '/alias' ],
                [ 'shared2', '/v1/contacts' ]);

    $redis->purge('acme');
    $_->reset for values %up;

    for my $same (@same) {
        my ($port, $path) = @$same;

        success_is(ask($port, 'x', $path), $body, "shared: $port $path");
    }

    is($up{a}->count, 1, 'shared: one request');

    success_is(ask('shared', 'x', '/apart'), $body, 'shared, but apart');
    is($up{a}->count, 2, 'shared, but apart: another request');

    success_is(ask('shared2', 'x', '/v1/contacts', 'X-API-Key' => $beta),
               told(a => 'shared.example.com', '/c', 'beta'),
               'shared: not by workspaces');
    success_is(ask('shared2', 'x', '/v1/contacts?limit=2'),
               told(a => 'shared.example.com', '/c', 'acme', 2),
               'shared: not by queries');
    is($up{a}->count, 4, 'shared: two more requests');
}


# Another node of the same configuration.

{
    my $node = $t->nginx(%own, name => 'node');

    $redis->purge('acme');

    for my $case ([ '', 'one.example.com' ], [ 'same', 'one.example.com' ],
                  [ 'same2', 'one.example.com' ], [ 'none', 'x' ],
                  [ 'none2', 'x' ], [ 'wildcard', 'x.example.org' ],
                  [ 'shared', 'shared.example.com' ])
    {
        my ($port, $host) = @$case;
        my $first = ask($port, $host, '/v1/contacts');
        my $second;

        wait_until(sub {
            $second = $node->get('/v1/contacts?limit=1',
                                 { port => $node->port($port) }, Host => $host,
                                 'X-API-Key' => $g->key);
            cache_status($second) =~ /; hit/;
        });

        success_is($second, $first->body, "a second node: $port $host");
        like(cache_status($second), qr/; hit/, "a second node: $port, a hit");
    }
}

$t->finish;
