#!/usr/bin/perl

# What the client gets are the upstream's own bytes: on a miss and on a hit,
# whatever JSON leaves open, at every size up to the largest.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Uncompress::Gunzip qw(gunzip);

use Convotic::Test;

use constant MAX => 256 * 1024;         # the default convotic_cache_max_size

# A document with these bytes as the value of a field that nobody knows.

sub field {
    my ($value) = @_;

    return qq({"contacts":[{"id":"ct_1","x":$value}],"total":1,"limit":20});
}


sub sized {
    my ($size) = @_;

    my ($head, $tail) = ('{"contacts":[{"id":"ct_1","name":"', '"}],'
                         . '"total":1,"limit":20}');
    my $text = join '', map { sprintf '%06x,', $_ } 1 .. $size / 7 + 1;

    return $head . substr($text, 0, $size - length $head . $tail) . $tail;
}


my @bodies = (
    (map { [ "the number $_", field($_) ] } qw(
        0.1 1.10 1.0 10 -0 -0.0 0e0 1e5 1E5 1e+05 1E-7 0.30000000000000004
        9007199254740993 9223372036854775807 9223372036854775808
        -9223372036854775809 12345678901234567890
        123456789012345678901234567890.123456789012345678901234567890
        1.7976931348623157e308 5e-324 1e-400
    )),
    (map { [ "the string $_", field(qq("$_")) ] }
        '\/', '/', '\"', '\\\\', '\b\f\n\r\t', '\u0000', 'a\u0000b', '\u0041',
        '\u00e9', '\u00E9', '\u0e44\u0e21\u0e48', '\ud83d\ude00',
        '\uD83D\uDE00', '\u2028', '\ufeff', '\uffff', '\u007f', "\x7f",
        "\xe0\xb9\x84\xe0\xb8\xa1\xe0\xb9\x88", "\xf0\x9f\x98\x80",
        "\xe2\x80\xa8", "\xef\xbb\xbf", "\xef\xbf\xbf", '', ' ',
        '</script>', '%00', '\\\\u0041', "\xc2\x80"),
    (map { [ "the value $_", field($_) ] }
        'null', 'true', '{}', '[]', '[[],[[]]]', '{"":""}', '{"a":{"a":1}}',
        '[null,true,false,0,"",{}]', '{"b":1,"a":2,"B":3}'),

    [ 'blanks',        qq({ "contacts" : [ ] ,\t"total":0\n,\r"limit":20 }) ],
    [ 'blanks around', qq(\r\n\t {"contacts":[],"total":0,"limit":20}\n\n) ],
    [ 'no blanks',     '{"contacts":[],"total":0,"limit":20}' ],
    [ 'another order', '{"limit":20,"total":0,"contacts":[]}' ],
    [ 'more members',  '{"next":null,"contacts":[],"total":0,"limit":20,'
                       . '"deprecated":{"since":1.50}}' ],
    [ 'escaped names', '{"\u0063ontacts":[],"tot\u0061l":0,"\u006cimit":20}' ],
    [ 'its limit 2e1', '{"contacts":[],"total":0,"limit":2e1}' ],
    [ 'its total 1.5', '{"contacts":[],"total":1.5,"limit":20}' ],
    [ 'contacts that are none', '{"contacts":[1,null,"x",[]],"total":4,'
                                . '"limit":20}' ],
    [ 'a new platform', '{"contacts":[{"id":"ct_1","platform":"telegram"}],'
                        . '"total":1,"limit":20}' ],
    (map { [ "$_ bytes", sized($_) ] }
        700, 1000, 4095, 4096, 4097, 8190 .. 8194, 16384, 32768, 65535,
        65536, 65537, 131072, MAX - 1, MAX),
);

# The ways in which it may come: name => what is added to the answer.

my @ways = (
    [ 'length'  => {} ],
    [ 'chunked' => { chunked => 1 } ],
    [ 'to the end' => { no_length => 1, close => 1 } ],
);

my $REDIS = 'convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;';

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream(handler => sub {
    my ($req) = @_;

    my $args = $req->args;

    return { body => $bodies[ $args->{n} ][1], %{ $ways[ $args->{way} ][1] } };
});

my $g = $t->gateway(
    upstream => $up, ssl => 1,
    http   => "$REDIS convotic_forward_args n way;",
    server => <<'EOC',
    keepalive_requests 100000;

    location = /gzip {
        convotic on;
        gzip on;
        gzip_types application/json;
        proxy_pass http://contacts;
    }
EOC
);

my $conn = $g->connect;

is(length sized($_), $_, "a body of $_ bytes") for 700, MAX;


sub ask {
    my ($path, @headers) = @_;

    return $conn->get($path, 'X-API-Key' => $g->key, @headers);
}


sub cache_status { return $_[0] && $_[0]->header('Cache-Status') || '' }


for my $way (0 .. $#ways) {
    for my $n (0 .. $#bodies) {
        my ($name, $body) = @{ $bodies[$n] };
        my $path = "/v1/contacts?n=$n&way=$way";
        my $miss = ask($path);
        my $hit;

        $name =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ge;
        $name .= ", $ways[$way][0]";

        success_is($miss, $body, "$name: miss");
        like(cache_status($miss), qr/fwd=uri-miss.*; stored/, "$name: stored");

        wait_until(sub { cache_status($hit = ask($path)) =~ /; hit/ });

        success_is($hit, $body, "$name: hit");
        like(cache_status($hit), qr/; hit/, "$name: from the cache");
        is($hit->header('ETag'), $miss->header('ETag'), "$name: ETag");
    }
}

my %count;
$count{ $_->uri }++ for $up->requests;

is_deeply([ grep { $_ > 1 } values %count ], [], 'each was asked for once');
is(scalar keys %count, @ways * @bodies, 'and each was asked for');


# The same bytes have the same ETag, others another.

my %etag;
$etag{ ask("/v1/contacts?n=$_&way=0")->header('ETag') }{ $bodies[$_][1] } = 1
    for 0 .. $#bodies;

is_deeply([ grep { keys %$_ > 1 } values %etag ], [], 'one ETag, one body');


# However it is asked for.

for my $n (grep { $bodies[$_][0] =~ /^(?:700|8193|262144) bytes/ }
           0 .. $#bodies)
{
    my ($name, $body) = @{ $bodies[$n] };
    my $path = "/v1/contacts?n=$n&way=0";
    my @key = ('X-API-Key' => $g->key);
    my $size = length $body;

    success_is($g->get($path, { version => '1.0' }, @key), $body,
               "$name: HTTP/1.0");
    success_is($g->get($path, { tls => 1 }, @key), $body, "$name: TLS");
    success_is($g->get($path, { h2 => 1 }, @key), $body, "$name: HTTP/2");
    success_is($g->head($path, @key), $body, "$name: HEAD");
    success_is($g->head($path, { h2 => 1 }, @key), $body,
               "$name: HEAD over HTTP/2");

    for my $range ([ 0, 0 ], [ 1, 99 ], [ $size - 1, $size - 1 ],
                   [ 100, $size - 1 ])
    {
        my ($from, $to) = @$range;
        my $res = ask($path, Range => "bytes=$from-$to");

        is($res->status, 206, "$name: range $from-$to");
        is($res->body, substr($body, $from, $to - $from + 1),
           "$name: range $from-$to, its bytes");
        is($res->header('Content-Range'), "bytes $from-$to/$size",
           "$name: range $from-$to, Content-Range");
    }

    for my $round ('miss', 'hit') {
        my $res = ask("/gzip?n=$n&way=0", 'Accept-Encoding' => 'gzip');
        my $out;

        is($res->header('Content-Encoding'), 'gzip', "$name: gzip, $round");
        gunzip(\$res->{body} => \$out);
        is($out, $body, "$name: gzip, $round, its bytes");
    }
}


# A piece at a time, at places that no buffer has chosen.

for my $size (1, 3, 1000, 4096, 8192) {
    my $body = sized(20 * $size + 700);

    my $slow = $t->upstream(name => "slow$size", handler => sub {
        return { body => $body, trickle => { bytes => $size,
                                             interval => 0.0005 } };
    });
    my $nginx = $t->gateway(name => "nginx$size", upstream => $slow,
                            redis => $g->redis, http => $REDIS);
    my $hit;

    success_is($nginx->contacts("limit=20"), $body, "pieces of $size: miss");
    wait_until(sub { cache_status($hit = $nginx->contacts('limit=20'))
                     =~ /; hit/ });
    success_is($hit, $body, "pieces of $size: hit");
    $g->redis->purge('acme');
}

$t->finish;
