package Convotic::Probe;

use strict;
use warnings;

use Compress::Zlib qw(memGunzip);
use Digest::MD5 qw(md5);
use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use IO::Handle;
use JSON::PP ();
use Socket qw(PF_INET SOCK_STREAM SOL_SOCKET SO_LINGER IPPROTO_TCP TCP_NODELAY
              inet_aton sockaddr_in);
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

use Convotic::H2;
use Convotic::Process;
use Convotic::Response;

use constant {
    HUNG  => 6,             # seconds without an answer or an end
    ALONE => 12,            # of a connection that is left alone
    TRIES => 10,            # to connect with TLS
    LOOK  => 40,            # connections between two looks at those
    TOLD  => 5,             # violations of a kind that are kept whole
    SHOWN => 3000,          # bytes of a request or an answer that are shown
    CHUNK => 65_536,
    SHORT => 0.85,          # the share of connections with nothing behind their end
};

# A client that sends what a Convotic::Grammar draws and holds against it what a
# Convotic::Oracle says.  The answers are parsed strictly, each; connections
# are counted, and so is what goes on in them.

my %CODE = (401 => 'UNAUTHORIZED', 403 => 'UNAUTHORIZED', 404 => 'NOT_FOUND',
            429 => 'RATE_LIMITED', map { $_ => 'INTERNAL_ERROR' } 500 .. 505);

my $CODES = join '|', 'INVALID_REQUEST', values %CODE;
$CODES = qr/(?:$CODES)/;

my %SUCCESS = (200 => 1, 206 => 1, 304 => 1);

# Header fields that may be there: always, from the gateway, on success, and
# with some statuses.

my $ALWAYS = qr/(?:server|date|content-type|content-length|connection)/;
my $GATEWAY = qr/(?:cache-status|x-ratelimit-limit|x-ratelimit-remaining)/;
my $GOOD = qr/(?:etag|age|cache-control|vary|content-encoding|accept-ranges
                |content-range)/x;
my %STATUS = (405 => 'allow', 416 => 'content-range', 429 => 'retry-after',
    503 => 'retry-after');

my $RATE = qr/\ARate limit exceeded\. Retry after (\d+) seconds\.\z/;
my $DATE = qr/\A[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} [\d:]{8} GMT\z/;

# Statuses that may come where nobody can say which.

my $ANY = qr/\A(?:200|206|304|400|401|403|404|405|412|413|414|416|429|501|505)\z/;


sub clock { return clock_gettime(CLOCK_MONOTONIC) }


# grammar, oracle, seed; ports: way => port; tell: a sub for each violation, show:
# one for each connection; hung: seconds without an answer or an end.

sub new {
    my ($class, %arg) = @_;

    return bless {
        hung => HUNG, %arg, alone => [],
        sum => { sent => 0, connections => 0, answers => 0, vague => 0, kinds => {},
                 status => {}, ways => {}, modes => {}, frames => {}, silent => {},
                 bad => {}, told => [], bodies => 0, gateway => {}, nginx => {},
                 lost => 0, late => 0, unread => 0 },
    }, $class;
}


sub sum { return $_[0]{sum} }


# The connections $first, $first + $step and so on, until so many requests are
# sent.

sub run {
    my ($self, $first, $step, $requests) = @_;

    for (my $n = $first; $self->{sum}{sent} < $requests; $n += $step) {
        $self->visit($n);
        $self->_look if @{ $self->{alone} } && $self->{sum}{connections} % LOOK == 0;
    }

    return $self->finish;
}


# Until those that were left alone have ended.

sub finish {
    my ($self) = @_;

    $self->_look(1) while @{ $self->{alone} };

    return $self->{sum};
}


# One connection; its number and the seed say all of it.

sub visit {
    my ($self, $n) = @_;

    srand unpack 'L', md5("$self->{seed} $n");

    my $it = $self->{grammar}->connection;
    my $sum = $self->{sum};

    $it->{n} = $n;
    $sum->{connections}++;
    $sum->{ways}{ $it->{way} }++;
    $sum->{modes}{ $it->{mode} }++;

    return $it->{frames} ? $self->_h2($it) : $self->_h1($it);
}


sub _announce {
    my ($self, $it, @messages) = @_;

    my $sum = $self->{sum};

    for my $message (@messages) {
        $sum->{sent}++;
        $sum->{kinds}{$_}++ for @{ $message->{kinds} };
    }

    $sum->{vague}++ if $it->{vague} || ($it->{end} || '') eq 'vague';
    $self->{show}->($it) if $self->{show};

    return;
}


# Mostly a request that ends the connection is the last.

sub _shorten {
    my ($it) = @_;

    my $end = $it->{expect}[-1]{end};
    my $at = 0;

    for my $i (0 .. $#{ $it->{messages} }) {
        $at += length $it->{messages}[$i]{bytes};
        next if $at < $end;
        splice @{ $it->{messages} }, $i + 1;
        $it->{bytes} = substr $it->{bytes}, 0, $at;
        last;
    }

    return;
}


sub _violation {
    my ($self, $it, $class, $text, $res) = @_;

    my $count = ++$self->{sum}{bad}{$class};
    my $told = {
        class => $class, text => $text, n => $it->{n}, seed => $self->{seed},
        way => $it->{way},
        mode => "$it->{mode}, $it->{writes}", request => escaped($it->{bytes}),
        answer => !defined $res ? undef : escaped(ref $res ? answer_text($res) : $res),
    };

    $self->{tell}->($told, $count) if $self->{tell};
    push @{ $self->{sum}{told} }, $told if $count <= TOLD;

    return;
}


sub answer_text {
    my ($res) = @_;

    return $res->raw if length $res->raw;

    return join "\n", 'HTTP/' . $res->version . ' ' . $res->status,
        (map { "$_->[0]: $_->[1]" } $res->headers), '', $res->body;
}


sub escaped {
    my ($bytes) = @_;

    my $length = length $bytes;

    $bytes = substr $bytes, 0, SHOWN;
    $bytes =~ s/([^\x20-\x7e\n])/sprintf '\\x%02x', ord $1/ge;
    $bytes =~ s/\\x0d\n/\\r\\n\n/g;

    return $bytes . ($length > SHOWN ? "... ($length bytes)" : '');
}


# Connections.

sub _open {
    my ($self, $it) = @_;

    my $tls = $it->{way} =~ /TLS\z/ && $it->{way} !~ /port for/;
    my $socket;

    # a busy machine may not shake hands in nginx's time

    for (1 .. TRIES) {
        $socket = $self->_connect($it);
        $socket = $self->_shake_hands($it, $socket) if $tls;
        last if $socket;
    }

    die "no TLS: $IO::Socket::SSL::SSL_ERROR\n" unless $socket;

    $socket->blocking(0);
    @$it{qw(socket in eof tls)} = ($socket, '', 0, $tls);

    return;
}


sub _connect {
    my ($self, $it) = @_;

    my $port = $self->{ports}{ $it->{way} } or die "no port for $it->{way}\n";

    socket my $socket, PF_INET, SOCK_STREAM, 0 or die "socket: $!\n";
    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;
    connect $socket, sockaddr_in($port, inet_aton('127.0.0.1'))
        or die "connect to port $port: $!\n";

    return $socket;
}


sub _shake_hands {
    my ($self, $it, $socket) = @_;

    require IO::Socket::SSL;
    bless $socket, 'IO::Handle';

    my $protocol = $it->{way} =~ /2/ ? 'h2' : 'http/1.1';
    my $context = $self->{contexts}{$protocol} ||=
        IO::Socket::SSL::SSL_Context->new(SSL_verify_mode => 0,
                                          SSL_alpn_protocols => [$protocol]);

    return IO::Socket::SSL->start_SSL($socket, SSL_reuse_ctx => $context);
}


sub _close {
    my ($it, $rst) = @_;

    my $socket = delete $it->{socket} or return;

    setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0 if $rst;

    return $it->{tls} ? $socket->close(SSL_no_shutdown => 1) : close $socket;
}


# Writes of $$out what goes, and reads what is there; false: nothing happened
# in this time.

sub _turn {
    my ($it, $out, $seconds) = @_;

    my $socket = $it->{socket};
    my $fd = fileno $socket;
    my ($read, $write) = ('', '');

    unless ($it->{tls} && $socket->pending) {
        vec($read, $fd, 1) = 1;
        vec($write, $fd, 1) = 1 if length $$out;
        my $found = select $read, $write, undef, $seconds;
        return 0 if $found <= 0;
    }

    if (length $$out && (!length $write || vec($write, $fd, 1))) {
        my $n = syswrite $socket, $$out;
        if (defined $n) {
            substr($$out, 0, $n, '');
        } elsif (!_again()) {
            $$out = '';
            $it->{broken} = 1;
        }
    }

    return 1 if length $read && !vec($read, $fd, 1);

    my $n = sysread $socket, $it->{in}, CHUNK, length $it->{in};
    return 1 if $n || !defined $n && _again();
    $it->{eof} = defined $n ? 1 : 2;

    return 1;
}


sub _again {
    return $! == EAGAIN || $! == EINTR || $! == EWOULDBLOCK
           || $IO::Socket::SSL::SSL_ERROR && $!{EAGAIN};
}


# HTTP/1.

sub _h1 {
    my ($self, $it) = @_;

    $it->{bytes} = join '', map { $_->{bytes} } @{ $it->{messages} };
    my ($expect, $end) = $self->{oracle}->read($it->{bytes},
        tls => scalar($it->{way} =~ /port for TLS/));

    ($expect, $end) = ([], 'vague') if $it->{way} =~ /port for HTTP\/2/;
    @$it{qw(expect end answers)} = ($expect, $end, 0);

    _shorten($it) if $end eq 'closed' && rand() < SHORT;
    $self->_announce($it, @{ $it->{messages} });
    $self->{sum}{unread} += @{ $it->{messages} }
        if $it->{mode} ne 'to the end' || $end eq 'vague';

    $self->_open($it);

    return $self->_abort($it) if $it->{mode} eq 'aborted';

    my @parts = _parts($it);
    my $out = '';
    my $shut = 0;
    my $until = clock() + $self->{hung} * $Convotic::Process::FACTOR;

    until ($it->{eof}) {
        while ($out eq '' && @parts && $parts[0][0] <= $it->{answers}) {
            $out = (shift @parts)->[1];
        }

        @parts = () if $it->{broken};

        if ($out eq '' && !@parts && !$shut && $self->_is_over($it)) {
            return $self->_leave($it) if $it->{mode} eq 'left alone';
            shutdown $it->{socket}, 1;
            $shut = 1;
        }

        my $busy = _turn($it, \$out, $until - clock());
        last unless $busy;

        $until = clock() + $self->{hung} * $Convotic::Process::FACTOR
            if $self->_take($it);
    }

    return $self->_end($it);
}


# What is written, and how many answers there must be before.

sub _parts {
    my ($it) = @_;

    my ($bytes, $how) = @$it{qw(bytes writes)};

    return [ 0, $bytes ]
        if $how eq 'at once' || $it->{end} eq 'vague' && $how ne 'in parts';
    return map { [ 0, $_ ] } split //, $bytes
        if $how eq 'byte by byte' && length $bytes < 600;

    if ($how eq 'in turn') {
        my $at = 0;
        return map {
            my $before = $at;
            $at += length $_->{bytes};
            [ scalar(grep { $_->{end} <= $before } @{ $it->{expect} }), $_->{bytes} ];
        } @{ $it->{messages} };
    }

    my @at = sort { $a <=> $b } map { int rand length $bytes } 1 .. 1 + rand 8;
    my ($from, @parts) = (0);

    for (@at, length $bytes) {
        push @parts, [ 0, substr $bytes, $from, $_ - $from ];
        $from = $_;
    }

    return @parts;
}


# Whether nothing more is to come unless the client says so.

sub _is_over {
    my ($self, $it) = @_;

    return 1 if $it->{mode} eq 'half-closed early';

    return $it->{answers} >= @{ $it->{expect} } && $it->{end} ne 'closed';
}


# Takes the answers that are whole; the number of them.

sub _take {
    my ($self, $it) = @_;

    my $count = 0;

    while (length $it->{in}) {
        my $one = $it->{expect}[ $it->{answers} ];

        last if !$one && ($it->{end} ne 'vague' || !$it->{eof});

        if ($one ? $one->{bare} : $it->{in} =~ /\A\{/) {
            last unless $it->{eof};
            $self->_bare($it, $one);
        } else {
            my $head = $one ? $one->{head} : _looks_like_head($it->{in});
            my $res = Convotic::Response->parse(\$it->{in}, eof => 0,
                                                method => $head ? 'HEAD' : 'GET');
            last unless $res;
            $self->_answer($it, $one, $res);
        }

        $it->{answers}++;
        $count++;
    }

    return $count;
}


# Where the request is not known.

sub _looks_like_head {
    my ($in) = @_;

    my $rest = substr $in, 4 + index $in, "\r\n\r\n";

    return $rest =~ /\A(?:\z|HTTP\/1\.1 \d)/;
}


# HTTP/0.9: a body.

sub _bare {
    my ($self, $it, $one) = @_;

    my $body = $it->{in};
    my $verdict = verdict_of($body);

    $it->{in} = '';
    $self->_count($it, $one, $verdict->{code} ? 'HTTP/0.9' : 'HTTP/0.9, other');

    return $self->_violation($it, 'shape', "HTTP/0.9: $verdict->{fault}", $body)
        if $verdict->{fault};
    return unless $one;

    $self->{sum}{ $one->{gateway} ? 'gateway' : 'nginx' }{ $verdict->{code} }++;
    return if grep { $_->[1] eq $verdict->{message} } @{ $one->{any} };
    return $self->_violation($it, 'status', "HTTP/0.9: message '$verdict->{message}'",
        $body);
}


sub _count {
    my ($self, $it, $one, $status) = @_;

    $self->{sum}{answers}++;
    $self->{sum}{status}{$status}++;

    return;
}


sub _answer {
    my ($self, $it, $one, $res) = @_;

    $self->_count($it, $one, $res->status);

    for my $fault ($self->faults($it, $one, $res)) {
        $self->_violation($it, $fault->[0], 'answer ' . ($it->{answers} + 1)
            . ": $fault->[1]", $res);
    }

    return;
}


sub _end {
    my ($self, $it) = @_;

    my $sum = $self->{sum};
    my $missing = @{ $it->{expect} } - $it->{answers};

    $self->_take($it) if $it->{eof};
    $missing = @{ $it->{expect} } - $it->{answers};
    $sum->{silent}{ $it->{silence} || _silence($it) }++ unless $it->{answers};

    if (!$it->{eof}) {
        $self->_violation($it, 'hung',
            sprintf('%d of %d answers, then neither one nor an end (%s expected)',
            $it->{answers}, scalar @{ $it->{expect} }, $it->{end}), $it->{in});
    } elsif ($missing > 0 && $it->{mode} eq 'to the end') {
        $self->_violation($it, 'no answer', "$it->{answers} of " . @{ $it->{expect} }
            . ' answers, then ' . ($it->{eof} == 2 ? "a reset" : 'the end'),
            $it->{in});
    } elsif ($missing > 0) {
        $sum->{lost} += $missing;
    } elsif (length $it->{in} && !$self->_may_be_rest($it)) {
        $self->_violation($it, 'too much',
            "bytes behind the last of $it->{answers} answers ($it->{end} expected)",
            $it->{in});
    }

    _close($it);

    return;
}


# A TLS alert; an HTTP/2 GOAWAY; an answer that a departure has cut.

sub _may_be_rest {
    my ($self, $it) = @_;

    return 1 if $it->{way} =~ /port for TLS/
        && $it->{in} =~ /\A\x15\x03[\x00-\x04]\x00\x02..\z/s;
    return 1 if $it->{way} =~ /port for HTTP\/2/;
    return $it->{end} eq 'vague' && $it->{in} =~ /\AHTTP\/1\.1 /;
}


sub _silence {
    my ($it) = @_;

    return $it->{way} =~ /noise/             ? 'noise to the port for TLS'
         : $it->{way} =~ /HTTP\/2/           ? 'HTTP/1 to the port for HTTP/2'
         : $it->{mode} eq 'half-closed early' ? 'left before the answer'
         : $it->{end} eq 'vague'             ? 'nobody can say'
         :                                     'an incomplete request';
}


# The client gives up at some byte, or when something has come.

sub _abort {
    my ($self, $it) = @_;

    my $out = substr $it->{bytes}, 0, rand(1 + length $it->{bytes});
    my $waits = rand() < 0.5;
    my $rst = rand() < 0.7;
    my $end = clock() + 0.02;

    while (!$it->{eof} && (length $out || $waits && $it->{in} eq '')) {
        last if clock() > $end || !_turn($it, \$out, 0.01);
    }

    $self->_take($it);
    $self->{sum}{lost} += @{ $it->{expect} } - $it->{answers};
    _close($it, $rst);

    return;
}


# Connections left alone: nginx ends them by its timers.

sub _leave {
    my ($self, $it) = @_;

    $it->{until} = clock() + ALONE * $Convotic::Process::FACTOR;
    push @{ $self->{alone} }, $it;

    return;
}


sub _look {
    my ($self, $wait) = @_;

    my @left;

    for my $it (@{ $self->{alone} }) {
        my $out = '';
        _turn($it, \$out, $wait ? 0.02 : 0);

        if (!$it->{eof} && clock() < $it->{until}) {
            push @left, $it;
        } else {
            $self->{sum}{late}++ if $it->{eof};
            $self->_end($it);
        }
    }

    $self->{alone} = \@left;

    return;
}


# HTTP/2.

sub _h2 {
    my ($self, $it) = @_;

    my (%must, $fatal);

    for my $frame (grep { !$_->{fields} } @{ $it->{frames} }) {
        $self->{sum}{frames}{ $frame->{kind} }++;
    }

    for my $frame (@{ $it->{frames} }) {
        $fatal ||= $frame->{fatal};
        my $id = $frame->{stream};

        if ($frame->{fields} && !$fatal) {
            my $one = $self->{oracle}->stream($frame->{fields}, $frame->{open});
            $must{$id} = { one => $one };
            $fatal = 1 unless $one;
        } elsif ($frame->{harms} && $must{ $frame->{harms} }) {
            $must{ $frame->{harms} }{may} = 1;
        }
    }

    $it->{bytes} = join '', map { $_->{bytes} } @{ $it->{frames} };
    my $mode = $it->{mode} eq 'left alone' ? 'to the end' : $it->{mode};
    @$it{qw(must fatal vague mode)} = (\%must, $fatal, $it->{vague} || 0, $mode);

    my @messages = map { { kinds => [ "HTTP/2, $_->{kind}" ] } }
        grep { $_->{fields} } @{ $it->{frames} };
    $self->_announce($it, @messages);
    $self->{sum}{unread} += @messages
        if $mode ne 'to the end' || $it->{vague} || $fatal;

    $self->_open($it);
    my $h2 = $it->{h2} = Convotic::H2->new;

    my @parts = $mode eq 'aborted'
              ? [ 0, substr $it->{bytes}, 0, rand length $it->{bytes} ]
              : _parts({ %$it, end => 'closed' });
    my ($out, $shut) = ('', 0);
    my $patience = $it->{vague} ? 0.005 : $self->{hung} * $Convotic::Process::FACTOR;
    my $until = clock() + $patience;

    until ($it->{eof}) {
        $out = (shift @parts)->[1] while $out eq '' && @parts && !$it->{broken};

        if ($out eq '' && (!@parts || $it->{broken}) && !$shut
            && ($mode ne 'to the end' || $self->_h2_is_over($it)))
        {
            last if $mode eq 'aborted';
            shutdown $it->{socket}, 1;
            $shut = 1;
            $patience = $self->{hung} * $Convotic::Process::FACTOR;
            $until = clock() + $patience;
        }

        if (!_turn($it, \$out, $until - clock())) {
            last if $shut || !$it->{vague} || length $out;
            $patience = $self->{hung} * $Convotic::Process::FACTOR;
            $until = clock() + $patience;
            shutdown $it->{socket}, 1;
            $shut = 1;
            next;
        }

        $h2->feed(\$it->{in}) if length $it->{in};
        $until = clock() + $patience;
    }

    return $self->_h2_end($it);
}


sub _h2_is_over {
    my ($self, $it) = @_;

    my $h2 = $it->{h2};

    return 0 if $it->{fatal} || !$h2->{pong};
    return 1 if $it->{vague};

    for my $id (keys %{ $it->{must} }) {
        my $stream = $h2->{streams}{$id};

        next if $it->{must}{$id}{may};
        return 0 unless $stream && ($stream->{ended} || defined $stream->{reset});
    }

    return 1;
}


sub _h2_end {
    my ($self, $it) = @_;

    my ($h2, $must, $sum) = @$it{qw(h2 must)};
    my $whole = $it->{mode} eq 'to the end' && !$it->{fatal} && !$it->{vague};

    $sum = $self->{sum};
    $it->{answers} = 0;

    $self->_violation($it, 'shape', "HTTP/2: $_")
        for $it->{vague} ? () : @{ $h2->{problems} };
    $self->_violation($it, 'hung', 'HTTP/2: neither answers nor an end')
        if !$it->{eof} && $it->{mode} ne 'aborted';
    $self->_violation($it, 'status', "HTTP/2: GOAWAY $h2->{goaway}")
        if $whole && $h2->{goaway};
    $self->_violation($it, 'status', 'HTTP/2: no GOAWAY of ' . escaped($it->{in}))
        if $it->{fatal} && !$it->{vague} && $it->{mode} eq 'to the end'
            && !$h2->{goaway};
    $sum->{silent}{'HTTP/2: ended by GOAWAY'}++ if $h2->{goaway};

    my %all = (%{ $h2->{streams} }, $whole ? %$must : ());

    for my $id (sort { $a <=> $b } keys %all) {
        my $stream = $h2->{streams}{$id} || {};
        my $known = $must->{$id};
        my $one = $known && $known->{one};

        if (!$stream->{ended}) {
            $sum->{silent}{'HTTP/2: stream reset'}++ if defined $stream->{reset};
            $sum->{lost}++ unless $whole;
            next if !$whole || $known && $known->{may};
            $self->_violation($it, 'no answer', "HTTP/2: stream $id: nothing")
                unless defined $stream->{reset};
            $self->_violation($it, 'no answer',
                "HTTP/2: stream $id: reset with $stream->{reset}")
                if defined $stream->{reset} && !($one && $one->{reset});
            next;
        }

        my $res = $stream->{res};
        $res->{method} = 'HEAD' if $one ? $one->{head} : $res->body eq '';

        if (!$it->{vague} && !$one && !$it->{fatal}) {
            $self->_violation($it, 'too much',
                "HTTP/2: stream $id is unknown", $res);
            next;
        }

        $it->{answers}++;
        $self->_answer($it, $it->{vague} ? undef : $one, $res);
    }

    _close($it, $it->{mode} eq 'aborted');

    return;
}


# What is wrong with an answer, as [class, sentence]; $one is what was
# expected, undef if nobody can say.

sub faults {
    my ($self, $it, $one, $res) = @_;

    my @faults = map { [ 'shape', $_ ] } $res->problems;
    my $status = $res->status;
    my ($h, $twice) = _headers_of($res);

    push @faults, [ 'shape', "header '$_' twice" ] for @$twice;
    push @faults, [ 'shape', "HTTP/" . $res->version ]
        if $res->version ne ($it->{h2} ? '2' : '1.1');
    push @faults, [ 'shape', 'an interim response' ] if $res->interim;
    push @faults, [ 'shape', 'no Date or Server' ]
        unless ($h->{date} || '') =~ $DATE && ($h->{server} || '') =~ /\Anginx/;

    if ($status >= 400) {
        push @faults, $self->_error_faults($one, $res, $h);
    } elsif ($SUCCESS{$status}) {
        push @faults, $self->_success_faults($it, $one, $res, $h);
    } else {
        push @faults, [ 'status', "status $status" ];
    }

    push @faults, $one ? $self->_frame_faults($it, $one, $res, $h)
                       : $status =~ $ANY || $self->_is_odd($it, $status) ? ()
                       : [ 'status', "status $status, and nobody can say why" ];

    return @faults;
}


# The upstream's errors are for one key.

sub _is_odd {
    my ($self, $it, $status) = @_;

    my $keys = $self->{oracle}{keys};

    return 0 unless Convotic::Oracle::is_odd($status);

    return scalar grep { $keys->{$_}{workspace} eq 'odd' && index(_sent($it), $_) >= 0 }
        keys %$keys;
}


# What was sent, and what of it was encoded.

sub _sent {
    my ($it) = @_;

    my @fields = map { @{ $_->{fields} || [] } } @{ $it->{frames} || [] };

    return join ' ', $it->{bytes}, map { $_->[1] } @fields;
}


sub _headers_of {
    my ($res) = @_;

    my (%h, @twice);

    for ($res->headers) {
        my $name = lc $_->[0];
        push @twice, $name if exists $h{$name};
        $h{$name} = $_->[1];
    }

    return (\%h, \@twice);
}


# Bodies of errors are few: each is looked at once.

my %verdict;
my $json = JSON::PP->new->utf8;

sub verdict_of {
    my ($body) = @_;

    %verdict = () if keys %verdict > 2000;

    return $verdict{$body} ||= _verdict($body);
}


sub _verdict {
    my ($body) = @_;

    my $value = eval { $json->decode($body) };

    return { fault => 'the body is not JSON: ' . escaped(substr $body, 0, 80) }
        unless ref $value eq 'HASH';

    my $error = $value->{error};

    return { fault => 'the body is of another shape: ' . escaped(substr $body, 0, 80) }
        unless join(' ', keys %$value) eq 'error' && ref $error eq 'HASH'
               && join(' ', sort keys %$error) eq 'code message'
               && !grep { !defined || ref } values %$error;

    my %it = (code => $error->{code}, message => $error->{message});

    $it{fault} = "code $it{code}" if $it{code} !~ /\A$CODES\z/;
    $it{fault} = 'an empty message' if $it{message} eq '';
    $it{fault} = 'it names nginx or has HTML: ' . escaped(substr $body, 0, 80)
        if $body =~ /nginx|<html|<!doctype/i;

    return \%it;
}


sub _error_faults {
    my ($self, $one, $res, $h) = @_;

    my @faults = map { [ 'shape', $_ ] } $res->type_faults;
    my $status = $res->status;
    my $verdict = $res->method eq 'HEAD' ? {} : verdict_of($res->body);
    my $code = $CODE{$status} || 'INVALID_REQUEST';

    push @faults, [ 'shape', $verdict->{fault} ] if $verdict->{fault};

    if ($verdict->{code}) {
        push @faults, [ 'shape', "code $verdict->{code} with $status" ]
            if $verdict->{code} ne $code;
    }

    my $gateway = exists $h->{'cache-status'};
    $self->{sum}{ $gateway ? 'gateway' : 'nginx' }{$code}++;

    return @faults unless $one;

    my @any = @{ $one->{any} };

    push @any, [ 429, $RATE ] if $one->{scarce};
    push @any, [ 416, 'Range not satisfiable' ], [ 412, 'Precondition failed' ]
        if $one->{ok};

    my @of_status = grep { $_->[0] == $status } @any;

    if (!@of_status) {
        push @faults, [ 'status', "status $status, not "
            . (join(' or ', map { $_->[0] } @any) || 'a success')
            . ($one->{ok} ? ', or a success' : '') ];
    } elsif (defined $verdict->{message}
             && !grep { ref $_->[1] ? $verdict->{message} =~ $_->[1]
                                    : $verdict->{message} eq $_->[1] } @of_status)
    {
        push @faults,
            [ 'status', "message '$verdict->{message}', not '$of_status[0][1]'" ];
    }

    if ($one->{ok} && $status =~ /\A4(?:12|16)\z/) {
        my $name = $status == 412 ? 'if-match' : 'range';
        push @faults, [ 'status', "$status without $name" ] unless $one->{h}{$name};
    }

    if ($status == 429 && (my ($told) = ($verdict->{message} || '') =~ $RATE)) {
        push @faults, [ 'shape', 'Retry-After is not the same as in the message' ]
            if ($h->{'retry-after'} || 0) ne $told;
        push @faults, [ 'shape', 'X-RateLimit-Remaining of a 429' ]
            if ($h->{'x-ratelimit-remaining'} // '') ne '0';
    }

    return @faults;
}


# Headers that are promised, and no others; the connection.

sub _frame_faults {
    my ($self, $it, $one, $res, $h) = @_;

    my @faults;
    my $status = $res->status;
    my $more = $one->{gateway} && $STATUS{$status} || '-';
    my $good = $SUCCESS{$status};

    # of broken chunks nginx may have said itself that they are

    my $own = $one->{gateway} && (defined $h->{'cache-status'} || !$one->{broken});

    for my $name (sort keys %$h) {
        next if $name =~ /\A$ALWAYS\z/ || $name eq $more
                || $own && $name =~ /\A$GATEWAY\z/
                || $good && $name =~ /\A$GOOD\z/;
        push @faults, [ 'shape', "header '$name: $h->{$name}' with $status" ];
    }

    push @faults, [ 'shape', "no header '$more' with $status" ]
        if $more ne '-' && !defined $h->{$more} && $own;
    push @faults, [ 'shape', "no Cache-Status with $status" ]
        if $own && !defined $h->{'cache-status'};
    push @faults, [ 'shape', "Allow: $h->{allow}" ]
        if defined $h->{allow} && $h->{allow} ne 'GET, HEAD';

    my ($limit, $rest) = @$h{qw(x-ratelimit-limit x-ratelimit-remaining)};

    if (!$one->{rate}) {
        push @faults, [ 'shape', 'X-RateLimit-* without a good key' ]
            if defined $limit || defined $rest;
    } else {
        push @faults, [ 'shape', 'X-RateLimit-Limit ' . ($limit // '-')
            . ", not $one->{rate}" ]
            if ($limit // '') ne $one->{rate};
        push @faults, [ 'shape', 'X-RateLimit-Remaining ' . ($rest // '-') ]
            unless ($rest // '') =~ /\A\d+\z/ && $rest <= $one->{rate};
    }

    unless ($it->{h2} || $one->{unsaid}) {
        my $wanted = $one->{keep} ? 'keep-alive' : 'close';
        push @faults, [ 'shape', 'Connection ' . ($h->{connection} // '-')
            . ", not $wanted" ]
            if ($h->{connection} // '') ne $wanted;
    }

    return @faults;
}


sub _success_faults {
    my ($self, $it, $one, $res, $h) = @_;

    my $status = $res->status;

    $self->{sum}{gateway}{success}++;
    $self->{sum}{bodies}++ if length $res->body;

    return $self->_anybodys($it, $res, $h) unless $one;
    return [ 'let in', "status $status, not "
                       . join ' or ', map { $_->[0] } @{ $one->{any} } ]
        unless $one->{ok};

    my $ok = $one->{ok};
    my $body = $self->{oracle}->body($ok);
    my @faults = map { [ 'shape', "no header $_" ] }
        grep { !defined $h->{$_} } qw(etag cache-control vary age);

    push @faults, [ 'shape', "Cache-Control: $h->{'cache-control'}" ]
        if ($h->{'cache-control'} // '') ne 'private, no-cache';

    if ($status == 304) {
        my @names = grep { $one->{h}{$_} } qw(if-none-match);
        push @faults, [ 'status', '304 without If-None-Match' ] unless @names;
        push @faults, [ 'shape', '304 with a length or a body' ]
            if defined $h->{'content-length'} || length $res->body;
        push @faults, [ 'shape', "304 with the tag $h->{etag} of another body" ]
            if index($h->{etag} // '', $self->{oracle}->tag($ok)) < 0
                && $one->{h}{'if-none-match'}[0] !~ /\*/;
        return @faults;
    }

    push @faults, map { [ 'shape', $_ ] } $res->type_faults;
    return (@faults, $self->_part_faults($one, $res, $h, $body)) if $status == 206;

    my $encoded = defined $h->{'content-encoding'};

    push @faults, [ 'shape', "Content-Encoding $h->{'content-encoding'}" ]
        if $encoded && ($h->{'content-encoding'} ne 'gzip'
            || !$one->{h}{'accept-encoding'});
    push @faults, [ 'shape', "the tag $h->{etag}" ]
        if !$encoded && ($h->{etag} // '') ne '"' . $self->{oracle}->tag($ok) . '"';

    if ($res->method eq 'HEAD') {
        push @faults, [ 'wrong tenant', "length of HEAD: $h->{'content-length'}" ]
            if !$encoded && ($h->{'content-length'} // '') ne length $body;
        return @faults;
    }

    my $plain = $encoded ? _gunzip($res->body) : $res->body;
    push @faults, [ 'wrong tenant', 'the body is not that of '
                    . "$ok->{workspace}, limit $ok->{limit}, platform '$ok->{platform}'" ]
        if $plain ne $body;

    return @faults;
}


my %plain;

sub _gunzip {
    my ($bytes) = @_;

    %plain = () if keys %plain > 500;

    return $plain{$bytes} //= memGunzip(my $copy = $bytes) // 'not gzip';
}


sub _part_faults {
    my ($self, $one, $res, $h, $body) = @_;

    my $range = $h->{'content-range'} // '-';
    my ($from, $to, $of) = $range =~ m{\Abytes (\d+)-(\d+)/(\d+)\z}
        or return [ 'shape', "Content-Range $range" ];

    return [ 'status', '206 without Range' ] unless $one->{h}{range};
    return [ 'shape', "Content-Range $h->{'content-range'} of "
        . ($h->{'content-length'} // '-') ]
        if $to < $from || $to >= $of
            || ($h->{'content-length'} // '') ne $to - $from + 1;
    return if $h->{'content-encoding'};
    return [ 'wrong tenant', "a part of $of bytes, not of " . length $body ]
        if $of != length $body;
    return [ 'wrong tenant', 'a part of another body' ]
        if $res->method ne 'HEAD' && $res->body ne substr $body, $from, $to - $from + 1;
    return;
}


# Nobody can say what was asked: at least it belongs to a key that was sent.

sub _anybodys {
    my ($self, $it, $res, $h) = @_;

    return if $res->method eq 'HEAD' || $res->status != 200;

    my $body = $h->{'content-encoding'} ? _gunzip($res->body) : $res->body;
    my ($workspace) = $body =~ /\A\{"contacts":\[\{"id":"ct_(.*?)_\d+"/
        or return [ 'shape', 'a body of another shape' ];
    my $keys = $self->{oracle}{keys};
    my @theirs = grep { $keys->{$_}{workspace} eq $workspace } keys %$keys;

    return [ 'wrong tenant', "a body of $workspace, whose key was not sent" ]
        unless grep { index(_sent($it), $_) >= 0 } @theirs;

    my @foreign = grep { $_ ne $workspace } $body =~ /"id":"ct_(.*?)_\d+"/g;

    return [ 'wrong tenant', "a body of $workspace and $foreign[0]" ] if @foreign;
    return;
}


1;

__END__

=head1 NAME

Convotic::Probe - sends what is wrong, and looks closely at what comes back

=head1 DESCRIPTION

=over

=item new(grammar =>, oracle =>, seed =>, ports => {way => port}, tell =>, show =>)

=item run($first, $step, $requests)

Connections of these numbers until so many requests are sent; returns C<sum>.

=item visit($n)

One connection.  The same number and seed send the same bytes.

=item finish, sum

C<sum> counts: C<sent>, C<connections>, C<answers>, C<status>, C<kinds>, and C<bad>,
the violations by their class: shape, status, let in, wrong tenant, no answer,
too much, hung.

=item faults($connection, $expected, $response)

What is wrong with an answer, as [class, sentence].

=back

=cut
