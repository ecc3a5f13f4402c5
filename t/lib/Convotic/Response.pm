package Convotic::Response;

use strict;
use warnings;

use JSON::PP ();

# Bodies of these have no bytes, whatever their headers say.

my %bodiless = (204 => 1, 304 => 1);

my $TOKEN = qr/[!#\$%&'*+.^_`|~0-9A-Za-z-]+/;


# A response of which nothing came.

sub none {
    my ($class, $method) = @_;

    return bless {
        method  => $method || 'GET',
        headers => [], problems => [], interim => [],
        body => '', version => '', reason => '', raw => '', closed => 0,
    }, $class;
}


# Takes one response off the front of $$buffer.  Returns undef while it is
# incomplete; with $arg{eof}, what there is, with the breach noted.

sub parse {
    my ($class, $buffer, %arg) = @_;

    return undef if $$buffer eq '';

    my $self = $class->none($arg{method});

    my $at = $self->_parse_head($buffer, 0);

    while (defined $at && $self->{status} =~ /^1/ && $self->{status} != 101) {
        push @{ $self->{interim} }, $self->{status};
        $self->{headers} = [];
        $at = $self->_parse_head($buffer, $at);
    }

    $at = $self->_parse_body($buffer, $at, $arg{eof}) if defined $at;

    if (!defined $at) {
        return undef unless $arg{eof};
        $self->_problem('response ends early');
        $self->{body} = $$buffer unless defined $self->{status};
        $at = length $$buffer;
    }

    $self->{raw} = substr($$buffer, 0, $at, '');

    return $self;
}


sub _parse_head {
    my ($self, $buffer, $at) = @_;

    my $end = index($$buffer, "\r\n\r\n", $at);

    if (substr($$buffer, $at, 5) !~ /^(?:HTTP\/|.{0,4}\z)/s) {
        $self->_problem('no status line');
        return undef;
    }

    return undef if $end < 0;

    my ($line, @fields) = split /\r\n/, substr($$buffer, $at, $end - $at), -1;

    if ($line =~ m{^HTTP/(1\.[01]) (\d{3}) ([\t\x20-\x7e\x80-\xff]*)\z}) {
        @$self{qw(version status reason)} = ($1, $2, $3);
    } else {
        $self->_problem("bad status line: $line");
        $self->{status} = $line =~ / (\d{3})/ ? $1 : 0;
    }

    $self->_parse_field($_) for @fields;

    return $end + 4;
}


sub _parse_field {
    my ($self, $line) = @_;

    if ($line =~ /^($TOKEN):[ \t]*([\t\x20-\x7e\x80-\xff]*?)[ \t]*\z/) {
        push @{ $self->{headers} }, [ $1, $2 ];
    } else {
        $self->_problem("bad header line: $line");
    }

    return;
}


# RFC 9112, 6.3: the order in which the length of a body is found.

sub _parse_body {
    my ($self, $buffer, $at, $eof) = @_;

    my @length = $self->header('Content-Length');
    my @coding = $self->header('Transfer-Encoding');

    $self->_problem('Content-Length ' . join ' and ', @length) if @length > 1;
    $self->_problem('Content-Length beside Transfer-Encoding')
        if @length && @coding;
    $self->_problem("bad Content-Length: $length[0]")
        if @length && $length[0] !~ /^\d+\z/;

    return $at if $self->{method} eq 'HEAD' || $bodiless{ $self->{status} };

    if (@coding) {
        $self->_problem("Transfer-Encoding: $coding[0]")
            if lc $coding[0] ne 'chunked' || $self->{version} eq '1.0';
        return $self->_parse_chunks($buffer, $at);
    }

    if (@length && $length[0] =~ /^\d+\z/) {
        if (length($$buffer) < $at + $length[0]) {
            $self->{body} = substr($$buffer, $at);
            return undef;
        }
        $self->{body} = substr($$buffer, $at, $length[0]);
        return $at + $length[0];
    }

    return undef unless $eof;

    $self->{body} = substr($$buffer, $at);

    return length $$buffer;
}


sub _parse_chunks {
    my ($self, $buffer, $at) = @_;

    $self->{body} = '';

    while (1) {
        my $end = index($$buffer, "\r\n", $at);
        return undef if $end < 0;

        my $size = substr($$buffer, $at, $end - $at);
        return $self->_give_up($buffer, "bad chunk size: $size")
            if $size !~ /^[0-9A-Fa-f]{1,8}\z/;

        $size = hex $size;
        $at = $end + 2;
        return undef if length($$buffer) < $at + $size + 2;

        $self->{body} .= substr($$buffer, $at, $size);
        $at += $size;
        return $self->_give_up($buffer, 'no CRLF after a chunk')
            if substr($$buffer, $at, 2) ne "\r\n";

        $at += 2;
        return $at if $size == 0;
    }
}


# Where the next response would begin is unknown: all of it is this one's.

sub _give_up {
    my ($self, $buffer, $text) = @_;

    $self->_problem($text);

    return length $$buffer;
}


sub _problem {
    my ($self, $text) = @_;

    push @{ $self->{problems} }, $text;

    return;
}


sub status   { return $_[0]{status} || 0 }
sub reason   { return $_[0]{reason} }
sub version  { return $_[0]{version} }
sub method   { return $_[0]{method} }
sub body     { return $_[0]{body} }
sub raw      { return $_[0]{raw} }
sub closed   { return $_[0]{closed} }
sub headers  { return @{ $_[0]{headers} } }
sub problems { return @{ $_[0]{problems} } }
sub interim  { return @{ $_[0]{interim} } }
sub time     { return $_[0]{time} }


sub header {
    my ($self, $name) = @_;

    my @values = map { $_->[1] }
        grep { lc $_->[0] eq lc $name } @{ $self->{headers} };

    return wantarray ? @values : $values[0];
}


sub json {
    my ($self) = @_;

    return eval { JSON::PP->new->utf8->decode($self->{body}) };
}


# What is wrong with this as one of the gateway's errors; empty if nothing.

sub error_faults {
    my ($self, $status, $code, $message) = @_;

    my @faults = $self->problems;

    push @faults, "status $self->{status}, not $status"
        if $self->status != $status;
    push @faults, $self->type_faults;
    push @faults, $self->_error_body_faults($code, $message)
        unless $self->{method} eq 'HEAD';

    return @faults;
}


sub type_faults {
    my ($self) = @_;

    my @type = $self->header('Content-Type');
    my @length = $self->header('Content-Length');
    my @faults;

    push @faults, "Content-Type '@type'"
        if "@type" ne 'application/json';
    push @faults, "Content-Length '@length'"
        if "@length" !~ /^\d+\z/;

    return @faults if $self->{method} eq 'HEAD';

    push @faults, "Content-Length '@length' of " . length($self->{body}) . " bytes"
        if "@length" ne length $self->{body};

    return @faults;
}


sub _error_body_faults {
    my ($self, $code, $message) = @_;

    my $json = $self->json;

    return "body is not JSON: $self->{body}" unless ref $json eq 'HASH';

    my $error = $json->{error};

    return "body is not the documented shape: $self->{body}"
        unless join(' ', keys %$json) eq 'error'
               && ref $error eq 'HASH'
               && join(' ', sort keys %$error) eq 'code message'
               && !ref $error->{code} && !ref $error->{message};

    my @faults;

    push @faults, "code $error->{code}, not $code"
        if defined $code && $error->{code} ne $code;

    if (ref $message) {
        push @faults, "message '$error->{message}' does not match $message"
            if $error->{message} !~ $message;
    } elsif (defined $message) {
        push @faults, "message '$error->{message}', not '$message'"
            if $error->{message} ne $message;
    }

    push @faults, 'message is empty' unless length $error->{message};

    return @faults;
}


1;

__END__

=head1 NAME

Convotic::Response - an HTTP response, parsed strictly

=head1 DESCRIPTION

=over

=item status, reason, version, method, body, raw, time

The status is 0 if there was none; C<time> is the time to the last byte.

=item header($name), headers

All values in list context, the first in scalar context; all fields in their
order as C<[name, value]>.

=item json

The decoded body, undef if it is not JSON.

=item closed

Whether the server closed the connection after this response.

=item problems

Every breach of HTTP's framing: ends early, extra bytes, two lengths, a bad
line.  Empty in a good response.

=item interim

The statuses of the 1xx responses that came before.

=item error_faults($status, $code, $message), type_faults

What differs from the documented error, as a list of sentences; only the
checks of Content-Type and Content-Length.  C<$message> may be a pattern;
code and message may be undef.

=back

=cut
