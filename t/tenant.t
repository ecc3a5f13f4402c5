#!/usr/bin/perl

# A cached body belongs to one workspace.  Many of them ask the same, one after
# the other and all at once, through slow, broken and late connections, while
# they are purged, and with names made to collide: each gets its own.  What
# somebody has moved or changed in Redis is not served to anybody.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(time);

use constant {
    BACK    => 10,              # seconds until something has happened, at most
    CLIENTS => 4,
    SECONDS => 3,               # of the storm
};

# Pairs that one separator, one case or one cut would make the same.

my @workspaces = (
    'acme', 'ACME', 'Acme', 'acme-', 'acme.', 'acme_', 'acm', 'acme-acme',
    'a', 'a.b', 'a.b.c', 'b.c', 'c', 'a-b', 'a_b', 'ab', '.', '..', '-', '_',
    '1', '01', '1774878120000000', 'gen', 'body', 'v1', 'meta', 'none', 'null',
    'x' x 127, 'x' x 128,
);

my @queries = ([ 1 ], [ 2 ], [ 20 ], [ 2, 'line' ], [ 2, 'whatsapp' ]);

my $MS = 200 * $Convotic::Process::FACTOR;
my $LATE = 1.5 * $MS / 1000;
my $PATIENT = 'connect_timeout=20s timeout=20s';

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my %key = map { $_ => test_key("tenant $_") } @workspaces;


# The ids are such that id and workspace collide, too: a.b + c and a + b.c.

sub fill {
    my ($redis) = @_;

    $redis->init;
    $redis->add_key($key{$_}, workspace => $_, id => reverse($_) =~ s/x{9}//r)
        for @workspaces;

    return $redis;
}


sub query {
    my ($limit, $platform) = @{ $_[0] };

    return "limit=$limit" . ($platform ? "&platform=$platform" : '');
}


sub body {
    my ($who, $query, $version) = @_;

    return contacts_body(workspace => $who, limit => $query->[0],
                         platform => $query->[1], version => $version);
}


sub ask {
    my ($nginx, $who, $query) = @_;

    return $nginx->contacts(query($query), 'X-API-Key' => $key{$who});
}


sub own_ok {
    my ($name, @faults) = @_;

    splice @faults, 5, @faults - 5, '...' if @faults > 5;
    ok(!@faults, $name) or diag(map { "    $_\n" } @faults);

    return;
}


sub fault {
    my ($who, $query, $res) = @_;

    return () if $res && $res->status == 200 && $res->body eq body($who, $query);
    return "$who, " . query($query) . ': '
           . ($res ? $res->status . ' ' . substr $res->body, 0, 100 : 'nothing');
}


# One after the other, then interleaved, then all at once: filled and cached.

my $redis = fill($t->redis('keys'));
my $nginx = $t->nginx(redis => $redis, upstream => $up, workers => 2,
                      http => "convotic_redis %%REDIS%% $PATIENT;");

for my $round ('miss', 'hit') {
    my @faults;

    for my $who (@workspaces) {
        push @faults, map { fault($who, $_, ask($nginx, $who, $_)) } @queries;
    }

    own_ok("one after the other: $round", @faults);
}

ok(wait_until(sub { @workspaces * @queries
                    == (my @names = $redis->names('convotic:body:*')) }, BACK),
   'as many bodies as workspaces and queries');
is(scalar(my @gens = $redis->names('convotic:gen:*')), scalar @workspaces,
   'as many generations as workspaces');

$up->reset;
own_ok('interleaved', map {
    my $query = $_;
    map { fault($_, $query, ask($nginx, $_, $query)) } reverse @workspaces;
} @queries);
is($up->count, 0, 'all from the cache');

for my $round ('hits', 'misses') {
    my @jobs = map { my $query = $_; map { [ $_, $query ] } @workspaces } @queries;
    my @all = $nginx->concurrent([ map {
        [ '/v1/contacts?' . query($_->[1]), 'X-API-Key' => $key{ $_->[0] } ]
    } @jobs ]);

    own_ok("all at once: $round",
           map { fault(@{ $jobs[$_] }, $all[$_]) } 0 .. $#jobs);
    $redis->purge($_) for @workspaces;
}

is(scalar(grep { !$_->tenant } $up->requests), 0,
   'the upstream was told for whom');

# Over one connection, pipelined.

{
    my @jobs = map { my $query = $_; map { [ $_, $query ] } @workspaces } @queries;
    my @all = $nginx->raw(join '', map {
        'GET /v1/contacts?' . query($_->[1]) . " HTTP/1.1\r\n"
        . "Host: localhost\r\nX-API-Key: $key{ $_->[0] }\r\n\r\n"
    } @jobs[0 .. 39]);

    is(scalar @all, 40, 'pipelined: all answers');
    own_ok('pipelined', map { fault(@{ $jobs[$_] }, $all[$_]) } 0 .. $#all);
}

$nginx->stop;


# A storm: some replies are slow, few are late, some connections end; one more
# client purges.  An answer is one's own or a 503.

my $stormy = $t->fake_redis(behind => $redis, handler => sub {
    my ($ctx) = @_;
    my $dice = rand;

    return { pass => 1, delay => $LATE } if $dice < 0.0005;
    return { pass => 1, close => 1 } if $dice < 0.001;
    return { pass => 1, rst => 1 } if $dice < 0.0015;
    return { pass => 1, delay => rand(0.01) } if $dice < 0.05;
    return { pass => 1 };
});

$nginx = $t->nginx(
    redis => $stormy, upstream => $up, workers => 2, http =>
    "convotic_redis %%REDIS%% connect_timeout=${MS}ms timeout=${MS}ms;");

sub storm {
    my ($i) = @_;

    my (%count, @faults);
    my $end = time() + SECONDS;
    my $conn;

    while (time() < $end) {
        my $who = $workspaces[ rand @workspaces ];
        my $query = $queries[ rand @queries ];

        if ($i == 0) {
            $redis->purge($who);
            select undef, undef, undef, 0.01;
            next;
        }

        $conn ||= $nginx->connect;
        my $res = $conn->get('/v1/contacts?' . query($query),
                             'X-API-Key' => $key{$who});
        my $fault = $res && $res->status == 503 ? '' : fault($who, $query, $res);

        push @faults, $fault if $fault;
        $count{ $res ? $res->status : 0 }++;
        undef $conn
            if !$res || $res->closed || $res->header('Connection') eq 'close';
    }

    return { count => \%count, faults => \@faults };
}

my @storm = parallel(CLIENTS + 1, \&storm);

own_ok('a storm', map { @{ $_->{faults} } } @storm);

my %count;

for my $result (@storm) {
    $count{$_} += $result->{count}{$_} for keys %{ $result->{count} };
}

cmp_ok($count{200} || 0, '>', 100, 'a storm: most were served')
    or diag(map { "    $_: $count{$_}\n" } sort keys %count);
$nginx->stop;


# Bodies that somebody has moved.

$nginx = $t->nginx(
    redis => $redis, upstream => $up,
    http => "convotic_redis %%REDIS%% $PATIENT;",
    server => <<'EOC',
    location = /other {
        convotic on;
        convotic_cache_namespace other;
        proxy_pass http://contacts;
    }
EOC
);

$redis->cmd('DEL', $redis->names('convotic:body:*'));

my %name;               # of the bodies in Redis, by what was asked

for my $case ([ 'a.b', [ 2 ] ], [ 'a', [ 2 ] ], [ 'a', [ 20 ] ],
              [ 'a', [ 2, 'line' ] ], [ 'acme', [ 2 ] ])
{
    my %old = map { $_ => 1 } $redis->names('convotic:body:*');
    my ($who, $query) = @$case;

    fault($who, $query, ask($nginx, @$case)) and die "no answer\n";
    wait_until(sub {
        ($name{"$who " . query($query)}) =
            grep { !$old{$_} } $redis->names('convotic:body:*');
    }, BACK) or die "not stored\n";
}

{
    my %old = map { $_ => 1 } $redis->names('convotic:body:*');

    $nginx->get('/other?limit=2', 'X-API-Key' => $key{a});
    wait_until(sub { ($name{other}) =
                     grep { !$old{$_} } $redis->names('convotic:body:*') }, BACK);
}

# The upstream now tells a second version: the first can only be a copy.

$up->set(version => 2);

sub moved_ok {
    my ($what, $from, $who, $query) = @_;

    my $to = $name{"$who " . query($query)};
    my $kept = $redis->cmd('DUMP', $to);

    $redis->cmd('COPY', $name{$from}, $to, 'REPLACE');
    $up->reset;
    success_is(ask($nginx, $who, $query), body($who, $query, 2), "moved: $what");
    is($up->count, 1, "moved: $what: fetched anew");
    success_is(ask($nginx, $who, $query), body($who, $query, 2),
               "moved: $what: and stored");
    $redis->cmd('RESTORE', $to, 0, $kept, 'REPLACE');
    success_is(ask($nginx, $who, $query), body($who, $query, 1),
               "moved: $what: the right one is served still");

    return;
}

moved_ok('of another workspace', 'acme limit=2', 'a', [ 2 ]);
moved_ok('of a workspace with a longer name', 'a.b limit=2', 'a', [ 2 ]);
moved_ok('of a workspace with a shorter name', 'a limit=2', 'a.b', [ 2 ]);
moved_ok('of another limit', 'a limit=20', 'a', [ 2 ]);
moved_ok('of another platform', 'a limit=2&platform=line', 'a', [ 2 ]);
moved_ok('of all platforms', 'a limit=2', 'a', [ 2, 'line' ]);
moved_ok('of another namespace', 'other', 'a', [ 2 ]);

{
    my $name = $name{'a limit=2'};
    my $old = $redis->cmd('GET', $name);

    $redis->purge('a');
    success_is(ask($nginx, 'a', [ 2 ]), body('a', [ 2 ], 2), 'purged');
    $redis->cmd('SET', $name, $old, 'PX', 60_000);
    $up->reset;
    success_is(ask($nginx, 'a', [ 2 ]), body('a', [ 2 ], 2),
               'moved: of an older generation');
    is($up->count, 1, 'moved: of an older generation: fetched anew');
}


# Envelopes that somebody has broken.  Each is put in the place of a good one.

my $place = $name{'acme limit=2'};
my $good = $redis->cmd('GET', $place);
my ($head, $rest) = split /\n\n/, $good, 2;
my @lines = split /\n/, $head;
my $length = length $rest;

success_is(ask($nginx, 'acme', [ 2 ]), body('acme', [ 2 ], 1),
           'an envelope in order is served');

sub lines_with {
    my ($from, $to) = @_;

    my $changed = $head =~ s/^$from/$to/mr;
    die "no line $from\n" if $changed eq $head;

    return "$changed\n\n$rest";
}

my %broken = (
    'empty'                   => '',
    'one byte'                => 'c',
    'noise'                   => join('', map { chr($_ * 37 % 256) } 1 .. 2000),
    'JSON without an envelope' => $rest,
    'NUL bytes'               => "\0" x 500,
    'no empty line'           => "$head\n$rest",
    'CRLF'                    => $good =~ s/\n/\r\n/gr,
    'a body of another length' => "$good ",
    'two bodies'              => $good . $rest,
    'a length that is short'
        => lines_with('length \d+', 'length ' . ($length - 1)),
    'a length that is long'
        => lines_with('length \d+', 'length ' . ($length + 1)),
    'a length beyond 32 bits' => lines_with('length \d+', 'length 4294967295'),
    'a length beyond 64 bits'
        => lines_with('length \d+', 'length 18446744073709551616'),
    'a negative length'       => lines_with('length \d+', 'length -1'),
    'a length of no number'   => lines_with('length \d+', 'length x'),
    'a length of nothing'     => lines_with('length \d+', 'length '),
    'a length of zero'        => lines_with('length \d+', 'length 0'),
    'a negative freshness'    => lines_with('fresh \d+', 'fresh -1'),
    'an endless freshness'
        => lines_with('fresh \d+', 'fresh 99999999999999999999'),
    'a freshness of no number' => lines_with('fresh \d+', 'fresh soon'),
    'stored before time'      => lines_with('stored \d+', 'stored -5'),
    'stored at no number'     => lines_with('stored \d+', 'stored today'),
    'stored tomorrow'
        => lines_with('stored \d+', 'stored ' . (time() + 86400) * 1000 =~ s/\..*//r),
    'stored long ago'         => lines_with('stored \d+', 'stored 1000'),
    'an entity tag without quotes' => lines_with('etag .*', 'etag abc'),
    'an entity tag that is empty'  => lines_with('etag .*', 'etag '),
    'an entity tag with a CR'
        => lines_with('etag .*', qq(etag "a"\rSet-Cookie: a=b)),
    'an entity tag with a NUL'     => lines_with('etag .*', qq(etag "a\0b")),
    'a header without a colon'
        => lines_with('(?=length )', "header Link\n"),
    'a header without a name'
        => lines_with('(?=length )', "header : x\n"),
    'a header with a CR in it'
        => lines_with('(?=length )', "header Link: a\rSet-Cookie: b=c\n"),
    'a header with a NUL in it'
        => lines_with('(?=length )', "header Link: a\0b\n"),
    'a header that is not kept'
        => lines_with('(?=length )', "header Set-Cookie: a=b\n"),
    'a header that frames'
        => lines_with('(?=length )', "header Content-Length: 3\n"),
    'a header that chunks'
        => lines_with('(?=length )', "header Transfer-Encoding: chunked\n"),
    'a header that redirects'
        => lines_with('(?=length )', "header X-Accel-Redirect: /alive\n"),
    'a header of a bad name'
        => lines_with('(?=length )', "header Li nk(: x\n"),
);

for my $i (0 .. $#lines) {
    my ($word) = $lines[$i] =~ /^(\S+)/;
    my @less = @lines;

    splice @less, $i, 1;
    $broken{"without the line \"$word\""} = join("\n", @less) . "\n\n$rest";
    $broken{"the line \"$word\" twice"}
        = join("\n", @lines[0 .. $i], @lines[$i .. $#lines]) . "\n\n$rest";
}

for my $at (map { int(length($good) * $_ / 24) } 1 .. 23) {
    $broken{"cut after $at bytes"} = substr $good, 0, $at;
}

my %logged;

for my $what (sort keys %broken) {
    my $log = length $nginx->error_log;

    $redis->cmd('SET', $place, $broken{$what}, 'PX', 60_000);
    $up->reset;

    my $res = ask($nginx, 'acme', [ 2 ]);
    my @faults = fault2($res);

    push @faults, $up->count . ' fetches' if $up->count != 1;
    own_ok("broken: $what", @faults);

    # the answer may be here before it is stored

    wait_until(sub { $redis->cmd('GET', $place) ne $broken{$what} }, 10);
    $logged{$what} = substr($nginx->error_log, $log) =~ /envelope/;
}

sub fault2 {
    my ($res) = @_;

    return ($res->problems,
            $res->body eq body('acme', [ 2 ], 2) ? () : 'not from the upstream',
            (grep { $res->header($_) } qw(Set-Cookie Link)));
}

# Which are malformed, and not merely somebody else's or too old.

my @silent = grep { !$logged{$_} }
    'noise', 'JSON without an envelope', 'NUL bytes', 'no empty line',
    'a length that is short', 'a negative length', 'a header that frames',
    'without the line "stored"', 'without the line "query"';

is_deeply(\@silent, [], 'broken: malformed ones are logged');

success_is(ask($nginx, 'acme', [ 2 ]), body('acme', [ 2 ], 2),
           'and the last refetched one is served');
is(scalar(grep { /acme v|ct_acme/ } $nginx->log_lines(qr/./)), 0,
   'no body is in the log');

$t->finish;
