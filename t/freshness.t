#!/usr/bin/perl

# How long an answer is kept: what the upstream says of it, what the
# configuration says, and the expiry that Redis is given.  It is fresh for up to
# a tenth less than that, at random.  When in doubt, an answer is served and not
# stored.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    VALID => 30,                        # convotic_cache_valid, s
    STALE => 300,                       # convotic_cache_stale, s
    DAY   => 86400,
};

my @DAYS = qw(Sun Mon Tue Wed Thu Fri Sat);
my @MONTHS = qw(Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec);


sub date {
    my ($time) = @_;

    my ($s, $m, $h, $day, $month, $year, $wday) = gmtime $time;

    return sprintf '%s, %02d %s %d %02d:%02d:%02d GMT', $DAYS[$wday], $day,
                   $MONTHS[$month], $year + 1900, $h, $m, $s;
}


# What is expected: freshness in seconds, then for how long a stale copy may be
# used; NO is not stored.

sub fresh {
    my ($fresh, $stale) = @_;

    return { fresh => $fresh, stale => defined $stale ? $stale : STALE };
}

my $NO = {};
my $DEFAULT = fresh(VALID);

sub control { return map { [ 'Cache-Control' => $_ ] } @_ }


# Lines of the answer's header and what comes of them, by the path.

# A date is so many seconds from the time of the answer.

sub at { return { at => $_[0] } }

my ($hour_ago, $past, $now, $soon, $far) =
    map { at($_) } -3600, -10, 0, 60, 40 * DAY;

sub text {
    my ($value, $time) = @_;

    return $value unless ref $value;
    return defined $time ? date($time + $value->{at})
                         : sprintf 'now%+d', $value->{at};
}

my %cases = ('/v1/contacts' => [

    # Cache-Control

    [ $DEFAULT ],
    (map { [ fresh(60), $_ ] } control(
        'max-age=60', 'MAX-AGE=60', 'Max-Age=60', 'max-age="60"', 'max-age=060',
        'public, max-age=60', 'max-age=60,public', ' ,, max-age=60 ,',
        "\tmax-age=60\t,\timmutable", 'max-age=60, max-age=60',
        'x-no-store, max-age=60', 'no-stores, max-age=60',
        'x="a, no-store", max-age=60', 'x="a\", no-store", max-age=60',
        'x=no-store, max-age=60', 'max-age=60, stale-while-revalidate=5',
        'max-age=60, stale-if-error=1000',
    )),
    [ fresh(60), [ 'cache-control' => 'max-age=60' ] ],
    (map { [ $DEFAULT, $_ ] } control('', 'public', 'no-transform', 'x', ',')),

    (map { [ $NO, $_ ] } control(
        'no-store', 'private', 'no-cache', 'NO-STORE', 'Private', 'No-Cache',
        'private="X-A"', 'no-cache="Set-Cookie"', 'no-store=x',
        'no-store, max-age=60', 'max-age=60, no-store', 'max-age=60,private',
        'public, no-cache, max-age=60', ',,no-store', "max-age=60\t,no-store",
        's-maxage=60, private', 'no-store, no-store',
        'max-age=0', 'max-age="0"', 's-maxage=0', 's-maxage=0, max-age=60',
        'max-age=60, s-maxage=0',
    )),
    [ $NO, [ 'cache-control' => 'no-store' ] ],
    [ $NO, control('max-age=60', 'no-store') ],
    [ $NO, control('no-store', 'max-age=60') ],
    [ $NO, control('max-age=60', 'max-age=0') ],

    # Malformed: what it may have meant is not known.

    (map { [ $NO, $_ ] } control(
        'max-age', 'max-age=', 'max-age=""', 'max-age=abc', 'max-age=-1',
        'max-age=+60', 'max-age=1.5', 'max-age=60x', 'max-age=0x60',
        'max-age=6 0', 'max-age = 60', 'max-age="60', 'max-age=60"',
        'max-age=60; no-store', 'public; no-store', 'public no-store',
        'max-age=60 private', 'x="a, no-store', 's-maxage=abc, max-age=60',
        'public;no-cache', 'max-age=60;private', '"no-store"',
    )),

    # Of two values the shorter; s-maxage before max-age, and no stale use.

    [ fresh(20), control('max-age=60, max-age=20') ],
    [ fresh(20), control('max-age=20, max-age=60') ],
    [ fresh(20), control('max-age=60', 'max-age=20') ],
    [ fresh(60, 0), control('s-maxage=60') ],
    [ fresh(60, 0), control('s-maxage=60, max-age=10') ],
    [ fresh(10, 0), control('max-age=60, s-maxage=10') ],

    # A stale copy only where it is allowed.

    [ fresh(VALID, 0), control('must-revalidate') ],
    [ fresh(60, 0), control('max-age=60, must-revalidate') ],
    [ fresh(60, 0), control('Proxy-Revalidate, max-age=60') ],
    [ fresh(60, 0), control('must-revalidate, max-age=60, stale-if-error=99') ],
    [ fresh(60, 10), control('max-age=60, stale-if-error=10') ],
    [ fresh(60, 0), control('max-age=60, stale-if-error=0') ],
    [ fresh(60, 0), control('max-age=60, stale-if-error=x') ],

    # A day at most.

    [ fresh(DAY - 1), control('max-age=86399') ],
    [ fresh(DAY), control('max-age=86400') ],
    [ fresh(DAY), control('max-age=86401') ],
    [ fresh(DAY), control('max-age=31536000') ],
    [ fresh(DAY), control('max-age=2147483648') ],
    [ fresh(DAY), control('max-age=9223372036854775807') ],
    [ fresh(DAY), control('max-age=99999999999999999999999999') ],
    [ fresh(DAY, 0), control('s-maxage=31536000') ],

    # Expires, Date, Age

    [ fresh(60), [ Expires => $soon ], [ Date => $now ] ],
    [ fresh(60), [ expires => $soon ], [ date => $now ] ],
    [ fresh(DAY), [ Expires => $far ], [ Date => $now ] ],
    (map { [ $NO, [ Expires => $_ ] ] }
        $past, '0', '-1', 'never', '', '60', 'Thu, 01 Jan 1970 00:00:00 GMT'),
    [ $NO, [ Expires => $now ], [ Date => $now ] ],
    [ $NO, [ Expires => $soon ], [ Date => at(70) ] ],
    [ $NO, [ Expires => $past ], [ Expires => $soon ] ],
    [ fresh(60), [ Expires => $past ], control('max-age=60') ],
    [ $NO, [ Expires => $soon ], control('max-age=0') ],
    [ $NO, [ Expires => $soon ], control('no-store') ],

    [ fresh(50), control('max-age=60'), [ Age => 10 ] ],
    [ fresh(50, 0), control('s-maxage=60'), [ Age => 10 ] ],
    [ fresh(60), control('max-age=60'), [ Age => 'x' ] ],
    [ $NO, control('max-age=60'), [ Age => 60 ] ],
    [ $NO, control('max-age=60'), [ Age => 100000 ] ],
    [ $NO, control('max-age=60'), [ Age => '99999999999999999999' ] ],

    # It has been somewhere for an hour, whether its Age says so or not.

    [ $NO, control('max-age=60'), [ Date => $hour_ago ] ],
    [ $NO, [ Expires => at(-3540) ], [ Date => $hour_ago ] ],

    # Vary

    (map { [ $DEFAULT, [ Vary => $_ ] ] }
        '', 'Accept-Encoding', 'accept-encoding', ' ,Accept-Encoding, ',
        'Accept-Encoding, ACCEPT-ENCODING'),
    [ $DEFAULT, [ Vary => 'Accept-Encoding' ], [ Vary => 'Accept-Encoding' ] ],
    (map { [ $NO, [ Vary => $_ ] ] }
        '*', 'Cookie', 'X-API-Key', 'Origin', 'Accept', 'Accept-Encoding, *',
        'Accept-Encoding,Cookie', 'Cookie, Accept-Encoding',
        'Accept-Encodings', 'Accept', 'Accept-Encoding Cookie',
        'Accept-Encoding;Cookie', 'Accept-Encoding=Cookie'),
    [ $NO, [ Vary => 'Accept-Encoding' ], [ Vary => 'Cookie' ] ],
    [ $NO, [ Vary => 'Cookie' ], control('public, max-age=60') ],

    # Set-Cookie

    (map { [ $NO, [ $_ => 'a=1' ] ] } 'Set-Cookie', 'set-cookie'),
    [ $NO, [ 'Set-Cookie' => '' ] ],
    [ $NO, [ 'Set-Cookie' => 'a=1' ], control('public, max-age=60') ],
    [ $NO, [ 'Set-Cookie' => 'a=1' ], [ 'X-Accel-Expires' => 60 ] ],

    # X-Accel-Expires, nginx's own, stands above lifetimes, not above refusals.

    [ fresh(60), [ 'X-Accel-Expires' => 60 ] ],
    [ fresh(60), [ 'x-accel-expires' => 60 ], control('max-age=10') ],
    [ fresh(60), [ 'X-Accel-Expires' => 60 ], control('max-age=0') ],
    [ fresh(60), [ 'X-Accel-Expires' => 60 ], [ Expires => $past ] ],
    [ fresh(60, 0), [ 'X-Accel-Expires' => 60 ], control('must-revalidate') ],
    [ fresh(DAY), [ 'X-Accel-Expires' => 10 * DAY ] ],
    [ fresh(DAY), [ 'X-Accel-Expires' => '@' . (time + 10 * DAY) ] ],
    (map { [ $NO, [ 'X-Accel-Expires' => $_ ] ] }
        0, -1, 'off', '', '@', '@0', '@1', '@x', '60x'),
    [ $NO, [ 'X-Accel-Expires' => 0 ], control('max-age=60') ],
    (map { [ $NO, [ 'X-Accel-Expires' => 60 ], $_ ] }
        control('no-store', 'private', 'no-cache'), [ Vary => '*' ]),

    # What plays no part.

    [ $DEFAULT, [ Pragma => 'no-cache' ] ],
    [ $DEFAULT, [ ETag => '"x"' ] ],
    [ $DEFAULT, [ 'Last-Modified' => $hour_ago ] ],
    [ $DEFAULT, [ 'Surrogate-Control' => 'no-store' ] ],
]);

# proxy_ignore_headers takes one away, and no other.

my %ignored = (
    'Cache-Control' => [
        [ $DEFAULT, control('no-store') ],
        [ $DEFAULT, control('max-age=0, must-revalidate') ],
        [ fresh(60), control('no-store'), [ Expires => $soon ],
          [ Date => $now ] ],
        [ $NO, control('max-age=60'), [ 'Set-Cookie' => 'a=1' ] ],
        [ $NO, control('max-age=60'), [ Vary => '*' ] ],
        [ $NO, [ Expires => $past ] ],
    ],
    'Expires' => [
        [ $DEFAULT, [ Expires => $past ] ],
        [ $NO, [ Expires => $soon ], control('no-store') ],
    ],
    'Set-Cookie' => [
        [ $DEFAULT, [ 'Set-Cookie' => 'a=1' ] ],
        [ $NO, [ 'Set-Cookie' => 'a=1' ], control('private') ],
    ],
    'Vary' => [
        [ $DEFAULT, [ Vary => '*' ] ],
        [ $DEFAULT, [ Vary => 'Cookie' ] ],
        [ $NO, [ Vary => 'Cookie' ], [ 'Set-Cookie' => 'a=1' ] ],
    ],
    'X-Accel-Expires' => [
        [ $DEFAULT, [ 'X-Accel-Expires' => 0 ] ],
        [ fresh(60), [ 'X-Accel-Expires' => 0 ], control('max-age=60') ],
        [ $NO, [ 'X-Accel-Expires' => 60 ], control('no-store') ],
    ],
    'X-Accel-Redirect' => [
        [ $DEFAULT, [ 'X-Accel-Redirect' => '/nowhere' ] ],
    ],
    'Cache-Control Expires Set-Cookie Vary X-Accel-Expires' => [
        [ $DEFAULT, control('no-store'), [ Expires => $past ],
          [ 'Set-Cookie' => 'a=1' ], [ Vary => '*' ],
          [ 'X-Accel-Expires' => 0 ] ],
    ],
);

# Directives: what they say where the upstream says nothing, and where it does.

my %configured = (
    'convotic_cache_valid 10s;' => [
        [ fresh(10) ],
        [ fresh(60), control('max-age=60') ],
    ],
    'convotic_cache_valid 2h; convotic_cache_stale 1m;' => [
        [ fresh(7200, 60) ],
        [ fresh(10, 60), control('max-age=10') ],
        [ fresh(10, 0), control('max-age=10, must-revalidate') ],
        [ fresh(10, 60), control('max-age=10, stale-if-error=100') ],
    ],
    'convotic_cache_valid 90500ms; convotic_cache_stale 900ms;' => [
        [ fresh(90.5, 0.9) ],
        [ fresh(60, 0), control('max-age=60, stale-if-error=0') ],
    ],
    'convotic_cache_stale 0;' => [
        [ fresh(VALID, 0) ],
        [ fresh(60, 0), control('max-age=60, stale-if-error=100') ],
    ],
    'convotic_cache_valid 0;' => [
        [ $NO ],
    ],
);

my $locations = '';

for my $case (
    (map { [ "proxy_ignore_headers $_;", $ignored{$_} ] } sort keys %ignored),
    (map { [ $_, $configured{$_} ] } sort keys %configured),
) {
    my ($directive, $list) = @$case;
    my $path = '/' . $directive =~ s/\W+/_/gr;

    $cases{$path} = $list;
    $locations .= "location = $path { convotic on; $directive "
                  . "proxy_pass http://contacts; }\n";
}

# The upstream is told by a parameter what to say.

my @plan = map { my $path = $_; map { [ $path, @$_ ] } @{ $cases{$path} } }
    sort keys %cases;

my $REDIS = 'convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;';

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis;
my $fake = $t->fake_redis(behind => $redis);
my $up = $t->upstream(handler => sub {
    my ($req) = @_;

    my $args = $req->args;
    my (undef, undef, @lines) = @{ $plan[ $args->{plan} ] };

    my $time = time;

    return { headers => [ map { ($_->[0], text($_->[1], $time)) } @lines ],
             body    => contacts_body(limit => $args->{limit}) };
});
my $g = $t->gateway(
    redis => $fake, store => $redis, upstream => $up,
    http   => "$REDIS convotic_forward_args plan;",
    server => "keepalive_requests 100000;\n$locations",
);

my $conn = $g->connect;
my $body = contacts_body(limit => 20);


# The commands that have stored a body.

sub stored {
    return grep { uc $_->[0] eq 'SET' && $_->[1] =~ /^convotic:body:/ }
        map { $_->{argv} } $fake->commands;
}


# Redis gets a connection's commands in order: when the second request has
# been answered, whatever the first has stored is there.

for my $plan (0 .. $#plan) {
    my ($path, $want, @lines) = @{ $plan[$plan] };

    my $name = join '; ', map { "$_->[0]: " . text($_->[1]) } @lines;
    $name = "$path: $name" if $path ne '/v1/contacts';
    $name = 'nothing said' if $name eq '';

    $_->reset for $fake, $up;

    my ($first, $second) = map { $conn->get("$path?plan=$plan",
                                            'X-API-Key' => $g->key) } 1, 2;
    my @set = stored();
    my $status = $first->header('Cache-Status') || '';

    success_is($first, $body, "$name: served");
    success_is($second, $body, "$name: served again");

    if ($want == $NO) {
        is(scalar @set, 0, "$name: not stored");
        is($up->count, 2, "$name: asked for again");
        unlike($status, qr/stored|ttl/, "$name: Cache-Status");
        next;
    }

    my $fresh = 1000 * $want->{fresh};
    my $stale = 1000 * $want->{stale};

    is(scalar @set, 1, "$name: stored");
    is($up->count, 1, "$name: asked for once");
    like($status, qr/; stored; ttl=\d+/, "$name: Cache-Status");

    next unless @set;

    my ($ttl) = $status =~ /ttl=(\d+)/;
    my ($option, $expiry) = @{ $set[0] }[3, 4];

    # what has a date may have aged on its way

    my $least = (grep { lc $_->[0] eq 'date' } @lines) ? $fresh - 30000 : $fresh;

    $least -= $least / 10;

    is($option, 'PX', "$name: with an expiry");
    ok($expiry >= $least + $stale && $expiry <= $fresh + $stale,
       "$name: its expiry, $expiry");
    is($ttl, int(($expiry - $stale) / 1000), "$name: its ttl");

    my $left = $redis->cmd('PTTL', $set[0][1]);

    ok($left <= $expiry && ($left > 0 || $expiry < 30000),
       "$name: it will expire");
}


# So that what was fetched at one time does not expire at one time.

{
    my ($plan) = grep { $plan[$_][0] eq '/v1/contacts' && @{ $plan[$_] } == 2 }
        0 .. $#plan;
    my %expiry;

    $fake->reset;
    $conn->get("/v1/contacts?plan=$plan&limit=$_", 'X-API-Key' => $g->key)
        for 1 .. 50;
    $expiry{ $_->[4] }++ for stored();
    cmp_ok(scalar keys %expiry, '>', 10, 'lifetimes differ');
}


# Times that are told as points in time leave a second of doubt.

for my $case (
    [ 'X-Accel-Expires: @time', [ 'X-Accel-Expires' => undef ], '@%d' ],
    [ 'Expires without Date', [ Expires => undef ], undef ],
) {
    my ($name, $line, $format) = @$case;
    my $at = time + 60;

    $line->[1] = $format ? sprintf $format, $at : date($at);

    my $nginx = $t->gateway(
        name => 'times', redis => $fake, store => $redis, http => $REDIS,
        upstream => sub {
            return { headers => $line, body => $body };
        });

    $fake->reset;
    success_is($nginx->contacts, $body, "$name: served");
    wait_until(sub { my @set = stored() });

    my ($set) = stored();
    my $fresh = ($set->[4] || 0) / 1000 - STALE;

    ok($fresh > 0 && $fresh <= 60, "$name: $fresh seconds");
    $redis->purge('acme');
}


# The Age of what is served goes on from the upstream's.

{
    my $nginx = $t->gateway(
        name => 'age', redis => $fake, store => $redis, http => $REDIS,
        upstream => sub {
            return { headers => [ Age => 17, 'Cache-Control' => 'max-age=900' ],
                     body    => $body };
        });

    my $miss = $nginx->contacts;
    my $hit;

    wait_until(sub { $hit = $nginx->contacts;
                     $hit->header('Cache-Status') =~ /; hit/ });

    is($miss->header('Age'), 17, 'Age: of a miss');
    cmp_ok($hit->header('Age'), '>=', 17, 'Age: of a hit');
    my ($ttl) = $hit->header('Cache-Status') =~ /; ttl=(\d+)/;
    cmp_ok($ttl + $hit->header('Age'), '>=', 17 + 0.9 * 883 - 1,
           'Age: and the rest');
    cmp_ok($ttl + $hit->header('Age'), '<=', 900, 'Age: no more than that');
}

$t->finish;
