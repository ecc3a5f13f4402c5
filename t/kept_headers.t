#!/usr/bin/perl

# Sunset, Deprecation and Link are what the upstream tells its clients beside
# the contacts: they are kept, byte for byte and in their order, on a miss, on
# a hit and with an error.  Nothing else of its header is.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

my $SUNSET = 'Sat, 31 Oct 2026 23:59:59 GMT';
my $SUCCESSOR = '<https://example.com/v2/contacts>; rel="successor-version"';
my $POLICY = '<https://example.com/deprecation>; rel="deprecation"; '
             . 'type="text/html"';

# Names as the gateway writes them, in any case where the upstream does.

my @kept = (
    [ 'nothing' ],
    [ 'all three', [ Deprecation => 'true' ], [ Sunset => $SUNSET ],
      [ Link => $SUCCESSOR ] ],
    [ 'several links', [ Link => $SUCCESSOR ], [ Link => $POLICY ],
      [ Link => $SUCCESSOR ] ],
    [ 'links in one line', [ Link => "$SUCCESSOR, $POLICY" ] ],
    [ 'a date', [ Deprecation => '@1735689599' ] ],
    [ 'lower case', [ sunset => $SUNSET ], [ deprecation => 'true' ],
      [ link => $POLICY ] ],
    [ 'upper case', [ SUNSET => $SUNSET ], [ LINK => $POLICY ] ],
    [ 'an empty one', [ Link => '' ], [ Sunset => $SUNSET ] ],
    [ 'odd bytes', [ Link => "<x>; title=\"a\tb:c; header X: y\"" ],
      [ Link => "<x>; title*=UTF-8''%e0%b8%81; t=\"\xe0\xb8\x81\"" ] ],
    [ 'looks like the envelope', [ Link => 'length 0' ],
      [ Link => 'header Set-Cookie: a=1' ] ],
    [ 'long ones', map { [ Link => "<$_" . 'x' x 900 . '>' ] } 1 .. 4 ],
    [ 'many', map { [ Link => "<$_>" ] } 1 .. 32 ],
);
my @too_many = map { [ Link => "<$_>" ] } 1 .. 33;

my @others = (
    'Set-Cookie2' => 'x', 'Sunsets' => 'x', 'X-Sunset' => 'x', 'Links' => 'x',
    'Retry-After' => 1, Allow => 'x', Location => '/x', Server => 'x/1',
    'X-Powered-By' => 'x', Warning => 'x', 'Content-Language' => 'th',
    'Content-Disposition' => 'attachment', 'Last-Modified' => $SUNSET,
    ETag => '"x"', 'X-RateLimit-Limit' => 1, 'Access-Control-Allow-Origin' =>
    '*', 'Strict-Transport-Security' => 'x', 'X-Convotic-Workspace' => 'acme',
    'X-Convotic-Key-Id' => 'x', 'X-Accel-Buffering' => 'no', Refresh => 1,
    Link_ => 'x', 'Content-Security-Policy' => 'x',
);
my %is_other = map { lc $others[ 2 * $_ ] => 1 } 0 .. @others / 2 - 1;

# Those of a success that the gateway writes itself.

my %is_own = map { $_ => 1 } qw(etag server);

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $args = $req->args;
    my (undef, @lines) = @{ $kept[ $args->{n} ] || [ '', @too_many ] };

    return {
        status  => $vars->{status} || 200,
        headers => [ @others, map { @$_ } @lines ],
        body    => contacts_body(workspace => 'acme', limit => $args->{limit}),
    };
});
my $g = $t->gateway(
    upstream => $up, ssl => 1,
    location => 'proxy_buffer_size 16k; proxy_buffers 4 16k;',
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_forward_args n;
EOC
    server => <<'EOC',
    location = /short {
        convotic on;
        convotic_cache_valid 100ms;
        proxy_pass http://contacts;
    }

    location = /bypassed {
        convotic on;
        convotic_cache off;
        proxy_buffer_size 16k;
        proxy_buffers 4 16k;
        proxy_pass http://contacts;
    }

    location = /hidden {
        convotic on;
        proxy_hide_header Link;
        proxy_pass http://contacts;
    }
EOC
);

my $body = contacts_body(workspace => 'acme', limit => 20);


sub ask {
    my ($path, $opt, @headers) = @_;

    return $g->get($path, $opt || {}, 'X-API-Key' => $g->key, @headers);
}


sub cache_status { return $_[0]->header('Cache-Status') || '' }


sub lines {
    my ($res) = @_;

    return [ map { [ lc $_->[0], $_->[1] ] }
             grep { $_->[0] =~ /^(?:Sunset|Deprecation|Link)\z/i }
             $res->headers ];
}


sub kept_is {
    my ($res, $want, $name) = @_;

    is_deeply(lines($res), $want, "$name: kept");

    my @foreign = grep { $is_other{ lc $_ } && !$is_own{ lc $_ } }
        map { $_->[0] } $res->headers;

    is("@foreign", '', "$name: no others");

    return;
}


for my $n (0 .. $#kept) {
    my ($name, @lines) = @{ $kept[$n] };

    my $want = [ map { [ lc $_->[0], $_->[1] ] } @lines ];
    my $path = "/v1/contacts?n=$n";
    my $miss = ask($path);
    my $hit;

    success_is($miss, $body, "$name: miss");
    kept_is($miss, $want, "$name, miss");

    wait_until(sub { cache_status($hit = ask($path)) =~ /; hit/ });

    success_is($hit, $body, "$name: hit");
    like(cache_status($hit), qr/; hit/, "$name: from the cache");
    kept_is($hit, $want, "$name, hit");

    kept_is(ask($path, { method => 'HEAD' }), $want, "$name, HEAD");
    kept_is(ask($path, { h2 => 1 }), $want, "$name, HTTP/2");
    kept_is(ask("/bypassed?n=$n"), $want, "$name, bypass");
}


# More than an envelope takes: they are told, but not kept.

$up->reset;

for my $turn (1, 2) {
    my $res = ask('/v1/contacts?n=' . @kept);

    success_is($res, $body, "too many, $turn");
    kept_is($res, [ map { [ lc $_->[0], $_->[1] ] } @too_many ],
            "too many, $turn");
    unlike(cache_status($res), qr/hit|stored/, "too many, $turn: not stored");
}

is($up->count, 2, 'too many: fetched each time');


# A 304 and a range have them, too; a stale copy has its own.

{
    my $want = [ [ deprecation => 'true' ], [ sunset => $SUNSET ],
                 [ link => $SUCCESSOR ] ];
    my $first = ask('/short?n=1');
    my $res = ask('/v1/contacts?n=1', {},
                  'If-None-Match' => $first->header('ETag'));

    is($res->status, 304, 'If-None-Match: 304');
    kept_is($res, $want, 'If-None-Match');

    $res = ask('/v1/contacts?n=1', {}, Range => 'bytes=0-9');
    is($res->status, 206, 'Range: 206');
    kept_is($res, $want, 'Range');

    $up->set(status => 503);
    wait_until(sub { cache_status($res = ask('/short?n=1')) !~ /; hit/ });
    like(cache_status($res), qr/stale-if-error/, 'stale');
    kept_is($res, $want, 'stale');
    $up->set(status => 200);
}


# What proxy_hide_header takes away is gone.

is_deeply(lines(ask('/hidden?n=1')),
          [ [ deprecation => 'true' ], [ sunset => $SUNSET ] ],
          'proxy_hide_header');


# The end of a version.

$up->set(status => 410);

for my $opt ({}, { method => 'HEAD' }, { h2 => 1 }, { version => '1.0' }) {
    my $res = ask('/bypassed?n=1', { %$opt });
    my $name = join ' ', 'status 410', %$opt;

    error_is($res, 410, 'NOT_FOUND', 'Resource is no longer available', $name);
    is_deeply(lines($res), [ [ deprecation => 'true' ], [ sunset => $SUNSET ],
                             [ link => $SUCCESSOR ] ], "$name: kept");
}

$t->finish;
