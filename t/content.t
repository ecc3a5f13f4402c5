#!/usr/bin/perl

# Behind the gate may stand another content handler than "proxy_pass": a file,
# read at once or by threads, and a service that speaks another protocol.  What
# they answer is judged, cached and refused as any upstream's answer.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Port qw(free_port);
use Convotic::Process;
use Convotic::Test;

use IO::Socket::INET;

use constant {
    BACK  => 20,                # seconds until something has happened, at most
    LARGE => 200_000,           # bytes: many reads of a file
};

my @NOT_FOUND = (404, 'NOT_FOUND', 'Resource not found');
my @INVALID = (502, 'INTERNAL_ERROR',
               'The upstream service gave no valid answer');

my $HIT = qr/^convotic; hit; /;
my $FETCHED = qr/^convotic; fwd=uri-miss; .*stored/;

my $t = Convotic::Test->new;
my $redis = $t->redis;
my $body = contacts_body(workspace => 'acme', limit => 20);
my $large = $body . ' ' x LARGE;


# A service that speaks SCGI: each request is kept, and answered by its query.

my $scgi_port = free_port();
my $requests = $t->dir . '/requests';

my %scgi = (
    'limit=20' => $body,
    'limit=19' => '<html></html>',
    'limit=18' => [ 404 => '{"error":{"code":"NOT_FOUND","message":"None"}}' ],
    'limit=17' => [ 200 => $body, 'X-Convotic-Workspace: umbra' ],
    'limit=16' => [ 200 => $body, 'Content-Length: 100000' ],
);

sub serve {
    my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 10,
                                       LocalPort => $scgi_port, ReuseAddr => 1)
        or die "SCGI: $!\n";

    while (my $socket = $listen->accept) {
        my $bytes = '';

        until ($bytes =~ /^(\d+):/ && length $bytes > $1 + length $1) {
            sysread $socket, $bytes, 4096, length $bytes or last;
        }

        my %param = split /\0/, $bytes =~ s/^\d+://r =~ s/,\z//r;
        my $answer = $scgi{ $param{QUERY_STRING} || '' };
        my ($status, $text, @lines) = ref $answer ? @$answer : (200, $answer);

        open my $log, '>>', $requests or die "$requests: $!\n";
        print {$log} join("\n", map { "$_=$param{$_}" } sort keys %param),
                     "\n\n";
        close $log;

        syswrite $socket, join "\r\n", "Status: $status Some",
            'Content-Type: application/json', @lines, '', $text || '';
        close $socket;
    }

    return;
}

Convotic::Process->spawn(name => 'SCGI', code => \&serve,
                         stderr => $t->dir . '/scgi.stderr');

mkdir $t->dir . "/$_" for qw(html html/html);
$t->write_file("html/$_->[0]", $_->[1]) for
    [ 'file', $body ], [ 'threads', $large ], [ 'html/page', '<html></html>' ],
    [ 'other', '{"contacts":[],"total":0,"limit":7}' ];

my $THREADS = `@{[ Convotic::Nginx::binary() ]} -V 2>&1` =~ /--with-threads/
    ? 'aio threads; sendfile off; output_buffers 1 4k;' : '';

my $g = $t->gateway(
    redis => $redis, vars => { HTML => $t->dir . '/html', SCGI => $scgi_port },
    http => 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;',
    server => <<"EOC",
    root %%HTML%%;
    location = /status    { convotic_status json; }
    location = /file      { convotic on; }
    location = /other     { convotic on; }
    location = /none      { convotic on; }
    location = /html/page { convotic on; }
    location = /threads   { convotic on; $THREADS }
    location = /small     { convotic on; convotic_cache_max_size 1k;
                            alias %%HTML%%/threads; $THREADS }

    location = /scgi {
        convotic on;
        scgi_pass 127.0.0.1:%%SCGI%%;
        scgi_param QUERY_STRING \$args;
        scgi_param REQUEST_METHOD \$request_method;
        scgi_param CONTENT_LENGTH 0;
    }
EOC
);


sub ask {
    my ($path, $opt, @headers) = @_;

    return $g->get($path, $opt || {}, 'X-API-Key' => $g->key, @headers);
}


sub cache_like {
    my ($res, $pattern, $name) = @_;

    return like($res->header('Cache-Status') || '', $pattern, $name);
}


# A file: fetched once, then served from the cache.

for my $case ([ '/file', $body ], [ '/threads', $large ]) {
    my ($path, $expected) = @$case;
    my $res = ask($path);

    success_is($res, $expected, "$path: its bytes");
    cache_like($res, $FETCHED, "$path: fetched");
    is(scalar(my @dates = $res->header('Last-Modified')), 0,
       "$path: nothing of the file's own");

    $res = ask($path);
    success_is($res, $expected, "$path: again");
    cache_like($res, $HIT, "$path: from the cache");
    success_is(ask($path, { method => 'HEAD' }), $expected, "$path: HEAD");
    is(ask($path, {}, Range => 'bytes=0-9')->body, substr($expected, 0, 10),
       "$path: Range is the gateway's");
}

{
    my $before = $g->get('/status')->json->{fills};

    error_is(ask('/none'), @NOT_FOUND, 'no file');
    error_is(ask('/html/page'), @INVALID, 'a file of something else');
    error_is(ask('/small'), @INVALID, 'too large a file');
    is(ask('/other')->status, 200, 'a file of another limit is served');
    cache_like(ask('/other'), qr/fwd=/, 'but not from the cache');
    error_is($g->get('/file'), 401, 'UNAUTHORIZED', undef, 'no key, no file');

    my $after = $g->get('/status')->json->{fills};

    is($after->{failed} - $before->{failed}, 1, 'no file: counted as failed');
    is($after->{refused} - $before->{refused}, 2, 'the others as refused');
}


# SCGI: the upstream learns whose request it is, and nothing of the client's.

{
    my $res = ask('/scgi', {}, Cookie => 'a=1', 'X-Convotic-Workspace' => 'x');

    success_is($res, $body, 'SCGI: the body');
    cache_like($res, $FETCHED, 'SCGI: fetched');
    cache_like(ask('/scgi?limit=20'), $HIT, 'SCGI: then from the cache');

    my $seen = $t->read_file('requests');

    is(scalar(() = $seen =~ /^REQUEST_METHOD=GET$/mg), 1, 'SCGI: one request');
    like($seen, qr/^HTTP_X_CONVOTIC_WORKSPACE=acme$/m, 'SCGI: the workspace');
    like($seen, qr/^HTTP_X_CONVOTIC_KEY_ID=key_/m, 'SCGI: the id of the key');
    unlike($seen, qr/^HTTP_(?:X_API_KEY|COOKIE)=/m, 'SCGI: no key, no cookie');

    error_is(ask('/scgi?limit=19'), @INVALID, 'SCGI: no JSON');
    error_is(ask('/scgi?limit=18'), 404, 'NOT_FOUND', 'None', 'SCGI: an error');
    error_is(ask('/scgi?limit=17'), @INVALID, 'SCGI: of another workspace');
    error_is(ask('/scgi?limit=16'), @INVALID, 'SCGI: broken off');
    success_is(ask('/scgi'), $body, 'SCGI: the next one');
}

$t->finish;
