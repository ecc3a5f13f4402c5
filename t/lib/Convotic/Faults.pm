package Convotic::Faults;

use strict;
use warnings;

use Time::HiRes qw(sleep);

use Convotic::Process;

use constant {
    VALID    => 4,              # convotic_key_valid
    BACK     => 3,              # seconds until Redis is asked again, at most
    SETTLED  => 4,              # and until what is known is known to be true
    SILENT   => 3,              # until the loss of tracking is noticed
    ASKED    => 33,             # until tracking that was refused is asked for
    UPSTREAM => 6,              # what a fill and those who wait for it may take
    EMPTY    => 1,              # the database that SWAPDB puts in its place
    LEFT     => 8,              # until workers that were told to go are gone
    HELD     => 0.4,            # that each fetch takes while a worker is killed
};

our $USER = 'gateway';
our $PASSWORD = 'soak-password';
our $NOTHING = 'Nothing here';  # of a contacts service that knows nobody

# What a fault permits: see Convotic::Ledger.

my %away = (refuse => BACK, old => 1, away => 1, after => SETTLED);
my %untold = (old => VALID, after => VALID + 1);
my %late = (old => SILENT, after => SILENT + 1);
my %failing = (fail => UPSTREAM);


# Each fault: its target, of which it has one at a time; how often; what it
# permits; begin and end, which get the scene, the target's object and three
# random numbers.  One without an end is over at once.

our %FAULT = (

    # The server of keys.

    keys_killed => {
        on => 'keys', weight => 3, %away, losses => 1,
        begin => sub { my ($s, $r) = @_; $s->closed($r); $r->kill },
        end   => sub { my ($s, $r) = @_; $r->start; $s->opened($r) },
    },
    keys_restarted_empty => {
        on => 'keys', weight => 2, %away, forget => 0, losses => 1,
        begin => sub {
            my ($s, $r) = @_;
            $s->closed($r);
            $r->kill;
            system 'rm', '-rf', "$r->{dir}/appendonlydir";
            $r->start;
        },
        end => sub { my ($s, $r) = @_; $s->refill; $s->opened($r) },
    },
    keys_flushed => {
        on => 'keys', weight => 2, %away, forget => 0, losses => 1,
        begin => sub { my ($s, $r) = @_; $s->closed($r); $r->cmd('FLUSHALL') },
        end   => sub { my ($s, $r) = @_; $s->refill; $s->opened($r) },
    },
    keys_swapped => {
        on => 'keys', weight => 1, %away, %untold, away => undef, forget => 0,
        losses => 2,
        begin => sub {
            my ($s, $r) = @_;
            $s->closed($r);
            $r->cmd('SWAPDB', 0, EMPTY);
        },
        end => sub {
            my ($s, $r) = @_;
            $r->cmd('SWAPDB', 0, EMPTY);
            my $conn = $r->connect;
            $conn->cmd('SELECT', EMPTY);
            $conn->cmd('FLUSHDB');
            $s->opened($r);
        },
    },
    keys_stopped => {
        on => 'keys', weight => 3, %away,
        begin => sub { my ($s, $r) = @_; $s->closed($r); $r->sigstop },
        end   => sub { my ($s, $r) = @_; $r->cont; $s->opened($r) },
    },
    keys_full => {
        on => 'keys', weight => 2,
        begin => sub { my ($s, $r) = @_; $r->cmd(qw(CONFIG SET maxmemory 1)) },
        end   => sub { my ($s, $r) = @_; $r->cmd(qw(CONFIG SET maxmemory 0)) },
    },
    keys_replica => {
        on => 'keys', weight => 1, %away,
        begin => sub { my ($s, $r) = @_; $s->closed($r); $r->cmd(qw(REPLICAOF 127.0.0.1 1)) },
        end   => sub { my ($s, $r) = @_; $r->cmd(qw(REPLICAOF NO ONE)); $s->opened($r) },
    },
    keys_no_clients => {
        on => 'keys', weight => 1, %away,
        begin => sub {
            my ($s, $r) = @_;

            # fewer than asked for, where there are fewer files

            $r->{clients} = $r->cmd(qw(CONFIG GET maxclients))->[1];
            $r->cmd(qw(CONFIG SET maxclients 1));
            $r->cmd(qw(CLIENT KILL TYPE normal));
            $r->cmd(qw(CLIENT KILL TYPE pubsub));
        },
        end => sub {
            my ($s, $r) = @_;
            $r->cmd(qw(CONFIG SET maxclients), $r->{clients});
        },
    },
    keys_clients_killed => {
        on => 'keys', weight => 4, %away,
        begin => sub {
            my ($s, $r, $x) = @_;
            $r->cmd('CLIENT', 'KILL', 'TYPE', $_)
                for $x < 0.3 ? 'normal' : $x < 0.7 ? 'pubsub' : qw(normal pubsub);
        },
    },
    keys_scripts_flushed => {
        on => 'keys', weight => 1,
        begin => sub { $_[1]->cmd(qw(SCRIPT FLUSH)) },
    },
    keys_may_not_read => {
        on => 'keys', weight => 2, %away, after => ASKED,
        begin => sub {
            my ($s, $r, $x) = @_;
            my @rights = qw(-hgetall -exists -get -info -role -@all ~nothing off);
            $s->rights($r, $rights[$x * @rights]);
        },
        end => sub { $_[0]->rights($_[1]) },
    },
    keys_may_not_rate => {
        on => 'keys', weight => 1,
        begin => sub { $_[0]->rights($_[1], '-evalsha', '-eval', '-time') },
        end   => sub { $_[0]->rights($_[1]) },
    },
    keys_may_not_track => {
        on => 'keys', weight => 1, refuse => BACK, old => SILENT, after => ASKED,
        begin => sub {
            my ($s, $r, $x) = @_;
            $s->rights($r, $x < 0.5 ? ('-client|tracking', '-subscribe')
                                    : 'resetchannels');
            $r->cmd(qw(CLIENT KILL TYPE pubsub));
        },
        end => sub { $_[0]->rights($_[1]) },
    },

    # The server of bodies: never a reason to refuse.

    bodies_killed => {
        on => 'bodies', weight => 2,
        begin => sub { my ($s, $r) = @_; $s->closed($r); $r->kill },
        end   => sub { my ($s, $r) = @_; $r->start; $s->opened($r) },
    },
    bodies_stopped => {
        on => 'bodies', weight => 2,
        begin => sub { my ($s, $r) = @_; $s->closed($r); $r->sigstop },
        end   => sub { my ($s, $r) = @_; $r->cont; $s->opened($r) },
    },
    bodies_flushed => {
        on => 'bodies', weight => 1, begin => sub { $_[1]->cmd('FLUSHALL') },
    },
    bodies_full => {
        on => 'bodies', weight => 1,
        begin => sub { $_[1]->cmd(qw(CONFIG SET maxmemory 1)) },
        end   => sub { $_[1]->cmd(qw(CONFIG SET maxmemory 0)) },
    },
    bodies_clients_killed => {
        on => 'bodies', weight => 1,
        begin => sub { $_[1]->cmd(qw(CLIENT KILL TYPE normal)) },
    },
    bodies_forbidden => {
        on => 'bodies', weight => 1,
        begin => sub {
            my ($s, $r, $x) = @_;
            my @rights = qw(-get -set -eval -del -@all ~nothing off);
            $s->rights($r, $rights[$x * @rights]);
        },
        end => sub { $_[0]->rights($_[1]) },
    },
    bodies_exchanged => {
        on => 'bodies', weight => 2,
        begin => sub {
            my ($s, $r, $x, $y) = @_;
            my @names = $r->names('convotic:body:*');
            return if @names < 2;
            for (1 .. 20) {
                my ($from, $to) = map { $names[$_ * @names] } $x, $y;
                $r->try_cmd('COPY', $from, $to, 'REPLACE') if $from ne $to;
                ($x, $y) = ($y, ($x + 0.377) - int($x + 0.377));
            }
        },
    },
    bodies_cut => {
        on => 'bodies', weight => 1,
        begin => sub {
            my ($s, $r, $x) = @_;
            for my $name (grep { defined } ($r->names('convotic:body:*'))[0 .. 30]) {
                my $bytes = $r->cmd('GET', $name);
                next unless defined $bytes;
                $r->cmd('SET', $name, substr($bytes, 0, $x * length $bytes), 'KEEPTTL');
            }
        },
    },

    # The way to either, of one node; the tracking connection alone.

    _way(keys => 2, %away),
    _way(bodies => 1),

    bodies_twice => {
        on => 'way:bodies', weight => 1,
        begin => sub { $_[1]->duplicate('down') },
        end   => sub { $_[1]->clear },
    },

    tracking_swallowed => {
        on => 'way:keys', weight => 3, refuse => 0, %untold,
        begin => sub { $_[1]->swallow('down', only => 'SUBSCRIBE') },
        end   => sub { $_[1]->clear },
    },
    tracking_late => {
        on => 'way:keys', weight => 3, %late,
        begin => sub { $_[1]->delay(0.05 + $_[2], 'down', only => 'SUBSCRIBE') },
        end   => sub { $_[1]->clear },
    },
    tracking_ended => {
        on => 'way:keys', weight => 2, %late,
        begin => sub { $_[2] < 0.5 ? $_[1]->drop('SUBSCRIBE') : $_[1]->rst('SUBSCRIBE') },
    },
    tracking_twice => {
        on => 'way:keys', weight => 1, %untold, after => ASKED,
        begin => sub { $_[1]->duplicate('down', only => 'SUBSCRIBE') },
        end   => sub { $_[1]->clear },
    },

    # The processes of one node.

    worker_killed => {
        on => 'node', weight => 5, %late, lost => 0, busy => UPSTREAM,
        begin => sub { $_[0]->kill_worker($_[1], $_[2]) },
    },
    worker_killed_fetching => {
        on => 'node', weight => 4, %late, lost => 0, busy => UPSTREAM,
        begin => sub {
            my ($s, $n, $x) = @_;
            $s->hold_fetches(HELD);
            sleep HELD / 2;
            $s->kill_worker($n, $x);
            $s->hold_fetches(0);
        },
    },
    worker_stopped => {
        on => 'node', weight => 2, %late, old => 8, stop => 1, busy => UPSTREAM,
        refuse => BACK, fail => UPSTREAM,
        begin => sub { $_[0]->stop_worker($_[1], $_[2]) },
        end   => sub { $_[0]->cont_worker($_[1]) },
    },
    reloaded => {
        on => 'node', weight => 3, %late, left => LEFT,
        begin => sub { $_[1]->signal('HUP') },
    },
    upgraded => {
        on => 'node', weight => 1, %late, left => LEFT, forget => 0, long => 20,
        begin => sub { $_[0]->upgrade($_[1]) },
    },

    # The upstream.

    map({ ("upstream_$_" => _upstream($_)) }
        qw(html truncated chunks cookie error forbidden foreign huge nonsense
           reset slow trickle lengths)),
    upstream_refuses => {
        on => 'upstream', weight => 1, %failing,
        begin => sub { $_[1]->accept('refuse'); $_[1]->drop },
        end   => sub { $_[1]->accept('open') },
    },
    upstream_dropped => {
        on => 'upstream', weight => 1, fail => 1,
        begin => sub { $_[1]->rst },
    },
);

# What is wrong with the server of keys or on the way to it may leave a rate
# without a count.

for my $fault (values %FAULT) {
    $fault->{uncounted} = BACK if $fault->{on} =~ /\bkeys\z/;
}


sub _upstream {
    my ($kind) = @_;

    return {
        on => 'upstream', weight => 1, %failing,
        begin => sub {
            my ($s, $up, $x) = @_;
            $up->set(garbage => $kind, every => 1 + int 3 * $x);
        },
        end => sub { $_[1]->set(garbage => undef) },
    };
}


# Bytes that were swallowed are missed for ever: such a connection is ended
# when all is well again, as TCP would.

sub _way {
    my ($name, $weight, %permits) = @_;

    my %way = (
        late => {
            begin => sub { $_[1]->delay(0.01 + $_[2] * $_[2], $_[3] < 0.5 ? 'down' : 'up') },
        },
        cut => {
            begin => sub { $_[1]->truncate(int $_[2] * 3000, $_[3] < 0.7 ? 'down' : 'up') },
        },
        swallowed => {
            begin => sub { $_[1]->swallow($_[2] < 0.7 ? 'down' : 'up') },
            end   => sub { $_[1]->rst; $_[1]->clear },
        },
        split => { begin => sub { $_[1]->split(1 + int $_[2] * 300, 'down') } },
        closed => { begin => sub { $_[1]->accept('close'); $_[1]->drop } },
        hung => { begin => sub { $_[1]->accept('hang'); $_[1]->rst } },
        refused => { begin => sub { $_[1]->accept('refuse'); $_[1]->drop } },
        ended => { begin => sub { $_[2] < 0.5 ? $_[1]->drop : $_[1]->rst }, end => undef },
    );

    return map {
        ("way_to_${name}_$_" => {
            on => "way:$name", weight => $weight, %permits,
            end => sub { $_[1]->clear }, %{ $way{$_} },
        })
    } sort keys %way;
}


# What the upstream answers while it fails, in its own process.

sub handler {
    my ($request, $vars) = @_;

    my $workspace = $request->tenant;
    my $args = $request->args;

    my $body = sub {
        my ($of) = @_;

        return Convotic::Upstream::contacts_body(
            workspace => $of, platform => $args->{platform},
            limit => $args->{limit}, version => $vars->{versions}{$of} || 1);
    };

    my $kind = $vars->{garbage};

    if (!defined $kind || $vars->{count}++ % $vars->{every}) {
        $vars->{held}++ if $vars->{hold};
        return { body => $body->($workspace), delay => $vars->{hold} };
    }

    my $good = $body->($workspace);
    my $length = length $good;

    my %garbage = (
        html      => { body => '<html>secret</html>', headers => [ 'Content-Type', 'text/html' ] },
        truncated => { body => $good, cut => int $length / 2 },
        chunks    => { raw => "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                              . "Transfer-Encoding: chunked\r\n\r\n20\r\n"
                              . substr($good, 0, 32) . "\r\nzz\r\n$good", close => 1 },
        cookie    => { body => $good, headers => [ 'Set-Cookie', 'secret=1' ] },
        error     => { status => 500, body => 'secret stack trace' },
        forbidden => { status => 404, body =>
                       qq({"error":{"code":"NOT_FOUND","message":"$NOTHING"}}) },
        foreign   => { body => $body->('alien'),
                       headers => [ 'X-Convotic-Workspace', 'alien' ] },
        huge      => { body => substr($good, 0, -1) . ',"x":"' . 'y' x 300_000 . '"}' },
        nonsense  => { body => '{"contacts":{},"total":"many"}' },
        reset     => { body => $good, cut => 20, rst => 1 },
        slow      => { body => $good, delay => 1 + 3 * ($vars->{count} % 2) },
        trickle   => { body => $good, trickle => { bytes => 200, interval => 0.2 } },
        lengths   => { raw => "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                              . "Content-Length: " . ($length + 10) . "\r\n\r\n$good",
                       close => 1 },
    );

    return $garbage{$kind};
}


1;

__END__

=head1 NAME

Convotic::Faults - what may go wrong, one after the other and at once

=head1 DESCRIPTION

C<%FAULT> names each fault, the target that has one at a time (C<keys>,
C<bodies>, C<way:keys>, C<way:bodies>, C<node>, C<upstream>), its weight, how it
begins and ends, and what it permits meanwhile and how long after its end
(L<Convotic::Ledger>).  C<begin> and C<end> get the scene of t/soak, the object
and three random numbers of the schedule.

C<handler> is that of the upstream; its variables are C<versions> (workspace =>
number), C<garbage> and C<every>: so many requests get one wrong answer; C<hold>,
seconds that right ones take, and C<held>, how many that were.

=cut
