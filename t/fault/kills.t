#!/usr/bin/perl

# Workers that are killed at a store to shared memory, with its mutex or without:
# in each of many kinds of request and event one of two dies in front of a store
# that it makes, at each place of the source that makes any; now and then right
# behind it, or halfway through a copy.  The other one answers, and so does the
# one that comes instead: rightly, for what was being written is the old or the
# new or unknown, and can be written again.
#
# For t/run --kill, whose nginx has t/fault/stores.c inside.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/../lib";

use Digest::SHA qw(sha256);
use List::Util qw(max min sum);
use Time::HiRes qw(sleep time clock_gettime CLOCK_MONOTONIC);

use Convotic::Test;
use Convotic::Workers;

use constant {
    COUNT => 0, BEFORE => 1, BEHIND => 2,   # orders, as in stores.c
    HEAD => 56, SITE => 24, SITES => 1024,  # its structures, in bytes
    MOST => 90,                 # stores of a scenario that are tried, at most,
                                # but each place once
    PLACES => 80,               # of the source, that write, at least
    EACH => 8,                  # of these, one in so many behind it as well
    QUIET => 0.03,              # s without a store: all is done
    DUE => 0.3,                 # s until a store is reached, at most
    BACK => 10,                 # s until something has happened, at most
    HUNG => 5,                  # s, of a request: nobody takes so long
    CLAIM => 1.3,               # s, of who tracks or succeeds, and more
    CONNS => 3,                 # to each worker
    KEYS => 60_000,             # to choose from
    WAYS => 8,                  # entries of a set of the zone's tables
    FEW => 12,                  # a rate that is used up
    LOST => 7,                  # of it, at most: two leases and a request
    SLOW => 0.03,               # s, of a slow upstream
    FRESH => 1,                 # s, of what becomes stale
    LOCKED => 1,                # s of convotic_cache_lock_timeout
    ADRIFT => 1,                # of a count of entries, for each who died there
    WAITED => 200,              # ms, of who waits for what a dead one left
};

my $t = Convotic::Test->new(rates => 1);
my $file = $t->write_file('stores', "\0" x HEAD);

plan(skip_all => 'for an nginx with t/fault/stores.c: t/run --kill')
    unless $ENV{TEST_STORES};

alarm 1200 * $Convotic::Process::FACTOR;


# What stores.c shares.

open(my $shared, '+<:raw', $file) or die "$file: $!\n";

sub peek {
    my ($at, $length) = @_;

    sysseek $shared, $at, 0;
    sysread $shared, my($bytes), $length;

    return $bytes;
}


# Who comes to the site so often, as the first one, dies there.  $spare never
# does, nor does who has a zone of another size, if one is given.

sub order {
    my ($order, %arg) = @_;

    poke(4, pack 'V7 Q<3', (map { $_ || 0 } @arg{qw(at spare size)}), (0) x 4,
                           $arg{site} || 0, 0, 0);
    poke(0, pack 'V', $order);

    return;
}


# What is known of the last one who died stays.

sub nobody_dies { return poke(0, pack 'V', COUNT) }


sub poke {
    my ($at, $bytes) = @_;

    sysseek $shared, $at, 0;

    return syswrite $shared, $bytes;
}


sub points { return unpack 'V', peek(16, 4) }


# Who has died: {pid, held, site, time}.

sub death {
    my ($pid, $held, $site, $time) = unpack 'V2 x8 Q<2', peek(24, 32);

    return unless $pid;
    return { pid => $pid, held => $held, site => $site, time => $time / 1e9 };
}


# By address: how often it was reached, with the mutex, and died at.

sub sites {
    my %site;

    for my $bytes (unpack "(a@{[ SITE ]})*", peek(HEAD, SITE * SITES)) {
        my ($address, @counts) = unpack 'Q< V4', $bytes;
        $site{$address} = [ @counts ] if $address;
    }

    return \%site;
}


# The line of the source that an address is in.

sub line_of {
    my ($address) = @_;

    my $binary = Convotic::Nginx::binary();
    my ($function, $line) = split /\n/,
        $t->run([ 'addr2line', '-f', '-s', '-e', $binary,
                  sprintf '%x', $address - 1 ])->{out};

    return "$line $function" =~ s/ \(discriminator \d+\)//r
                             =~ s/ngx_convotic_//gr;
}


sub now { return clock_gettime(CLOCK_MONOTONIC) }


# The upstream: the workspace says what it does, a version what it answers.

my %answer = (
    failing => { status => 500, body => 'oops' },
    absent  => { status => 404,
                 body => '{"error":{"code":"NOT_FOUND","message":"Nothing"}}' },
    private => { headers => [ 'Cache-Control' => 'private' ] },
    short   => { headers => [ 'Cache-Control' => 'max-age=' . FRESH ] },
    slow    => { delay => SLOW },
    held    => { delay => LOCKED + 0.3 },
);

my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my ($kind) = $req->tenant =~ /^([a-z]+)/;

    return { body => contacts_body(workspace => $req->tenant,
                                   limit => $req->args->{limit},
                                   version => $vars->{$req->tenant}),
             %{ $answer{$kind} || {} },
             $kind eq 'held' && $req->args->{limit} != 2 ? (delay => 0) : () };
});

my $redis = $t->redis;

# What has been read stays known, so that a change is seen because it is told.

my $turn = 1;                   # of the configuration

my $g = $t->gateway(
    vars => { TURN => $turn },
    redis => $redis, upstream => $up, workers => 2, log_level => 'notice',
    no_access_log => 1, env => { CONVOTIC_FAULT => $file },
    http => <<'EOC' . sprintf('convotic_cache_lock_timeout %ds;', LOCKED),
    access_log off;
    convotic_zone 1m;
    convotic_rate 1000000;
    convotic_auth_failures 1000000000;
    convotic_key_valid 1h;
    convotic_key_invalid 1h;
    convotic_cache_valid 1h;
EOC
    server => Convotic::Workers::server_conf() . <<'EOC',
    location = /pid {
        add_header X-Pid $pid always;
        add_header X-Turn %%TURN%% always;
        return 204;
    }
    location = /few {
        convotic on;
        convotic_auth_failures 1;
        proxy_pass http://contacts;
    }
EOC
);


# Connections to each worker, by its process.

my (%conns, %gone);

sub open_one {
    my $conn = $g->connect(port => $g->port('each'));
    my $res = $conn->get('/pid') or return;
    my $pid = $res->header('X-Pid') or return;

    push @{ $conns{$pid} }, $conn
        if !$gone{$pid} && @{ $conns{$pid} || [] } < CONNS
           && $res->header('X-Turn') == $turn;

    return;
}


sub lost {
    my ($pid) = @_;

    $gone{$pid} = 1;
    $_->close for @{ delete $conns{$pid} || [] };

    return;
}


# The two workers, once both were met.

sub meet {
    my $end = time() + BACK * $Convotic::Process::FACTOR;

    until (2 <= grep { @$_ == CONNS } values %conns) {
        open_one();
        die 'there are not two workers: ', join(' ', %conns), "\n"
            if time() > $end;
    }

    return keys %conns;
}


sub metrics {
    my ($pid) = @_;

    my $res = $conns{$pid}[0]->get('/status');

    return $res && $res->status ? $res->json : {};
}


# The one that tracks, and the other.

sub roles {
    my @track;

    meet();
    wait_until(sub { @track = tracking(); return scalar @track }, BACK)
        or die "nobody tracks\n";

    return ($track[0], grep { $_ ne $track[0] } keys %conns);
}


sub tracking {
    return grep { $conns{$_} } keys %{ Convotic::Workers::trackers($redis) };
}


# Keys, by the set of the zone's tables that they are in: those of a scenario
# are all in one.

meet();

my $sets = metrics((keys %conns)[0])->{zone_places}{keys} / WAYS;
my ($serial, $workspaces, @by_set, $set) = (0, 0);

for my $n (1 .. KEYS) {
    my $key = test_key("key $n");

    push @{ $by_set[ unpack('V', sha256($key)) * $sets >> 32 ] }, $key;
}

sub a_key {
    $set = ($set + 1) % $sets until @{ $by_set[$set] };

    return shift @{ $by_set[$set] };
}


sub new_key {
    my ($kind, %field) = @_;

    my $workspace = $kind . ++$workspaces;
    my $key = a_key();

    $redis->add_key($key, workspace => $workspace, %field);

    return { key => $key, workspace => $workspace, want => 200 };
}


sub nobody { return { key => a_key(), want => 401 } }


# A request for a case; over the connection to that worker.

sub request {
    my ($c, $limit, $path) = @_;

    return Convotic::HTTP::request_text(
        ($path || '/v1/contacts') . '?limit=' . ($limit || 2), {},
        'X-API-Key' => $c->{key});
}


sub put {
    my ($pid, $nth, @what) = @_;

    my $conn = $conns{$pid} && $conns{$pid}[$nth];

    return $conn && $conn->write(request(@what));
}


sub take {
    my ($pid, $nth) = @_;

    my $conn = $conns{$pid} && $conns{$pid}[$nth] or return;
    my $res = $conn->read('GET', HUNG);

    resumed() unless $res && $res->status;

    return $res;
}


sub ask {
    my ($pid, @what) = @_;

    put($pid, 0, @what);

    return take($pid, 0);
}


# What is wrong with an answer.

sub fault_of {
    my ($res, $c, $limit, @wanted) = @_;

    return 'no answer' unless $res && $res->status;

    @wanted = $c->{want} unless @wanted;

    my $status = $res->status;

    return "status $status, not @wanted: " . substr $res->body, 0, 80
        unless grep { $_ == $status } @wanted;
    return join '; ', $res->error_faults($status) if $status >= 400;
    return 'another body: ' . substr $res->body, 0, 80
        unless grep { $res->body eq $_ } map {
            contacts_body(workspace => $c->{workspace}, limit => $limit,
                          version => $_)
        } $c->{versions} ? @{ $c->{versions} } : 1;

    return;
}


# No store for a while.

sub settle {
    my $end = time() + BACK;
    my $seen = -1;

    while ((my $now = points()) != $seen && time() < $end) {
        $seen = $now;
        sleep QUIET;
    }

    return;
}


# One scenario after the other.

my $steady = { key => $g->key, workspace => 'acme', want => 200 };
my (%times, %sum, %looked, @waited, @held, $resumed);

# Neighbours of the keys of a scenario, in the same set.

my ($good, $bad);

sub neighbours {
    $set = (($set || 0) + 7) % $sets;
    $good = new_key('good');
    $bad = new_key('bad', status => 'revoked');
    $bad->{want} = 401;

    return;
}


# TEST_FAULT_ONLY is a pattern of names.

sub chosen {
    return !defined $ENV{TEST_FAULT_ONLY} || $_[0] =~ /$ENV{TEST_FAULT_ONLY}/;
}


# prepare: makes a case; act: what the victim is asked for, and the answers; done:
# afterwards.  tracker: the victim is the one that tracks; all: anybody may be
# it.  wait: seconds that it takes; closes: connections to the victim are lost.
# after: instead of the usual questions.
#
# A case has a key, the status that is wanted, and, where both are right for a
# while, the one that was; a limit, if not 2; versions, if the upstream's body
# changes.

sub scenario {
    my ($name, %s) = @_;

    return unless chosen($name);

    neighbours();

    $s{prepare} ||= sub { return new_key('cold') };
    $s{name} = $name;

    my ($before, $now, @faults);

    # twice: what is done once in a worker's life is no part of it

    for my $round (0, 1) {
        my ($c, $victim, $other) = begin(\%s);

        order(COUNT, spare => $s{all} ? 0 : $other, size => $c->{only});
        $before = sites();
        my @res = $s{act}->($c, $victim, $other);
        sleep $s{wait} if $s{wait};
        settle();
        $now = sites();
        push @faults, map { "usually: $_" } grep { $_ }
            map { usual_fault($_, $c) } @res;
        $s{done}->($c) if $s{done};
        lost($_) for $s{all} ? keys %conns : ();
        forget_closed($victim) if $s{closes};
    }

    my ($points, $locked, %count) = (0, 0);

    for my $site (sort keys %$now) {
        my ($reached, $held) =
            map { $now->{$site}[$_] - ($before->{$site} || [ 0, 0 ])->[$_] } 0, 1;

        $count{$site} = $reached if $reached;
        $points += $reached;
        $locked += $held;
    }

    my @tries = tries($s{most} || MOST, %count);

    for my $try (@tries) {
        my @wrong = one_kill(\%s, @$try);

        push @faults, map { ($try->[0] == BEFORE ? 'before ' : 'behind ') . $_ }
            @wrong;
        last if @faults > 20;
    }

    ok(!@faults, sprintf '%s: %d stores, %d with the mutex, at %d places: %d tries',
       $name, $points, $locked, scalar keys %count, scalar @tries)
        or diag(map { "    $_\n" } @faults);

    return;
}


# Each site at its first time, and so often as there is room for.

sub tries {
    my ($most, %count) = @_;

    my $each = 1;

    $each++ while sum(map { min($each + 1, $_) } values %count) <= $most
                  && $each < max(values %count);

    my @tries;

    for my $site (sort keys %count) {
        my $n = min($each, $count{$site});

        for my $i (0 .. $n - 1) {
            my $at = 1 + ($n > 1 ? int($i * ($count{$site} - 1) / ($n - 1)) : 0);

            push @tries, [ BEFORE, $site, $at ];
            push @tries, [ BEHIND, $site, $at ] if @tries % EACH == 0;
        }
    }

    return @tries;
}


sub begin {
    my ($s) = @_;

    my ($tracker, $other) = roles();
    my $c = $s->{prepare}->($tracker, $other);

    return ($c, $s->{tracker} ? ($tracker, $other) : ($other, $tracker));
}


sub forget_closed {
    my ($pid) = @_;

    $_->close for @{ delete $conns{$pid} || [] };

    return;
}


sub one_kill {
    my ($s, $order, $site, $at) = @_;

    my ($c, $victim, $other) = begin($s);

    $other = 0 if $s->{all};
    $resumed = { other => $other, old => [ $s->{all} ? keys %conns : () ],
                 faults => [] };
    order($order, site => $site, at => $at, spare => $other,
          size => $c->{only});
    my @res = $s->{act}->($c, $victim, $other);

    wait_until(\&death, DUE + 5 * ($s->{wait} || 0));
    nobody_dies();
    $s->{done}->($c) if $s->{done};

    my $death = death();

    unless ($death) {
        $sum{unreached}++;
        $resumed = undef;
        lost($_) for $s->{all} ? keys %conns : ();
        forget_closed($victim) if $s->{closes};
        return;
    }

    $sum{killed}++;
    push @held, "$death->{pid}, $s->{name}" if $death->{held};
    resumed();
    lost($victim);

    my @faults = @{ $resumed->{faults} };

    $resumed = undef;

    # whoever was answered was answered rightly

    push @faults, grep { $_ } map { usual_fault($_, $c) }
        grep { $_ && $_->status } @res;
    push @faults, after($s, $c, $death);

    return map { site_of($death) . ": $_" } @faults;
}


sub usual_fault {
    my ($res, $c) = @_;

    return fault_of($res, $c, $c->{limit} || 2, $c->{want}, $c->{was} || ());
}


# As soon as it is seen that somebody has died: the other worker answers, and
# who connects anew.

sub resumed {
    my $death = $resumed && !$resumed->{done} && death() or return;
    my ($other, $old, $faults) = @$resumed{qw(other old faults)};

    $resumed->{done} = 1;
    lost($_) for $death->{pid}, @$old;

    my $asked = sub {
        my ($what, $pid) = @_;

        my $fault = fault_of(ask($pid, $steady, 3), $steady, 3);

        push @{ $times{$what} }, 1000 * (now() - $death->{time});
        push @$faults, "$what: $fault" if $fault;
    };

    $asked->('the other worker', $other) if $other;

    my ($new) = grep { $_ != $other } meet();

    $asked->($other ? 'the next worker' : 'the next, in a reload', $new);

    return;
}


my %line;

sub site_of {
    my ($death) = @_;

    return $line{ $death->{site} } ||= line_of($death->{site});
}


# What is asked for when the next worker is there.

sub after {
    my ($s, $c, $death) = @_;

    my @faults;
    my @pids = meet();

    # the same key, the same question

    unless ($s->{after}) {
        my $limit = $c->{limit} || 2;

        for my $case ([ 'the same key', 7 ], [ 'the same question', $limit ]) {
            my ($what, $limit) = @$case;
            my $start = now();
            my $fault = fault_of(ask($pids[0], $c, $limit), $c, $limit,
                                 $c->{want}, $c->{was} || ());
            my $ms = 1000 * (now() - $start);

            push @{ $times{$what} }, $ms;
            push @faults, "$what: $fault" if $fault;
            push @waited, "$s->{name}, " . site_of($death) if $ms > WAITED;
        }
    }

    # the set, and the mutex

    for my $pid (@pids) {
        my $nobody = nobody();

        for my $case ($good, $bad, $nobody) {
            my $fault = fault_of(ask($pid, $case, 4), $case, 4);
            push @faults, "a neighbour: $fault" if $fault;
        }
    }

    # what was being changed is seen by both; and so is what changes later

    my $one = sub { metrics($pids[0])->{tracking_confirmed} && tracking() == 1 };

    # a second one would come when what a dead one has claimed is over

    sleep CLAIM if site_of($death) =~ /tracking/ && !$looked{ $death->{site} }++;
    wait_until($one, BACK)
        or push @faults, 'confirmed: ' . metrics($pids[0])->{tracking_confirmed}
                         . ', by ' . join ' and ', tracking();

    $c->{versions} = [ $c->{versions}[-1] ] if $c->{versions};
    push @faults, $s->{after} ? $s->{after}->($c, @pids)
                : seen('what was changed', $c, $c->{want}, @pids);
    push @faults, changed($c, @pids);

    # nobody is left

    push @faults, 'an old worker stays'
        if $s->{all} && !wait_until(sub { !$g->old_workers }, BACK);

    my $status;

    push @faults, "$status->{waiting} are waiting" unless wait_until(sub {
        $status = metrics($pids[1]);
        return $status->{waiting} == 0;
    }, BACK);

    # who dies between an entry and its count leaves one too many behind

    push @faults, map { "more $_ than places" }
        grep { $status->{zone_entries}{$_} - $status->{zone_places}{$_}
               > ADRIFT * @held }
        sort keys %{ $status->{zone_places} };

    return @faults;
}


sub seen {
    my ($what, $c, $status, @pids) = @_;

    my $start = time();
    my $limit = $c->{limit} || 2;
    my $last;

    for my $pid (@pids) {
        wait_until(sub {
            $last = fault_of(ask($pid, $c, $limit), $c, $limit, $status);
            return !$last;
        }, BACK) or return "$what: $last";
    }

    push @{ $times{$what} }, 1000 * (time() - $start);

    return;
}


sub changed {
    my ($c, @pids) = @_;

    my $workspace = $c->{workspace};

    if ($c->{want} == 200 && $workspace && $c->{versions}) {
        push @{ $c->{versions} }, 1 + $c->{versions}[-1];
        $up->set($workspace => $c->{versions}[-1]);
        $redis->purge($workspace);
        shift @{ $c->{versions} };
        my $fault = seen('a purge', $c, 200, @pids);
        return $fault if $fault;
    }

    if ($c->{want} == 401) {
        $workspace = $c->{workspace} = 'later' . ++$workspaces;
        $redis->del_key($c->{key});
        $redis->add_key($c->{key}, workspace => $workspace);
        return seen('a key that is created', $c, 200, @pids);
    }

    $redis->set_key($c->{key}, status => 'revoked');

    return seen('a revocation', $c, 401, @pids);
}


# Until what was changed has been told, for what was written behind it has been;
# or, where who tells may die, until then: $other is who does not.

sub told {
    my ($sub, $other) = @_;

    my $teller = defined $other;
    my $pid = $teller ? $other : (keys %conns)[0];

    my $foreign = sub { return metrics($pid)->{invalidations}{foreign} };
    my $before = $foreign->();

    $sub->();
    $redis->cmd('SET', $redis->prefix . 'key:nobody', 1);
    wait_until(sub { $teller && death() || $foreign->() > $before }, BACK)
        or die "nothing is told\n";

    return;
}


# Requests.

my $ASK = sub { my ($c, $victim) = @_; return ask($victim, $c, $c->{limit}) };

sub known {
    my ($c, @pids) = @_;

    ask($_, $c, 2) for @pids;

    return $c;
}

scenario('a cold key, a cold question', act => $ASK);
scenario('a known key, a cold question', act => $ASK, prepare => sub {
    my ($tracker, $other) = @_;
    my $c = known(new_key('known'), $other);

    $c->{limit} = 3;
    return $c;
});
scenario('kept in the worker', act => $ASK, prepare => sub {
    return known(new_key('local'), @_);
});
scenario('a key that was changed', act => $ASK, prepare => sub {
    my $c = known(new_key('changed'), @_);

    told(sub { $redis->set_key($c->{key}, name => 'another') });
    return $c;
});
scenario('a key that is refused', act => $ASK, prepare => \&nobody);
scenario('a key that was refused', act => $ASK, prepare => sub {
    my $c = new_key('disabled', status => 'disabled');

    $c->{want} = 401;
    known($c, @_);
    told(sub { $redis->set_key($c->{key}, status => 'active') });
    $c->{want} = 200;
    return $c;
});
scenario('a key that was good', act => $ASK, prepare => sub {
    my $c = known(new_key('deleted'), @_);

    told(sub { $redis->del_key($c->{key}) });
    $c->{want} = 401;
    return $c;
});
scenario('a malformed record', act => $ASK, prepare => sub {
    my $c = new_key('malformed', status => 'odd');

    $c->{want} = 401;
    return $c;
});
scenario('a purged workspace', act => $ASK, prepare => sub {
    my $c = new_key('purged');

    $c->{versions} = [ 2 ];
    $up->set($c->{workspace} => 2);
    known($c, @_);
    told(sub { $redis->purge($c->{workspace}) });
    return $c;
});
scenario('too many unknown keys', prepare => \&nobody, act => sub {
    my ($c, $victim) = @_;

    my $res = ask($victim, $c, 2, '/few');
    return $res && ($res->status || 0) == 429 ? () : $res;
});


# Rates.

scenario('a lease is spent, and another is asked for', prepare => sub {
    return known(new_key('lease'), @_);
}, act => sub {
    my ($c, $victim) = @_;

    put($victim, 0, $c) for 1 .. 4;
    my @res = map { take($victim, 0) } 1 .. 4;
    return @res;
});
scenario('Redis grants no lease', prepare => sub {
    my $c = known(new_key('borrowed'), @_);

    $c->{limit} = 2;
    $redis->cmd('ACL', 'SETUSER', 'default', '-eval', '-evalsha');
    return $c;
}, act => sub {
    my ($c, $victim) = @_;

    my @res = map { ask($victim, $c) } 1 .. 3;
    return @res;
}, done => sub { $redis->cmd('ACL', 'SETUSER', 'default', '+eval', '+evalsha') });

# A rate that is used up, by the victim and then by those who are left.  What
# was granted to a dead one, and told to nobody, is lost.

sub spent {
    my ($c, $res) = @_;

    my $status = $res && $res->status or return;
    my $fault = fault_of($res, $c, 2, 200, 429);

    $c->{admitted}++ if $status == 200;
    push @{ $c->{wrong} }, $fault if $fault;

    return $status;
}


sub use_up {
    my ($c, @pids) = @_;

    my $refused = 0;

    for (1 .. 2 * FEW) {
        my $status = spent($c, ask($pids[ $_ % 2 ], $c)) || 0;

        $refused = $status == 429 ? $refused + 1 : 0;
        last if $refused == 2;
    }

    my @faults = @{ $c->{wrong} || [] };
    my $lost = $c->{rate} - $c->{admitted};

    push @faults, "admitted: $c->{admitted} of $c->{rate}"
        if $lost < 0 || $lost > LOST;
    push @faults, 'there is no end' if $refused < 2;
    $sum{most_lost} = max($lost, $sum{most_lost} || 0);

    return @faults;
}

scenario('a rate is used up', prepare => sub {
    my $c = known(new_key('rate', rate => FEW), $_[0]);

    @$c{qw(rate admitted)} = (FEW, 1);
    return $c;
}, act => sub {
    my ($c, $victim) = @_;

    for (1 .. FEW + 2) {
        my $res = ask($victim, $c, 2) or last;
        spent($c, $res);
    }
    return;
}, after => \&use_up);
scenario('a rate is over', prepare => sub {
    my $c = new_key('over', rate => 2);

    @$c{qw(rate admitted)} = (2, 0);
    spent($c, ask($_, $c)) for @_, @_;
    return $c;
}, act => sub {
    my ($c, $victim) = @_;

    spent($c, ask($victim, $c)) for 1 .. 2;
    return;
}, after => \&use_up);


# The upstream.

for my $kind (qw(failing absent private)) {
    scenario("the upstream: $kind", prepare => sub {
        my $c = new_key($kind);
        $c->{want} = { failing => 500, absent => 404, private => 200 }->{$kind};
        return $c;
    }, act => $ASK);
}


# Two at a time: the victim leads, and then the other one does.

sub both {
    my ($c, $first, $second) = @_;

    put($first, 1, $c);
    sleep SLOW / 3;
    put($second, 1, $c);

    return;
}

scenario('the other one waits', prepare => sub { new_key('slow') }, act => sub {
    my ($c, $victim, $other) = @_;

    both($c, $victim, $other);
    my @res = map { take($_, 1) } $victim, $other;
    return @res;
});
scenario('who waits for the other one', prepare => sub { new_key('slow') },
         act => sub {
    my ($c, $victim, $other) = @_;

    both($c, $other, $victim);
    my @res = map { take($_, 1) } $victim, $other;
    return @res;
});
scenario('three of one worker', prepare => sub { new_key('slow') }, act => sub {
    my ($c, $victim, $other) = @_;

    put($victim, $_, $c) for 0 .. 2;
    my @res = map { take($victim, $_) } 0 .. 2;
    return @res;
});
scenario('who waits for too long', most => 10, prepare => sub {
    my $c = new_key('held');
    $c->{was} = 503;
    return $c;
}, act => sub {
    my ($c, $victim, $other) = @_;

    both($c, $other, $victim);
    my @res = map { take($_, 1) } $victim, $other;
    return @res;
});
scenario('who leads has gone', closes => 1,
         prepare => sub { new_key('slow') }, act => sub {
    my ($c, $victim, $other) = @_;

    put($victim, 1, $c);
    sleep SLOW / 6;
    put($victim, 2, $c);
    sleep SLOW / 6;
    $conns{$victim}[1]->reset;
    my $res = take($victim, 2);
    return $res;
});

# What is old: it becomes so for all tries at the same time.

{
    my @old;

    scenario('old, and fetched anew', act => $ASK, prepare => sub {
        my (@pids) = @_;

        unless (@old) {
            @old = map { known(new_key('short'), $pids[0]) } 1 .. MOST + 20;
            sleep 1.1 * FRESH;
        }
        return shift @old;
    });
}


# The one that tracks.

scenario('nothing, for who tracks', tracker => 1, wait => 0.25, act => sub { });
scenario('nothing, for who does not', wait => 0.25, act => sub { });

scenario('a good key is changed', tracker => 1,
         prepare => sub { known(new_key('changed'), @_) }, act => sub {
    my ($c, $victim, $other) = @_;

    @$c{qw(was want)} = (200, 401);
    told(sub { $redis->set_key($c->{key}, status => 'revoked') }, $other);
    return;
});
scenario('a refused key is changed', tracker => 1, prepare => sub {
    my $c = new_key('refused', status => 'disabled');

    $c->{want} = 401;
    return known($c, @_);
}, act => sub {
    my ($c, $victim, $other) = @_;

    @$c{qw(was want)} = (401, 200);
    told(sub { $redis->set_key($c->{key}, status => 'active') }, $other);
    return;
});
scenario('a workspace is purged', tracker => 1, prepare => sub {
    my $c = new_key('versions');

    $c->{versions} = [ 2 ];
    $up->set($c->{workspace} => 2);
    return known($c, @_);
}, act => sub {
    my ($c, $victim, $other) = @_;

    $c->{versions} = [ 2, 3 ];
    $up->set($c->{workspace} => 3);
    told(sub { $redis->purge($c->{workspace}) }, $other);
    return;
});
scenario('all is flushed', tracker => 1,
         prepare => sub { known(new_key('flushed'), @_) }, act => sub {
    my ($c, $victim, $other) = @_;

    my $conn = $redis->connect;
    $conn->cmd('SELECT', 9);
    told(sub { $conn->cmd('FLUSHDB') }, $other);
    return;
});
scenario('tracking is lost', tracker => 1, wait => 0.2,
         prepare => sub { known(new_key('lost'), @_) }, act => sub {
    $redis->cmd('CLIENT', 'KILL', 'TYPE', 'pubsub');
    return;
});
scenario('Redis is lost', prepare => sub {
    my ($tracker, $other) = @_;

    my $c = known(new_key('away'), $tracker, $other);

    ($c->{id}) = wait_until(sub {
        $redis->cmd('CLIENT', 'LIST') =~ /^id=(\d+) .* name=ngx_convotic-$other /m
            && $1;
    }, BACK);
    return $c;
}, act => sub {
    my ($c, $victim) = @_;

    $redis->cmd('CLIENT', 'KILL', 'ID', $c->{id});
    my $res = ask($victim, $c, 2);
    return $res;
});


# The start of a worker: who comes instead of the one that was killed dies.

scenario('a worker starts', closes => 1, wait => 0.2, act => sub {
    my ($c, $victim) = @_;

    kill 'KILL', $victim;
    lost($victim);
    return;
});


# A reload: any of the four may die; with a zone of another size, any of those
# who have it.  Each try is a reload, and whose workers are new is told by their
# turn.  Where Redis is slow, who is to track waits for it.

for my $case (
    [ 'a reload', 0, 1 ],
    [ 'a reload, while Redis is slow', 0.5, 1 ],
    [ 'a reload, with another zone', 0, 2, 3 ],
) {
    my ($name, $pause, @sizes) = @$case;

    scenario($name, all => 1, most => 1, wait => 0.3 + $pause, prepare => sub {
        my $c = known(new_key('reloaded'), @_);

        $c->{size} = $sizes[ ++$turn % @sizes ];
        $c->{only} = $c->{size} << 20 if @sizes > 1;
        return $c;
    }, act => sub {
        my ($c) = @_;

        $g->write_conf(vars => { TURN => $turn }, http => $g->{http}
                       =~ s/convotic_zone \dm/convotic_zone $c->{size}m/r);
        $g->signal('HUP');
        $redis->cmd('CLIENT', 'PAUSE', 1000 * $pause) if $pause;
        return;
    });
}


# What it was.

for my $what (sort keys %times) {
    my @all = sort { $a <=> $b } @{ $times{$what} };

    note(sprintf '%-22s median %.1f, p99 %.1f, worst %.1f ms of %d', "$what:",
         @all[ @all / 2, 0.99 * @all, -1 ], scalar @all);
}

note(sprintf '%d killed, %d with the mutex; %d stores were not made this time; '
             . 'of a rate of %d %d at most were lost', $sum{killed},
     scalar @held, $sum{unreached} || 0, FEW, $sum{most_lost} || 0);

# The lease of a fetch that a dead one has left in Redis is removed at once: who
# waits for its end waits for half a second and more, again and again.

cmp_ok(scalar @waited, '<=', $sum{killed} / 100,
       'nobody waits for what a dead one has left behind')
    or diag(map { "    $_\n" } @waited);

# Of all places of the source that write the zone, each that a scenario comes to
# was tried; a few are reached by chance only.

my $sites = sites();
my @never = grep { !$sites->{$_}[2] } sort keys %$sites;
my $places = keys(%$sites) - @never;

note("reached by chance, where nobody died:",
     map { "\n    " . line_of($_) } @never) if @never;
cmp_ok($places, '>=', PLACES, "somebody died at $places places of the source")
    unless defined $ENV{TEST_FAULT_ONLY};

# Each mutex was taken from who died with it.

my %freed = map { / was locked by (\d+)$/ ? ($1 => 1) : () }
    $g->log_lines(qr/ was locked by /);
my @kept = grep { !$freed{ (split /,/)[0] } } @held;

ok(!@kept, scalar(@held) . ' died with the mutex, and it was taken from them')
    or diag(map { "    $_\n" } @kept);

$t->allow_log(qr/worker process \d+ exited on signal 9/,
              qr/shared memory zone "ngx_convotic" was locked by \d+/);
$t->finish;
