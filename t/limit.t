#!/usr/bin/perl

# convotic_limit: the default and the maximum, by location.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis->init;
my $up = $t->upstream;
my $key = $redis->add_key(test_key('acme'));

my $nginx = $t->nginx(redis => $redis, upstream => $up, conf => <<'EOC');
http {
    convotic_redis %%REDIS%%;
    upstream contacts { server %%UPSTREAM%%; }

    server {
        listen 127.0.0.1:%%PORT%%;
        location = /usual { convotic on; proxy_pass http://contacts; }
        location = /both {
            convotic on; proxy_pass http://contacts;
            convotic_limit default=7 max=11;
        }
        location = /default {
            convotic on; proxy_pass http://contacts;
            convotic_limit default=100;
        }
        location = /max {
            convotic on; proxy_pass http://contacts;
            convotic_limit max=1000000;
        }
        location = /one {
            convotic on; proxy_pass http://contacts;
            convotic_limit max=1 default=1;
        }
        location = /same {
            convotic on; proxy_pass http://contacts;
            convotic_limit max=20;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_b%%;
        convotic_limit default=50 max=200;
        location = /server { convotic on; proxy_pass http://contacts; }
        location = /default {
            convotic on; proxy_pass http://contacts;
            convotic_limit default=3;
        }
        location /outer {
            convotic_limit max=60;
            location = /outer/inner {
                convotic on; proxy_pass http://contacts;
            }
        }
    }
}
EOC

# Where, the default, the maximum.

my @cases = (
    [ PORT   => '/usual',       20, 100 ],
    [ PORT   => '/both',         7, 11 ],
    [ PORT   => '/default',    100, 100 ],
    [ PORT   => '/max',         20, 1000000 ],
    [ PORT   => '/one',          1, 1 ],
    [ PORT   => '/same',        20, 20 ],
    [ PORT_b => '/server',      50, 200 ],
    [ PORT_b => '/default',      3, 200 ],
    [ PORT_b => '/outer/inner', 50, 60 ],
);

for my $case (@cases) {
    my ($server, $path, $default, $max) = @$case;

    my $port = $server eq 'PORT' ? $nginx->port : $nginx->port('b');
    my $get = sub {
        return $nginx->get($path . $_[0], { port => $port },
                           'X-API-Key' => $key);
    };
    my $is = sub {
        my ($query, $limit) = @_;
        success_is($get->($query),
                   contacts_body(workspace => 'acme', limit => $limit),
                   "$server $path$query: $limit");
    };
    my $is_not = sub {
        my ($query) = @_;
        error_is($get->($query), 400, 'INVALID_REQUEST',
                 "Parameter 'limit' must be between 1 and $max",
                 "$server $path$query: not up to $max");
    };

    $up->reset;
    $is->('', $default);
    $is->("?limit=$default", $default);
    is_deeply([ map { $_->uri } $up->requests ], [ "$path?limit=$default" ],
              "$server $path: the upstream is told the default");

    $up->reset;
    $is->("?limit=$max", $max);
    $is->("?limit=0$max", $max);
    is_deeply([ map { $_->uri } $up->requests ],
              $max == $default ? [] : [ "$path?limit=$max" ],
              "$server $path: the upstream is told the maximum");

    $is->('?limit=1', 1);

    $is_not->('?limit=' . ($max + 1));
    $is_not->("?limit=${max}0");
    $is_not->("?limit=$max.0");
    $is_not->('?limit=0');
    $is_not->('?limit=');
}

$t->finish;
