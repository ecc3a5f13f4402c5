package Convotic::ByteProxy;

use strict;
use warnings;

use parent -norequire, 'Convotic::Server';

use IO::Socket::INET;
use Time::HiRes qw(time);

use Convotic::Redis qw(redis_url);
use Convotic::Server;

use constant SEEN_MAX => 65536;

# Directions: up is from the client to the server, down is back.

sub new {
    my ($class, %arg) = @_;

    return $class->SUPER::new(%arg, options => { to => $arg{to} });
}


sub url { my ($self, %arg) = @_; return redis_url($self->{port}, %arg) }


sub delay     { my ($s, $v, @o) = @_; return $s->_mode('delay', $v, @o) }
sub split     { my ($s, $v, @o) = @_; return $s->_mode('split', $v || 1, @o) }
sub swallow   { my ($s, @o) = @_; return $s->_mode('swallow', 1, @o) }
sub duplicate { my ($s, @o) = @_; return $s->_mode('duplicate', 1, @o) }
sub truncate  { my ($s, $v, @o) = @_; return $s->_mode('truncate', $v, @o) }
sub clear     { return $_[0]->control('clear') }
sub lead      { return $_[0]->control('lead', $_[1]->addr) }


sub _mode {
    my ($self, $name, $value, $way, %opt) = @_;

    $way = 'both' unless defined $way;
    die "$name: up, down or both, not '$way'\n"
        unless $way =~ /^(?:up|down|both)\z/;

    return $self->control('mode', $name, $value, $way, $opt{only});
}


# The child's part.

sub on_open {
    my ($self, $client) = @_;

    my $socket = IO::Socket::INET->new(PeerAddr => $self->{to}, Timeout => 2);

    return $self->close_conn($client, 1) unless $socket;

    my $server = $self->add_conn($socket);

    @$client{qw(peer way seen)} = ($server, 'up', '');
    @$server{qw(peer way)} = ($client, 'down');
    $self->{count}{open}--;             # a pair counts once

    return;
}


sub on_input {
    my ($self, $conn) = @_;

    my $bytes = $conn->{in};
    $conn->{in} = '';
    $self->{count}{"bytes_$conn->{way}"} += length $bytes;

    $conn->{seen} = substr($conn->{seen} . $bytes, -SEEN_MAX)
        if $conn->{way} eq 'up' && length($conn->{seen}) < SEEN_MAX;

    return if $self->_mode_of($conn, 'swallow');

    my $left = $self->_mode_of($conn, 'truncate');
    my $over;

    if (defined $left) {
        $left -= $conn->{truncated} || 0;
        $over = length $bytes >= $left;
        $bytes = substr($bytes, 0, $left) if $over;
        $conn->{truncated} += length $bytes;
    }

    my $delay = $self->_mode_of($conn, 'delay');
    my @steps = $self->_pieces($conn, $bytes);

    unshift @steps, { at => time() + $delay } if $delay;
    push @steps, { close => 1 } if $over;
    $self->queue($conn->{peer}, @steps);

    return;
}


sub _pieces {
    my ($self, $conn, $bytes) = @_;

    $bytes .= $bytes if $self->_mode_of($conn, 'duplicate');

    my $size = $self->_mode_of($conn, 'split') or return { bytes => $bytes };
    my @steps;

    while (length $bytes) {
        push @steps, { bytes => substr($bytes, 0, $size, '') },
                     { delay => 0.0005 };
    }

    return @steps;
}


sub _mode_of {
    my ($self, $conn, $name) = @_;

    my $mode = $self->{modes}{$name}{ $conn->{way} } or return undef;

    return undef unless $self->_is_meant($conn, $mode->{only});

    return $mode->{value};
}


sub _is_meant {
    my ($self, $conn, $only) = @_;

    return 1 unless defined $only;

    my $client = $conn->{way} eq 'up' ? $conn : $conn->{peer};

    return $client->{seen} =~ /$only/i;
}


sub chosen {
    my ($self, $only) = @_;

    return grep { $_->{way} eq 'up' && $self->_is_meant($_, $only) }
        values %{ $self->{conns} };
}


# What is already on its way still arrives.

sub on_eof {
    my ($self, $conn) = @_;

    my $peer = $conn->{peer};

    return $self->close_conn($conn) if !$peer || $peer->{gone};

    return $self->queue($peer, { close => 1 });
}


sub on_close {
    my ($self, $conn, $rst) = @_;

    my $peer = $conn->{peer} or return;

    return if $peer->{gone};

    $self->{count}{open}++;             # as it goes down once for each
    $self->close_conn($peer, $rst);

    return;
}


sub ctl_mode {
    my ($self, $name, $value, $way, $only) = @_;

    for my $one ($way eq 'both' ? qw(up down) : $way) {
        $self->{modes}{$name}{$one} =
            $value ? { value => $value, only => $only }
                   : $name eq 'truncate' && defined $value
                   ? { value => 0, only => $only } : undef;
    }

    if ($name eq 'truncate') {
        delete $_->{truncated} for values %{ $self->{conns} };
    }

    return 1;
}


sub ctl_lead {
    my ($self, $addr) = @_;

    $self->{to} = $addr;

    return $self->ctl_drop;
}


sub ctl_clear {
    my ($self) = @_;

    $self->{modes} = {};
    $self->ctl_accept('open');

    return 1;
}


1;

__END__

=head1 NAME

Convotic::ByteProxy - a TCP proxy that mistreats the bytes

=head1 SYNOPSIS

    my $proxy = $t->byte_proxy(to => $redis);

    $proxy->delay(0.2, 'down');
    $proxy->swallow('down', only => 'SUBSCRIBE');
    $proxy->clear;

=head1 DESCRIPTION

Stands between nginx and a server, usually Redis.  The modes may be set and
combined at any time and act on open and new connections.  C<$way> is C<up>
(client to server), C<down> or C<both>, the default.  With C<< only =>
'pattern' >> a mode acts on those connections alone on which the client has
sent something that matches, regardless of case.

=over

=item delay($seconds, $way, only => )

Every piece arrives so much later, in order; 0 ends it.

=item split($bytes, $way, only => )

In pieces of so many bytes, one by default.

=item swallow($way, only => )

Read and forgotten; the connection stays open.

=item duplicate($way, only => )

Every piece twice.

=item truncate($bytes, $way, only => )

So many bytes more, then both sides are closed.

=item drop($only), rst($only)

Closes the connections that are open, with FIN or RST.

=item accept('open' | 'close' | 'hang' | 'refuse')

New connections.

=item lead($server)

To another server from now on, as a name does that leads elsewhere; the
connections that are open are closed.

=item clear

Ends all modes.

=item counters

accepted, open, bytes_up, bytes_down.

=item url(db => , user => , password => ), port, addr

=back

=cut
