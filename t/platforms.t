#!/usr/bin/perl

# convotic_platforms: which names there are, by location; a list of a lower
# level replaces that of a higher one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis->init;
my $up = $t->upstream;
my $key = $redis->add_key(test_key('acme'));
my @many = map { sprintf 'platform-number-%02d', $_ } 1 .. 60;

my $nginx = $t->nginx(redis => $redis, upstream => $up,
                      vars => { MANY => "@many" }, conf => <<'EOC');
http {
    convotic_redis %%REDIS%%;
    upstream contacts { server %%UPSTREAM%%; }

    server {
        listen 127.0.0.1:%%PORT%%;
        location = /usual { convotic on; proxy_pass http://contacts; }
        location = /one {
            convotic on; proxy_pass http://contacts;
            convotic_platforms telegram;
        }
        location = /many {
            convotic on; proxy_pass http://contacts;
            convotic_platforms %%MANY%%;
        }
        location = /odd {
            convotic on; proxy_pass http://contacts;
            convotic_platforms a&b c=d + %6c '"q"' Line line LINE a,b
                e\\f <b> ?;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_b%%;
        convotic_platforms telegram line;
        location = /server { convotic on; proxy_pass http://contacts; }
        location /outer {
            convotic_platforms viber;
            location = /outer/inner {
                convotic on; proxy_pass http://contacts;
            }
        }
    }
}
EOC

# Where, the list as a message has it, values => as the upstream gets them (no
# more if the same has been asked before), values that are not in the list.

my @cases = (
    [ PORT => '/usual', [ qw(instagram line facebook whatsapp) ],
      [ [ instagram => 'instagram' ], [ line => 'line' ],
        [ facebook => 'facebook' ], [ whatsapp => 'whatsapp' ] ],
      [ 'telegram', 'Line', '' ] ],
    [ PORT => '/one', [ 'telegram' ],
      [ [ telegram => 'telegram' ], [ '%74elegram' ] ],
      [ 'line', 'instagram', 'telegram,', '' ] ],
    [ PORT => '/many', \@many,
      [ map { [ $_ => $_ ] } @many[0, 30, 59] ], [ 'line', $many[0] . '0' ] ],
    [ PORT => '/odd',
      [ 'a&b', 'c=d', '+', '%6c', '"q"', 'Line', 'line', 'LINE', 'a,b',
        'e\f', '<b>', '?' ],
      [ [ 'a%26b' => 'a%26b' ], [ 'c=d' => 'c%3Dd' ], [ 'c%3dd' ],
        [ '%2b' => '%2B' ], [ '%256c' => '%256c' ], [ '"q"' => '%22q%22' ],
        [ Line => 'Line' ], [ line => 'line' ], [ LINE => 'LINE' ],
        [ 'a,b' => 'a%2Cb' ], [ '<b>' => '%3Cb%3E' ], [ '?' => '%3F' ] ],
      [ 'a', 'a%26', 'c', '+', '%20', '%6c', 'q', 'lINE', 'b', 'a,b,' ] ],
    [ PORT_b => '/server', [ qw(telegram line) ],
      [ [ telegram => 'telegram' ], [ line => 'line' ] ], [ 'facebook' ] ],
    [ PORT_b => '/outer/inner', [ 'viber' ],
      [ [ viber => 'viber' ] ], [ 'line', 'telegram', 'facebook' ] ],
);

for my $case (@cases) {
    my ($server, $path, $list, $good, $bad) = @$case;

    my $port = $server eq 'PORT' ? $nginx->port : $nginx->port('b');
    my $get = sub {
        return $nginx->get("$path?limit=2&platform=$_[0]", { port => $port },
                           'X-API-Key' => $key);
    };

    for my $pair (@$good) {
        my ($value, $encoded) = @$pair;

        $up->reset;
        success_is($get->($value), undef, "$server $path: $value");

        my ($request) = $up->requests;

        is($request ? $request->uri : 'none',
           defined $encoded ? "$path?platform=$encoded&limit=2" : 'none',
           "$server $path: $value at the upstream");
    }

    $up->reset;
    error_is($get->($_), 400, 'INVALID_REQUEST',
             "Parameter 'platform' must be one of: " . join(', ', @$list),
             "$server $path: not '$_'") for @$bad;
    is($up->count, 0, "$server $path: the upstream saw nothing of it");
}

$t->finish;
