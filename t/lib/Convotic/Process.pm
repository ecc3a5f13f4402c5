package Convotic::Process;

use strict;
use warnings;

use IO::Handle;
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(sleep time);

# Every child leads a process group of its own, so that one signal reaches
# whatever it forked.  %live: group id => object, of this test process only.

my $owner = $$;
my %live;
my %dirs;
my $watch;

our $FACTOR = $ENV{TEST_TIME_FACTOR} || 1;

$SIG{PIPE} = 'IGNORE';

for my $signal (qw(INT TERM HUP)) {
    $SIG{$signal} = sub { exit 128 + ($signal eq 'INT' ? 2 : 15) };
}


sub spawn {
    my ($class, %arg) = @_;

    _watch_start() unless $watch;

    my $pid = fork();
    die "fork: $!\n" unless defined $pid;

    _child(%arg) if $pid == 0;

    setpgrp($pid, $pid);

    my $self = bless { pid => $pid, name => $arg{name} || "pid $pid" }, $class;
    $live{$pid} = $self;
    _tell("+$pid");

    return $self;
}


# A daemon that left its group and its parent: it must lead a group.

sub adopt {
    my ($class, %arg) = @_;

    my $self = bless { %arg, adopted => 1 }, $class;
    $live{ $arg{pid} } = $self;
    _tell("+$arg{pid}");

    return $self;
}


sub pid  { return $_[0]{pid} }
sub name { return $_[0]{name} }


# The wait status once the process has ended, undef while it runs.

sub status {
    my ($self) = @_;

    return $self->{status} if defined $self->{status};
    return $self->_adopted_status if $self->{adopted};

    my $got = waitpid($self->{pid}, WNOHANG);

    return undef if $got == 0;

    $self->{status} = $got == $self->{pid} ? $? : -1;

    return $self->{status};
}


sub _adopted_status {
    my ($self) = @_;

    return undef if $self->members;

    return $self->{status} = 0;
}


sub alive { return !defined $_[0]->status }


sub wait {
    my ($self, $seconds) = @_;

    my $end = time() + $seconds * $FACTOR;

    until (defined $self->status) {
        return undef if time() > $end;
        sleep 0.005;
    }

    return $self->{status};
}


sub signal {
    my ($self, $signal) = @_;

    return $self->alive ? CORE::kill($signal, $self->{pid}) : 0;
}


sub signal_group {
    my ($self, $signal) = @_;

    return CORE::kill($signal, -$self->{pid});
}


# Ends the process: the signal first, after the time allowed the whole group
# is killed.  True if the signal was enough and left nobody behind.

sub stop {
    my ($self, $signal, $seconds) = @_;

    $self->signal($signal || 'TERM');
    $seconds = 5 unless defined $seconds;

    my $clean = defined $self->wait($seconds) && $self->_group_gone(2);

    $self->kill;

    return $clean;
}


sub kill {
    my ($self) = @_;

    $self->signal_group('KILL');
    $self->wait(10);

    my $gone = $self->_group_gone(10);

    if ($gone) {
        delete $live{ $self->{pid} };
        _tell("-$self->{pid}");
    }

    return $gone;
}


# Processes of the group, zombies not counted.

sub members {
    my ($self) = @_;

    return grep { $_->{pgrp} == $self->{pid} } living();
}


sub _group_gone {
    my ($self, $seconds) = @_;

    my $end = time() + $seconds * $FACTOR;

    while (CORE::kill(0, -$self->{pid}) && $self->members) {
        return 0 if time() > $end;
        sleep 0.01;
    }

    return 1;
}


# A process that nobody has waited for yet is no living one.

sub living { return grep { $_->{state} ne 'Z' } table() }


# The process table: pid, state, ppid, pgrp.

sub table {
    my @table;

    for my $stat (glob '/proc/[0-9]*/stat') {
        open my $fh, '<', $stat or next;
        my $line = <$fh>;
        next unless defined $line;

        my ($pid, $state, $ppid, $pgrp) =
            $line =~ /^(\d+) \(.*\) (\S) (\d+) (\d+)/s or next;

        push @table, { pid => $pid, state => $state, ppid => $ppid,
                       pgrp => $pgrp };
    }

    return @table;
}


sub title {
    my ($pid) = @_;

    open my $fh, '<', "/proc/$pid/cmdline" or return '';
    local $/;
    my $title = <$fh>;
    return '' unless defined $title;

    $title =~ tr/\0/ /;
    $title =~ s/ +\z//;

    return $title;
}


# ASAN_OPTIONS for a command that leaves its memory to the kernel at its end.

sub leaks_allowed {
    return join ':', grep { defined } $ENV{ASAN_OPTIONS}, 'detect_leaks=0';
}


sub all_live { return values %live }


# A directory that must go when the test ends, however it ends.

sub own_dir {
    my ($dir) = @_;

    $dirs{$dir} = 1;
    _watch_start() unless $watch;
    _tell("d$dir");

    return;
}


sub _child {
    my (%arg) = @_;

    setpgrp(0, 0);
    close $watch if $watch;

    $SIG{$_} = 'DEFAULT' for qw(INT TERM HUP PIPE CHLD);

    my $out = $arg{stdout} || '/dev/null';
    my $err = $arg{stderr} || $arg{stdout} || '/dev/null';
    my $in = $arg{stdin} || '/dev/null';

    open STDIN, '<', $in or POSIX::_exit(126);
    open STDOUT, '>>', $out or POSIX::_exit(126);
    open STDERR, '>>', $err or POSIX::_exit(126);
    STDOUT->autoflush(1);

    my $env = $arg{env} || {};

    for my $name (keys %$env) {
        if (defined $env->{$name}) {
            $ENV{$name} = $env->{$name};
        } else {
            delete $ENV{$name};
        }
    }

    if ($arg{code}) {
        $SIG{PIPE} = 'IGNORE';
        my $ok = eval { $arg{code}->(); 1 };
        print STDERR "$arg{name}: $@" unless $ok;
        POSIX::_exit($ok ? 0 : 1);
    }

    { no warnings 'exec'; exec { $arg{argv}[0] } @{ $arg{argv} } }
    print STDERR "exec $arg{argv}[0]: $!\n";
    POSIX::_exit(127);
}


# The watch survives even a SIGKILL of the test: it holds the other end of a
# pipe, learns of every group and directory, and clears up at end of file.

sub _watch_start {
    pipe(my $read, $watch) or die "pipe: $!\n";
    $watch->autoflush(1);

    my $pid = fork();
    die "fork: $!\n" unless defined $pid;

    return close $read if $pid;

    close $watch;
    POSIX::setsid();
    $SIG{$_} = 'IGNORE' for qw(INT TERM HUP PIPE);
    open $_, '+<', '/dev/null' for \*STDIN, \*STDOUT, \*STDERR;

    my (%groups, %paths);

    while (my $line = <$read>) {
        chomp $line;
        my ($verb, $what) = $line =~ /^([-+dD])(.*)$/ or next;

        $groups{$what} = 1 if $verb eq '+';
        delete $groups{$what} if $verb eq '-';
        $paths{$what} = 1 if $verb eq 'd';
        delete $paths{$what} if $verb eq 'D';
    }

    CORE::kill('KILL', -$_) for keys %groups;
    _remove($_) for keys %paths;
    POSIX::_exit(0);
}


sub _tell {
    my ($line) = @_;

    print {$watch} "$line\n" if $watch && $$ == $owner;

    return;
}


sub _remove {
    my ($dir) = @_;

    require File::Path;
    File::Path::remove_tree($dir, { error => \my $errors });

    return;
}


sub clean {
    $_->kill for values %live;

    for my $dir (keys %dirs) {
        if ($ENV{TEST_KEEP}) {
            print STDERR "# kept: $dir\n";
        } else {
            _remove($dir);
        }
        _tell("D$dir");
        delete $dirs{$dir};
    }

    return;
}


END {
    if ($$ == $owner) {
        local ($?, $!, $@);
        clean();
    }
}


1;

__END__

=head1 NAME

Convotic::Process - children that never outlive their test

=head1 SYNOPSIS

    my $p = Convotic::Process->spawn(name => 'redis', argv => [...],
                                     stderr => "$dir/redis.log");
    $p->signal('HUP');
    $p->stop('QUIT', 5) or die 'had to be killed';

=head1 DESCRIPTION

C<adopt(name =>, pid =>)> takes over a daemon that leads a group of its own.

C<spawn> runs a command (C<argv>) or a Perl sub (C<code>) in a process group
of its own, with C<stdin>, C<stdout>, C<stderr> (file names) and C<env> (a
hash, undef removes a variable).  Whatever way the test ends, all groups are
killed and all directories given to C<own_dir> removed: by an END block after
an exit, a death, SIGINT, SIGTERM or SIGHUP, and by a small watching process
after a SIGKILL.

Times are in seconds and are multiplied by C<TEST_TIME_FACTOR>.  With
C<TEST_KEEP=1> directories are kept and named.

=over

=item status, alive, wait($seconds)

The wait status once ended, whether it still runs, wait for the end.

=item signal($name), signal_group($name)

=item stop($signal, $seconds)

Signals, waits, and kills what is left; true if nothing was left to kill.

=item kill

SIGKILL to the group; true once it is gone.

=item members

The living processes of the group as hashes (pid, state, ppid, pgrp).

=item Convotic::Process::table(), living(), title($pid)

The process table, the same without zombies, a process's command line.

=item Convotic::Process::leaks_allowed()

The value of C<ASAN_OPTIONS> for commands whose leaks do not matter.

=back

=cut
