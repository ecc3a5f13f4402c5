package Convotic::Resp;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(resp_command resp_parse resp_simple resp_error resp_int
                    resp_bulk resp_nil resp_array resp_encode);
our %EXPORT_TAGS = (all => \@EXPORT_OK);


sub resp_command { return resp_array(map { resp_bulk("$_") } @_) }

sub resp_simple  { return "+$_[0]\r\n" }
sub resp_error   { return "-$_[0]\r\n" }
sub resp_int     { return ":$_[0]\r\n" }
sub resp_nil     { return "\$-1\r\n" }
sub resp_array   { return '*' . @_ . "\r\n" . join('', @_) }


sub resp_bulk {
    my ($bytes) = @_;

    return resp_nil() unless defined $bytes;

    utf8::encode($bytes) if utf8::is_utf8($bytes);

    return '$' . length($bytes) . "\r\n$bytes\r\n";
}


# undef: nil; a string: bulk; a reference to an array: an array of those;
# a reference to an integer: an integer.

sub resp_encode {
    my ($value) = @_;

    return resp_array(map { resp_encode($_) } @$value) if ref $value eq 'ARRAY';
    return resp_int($$value) if ref $value eq 'SCALAR';

    return resp_bulk($value);
}


# Takes one complete reply off the front of $$buffer.  Returns (value, bytes),
# or nothing while the reply is incomplete.  An error is an object.

sub resp_parse {
    my ($buffer) = @_;

    my $at = 0;
    my @value = _parse($buffer, \$at) or return;

    return ($value[0], substr($$buffer, 0, $at, ''));
}


sub _parse {
    my ($buffer, $at) = @_;

    my $end = index($$buffer, "\r\n", $$at);
    return if $end < 0;

    my $type = substr($$buffer, $$at, 1);
    my $rest = substr($$buffer, $$at + 1, $end - $$at - 1);
    $$at = $end + 2;

    return $rest if $type eq '+' || $type eq ':';
    return Convotic::Resp::Error->new($rest) if $type eq '-';
    return _parse_bulk($buffer, $at, $rest) if $type eq '$';
    return _parse_array($buffer, $at, $rest) if $type eq '*';

    die "not RESP2: type '$type'\n";
}


sub _parse_bulk {
    my ($buffer, $at, $length) = @_;

    return undef if $length < 0;
    return if length($$buffer) < $$at + $length + 2;

    my $value = substr($$buffer, $$at, $length);
    $$at += $length + 2;

    return $value;
}


sub _parse_array {
    my ($buffer, $at, $count) = @_;

    return undef if $count < 0;

    my @list;

    for (1 .. $count) {
        my @value = _parse($buffer, $at) or return;
        push @list, $value[0];
    }

    return \@list;
}


package Convotic::Resp::Error;

use overload '""' => sub { $_[0]{text} }, fallback => 1;

sub new { return bless { text => $_[1] }, $_[0] }


1;

__END__

=head1 NAME

Convotic::Resp - the Redis protocol, RESP2, both ways

=head1 DESCRIPTION

C<resp_command(@argv)> encodes a command.  C<resp_simple>, C<resp_error>,
C<resp_int>, C<resp_bulk>, C<resp_nil> and C<resp_array> (of encoded elements)
encode replies; C<resp_encode($value)> encodes nested data: undef, strings,
arrays, and references to integers.

C<resp_parse(\$buffer)> takes one complete reply or command off the buffer and
returns its value and its bytes, or nothing while it is incomplete.  Error
replies are C<Convotic::Resp::Error> objects that stringify to their text.

=cut
