package Convotic::Upstream;

use strict;
use warnings;

use parent -norequire, 'Convotic::Server';

use Exporter qw(import);
use Time::HiRes qw(time);

use Convotic::Server;

our @EXPORT_OK = qw(contacts_body);

my %reason = (
    200 => 'OK', 201 => 'Created', 204 => 'No Content',
    206 => 'Partial Content', 301 => 'Moved Permanently', 302 => 'Found',
    304 => 'Not Modified', 400 => 'Bad Request', 401 => 'Unauthorized',
    403 => 'Forbidden', 404 => 'Not Found', 408 => 'Request Timeout',
    410 => 'Gone', 429 => 'Too Many Requests',
    500 => 'Internal Server Error', 502 => 'Bad Gateway',
    503 => 'Service Unavailable', 504 => 'Gateway Timeout',
);

my @platforms = qw(instagram line facebook whatsapp);


sub new {
    my ($class, %arg) = @_;

    return $class->SUPER::new(%arg, options => {
        handler       => $arg{handler} || \&contacts_handler,
        ignore_bodies => $arg{ignore_bodies},
    });
}


sub url { my ($self) = @_; return 'http://' . $self->addr }


# The requests that came, as objects, and their number.

sub requests {
    my ($self) = @_;

    return map { bless $_, 'Convotic::Upstream::Request' } $self->records;
}


sub count { return $_[0]->counters->{requests} || 0 }


# The child's part.

sub on_input {
    my ($self, $conn) = @_;

    while (my $request = $self->_take_request($conn)) {
        $request->{conn} = $conn->{id};
        $request->{seq} = ++$conn->{seq};
        $request->{time} = time();

        $self->{count}{requests}++;
        $self->record({%$request});

        my @steps = $self->_answer($request);
        $self->queue($conn, @steps);

        return if $conn->{gone} || $request->{method} eq '';
    }

    return;
}


sub _take_request {
    my ($self, $conn) = @_;

    my $end = index($conn->{in}, "\r\n\r\n");
    return undef if $end < 0;

    my $head = substr($conn->{in}, 0, $end);
    my ($line, @fields) = split /\r\n/, $head;
    my $request = bless { method => '', uri => '', headers => [], body => '' },
        'Convotic::Upstream::Request';

    @$request{qw(method uri version)} = ($1, $2, $3)
        if defined $line && $line =~ m{^([A-Z-]+) (\S+) HTTP/(1\.[01])\z};

    $request->{headers} = [ map { [ /^([^:]*):[ \t]*(.*?)[ \t]*\z/s ] } @fields ];

    my $length = $self->{ignore_bodies} ? 0
               : _body_length($request, $conn->{in}, $end + 4);
    return undef unless defined $length;

    $request->{raw} = substr($conn->{in}, 0, $end + 4 + $length, '');
    $request->{body} = substr($request->{raw}, $end + 4);

    return $request;
}


# How many bytes after the header belong to it; undef if not all came yet.

sub _body_length {
    my ($request, $bytes, $at) = @_;

    my $have = length($bytes) - $at;
    my $length = $request->header('Content-Length') || 0;

    if (($request->header('Transfer-Encoding') || '') =~ /chunked/i) {
        return substr($bytes, $at) =~ /\A(?:.*?\r\n)?0\r\n\r\n/s ? $+[0] : undef;
    }

    return $have >= $length ? $length : undef;
}


sub _answer {
    my ($self, $request) = @_;

    return _steps($request, { status => 400, body => '', close => 1 })
        if $request->{method} eq '';

    my $spec = eval { $self->{handler}->($request, $self->{vars}) };

    if ($@) {
        print STDERR "handler: $@";
        $spec = { status => 500, body => "handler: $@" };
    }

    return { hang => 1 } unless defined $spec;

    return _steps($request, ref $spec ? $spec : { body => $spec });
}


sub _steps {
    my ($request, $spec) = @_;

    return { hang => 1 } if $spec->{hang};

    my $close = $spec->{close} || !$request->keeps_alive;
    my $bytes = defined $spec->{raw} ? $spec->{raw}
              : _render($request, $spec, $close);

    if (defined $spec->{cut}) {
        my $head = defined $spec->{raw} ? 0 : index($bytes, "\r\n\r\n") + 4;
        $bytes = substr($bytes, 0, $head + $spec->{cut});
        $close = 1;
    }

    my @steps;

    push @steps, { hold => $spec->{hold} } if $spec->{hold};
    push @steps, { delay => $spec->{delay} } if $spec->{delay};
    push @steps, _trickle($bytes, $spec->{trickle});
    push @steps, { delay => $spec->{close_delay} } if $spec->{close_delay};
    push @steps, { rst => 1 } if $spec->{rst};
    push @steps, { close => 1 } if $close;

    return @steps;
}


sub _render {
    my ($request, $spec, $close) = @_;

    my $status = $spec->{status} || 200;
    my $reason = defined $spec->{reason} ? $spec->{reason}
               : $reason{$status} || 'Status';
    my $body = defined $spec->{body} ? $spec->{body} : '';
    my @headers = @{ $spec->{headers} || [] };
    my %has = map { lc $headers[ 2 * $_ ] => 1 } 0 .. @headers / 2 - 1;

    utf8::encode($body) if utf8::is_utf8($body);

    unshift @headers, 'Content-Type' => 'application/json'
        unless $has{'content-type'};
    push @headers, 'Connection' => 'close' if $close && !$has{connection};

    if ($spec->{chunked}) {
        push @headers, 'Transfer-Encoding' => 'chunked';
        $body = _chunked($body, $spec->{chunked});
    } elsif (!$spec->{no_length} && !$has{'content-length'}
             && $status !~ /^(?:1..|204|304)\z/)
    {
        push @headers, 'Content-Length' => length $body;
    }

    my $head = "HTTP/1.1 $status $reason\r\n";

    while (my ($name, $value) = splice @headers, 0, 2) {
        $head .= "$name: $value\r\n" if defined $value;
    }

    return "$head\r\n" . ($request->{method} eq 'HEAD' ? '' : $body);
}


sub _chunked {
    my ($body, $how) = @_;

    my @chunks = ref $how ? @$how : grep { length } $body;

    return join '', (map { sprintf "%x\r\n%s\r\n", length $_, $_ } @chunks),
                    "0\r\n\r\n";
}


sub _trickle {
    my ($bytes, $how) = @_;

    return { bytes => $bytes } unless $how;

    my ($size, $interval) = ($how->{bytes} || 1, $how->{interval} || 0.01);
    my @steps;

    while (length $bytes) {
        push @steps, { bytes => substr($bytes, 0, $size, '') },
                     { delay => $interval };
    }

    return @steps;
}


# The usual contacts service.  Variables: version (part of every name), hold,
# delay, total, headers, status.

sub contacts_handler {
    my ($request, $vars) = @_;

    my $args = $request->args;

    return {
        status  => $vars->{status},
        hold    => $vars->{hold},
        delay   => $vars->{delay},
        headers => $vars->{headers},
        body    => contacts_body(
            workspace => $request->tenant,
            platform  => $args->{platform},
            limit     => $args->{limit},
            version   => $vars->{version},
            total     => $vars->{total},
        ),
    };
}


# The bytes that the usual service answers: they depend on nothing else.

sub contacts_body {
    my (%arg) = @_;

    my $workspace = defined $arg{workspace} ? $arg{workspace} : 'none';
    my $version = $arg{version} || 1;
    my $limit = $arg{limit} || 20;
    my @kinds = defined $arg{platform} ? $arg{platform} : @platforms;
    my $total = ($arg{total} || 120) * @kinds / @platforms;
    my $last = $limit < $total ? $limit : $total;

    my @contacts = map {
        _contact($workspace, $version, $kinds[ $_ % @kinds ], $_)
    } 1 .. $last;

    return '{"contacts":[' . join(',', @contacts)
           . qq(],"total":$total,"limit":$limit});
}


sub _contact {
    my ($workspace, $version, $platform, $n) = @_;

    my $avatar = $n % 3 ? qq("https://cdn.example.com/$workspace/$n.jpg")
                        : 'null';

    return sprintf '{"id":"ct_%s_%d","name":"%s v%s no. %d","platform":"%s",'
                   . '"platformUserId":"u_%d","avatarUrl":%s,'
                   . '"lastMessageAt":"2026-03-30T14:22:%02dZ",'
                   . '"createdAt":"2026-01-15T09:00:00Z"}',
                   $workspace, $n, $workspace, $version, $n, $platform,
                   $n, $avatar, $n % 60;
}


package Convotic::Upstream::Request;

use strict;
use warnings;

sub method  { return $_[0]{method} }
sub uri     { return $_[0]{uri} }
sub version { return $_[0]{version} }
sub headers { return @{ $_[0]{headers} } }
sub body    { return $_[0]{body} }
sub raw     { return $_[0]{raw} }
sub conn    { return $_[0]{conn} }
sub seq     { return $_[0]{seq} }
sub time    { return $_[0]{time} }
sub path    { return $_[0]{uri} =~ s/[?#].*//sr }
sub query   { return $_[0]{uri} =~ /\?(.*)/s ? $1 : undef }
sub tenant  { return scalar $_[0]->header('X-Convotic-Workspace') }
sub names   { return map { lc $_->[0] } @{ $_[0]{headers} } }


sub header {
    my ($self, $name) = @_;

    my @values = map { $_->[1] }
        grep { lc $_->[0] eq lc $name } @{ $self->{headers} };

    return wantarray ? @values : $values[0];
}


sub args {
    my ($self) = @_;

    my $query = $self->query;
    my %args = map { (split(/=/, $_, 2), '')[0, 1] }
        split /&/, defined $query ? $query : '';

    return \%args;
}


sub keeps_alive {
    my ($self) = @_;

    my $connection = join ',', $self->header('Connection');

    return $connection =~ /keep-alive/i if ($self->{version} || '') eq '1.0';
    return $connection !~ /close/i;
}


1;

__END__

=head1 NAME

Convotic::Upstream - an HTTP service that does as it is told

=head1 SYNOPSIS

    my $up = $t->upstream;                       # the usual contacts

    my $up = $t->upstream(handler => sub {
        my ($req, $vars) = @_;
        return { status => 500, body => 'oops', delay => 0.2 };
    });

    is($up->count, 1);
    my ($req) = $up->requests;
    is($req->header('X-Convotic-Workspace'), 'acme');

=head1 DESCRIPTION

An HTTP/1.1 server with keep-alive and pipelining, for any number of
connections.  The handler runs in the server's process, one request at a time,
and may keep state in its variables; C<< $up->set(name => value) >> changes
C<$vars> while it runs.  See also L<Convotic::Server>.

=head2 The handler's answer

A string is a body; undef means no answer at all; otherwise a hash:

=over

=item status, reason, headers => [name => value, ...], body

JSON with its Content-Length unless headers say otherwise.

=item chunked

1, or a list of chunks.

=item no_length

Neither length nor chunks: with C<close>, the end of the connection is the end
of the body.

=item hold

1 or a name: nothing is sent until C<< $up->release >>.

=item delay, trickle => { bytes => 1, interval => 0.01 }, close_delay

Seconds before the answer, a slow answer, seconds before C<close> or C<rst>.

=item raw

These bytes instead of all that.

=item cut

Only so many bytes of the body (with C<raw>: of all), then the connection is
closed.

=item close, rst, hang

Closes after the answer, resets, never answers.

=back

=head2 Options

C<handler>; C<ignore_bodies>: request bodies are not read, so that their bytes
are taken for the next request.

=head2 Methods

C<release($name)> lets go of what is held, all or that of a name, and returns
how many answers that were.

C<requests> are objects with C<method>, C<uri>, C<path>, C<query>, C<args>,
C<version>, C<header($name)>, C<headers>, C<names> (lower case), C<body>,
C<raw>, C<tenant>, C<conn>, C<seq> (its number on that connection) and
C<time>.  C<count> is their number; C<reset> forgets them.

=head2 The usual service

C<contacts_body(workspace =>, platform =>, limit =>, version =>, total =>)>
returns the bytes that it answers.  C<set> knows C<version>, C<hold>,
C<delay>, C<total>, C<status> and C<headers>.

=cut
