package Convotic::Sentinel;

use strict;
use warnings;

use Convotic::Port qw(free_port);
use Convotic::Process;
use Convotic::Redis;

use Time::HiRes qw(sleep time);

use constant {
    BACK => 20,                 # seconds until something has happened, at most
    DOWN => 500,                # ms without a sign of life
};


# Knows the master and its one replica as soon as it is there.

sub new {
    my ($class, %arg) = @_;

    my $self = bless { port => free_port() }, $class;
    my $file = "$arg{dir}/sentinel-$self->{port}.conf";
    my $down = DOWN * $Convotic::Process::FACTOR;

    open my $fh, '>', $file or die "$file: $!\n";
    print {$fh} <<"EOC";
port $self->{port}
bind 127.0.0.1
dir $arg{dir}
sentinel monitor keys 127.0.0.1 @{[ $arg{master}->port ]} 1
sentinel down-after-milliseconds keys $down
sentinel failover-timeout keys 5000
EOC
    close $fh or die "$file: $!\n";

    $self->{process} = Convotic::Process->spawn(
        name => 'sentinel', stdout => "$file.log",
        argv => [ Convotic::Redis::server(), $file, '--sentinel' ]);

    _until(sub { $self->{conn} = eval { $self->_connect } })
        or die "Sentinel did not start\n";
    _until(sub { my $replicas = $self->{conn}->cmd('SENTINEL', 'REPLICAS', 'keys');
                 @$replicas == 1 && grep { !/_down|disconnected/ }
                 +{ @{ $replicas->[0] } }->{flags} })
        or die "Sentinel does not know the replica\n";

    return $self;
}


sub _connect {
    my ($self) = @_;

    return Convotic::Redis::Connection->new(name => 'sentinel',
                                            port => $self->{port});
}


sub _until {
    my ($cond) = @_;

    my $end = time() + BACK * $Convotic::Process::FACTOR;

    until ($cond->()) {
        return if time() > $end;
        sleep 0.02;
    }

    return 1;
}


# Runs $begin, which ends the master's time or asks for that, and waits for
# the replica to be the master.  Returns the seconds that took.

sub failover {
    my ($self, $replica, $begin) = @_;

    my $events = $self->_connect;

    $events->cmd('SUBSCRIBE', '+switch-master');

    my $start = time();

    $begin->();

    my $event = $events->read_reply(BACK * $Convotic::Process::FACTOR)
        or die "Sentinel does nothing\n";
    my ($to) = $event->[2] =~ / (\d+)\z/;

    my $took = time() - $start;

    die "another master than the replica\n" if $to != $replica->port;

    # Sentinel has closed the connections of all clients, the test's own too

    eval { $replica->cmd('PING') };

    return $took;
}


sub ask { return $_[0]{conn}->cmd('SENTINEL', 'FAILOVER', 'keys') }

sub stop { return $_[0]{process}->kill }


1;

__END__

=head1 NAME

Convotic::Sentinel - Redis Sentinel, for one master with one replica

=head1 SYNOPSIS

    my $sentinel = Convotic::Sentinel->new(dir => $t->dir, master => $master);

    my $took = $sentinel->failover($replica, sub { $master->kill });
    $took = $sentinel->failover($replica, sub { $sentinel->ask });

    $sentinel->stop;

=cut
