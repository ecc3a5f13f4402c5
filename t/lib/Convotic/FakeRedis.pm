package Convotic::FakeRedis;

use strict;
use warnings;

use parent -norequire, 'Convotic::Server';

use IO::Socket::INET;
use Time::HiRes qw(time);

use Convotic::Redis qw(redis_url);
use Convotic::Resp qw(:all);
use Convotic::Server;

sub new {
    my ($class, %arg) = @_;

    return $class->SUPER::new(%arg, options => {
        handler => $arg{handler},
        behind  => $arg{behind},
        scripts => {},
    });
}


sub url { my ($self, %arg) = @_; return redis_url($self->{port}, %arg) }


# The commands that came: {conn, argv, time}.

sub commands { return $_[0]->records }


sub count {
    my ($self, $prefix) = @_;

    return scalar grep { !defined $prefix || _is_like($prefix, $_->{argv}) }
        $self->records;
}


# script(prefix => spec, ...): undef takes one back.

sub script {
    my ($self, %scripts) = @_;

    return $self->control('script', \%scripts);
}


sub clear { return $_[0]->control('clear') }
sub push  { return $_[0]->control('push', $_[1], $_[2]) }


# "GET convotic:gen" is like the command GET convotic:gen:{acme}.

sub _is_like {
    my ($prefix, $argv) = @_;

    my ($name, @rest) = @$argv;

    return 1 if $prefix eq '*';
    return uc $name eq $prefix if $prefix !~ / /;
    return index(join(' ', uc $name, @rest), $prefix) == 0;
}


# The child's part.  Every command has a slot; the slots of a connection leave
# in order, as each is filled, by the script or by the server behind.

sub on_open {
    my ($self, $conn) = @_;

    @$conn{qw(slots waiting seen)} = ([], [], []);

    return unless $self->{behind};

    my $socket = IO::Socket::INET->new(PeerAddr => $self->{behind}, Timeout => 2)
        or return $self->close_conn($conn);

    my $back = $self->add_conn($socket);
    $self->{count}{open}--;
    $back->{front} = $conn;
    $conn->{back} = $back;

    return;
}


sub on_input {
    my ($self, $conn) = @_;

    return $self->_replies($conn) if $conn->{front};

    while (my ($argv, $bytes) = eval { resp_parse(\$conn->{in}) }) {
        $argv = [ split ' ', $argv ] unless ref $argv;
        last unless @$argv;

        CORE::push @{ $conn->{seen} }, $argv;
        $self->{count}{commands}++;
        $self->record({ conn => $conn->{id}, argv => $argv, time => time() });

        $self->_command($conn, $argv, $bytes);
        return if $conn->{gone};
    }

    return $self->close_conn($conn) if $@;

    return $self->_send_slots($conn);
}


sub _command {
    my ($self, $conn, $argv, $bytes) = @_;

    my $spec = $self->_spec($conn, $argv);
    my $slot = {};

    CORE::push @{ $conn->{slots} }, $slot;

    return $slot->{steps} = [ { hang => 1 } ]
        if !defined $spec || ref $spec eq 'HASH' && $spec->{hang};

    if (ref $spec eq 'HASH' && $spec->{pass}) {
        return $slot->{steps} = _steps({ raw => resp_error('ERR scripted') })
            unless $conn->{back};

        $slot->{spec} = $spec;
        CORE::push @{ $conn->{waiting} }, $slot;
        return $self->queue($conn->{back}, { bytes => $bytes });
    }

    $slot->{steps} = _steps($spec);

    return;
}


sub _spec {
    my ($self, $conn, $argv) = @_;

    my ($script) = sort { length $b <=> length $a }
        grep { _is_like($_, $argv) } keys %{ $self->{scripts} };

    return $self->{scripts}{$script} if defined $script;
    return { pass => 1 } unless $self->{handler};

    my $context = bless {
        conn => $conn->{id}, vars => $self->{vars}, seen => $conn->{seen},
    }, 'Convotic::FakeRedis::Context';

    my $spec = eval { $self->{handler}->($context, @$argv) };
    return $spec unless $@;

    print STDERR "handler: $@";

    return resp_error("ERR handler: " . $@ =~ s/\s+/ /gr);
}


sub _steps {
    my ($spec) = @_;

    $spec = { raw => resp_encode($spec) } if ref $spec eq 'ARRAY';
    $spec = { raw => $spec } unless ref $spec;

    my @steps;

    CORE::push @steps, { delay => $spec->{delay} } if $spec->{delay};

    if (my $size = $spec->{split}) {
        my $raw = $spec->{raw};
        CORE::push @steps, { bytes => substr($raw, 0, $size, '') },
                           { delay => $spec->{interval} || 0.001 }
            while length $raw;
    } else {
        CORE::push @steps, { bytes => $spec->{raw} };
    }

    CORE::push @steps, { rst => 1 } if $spec->{rst};
    CORE::push @steps, { close => 1 } if $spec->{close};

    return \@steps;
}


sub _replies {
    my ($self, $back) = @_;

    my $conn = $back->{front};

    while (my ($value, $bytes) = eval { resp_parse(\$back->{in}) }) {
        my $slot = _is_message($value) ? undef : shift @{ $conn->{waiting} };

        if ($slot) {
            $slot->{steps} = _steps({ %{ $slot->{spec} }, raw => $bytes });
        } else {
            _insert_message($conn, $bytes);
        }
    }

    return $self->_send_slots($conn);
}


sub _is_message {
    my ($value) = @_;

    return ref $value eq 'ARRAY' && defined $value->[0]
           && $value->[0] =~ /^p?message\z/;
}


# What nobody asked for goes before the replies that have yet to come.

sub _insert_message {
    my ($conn, $bytes) = @_;

    my $at = 0;
    $at++ while $at < @{ $conn->{slots} } && $conn->{slots}[$at]{steps};

    splice @{ $conn->{slots} }, $at, 0, { steps => [ { bytes => $bytes } ] };

    return;
}


sub _send_slots {
    my ($self, $conn) = @_;

    while (!$conn->{gone} && @{ $conn->{slots} } && $conn->{slots}[0]{steps}) {
        my $slot = shift @{ $conn->{slots} };
        $self->queue($conn, @{ $slot->{steps} });
    }

    return;
}


sub on_close {
    my ($self, $conn) = @_;

    my $other = $conn->{front} || $conn->{back} or return;

    return if $other->{gone};

    $self->{count}{open}++;             # a pair counts once
    $self->close_conn($other);

    return;
}


# Connections on which a command like this one was seen.

sub chosen {
    my ($self, $prefix) = @_;

    return grep {
        my $conn = $_;
        !$conn->{front} && (!defined $prefix
                            || grep { _is_like($prefix, $_) } @{ $conn->{seen} })
    } values %{ $self->{conns} };
}


sub ctl_script {
    my ($self, $scripts) = @_;

    for my $prefix (keys %$scripts) {
        if (defined $scripts->{$prefix}) {
            $self->{scripts}{$prefix} = $scripts->{$prefix};
        } else {
            delete $self->{scripts}{$prefix};
        }
    }

    return 1;
}


sub ctl_clear {
    my ($self) = @_;

    $self->{scripts} = {};
    $self->ctl_accept('open');

    return 1;
}


sub ctl_push {
    my ($self, $bytes, $prefix) = @_;

    my @conns = $self->chosen($prefix);

    $self->queue($_, { bytes => $bytes }) for @conns;

    return scalar @conns;
}


package Convotic::FakeRedis::Context;

use strict;
use warnings;

sub conn { return $_[0]{conn} }
sub vars { return $_[0]{vars} }
sub seen { return @{ $_[0]{seen} } }


1;

__END__

=head1 NAME

Convotic::FakeRedis - a Redis that answers what a test scripts

=head1 SYNOPSIS

    my $fake = $t->fake_redis(behind => $redis);
    $fake->script('HGETALL' => "-LOADING Redis is loading\r\n");
    $fake->script('GET convotic:gen' => { pass => 1, delay => 0.2 });
    $fake->clear;

    my $fake = $t->fake_redis(handler => sub {
        my ($ctx, $name, @args) = @_;
        return "+PONG\r\n" if $name eq 'PING';
        return { pass => 1 };
    });

=head1 DESCRIPTION

Each command is looked up among the scripts (the longest prefix that fits),
then given to the handler; without either it passes to the real server given
as C<behind> (a Redis object or an address).  Replies leave in the order of
their commands, messages of a subscription as they come.

=head2 An answer

A string is raw bytes, the empty string is no answer; an array is encoded
(L<Convotic::Resp>); undef never answers, nor anything after it on that
connection.  Otherwise a hash: C<raw>, C<delay> (seconds), C<split> (bytes per
piece) and C<interval>, C<close>, C<rst>, C<hang>, C<< pass => 1 >> (with
C<delay>, C<split>, C<close>).

The handler gets a context with C<conn>, C<vars> (see C<set>) and C<seen> (the
commands so far on this connection), then the command's words.

=head2 Methods

=over

=item script(prefix => answer, ...), clear

A prefix is a command name in upper case and possibly the beginning of its
arguments, or C<*>; undef takes it back.  In scripts undef cannot be an
answer: use C<< { hang => 1 } >>.

=item push($bytes, $prefix)

Sends bytes now to every connection, or to those on which a command with this
prefix was seen; the number of them.

=item drop($prefix), rst($prefix), accept($mode)

=item commands, count($prefix), reset

What came, as C<{conn, argv, time}>.

=item url(db => , user => , password => ), port, addr, counters

=back

=cut
