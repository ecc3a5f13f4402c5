#!/usr/bin/perl

# convotic_unknown_args: parameters that the API does not know are dropped, or
# refused.

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
        location = /ignore {
            convotic on; proxy_pass http://contacts;
            convotic_unknown_args ignore;
        }
        location = /reject {
            convotic on; proxy_pass http://contacts;
            convotic_unknown_args reject;
        }
        location = /forward {
            convotic on; proxy_pass http://contacts;
            convotic_unknown_args reject;
            convotic_forward_args cursor;
        }
    }

    server {
        listen 127.0.0.1:%%PORT_b%%;
        convotic_unknown_args reject;
        location = /inherited { convotic on; proxy_pass http://contacts; }
        location = /ignore {
            convotic on; proxy_pass http://contacts;
            convotic_unknown_args ignore;
        }
    }
}
EOC

my %port = (a => $nginx->port, b => $nginx->port('b'));
my $five = contacts_body(workspace => 'acme', limit => 5);


sub get {
    my ($server, $path, $query) = @_;

    return $nginx->get("$path?$query", { port => $port{$server} },
                       'X-API-Key' => $key);
}


# Ignored: not forwarded, not in the cache's key.

my @unknown = (
    'x', 'x=', 'x=1', '=', '=1', 'LIMIT=9', 'Limit', 'limit%00=9', 'limit+=9',
    'PLATFORM=line', 'x=%00', 'a&b&c=d', "\xff=\xfe", '%ff', 'cursor=1',
    'X-Convotic-Workspace=evil',
);

for my $where ([ a => '/usual' ], [ a => '/ignore' ], [ b => '/ignore' ]) {
    my ($server, $path) = @$where;

    $up->reset;
    success_is(get($server, $path, "limit=5&$_"), $five,
               "$server $path: " . printable($_)) for @unknown;
    success_is(get($server, $path, "$_&limit=5"), $five,
               "$server $path: " . printable($_) . ' in front') for @unknown;
    is_deeply([ map { $_->uri } $up->requests ], [ "$path?limit=5" ],
              "$server $path: the upstream was asked once, without them");
}


# Rejected, with the name of the first.  What is not plain in a name is
# encoded: the query => the name in the message.

my @rejected = (
    [ 'x'                => 'x' ],
    [ 'x='               => 'x' ],
    [ 'x=1'              => 'x' ],
    [ 'a&b&c=d'          => 'a' ],
    [ 'LIMIT=5'          => 'LIMIT' ],
    [ 'Limit'            => 'Limit' ],
    [ 'Platform=line'    => 'Platform' ],
    [ '%78=1'            => 'x' ],
    [ 'limits=5'         => 'limits' ],
    [ 'a.b-c_d~=1'       => 'a.b-c_d~' ],
    [ '='                => '' ],
    [ '=1'               => '' ],
    [ 'limit%00=5'       => 'limit%00' ],
    [ 'limit+=5'         => 'limit%20' ],
    [ 'limit%20=5'       => 'limit%20' ],
    [ 'limit[]=5'        => 'limit%5B%5D' ],
    [ "a'b"              => 'a%27b' ],
    [ 'a"b'              => 'a%22b' ],
    [ 'a\\b'             => 'a%5Cb' ],
    [ '<script>'         => '%3Cscript%3E' ],
    [ '%0d%0aX:%20y'     => '%0D%0AX%3A%20y' ],
    [ '%u'               => undef ],
    [ "\xff"             => '%FF' ],
    [ '%c3%a9'           => '%C3%A9' ],
    [ '%25s%25n'         => '%25s%25n' ],
);

$up->reset;

for my $where ([ a => '/reject' ], [ a => '/forward' ], [ b => '/inherited' ]) {
    my ($server, $path) = @$where;

    for my $case (@rejected) {
        my ($query, $name) = @$case;
        my $message = defined $name ? "Unknown parameter '$name'"
                                    : 'Malformed query string';

        error_is(get($server, $path, $_), 400, 'INVALID_REQUEST', $message,
                 "$server $path: " . printable($_))
            for $query, "limit=5&$query", "$query&limit=5",
                "platform=line&&$query";
    }

    my $long = get($server, $path, 'n' x 7000);

    error_is($long, 400, 'INVALID_REQUEST',
             qr/^Unknown parameter 'n+'\z/, "$server $path: a long name");
    cmp_ok(length $long->body, '<', 1000, "$server $path: not all of it");

    error_is(get($server, $path, 'limit=0&x=1'), 400, 'INVALID_REQUEST', undef,
             "$server $path: one of two errors");
}

is($up->count, 0, 'the upstream saw nothing of it');


# What is known is no error, nor is an empty place between two ampersands.

for my $where ([ a => '/reject' ], [ a => '/forward' ], [ b => '/inherited' ]) {
    my ($server, $path) = @$where;

    success_is(get($server, $path, $_), $five, "$server $path: $_")
        for 'limit=5', '%6cimit=5', '&&limit=5&&', 'limit=5&';
    success_is(get($server, $path, ''),
               contacts_body(workspace => 'acme'), "$server $path: nothing");
    success_is(get($server, $path, 'limit=5&platform=line'),
               contacts_body(workspace => 'acme', limit => 5,
                             platform => 'line'), "$server $path: both");
}

success_is(get(a => '/forward', 'cursor=1&limit=5'), $five,
           'what is forwarded is known');
error_is(get(a => '/forward', 'Cursor=1&limit=5'), 400, 'INVALID_REQUEST',
         "Unknown parameter 'Cursor'", 'but not in another spelling');
error_is(get(a => '/forward', 'cursor%00=1&limit=5'), 400, 'INVALID_REQUEST',
         "Unknown parameter 'cursor%00'", 'nor with something behind it');


sub printable {
    my ($text) = @_;

    return $text =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/egr;
}

$t->finish;
