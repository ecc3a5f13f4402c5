package Convotic::Workers;

use strict;
use warnings;

use JSON::PP ();
use Time::HiRes qw(sleep time);

use constant {
    PATIENCE => 10,             # seconds until all workers were met, at most
    BATCH    => 16,             # connections opened for each worker looked for
};


# For the server of an nginx whose workers are to be told apart.  The kernel
# spreads the connections to a port of "reuseport" over all of them.

sub server_conf {
    return <<'EOC';
    listen 127.0.0.1:%%PORT_each%% reuseport;
    keepalive_requests 100000000;
    keepalive_timeout 1h;
    add_header X-Pid $pid always;
    location = /status { convotic_status json; }
EOC
}


sub new {
    my ($class, $nginx, @pids) = @_;

    my $self = bless { nginx => $nginx, conns => {} }, $class;

    @pids = $nginx->workers unless @pids;
    $self->_meet(@pids);

    return $self;
}


sub _meet {
    my ($self, @pids) = @_;

    my $end = time() + PATIENCE * $Convotic::Process::FACTOR;
    my %wanted = map { $_ => 1 } @pids;

    while (%wanted) {
        die "no connection to worker @{[ sort keys %wanted ]}\n"
            if time() > $end;

        for my $conn (map { $self->{nginx}->connect(
                                port => $self->{nginx}->port('each')) }
                      1 .. BATCH)
        {
            my $res = $conn->get('/status') or next;
            my $pid = $res->header('X-Pid');

            if (delete $wanted{$pid}) {
                $self->{conns}{$pid} = $conn;
            } else {
                $conn->close;
            }
        }
    }

    return;
}


sub pids { return sort { $a <=> $b } keys %{ $_[0]{conns} } }
sub conn { return $_[0]{conns}{ $_[1] } }


# Without these workers.

sub forget {
    my ($self, @pids) = @_;

    for my $pid (@pids) {
        my $conn = delete $self->{conns}{$pid} or next;
        $conn->close;
    }

    return $self;
}


# GET of the endpoint by one worker, by each of them.

sub ask {
    my ($self, $pid, $query, $key) = @_;

    return $self->{conns}{$pid}->get(
        "/v1/contacts?$query",
        'X-API-Key' => defined $key ? $key : $self->{nginx}->key);
}


sub ask_each {
    my ($self, @what) = @_;

    return map { $self->ask($_, @what) } $self->pids;
}


# The metrics of their node.

sub status {
    my ($self) = @_;

    my ($pid) = $self->pids;

    return JSON::PP::decode_json($self->{conns}{$pid}->get('/status')->body);
}


# True once every worker's answer satisfies the sub.

sub all_see {
    my ($self, $sub, $seconds, @what) = @_;

    my $end = time() + $seconds * $Convotic::Process::FACTOR;
    my @left = $self->pids;

    while (1) {
        @left = grep { my $res = $self->ask($_, @what); !$res || !$sub->($res) }
            @left;
        return 1 unless @left;
        return 0 if time() > $end;
        sleep 0.002;
    }
}


# Of the clients of a Redis, those that track for a worker: pid => client id.

sub trackers {
    my ($redis) = @_;

    my %id;

    for (grep { / sub=1 / } split /\n/, $redis->cmd('CLIENT', 'LIST')) {
        $id{$2} = $1 if /^id=(\d+) .* name=ngx_convotic-(\d+)-tracking /;
    }

    return \%id;
}


1;

__END__

=head1 NAME

Convotic::Workers - the workers of an nginx, each over a connection of its own

=head1 SYNOPSIS

    my $nginx = $t->gateway(workers => 2,
                            server => Convotic::Workers::server_conf());
    my $workers = Convotic::Workers->new($nginx);

    my @both = $workers->ask_each('limit=2');
    ok($workers->all_see(sub { $_[0]->status == 401 }, 5, 'limit=2'));

=head1 DESCRIPTION

C<server_conf()> is what the server of such an nginx needs: a port whose
connections are spread over the workers, their process ids in the header
C<X-Pid>, and the metrics at C</status>.

=over

=item new($nginx, @pids)

A kept connection to each of the workers, by default to all that accept.

=item pids, conn($pid), forget(@pids)

=item ask($pid, $query, $key), ask_each($query, $key)

The endpoint, asked of one worker or of each; the key is the gateway's unless
given.

=item all_see(sub { my ($res) = @_; ... }, $seconds, $query, $key)

True once the answer of every worker has satisfied the sub.

=item status

The metrics of the node, as a hash.

=item Convotic::Workers::trackers($redis)

The tracking connections that the server has: the client's id for each
worker's process id.

=back

=cut
