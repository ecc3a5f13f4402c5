#!/usr/bin/perl

# Memory that runs out: in each of many kinds of request the first allocation
# of the module fails, then the second alone, and so on to the last; then the
# same again with all that follow failing, too.  What is allowed is the answer
# that there would have been, a documented error or, with all that follow
# failing, none.  Then all is well again, and the log has blamed nobody else.
# The same for "nginx -t", for a reload and for another binary.
#
# For t/run --fail-malloc, whose nginx has t/fault inside.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Time::HiRes qw(sleep time);

use Convotic::Test;

use constant {
    NONE => 0, ONE => 1, ALL => 2,      # orders, as in fault.c
    HEAD => 24, SITE => 120,            # bytes of its structures
    NODES => 10,                        # whose failures overlap
    QUIET => 0.01,                      # s without a call: all is done
    SAMPLES => 10,                      # tries where all that follow fail
    LIMIT => 4,                         # s that an answer may take
    BACK => 10,                         # s until something has happened
    FRESH => 1,                         # s, of what becomes stale
    STOCK => 20,                        # of a node's copies that become so
};

# What no test can make fail: a function, a call, and the reason.

my %UNREACHED = (
    'ngx_convotic_names ngx_array_push' =>
        'as many places as there are names are allocated with the array',
    'ngx_convotic_merge_names ngx_array_push' => 'likewise, four',
    'ngx_convotic_method_start ngx_array_push' => 'likewise, one',
    'ngx_convotic_flight_headers ngx_array_push' => 'likewise, all that are copied',
);

# What is said of others where memory alone was short.

my $UNTRUE = qr/
    does\snot\sspeak\sRESP2 | malformed\senvelope | could\snot\sbe\sresolved
    | is\srefused:\s(?:it\sis\snot\sJSON|no\smemory)
    | Redis\sis\saway:\s(?!this\sworker|cannot\sconnect|it\sdid\snot\s\w+\sin\stime)
    | do\snot\smatch | nobody\sasked | is\snot\sa\smaster
    | is\snot\sa\splain\sinteger | its\s"limit"\sis\snot
/x;

my $t = Convotic::Test->new(rates => 1);

$t->allow_log(qr/new binary process \d+ exited with code 1/,
              qr/"convotic_zone" is too small/);        # for its tables

plan(skip_all => 'for an nginx with t/fault: t/run --fail-malloc')
    unless $ENV{TEST_FAULT};

alarm 1500 * $Convotic::Process::FACTOR;


# A node is an nginx whose allocations fail, with the file that it shares with
# this test, see fault.c.  One of them at a time is asked.

my ($node, $g);
my @nodes;

sub new_node {
    my (%arg) = @_;

    my $file = $t->write_file('fault' . @nodes, "\0" x HEAD);
    my $new = { file => $file, log => 0 };

    push @nodes, $new;
    $new->{nginx} = $t->nginx(%arg, env => { CONVOTIC_FAULT => $file });
    $new->{worker} = ($new->{nginx}->workers)[0];

    return $new;
}

sub at { ($node, $g) = ($_[0], $_[0]{nginx}); return $_[0] }


sub numbers {
    my ($at, $count) = @_;

    open my $fh, '<:raw', $node->{file} or die "$node->{file}: $!\n";
    seek $fh, $at, 0;
    read $fh, my $bytes, 4 * $count;

    return unpack "V$count", $bytes;
}


sub order {
    my ($order, $at) = @_;

    open my $fh, '+<:raw', $node->{file} or die "$node->{file}: $!\n";
    syswrite $fh, pack 'V4', NONE, 0, 0, 0;     # nothing fails meanwhile
    sysseek $fh, 0, 0;
    syswrite $fh, pack 'V4', $order, $at || 0, 0, 0;

    return;
}


sub calls  { return (numbers(0, 3))[2] }
sub failed { return (numbers(0, 4))[3] }


# All sites of the node: {name, reached, failed}, in their order.

sub sites {
    my $count = (numbers(0, 6))[5];
    my @sites;

    open my $fh, '<:raw', $node->{file} or die "$node->{file}: $!\n";
    seek $fh, HEAD, 0;

    for (1 .. $count) {
        read $fh, my $bytes, SITE or last;
        my ($reached, $failed, $name) = unpack 'V V Z*', $bytes;
        push @sites, { name => $name, reached => $reached, failed => $failed };
    }

    return @sites;
}


# Those of all nodes together.

sub all_sites {
    my @all;

    for my $one (@nodes) {
        at($one);
        my @sites = sites();

        for my $i (0 .. $#sites) {
            $all[$i]{name} = $sites[$i]{name};
            $all[$i]{$_} += $sites[$i]{$_} for qw(reached failed);
        }
    }

    return @all;
}


# What the node has logged since this was asked last.

sub news {
    open my $fh, '<:raw', $g->dir . '/error.log' or return;
    seek $fh, $node->{log}, 0;
    my @lines = <$fh>;
    $node->{log} = tell $fh;
    chomp @lines;

    return @lines;
}


# The site that failed first.

sub site_of {
    my $site = (sites())[ (numbers(0, 5))[4] ];

    return $site ? $site->{name} : 'no site';
}


# Servers: nodes whose allocations fail, and another, whose do not.

my $redis = $t->redis;
my $closed = free_port();

sub body_of {
    my ($workspace, $limit) = @_;

    return contacts_body(workspace => $workspace, limit => $limit || 20);
}

# More values than fit into the memory that is kept for parsing; what was parsed
# once is not parsed again.

sub many {
    my ($workspace) = @_;

    return qq({"workspace":"$workspace","contacts":[)
           . join(',', ('{"a":1,"b":2,"c":3,"d":4,"e":5}') x 600)
           . '],"total":600,"limit":20}';
}

# The workspace says what the upstream does; outside the gateway, the path.

my %answer = (
    error   => { status => 500, body => 'oops' },
    absent  => { status => 404,
                 body => '{"error":{"code":"NOT_FOUND","message":"Nothing"}}' },
    quoted  => { status => 404, body => '{"error":{"code":"NOT_FOUND",'
                                        . '"message":"No \"such\" \u00fcber"}}' },
    later   => { status => 404, headers => [ 'Retry-After' => 7 ],
                 body => '{"error":{"code":"NOT_FOUND","message":"Not yet"}}' },
    long    => { status => 404, body => 'x' x 60_000, chunked => 1 },
    garbage => { body => '{"contacts":[' },
    cut     => { cut => 100 },
    private => { headers => [ 'Cache-Control' => 'private' ] },
    chunked => { chunked => 1 },
    pieces  => { no_length => 1, close => 1,
                 trickle => { bytes => 6000, interval => 0.002 } },
    many    => {},
    short   => { headers => [ 'Cache-Control' => 'max-age=' . FRESH ] },
    open    => { no_length => 1, close => 1 },
    slow    => { delay => 0.15 },
    dated   => { headers => [ 'Last-Modified' => 'Sun, 30 Mar 2025 14:22:00 GMT',
                              Sunset => 'Sun, 30 Mar 2036 14:22:00 GMT',
                              Deprecation => 'true' ] },
    linked  => { headers => [ map { (Link => "<https://example.com/$_>") } 1 .. 6 ] },
);

my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my ($kind) = $req->path =~ m{^/other/([a-z]+)} ? $1
               : $req->tenant =~ /^([a-z]+)/;

    return { status => 500, body => 'down' } if $vars->{down};
    return { body => many($req->tenant) } if $kind eq 'many';
    return { body => contacts_body(workspace => $req->tenant,
                                   limit => $req->args->{limit}),
             %{ $answer{$kind} || {} } };
});

my $HTTP = <<'EOC';
    convotic_forward_args tag;
    convotic_cache_bypass $arg_fresh;
    convotic_rate_headers both;
    log_format all '$convotic_workspace $convotic_key_id $convotic_platform '
                   '$convotic_limit $convotic_cache_status '
                   '$convotic_error_code $convotic_redis_time '
                   '$convotic_rate_remaining';
EOC

my $SERVER = <<'EOC';
    access_log %%DIR%%/all.log all;

    location = /strict {
        convotic on;
        convotic_unknown_args reject;
        proxy_pass http://contacts;
    }
    location = /closed {
        convotic on;
        proxy_pass http://127.0.0.1:%%PORT_closed%%;
    }
    location = /paged {
        convotic on;
        error_page 500 502 503 /sorry;
        proxy_pass http://127.0.0.1:%%PORT_closed%%;
    }
    location = /sorry { internal; return 503; }
    location = /few {
        convotic on;
        convotic_auth_failures 1;
        proxy_pass http://contacts;
    }
    location = /dry {
        convotic on;
        convotic_rate_dry_run on;
        proxy_pass http://contacts;
    }
    location = /light {
        convotic on;
        convotic_gzip on level=1;
        proxy_pass http://contacts;
    }
    location ~ ^/by/ {
        convotic on;
        proxy_pass http://contacts;
    }
    location /other/ {
        proxy_buffers 2 4k;
        proxy_busy_buffers_size 4k;
        proxy_pass http://contacts;
    }
    location = /metrics { convotic_status prometheus; }
    location = /status { convotic_status json; }
EOC

my @usual = (redis => $redis, upstream => $up, key => test_key('acme'),
             http => $HTTP, server => $SERVER);

$redis->init;
$redis->add_key(test_key('acme'), workspace => 'acme', rate => 1_000_000);

my @many = map { new_node(@usual, ssl => 1) } 1 .. NODES;
my $other = $t->nginx(@usual);

at($many[0]);


# A key of its own, unknown to every node, for each try.

my $serial = 0;

sub new_key {
    my ($kind, %field) = @_;

    my $workspace = $kind . ++$serial;
    my $key = test_key($workspace);

    $redis->add_key($key, workspace => $workspace, %field);

    return { key => $key, workspace => $workspace };
}

my %opt = (timeout => LIMIT, lax => 1);

sub ask {
    my ($c, $path, @more) = @_;

    my $own = ref $more[0] ? shift @more : {};

    return $g->get($path || '/v1/contacts', { %opt, %$own },
                   'X-API-Key' => $c->{key}, @more);
}

sub known {
    my ($c) = @_;

    $other->contacts('', 'X-API-Key' => $c->{key});
    my @ok = ask($c);
    settle();

    return $c;
}

sub stored {
    my ($c) = @_;

    wait_until(sub {
        my @names = $redis->names("convotic:body:*{$c->{workspace}}*");
        return scalar @names;
    }, BACK);

    return $c;
}


# No call for a while: what goes on after the answer is done.

sub settle {
    my $end = time() + LIMIT;
    my $seen = -1;

    while ((my $now = calls()) != $seen && time() < $end) {
        $seen = $now;
        sleep QUIET;
    }

    return;
}


# What is wrong with an answer where memory was short.

my $unanswered = 0;

sub fault_of {
    my ($res, $usual, $c) = @_;

    if ($c->{short} && closed($res)) {
        $unanswered++;
        return '';
    }

    return 'no answer' unless $res && $res->status;

    my @faults = $res->problems;

    if ($res->status == $usual->{status} && $res->status < 400) {
        push @faults, 'another body: ' . substr $res->body, 0, 100
            if defined $usual->{body}
               && $res->body ne $usual->{body}->($c);
        push @faults, "headers $res->{names}, not $usual->{names}"
            if ($res->{names} = names($res)) ne $usual->{names};
    } elsif ($res->status == $usual->{status} || $res->status >= 500) {
        push @faults, $res->error_faults($res->status);
    } else {
        push @faults, 'status ' . $res->status . ", not $usual->{status}";
    }

    return join '; ', @faults;
}

# Where not even an error can be made, the connection is closed, at once.

sub closed {
    my ($res) = @_;

    return !$res || !$res->status && ($res->closed || $res->{curl_exit});
}


sub names {
    my ($res) = @_;

    my %names = map { lc $_->[0] => 1 } $res->headers;

    delete @names{qw(connection date content-encoding)};  # may be bypassed

    return join ' ', sort keys %names;
}


# TEST_FAULT_ONLY is a pattern of names.

sub chosen {
    return !defined $ENV{TEST_FAULT_ONLY} || $_[0] =~ /$ENV{TEST_FAULT_ONLY}/;
}


# A try leaves its node to itself, which may have to connect to Redis again, and
# the next one goes to the next node.  What came of it is judged when the turn
# is that node's again: the try returns a sub for that, which returns the site
# and the faults.

my $tries = 0;
my %said;

sub turn {
    my ($one) = @_;

    at($one);
    my $judge = delete $one->{judge} or return;

    return $judge->();
}

sub turn_all { turn($_) for @nodes; return }


sub tries {
    my ($on, $calls, $step, $try) = @_;

    my ($turn, @wrong) = (0);

    for my $order (ONE, ALL) {
        for (my $at = 1; $at <= $calls; $at += $step->($order, $at)) {
            turn($on->[ $turn++ % @$on ]);
            $tries++;

            my $what = ($order == ONE ? 'call' : 'from call') . " $at of $calls";
            my $end = $try->($order, $at);

            $node->{judge} = sub {
                my ($site, @faults) = $end->();
                push @wrong, "$what, $site: " . join '; ', @faults if @faults;
            };
        }
    }

    turn_all();
    splice @wrong, 40, @wrong - 40, '...' if @wrong > 40;

    return @wrong;
}


# prepare: before, without failures; act: one or more answers.  The usual
# answer is what is said of it: status, body; but: what the log may say here.

sub scenario {
    my ($name, %arg) = @_;

    return unless chosen($name);

    my $usual = { status => $arg{status} || 200, body => $arg{body} };
    my $prepare = $arg{prepare} || sub { new_key('cold') };
    my $act = $arg{act};
    my $on = $arg{on} || \@many;

    # What is allocated once in a worker's life is no part of it.

    my ($calls, @res) = (0);

    for my $one ($on->[0], @$on) {
        turn($one);
        my $c = $prepare->();
        settle();
        order(NONE);
        @res = $act->($c);
        settle();
        $calls = calls() if calls() > $calls || $one == $on->[0];
    }

    is(join(' ', map { $_ ? $_->status : 'none' } @res),
       join(' ', ($usual->{status}) x @res), "$name: the usual status");
    $usual->{names} = $res[0] ? names($res[0]) : '';

    $calls = $arg{most} if $arg{most} && $calls > $arg{most};
    my $samples = 1 + int($calls / SAMPLES);

    my @wrong = tries($on, $calls, sub { $_[0] == ONE ? 1 : $samples }, sub {
        my ($order, $at) = @_;

        my $c = $prepare->();
        $c->{short} = $order == ALL;
        settle();
        news();
        order($order, $at);
        my $start = time();
        my @now = $act->($c);
        my $took = time() - $start;
        settle();
        my ($site, $failed) = (site_of(), failed());
        order(NONE);

        my @faults = grep { length } map { fault_of($_, $usual, $c) } @now;
        push @faults, sprintf 'after %.1f s', $took
            if $took > ($arg{limit} || LIMIT) * $Convotic::Process::FACTOR - 0.5;

        return sub {
            my $again = ok_again();
            my @lines = news();

            push @faults, "then $again" if $again;
            push @faults, 'the worker died' unless lives();
            push @faults, map { "it says \"$_\"" } untrue($arg{but}, @lines);

            return $site unless $failed;
            note_said($site, @lines) if $order == ONE;

            return ($site, @faults);
        };
    });

    ok(!@wrong, "$name: $calls allocations") or diag(map { "    $_\n" } @wrong);

    return;
}


sub lives {
    return 1 if kill 0, $node->{worker};

    $node->{worker} = ($g->workers)[0];

    return 0;
}


# From what stands behind the time, the level and the process.

sub untrue {
    my ($allowed, @lines) = @_;

    my %seen;

    return grep { !$seen{$_}++ } map { s/^.*?\d#\d+: (?:\*\d+ )?//r }
        grep { $_ =~ $UNTRUE && !($allowed && $_ =~ $allowed) } @lines;
}


sub note_said {
    my ($site, @lines) = @_;

    for (grep { /\[(?:warn|error|crit|alert|emerg)\]/ } @lines) {
        $said{$site}{ s/^.*?(\[\w+\]) \d+#\d+: (?:\*\d+ )?/$1 /r
                      =~ s/, client: .*|, redis: .*//r
                      =~ s/[a-z]+\d+(?=["&])/.../r }++;
    }

    return;
}


sub ok_again {
    my $end = time() + BACK;
    my $why;

    for (;;) {
        my $res = eval { $g->contacts('', \%opt) };

        $why = !$res || !$res->status ? 'no answer'
             : $res->status != 200    ? 'status ' . $res->status
             : $res->body ne body_of('acme') ? 'another body' : undef;

        $why = 'Redis is away' if !defined $why && !connected();

        return $why if !defined $why || time() > $end;
        sleep 0.02;
    }
}

sub connected {
    my $res = $g->get('/status', \%opt);
    my $status = $res && $res->status == 200 && $res->json || {};

    return $status->{tracking_confirmed}
           && !grep { $_ } values %{ $status->{redis_away} };
}


ok(scalar sites(), 'nginx has sites that can fail');
is(ok_again(), undef, 'the gateway answers');

my $OWN = sub { body_of($_[0]{workspace}) };
my $THREE = sub { body_of($_[0]{workspace}, 3) };
my $HUNDRED = sub { body_of($_[0]{workspace}, 100) };


# Cold, and known.

scenario('cold', body => $OWN, act => sub { ask(@_) });
scenario('cold, HEAD', body => sub { '' },
         act => sub { ask(@_, undef, { method => 'HEAD' }) });
scenario('cold, gzip', act => sub { ask(@_, undef, 'Accept-Encoding' => 'gzip') });
scenario('cold, by HTTP/2', body => $OWN, act => sub { ask(@_, undef, { h2 => 1 }) });
scenario('parameters', body => $THREE, act => sub {
    ask(@_, '/v1/contacts?p%6Catform=line&limit=%33&tag=a%20b&x=%7e&y=1&z=2');
});
scenario('a hundred', body => $HUNDRED,
         act => sub { ask(@_, '/v1/contacts?limit=100') });
scenario('of any path', body => $OWN, act => sub { ask(@_, "/by/$_[0]{workspace}") });
scenario('a known key', prepare => sub { known(new_key('known')) }, body => $THREE,
         act => sub { ask(@_, '/v1/contacts?limit=3') });
scenario('kept in the worker', prepare => sub { known(new_key('local')) },
         body => $OWN, act => sub { ask(@_) });
scenario('kept, gzip', prepare => sub { known(new_key('packed')) },
         act => sub { ask(@_, undef, 'Accept-Encoding' => 'gzip') });
scenario('another level of gzip', prepare => sub {
    ask(known(new_key('packed')), undef, 'Accept-Encoding' => 'gzip');
    return new_key('light');
}, act => sub { ask(@_, '/light', 'Accept-Encoding' => 'gzip') });
scenario('not modified', status => 304, prepare => sub {
    my $c = new_key('tag');
    $c->{etag} = ask($c)->header('ETag');
    return $c;
}, act => sub { ask(@_, undef, 'If-None-Match' => $_[0]{etag}) });
scenario('a range', status => 206, prepare => sub { known(new_key('range')) },
         act => sub { ask(@_, undef, Range => 'bytes=0-9') });
scenario('kept in Redis', body => $OWN, prepare => sub {
    my $c = new_key('shared');
    $other->contacts('', 'X-API-Key' => $c->{key});
    return stored($c);
}, act => sub { ask(@_) });
scenario('bypassed', body => $OWN, act => sub { ask(@_, '/v1/contacts?fresh=1') });


# Refused.

scenario('no key', status => 401, prepare => sub { { key => undef } },
         act => sub { ask(@_) });
scenario('an unknown key', status => 401,
         prepare => sub { { key => test_key('nobody' . ++$serial) } },
         act => sub { ask(@_) });
scenario('a malformed record', status => 401,
         prepare => sub { new_key('bad', status => 'odd') }, act => sub { ask(@_) });
scenario('two keys', status => 400, act => sub { ask(@_, undef, 'X-API-Key' => 'x') });
scenario('a method', status => 405,
         act => sub { ask(@_, undef, { method => 'PUT' }) });
scenario('a body', status => 400,
         act => sub { ask(@_, undef, { method => 'GET', body => 'x' }) });
scenario('a parameter', status => 400, act => sub { ask(@_, '/v1/contacts?limit=0') });
scenario('an unknown one', status => 400, act => sub { ask(@_, '/strict?x%41=1') });
scenario('a malformed query', status => 400,
         act => sub { ask(@_, '/v1/contacts?x=%0') });
scenario('not found', status => 404, act => sub { ask(@_, '/nothing') });
scenario('a malformed request', status => 400, act => sub {
    ($g->raw("GET / HTTP/1.1\r\n\r\n", %opt))[0];
});


# Rates.

sub spent { return known(new_key('spent', rate => 2)) }

scenario('the rate', status => 429,
         prepare => sub { my $c = spent(); ask($c) for 1, 2; $c },
         act => sub { ask(@_) });
scenario('a lease', body => $OWN,
         prepare => sub { my $c = new_key('lease'); ask($c) for 1, 2; $c },
         act => sub { my @r = map { ask(@_) } 1 .. 3; @r });
scenario('a dry run', body => $OWN,
         prepare => sub { my $c = spent(); ask($c, '/dry') for 1 .. 3; $c },
         act => sub { ask(@_, '/dry') });
scenario('too many unknown keys', status => 429, prepare => sub {
    for (1 .. 5) {
        my $res = ask({ key => test_key('few' . ++$serial) }, '/few');
        last if $res && $res->status == 429;
    }
    return { key => test_key('few' . ++$serial) };
}, act => sub { ask(@_, '/few') });


# The upstream.

my %status = (error => 500, garbage => 502, cut => 502, absent => 404, quoted => 404,
              later => 404, long => 404);
my %body = (pieces => $HUNDRED, many => sub { many($_[0]{workspace}) });

for my $kind (sort grep { !/short|slow/ } keys %answer) {
    scenario("the upstream: $kind", status => $status{$kind} || 200,
             prepare => sub { new_key($kind) },
             body => $status{$kind} ? undef : $body{$kind} || $OWN,
             act => sub { ask(@_, $kind eq 'pieces' ? '/v1/contacts?limit=100' : undef) },
             but => $kind eq 'garbage' ? qr/it is not JSON/ : undef);
}

scenario('the upstream: away', status => 502, act => sub { ask(@_, '/closed') });
scenario('away, and a page for it', status => 502, act => sub { ask(@_, '/paged') });
scenario("another location's error: $_", status => $status{$_},
         act => sub { ask(@_, "/other/$_[0]{workspace}") },
         prepare => do { my $kind = $_; sub { new_key($kind) } })
    for qw(absent quoted long error);


# Stale: what is kept becomes old for many tries at the same time.

sub stock {
    turn_all();

    for my $one (@many) {
        at($one);
        $one->{old} = [ map { my $c = new_key('short'); ask($c); $c } 1 .. STOCK ];
    }

    sleep FRESH + 0.1;

    return;
}

sub old {
    my ($down) = @_;

    my $one = $node;

    unless (@{ $one->{old} || [] }) {
        $up->set(down => 0) if $down;
        stock();
        $up->set(down => 1) if $down;
        at($one);
    }

    return shift @{ $one->{old} };
}

scenario('old, fetched anew', body => $OWN, prepare => sub { old() },
         act => sub { ask(@_) });
$up->set(down => 1);
scenario('old, the upstream fails', body => $OWN, prepare => sub { old(1) },
         act => sub { ask(@_) });
$up->set(down => 0);


# Several at a time.

sub crowd {
    my ($c) = @_;

    return $g->concurrent([ map { [ '/v1/contacts', {}, 'X-API-Key' => $c->{key} ] }
                            1 .. 3 ], timeout => LIMIT);
}

scenario('three at a time', body => $OWN, act => \&crowd);
scenario('three that wait', body => $OWN, prepare => sub { new_key('slow') },
         act => \&crowd);
scenario('three that wait for what fails', status => 404,
         prepare => sub { new_key('later') }, act => \&crowd);
scenario('behind another node', body => $OWN, prepare => sub { new_key('slow') },
         act => sub {
    my ($c) = @_;

    my $conn = $other->connect;
    $conn->write(Convotic::HTTP::request_text('/v1/contacts', {},
                                              'X-API-Key' => $c->{key}));
    sleep 0.03;
    my $res = ask($c);
    $conn->read('GET');
    $conn->close;

    return $res;
});


scenario('purged meanwhile', body => $OWN, prepare => sub { new_key('slow') }, act => sub {
    my ($c) = @_;

    my $conn = $g->connect;
    $conn->write(Convotic::HTTP::request_text('/v1/contacts', { version => '1.0' },
                                              'X-API-Key' => $c->{key}));
    sleep 0.03;
    $redis->purge($c->{workspace});
    my ($res) = $conn->read_all(['GET'], until_close => 1, timeout => LIMIT);
    $conn->close;

    return $res;
});
scenario('the client leaves', prepare => sub { new_key('slow') }, act => sub {
    my ($c) = @_;

    my $conn = $g->connect;
    $conn->write(Convotic::HTTP::request_text('/v1/contacts', {},
                                              'X-API-Key' => $c->{key}));
    sleep 0.02;
    $conn->close;
    sleep 0.2;

    return;
});


# Connections to Redis.

# Those of the node's worker, as Redis sees them: id => what for.

sub clients {
    my %for;

    for (split /\n/, $redis->cmd('CLIENT', 'LIST')) {
        $for{$1} = $2 || '' if /^id=(\d+) .* name=ngx_convotic-$node->{worker}(?:-(\w+))? /;
    }

    return \%for;
}

# Until both are there, once named.  Where all fails they do not come back.

sub linked {
    my ($c) = @_;

    if ($c->{short}) {
        sleep 0.3;
    } else {
        wait_until(sub { keys %{ clients() } >= 2 }, 2 * LIMIT);
        settle();
    }

    return;
}

sub cut {
    my ($c, $which) = @_;

    my $clients = clients();

    $redis->try_cmd('CLIENT', 'KILL', 'ID', $_)
        for grep { $clients->{$_} =~ $which } keys %$clients;
    sleep 0.02;
    linked($c);

    return ask($c);
}

my $so_it_is = qr/Redis is away: it closed the connection/;

scenario('a connection anew', body => $OWN, prepare => sub { new_key('again') },
         limit => 3 * LIMIT, but => $so_it_is,
         act => sub { cut(@_, qr/^(?!tracking)/) });
scenario('tracking anew', body => $OWN, prepare => sub { new_key('tracked') },
         limit => 3 * LIMIT, but => $so_it_is,
         act => sub { cut(@_, qr/^tracking/) });


# A server that is away and has a name, which nobody resolves any more.

my @named;

for (chosen('a name') ? (1 .. 3) : ()) {
    my $proxy = $t->byte_proxy(to => $redis);
    my $port = $proxy->port;

    push @named, new_node(@usual, http => $HTTP . <<"EOC");
    resolver 127.0.0.1:$closed ipv6=off;
    resolver_timeout 50ms;
    convotic_redis redis://localhost:$port/0;
EOC
    $named[-1]{proxy} = $proxy;
}

scenario('a name', on => \@named, body => $OWN, limit => 3 * LIMIT, most => 12,
         but => $so_it_is, prepare => sub {
    my $c = new_key('named');

    $node->{proxy}->accept('refuse');
    $node->{proxy}->rst;
    wait_until(sub { !connected() }, BACK);

    return $c;
}, act => sub {
    $node->{proxy}->accept('open');
    linked(@_);
    return ask(@_);
});


# The rest.

scenario("the status: $_", act => sub { ask(@_, "/$_") }) for qw(status metrics);


# "nginx -t": an error, or none; never a crash.

# The file is its own, for a worker that runs would count, too.

sub tested {
    my ($nginx, $order, $at) = @_;

    local $ENV{CONVOTIC_FAULT} = $node->{file};

    order($order, $at);
    my $res = $nginx->test_config;
    my ($site, $calls) = (site_of(), calls());
    order(NONE);

    my $fault = $res->{signal}                                   ? "signal $res->{signal}"
              : $res->{out} =~ /(\S+Sanitizer.*|runtime error.*)/ ? $1
              : $res->{out} =~ /($UNTRUE.*)/                      ? "it says $1"
              : $res->{exit} > 1                                  ? "exit $res->{exit}"
              : $order == NONE && $res->{exit}                    ? $res->{out} : '';

    return ($site, $calls, length $fault ? $fault : ());
}

# Nobody's configuration, with all that needs memory.

my $password = $t->write_file('password', "secret\n");
my $every = $t->nginx(start => 0, redis => $redis, http => <<"EOC", location => <<'EOL');
    convotic_redis redis://user:p%40ss\@localhost:6379/1;
    convotic_cache_redis redis://127.0.0.1:6379/2 password_file=$password;
    convotic_redis_prefix some:;
    convotic_zone 1m;
    convotic_platforms a b c d e f;
    convotic_forward_args tag sort page;
    resolver 127.0.0.1;
EOC
    convotic_platforms x y;
    convotic_forward_args z;
    convotic_cache_bypass $arg_a $arg_b;
    convotic_cache_namespace some;
    convotic_rate 10;
    convotic_limit default=1 max=5;
EOL

my $tested = { file => $t->write_file('fault', "\0" x HEAD) };
my $calls_of_start = 0;

push @nodes, $tested;

for ([ 'nginx -t', $many[0]{nginx} ], [ 'nginx -t, of all directives', $every ]) {
    my ($name, $nginx) = @$_;

    next unless chosen($name);

    at($tested);
    my ($site, $calls, @faults) = tested($nginx, NONE);
    is("@faults", '', "$name: the usual exit");
    $calls_of_start ||= $calls;

    my @wrong = tries([ $tested ], $calls, sub { $_[0] == ONE ? 1 : SAMPLES }, sub {
        my ($site, $calls, @faults) = tested($nginx, @_);
        return sub { ($site, @faults) };
    });

    ok(!@wrong, "$name: $calls allocations") or diag(map { "    $_\n" } @wrong);
}


# A reload and another binary, with what a worker allocates at its start.
# Where the configuration is refused, the old workers stay.

sub started {
    my ($name, $on, $step, $signal, $end) = @_;

    return unless chosen($name);

    my @wrong = tries($on, $on->[0]{calls}, $step, sub {
        my $state = { pid => $g->pid, workers => { map { $_ => 1 } $g->workers } };

        settle();
        news();
        order(@_);
        $signal->($state);

        return sub {
            my @faults = $end->($state);
            my $site = site_of();

            order(NONE);
            wait_until(sub { !$g->old_workers && $g->workers == 1 }, BACK);
            $node->{worker} = ($g->workers)[0];

            my $again = ok_again();
            push @faults, "then $again" if $again;
            my @lines = news();
            push @faults, map { "it says \"$_\"" } untrue(undef, @lines);
            note_said($site, @lines) if failed();

            return ($site, @faults);
        };
    });

    ok(!@wrong, "$name: $on->[0]{calls} allocations")
        or diag(map { "    $_\n" } @wrong);

    return;
}

# What is read again is read as by "nginx -t".

my $rarely = sub {
    my ($order, $at) = @_;

    return $order == ALL ? 3 * SAMPLES : $at < $calls_of_start - SAMPLES ? SAMPLES : 1;
};

if (chosen('a reload')) {
    at($many[0]);
    order(NONE);
    ok($g->reload(gone => 1), 'a reload');
    $node->{worker} = ($g->workers)[0];
    settle();
    $node->{calls} = calls();
}

started('a reload', \@many, $rarely, sub { $g->signal('HUP') }, sub {
    my ($state) = @_;

    wait_until(sub { failed() || grep { !$state->{workers}{$_} } $g->workers }, BACK);
    settle();

    return;
});

my @daemons = map { new_node(@usual, daemon => 1, main => 'env CONVOTIC_FAULT;') }
    chosen('another binary') ? (1 .. 4) : ();

if (@daemons) {
    at($daemons[0]);
    order(NONE);
    ok($g->upgrade, 'another binary');
    $node->{worker} = ($g->workers)[0];
    settle();
    $node->{calls} = calls();
}

started('another binary', \@daemons, sub { 2 * $rarely->(@_) }, sub {
    my ($state) = @_;

    kill 'USR2', $state->{pid};
    wait_until(sub { $g->pid_of_file('.oldbin') || failed() }, BACK);
}, sub {
    my ($state) = @_;

    # either the new one has failed, and the old one is alone again

    wait_until(sub {
        !$g->pid_of_file('.oldbin')
        || ($g->pid_of_file || $state->{pid}) != $state->{pid} && $g->workers >= 2;
    }, BACK) or return 'neither of them';

    return unless $g->pid_of_file('.oldbin');

    settle();
    kill 'QUIT', $state->{pid};
    wait_until(sub {
        !grep { $_->{pid} == $state->{pid} } Convotic::Process::living()
    }, BACK) or return 'the old one stays';

    return;
});


# Nothing was left behind.

is(scalar(grep { at($_); $g && $g->get('/status')->json->{waiting} } @nodes), 0,
   'nobody waits');

my @sites = all_sites();

for my $site (sort keys %said) {
    note("$site\n", map { "    $_\n" } sort keys %{ $said{$site} });
}

sub unreached { return $UNREACHED{ $_[0]{name} =~ s/^\S+ //r } }

unless (defined $ENV{TEST_FAULT_ONLY}) {
    my @never = grep { !$_->{failed} && !unreached($_) } @sites;
    my @wrong = grep { $_->{failed} && unreached($_) } @sites;

    ok(!@never, 'every allocation has failed once')
        or diag(map { "    $_->{name}, reached $_->{reached} times\n" } @never);
    ok(!@wrong, 'but for those that cannot')
        or diag(map { "    $_->{name}\n" } @wrong);
}

note(scalar(@sites), ' sites, ', scalar(grep { $_->{failed} } @sites),
     " have failed, $tries tries, $unanswered requests without an answer");

$t->finish;
