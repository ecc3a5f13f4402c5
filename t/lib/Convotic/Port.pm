package Convotic::Port;

use strict;
use warnings;

use Exporter qw(import);
use Fcntl qw(:flock O_CREAT O_RDWR);
use IO::Socket::INET;
use Socket qw(SOMAXCONN);

our @EXPORT_OK = qw(free_port listen_on);

use constant {
    LOWEST     => 10240,    # below: services of the machine
    HIGHEST    => 32768,    # above: usually the kernel's ephemeral ports
    BLOCK_SIZE => 64,
};

my @locks;                  # held until the process ends
my @ports;
my %given;


sub free_port {
    for (1 .. 10_000) {
        @ports = _claim_block() unless @ports;

        my $port = shift @ports;
        next if $given{$port};

        my $probe = eval { listen_on($port) } or next;
        close $probe;

        $given{$port} = 1;
        return $port;
    }

    die "no free port between " . LOWEST . " and " . HIGHEST . "\n";
}


sub listen_on {
    my ($port) = @_;

    return IO::Socket::INET->new(
        LocalAddr => '127.0.0.1',
        LocalPort => $port,
        Proto     => 'tcp',
        ReuseAddr => 1,
        Listen    => SOMAXCONN,
    ) || die "listen on 127.0.0.1:$port: $!\n";
}


# Tests that run at the same time own different blocks of ports: a lock file
# for each block, held by an open file.

sub _claim_block {
    my $dir = "/tmp/convotic-ports-$>";
    mkdir $dir, 0700;

    my $count = int((HIGHEST - LOWEST) / BLOCK_SIZE);
    my $first = int(rand($count));

    for my $step (0 .. $count - 1) {
        my $block = ($first + $step) % $count;

        sysopen(my $fh, "$dir/$block", O_CREAT | O_RDWR, 0600)
            or die "$dir/$block: $!\n";
        next unless flock($fh, LOCK_EX | LOCK_NB);

        push @locks, $fh;
        my $start = LOWEST + $block * BLOCK_SIZE;
        return $start .. $start + BLOCK_SIZE - 1;
    }

    die "all blocks of ports are taken: too many tests at the same time\n";
}


1;

__END__

=head1 NAME

Convotic::Port - free ports on 127.0.0.1 for tests that run in parallel

=head1 DESCRIPTION

C<free_port> returns a port that no other test process uses: each process
locks a block of ports, outside the range that the kernel gives to outgoing
connections, and probes each port before giving it away.  A port stays with
its process, so a server may be restarted on it.

C<listen_on($port)> returns a listening socket, or dies.

=cut
