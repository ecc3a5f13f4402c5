#!/usr/bin/perl

# While the upstream fails, what is cached stands in for the answer, marked as
# stale: of the same tenant, query and generation, and for as long as the
# configuration and the upstream allow.  The copies here are so old that they
# are not handed out while they are being renewed, but after that has failed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Time::HiRes qw(time);

use Convotic::Test;

use constant {
    OLD  => 20_000,             # ms, too old to be handed out at once
    BACK => 20,                 # seconds until something has happened, at most
};

my @NO_ANSWER = (502, 'INTERNAL_ERROR',
                 'The upstream service gave no valid answer');
my @FAILED = (500, 'INTERNAL_ERROR', 'An unexpected error occurred');

# How an upstream fails.

my $GOOD = contacts_body(workspace => 'acme', version => 9);
my $NOT_FOUND = '{"error":{"code":"NOT_FOUND","message":"None"}}';

my %failure = (
    (map { ("status $_" => { status => $_, body => 'oops' }) }
        500, 501, 502, 503, 504, 599),
    'status 500, documented' => { status => 500, body => '{"error":{"code":'
                                  . '"INTERNAL_ERROR","message":"oops"}}' },
    'status 503, Retry-After' => { status => 503, body => '',
                                   headers => [ 'Retry-After' => 60 ] },
    'no answer'         => { hang => 1 },
    'an end'            => { raw => '', close => 1 },
    'a reset'           => { raw => '', rst => 1 },
    'noise'             => { raw => "noise\r\n\r\n", close => 1 },
    'HTML'              => '<html></html>',
    'an empty body'     => '',
    'a truncated body'  => substr($GOOD, 0, 500),
    'a body cut off'    => { body => $GOOD, cut => 500 },
    'chunks cut off'    => { body => $GOOD, chunked => 1, cut => 500 },
    'a trickled body'   => { body => $GOOD, trickle => { bytes => 1,
                                                         interval => 0.1 } },
    'too large a body'  => $GOOD . ' ' x 300000,
    'an encoded body'   => { body => $GOOD,
                             headers => [ 'Content-Encoding' => 'gzip' ] },
    'another workspace' => { body => $GOOD,
                             headers => [ 'X-Convotic-Workspace' => 'x' ] },
    'a redirection'     => { status => 302, headers => [ Location => '/x' ] },
    'no content'        => { status => 204 },
    'not modified'      => { status => 304 },
    'X-Accel-Redirect'  => { body => $GOOD,
                             headers => [ 'X-Accel-Redirect' => '/x' ] },
);
my @failures = sort keys %failure;

# What is no failure but an answer.

my %answer = (
    'status 404' => [ 404, $NOT_FOUND, 'NOT_FOUND', 'None' ],
    'status 410' => [ 410, '', 'NOT_FOUND', 'Resource is no longer available' ],
    'status 403' => [ 403, '', 'UNAUTHORIZED', 'Access denied' ],
    'status 429' => [ 429, '', 'RATE_LIMITED', 'Rate limit exceeded' ],
);

# What forbids a stale copy from the start.

my @forbidden = (
    'must-revalidate', 'proxy-revalidate', 'max-age=1, must-revalidate',
    's-maxage=1', 'max-age=1, stale-if-error=0',
);

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis('keys');
my $bodies = $t->redis('bodies');
my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $state = $vars->{state} || '';
    my $args = $req->args;

    return { hang => 1 } if $state eq 'hang';
    return $failure{$state} if exists $failure{$state};
    return { status => $answer{$state}[0], body => $answer{$state}[1] }
        if $answer{$state};

    my $n = defined $args->{n} ? $args->{n} : '';

    return {
        headers => $n =~ /^f(\d+)/ ? [ 'Cache-Control' => $forbidden[$1] ] : [],
        body    => contacts_body(workspace => $req->tenant,
                                 limit => $args->{limit},
                                 version => $vars->{version}),
    };
});
my $g = $t->gateway(
    redis => $redis, cache_redis => $bodies, upstream => $up, ssl => 1,
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_cache_redis %%CACHE_REDIS%% connect_timeout=5s timeout=5s;
    convotic_forward_args n;
    convotic_cache_valid 100ms;
    log_format own '$request_uri $status $convotic_cache_status '
                   '$upstream_status';
EOC
    server => <<'EOC',
    access_log %%DIR%%/own.log own;
    keepalive_requests 100000;
    location = /short {
        convotic on;
        convotic_cache_stale 100ms;
        proxy_pass http://contacts;
    }

    location = /none {
        convotic on;
        convotic_cache_stale 0;
        proxy_pass http://contacts;
    }

    location = /long {
        convotic on;
        convotic_cache_valid 1h;
        proxy_pass http://contacts;
    }

    location = /folded {
        convotic on;
        convotic_error_status documented;
        proxy_pass http://contacts;
    }
EOC
    location => 'proxy_read_timeout 500ms; convotic_fill_timeout 400ms;',
);

my $beta = $redis->add_key(test_key('beta'), workspace => 'beta');


sub ask {
    my ($path, @rest) = @_;

    my $opt = ref $rest[0] ? shift @rest : {};
    unshift @rest, 'X-API-Key' => $g->key
        unless grep { $_ eq 'X-API-Key' } @rest;

    return $g->get($path, $opt, @rest);
}


sub cache_status { return $_[0]->header('Cache-Status') || '' }

sub v {
    my ($version, %more) = @_;

    return contacts_body(workspace => 'acme', version => $version, limit => 20,
                         %more);
}


# Puts a first version into the cache.

sub fill {
    my ($path) = @_;

    $up->set(state => '', version => 1);
    success_is(ask($path), v(1), "$path: the first version");
    like(cache_status(ask($path)), qr/; hit|stored/, "$path: stored");

    return;
}


# All copies, as if they had been stored some time ago.

sub outdate {
    my $then = int(1000 * time()) - OLD;

    for my $name ($bodies->names('convotic:body*')) {
        my $left = $bodies->cmd('PTTL', $name);
        my $envelope = $bodies->cmd('GET', $name);

        next unless defined $envelope && $left > 0;

        $envelope =~ s/^stored \d+$/stored $then/m;
        $bodies->cmd('SET', $name, $envelope, 'PX', $left);
    }

    return;
}


# What is answered once the copy is too old to be handed out before that.

sub once_expired {
    my ($path, @rest) = @_;

    outdate();

    return ask($path, @rest);
}


# The upstream is asked again, some time after it has failed.

sub renewed_ok {
    my ($path, $name) = @_;

    my $res;

    wait_until(sub { ($res = ask($path))->body eq v(2) }, BACK);
    success_is($res, v(2), $name);

    return;
}


sub stale_is {
    my ($res, $body, $name) = @_;

    success_is($res, $body, $name);
    like(cache_status($res), qr/^convotic; fwd=stale; .*detail=stale-if-error/,
         "$name: marked");
    like(cache_status($res), qr/; ttl=-[1-9]\d*;/, "$name: since when");
    is($res->header('Cache-Control'), 'private, no-cache',
       "$name: Cache-Control");
    like($res->header('ETag') || '', qr/^"[0-9a-f]+"\z/, "$name: ETag");
    like($res->header('Age') // '', qr/^\d+\z/, "$name: Age");

    return;
}


# Every failure, and the time after it.

fill("/v1/contacts?n=$_") for 0 .. $#failures;

for my $i (0 .. $#failures) {
    my $name = $failures[$i];
    my $path = "/v1/contacts?n=$i";

    $up->set(state => $name, version => 2);

    my $res = once_expired($path);

    stale_is($res, v(1), "$name: stale");
    like(cache_status($res), qr/; fwd-status=$1;/, "$name: the status")
        if $name =~ /^status (\d+)/;
    is($res->header('Retry-After'), undef, "$name: no header of the failure");

    stale_is(ask($path), v(1), "$name: stale again");
}

$up->set(state => '', version => 2);
renewed_ok("/v1/contacts?n=$_", "$failures[$_]: over") for 0 .. $#failures;

{
    my $path = '/v1/contacts?n=refused';

    fill($path);
    $up->accept('refuse');
    $up->drop;

    stale_is(once_expired($path), v(1), 'refused: stale');

    $up->accept('open');
    $up->set(version => 2);
    renewed_ok($path, 'refused: over');
}


# An answer is given, also if it is an error.

fill('/v1/contacts?n=' . s/\W/_/gr) for keys %answer;

for my $name (sort keys %answer) {
    my ($status, undef, $code, $message) = @{ $answer{$name} };
    my $path = '/v1/contacts?n=' . $name =~ s/\W/_/gr;

    $up->set(state => $name);
    error_is(once_expired($path), $status, $code, $message,
             "$name: not stale");
}


# As any other answer.

{
    my $path = '/v1/contacts?n=forms';

    fill($path);
    $up->set(state => 'status 500');

    my $res = once_expired($path);
    my $etag = $res->header('ETag');

    stale_is($res, v(1), 'GET');
    success_is(ask($path, { method => 'HEAD' }), v(1), 'HEAD');
    success_is(ask($path, { h2 => 1 }), v(1), 'HTTP/2');
    success_is(ask($path, { version => '1.0' }), v(1), 'HTTP/1.0');
    is(ask($path, 'If-None-Match' => $etag)->status, 304, 'If-None-Match');
    is(ask($path, Range => 'bytes=0-9')->body, substr(v(1), 0, 10), 'Range');

    ok(wait_until(sub { $g->access_log('own.log')
                        =~ /n=forms 200 STALE 500$/m }), 'the log');
}

{
    fill('/folded');
    $up->set(state => 'status 503');
    stale_is(once_expired('/folded'), v(1), 'convotic_error_status');
}


# Fresh is fresh: nobody is asked.

fill('/long');
$up->set(state => 'status 500');
$up->reset;
success_is(ask('/long'), v(1), 'fresh');
like(cache_status(ask('/long')), qr/; hit/, 'fresh: a hit');
is($up->count, 0, 'fresh: nobody is asked');


# Only one's own: neither another tenant's nor another query's.

{
    fill('/v1/contacts?n=own');
    $up->set(state => 'status 500');
    stale_is(once_expired('/v1/contacts?n=own'), v(1), 'own');
    error_is(ask('/v1/contacts?n=own', 'X-API-Key' => $beta), @FAILED,
             'not to another tenant');
    error_is(ask('/v1/contacts?n=own&limit=19'), @FAILED,
             'not for another limit');
    error_is(ask('/v1/contacts?n=own&platform=line'), @FAILED,
             'not for another platform');
    error_is(ask('/v1/contacts?n=Own'), @FAILED, 'not for another argument');
    error_is(ask('/folded?n=own'), @FAILED, 'not for another location');
}


# Never what was purged: before, or while the upstream is asked.

{
    my $path = '/v1/contacts?n=purged';

    fill($path);
    $up->set(state => 'status 500');
    stale_is(once_expired($path), v(1), 'not yet purged');
    $redis->purge('beta');
    stale_is(ask($path), v(1), 'another workspace was purged');
    $redis->purge('acme');
    error_is(ask($path), @FAILED, 'purged');
    error_is(ask($path), @FAILED, 'purged, again');
}

{
    my $path = '/long?n=purged_meanwhile';
    my $name = 'purged while the upstream is asked';

    fill($path);
    # what waits does not end by itself

    $bodies->cmd('SET', $_, $bodies->cmd('GET', $_) =~ s/^fresh \d+$/fresh 1/mr,
                 'PX', 600000)
        for grep { $bodies->cmd('GET', $_) =~ /purged_meanwhile/ }
            $bodies->names('convotic:body*');
    outdate();
    $up->set(state => 'hang');
    $up->reset;

    my $conn = $g->connect;
    $conn->write(Convotic::HTTP::request_text($path, {},
                                              'X-API-Key' => $g->key));
    ok(wait_until(sub { $up->count == 1 }), "$name: it is asked");
    $redis->purge('acme');
    $up->accept('close');
    $up->drop;

    error_is($conn->read, @NO_ANSWER, $name);
    $up->accept('open');
}

# Nor what belongs to a generation that was lost.

for my $case (
    [ 'a lost generation', sub {
        $redis->cmd('DEL', $redis->gen_name('acme')) } ],
    [ 'a generation counted anew', sub {
        $redis->cmd('SET', $redis->gen_name('acme'), 1) } ],
    [ 'a restarted key server', sub {
        $redis->restart;
        $redis->init;
        $redis->add_key($_->[0], workspace => $_->[1])
            for [ $g->key, 'acme' ], [ $beta, 'beta' ];
        wait_until(sub { ask('/none')->status != 503 });
    } ],
) {
    my ($name, $sub) = @$case;
    my $path = '/v1/contacts?n=' . $name =~ s/\W/_/gr;

    fill($path);
    $up->set(state => 'status 500');
    stale_is(once_expired($path), v(1), "before $name");
    $sub->();
    error_is(ask($path), @FAILED, $name);
}


# Not for longer than is allowed.

fill("/v1/contacts?n=f$_") for 0 .. $#forbidden;
$bodies->cmd('PERSIST', $_) for $bodies->names('*');
$up->set(state => 'status 500');

# Not for a millisecond: over one connection, as fast as it goes.

{
    my $conn = $g->connect;
    my @left = 0 .. $#forbidden;
    my (@last, @stale);

    wait_until(sub {
        for my $round (1 .. 50) {
            for my $i (@left) {
                $last[$i] = $conn->get("/v1/contacts?n=f$i",
                                       'X-API-Key' => $g->key);
                $stale[$i]++
                    if cache_status($last[$i]) =~ /stale-if-error|updating/;
            }
            @left = grep { $last[$_]->status == 200 } @left;
        }
        !@left;
    });

    for my $i (0 .. $#forbidden) {
        error_is($last[$i], @FAILED, "$forbidden[$i]: the failure");
        is($stale[$i], undef, "$forbidden[$i]: never stale");
    }
}

{
    fill('/none');
    $up->set(state => 'status 500');
    error_is(once_expired('/none'), @FAILED, 'convotic_cache_stale 0');
}

for my $case ([ 'as Redis expires it', 0 ], [ 'as it says itself', 1 ]) {
    my ($name, $persist) = @$case;
    my $path = "/short?n=$persist";
    my %seen;

    $bodies->flushall;
    fill($path);
    $bodies->cmd('PERSIST', $_) for $persist ? $bodies->names('*') : ();
    $up->set(state => 'status 500');

    my $res;
    wait_until(sub { $res = ask($path); $seen{ $res->status }++;
                     $res->status != 200 });

    $name = "convotic_cache_stale 100ms, $name";
    error_is($res, @FAILED, $name);
    is_deeply([ grep { !/^(?:200|500)\z/ } keys %seen ], [],
              "$name: until then a copy");
}

$t->finish;
