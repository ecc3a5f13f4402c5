package Convotic::Server;

use strict;
use warnings;

use Errno qw(EAGAIN EINTR);
use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use JSON::PP ();
use Socket qw(AF_UNIX SOCK_STREAM PF_UNSPEC SOL_SOCKET SO_LINGER
              IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time);

use Convotic::Port qw(free_port listen_on);
use Convotic::Process;

use constant CONTROL_TIMEOUT => 10;

# A server is one forked process with one loop.  In the parent the object
# talks to it over a socket pair, a line of JSON each way; in the child it
# owns the connections.  JSON strings hold bytes.

my $json = JSON::PP->new->ascii->allow_nonref->canonical;


sub new {
    my ($class, %arg) = @_;

    my $self = bless {
        name => $arg{name}, port => $arg{port} || free_port(), vars => {},
        log_file => "$arg{dir}/$arg{name}.jsonl",
        err_file => "$arg{dir}/$arg{name}.stderr",
        %{ $arg{options} || {} },
    }, $class;

    return $self->start;
}


sub start {
    my ($self) = @_;

    my $listen = listen_on($self->{port});

    socketpair(my $ours, my $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC)
        or die "socketpair: $!\n";
    $ours->autoflush(1);
    $theirs->autoflush(1);

    $self->{process} = Convotic::Process->spawn(
        name   => $self->{name},
        stderr => $self->{err_file},
        code   => sub {
            close $ours;
            $self->_run($listen, $theirs);
        },
    );

    close $theirs;
    close $listen;
    $self->{control} = $ours;

    return $self;
}


sub stop {
    my ($self) = @_;

    return $self->{process}->kill;
}


sub name    { return $_[0]{name} }
sub port    { return $_[0]{port} }
sub addr    { return "127.0.0.1:$_[0]{port}" }
sub process { return $_[0]{process} }


# What the parent may ask for.

sub set      { my $self = shift; return $self->control('set', {@_}) }
sub vars     { return $_[0]->control('vars') }
sub counters { return $_[0]->control('counters') }
sub drop     { return $_[0]->control('drop', $_[1]) }
sub rst      { return $_[0]->control('rst', $_[1]) }
sub accept   { return $_[0]->control('accept', $_[1]) }
sub release  { return $_[0]->control('release', $_[1]) }
sub reset    { return $_[0]->control('reset_log') }


sub control {
    my ($self, $op, @arg) = @_;

    my $line = $json->encode([ $op, @arg ]) . "\n";
    my $limit = CONTROL_TIMEOUT * $Convotic::Process::FACTOR;

    print { $self->{control} } $line;

    my $reply = '';

    while ($reply !~ /\n\z/) {
        die "$self->{name}: no answer to '$op'\n" . $self->errors
            unless IO::Select->new($self->{control})->can_read($limit)
                   && sysread $self->{control}, $reply, 65536, length $reply;
    }

    my ($ok, $value) = @{ $json->decode($reply) };
    die "$self->{name}: $op: $value\n" unless $ok;

    return $value;
}


# The records of the log since the last reset.

sub records {
    my ($self) = @_;

    open my $fh, '<', $self->{log_file} or return;

    return map { $json->decode($_) } grep { /\n\z/ } <$fh>;
}


sub errors {
    my ($self) = @_;

    open my $fh, '<', $self->{err_file} or return '';
    local $/;

    return scalar(<$fh>) || '';
}


# The child.

sub _run {
    my ($self, $listen, $control) = @_;

    open $self->{log}, '>>', $self->{log_file} or die "$self->{log_file}: $!\n";
    $self->{log}->autoflush(1);

    $listen->blocking(0);
    $self->{listen} = $listen;
    $self->{mode} = 'open';
    $self->{control} = $control;
    $self->{control_in} = '';
    $self->{conns} = {};
    $self->{count} = { accepted => 0, open => 0, aborted => 0 };

    $self->_turn while $self->{control};

    return;
}


sub _turn {
    my ($self) = @_;

    my ($read, $write) = ('', '');
    my %by_fd;

    vec($read, fileno $self->{control}, 1) = 1;
    vec($read, fileno $self->{listen}, 1) = 1
        if $self->{listen} && $self->{mode} ne 'hang';

    for my $conn (values %{ $self->{conns} }) {
        my $fd = fileno $conn->{socket};
        $by_fd{$fd} = $conn;
        vec($read, $fd, 1) = 1 unless $conn->{eof};
        vec($write, $fd, 1) = 1 if length $conn->{out};
    }

    my $found = select $read, $write, undef, $self->_next_due;
    return if $found < 0;

    for my $fd (sort { $a <=> $b } keys %by_fd) {
        my $conn = $by_fd{$fd};
        next if $conn->{gone};

        $self->_readable($conn) if $found && vec($read, $fd, 1);
        $self->advance($conn) unless $conn->{gone};
    }

    $self->_accept
        if $found && $self->{listen} && vec($read, fileno $self->{listen}, 1);
    $self->_control if $found && vec($read, fileno $self->{control}, 1);

    return;
}


sub _next_due {
    my ($self) = @_;

    my $due;

    for my $conn (values %{ $self->{conns} }) {
        next if length $conn->{out};
        my $at = $conn->{steps}[0] && $conn->{steps}[0]{at} or next;
        $due = $at if !defined $due || $at < $due;
    }

    return undef unless defined $due;

    my $left = $due - time();

    return $left > 0 ? $left : 0;
}


sub _accept {
    my ($self) = @_;

    while (my $socket = $self->{listen}->accept) {
        $self->{count}{accepted}++;

        if ($self->{mode} eq 'close') {
            close $socket;
            next;
        }

        my $conn = $self->add_conn($socket);
        $self->on_open($conn);
    }

    return;
}


sub add_conn {
    my ($self, $socket) = @_;

    $socket->blocking(0);
    setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;

    my $conn = {
        id => ++$self->{next_id}, socket => $socket, in => '', out => '',
        steps => [],
    };

    $self->{conns}{ $conn->{id} } = $conn;
    $self->{count}{open}++;

    return $conn;
}


sub _readable {
    my ($self, $conn) = @_;

    my $n = sysread $conn->{socket}, $conn->{in}, 65536, length $conn->{in};

    return if !defined $n && ($! == EAGAIN || $! == EINTR);

    if ($n) {
        $self->on_input($conn);
        return;
    }

    $conn->{eof} = 1;
    $self->{count}{aborted}++ if @{ $conn->{steps} } || length $conn->{out};
    $self->on_eof($conn);

    return;
}


# What a connection is to send, in order.  A step is one of: bytes; delay
# (seconds, counted from the step's turn); at (a time); close; rst; hang; hold
# (until release).

sub queue {
    my ($self, $conn, @steps) = @_;

    push @{ $conn->{steps} }, @steps;
    $self->advance($conn) unless $conn->{gone};

    return;
}


sub advance {
    my ($self, $conn) = @_;

    while ($self->_flush($conn)) {
        my $step = $conn->{steps}[0] or return;

        $step->{at} = time() + delete $step->{delay} if defined $step->{delay};
        return if $step->{hang} || $step->{hold}
                  || defined $step->{at} && $step->{at} > time();

        shift @{ $conn->{steps} };

        return $self->close_conn($conn, $step->{rst})
            if $step->{close} || $step->{rst};

        $conn->{out} .= $step->{bytes} if defined $step->{bytes};
    }

    return;
}


sub _flush {
    my ($self, $conn) = @_;

    while (length $conn->{out}) {
        my $n = syswrite $conn->{socket}, $conn->{out};

        if (!defined $n) {
            return 0 if $! == EAGAIN || $! == EINTR;
            $self->close_conn($conn);
            return 0;
        }

        substr($conn->{out}, 0, $n, '');
    }

    return !$conn->{gone};
}


sub close_conn {
    my ($self, $conn, $rst) = @_;

    return if $conn->{gone}++;

    setsockopt $conn->{socket}, SOL_SOCKET, SO_LINGER, pack 'II', 1, 0 if $rst;

    delete $self->{conns}{ $conn->{id} };
    $self->{count}{open}--;
    close $conn->{socket};
    $self->on_close($conn, $rst);

    return;
}


sub record {
    my ($self, $record) = @_;

    syswrite $self->{log}, $json->encode($record) . "\n";

    return;
}


sub on_open  { return }
sub on_close { return }
sub on_eof   { return $_[0]->close_conn($_[1]) }


sub _control {
    my ($self) = @_;

    my $n = sysread $self->{control}, $self->{control_in}, 65536,
                    length $self->{control_in};

    if (!$n) {
        $self->{control} = undef;
        return;
    }

    while ($self->{control_in} =~ s/^(.*)\n//) {
        my ($op, @arg) = @{ $json->decode($1) };
        my $method = "ctl_$op";
        my $value = eval { $self->$method(@arg) };

        print { $self->{control} }
            $json->encode($@ ? [ 0, "$@" ] : [ 1, $value ]) . "\n";
    }

    return;
}


sub ctl_set {
    my ($self, $vars) = @_;

    $self->{vars}{$_} = $vars->{$_} for keys %$vars;

    return 1;
}


sub ctl_vars     { return $_[0]{vars} }
sub ctl_counters { return $_[0]{count} }


sub ctl_reset_log {
    my ($self) = @_;

    truncate $self->{log}, 0;
    $self->{count}{requests} = 0;

    return 1;
}


# What is held so far goes on; what comes later is held anew.

sub ctl_release {
    my ($self, $only) = @_;

    my $count = 0;

    for my $conn (values %{ $self->{conns} }) {
        my @held = grep { $_->{hold} && (!defined $only || $_->{hold} eq $only) }
            @{ $conn->{steps} } or next;

        delete $_->{hold} for @held;
        $count += @held;
        $self->advance($conn);
    }

    return $count;
}


sub ctl_drop {
    my ($self, $only) = @_;

    return $self->_end_conns($only, 0);
}


sub ctl_rst {
    my ($self, $only) = @_;

    return $self->_end_conns($only, 1);
}


sub _end_conns {
    my ($self, $only, $rst) = @_;

    my @conns = $self->chosen($only);

    $self->close_conn($_, $rst) for @conns;

    return scalar @conns;
}


# The connections meant by a pattern: all, unless a subclass knows better.

sub chosen { return values %{ $_[0]{conns} } }


sub ctl_accept {
    my ($self, $mode) = @_;

    die "accept: open, close, hang or refuse, not '$mode'\n"
        unless $mode =~ /^(?:open|close|hang|refuse)\z/;

    $self->{mode} = $mode;

    if ($mode eq 'refuse') {
        close $self->{listen} if $self->{listen};
        $self->{listen} = undef;
    } elsif (!$self->{listen}) {
        $self->{listen} = listen_on($self->{port});
        $self->{listen}->blocking(0);
    }

    return 1;
}


1;

__END__

=head1 NAME

Convotic::Server - one forked process with an event loop, run by its parent

=head1 DESCRIPTION

The base of L<Convotic::Upstream>, L<Convotic::FakeRedis> and
L<Convotic::ByteProxy>.  The parent listens before it forks, so connections
are accepted at once.

=over

=item port, addr, name, process, errors

C<errors> is what the server printed to its standard error.

=item stop, start

C<stop> kills the server, its port refuses then; C<start> begins anew on the
same port.

=item set(name => value, ...), vars

Variables of the server that its handler sees; values are plain data.

=item accept($mode)

What becomes of new connections: C<open>; C<close> closes them at once;
C<hang> leaves them in the backlog; C<refuse> closes the listening socket.

=item release($name)

Answers that were held go on, all or those held with that name; the number of
them.

=item drop, rst

Closes every connection, with FIN or with RST; the number of them.

=item counters

accepted, open, aborted (the peer left with an answer outstanding).

=item records, reset

The log so far, and empty it.

=back

Only the process that made the server may talk to it, not children of
C<parallel>.

A subclass has C<on_input($conn)>, and if it wants C<on_open>, C<on_eof>,
C<on_close>, which run in the child; they take bytes off C<< $conn->{in} >>
and call C<queue($conn, @steps)>.

=cut
