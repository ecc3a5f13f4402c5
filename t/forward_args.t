#!/usr/bin/perl

# convotic_forward_args: parameters that the gateway does not know, but the
# upstream does.  They go on in one form and belong to the cache's key.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis->init;

# What it answers depends on all that it was asked.

my $up = $t->upstream(handler => sub {
    my ($req) = @_;

    return answer($req->tenant, $req->query);
});

sub answer {
    my ($workspace, $query) = @_;

    my ($limit) = $query =~ /(?:^|&)limit=(\d+)/;

    return qq({"contacts":["$workspace","$query"],"total":1,"limit":$limit});
}

my %key = map { $_ => $redis->add_key(test_key($_), workspace => $_) }
    qw(acme umbra);

my $nginx = $t->nginx(redis => $redis, upstream => $up, conf => <<'EOC');
http {
    convotic_redis %%REDIS%%;
    convotic_forward_args cursor fields;
    upstream contacts { server %%UPSTREAM%%; }

    server {
        listen 127.0.0.1:%%PORT%%;
        location = /two { convotic on; proxy_pass http://contacts; }
        location = /other {
            convotic on; proxy_pass http://contacts;
            convotic_forward_args fields x[] LIMIT a&b _;
        }
        location = /none {
            convotic on; proxy_pass http://contacts;
            convotic_forward_args none;
        }
    }
}
EOC


# Where, the query that the upstream gets, those that it is made of.

my @cases = (
    [ '/two', 'limit=20', '', 'x=1', 'Cursor=1', 'CURSOR=1', 'cursor%00=1',
      'cursor%20=1', 'cursor[]=1', 'cursors=1', '%20cursor=1', 'cursor+=1' ],
    [ '/two', 'limit=5&cursor=a', 'limit=5&cursor=a', 'cursor=a&limit=5',
      'c%75rsor=%61&limit=05', 'x=1&cursor=a&limit=5&y=2',
      '&&cursor=a&&limit=5', 'cursor=a&limit=5&Cursor=b',
      'cursor=a&limit=5#b' ],
    [ '/two', 'limit=20&cursor=', 'cursor', 'cursor=', 'cursor&x', '%63ursor' ],
    [ '/two', 'limit=20&cursor=a&fields=b', 'cursor=a&fields=b',
      'fields=b&cursor=a' ],
    [ '/two', 'platform=line&limit=5&cursor=a&fields=b',
      'fields=b&platform=line&cursor=a&limit=5' ],
    [ '/two', 'limit=20&cursor=a&cursor=b', 'cursor=a&cursor=b',
      'cursor=a&x=1&cursor=b' ],
    [ '/two', 'limit=20&cursor=b&cursor=a', 'cursor=b&cursor=a' ],
    [ '/two', 'limit=20&cursor=a&cursor=a', 'cursor=a&cursor=a' ],
    [ '/two', 'limit=20&cursor=a&cursor=c&fields=b',
      'cursor=a&fields=b&cursor=c', 'fields=b&cursor=a&cursor=c' ],

    # what looks like structure in a value is none

    [ '/two', 'limit=20&cursor=a%26fields%3Db', 'cursor=a%26fields=b',
      'cursor=a%26fields%3Db' ],
    [ '/two', 'limit=20&cursor=a%26limit%3D5', 'cursor=a%26limit=5' ],
    [ '/two', 'limit=20&cursor=a%3Bfields%3Db', 'cursor=a;fields=b' ],
    [ '/two', 'limit=20&cursor=%3D', 'cursor==', 'cursor=%3d' ],
    [ '/two', 'limit=20&cursor=a%3Fb', 'cursor=a?b' ],
    [ '/two', 'limit=20&cursor=a%23b', 'cursor=a%23b' ],
    [ '/two', 'limit=20&cursor=a%20b', 'cursor=a+b', 'cursor=a%20b' ],
    [ '/two', 'limit=20&cursor=a%2Bb', 'cursor=a%2Bb', 'cursor=a%2bb' ],
    [ '/two', 'limit=20&cursor=%2541', 'cursor=%2541' ],
    [ '/two', 'limit=20&cursor=A', 'cursor=%41' ],
    [ '/two', 'limit=20&cursor=%00', 'cursor=%00' ],
    [ '/two', 'limit=20&cursor=a%0D%0AX-Convotic-Workspace%3A%20umbra',
      'cursor=a%0d%0aX-Convotic-Workspace:%20umbra' ],
    [ '/two', 'limit=20&cursor=%20HTTP%2F1.1', 'cursor=%20HTTP/1.1' ],
    [ '/two', 'limit=20&cursor=%C3%A9', "cursor=\xc3\xa9", 'cursor=%c3%A9' ],
    [ '/two', 'limit=20&cursor=%FF', "cursor=\xff", 'cursor=%ff' ],
    [ '/two', 'limit=20&cursor=%2F..%2F..', 'cursor=/../..' ],
    [ '/two', 'limit=20&cursor=~a-b_c.d', 'cursor=~a-b_c.d',
      'cursor=%7Ea%2Db%5Fc%2Ed' ],
    [ '/two', 'limit=20&cursor=%22%3C%3E%5C%5E%60%7B%7C%7D%27',
      'cursor="<>\\^`{|}\'' ],
    [ '/two', 'limit=20&cursor=' . 'y' x 7000, 'cursor=' . 'y' x 7000 ],
    [ '/two', 'limit=20&cursor=' . '%FF' x 2000, 'cursor=' . '%ff' x 2000,
      'cursor=' . "\xff" x 2000 ],
    [ '/two', 'limit=20' . '&cursor=' x 500, 'cursor&' x 500 ],

    # another list, in its own order, in place of the first

    [ '/other', 'limit=20', 'cursor=a', 'x=1', 'x[=1', 'Limit=5', 'a', '__' ],
    [ '/other', 'limit=20&fields=1&x%5B%5D=2&LIMIT=3&a%26b=4&_=5',
      '_=5&a%26b=4&LIMIT=3&x[]=2&fields=1&cursor=6',
      'a%26b=4&%5f=5&LIMIT=3&x%5b%5d=2&fields=1' ],
    [ '/other', 'limit=5&LIMIT=500', 'limit=5&LIMIT=500', 'LIMIT=500&limit=5' ],
    [ '/none', 'limit=20', 'cursor=a', 'fields=b' ],
);

for my $case (@cases) {
    my ($path, $canonical, @queries) = @$case;

    for my $workspace (sort keys %key) {
        my $body = answer($workspace, $canonical);

        $up->reset;

        for my $query (@queries) {
            my $shown = substr $query, 0, 50;
            $shown =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/eg;

            success_is($nginx->get("$path?$query",
                                   'X-API-Key' => $key{$workspace}),
                       $body, "$workspace $path?$shown");
        }

        is_deeply([ map { $_->uri } $up->requests ], [ "$path?$canonical" ],
                  "$workspace $path: the upstream was asked once: "
                  . substr $canonical, 0, 50);
    }
}


# They are checked no more than that.

error_is($nginx->get("/two?$_", 'X-API-Key' => $key{acme}),
         400, 'INVALID_REQUEST', 'Malformed query string', $_)
    for 'cursor=%', 'cursor=%zz', 'cursor%=a', 'cursor=%0';
error_is($nginx->get('/two?cursor=a&limit=0', 'X-API-Key' => $key{acme}),
         400, 'INVALID_REQUEST', "Parameter 'limit' must be between 1 and 100",
         'limit beside them');

$t->finish;
