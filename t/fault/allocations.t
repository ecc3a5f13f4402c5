#!/usr/bin/perl

# Memory that runs out: in each of many kinds of request the first allocation
# of the module fails, then the second alone, and so on to the last; then the
# same again with all that follow failing, too.  What is allowed is the answer
# that there would have been, or a documented error; then all is well again.
# The same for "nginx -t" and for a reload.
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
    HEAD => 24, SITE => 120, NAME => 8, # bytes of its structures
    QUIET => 0.01,                      # s without a call: all is done
    SAMPLES => 10,                      # tries where all that follow fail
    LIMIT => 4,                         # s that an answer may take
    BACK => 10,                         # s until something has happened
    FRESH => 1,                         # s, of what becomes stale
};

my $t = Convotic::Test->new(rates => 1);
my $file = $t->write_file('fault', "\0" x HEAD);

plan(skip_all => 'for an nginx with t/fault: t/run --fail-malloc')
    unless $ENV{TEST_FAULT};

alarm 1500 * $Convotic::Process::FACTOR;


# What fault.c shares.

sub numbers {
    my ($at, $count) = @_;

    open my $fh, '<:raw', $file or die "$file: $!\n";
    seek $fh, $at, 0;
    read $fh, my $bytes, 4 * $count;

    return unpack "V$count", $bytes;
}


sub order {
    my ($order, $at) = @_;

    open my $fh, '+<:raw', $file or die "$file: $!\n";
    syswrite $fh, pack 'V4', NONE, 0, 0, 0;     # nothing fails meanwhile
    sysseek $fh, 0, 0;
    syswrite $fh, pack 'V4', $order, $at || 0, 0, 0;

    return;
}


sub calls  { return (numbers(0, 3))[2] }
sub failed { return (numbers(0, 4))[3] }


# All sites: {name, reached, failed}, in their order.

sub sites {
    my $count = (numbers(0, 6))[5];
    my @sites;

    open my $fh, '<:raw', $file or die "$file: $!\n";
    seek $fh, HEAD, 0;

    for (1 .. $count) {
        read $fh, my $bytes, SITE;
        my ($reached, $failed, $name) = unpack 'V V Z*', $bytes;
        push @sites, { name => $name, reached => $reached, failed => $failed };
    }

    return @sites;
}


# The site that failed first.

sub site_of {
    my $site = (sites())[ (numbers(0, 5))[4] ];

    return $site ? $site->{name} : 'no site';
}


# Servers: a gateway whose allocations fail, and another node, whose do not.

my $redis = $t->redis;
my $closed = free_port();

sub body_of {
    my ($workspace, $limit) = @_;

    return contacts_body(workspace => $workspace, limit => $limit || 20);
}

# The workspace says what the upstream does.

my %answer = (
    error   => { status => 500, body => 'oops' },
    absent  => { status => 404,
                 body => '{"error":{"code":"NOT_FOUND","message":"Nothing"}}' },
    garbage => { body => '{"contacts":[' },
    cut     => { cut => 100 },
    private => { headers => [ 'Cache-Control' => 'private' ] },
    chunked => { chunked => 1 },
    short   => { headers => [ 'Cache-Control' => 'max-age=' . FRESH ] },
    open    => { no_length => 1, close => 1 },
    slow    => { delay => 0.15 },
    dated   => { headers => [ 'Last-Modified' => 'Sun, 30 Mar 2025 14:22:00 GMT',
                              Sunset => 'Sun, 30 Mar 2036 14:22:00 GMT',
                              Deprecation => 'true' ] },
);

my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my ($kind) = $req->tenant =~ /^([a-z]+)/;

    return { status => 500, body => 'down' } if $vars->{down};
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
    location = /metrics { convotic_status prometheus; }
    location = /status { convotic_status json; }
EOC

my @usual = (redis => $redis, upstream => $up, key => test_key('acme'),
             http => $HTTP, server => $SERVER);

$redis->init;
$redis->add_key(test_key('acme'), workspace => 'acme', rate => 1_000_000);

my $g = $t->nginx(@usual, env => { CONVOTIC_FAULT => $file });
my $other = $t->nginx(@usual);


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

sub fault_of {
    my ($res, $usual, $c) = @_;

    return '' if $c->{short} && closed($res);
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

sub closed { return !$_[0] || $_[0]->closed && !$_[0]->status }


sub names {
    my ($res) = @_;

    my %names = map { lc $_->[0] => 1 } $res->headers;

    delete @names{qw(connection date content-encoding)};  # may be bypassed

    return join ' ', sort keys %names;
}


# prepare: before, without failures; act: one or more answers.  The usual
# answer is what is said of it: status, body.

my $tries = 0;

# TEST_FAULT_ONLY is a pattern of names.

sub chosen {
    return !defined $ENV{TEST_FAULT_ONLY} || $_[0] =~ /$ENV{TEST_FAULT_ONLY}/;
}


sub scenario {
    my ($name, %arg) = @_;

    return unless chosen($name);

    my $usual = { status => $arg{status} || 200, body => $arg{body} };
    my $prepare = $arg{prepare} || sub { new_key('cold') };
    my $act = $arg{act};

    # Twice: what is allocated once in a worker's life is no part of it.

    my ($calls, @res, $c);

    for my $round (0, 1) {
        $c = $prepare->();
        settle();
        order(NONE);
        @res = $act->($c);
        settle();
        $calls = calls();
    }

    is(join(' ', map { $_ ? $_->status : 'none' } @res),
       join(' ', ($usual->{status}) x @res), "$name: the usual status");
    $usual->{names} = $res[0] ? names($res[0]) : '';

    my @wrong;

    for my $order (ONE, ALL) {
        my $step = $order == ONE ? 1 : 1 + int($calls / SAMPLES);

        for (my $at = 1; $at <= $calls; $at += $step) {
            my ($worker) = $g->workers;

            $c = $prepare->();
            $c->{short} = $order == ALL;
            settle();
            order($order, $at);
            my $start = time();
            @res = $act->($c);
            my $took = time() - $start;
            settle();
            my ($site, $failed) = (site_of(), failed());
            order(NONE);
            $tries++;

            my @faults = grep { length } map { fault_of($_, $usual, $c) } @res;
            my $again = ok_again();

            push @faults, "then $again" if $again;
            push @faults, 'the worker died' if !grep { $_ == $worker } $g->workers;
            push @faults, sprintf 'after %.1f s', $took
                if $took > ($arg{limit} || LIMIT) - 0.5;
            next unless @faults && $failed;

            push @wrong, sprintf '%s %d of %d, %s: %s',
                $order == ONE ? 'call' : 'from call', $at, $calls, $site,
                join '; ', @faults;
        }
    }

    splice @wrong, 40, @wrong - 40, '...' if @wrong > 40;
    ok(!@wrong, "$name: $calls allocations") or diag(map { "    $_\n" } @wrong);

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


# Cold, and known.

scenario('cold', body => $OWN, act => sub { ask(@_) });
scenario('cold, HEAD', body => sub { '' },
         act => sub { ask(@_, undef, { method => 'HEAD' }) });
scenario('cold, gzip', act => sub { ask(@_, undef, 'Accept-Encoding' => 'gzip') });
scenario('parameters', body => $THREE, act => sub {
    ask(@_, '/v1/contacts?p%6Catform=line&limit=%33&tag=a%20b&x=%7e');
}, body => sub { contacts_body(workspace => $_[0]{workspace}, limit => 3) });
scenario('a known key', prepare => sub { known(new_key('known')) }, body => $THREE,
         act => sub { ask(@_, '/v1/contacts?limit=3') });
scenario('kept in the worker', prepare => sub { known(new_key('local')) },
         body => $OWN, act => sub { ask(@_) });
scenario('kept, gzip', prepare => sub { known(new_key('packed')) },
         act => sub { ask(@_, undef, 'Accept-Encoding' => 'gzip') });
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
ask({ key => test_key('x' . $_) }, '/few') for 1 .. 3;
scenario('too many unknown keys', status => 429,
         prepare => sub { my $c = { key => test_key('few' . ++$serial) };
                          ask({ key => test_key('more' . $serial) }, '/few'); $c },
         act => sub { ask(@_, '/few') });


# The upstream.

for my $kind (sort grep { !/short|slow/ } keys %answer) {
    my %status = (error => 502, garbage => 502, cut => 502, absent => 404);

    $status{error} = 500;
    scenario("the upstream: $kind", status => $status{$kind} || 200,
             prepare => sub { new_key($kind) },
             body => $status{$kind} ? undef : $OWN, act => sub { ask(@_) });
}

scenario('the upstream: away', status => 502, act => sub { ask(@_, '/closed') });


# Stale: what is kept becomes old for all tries at the same time.

{
    my @old;
    my $tries = chosen('old') ? 150 : 0;
    my $more = sub {
        push @old, map { my $c = new_key('short'); ask($c); $c } 1 .. $tries;
        sleep FRESH + 0.1;
    };
    my $take = sub { $more->() unless @old; return shift @old };

    scenario('old, fetched anew', body => $OWN, prepare => $take,
             act => sub { ask(@_) });
    @old = ();
    $more->() if chosen('old');
    $up->set(down => 1);
    scenario('old, the upstream fails', body => $OWN, prepare => sub {
        unless (@old) {
            $up->set(down => 0);
            $more->();
            $up->set(down => 1);
        }
        return shift @old;
    }, act => sub { ask(@_) });
    $up->set(down => 0);
}


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
         prepare => sub { new_key('absent') }, act => \&crowd);
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


# Connections to Redis.

scenario('a connection anew', body => $OWN, prepare => sub { new_key('again') },
         limit => 3 * LIMIT, act => sub {
    $redis->cmd('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    sleep 0.05;
    wait_until(\&connected, 2 * LIMIT);
    return ask(@_);
});

scenario('tracking anew', body => $OWN, prepare => sub { new_key('tracked') },
         limit => 5 * LIMIT, act => sub {
    $redis->cmd('CLIENT', 'KILL', 'TYPE', 'pubsub');
    sleep 0.05;
    wait_until(\&connected, 2 * LIMIT);
    return ask(@_);
});


# The rest.

scenario("the status: $_", act => sub { ask(@_, "/$_") }) for qw(status metrics);


# "nginx -t": an error, or none; never a crash.

sub each_call {
    my ($name, $calls, $try) = @_;

    my @wrong;

    for my $order (ONE, ALL) {
        for my $at (1 .. $calls) {
            order($order, $at);
            my $fault = $try->();
            my $site = site_of();
            order(NONE);
            $tries++;
            push @wrong, ($order == ONE ? '' : 'from ') . "call $at, $site: $fault"
                if length $fault;
        }
    }

    splice @wrong, 40, @wrong - 40, '...' if @wrong > 40;
    ok(!@wrong, "$name: $calls allocations") or diag(map { "    $_\n" } @wrong);

    return;
}

if (chosen('nginx -t')) {
    local $ENV{CONVOTIC_FAULT} = $file;
    my $of = sub { $_[0]{out} =~ /(\S+Sanitizer.*|runtime error.*)/ ? $1 : '' };

    order(NONE);
    is($g->test_config->{exit}, 0, 'nginx -t: the usual exit');
    each_call('nginx -t', calls(), sub {
        my $res = $g->test_config;

        return 'signal ' . $res->{signal} if $res->{signal};
        return $of->($res) if length $of->($res);
        return "exit $res->{exit}: $res->{out}" if $res->{exit} > 1;
        return '';
    });
}


# A reload, with what a worker allocates at its start.

if (chosen('a reload')) {
    order(NONE);
    ok($g->reload(gone => 1), 'a reload');
    settle();

    # Where the configuration is refused, the old workers stay.

    each_call('a reload', calls(), sub {
        my %old = map { $_ => 1 } $g->workers;

        $g->signal('HUP');
        wait_until(sub { failed() || grep { !$old{$_} } $g->workers }, BACK);
        settle();
        order(NONE);
        wait_until(sub { !$g->old_workers }, BACK);

        my $again = ok_again() or return '';

        $g->reload(gone => 1);
        return "then $again" . (ok_again() ? ', for good' : ', until the next');
    });
}


# Nothing was left behind.

my $rest = $g->get('/status')->json;

is($rest->{waiting}, 0, 'nobody waits');

note(map { "failed: $_->{name}\n" } grep { $_->{failed} } sites());

my @never = map { $_->{name} } grep { !$_->{failed} } sites();

ok(!@never, 'every allocation has failed once') or diag(map { "    $_\n" } @never)
    unless defined $ENV{TEST_FAULT_ONLY};
note(scalar(sites()), " sites, $tries tries");

$t->finish;
