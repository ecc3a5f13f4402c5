package Convotic::HTTP;

use strict;
use warnings;

use IO::Poll qw(POLLIN POLLOUT POLLHUP POLLERR);
use IO::Socket::INET;
use Time::HiRes qw(time sleep);

use Convotic::Response;

use constant TIMEOUT => 10;
use constant LINGER  => 0.05;       # how long extra bytes are waited for

# Breaches of HTTP's framing in what get() and its like received; the test's
# end asserts that there are none.

our @problems;


# new(port =>, tls_port =>, dir =>)

sub new {
    my ($class, %arg) = @_;

    return bless { %arg }, $class;
}


sub connect {
    my ($self, %arg) = @_;

    return Convotic::HTTP::Connection->new(
        port => $arg{port} || ($arg{tls} ? $self->{tls_port} : $self->{port}),
        tls  => $arg{tls},
    );
}


# One request over a connection of its own.

sub get {
    my ($self, $path, @rest) = @_;

    my $opt = ref $rest[0] eq 'HASH' ? shift @rest : {};

    return $self->h2($path, $opt, @rest) if $opt->{h2};

    my $old = ($opt->{version} || '1.1') eq '1.0';
    my ($connection) = map { $rest[ 2 * $_ + 1 ] }
        grep { lc $rest[ 2 * $_ ] eq 'connection' } 0 .. @rest / 2 - 1;

    unshift @rest, Connection => ($connection = 'close')
        unless $old || defined $connection;

    my ($res) = $self->raw(
        request_text($path, $opt, @rest), %$opt,
        methods     => [ $opt->{method} || 'GET' ],
        until_close => ($connection || ($old ? 'close' : '')) =~ /close/i,
    );

    return $res;
}


sub head {
    my ($self, $path, @rest) = @_;

    my $opt = ref $rest[0] eq 'HASH' ? shift @rest : {};

    return $self->get($path, { %$opt, method => 'HEAD' }, @rest);
}


# Bytes as they are, over one connection; all responses that came back.

sub raw {
    my ($self, $bytes, %arg) = @_;

    my $conn = $self->connect(%arg);
    my @parts = ref $bytes ? @$bytes : ($bytes);
    my $methods = $arg{methods} || [ methods_of(join '', @parts) ];

    for my $i (0 .. $#parts) {
        sleep($arg{pause} || 0.01) if $i;
        $conn->write($parts[$i]) or last;
    }

    $conn->shutdown if $arg{half_close};

    my @all = $conn->read_all($methods, %arg);
    $conn->close;

    unless ($arg{lax}) {
        push @problems, map { _where($bytes) . $_ } map { $_->problems } @all;
    }

    return @all;
}


sub _where {
    my ($bytes) = @_;

    my $text = ref $bytes ? join '', @$bytes : $bytes;

    return sprintf '"%.60s": ', $text =~ s/[^\x20-\x7e].*//sr;
}


sub request_text {
    my ($path, $opt, @headers) = @_;

    my $method = $opt->{method} || 'GET';
    my $version = $opt->{version} || '1.1';
    my $text = "$method $path HTTP/$version\r\n";

    unshift @headers, Host => 'localhost'
        unless $opt->{no_host} || grep { lc $_ eq 'host' } _names(@headers);

    push @headers, 'Content-Length' => length $opt->{body}
        if defined $opt->{body}
           && !grep { /^(?:content-length|transfer-encoding)\z/i }
                    _names(@headers);

    while (my ($name, $value) = splice @headers, 0, 2) {
        $text .= "$name: $value\r\n" if defined $value;
    }

    $text .= "\r\n";
    $text .= $opt->{body} if defined $opt->{body};

    return $text;
}


sub _names {
    return map { $_ % 2 ? () : $_[$_] } 0 .. $#_;
}


# The methods of the requests in a piece of text, to know which responses
# come without a body.

sub methods_of {
    my ($text) = @_;

    my @methods = $text =~ m{(?:\A|\n)([A-Z][A-Z-]*) [^\n]* HTTP/1\.\d\r?\n}g;

    return @methods ? @methods : 'GET';
}


# Many requests at the same time from one process: each a reference to
# [path, options, headers...]; the responses in their order.

sub concurrent {
    my ($self, $requests, %arg) = @_;

    my $poll = IO::Poll->new;
    my $end = time() + ($arg{timeout} || 30) * $Convotic::Process::FACTOR;
    my (%job, @result);

    for my $i (0 .. $#$requests) {
        my $job = $self->_job($i, @{ $requests->[$i] });
        $job{ fileno $job->{socket} } = $job;
        $poll->mask($job->{socket} => POLLOUT);
    }

    while (%job && time() < $end) {
        $poll->poll(0.2);

        for my $socket ($poll->handles(POLLIN | POLLOUT | POLLHUP | POLLERR)) {
            my $job = $job{ fileno $socket } or next;
            my $res = _job_step($poll, $job) or next;

            $result[$job->{index}] = $res;
            $poll->remove($socket);
            delete $job{ fileno $socket };
            close $socket;
        }
    }

    push @problems, map { "concurrent: $_" } map { $_->problems }
        grep { defined } @result;

    return @result;
}


sub _job {
    my ($self, $index, $path, @rest) = @_;

    my $opt = ref $rest[0] eq 'HASH' ? shift @rest : {};
    my $socket = _socket($self->{port}, 0);

    $socket->blocking(0);

    return {
        index  => $index,
        socket => $socket,
        method => $opt->{method} || 'GET',
        start  => time(),
        in     => '',
        out    => request_text($path, $opt, Connection => 'close', @rest),
    };
}


sub _job_step {
    my ($poll, $job) = @_;

    my $socket = $job->{socket};

    if (length $job->{out}) {
        my $n = syswrite $socket, $job->{out};
        substr($job->{out}, 0, $n, '') if defined $n;
        $poll->mask($socket => POLLIN) unless length $job->{out};
        return undef if defined $n || $!{EAGAIN};
    }

    my $n = sysread $socket, $job->{in}, 65536, length $job->{in};
    return undef if $n || !defined $n && $!{EAGAIN};

    my $res = Convotic::Response->parse(\$job->{in}, eof => 1,
                                        method => $job->{method})
        || Convotic::Response->none($job->{method});

    push @{ $res->{problems} }, 'extra bytes: ' . length $job->{in}
        if length $job->{in};
    $res->{closed} = 1;
    $res->{time} = time() - $job->{start};

    return $res;
}


# Requests one after the other, over connections kept alive for some of them,
# while $go->() is true.  A connection that was used before may turn out to be
# closed: then the request is sent once more, over a new one.

sub load {
    my ($self, $go, %arg) = @_;

    my %sum = (count => 0, retried => 0, faults => []);
    my $requests = $arg{requests};
    my $conn;

    for (my $i = 0; $go->(); $i++) {
        my $request = $requests->[ $i % @$requests ];
        my $res = $conn && _once($conn, $request);

        $sum{retried}++ if $conn && !$res;
        $res ||= _once($conn = $self->connect(%arg), $request);

        my $fault = $res ? join('; ', $res->problems) : 'no response';
        $fault ||= $arg{check} && $arg{check}->($res, $i % @$requests);

        $sum{count}++;
        push @{ $sum{faults} }, $fault if $fault;

        $conn = undef if !$res || rand() < ($arg{renew} || 0.1)
                         || ($res->header('Connection') || '') eq 'close';
    }

    return \%sum;
}


sub _once {
    my ($conn, $request) = @_;

    my $res = eval { $conn->get(@$request) };

    return $res && $res->status ? $res : undef;
}


sub _socket {
    my ($port, $tls) = @_;

    my %arg = (PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => TIMEOUT);

    if ($tls) {
        require IO::Socket::SSL;
        return IO::Socket::SSL->new(%arg, SSL_verify_mode => 0,
                                    SSL_alpn_protocols => ['http/1.1'])
            || die "connect with TLS to port $port: $! "
                   . IO::Socket::SSL::errstr() . "\n";
    }

    return IO::Socket::INET->new(%arg, Proto => 'tcp')
        || die "connect to port $port: $@\n";
}


# HTTP/2 by the curl binary.

sub h2 {
    my ($self, @request) = @_;

    my ($res) = $self->h2_many(\@request);

    return $res;
}


# Several requests, one after the other, over the same connection if it lasts.

sub h2_many {
    my ($self, @requests) = @_;

    my $base = "$self->{dir}/h2-$$-" . ++$self->{h2_count};
    my @argv = ('curl', '--stderr', "$base.err");
    my (@methods, $lax);

    for my $i (0 .. $#requests) {
        my ($path, @rest) = @{ $requests[$i] };
        my $opt = ref $rest[0] eq 'HASH' ? shift @rest : {};

        push @argv, '--next' if $i;
        push @argv, $self->_curl_request("$base.$i", $path, $opt, @rest);
        push @methods, $opt->{method} || 'GET';
        $lax ||= $opt->{lax};
    }

    my $start = time();
    my @connects = split /\n/, _output(@argv);
    my $exit = $? >> 8;
    my @all = map { _h2_response($methods[$_], "$base.$_") } 0 .. $#requests;

    for my $i (0 .. $#all) {
        $all[$i]{new_connection} = $connects[$i];
        $all[$i]{time} = time() - $start;
    }

    $all[-1]{curl_exit} = $exit;
    push @{ $all[-1]{problems} }, "curl exit $exit: " . _slurp("$base.err")
        if $exit;
    push @problems, map { 'h2: ' . $_ } map { $_->problems } @all unless $lax;

    unlink glob "$base.*";

    return @all;
}


sub _curl_request {
    my ($self, $base, $path, $opt, @headers) = @_;

    my $method = $opt->{method} || 'GET';
    my $limit = ($opt->{timeout} || TIMEOUT) * $Convotic::Process::FACTOR;

    my @argv = (
        '--http2', qw(-k -s -S --path-as-is --globoff --max-time), $limit,
        '-D', "$base.head", '-o', "$base.body", '-w', '%{num_connects}\n',
        $method eq 'HEAD' ? '-I' : ('-X', $method),
        -H => 'Accept:', -H => 'User-Agent:', _curl_headers(@headers),
    );

    if (defined $opt->{body}) {
        _spew("$base.in", $opt->{body});
        push @argv, '--data-binary', "\@$base.in", -H => 'Content-Type:';
    }

    return (@argv, "https://127.0.0.1:$self->{tls_port}$path");
}


sub _output {
    my (@argv) = @_;

    open my $pipe, '-|', @argv or die "$argv[0]: $!\n";
    my $text = do { local $/; <$pipe> };
    close $pipe;

    return defined $text ? $text : '';
}


sub _curl_headers {
    my (@headers) = @_;

    my @argv;

    while (my ($name, $value) = splice @headers, 0, 2) {
        next unless defined $value;
        push @argv, -H => length $value ? "$name: $value" : "$name;";
    }

    return @argv;
}


sub _h2_response {
    my ($method, $base) = @_;

    my ($head, $body) = map { _slurp("$base.$_") } qw(head body);
    my $res = Convotic::Response->none($method);
    my ($line, @fields) = split /\r\n/, $head =~ s/.*\r\n\r\n(?=.)//sr;

    ($res->{version}, $res->{status}) = ($1, $2)
        if ($line || '') =~ m{^HTTP/([\d.]+) (\d{3})};
    $res->{headers} = [ map { [ split /:\s*/, $_, 2 ] } grep { length } @fields ];
    $res->{body} = $method eq 'HEAD' ? '' : $body;
    $res->{raw} = $head . $body;
    $res->{problems} = [];

    push @{ $res->{problems} }, "HTTP/$res->{version}, not 2"
        if $res->{version} ne '2';

    my $length = $res->header('Content-Length');
    push @{ $res->{problems} }, "Content-Length $length of " . length($body)
        if defined $length && $method ne 'HEAD' && $res->status != 304
           && $length ne length $body;

    return $res;
}


sub _slurp {
    my ($file) = @_;

    open my $fh, '<:raw', $file or return '';
    local $/;
    my $text = <$fh>;

    return defined $text ? $text : '';
}


sub _spew {
    my ($file, $bytes) = @_;

    open my $fh, '>:raw', $file or die "$file: $!\n";
    print {$fh} $bytes;
    close $fh or die "$file: $!\n";

    return;
}


package Convotic::HTTP::Connection;

use strict;
use warnings;

use IO::Select;
use Scalar::Util qw(refaddr weaken);
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

my %open;                       # to be closed before nginx is told to quit


sub new {
    my ($class, %arg) = @_;

    my $socket = Convotic::HTTP::_socket($arg{port}, $arg{tls});
    my $self = bless { socket => $socket, tls => $arg{tls}, in => '', eof => 0 },
        $class;

    weaken($open{ refaddr $self } = $self);

    return $self;
}


sub DESTROY { delete $open{ refaddr $_[0] } }


sub close_all {
    $_->close for grep { defined } values %open;

    return;
}


# False if the server has closed the connection.

sub write {
    my ($self, $bytes) = @_;

    while (length $bytes) {
        my $n = syswrite $self->{socket}, $bytes;
        return 0 unless $n;
        substr($bytes, 0, $n, '');
    }

    return 1;
}


# One request on this connection, and its response.

sub get {
    my ($self, $path, @rest) = @_;

    my $opt = ref $rest[0] eq 'HASH' ? shift @rest : {};

    $self->write(Convotic::HTTP::request_text($path, $opt, @rest));

    return $self->read($opt->{method}, $opt->{timeout});
}


# The next response; undef if none is complete within the time.

sub read {
    my ($self, $method, $seconds) = @_;

    my $start = time();
    my $end = $start + ($seconds || Convotic::HTTP::TIMEOUT)
                       * $Convotic::Process::FACTOR;

    while (1) {
        my $res = Convotic::Response->parse(\$self->{in}, eof => $self->{eof},
                                            method => $method);

        if ($res) {
            $res->{time} = time() - $start;
            $res->{closed} = $self->{eof};
            return $res;
        }

        return undef if $self->{eof} || !$self->_fill($end - time());
    }
}


# As many responses as there were methods, then a look for bytes too many.

sub read_all {
    my ($self, $methods, %arg) = @_;

    my @all;

    for my $method (@$methods) {
        my $res = $self->read($method, $arg{timeout}) or last;
        push @all, $res;
        last if $res->{closed} && $self->{in} eq '';
    }

    return $self->_cut_off(@all) if @all < @$methods && $self->{in} ne '';
    return unless @all;

    my $wait = $arg{until_close} ? ($arg{timeout} || Convotic::HTTP::TIMEOUT)
                                   * $Convotic::Process::FACTOR
                                 : Convotic::HTTP::LINGER;
    $self->eof($wait);

    my $last = $all[-1];
    $last->{closed} = $self->{eof};

    push @{ $last->{problems} }, 'extra bytes: ' . length $self->{in}
        if length $self->{in};
    push @{ $last->{problems} }, 'connection still open'
        if $arg{until_close} && !$self->{eof};

    return @all;
}


# What came so far of a response that did not end in time.

sub _cut_off {
    my ($self, @all) = @_;

    my $res = Convotic::Response->parse(\$self->{in}, eof => 1);
    $res->{closed} = $self->{eof};

    return (@all, $res);
}


# Whether the server closes within the time; what it sends goes to the buffer.

sub eof {
    my ($self, $seconds) = @_;

    my $end = time() + (defined $seconds ? $seconds : Convotic::HTTP::TIMEOUT);

    while (!$self->{eof}) {
        last unless $self->_fill($end - time());
    }

    return $self->{eof};
}


sub _fill {
    my ($self, $seconds) = @_;

    my $socket = $self->{socket};

    return 0 if $seconds <= 0;
    return 0 unless $self->{tls} && $socket->pending
                    || IO::Select->new($socket)->can_read($seconds);

    my $n = sysread $socket, $self->{in}, 65536, length $self->{in};
    $self->{eof} = 1 unless $n;

    return 1;
}


sub buffer   { return $_[0]{in} }
sub socket   { return $_[0]{socket} }
sub shutdown { return CORE::shutdown($_[0]{socket}, 1) }
sub close    { return CORE::close($_[0]{socket}) }


# Closes with RST.

sub reset {
    my ($self) = @_;

    setsockopt $self->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0;

    return CORE::close($self->{socket});
}


1;

__END__

=head1 NAME

Convotic::HTTP - a strict HTTP client: 1.0, 1.1, raw bytes, TLS, HTTP/2

=head1 SYNOPSIS

    my $res = $nginx->get('/v1/contacts?limit=5', 'X-API-Key' => $key);
    my $res = $nginx->get('/x', { method => 'POST', body => 'b', tls => 1 },
                          Name => 'value');
    my @all = $nginx->raw("GET / HTTP/1.1\r\n...", timeout => 2);

=head1 DESCRIPTION

All times are in seconds and multiplied by C<TEST_TIME_FACTOR>.  Responses are
L<Convotic::Response>; what is wrong with their framing is also collected in
C<@Convotic::HTTP::problems>, of which C<< $t->finish >> asserts that it is
empty, unless C<lax> was given.

=over

=item get($path, {options}, name => value, ...)

A request over a connection of its own, read to the end of the connection,
which is asked for with C<Connection: close> unless a header says otherwise.
Headers come in this order and as often as given, an undefined value leaves
one out; C<Host: localhost> is added unless given.  Options: C<method>,
C<version> (1.1; 1.0), C<body>, C<no_host>, C<timeout>, C<tls>, C<port>,
C<h2>, C<lax>.  undef if no byte came back.

=item head($path, {options}, headers...)

=item h2($path, {options}, headers...)

Over HTTP/2 and TLS, by curl; C<< $res->{curl_exit} >> is its exit status.

=item h2_many([path, {options}, headers...], ...)

Several of them, one after the other; C<< $res->{new_connection} >> is 0 where
the connection of the one before was used again.

=item raw($bytes, options)

Sends the bytes (a reference to a list: parts, C<pause> seconds apart) and
returns all responses.  C<methods>: those of the requests, otherwise guessed
from the bytes, to know how many responses to wait for and which have no body.
C<until_close> waits for the connection's end, C<half_close> closes the
writing side first, C<timeout> is for each response.

=item connect(tls => 1)

A connection kept open: C<write($bytes)>, C<get(...)> as above,
C<read($method, $timeout)>, C<eof($seconds)>, C<buffer>, C<shutdown>,
C<close>, C<reset> (RST).  What is still open at the test's end is closed.

=item concurrent([ [path, {options}, headers...], ... ], timeout => 30)

All at the same time, over plain connections of their own; undef in the place
of those that did not end in time.

=item load($go, requests => [ [path, {options}, headers...], ... ], check => )

Requests in turn over connections kept alive for ten of them on average (the
probability C<renew>), while C<< $go->() >> is true; for C<background>.  A
request that fails on a connection used before is sent once more.  C<check>
gets a response and the request's index and returns what is wrong with it.
The result: C<count>, C<retried> and C<faults>, a list.

=back

=cut
