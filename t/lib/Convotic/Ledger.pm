package Convotic::Ledger;

use strict;
use warnings;

use List::Util qw(max sum);

use Convotic::Process;

use constant {
    TOLD    => 0.1,             # seconds until a change is seen, undisturbed
    SLACK   => 0.5,             # more that a busy machine may take
    INVALID => 1,               # convotic_key_invalid
    KEPT    => 60,              # seconds that what was is remembered
    WINDOW  => 60,              # seconds, of a rate
    LOCAL   => 4,               # convotic_rate_fallback local: a fourth of it
};

# keys: name => { now, pending, before => [ { value, done, lag } ] }
# purges: workspace => [ { version, done, lag } ]; versions: those the upstream
# has now; faults: id => { begin, end, node, and what it permits }; counting:
# those of them that concern rates, for ever; resets: name => [time]


sub new {
    my ($class) = @_;

    return bless {
        keys => {}, purges => {}, versions => {}, faults => {}, lags => [],
        counting => [], resets => {},
    }, $class;
}


# What the one who changes things says: [what, ..., time], in order, and always
# before it is done and after it is acknowledged.

sub announce {
    my ($self, $what, @rest) = @_;

    my $method = "_note_$what";

    return $self->$method(@rest);
}


sub _note_key {
    my ($self, $name, $value) = @_;

    $self->{keys}{$name} = { now => $value, before => [] };

    return;
}


# A change that is tried again is the same change.

sub _note_changing {
    my ($self, $name, $value) = @_;

    my $key = $self->{keys}{$name};

    push @{ $key->{before} }, { value => $key->{now} };
    $key->{now} = $value;

    return;
}


sub _note_changed {
    my ($self, $name, undef, $time) = @_;

    for my $old (@{ $self->{keys}{$name}{before} }) {
        $old->{done} = $time unless defined $old->{done};
    }

    return;
}


sub _note_version {
    my ($self, $workspace, $version) = @_;

    $self->{versions}{$workspace} = $version;

    return;
}


sub _note_purged {
    my ($self, $workspace, $version, $time) = @_;

    push @{ $self->{purges}{$workspace} },
        { version => $version, done => $time };

    return;
}


# What a fault permits, until `end' and some seconds more: {refuse => seconds},
# 503 for want of Redis; {fail => seconds}, 5xx of the upstream; {lost =>
# seconds}, no answer; {old => bound, after => seconds}, what was changed so
# long ago at most, or as long as without Redis with {away => 1}; {stop => 1}, one
# denied earlier than a second ago; {forget => seconds}, that keys are unknown;
# {left => seconds}, that kept connections end; {uncounted => seconds}, that rates
# are not counted by Redis, {losses => count}, that it loses its counts.

sub _note_begin {
    my ($self, $id, $fault, $time) = @_;

    my $it = $self->{faults}{$id} = { %$fault, begin => $time };

    push @{ $self->{counting} }, $it
        if defined $it->{uncounted} || ($it->{kind} || '') eq 'upgraded';

    return;
}


sub _note_reset {
    my ($self, $name, undef, $time) = @_;

    push @{ $self->{resets}{$name} }, $time;

    return;
}


sub _note_end {
    my ($self, $id, undef, $time) = @_;

    $self->{faults}{$id}{end} = $time if $self->{faults}{$id};

    return;
}


# What time has made irrelevant; a change's lag is known by then.

sub forget {
    my ($self, $now) = @_;

    my $past = $now - KEPT * $Convotic::Process::FACTOR;

    for my $key (values %{ $self->{keys} }) {
        my $before = $key->{before};

        push @{ $self->{lags} }, shift @$before
            while @$before && defined $before->[0]{done}
                  && $before->[0]{done} < $past;
    }

    # The last one purged stays: nothing from before it may ever come back.

    for my $purges (values %{ $self->{purges} }) {
        push @{ $self->{lags} }, shift @$purges
            while @$purges > 1 && $purges->[0]{done} < $past;
    }

    for my $id (keys %{ $self->{faults} }) {
        my $end = $self->{faults}{$id}{end};
        delete $self->{faults}{$id} if defined $end && $end < $past;
    }

    return;
}


sub lags {
    my ($self) = @_;

    my @all = (@{ $self->{lags} }, map({ @$_ } values %{ $self->{purges} }),
               map { @{ $_->{before} } } values %{ $self->{keys} });

    return grep { defined $_->{done} } @all;
}


# What a request to a node from $start to $end may meet.

sub permits {
    my ($self, $what, $node, $start, $end) = @_;

    for my $fault (values %{ $self->{faults} }) {
        next unless defined $fault->{$what};
        next if defined $fault->{node} && $fault->{node} ne $node;
        next if $fault->{begin} > $end;

        my $more = $what eq 'old' ? $fault->{after} : $fault->{$what};
        next if defined $fault->{end}
                && $fault->{end} + $more * $Convotic::Process::FACTOR < $start;
        return 1;
    }

    return 0;
}


# How much of a rate may pass between two times in a window that some node knows
# of: docs/rate-limits.md.  The rate, while Redis counts and keeps what it has
# counted.  Otherwise a node may count in a window that the other one does not know
# of, each loss is another allowance at most, and each node has a fourth of the
# rate for each window; one that was upgraded has forgotten what it let in.

sub most_of_rate {
    my ($self, $name, $rate, $nodes, $from, $to) = @_;

    my $factor = $Convotic::Process::FACTOR;

    my @wrong = grep {
        $_->{begin} <= $to
        && (!defined $_->{end}
            || $_->{end} + ($_->{uncounted} || 0) * $factor >= $from - WINDOW)
    } @{ $self->{counting} };

    my $windows = 1 + grep { $_ >= $from - WINDOW && $_ <= $to }
        @{ $self->{resets}{$name} || [] };

    return $windows * $rate unless grep { defined $_->{uncounted} } @wrong;

    my $losses = sum(map { $_->{losses} || 0 } @wrong);
    my $upgrades = grep { !defined $_->{uncounted} } @wrong;

    return ($windows + 1 + $losses) * $rate
           + 2 * ($nodes + $upgrades) * max(1, int $rate / LOCAL);
}


sub kinds {
    my ($self, $start, $end) = @_;

    my %kinds = map { $_->{kind} => 1 }
        grep { $_->{begin} <= $end
               && (!defined $_->{end} || $_->{end} + 3 >= $start) }
        values %{ $self->{faults} };

    return sort keys %kinds;
}


# Whether what was changed at $done may still be seen by a request that began
# at $start; and the lag that this is.

sub _may_be_old {
    my ($self, $change, $node, $start, $bound) = @_;

    my $done = $change->{done};
    return 1 if !defined $done || $start <= $done;

    my $factor = $Convotic::Process::FACTOR;

    return 1 if $start <= $done + TOLD + SLACK * $factor;

    for my $fault (values %{ $self->{faults} }) {
        next unless defined $fault->{old};
        next if defined $fault->{node} && $fault->{node} ne $node;
        next if $fault->{begin} > $start;
        next if defined $fault->{end}
                && $fault->{end} + $fault->{after} * $factor < $start;

        my $most = $fault->{away} ? $bound : $fault->{old};
        return 1 if $start <= $done + $most + SLACK * $factor;
    }

    return 0;
}


sub _seen {
    my ($self, $change, $node, $start) = @_;

    my $lag = $start - $change->{done};
    return if $lag <= 0;

    my $which = $self->permits('old', $node, $start - 1, $start) ? 'disturbed' : 'lag';
    $change->{$which} = $lag if $lag > ($change->{$which} || 0);

    return;
}


# The values of a key that an answer may rest on.

sub values_of {
    my ($self, $name, $node, $start, $stale) = @_;

    my $key = $self->{keys}{$name};

    return ($key->{now}, map { $_->{value} }
            grep { $self->_may_be_old($_, $node, $start, $stale) }
            @{ $key->{before} });
}


# Whether an answer that denies the key rests on what was once true.  What was
# denied is asked about again after a second, whatever happens.

sub may_deny {
    my ($self, $name, $node, $start) = @_;

    my $key = $self->{keys}{$name};
    my $slack = SLACK * $Convotic::Process::FACTOR;

    return 1 if $key->{now}{status} ne 'active';

    for my $old (grep { $_->{value}{status} ne 'active' } @{ $key->{before} }) {
        my $done = $old->{done};
        return 1 if !defined $done || $start <= $done + TOLD + $slack;
        return 1 if $self->permits('stop', $node, $start, $start);
        return 1 if $start <= $done + INVALID + $slack
                    && $self->permits('old', $node, $done, $start);
    }

    return 0;
}


sub saw_key {
    my ($self, $name, $admitted, $node, $start) = @_;

    my $key = $self->{keys}{$name};

    return if $admitted != ($key->{now}{status} ne 'active');

    my $last = $key->{before}[-1];
    $self->_seen($last, $node, $start) if $last && defined $last->{done};

    return;
}


# Why a body of this version must not be served, if so.

sub version_fault {
    my ($self, $workspace, $version, $node, $start, $stale) = @_;

    my $newest = $self->{versions}{$workspace};
    return "version $version does not exist yet" if $version > $newest;

    for my $purge (@{ $self->{purges}{$workspace} || [] }) {
        next if $version >= $purge->{version};

        $self->_seen($purge, $node, $start);
        return sprintf 'version %d, purged %.3f s before the request, %s',
                       $version, $start - $purge->{done},
                       "version $purge->{version} was to be seen"
            unless $self->_may_be_old($purge, $node, $start, $stale);
    }

    return '';
}


1;

__END__

=head1 NAME

Convotic::Ledger - what a client may be told, and until when

=head1 DESCRIPTION

Holds what keys and workspaces are now and what they were, the faults that are
at work, and the times that the documentation gives for a change to be seen.
C<announce> takes what happens, before it is begun and when it is done.  All times
are of the same monotonic clock.

=over

=item announce(what => ...)

C<key>, name, {status, rate}: as it is at the start.  C<changing>, name, value,
time and C<changed>, name, value, time: before a key's record is written, and
when that was acknowledged.  C<version>, workspace, number: what the upstream
may answer from now on.  C<purged>, workspace, version, time: nothing older
from then on.  C<begin>, id, {kind, node, what it permits}, time and C<end>, id,
undef, time: a fault.  C<reset>, name, undef, time: a key's window begins anew,
from here on.

=item permits($what, $node, $start, $end)

Whether a fault permits this to a request between these times.

=item values_of($name, $node, $start, $stale)

What the key may be to a request that began then; C<$stale> is how old a record
may be while Redis is away.

=item may_deny($name, $node, $start)

Whether a 401 is right, or once was.

=item version_fault($workspace, $version, $node, $start, $stale)

A sentence if a body must not be served any more, the empty string otherwise.

=item most_of_rate($name, $rate, $nodes, $from, $to)

How much of a key's rate may pass between two times that lie in one window.

=item saw_key(...), lags

After which time changes were last not seen yet: C<lag>, or C<disturbed> while
a fault was at work.

=back

=cut
