package Convotic::H2;

use strict;
use warnings;

use Exporter qw(import);

use Convotic::Response;

our @EXPORT_OK = qw(frame settings field huffman PREFACE);

use constant {
    PREFACE   => "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    MAX_FRAME => 16_384,

    DATA => 0, HEADERS => 1, PRIORITY => 2, RST_STREAM => 3, SETTINGS => 4,
    PUSH_PROMISE => 5, PING => 6, GOAWAY => 7, WINDOW_UPDATE => 8,
    CONTINUATION => 9,

    END_STREAM => 1, ACK => 1, END_HEADERS => 4, PADDED => 8,
};

# RFC 7541, appendix B: the lengths of the codes, A is 5 bits.  The codes follow
# from them: they count up, the shorter ones first.

my $LENGTHS = 'ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBH'
    . 'FIBCCCCCCCCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBABCBAABCCCCCKGJIXPRPPRRR'
    . 'SRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSRRSVVPORSRUVVVWWVT'
    . 'UOQVWWVWTQQVVXWWWPTPQRQQSRRUUTTVSVWVVWWWWWXWWWWWV';

my (@code, %char, $codes);

{
    my ($code, $last) = (0, 5);
    my @length = map { ord($_) - ord('A') + 5 } split //, $LENGTHS;

    for my $char (sort { $length[$a] <=> $length[$b] || $a <=> $b } 0 .. 255) {
        $code <<= $length[$char] - $last;
        $last = $length[$char];
        $code[$char] = sprintf '%0*b', $last, $code++;
    }

    %char = map { $code[$_] => chr } 0 .. 255;
    $codes = join '|', @code;
    $codes = qr/\G($codes)/;
}

# RFC 7541, appendix A: of the names in it, those that a response may use.

my @STATIC = (
    '', ':authority', (':method') x 2, (':path') x 2, (':scheme') x 2,
    (':status') x 7, qw(
        accept-charset accept-encoding accept-language accept-ranges accept
        access-control-allow-origin age allow authorization cache-control
        content-disposition content-encoding content-language content-length
        content-location content-range content-type cookie date etag expect
        expires from host if-match if-modified-since if-none-match if-range
        if-unmodified-since last-modified link location max-forwards
        proxy-authenticate proxy-authorization range referer refresh
        retry-after server set-cookie strict-transport-security
        transfer-encoding user-agent vary via www-authenticate
    ),
);
my %STATUS = (8 => 200, 9 => 204, 10 => 206, 11 => 304, 12 => 400, 13 => 404,
              14 => 500);


# What is sent.

sub frame {
    my ($type, $flags, $stream, $payload) = @_;

    $payload = '' unless defined $payload;

    return substr(pack('N', length $payload), 1)
           . pack('CCN', $type, $flags, $stream) . $payload;
}


sub settings {
    my (@pairs) = @_;

    my $payload = '';

    while (my ($id, $value) = splice @pairs, 0, 2) {
        $payload .= pack 'nN', $id, $value;
    }

    return frame(SETTINGS, 0, 0, $payload);
}


sub integer {
    my ($bits, $first, $n) = @_;

    my $max = (1 << $bits) - 1;

    return chr($first | $n) if $n < $max;

    my $bytes = chr($first | $max);
    $n -= $max;

    while ($n > 127) {
        $bytes .= chr(128 | $n & 127);
        $n >>= 7;
    }

    return $bytes . chr $n;
}


sub huffman {
    my ($text) = @_;

    my $bits = join '', map { $code[$_] } unpack 'C*', $text;

    $bits .= '1' x (-length($bits) % 8);

    return pack 'B*', $bits;
}


sub string {
    my ($text, $huffman) = @_;

    $text = huffman($text) if $huffman;

    return integer(7, $huffman ? 128 : 0, length $text) . $text;
}


# A literal: how is 0 (not indexed), 16 (never) or 64 (added to the table).

sub field {
    my ($name, $value, $how, $huffman) = @_;

    return chr($how || 0) . string($name, $huffman) . string($value, $huffman);
}


# What comes back: the frames are taken off $$buffer and told to an object
# made by new().

sub new {
    my ($class) = @_;

    return bless {
        streams => {}, problems => [], goaway => undef, settings => 0,
        acked => 0, pong => 0, known => {},
    }, $class;
}


sub feed {
    my ($self, $buffer) = @_;

    while (length $$buffer >= 9) {
        my ($high, $low, $type, $flags, $stream) = unpack 'CnCCN', $$buffer;
        my $length = $high << 16 | $low;

        if ($length > MAX_FRAME || $type > 9) {
            $self->_problem("frame of type $type and $length bytes");
            $$buffer = '';
            return;
        }

        return if length $$buffer < 9 + $length;

        my $payload = substr $$buffer, 9, $length;
        substr $$buffer, 0, 9 + $length, '';

        $self->_problem('the first frame is no SETTINGS, but ' . $type)
            unless $self->{settings} || $type == SETTINGS || $type == GOAWAY;
        $self->_frame($type, $flags, $stream & 0x7fffffff, $payload);
    }

    return;
}


sub _problem {
    my ($self, $text) = @_;

    push @{ $self->{problems} }, $text;

    return;
}


sub _frame {
    my ($self, $type, $flags, $id, $payload) = @_;

    if ($type == SETTINGS) {
        $self->{ $flags & ACK ? 'acked' : 'settings' }++;
    } elsif ($type == PING) {
        $self->{pong}++ if $flags & ACK;
    } elsif ($type == GOAWAY) {
        $self->{goaway} = unpack 'x4N', $payload;
    } elsif ($type == HEADERS) {
        $self->_headers($flags, $id, $payload);
    } elsif ($type == DATA) {
        $self->_data($flags, $id, $payload);
    } elsif ($type == RST_STREAM) {
        my $stream = $self->{streams}{$id} ||= {};
        $stream->{reset} = unpack 'N', $payload;
    } elsif ($type != WINDOW_UPDATE) {
        $self->_problem("frame of type $type");
    }

    return;
}


sub _headers {
    my ($self, $flags, $id, $payload) = @_;

    my $stream = $self->{streams}{$id} ||= {};

    return $self->_problem("stream $id: two headers") if $stream->{res};
    return $self->_problem("stream $id: headers after a reset")
        if defined $stream->{reset};

    $self->_problem("stream $id: flags $flags of HEADERS")
        if ($flags & ~END_STREAM) != END_HEADERS;

    my $res = $stream->{res} = Convotic::Response->none('GET');
    my @fields = $self->_fields($payload);

    $res->{version} = '2';
    $res->{status} = 0;
    $self->{order}{$id} = ++$self->{count};

    if (@fields && $fields[0][0] eq ':status' && $fields[0][1] =~ /\A\d{3}\z/) {
        $res->{status} = (shift @fields)->[1];
    } else {
        push @{ $res->{problems} }, 'no :status';
    }

    push @{ $res->{problems} }, "header name '$_->[0]'"
        for grep { $_->[0] !~ /\A[a-z][a-z0-9-]*\z/
                   || $_->[0] =~ /\A(?:connection|transfer-encoding|keep-alive)\z/ }
            @fields;

    $res->{headers} = \@fields;
    $stream->{ended} = $flags & END_STREAM;

    return;
}


sub _data {
    my ($self, $flags, $id, $payload) = @_;

    my $stream = $self->{streams}{$id};

    return $self->_problem("stream $id: DATA without headers")
        unless $stream && $stream->{res};
    return $self->_problem("stream $id: DATA after its end") if $stream->{ended};

    $stream->{res}{body} .= $payload;
    $stream->{ended} = $flags & END_STREAM;

    return;
}


# nginx's encoder has no table: names are of the static one or told, values
# are told; a table of its own would be an index that is not known here.

sub _fields {
    my ($self, $block) = @_;

    my @fields;
    my $at = 0;

    while ($at < length $block) {
        my $first = ord substr $block, $at, 1;

        if ($first & 128) {
            my $index = _integer($block, \$at, 7);
            my $status = $STATUS{$index};
            push @fields, [ $STATIC[$index] || "index $index",
                            defined $status ? $status : '' ];
        } elsif (($first & 224) == 32) {
            _integer($block, \$at, 5);
        } else {
            my $index = _integer($block, \$at, $first & 64 ? 6 : 4);
            my $name = $index ? $STATIC[$index] || "index $index"
                              : $self->_string($block, \$at);
            push @fields, [ $name, $self->_string($block, \$at) ];
        }
    }

    return @fields;
}


sub _integer {
    my ($block, $at, $bits) = @_;

    my $max = (1 << $bits) - 1;
    my $n = $max & ord substr $block, $$at++, 1;

    return $n if $n < $max;

    for (my $shift = 0; $shift < 28; $shift += 7) {
        my $byte = ord(substr($block, $$at++, 1) || "\0");
        $n += ($byte & 127) << $shift;
        last if $byte < 128;
    }

    return $n;
}


my %decoded;

sub _string {
    my ($self, $block, $at) = @_;

    my $huffman = 128 & ord(substr($block, $$at, 1) || "\0");
    my $length = _integer($block, $at, 7);
    my $bytes = $$at + $length <= length $block ? substr $block, $$at, $length : '';

    $$at += $length;

    return $bytes unless $huffman;

    %decoded = () if keys %decoded > 5000;

    return $decoded{$bytes} //= $self->_decode($bytes);
}


sub _decode {
    my ($self, $bytes) = @_;

    my $bits = unpack 'B*', $bytes;
    my $text = '';

    while ($bits =~ /$codes/gc) {
        $text .= $char{$1};
    }

    my $rest = substr $bits, pos($bits) || 0;
    $self->_problem("Huffman code ends in '$rest'") if $rest !~ /\A1{0,7}\z/;

    return $text;
}


1;

__END__

=head1 NAME

Convotic::H2 - frames and header fields of HTTP/2, as few as a test needs

=head1 DESCRIPTION

=over

=item frame($type, $flags, $stream, $payload), settings($id => $value, ...)

Bytes to send.  C<PREFACE> comes first.

=item field($name, $value, $how, $huffman)

A header field as a literal: C<$how> is 0, 16 (never indexed) or 64 (added to the
table).  C<huffman($text)> is the code alone.

=item new, feed(\$buffer)

Takes the frames off the buffer.  C<streams> then has for each number C<res>, a
L<Convotic::Response>, C<ended> and C<reset>; C<goaway> is its code, C<pong> the
answers to PING, C<problems> what is not as it should be.

=back

=cut
