package Convotic::Bench::Machine;

use strict;
use warnings;

use Exporter qw(import);
use Time::HiRes qw(sleep time);

our @EXPORT_OK = qw(cores pin affinity cpu_time memory others_busy);

use constant BUSY_FOR => 1;         # seconds to look at what else runs


# The core of nginx's worker, and that of everything else: of those that this
# process may use, two that are not threads of one core, if there are such.

sub cores {
    my ($list) = _slurp('/proc/self/status') =~ /^Cpus_allowed_list:\s*(\S+)/m;
    my @cpus = _expand(defined $list ? $list : '0');
    my $first = $cpus[0];
    my $top = "/sys/devices/system/cpu/cpu$first/topology";
    my %sibling = map { $_ => 1 }
        _expand(_slurp("$top/thread_siblings_list") || $first);
    my ($second) = grep { !$sibling{$_} } @cpus;

    $second = $cpus[-1] unless defined $second;

    return ($first, $second);
}


sub _expand {
    return map { /(\d+)-(\d+)/ ? $1 .. $2 : /(\d+)/ ? $1 : () } split /,/, $_[0];
}


# This process and all that it starts from now on.

sub pin {
    my ($cpu) = @_;

    system("taskset -pc $cpu $$ >/dev/null") == 0
        or die "taskset cannot choose core $cpu\n";

    return;
}


# As "worker_cpu_affinity" wants it.

sub affinity {
    return join ' ', map { '1' . '0' x $_ } @_;
}


# Seconds that the processes have run so far, to the nanosecond where the
# kernel tells, to the clock tick where it does not.

sub cpu_time {
    my $sum = 0;

    for my $pid (@_) {
        my ($ns) = split ' ', _slurp("/proc/$pid/schedstat");

        if ($ns) {
            $sum += $ns / 1e9;
            next;
        }

        my @field = split ' ', _slurp("/proc/$pid/stat") =~ s/^.*\) //sr;
        $sum += ($field[11] + $field[12]) / 100;
    }

    return $sum;
}


# Bytes of a process that are its own: neither a zone nor the pages of programs
# and libraries, which all processes share.

sub memory {
    my ($pid) = @_;

    my ($kb) = _slurp("/proc/$pid/status") =~ /^RssAnon:\s*(\d+) kB/m;

    return $kb * 1024;
}


# The share of the cores' time that others use.

sub others_busy {
    my (@cpus) = @_;

    my @before = map { _idle($_) } @cpus;
    sleep BUSY_FOR;
    my @after = map { _idle($_) } @cpus;
    my ($idle, $all) = (0, 0);

    for my $i (0 .. $#cpus) {
        $idle += $after[$i][0] - $before[$i][0];
        $all += $after[$i][1] - $before[$i][1];
    }

    return $all ? 1 - $idle / $all : 0;
}


sub _idle {
    my ($cpu) = @_;

    my ($line) = _slurp('/proc/stat') =~ /^cpu$cpu (.*)$/m or return [ 0, 0 ];
    my @ticks = split ' ', $line;
    my $all = 0;

    $all += $_ for @ticks[0 .. 7];

    return [ $ticks[3] + $ticks[4], $all ];
}


sub _slurp {
    my ($file) = @_;

    open my $fh, '<', $file or return '';
    local $/;
    my $text = <$fh>;

    return defined $text ? $text : '';
}


1;

__END__

=head1 NAME

Convotic::Bench::Machine - cores, CPU time and memory, from /proc

=cut
