#!/usr/bin/perl

# A body is compressed once, when it is fetched, and served in that form to
# those who accept it: with a length, an entity tag and ranges of its own, from
# wherever it comes.  nginx's own gzip neither does it again nor misses it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use IO::Uncompress::Gunzip qw(gunzip);

use constant SHORT => 256;              # bytes; below, there is one form only

my $t = Convotic::Test->new;
my $redis = $t->redis;

# What no compressor makes a tenth shorter: characters without an order, too
# few of them for a code of their own.

srand 1;
my $noise = join '', map { chr(35 + int rand 56) } 1 .. SHORT;

my %bodies = (
    small => '{"contacts":[],"total":0,"limit":20}',
    noise => qq({"contacts":["$noise"],"total":1,"limit":20}),
    blanks => '{"contacts":[],"total":0,"limit":20' . ' ' x (SHORT - 36) . '}',
);

my $up = $t->upstream(handler => sub {
    my ($req) = @_;

    my $limit = $req->args->{limit};
    my $kind = $req->args->{kind};

    return { status => 404, body => 'no such thing ' x 100 } if $limit == 99;
    return { status => 500, body => 'failed ' x 100 } if $limit == 98;
    return $bodies{$kind} if defined $kind && $bodies{$kind};
    return contacts_body(workspace => $req->tenant, limit => $limit);
});

my %conf = (
    redis => $redis, upstream => $up,
    http => 'convotic_forward_args kind; convotic_cache_valid 1h;',
    server => <<'EOC',
    location = /both {
        convotic on;
        proxy_pass http://contacts;
        gzip on; gzip_types application/json; gzip_min_length 1;
        gzip_http_version 1.0; gzip_proxied any;
    }
    location = /off {
        convotic on;
        convotic_gzip off;
        proxy_pass http://contacts;
    }
    location = /nginx {
        convotic on;
        convotic_gzip off;
        proxy_pass http://contacts;
        gzip on; gzip_types application/json; gzip_min_length 1;
    }
    location = /gunzip {
        convotic on;
        proxy_pass http://contacts;
        gunzip on;
    }
    location = /fast { convotic on; convotic_gzip on level=1;
                       proxy_pass http://contacts; }
    location = /best { convotic on; convotic_gzip on level=9;
                       proxy_pass http://contacts; }
EOC
    ssl => 1,
);

my $g = $t->gateway(%conf);
my @key = ('X-API-Key' => $g->key);
my @gzip = ('Accept-Encoding' => 'gzip');


sub unpacked {
    my ($bytes) = @_;

    my $text;
    gunzip(\$bytes, \$text, MultiStream => 0, TrailingData => \my $rest);

    return defined $rest && length $rest ? 'more than one member' : $text;
}


sub is_form {
    my ($res, $form, $body, $name) = @_;

    my $encoded = $form eq 'gzip';

    is($res->status, 200, "$name: status");
    is($res->header('Content-Encoding'), $encoded ? 'gzip' : undef,
       "$name: Content-Encoding");
    is($res->header('Content-Length'), length $res->body, "$name: its length");
    is($encoded ? unpacked($res->body) : $res->body, $body, "$name: the bytes");
    like($res->header('ETag'), $encoded ? qr/^"[0-9a-f]+-gzip"\z/
                                        : qr/^"[0-9a-f]+"\z/, "$name: ETag");
    is(join(', ', $res->header('Vary')), 'X-API-Key, Accept-Encoding',
       "$name: Vary");
    is($res->header('Content-Type'), 'application/json', "$name: type");

    return;
}


# Wherever the answer comes from, it has the same form.

my $query = 'limit=50';
my $text = contacts_body(workspace => 'acme', limit => 50);
my $miss = $g->contacts($query, @gzip);

is_form($miss, 'gzip', $text, 'a miss');
like($miss->header('Cache-Status'), qr/fwd=uri-miss/, 'it is a miss');
cmp_ok(length $miss->body, '<', length($text) / 5, 'it is much shorter');

my $local = $g->contacts($query, @gzip);

is_form($local, 'gzip', $text, 'from the first level');
is($local->body, $miss->body, 'the same bytes');
is($local->header('ETag'), $miss->header('ETag'), 'the same ETag');
is_form($g->contacts($query), 'identity', $text, 'without Accept-Encoding');

my ($stored) = map { $redis->cmd('GET', $_) }
    grep { /body/ } $redis->names('convotic:body:*');

ok(index($stored, $text) > 0, 'the body is in Redis');
ok(index($stored, $miss->body) > 0, 'and its gzip form');

my $other = $t->nginx(%conf, key => $g->key);
my $hit = $other->contacts($query, @gzip);

is_form($hit, 'gzip', $text, 'from Redis, by another nginx');
is($hit->header('Cache-Status') =~ s/ttl=\d+/ttl=N/r, 'convotic; hit; ttl=N',
   'it is a hit');
is($hit->body, $miss->body, 'the same bytes, which were stored');
is_form($other->contacts($query), 'identity', $text, 'and the identity');
is($up->count, 1, 'the upstream was asked once');
$other->stop;


# What a client accepts: RFC 9110, 12.5.3 and 12.4.2.

my @accepted = (
    'gzip', 'GZip', 'x-gzip', 'X-GZIP', '*', 'gzip, deflate, br, zstd',
    'deflate, br;q=1.0, gzip;q=0.8, *;q=0.1', 'br,gzip', ',, gzip ,,',
    'gzip;q=1', 'gzip;q=1.', 'gzip;q=1.0', 'gzip;q=1.000', 'gzip;Q=0.5',
    'gzip;q=0.001', 'gzip ; q=0.5', "gzip\t;\tq=0.5\t,br", 'gzip; q=0.5',
    'identity;q=0.5, gzip', 'identity;q=0, gzip;q=0.1',
    'gzip;q=0.5, identity;q=0.5', '*;q=0.5', 'identity;q=0, *;q=0.1',
    'identity;q=0.5, *', 'gzip;q=0.5, *;q=0.1', 'gzip, gzip;q=0.9',
    'nonsense;q=7, gzip', ('x,' x 1000) . 'gzip',
    [ 'deflate', 'gzip' ], [ 'gzip', 'br' ], [ '', 'gzip' ],
);

my @refused = (
    '', ' ', ',', 'identity', 'deflate', 'br, zstd', 'gzip;q=0', 'gzip;q=0.0',
    'gzip;q=0.000', '*;q=0', 'gzip;q=0, *', '*, gzip;q=0', 'x-gzip;q=0, gzip',
    'gzip, gzip;q=0', 'gzip;q=0.5, identity', 'gzip;q=0.5, identity;q=0.6',
    'identity, *;q=0.5', 'gzipped', 'agzip', 'gzi', 'gzip/1', '"gzip"',
    'gzip;q', 'gzip;q=', 'gzip;q=x', 'gzip;q=-1', 'gzip;q=2', 'gzip;q=1.1',
    'gzip;q=0.1234', 'gzip;q =0.5', 'gzip;q= 0.5', 'gzip;level=9', 'gzip;',
    'gzip;q=1;q=0', 'gzip br', 'x' x 4000,
    [ 'gzip', 'gzip;q=0' ], [ 'gzip;q=0', 'gzip' ], [ 'gzip;q=0.5', 'identity' ],
);

for my $form (qw(gzip identity)) {
    for my $case ($form eq 'gzip' ? @accepted : @refused) {
        my @lines = ref $case ? @$case : $case;
        my $res = $g->contacts($query, map { ('Accept-Encoding' => $_) } @lines);
        my $name = join "' and '", map { length > 60 ? length : $_ } @lines;

        is(($res->header('Content-Encoding') || 'identity') . ' '
           . length($res->body), "$form " . length($form eq 'gzip' ? $miss->body
                                                                   : $text),
           "'$name': $form");
    }
}

is_form($g->contacts($query, { version => '1.0' }, @gzip), 'gzip', $text,
        'HTTP/1.0');


# Conditions, ranges and HEAD are about the form that is sent.

my $tag = $miss->header('ETag');
my $plain_tag = $g->contacts($query)->header('ETag');

is($tag =~ s/-gzip//r, $plain_tag, 'two entity tags of one body');

for my $case (
    [ $tag, [ @gzip ], 304 ], [ $tag, [], 200 ],
    [ $plain_tag, [], 304 ], [ $plain_tag, [ @gzip ], 200 ],
    [ "W/$tag", [ @gzip ], 304 ], [ "$plain_tag, $tag", [ @gzip ], 304 ],
    [ '*', [ @gzip ], 304 ],
) {
    my ($wanted, $accept, $status) = @$case;
    my $name = "If-None-Match: $wanted" . (@$accept ? ', gzip' : '');
    my $res = $g->contacts($query, @$accept, 'If-None-Match' => $wanted);

    is($res->status, $status, $name);
    is($res->header('ETag'), @$accept ? $tag : $plain_tag, "$name: ETag");
    is(join(', ', $res->header('Vary')), 'X-API-Key, Accept-Encoding',
       "$name: Vary");
}

is($g->contacts($query, @gzip, 'If-Match' => $tag)->status, 200,
   'If-Match with the tag of the form');
error_is($g->contacts($query, @gzip, 'If-Match' => $plain_tag),
         412, 'INVALID_REQUEST', undef, 'and with that of the other');

my $length = length $miss->body;
my $part = $g->contacts($query, @gzip, Range => 'bytes=10-19');

is($part->status, 206, 'a range');
is($part->header('Content-Range'), "bytes 10-19/$length", 'of the gzip form');
is($part->header('Content-Encoding'), 'gzip', 'which it is a part of');
is($part->body, substr($miss->body, 10, 10), 'those bytes');
is($g->contacts($query, @gzip, Range => 'bytes=0-9', 'If-Range' => $tag)->status,
   206, 'If-Range with the tag of the form');
is_form($g->contacts($query, @gzip, Range => 'bytes=0-9',
                     'If-Range' => $plain_tag), 'gzip', $text,
        'and with that of the other');

{
    my $beyond = $g->contacts($query, @gzip, Range => "bytes=$length-");

    error_is($beyond, 416, 'INVALID_REQUEST', undef, 'beyond its end');
    is($beyond->header('Content-Encoding'), undef, 'which is not compressed');
}


for my $opt ({}, { h2 => 1 }) {
    my $kind = %$opt ? 'HTTP/2' : 'HTTP/1.1';
    my $head = $g->contacts($query, { %$opt, method => 'HEAD' }, @gzip);

    is_form($g->contacts($query, $opt, @gzip), 'gzip', $text, $kind);
    is($head->header('Content-Length'), $length, "$kind, HEAD: the length");
    is($head->header('Content-Encoding'), 'gzip', "$kind, HEAD: the encoding");
    is($head->header('ETag'), $tag, "$kind, HEAD: ETag");
    is($head->body, '', "$kind, HEAD: no body");
}


# What would not be shorter has one form.

for my $kind (qw(small noise)) {
    for my $turn (1, 2) {
        is_form($g->contacts("kind=$kind", @gzip), 'identity', $bodies{$kind},
                "$kind, $turn");
    }
}

is(length $bodies{blanks}, SHORT, 'a body that is just long enough');
is_form($g->contacts('kind=blanks', @gzip), 'gzip', $bodies{blanks}, 'blanks');


# nginx's own gzip.

for my $turn (1, 2) {
    is_form($g->get("/both?$query", @key, @gzip), 'gzip', $text,
            "with gzip on, $turn");
    is_form($g->get("/both?$query", @key), 'identity', $text,
            "with gzip on, $turn, not accepted");
    is_form($g->get('/both?kind=noise', @key, @gzip), 'identity',
            $bodies{noise}, "with gzip on, $turn, of one form only");
    is_form($g->get("/off?$query", @key, @gzip), 'identity', $text,
            "convotic_gzip off, $turn");

    my $res = $g->get("/nginx?$query", @key, @gzip);

    is($res->header('Content-Encoding'), 'gzip',
       "convotic_gzip off and gzip on, $turn: nginx compresses");
    is(unpacked($res->body), $text, 'the bytes');
    is($res->header('ETag'), "W/$plain_tag", 'a weak ETag');
}


# Who accepts gzip gets the stored form, where nginx would unpack it for others.

for my $turn (1, 2) {
    is_form($g->get("/gunzip?$query", @key, @gzip), 'gzip', $text,
            "with gunzip on, $turn");
    is_form($g->get("/gunzip?$query", @key), 'identity', $text,
            "with gunzip on, $turn, not accepted");
}


# The level.

{
    my %length;

    for my $level (qw(fast best)) {
        my $res = $g->get("/$level?limit=100", @key, @gzip);

        is_form($res, 'gzip', contacts_body(workspace => 'acme', limit => 100),
                "level: $level");
        $length{$level} = length $res->body;
    }

    cmp_ok($length{best}, '<', $length{fast}, 'the best is shorter');

    # the compressor is the worker's, and each has its own level

    is(length $g->get('/fast?limit=100&kind=x', @key, @gzip)->body,
       $length{fast}, 'and does not change the fast one');
}


# Errors never are.

for my $case (
    [ 400, 'limit=0' ], [ 400, '%' ], [ 404, 'limit=99' ], [ 500, 'limit=98' ],
    [ 401, $query, 'X-API-Key' => 'unknown' ],
) {
    my ($status, $asked, @headers) = @$case;

    @headers = @key if !@headers;

    for my $path (qw(/v1/contacts /both)) {
        my $res = $g->get("$path?$asked", @headers, @gzip);

        error_is($res, $status, undef, undef, "$path: $status");
        is($res->header('Content-Encoding'), undef, 'not encoded');
    }
}

is(scalar(grep { defined $_->header('Accept-Encoding') } $up->requests), 0,
   'the upstream was never asked for an encoding');

$t->finish;
