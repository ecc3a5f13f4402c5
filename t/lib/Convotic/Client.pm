package Convotic::Client;

use strict;
use warnings;

use Compress::Zlib qw(memGunzip);
use IO::Socket::INET;
use JSON::PP ();
use List::Util qw(max);
use Socket qw(SOL_SOCKET SO_LINGER IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Convotic::HTTP;
use Convotic::Ledger;
use Convotic::Process;
use Convotic::Response;
use Convotic::Upstream qw(contacts_body);

use constant {
    HUNG       => 15,           # seconds without an answer
    CONNS      => 60,           # for each node, at most
    IDLE       => 12,           # kept for each node, at most
    RENEW      => 0.05,         # the share of requests that end a connection
    ABORT      => 0.02,         # of those that the client gives up
    BODIES     => 4000,         # expected bodies that are kept
    TAGS       => 20_000,       # entity tags that are remembered
    LEFT       => 0.1,          # seconds around the death of a worker
    PAUSE      => 0.01,         # seconds of a turn at the end
    PAUSED     => 0.25,         # of a turn: the machine has no time for it
    SAID       => 20,           # violations of a kind that are told
    WINDOW     => 60,           # seconds, of a rate
    ASKED      => 1,            # seconds that a question to Redis takes, at most
    APART      => 1.5,          # seconds between the ends of two windows, at least
};

my $json = JSON::PP->new->ascii->allow_nonref->canonical;

my $ERROR = qr/\A\{"error":\{"code":"([A-Z_]+)","message":"([^"\\]+)"\}\}\z/;

my %code = (400 => 'INVALID_REQUEST', 401 => 'UNAUTHORIZED', 404 => 'NOT_FOUND',
            405 => 'INVALID_REQUEST', 429 => 'RATE_LIMITED');

my @LIMITS = (undef, 1, 2, 3, 5, 8, 20, 100);
my @PLATFORMS = (undef, undef, 'line', 'instagram');


sub clock { return clock_gettime(CLOCK_MONOTONIC) }


# nodes: name => port; keys: name => {key, workspace, kind}; rate: requests a
# second; stale: {key, body, sure}, seconds that a record and a body are used
# without Redis at most, and a record at least; control: a socket to the one who
# changes things; rate_of: name => the rate of a limited key; floods: [{node,
# file}], what t/lib/flood.lua says.

sub new {
    my ($class, %arg) = @_;

    return bless {
        %arg,
        ledger => Convotic::Ledger->new, conns => {}, idle => {}, in => '',
        stat   => { sent => 0, answers => 0, status => {}, checked => {},
                    bad => {}, aborted => 0, retried => 0, lost => 0,
                    skipped => 0, refused_during => {}, busy => 0, made => 0,
                    flood => { answers => 0, checked => {}, status => {}, lost => 0,
                               ended => 0, busy => 0, nodes => {}, sums => {} } },
        bodies => {}, tags => {}, next_id => 0, admitted => {}, limited => {},
    }, $class;
}


sub run {
    my ($self) = @_;

    srand $self->{seed};
    $self->{control}->blocking(0);

    my $names = $self->{keys};
    for my $name (keys %$names) {
        push @{ $self->{by_kind}{ $names->{$name}{kind} } }, $name;
    }
    @$_ = sort @$_ for values %{ $self->{by_kind} };

    my $next = clock();
    my $last = $next;
    my $sweep = 0;

    until ($self->{over} && !$self->_busy) {
        my $now = clock();

        $self->{stat}{pauses}++ if $now - $last > PAUSED;
        $self->{stat}{pause} = max($self->{stat}{pause} || 0, $now - $last);
        $last = $now;

        while ($next <= $now && !$self->{over}) {
            $self->_send_next($now);
            $next += 2 * rand() / $self->{rate};
            $next = $now if $next < $now - 1;
        }

        $self->_turn($self->{over} ? PAUSE : $next - $now);

        if (clock() > $sweep) {
            $self->_sweep(clock());
            $self->_read_floods;
            $sweep = clock() + 0.1;
        }
    }

    $self->_read_floods;
    $self->_tell(end => $self->_summary);

    return;
}


sub _busy { return scalar grep { $_->{req} } values %{ $_[0]{conns} } }


sub _tell {
    my ($self, @what) = @_;

    my $line = $json->encode(\@what) . "\n";
    my $control = $self->{control};

    $control->blocking(1);

    while (length $line) {
        my $n = syswrite $control, $line or last;
        substr($line, 0, $n, '');
    }

    $control->blocking(0);

    return;
}


# What is changed is noted before any answer that may rest on it is judged.

sub _hear {
    my ($self) = @_;

    while (1) {
        my $n = sysread $self->{control}, $self->{in}, 65536, length $self->{in};
        $self->{over} = 1 if defined $n && $n == 0;
        last unless $n;
    }

    while ($self->{in} =~ s/^(.*)\n//) {
        my ($what, @rest) = @{ $json->decode($1) };

        if ($what eq 'stop') {
            $self->{over} = 1;
        } elsif ($what eq 'figures') {
            $self->_tell(figures => $self->{stat});
        } else {
            $self->{ledger}->announce($what, @rest);
        }
    }

    return;
}


# One turn of the loop.

sub _turn {
    my ($self, $seconds) = @_;

    my ($read, $write) = ('', '');

    vec($read, fileno $self->{control}, 1) = 1;

    for my $conn (values %{ $self->{conns} }) {
        vec($read, $conn->{fd}, 1) = 1;
        vec($write, $conn->{fd}, 1) = 1 if length $conn->{out};
    }

    $seconds = 0 if $seconds < 0;
    $seconds = 0.05 if $seconds > 0.05;

    my $found = select $read, $write, undef, $seconds;
    return if $found <= 0;

    $self->_hear;

    for my $conn (values %{ $self->{conns} }) {
        $self->_write($conn) if vec($write, $conn->{fd}, 1);
        $self->_read($conn)
            if $self->{conns}{ $conn->{fd} } && vec($read, $conn->{fd}, 1);
    }

    return;
}


sub _sweep {
    my ($self, $now) = @_;

    my $hung = HUNG * $Convotic::Process::FACTOR;

    for my $conn (values %{ $self->{conns} }) {
        my $req = $conn->{req} or next;

        if ($req->{abort_at} && $now >= $req->{abort_at}) {
            $self->{stat}{aborted}++;
            $self->_close($conn, 1);
        } elsif ($now - $req->{start} > $hung) {
            $self->_violation('hung', $req, undef,
                              sprintf 'no answer in %.1f s', $now - $req->{start});
            $self->_close($conn);
        }
    }

    $self->{ledger}->forget($now) if rand() < 0.02;

    return;
}


# Requests.

sub _pick { return $_[0][ rand @{ $_[0] } ] }


sub _send_next {
    my ($self, $now) = @_;

    my $node = _pick([ sort keys %{ $self->{nodes} } ]);
    my $count = grep { $_->{node} eq $node } values %{ $self->{conns} };

    if ($count >= CONNS) {
        $self->{stat}{skipped}++;
        return;
    }

    my $dice = rand();

    my $req = $dice < 0.04 ? $self->_probe : $self->_request;

    $req->{node} = $node;
    $req->{close} = 1 if rand() < RENEW;

    if (rand() < ABORT && !$req->{probe}) {
        my $how = int rand 3;
        $req->{abort_at} = $now + rand 0.05;
        $req->{cut} = int rand 150 if $how == 0;
        $req->{stop_at} = int rand 20_000 if $how == 1;
        $req->{fresh} = 1;
    }

    $self->_start($req, $now);

    return;
}


sub _request {
    my ($self) = @_;

    my $dice = rand();
    my $kind = $dice < 0.55 ? 'steady' : $dice < 0.82 ? 'changing'
             : $dice < 0.90 ? 'limited' : $dice < 0.96 ? 'spare' : 'unknown';

    my %req = (kind => $kind, method => rand() < 0.05 ? 'HEAD' : 'GET');

    if ($kind eq 'unknown') {
        $req{key} = sprintf 'cvtk_live_%032d', rand 50;
    } else {
        $req{name} = _pick($self->{by_kind}{$kind});
        @req{qw(key workspace)} = @{ $self->{keys}{ $req{name} } }{qw(key workspace)};
    }

    my $at = rand @LIMITS;
    $at = rand @LIMITS if $at >= 7;             # long ones are rarer
    my ($limit, $platform) = ($LIMITS[$at], _pick(\@PLATFORMS));
    my @args;

    push @args, "limit=$limit" if defined $limit;
    push @args, "platform=$platform" if defined $platform;

    @req{qw(limit platform)} = (defined $limit ? $limit : 20, $platform);
    $req{path} = '/v1/contacts' . (@args ? '?' . join '&', @args : '');
    $req{gzip} = 1 if rand() < 0.2;

    my $tags = defined $req{name} && $self->{last_tag}{"$req{workspace} $req{path}"};
    $req{tag} = $tags if $tags && rand() < 0.1 && $req{method} eq 'GET';

    return \%req;
}


# What must be refused, and how, whatever state Redis and the upstream are in,
# unless the key comes first.

my @probes = (
    { probe => 'no key', status => 401, text => qr/^Missing X-API-Key header/,
      keyless => 1 },
    { probe => 'limit=0', args => 'limit=0', status => 400, behind => 1,
      text => qr/^Parameter 'limit' must be between 1 and 100/ },
    { probe => 'platform=x', args => 'platform=x', status => 400, behind => 1,
      text => qr/^Parameter 'platform' must be one of/ },
    { probe => 'POST', method => 'POST', status => 405,
      text => qr/^Method POST is not allowed/ },
    { probe => 'a body', body => '{"a":1}', status => 400, close => 1,
      text => qr/^A request body is not allowed/ },
    { probe => 'two keys', status => 400, twice => 1,
      text => qr/^Header 'X-API-Key' must appear at most once/ },
    { probe => 'elsewhere', path => '/nowhere', status => 404, text => qr/./ },
    { probe => 'malformed', raw => "GET / HTTP/1.1\r\nHost\x01: x\r\n\r\n",
      status => 400, text => qr/./, close => 1, fresh => 1 },
);


sub _probe {
    my ($self) = @_;

    my $name = _pick($self->{by_kind}{steady});

    return {
        method => 'GET', path => '/v1/contacts', kind => 'probe', name => $name,
        key => $self->{keys}{$name}{key}, %{ _pick(\@probes) },
    };
}


sub _text {
    my ($req) = @_;

    return $req->{raw} if $req->{raw};

    my $path = $req->{path} . (defined $req->{args} ? "?$req->{args}" : '');
    my @headers;

    push @headers, 'X-API-Key' => $req->{key}
        unless $req->{keyless};
    push @headers, 'X-API-Key' => $req->{key} if $req->{twice};
    push @headers, 'Accept-Encoding' => 'gzip' if $req->{gzip};
    push @headers, 'If-None-Match' => $req->{tag} if $req->{tag};
    push @headers, Connection => 'close' if $req->{close};

    return Convotic::HTTP::request_text(
        $path, { method => $req->{method}, body => $req->{body} }, @headers);
}


sub _start {
    my ($self, $req, $now) = @_;

    my $conn;

    if (!$req->{fresh}) {
        my $idle = $self->{idle}{ $req->{node} } ||= [];
        while (my $one = shift @$idle) {
            next if !$self->{conns}{ $one->{fd} } || $one->{req} || $one->{gone};
            $conn = $one;
            last;
        }
    }

    # A worker may be killed between its connection and the request.

    $req->{reused} = $conn ? 1 : 0;
    $req->{sent} = clock();
    $req->{start} = $now unless $req->{retried};
    $conn ||= $self->_connect($req->{node});
    $self->{stat}{sent}++ unless $req->{retried};

    return $self->_violation('lost', $req, undef, "no connection: $!")
        unless $conn;

    $conn->{req} = $req;
    $conn->{out} = _text($req);
    $conn->{out} = substr $conn->{out}, 0, $req->{cut} if defined $req->{cut};
    $self->_write($conn);

    return;
}


sub _connect {
    my ($self, $node) = @_;

    my $socket = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1', PeerPort => $self->{nodes}{$node},
        Proto => 'tcp', Timeout => HUNG,
    ) or return undef;

    $socket->blocking(0);
    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;

    my $conn = { socket => $socket, fd => fileno $socket, node => $node,
                 in => '', out => '' };
    $self->{conns}{ $conn->{fd} } = $conn;
    $self->{stat}{made}++;

    return $conn;
}


sub _close {
    my ($self, $conn, $rst) = @_;

    setsockopt $conn->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0 if $rst;
    delete $self->{conns}{ $conn->{fd} };
    $conn->{gone} = 1;
    close $conn->{socket};

    return;
}


sub _write {
    my ($self, $conn) = @_;

    return unless length $conn->{out};

    my $n = syswrite $conn->{socket}, $conn->{out};

    if (defined $n) {
        substr($conn->{out}, 0, $n, '');
    } elsif (!$!{EAGAIN} && !$!{EINTR}) {
        $conn->{out} = '';                      # reading will tell
    }

    return;
}


sub _read {
    my ($self, $conn) = @_;

    my $n = sysread $conn->{socket}, $conn->{in}, 65536, length $conn->{in};
    return if !defined $n && ($!{EAGAIN} || $!{EINTR});

    my $req = $conn->{req};

    if (!$req) {
        $self->_violation('misshaped', { node => $conn->{node}, start => clock() },
                          undef, "bytes that nobody asked for: $conn->{in}")
            if length $conn->{in};
        return $self->_close($conn);
    }

    if (defined $req->{stop_at} && length $conn->{in} > $req->{stop_at}) {
        $self->{stat}{aborted}++;
        return $self->_close($conn, 1);
    }

    return $self->_unanswered($conn, $req) if !$n && $conn->{in} eq '';

    my $res = Convotic::Response->parse(\$conn->{in}, eof => !$n,
                                        method => $req->{method}) or return;

    $self->_hear;
    $self->_answered($conn, $req, $res, !$n);

    return;
}


# The connection ended without a byte.  One that was used before may have been
# closed by a worker that exits: the request is sent once more.

sub _unanswered {
    my ($self, $conn, $req) = @_;

    $self->_hear;
    $self->_close($conn);

    return $self->{stat}{aborted}++ if $req->{abort_at};

    if ($req->{reused} && !$req->{retried}) {
        $self->{stat}{retried}++;
        @$req{qw(fresh retried)} = (1, 1);
        return $self->_start($req, clock());
    }

    return $self->_gone($req, undef, 'the connection ended without an answer');
}


# A worker that was killed takes its requests with it.

sub _gone {
    my ($self, $req, $res, $text) = @_;

    return $self->{stat}{lost}++
        if $self->{ledger}->permits('lost', $req->{node},
                                    $req->{sent} - LEFT, clock() + LEFT);

    return $self->_violation('lost', $req, $res, $text);
}


sub _answered {
    my ($self, $conn, $req, $res, $eof) = @_;

    delete $conn->{req};
    $req->{end} = clock();

    my $stat = $self->{stat};

    if (grep { /ends early/ } $res->problems) {
        $self->_close($conn);
        return $stat->{aborted}++ if $req->{abort_at};
        return $self->_gone($req, $res, 'the response ends early');
    }

    $stat->{answers}++;
    $stat->{status}{ $res->status }++;

    my $slowest = \$stat->{slowest}{ $res->status };
    my $took = $req->{end} - $req->{start};
    $$slowest = $took if $took > ($$slowest || 0);

    $self->_judge($req, $res);

    my $ends = $eof || $req->{close}
               || lc($res->header('Connection') || '') eq 'close';
    my $idle = $self->{idle}{ $conn->{node} } ||= [];

    $self->_violation('misshaped', $req, $res, "bytes too many: $conn->{in}")
        if length $conn->{in};

    return $self->_close($conn)
        if $ends || length $conn->{in} || @$idle >= IDLE;

    push @$idle, $conn;

    return;
}


# Judgement.

sub _judge {
    my ($self, $req, $res) = @_;

    my $status = $res->status;

    $self->_bad($req, $res, 'misshaped', $_) for $self->_shape_faults($req, $res);

    return $self->_judge_probe($req, $res) if $req->{probe};

    if ($req->{kind} eq 'unknown') {
        $self->_checked('unknown');
        return if $status == 401;
        return if $status == 503 && $self->_permitted('refuse', $req);
        return $self->_bad($req, $res,
                           $status < 400 ? 'let in' : 'unexpected status',
                           "$status for an unknown key");
    }

    $self->_judge_key($req, $res);
    $self->_judge_rate($req, $res);
    $self->_judge_body($req, $res) if $status == 200 || $status == 304;

    return;
}


sub _checked { $_[0]{stat}{checked}{ $_[1] }++; return }


sub _permitted {
    my ($self, $what, $req) = @_;

    return $self->{ledger}->permits($what, $req->{node}, $req->{start}, $req->{end});
}


# Whatever was asked.

sub _shape_faults {
    my ($self, $req, $res) = @_;

    my @faults = ($res->problems);
    my $status = $res->status;

    push @faults, 'it sets a cookie' if defined $res->header('Set-Cookie');

    if ($status == 304) {
        push @faults, 'no ETag' unless defined $res->header('ETag');
        return @faults;
    }

    push @faults, $res->type_faults;

    if ($status == 200) {
        push @faults, "no $_"
            for grep { !defined $res->header($_) } qw(ETag Age Cache-Status);
        push @faults, 'Age ' . $res->header('Age')
            if ($res->header('Age') || 0) !~ /^\d+\z/
               || $res->header('Age') > $self->{stale}{body};
        push @faults, 'Cache-Control ' . ($res->header('Cache-Control') || '-')
            if ($res->header('Cache-Control') || '') ne 'private, no-cache';
        push @faults, 'Vary ' . ($res->header('Vary') || '-')
            if ($res->header('Vary') || '') !~ /X-API-Key/i;
        return @faults;
    }

    push @faults, $self->_error_faults($req, $res);

    return @faults;
}


sub _error_faults {
    my ($self, $req, $res) = @_;

    my $status = $res->status;
    my $code = $status >= 500 ? 'INTERNAL_ERROR' : $code{$status};

    return "status $status" unless $code;

    my @faults;
    my $wait = $res->header('Retry-After');

    push @faults, "$status without a Retry-After"
        if ($status == 503 || $status == 429) && ($wait || '') !~ /^[1-9]\d*\z/;

    return @faults if $req->{method} eq 'HEAD';

    if ($res->body =~ $ERROR) {
        my ($got, $text) = ($1, $2);

        push @faults, "code $got, not $code" if $got ne $code;
        push @faults, "message '$text' does not say $wait"
            if $status == 429
               && $text ne "Rate limit exceeded. Retry after $wait seconds.";
        push @faults, "message '$text'"
            if $req->{text} && $req->{status} == $status && $text !~ $req->{text};
        push @faults, "text of the upstream's: '$text'" if $text =~ /secret/;
    } else {
        push @faults, $res->error_faults($status, $code);
    }

    return @faults;
}


sub _judge_probe {
    my ($self, $req, $res) = @_;

    $self->_checked('refusals');

    return if $res->status == $req->{status};
    return if $req->{behind} && $res->status == 503 && $self->_permitted('refuse', $req);

    $self->_bad($req, $res, $res->status == 401 ? 'false 401' : 'unexpected status',
                $res->status . ", not $req->{status}, for $req->{probe}");

    return;
}


sub _judge_key {
    my ($self, $req, $res) = @_;

    my ($status, $name, $node) = ($res->status, @$req{qw(name node)});
    my $ledger = $self->{ledger};
    my $start = $req->{start};
    my $limited = $res->header('X-RateLimit-Limit');
    my $away = $self->_permitted('refuse', $req);
    my $known = $away && $self->_is_known($req);

    $self->_checked('known') if $known;

    if ($status == 401) {
        $self->_checked('401');
        $ledger->saw_key($name, 0, $node, $start);
        $self->_bad($req, $res, 'false 401', "401 for the good key $name")
            unless $ledger->may_deny($name, $node, $start);
        return;
    }

    if ($status == 503 && !defined $limited) {
        $self->_checked('503');
        $self->{stat}{refused_during}{ join '+', $ledger->kinds($start, $req->{end}) }++;
        return $self->_bad($req, $res, 'unexpected status', '503 for want of Redis')
            unless $away;
        $self->_bad($req, $res, 'known key refused', "503 for $name") if $known;
        return;
    }

    # Any other status is an answer to one who was let in.

    my @values = $ledger->values_of($name, $node, $start, $self->{stale}{key});

    $self->_checked('let in');
    $ledger->saw_key($name, 1, $node, $start);
    $self->_bad($req, $res, 'let in',
                "$status for the key $name, which is $values[0]{status}")
        unless grep { $_->{status} eq 'active' } @values;

    $self->{well}{"$node $name"} = $start if $req->{kind} eq 'steady' && !$away;

    return if $status == 200 || $status == 304 && $req->{tag};

    if ($status == 429) {
        $self->_bad($req, $res, 'unexpected status', "429 for the key $name")
            if $req->{kind} ne 'limited';
        return;
    }

    return if $status =~ /^50[0234]\z|^404\z/ && $self->_permitted('fail', $req);

    if ($status == 503 && $self->_permitted('busy', $req)) {
        $self->{stat}{busy}++;
        return;
    }

    $self->_bad($req, $res, 'unexpected status', "status $status");

    return;
}


# A key that was good when all was well is served without Redis for a while,
# unless its node has lost what it knew or was told of a change.

sub _is_known {
    my ($self, $req) = @_;

    my ($node, $start) = @$req{qw(node start)};
    my $well = $self->{well}{"$node $req->{name}"};

    return defined $well && $start <= $well + $self->{stale}{sure}
           && !$self->{ledger}->permits('forget', $node, $well, $req->{end});
}


sub _judge_rate {
    my ($self, $req, $res) = @_;

    my $status = $res->status;
    my ($limit, $left) = map { scalar $res->header("X-RateLimit-$_") }
        qw(Limit Remaining);

    return if $status == 503 && !defined $limit && !defined $left;

    my @faults;

    if ($status == 401) {
        push @faults, '401 with X-RateLimit-*' if defined $limit || defined $left;
        $self->_bad($req, $res, 'rate headers', $_) for @faults;
        return;
    }

    $self->_checked('rate headers');

    my @rates = map { $_->{rate} }
        $self->{ledger}->values_of(@$req{qw(name node start)}, $self->{stale}{key});

    push @faults, 'X-RateLimit-Limit ' . (defined $limit ? $limit : '-')
                  . ", not @rates"
        unless defined $limit && grep { $_ eq $limit } @rates;
    push @faults, 'X-RateLimit-Remaining ' . (defined $left ? $left : '-')
        unless defined $left && $left =~ /^\d+\z/
               && $left <= (defined $limit ? $limit : 0);
    push @faults, "429 with $left remaining" if $status == 429 && $left;
    push @faults, 'Retry-After ' . $res->header('Retry-After')
        if $status == 429 && $res->header('Retry-After') > 60;

    $self->_bad($req, $res, 'rate headers', $_) for @faults;

    return if $req->{kind} ne 'limited' || @faults;

    if ($status == 429) {
        push @{ $self->{limited}{ $req->{name} } },
            [ @$req{qw(start end)}, $res->header('Retry-After') ];
    } else {
        push @{ $self->{admitted}{ $req->{name} } }, [ @$req{qw(start end)} ];
    }

    return;
}


sub _judge_body {
    my ($self, $req, $res) = @_;

    my $tag = $res->header('ETag');

    return $self->_judge_tag($req, $res, $tag)
        if $req->{method} eq 'HEAD' || $res->status == 304;

    $self->_checked('bodies');

    my $body = $res->body;
    my $coding = $res->header('Content-Encoding');

    if (defined $coding) {
        my $plain = $coding eq 'gzip' && $req->{gzip} ? memGunzip($body) : undef;
        return $self->_bad($req, $res, 'misshaped', "Content-Encoding $coding")
            unless defined $plain;
        $body = $plain;
    }

    my ($workspace, $version) = $body =~ /"name":"(\S+) v(\d+) no\. /
        or return $self->_bad($req, $res, 'misshaped', 'not a body of the upstream');

    return $self->_bad($req, $res, 'wrong tenant',
                       "the body of $workspace for $req->{workspace}")
        if $workspace ne $req->{workspace};

    return $self->_bad($req, $res, 'misshaped', 'not the body of this query')
        if $body ne $self->_expected($req, $version);

    $self->_judge_version($req, $res, $version);

    # A tag names one body for ever; a form that is compressed has its own.

    my $what = join ' ', $req->{workspace}, $version, $req->{limit},
                         $req->{platform} || '-', $coding || '-';
    my $was = $self->{tags}{$tag};

    if (!$was) {
        $self->{tags} = {} if keys %{ $self->{tags} } > TAGS;
        $self->{tags}{$tag} = [ $version, $what ];
    } elsif ($was->[1] ne $what) {
        $self->_bad($req, $res, 'wrong tag', "$tag is '$was->[1]' and '$what'");
    }

    $self->{last_tag}{"$req->{workspace} $req->{path}"} = $tag unless $coding;

    return;
}


sub _judge_tag {
    my ($self, $req, $res, $tag) = @_;

    $self->_checked('304 and HEAD');

    my $known = $self->{tags}{$tag} or return;

    return $self->_bad($req, $res, 'wrong tenant', "the tag of '$known->[1]'")
        if $known->[1] !~ /^\Q$req->{workspace}\E /;

    return $self->_judge_version($req, $res, $known->[0]);
}


sub _judge_version {
    my ($self, $req, $res, $version) = @_;

    my $fault = $self->{ledger}->version_fault(
        $req->{workspace}, $version, @$req{qw(node start)}, $self->{stale}{body});

    $self->_bad($req, $res, 'purged body', $fault) if $fault;

    return;
}


sub _expected {
    my ($self, $req, $version) = @_;

    my $name = join ' ', $version, $req->{limit}, $req->{platform} || '', $req->{workspace};

    $self->{bodies} = {} if keys %{ $self->{bodies} } > BODIES;

    return $self->{bodies}{$name} ||= contacts_body(
        workspace => $req->{workspace}, platform => $req->{platform},
        limit => $req->{limit}, version => $version);
}


# What the flood says: most of it was judged there.

sub _read_floods {
    my ($self) = @_;

    for my $flood (@{ $self->{floods} || [] }) {
        if (!$flood->{handle}) {
            open my $handle, '<', $flood->{file} or next;   # not there yet
            @$flood{qw(handle in)} = ($handle, '');
        }

        while (sysread $flood->{handle}, $flood->{in}, 65536, length $flood->{in}) {
            $self->_hear;

            while ($flood->{in} =~ /\G([=!#]) (.*)\n|\G[^\n]*\n/gc) {
                $self->_hear_flood($flood->{node}, $1, $2) if defined $1;
            }

            substr $flood->{in}, 0, pos($flood->{in}) || 0, '';
        }
    }

    return;
}


sub _hear_flood {
    my ($self, $node, $what, $text) = @_;

    my $stat = $self->{stat}{flood};

    if ($what eq '=') {
        my ($name, $first, $came, $last, $end, $count) = split / /, $text;
        my ($kind, @of) = split /:/, $name;
        my $method = "_flood_$kind";

        return $self->$method({ kind => 'flood', node => $node, path => $name,
                                start => $first, came => $came, last => $last,
                                end => $end }, $count, @of);
    }

    my $it = $json->decode($text);

    if ($what eq '#') {
        $stat->{sums}{$node} = $it;
        $self->{stat}{bad}{"flood: $_"} += $it->{bad}{$_}
            for grep { $it->{bad}{$_} } keys %{ $it->{bad} };
        return;
    }

    my $said = ++$self->{said}{ $it->{class} };

    $self->_tell(violation => { %$it, class => "flood: $it->{class}", node => $node,
                                time => clock() })
        if $said <= SAID;

    return;
}


sub _flood_bad {
    my ($self, $req, $class, $text) = @_;

    return $self->_violation("flood: $class", $req, undef, $text);
}


sub _flood_checked {
    my ($self, $what, $count) = @_;

    $self->{stat}{flood}{checked}{$what} += $count;

    return;
}


sub _flood_status {
    my ($self, $req, $count, $status) = @_;

    my $stat = $self->{stat}{flood};

    $stat->{answers} += $count;
    $stat->{status}{$status} += $count;
    $stat->{nodes}{ $req->{node} } += $count;

    return;
}


sub _flood_body {
    my ($self, $req, $count, $workspace, $version) = @_;

    $self->_flood_checked(bodies => $count);

    my $fault = $self->{ledger}->version_fault(
        $workspace, $version, @$req{qw(node last)}, $self->{stale}{body});

    $self->_flood_bad($req, 'purged body', $fault) if $fault;

    return;
}


sub _flood_in {
    my ($self, $req, $count, $name) = @_;

    $self->_flood_checked('let in' => $count);

    my $ledger = $self->{ledger};
    my @values = $ledger->values_of($name, @$req{qw(node last)}, $self->{stale}{key});

    $ledger->saw_key($name, 1, @$req{qw(node last)});
    $self->_flood_bad($req, 'let in', "the key $name, which is $values[0]{status}")
        unless grep { $_->{status} eq 'active' } @values;

    return;
}


sub _flood_denied {
    my ($self, $req, $count, $name) = @_;

    $self->_flood_checked('401' => $count);

    my $ledger = $self->{ledger};

    $ledger->saw_key($name, 0, @$req{qw(node last)});
    $self->_flood_bad($req, 'false 401', "401 for the good key $name")
        unless $ledger->may_deny($name, @$req{qw(node last)});

    return;
}


sub _flood_refused {
    my ($self, $req, $count, $name) = @_;

    $self->_flood_checked('503' => $count);

    return $self->_flood_bad($req, 'unexpected status', '503 for want of Redis')
        unless $self->_permitted('refuse', $req);

    my $well = $self->{well}{"$req->{node} $name"};
    my %req = (%$req, name => $name, start => $req->{last});

    return unless defined $well && $well < $req->{start} && $self->_is_known(\%req);

    $self->_flood_bad($req, 'known key refused', "503 for $name");

    return;
}


sub _flood_failed {
    my ($self, $req, $count, $status) = @_;

    return if $self->_permitted('fail', $req);

    if ($status == 503 && $self->_permitted('busy', $req)) {
        $self->{stat}{flood}{busy} += $count;
        return;
    }

    return $self->_flood_bad($req, 'unexpected status', "status $status");
}


sub _flood_limited {
    my ($self, $req, undef, $name, $wait) = @_;

    push @{ $self->{limited}{$name} }, [ @$req{qw(last came)}, $wait ];

    return;
}


sub _flood_admitted {
    my ($self, $req, undef, $name) = @_;

    push @{ $self->{admitted}{$name} }, [ @$req{qw(start end)} ];

    return;
}


# A kept connection may end because its worker is to go, any one with its worker.

sub _flood_lost {
    my ($self, $req, $count, $how) = @_;

    my @when = ($req->{node}, $req->{start} - LEFT, $req->{end} + LEFT);
    my $ledger = $self->{ledger};
    my $stat = $self->{stat}{flood};

    if ($how eq 'used' && $ledger->permits('left', @when)) {
        $stat->{ended} += $count;
    } elsif ($ledger->permits('lost', @when)) {
        $stat->{lost} += $count;
    } else {
        $self->_flood_bad($req, 'lost', "no answer, on a connection that was $how");
    }

    return;
}


# Rates.  An answer of 429 says when the window ends, in seconds rounded up; so
# whoever was let in between two times was let in in this window.

sub _windows {
    my ($self, $name) = @_;

    my @said = sort { $a->[0] <=> $b->[0] }
        map {
            my ($start, $end, $wait) = @$_;
            [ $end + $wait - WINDOW,
              $start + $wait - 1 - ASKED * $Convotic::Process::FACTOR ]
        } @{ $self->{limited}{$name} || [] };
    my @windows;

    for my $one (@said) {
        my $last = $windows[-1];

        if ($last && $one->[0] < $last->[0] + APART) {
            $last->[1] = max($last->[1], $one->[1]);
        } else {
            push @windows, [@$one];
        }
    }

    return grep { $_->[0] < $_->[1] } @windows;
}


sub _judge_windows {
    my ($self, $name) = @_;

    my @admitted = @{ $self->{admitted}{$name} || [] };
    my $rate = $self->{rate_of}{$name};
    my %sum = (windows => 0, exact => 0, most => 0, bound => $rate, share => 0,
               most_exact => 0);

    for my $window ($self->_windows($name)) {
        my ($from, $to) = @$window;
        my $count = grep { $_->[0] >= $from && $_->[1] <= $to } @admitted;
        my $bound = $self->{ledger}->most_of_rate(
            $name, $rate, scalar keys %{ $self->{nodes} }, $from, $to);

        $sum{windows}++;
        @sum{qw(most bound share)} = ($count, $bound, $count / $bound)
            if $count / $bound > $sum{share};

        if ($bound == $rate) {
            $sum{exact}++;
            $sum{most_exact} = max($sum{most_exact}, $count);
        }

        $self->_violation('above the rate', { name => $name, start => $from }, undef,
                          sprintf '%d let in between %.3f and %.3f s, not %d', $count,
                          $from, $to, $bound)
            if $count > $bound;
    }

    return \%sum;
}


sub _bad {
    my ($self, $req, $res, $class, $text) = @_;

    return $self->_violation($class, $req, $res, $text);
}


sub _violation {
    my ($self, $class, $req, $res, $text) = @_;

    my $count = ++$self->{stat}{bad}{$class};

    return if $count > SAID;

    $self->_tell(violation => {
        class => $class, text => $text, time => clock(),
        start => $req->{start}, node => $req->{node}, name => $req->{name},
        request => join(' ', map { defined $_ ? $_ : '-' }
                        @$req{qw(method path args probe kind)})
                   . ($req->{retried} ? ', sent again' : '')
                   . ($req->{reused} ? ', on a used connection' : ''),
        status => $res && $res->status,
        response => $res && substr($res->raw =~ s{[^\t\r\n -~]}{?}gr, 0, 700),
    });

    return;
}


sub _summary {
    my ($self) = @_;

    my $stat = $self->{stat};

    $stat->{lags} = [ map { { lag => $_->{lag}, disturbed => $_->{disturbed},
                              purge => $_->{version} ? 1 : 0 } }
                      $self->{ledger}->lags ];
    $stat->{rates} = { map { $_ => $self->_judge_windows($_) }
                       keys %{ $self->{admitted} } };

    return $stat;
}


1;

__END__

=head1 NAME

Convotic::Client - a load of requests whose every answer is verified

=head1 SYNOPSIS

    my $client = Convotic::Client->new(
        nodes => { a => 10240, b => 10241 }, rate => 200, seed => 1,
        keys => { name => { key =>, workspace =>, kind => 'steady' } },
        stale => { key => 10, body => 12 }, control => $socket,
    );
    $client->run;

=head1 DESCRIPTION

Sends requests of many keys to several nodes from one process: over connections
kept alive and new ones, GET and HEAD, conditional ones, with gzip, with
mistakes; some it gives up at a random moment.  Each answer is held against
L<Convotic::Ledger>: the status, the shape of errors, C<Content-Length>, the
headers, whose body it is and of which version.  What F<t/lib/flood.lua> says of
answers that it has verified is held against the same; C<floods> are its files.
At the end, what was let in of rates is: C<rates> are those of C<limited> keys.

C<kind> of a key is C<steady> (never refused), C<changing>, C<spare> (created
and deleted), C<limited> (its rate may be reached); random ones are C<unknown>.

The control socket has a line of JSON for each thing that happens, as
C<< Convotic::Ledger->announce >> takes them; C<["stop"]> ends the load, C<["figures"]>
asks for what was counted so far.  Back come C<["violation", {...}]>,
C<["figures", {...}]> and at last C<["end", {...}]>.

=cut
