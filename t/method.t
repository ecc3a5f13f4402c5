#!/usr/bin/perl

# The method, which is the first that is checked: 405 with Allow for all but
# GET and HEAD.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);
my $g = $t->gateway(ssl => 1);
my $redis = $g->redis;
my $body = contacts_body(workspace => 'acme');


# 405 in the documented shape, with Allow.

sub refused {
    my ($res, $method, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my @faults = $res ? $res->error_faults(405, 'INVALID_REQUEST',
                                           "Method $method is not allowed")
                      : 'no response';
    my @allow = $res ? $res->header('Allow') : ();

    push @faults, "Allow '@allow'" if "@allow" ne 'GET, HEAD';

    return ok(!@faults, $name) || diag(join "\n", @faults);
}


# What the gateway asked Redis.

sub questions {
    my $calls = $redis->calls;

    return join ' ', map { "$_=" . ($calls->{$_} || 0) } qw(exists get hgetall);
}


# GET and HEAD.

success_is($g->contacts(''), $body, 'GET');
success_is($g->contacts('', { method => 'HEAD' }), $body, 'HEAD');
success_is($g->contacts('', { h2 => 1 }), $body, 'GET over HTTP/2');
success_is($g->contacts('', { h2 => 1, method => 'HEAD' }), $body,
           'HEAD over HTTP/2');


# All others.  OPTIONS is none of the gateway's: CORS is the administrator's.

my @methods = qw(POST PUT DELETE PATCH OPTIONS PROPFIND LOCK M-SEARCH UNKNOWN
                 GETS HEADS GE A_B -);

my $asked = questions();

for my $method (@methods) {
    refused($g->contacts('', { method => $method }), $method, $method);
}

for my $method (qw(POST PUT DELETE PATCH OPTIONS)) {
    refused($g->contacts('', { method => $method, version => '1.0' }),
            $method, "$method, HTTP/1.0");
    refused($g->contacts('', { method => $method, h2 => 1 }),
            $method, "$method, HTTP/2");
}

my $long = 'M' x 3000;

error_is($g->contacts('', { method => $long }), 405, 'INVALID_REQUEST',
         qr/^Method M{1,100} is not allowed\z/, 'of a long one the beginning');


# It comes before all other checks: body, key, parameters.

my @before = (
    [ 'a body', '', { body => 'x' }, 'X-API-Key' => $g->key ],
    [ 'no key', '', {}, 'X-API-Key' => undef ],
    [ 'a bad key', '', {}, 'X-API-Key' => "a\tb" ],
    [ 'two keys', '', {}, 'X-API-Key' => 'a', 'X-API-Key' => 'b' ],
    [ 'an unknown key', '', {}, 'X-API-Key' => test_key('nobody') ],
    [ 'a bad parameter', 'limit=0', {}, 'X-API-Key' => $g->key ],
    [ 'a malformed query', '%', {}, 'X-API-Key' => $g->key ],
    [ 'all of that', '%', { body => 'x' }, 'X-API-Key' => '' ],
);

for my $case (@before) {
    my ($name, $query, $opt, @headers) = @$case;

    refused($g->contacts($query, { method => 'PUT', %$opt }, @headers),
            'PUT', "before $name");
}

refused($g->contacts('', { method => 'POST', body => 'x', h2 => 1 }), 'POST',
        'before a body, HTTP/2');

is(questions(), $asked, 'Redis was not asked');
is($g->upstream->count, 1, 'nor was the upstream');


# The connection goes on, and a body is no request.

my $post = "POST /v1/contacts HTTP/1.1\r\nHost: localhost\r\n";
my $get = "GET /v1/contacts HTTP/1.1\r\nHost: localhost\r\nX-API-Key: "
          . $g->key . "\r\n\r\n";

my ($first, $second) = $g->raw("$post\r\n$get", methods => [qw(POST GET)]);

refused($first, 'POST', 'kept alive: POST');
success_is($second, $body, 'kept alive: GET');
ok($second && !$second->closed, 'kept alive still');

my @all = $g->raw($post . 'Content-Length: ' . length($get) . "\r\n\r\n$get",
                  methods => [qw(POST GET)]);

is(scalar @all, 1, 'a body that is a request: one response');
refused($all[0], 'POST', 'a body that is a request: POST');

@all = $g->raw($post . "Transfer-Encoding: chunked\r\n\r\n"
               . sprintf("%x\r\n%s\r\n0\r\n\r\n", length $get, $get),
               methods => [qw(POST GET)]);

is(scalar @all, 1, 'a chunked body that is a request: one response');
refused($all[0], 'POST', 'a chunked body that is a request: POST');

my ($waits) = $g->raw($post . "Content-Length: 5\r\nExpect: 100-continue\r\n"
                      . "\r\n", methods => ['POST']);

refused($waits, 'POST', 'nobody is asked for a body');
is_deeply([ $waits ? $waits->interim : 'none' ], [], 'no 100');


# nginx itself refuses these, before there is a location.

my @by_nginx = (
    [ 'TRACE', '/v1/contacts', 405 ],
    [ 'CONNECT', '/v1/contacts', qr/^40[05]\z/ ],
    [ 'CONNECT', 'localhost:80', qr/^40[05]\z/ ],
    [ 'get', '/v1/contacts', 400 ],
    [ 'G T', '/v1/contacts', 400 ],
);

for my $case (@by_nginx) {
    my ($method, $target, $status) = @$case;
    my $res = $g->get($target, { method => $method });

    like($res->status, ref $status ? $status : qr/^$status\z/,
         "$method $target: status");
    error_is($res, $res->status, 'INVALID_REQUEST',
             qr/^(?:Method not allowed|Malformed request)\z/,
             "$method $target: shape");
}

is($g->upstream->count, 1, 'the upstream saw nothing of it');

$t->finish;
