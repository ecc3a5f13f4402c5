package Convotic::Bench;

use strict;
use warnings;

use Cwd qw(abs_path);
use Digest::SHA qw(sha1_base64);
use Fcntl qw(:flock);
use File::Basename qw(dirname);
use File::Path qw(make_path);
use File::Temp qw(tempdir);
use IO::Compress::Gzip qw(gzip $GzipError);
use IO::Uncompress::Gunzip qw(gunzip $GunzipError);
use JSON::PP ();
use List::Util qw(sum0);
use Time::HiRes qw(sleep time);

use Convotic::Bench::Machine qw(cores pin affinity);
use Convotic::Bench::Subjects qw(subjects sizes);
use Convotic::HTTP;
use Convotic::Port qw(free_port);
use Convotic::Process;
use Convotic::Redis;

use constant {
    PIECE      => 3900,         # bytes of a parameter: nginx allows 4 KB
    START_TIME => 60,           # seconds for an nginx, under valgrind too
    MODULES    => '/usr/lib/nginx/modules',
    PLACE      => '/dev/shm',
    ROOM       => 512 << 20,    # bytes that a cache there may need
    WARM       => 3,            # requests after which a cache is warm
};

my %KEYS = (
    good      => 'cvtk_live_BenchBenchBenchBenchBenchGood01',
    unknown   => 'cvtk_live_BenchBenchBenchBenchBenchNobody',
    malformed => 'cvtk_live_Bench Bench Bench Bench Bench',
    spent     => 'cvtk_live_BenchBenchBenchBenchBenchSpent1',
);

# Which configuration an instance of nginx has, and what is put into it.

my %INSTANCES = (
    upstream => { conf => 'upstream' },
    nginx    => { conf => 'nginx' },
    nginx2   => { conf => 'nginx', workers => 2 },
    lua      => { conf => 'lua' },
    local    => { conf => 'convotic', local => '16m' },
    redis    => { conf => 'convotic', local => '0' },
    local2   => { conf => 'convotic', local => '16m', workers => 2 },
);


# new(say => sub, rate => N): builds what is measured, and prepares a directory.
# A key may ask N times a minute.

sub new {
    my ($class, %arg) = @_;

    my $top = abs_path(dirname(__FILE__) . '/../../..');
    my $self = bless {
        say => $arg{say} || sub { }, top => $top, bench => "$top/bench",
        rate => $arg{rate}, instances => {}, ports => {}, lines => {}, runs => 0,
    }, $class;

    $self->_install;
    $self->_build;

    $self->{dir} = tempdir('convotic-bench-XXXXXX', DIR => '/tmp');
    $self->{shm} = tempdir('convotic-bench-XXXXXX',
                           DIR => _room(PLACE) ? PLACE : $self->{dir});
    chmod 0755, $self->{dir}, $self->{shm};
    Convotic::Process::own_dir($_) for $self->{dir}, $self->{shm};

    ($self->{core}, $self->{other_core}) = cores();
    pin($self->{other_core});

    $self->_bodies;
    $self->_probe;

    return $self;
}


sub dir   { return $_[0]{dir} }
sub top   { return $_[0]{top} }
sub cores_used { return @{ $_[0] }{qw(core other_core)} }


sub _install {
    my ($self) = @_;

    system("$self->{top}/tools/packages", 'bench') == 0
        or die "the packages above are needed\n";

    return;
}


# Two runs at the same time would build into each other's files, and measure
# each other.

sub _build {
    my ($self) = @_;

    my $log = "$self->{top}/build/bench.log";

    make_path("$self->{top}/build");
    open $self->{lock}, '>>', $log or die "$log: $!\n";
    flock $self->{lock}, LOCK_EX | LOCK_NB
        or die "another run of the bench has not ended yet\n";

    $self->{say}->('building');
    system("make -C '$self->{top}' >'$log' 2>&1 </dev/null") == 0
        or die _tail($log) . "the module could not be built\n";

    $self->{module} = "$self->{top}/build/ngx_convotic_module.so";

    return;
}


sub _room {
    my ($dir) = @_;

    my ($free) = `df -kP $dir 2>/dev/null` =~ /^\S+\s+\d+\s+\d+\s+(\d+)/m;

    return -w $dir && $free && $free * 1024 >= ROOM;
}


sub _tail {
    my ($file) = @_;

    open my $fh, '<', $file or return '';
    my @lines = <$fh>;

    splice @lines, 0, -15;

    return join '', @lines;
}


# Bodies, the same at each run.

sub _bodies {
    my ($self) = @_;

    my %limit = sizes();
    my $seed = 20260330;
    my $pick = sub {
        $seed = ($seed * 1103515245 + 12345) & 0x7fffffff;
        return ($seed >> 8) % $_[0];
    };
    my @first = qw(Somchai Nattapong Kanyarat Thanawat Pimchanok Siriporn
                   Anucha Piyada Kittipong Suphaporn Chonticha Rattana Wichai);
    my @last = qw(Prasert Jaidee Srisuk Wongthai Saengthong Boonma Thongkham
                  Suwan Charoensuk Maneewong Chanphen Inkaew);
    my $digits = sub { join '', map { $pick->(10) } 1 .. $_[0] };
    my $time = sub {
        sprintf '2026-%02d-%02dT%02d:%02d:%02dZ', 1 + $pick->(3),
                1 + $pick->(28), map { $pick->($_) } 24, 60, 60;
    };
    my @contacts = map {
        my $id = 'ct_' . join '', map { (0 .. 9, 'a' .. 'z')[$pick->(36)] } 1 .. 6;

        sprintf '{"id":"%s","name":"%s %s","platform":"instagram",'
                . '"platformUserId":"ig_%s","avatarUrl":'
                . '"https://cdn.convotic.com/avatars/%s.jpg",'
                . '"lastMessageAt":"%s","createdAt":"%s"}',
                $id, $first[$pick->(scalar @first)], $last[$pick->(scalar @last)],
                $digits->(8), $id, $time->(), $time->();
    } 1 .. $limit{L};

    for my $size (keys %limit) {
        my $body = '{"contacts":[' . join(',', @contacts[0 .. $limit{$size} - 1])
                   . "],\"total\":142,\"limit\":$limit{$size}}";

        gzip(\$body, \my $small, -Level => 6) or die "gzip: $GzipError\n";

        $self->{limit}{$size} = $limit{$size};
        $self->{body}{$size} = $body;
        $self->{gzip}{$size} = $small;
    }

    return;
}


sub body { return $_[0]{body}{ $_[1] } }


# Which of the configuration's directives the module that was built knows.

sub _probe {
    my ($self) = @_;

    my $text = _slurp("$self->{bench}/conf/convotic.conf.in");
    my %names = map { $_ => 1 } $text =~ /^\s*(convotic_\w+)/mg,
                map { @{ $_->{needs} || [] } } subjects();

    for my $name (sort keys %names) {
        my $file = "$self->{dir}/probe.conf";

        _write($file, "load_module $self->{module};\nerror_log stderr;\n"
                      . "pid $self->{dir}/probe.pid;\n"
                      . "events { }\nhttp { $name; }\n");

        my $said = `nginx -t -c '$file' 2>&1`;

        $self->{unknown}{$name} = 1 if $said =~ /unknown directive/;
    }

    $self->{say}->("the module does not know $_ yet")
        for sort keys %{ $self->{unknown} };

    return;
}


# What is missing of the directives that a subject needs.

sub lacks {
    my ($self, $subject) = @_;

    return grep { $self->{unknown}{$_} } @{ $subject->{needs} || [] };
}


sub lacks_any { return scalar keys %{ $_[0]{unknown} } }


# Redis: that of keys, and that of bodies.

sub start_redis {
    my ($self) = @_;

    for my $name (qw(keys bodies)) {
        $self->{"redis_$name"} = Convotic::Redis->new(
            name => $name, dir => $self->{dir},
            conf => [ 'unixsocketperm 777', 'maxmemory 256mb',
                      'maxmemory-policy '
                      . ($name eq 'keys' ? 'noeviction' : 'allkeys-lru') ],
        )->start;
        chmod 0755, "$self->{dir}/$name";
    }

    my $keys = $self->{redis_keys}->init;
    my $digest = sha1_base64($KEYS{good});

    $keys->add_key($KEYS{good});
    $keys->add_key($KEYS{spent}, rate => 1);
    $keys->cmd('HSET', "lua:key:$digest", 'workspace', 'acme');
    $keys->cmd('SET', "lua:body:$digest:instagram:$self->{limit}{$_}",
               $self->{body}{$_}) for keys %{ $self->{body} };

    return;
}


# The next request of a key begins a minute of its own, for an nginx that is
# started after this: others know of theirs.

sub new_minute {
    my ($self) = @_;

    my $redis = $self->{redis_keys};

    $redis->cmd('DEL', map { $redis->rate_name($_) } values %KEYS);

    return;
}


# How often Redis was asked for more of a key's rate.

sub lease_commands {
    my ($self) = @_;

    my $calls = $self->{redis_keys}->calls;

    return sum0(map { $calls->{$_} || 0 } qw(eval evalsha));
}


# Commands that both have executed, without those that ask for it.

sub redis_commands {
    my ($self) = @_;

    my $sum = 0;

    for my $redis (@$self{qw(redis_keys redis_bodies)}) {
        my $calls = $redis->calls;

        $sum += $calls->{$_} for grep { !/^(?:info|client|ping|role)\b/ }
            keys %$calls;
    }

    return $sum;
}


# nginx.

sub port {
    my ($self, $name) = @_;

    return $self->{ports}{$name} ||= free_port();
}


# start(NAME, launch => [argv of a tool], one => without a master)

sub start {
    my ($self, $name, %arg) = @_;

    my $dir = "$self->{dir}/$name";
    my $one = $arg{one} ? ' master_process off;' : '';

    unless (-d $dir) {
        make_path($dir, "$self->{shm}/$name");
        chmod 0711, $dir, "$self->{shm}/$name";
    }

    my $conf = "$INSTANCES{$name}{conf}.conf";

    _write("$dir/$_", $self->_fill($name, _slurp("$self->{bench}/conf/$_.in")))
        for 'main.conf', 'http.conf', $conf;

    my $process = Convotic::Process->spawn(
        name   => $name, stdout => "$dir/out",
        argv   => [ @{ $arg{launch} || [] }, 'nginx', '-c', "$dir/$conf",
                    '-g', "daemon off;$one" ],
    );

    $self->{instances}{$name} = { process => $process };
    $self->_wait_ready($name, $process);

    $self->{instances}{$name}{workers} = [ $arg{one} ? $process->pid :
        _wait_workers($process, $INSTANCES{$name}{workers} || 1) ];

    return $process;
}


sub _wait_ready {
    my ($self, $name, $process) = @_;

    my $end = time() + START_TIME;
    my @ports = map { $self->{ports}{$_} } grep { /^\Q$name\E\./ }
        keys %{ $self->{ports} };

    for my $port (@ports) {
        until (eval { Convotic::HTTP->new(port => $port)->connect->close; 1 }) {
            die $self->log_tail($name) . "nginx ($name) did not start\n"
                if time() > $end || !$process->alive;
            sleep 0.02;
        }
    }

    return;
}


sub _wait_workers {
    my ($process, $count) = @_;

    my $end = time() + START_TIME;
    my @pids;

    until (@pids == $count) {
        die "no worker of nginx\n" if time() > $end;
        sleep 0.02;
        @pids = map { $_->{pid} }
            grep { Convotic::Process::title($_->{pid}) =~ /: worker process/ }
            $process->members;
    }

    return @pids;
}


sub log_tail {
    my ($self, $name) = @_;

    return join '', map { _tail($_) } "$self->{dir}/$name/out",
                                      "$self->{dir}/$name.log";
}


sub stop {
    my ($self, $name) = @_;

    my $instance = delete $self->{instances}{$name} or return;

    return $instance->{process}->stop('QUIT', 60);
}


sub workers { return @{ $_[0]{instances}{ $_[1] }{workers} } }
sub started { return exists $_[0]{instances}{ $_[1] } }


# The configuration's templates.

sub _fill {
    my ($self, $instance, $text) = @_;

    my $what = $INSTANCES{$instance};
    my %limit = sizes();
    my $workers = $what->{workers} || 1;
    my @cores = $instance eq 'upstream' ? $self->{other_core} :
        ($self->{core}, $self->{other_core})[0 .. $workers - 1];
    my @pieces;

    my %value = (
        INSTANCE => $instance, DIR => $self->{dir}, SHM => $self->{shm},
        BENCH => $self->{bench}, MODULE => $self->{module},
        MODULES => MODULES, WORKERS => $workers, AFFINITY => affinity(@cores),
        LOCAL => $what->{local}, RATE => $self->{rate},
        KEYS_SOCKET => $self->{redis_keys}->socket,
        BODIES_SOCKET => $self->{redis_bodies}->socket,
    );

    $text =~ s{^\@EACH SIZE\@\n(.*?)^\@END\@\n}{
        join '', map { $1 =~ s/\@SIZE\@/$_/gr } sort keys %limit
    }smge;

    $text =~ s/^\s*$_\b[^;]*;[^\n]*\n//mg for keys %{ $self->{unknown} };

    $text =~ s/\@PORT (\w+)\@/$self->port("$instance.$1")/ge;
    $text =~ s/\@PORT (\w+\.\w+)\@/$self->port($1)/ge;
    $text =~ s/\@BODY BY LIMIT\@/$self->_by_limit(\@pieces)/ge;
    $text =~ s/\@BODY (\w)\@/_piece("body_$1", $self->{body}{$1}, \@pieces)/ge;
    $text =~ s/\@GZIP (\w)\@/_piece("gzip_$1", $self->_gzip_text($1), \@pieces)/ge;
    $text =~ s/\@PIECES(?: BY LIMIT)?\@/join "\n    ", @pieces/ge;
    $text =~ s/\@([A-Z_]+)\@/defined $value{$1} ? $value{$1} : die "\@$1\@?\n"/ge;

    return $text;
}


# A text as the parameter of "return": what is longer than a parameter may be
# goes on in variables.

sub _piece {
    my ($name, $text, $pieces) = @_;

    my ($first, @more) = unpack '(a' . PIECE . ')*', $text;

    for my $i (0 .. $#more) {
        push @$pieces, "map '' \$${name}_$i { default '$more[$i]'; }";
        $first .= "\${${name}_$i}";
    }

    return $first;
}


sub _by_limit {
    my ($self, $pieces) = @_;

    my %parts = map {
        $self->{limit}{$_} => [ unpack '(a' . PIECE . ')*', $self->{body}{$_} ]
    } keys %{ $self->{body} };
    my ($most) = sort { $b <=> $a } map { scalar @$_ } values %parts;

    for my $i (0 .. $most - 1) {
        push @$pieces, "map \$arg_limit \$part_$i {",
            (map { "    $_ '$parts{$_}[$i]';" }
             grep { defined $parts{$_}[$i] } sort keys %parts), '}';
    }

    return join '', map { "\${part_$_}" } 0 .. $most - 1;
}


# As long as the compressed body, of characters that a configuration may have.

sub _gzip_text {
    my ($self, $size) = @_;

    return 'z' x length $self->{gzip}{$size};
}


# Requests.

sub path {
    my ($self, $subject, $size) = @_;

    my $query = $subject->{query}
        || "platform=instagram&limit=$self->{limit}{$size}";

    return "/v1/contacts?$query";
}


sub server {
    my ($self, $subject, $size) = @_;

    return $subject->{server} =~ s/SIZE/$size/r;
}


sub instance { return $_[1]{server} =~ s/\..*//r }


sub headers {
    my ($self, $subject) = @_;

    return ('X-API-Key' => $KEYS{ $subject->{key} },
            $subject->{gzip} ? ('Accept-Encoding' => 'gzip') : ());
}


# A number that no other run has, for requests that are to be unlike.

sub next_run { return sprintf '%d-%d', $$, ++$_[0]{runs} }


# Is the answer the one that is to be measured?  Warms caches besides.

sub verify {
    my ($self, $subject, $size) = @_;

    my $http = Convotic::HTTP->new(
        port => $self->port($self->server($subject, $size)));
    my $path = $self->path($subject, $size);
    my $run = $self->next_run;
    my $res;

    for my $i (1 .. WARM) {
        my $url = $subject->{unique} ? "$path&n=$run-$i" : $path;

        $res = $http->get($url, $self->headers($subject));
        sleep 0.02;
    }

    my $who = "$subject->{name}, $size";
    my $status = $res->status || 'none';

    die $self->log_tail($self->instance($subject))
        . "$who: status $status, not $subject->{status}\n"
        if $status ne $subject->{status};

    $self->_verify_body($subject, $size, $res, $who);

    my $cache = $res->header('Cache-Status');
    $cache = '' unless defined $cache;

    die "$who: Cache-Status is \"$cache\"\n"
        if $subject->{cache} && $cache !~ $subject->{cache};

    return $res;
}


sub _verify_body {
    my ($self, $subject, $size, $res, $who) = @_;

    my $body = $res->body;

    return if $subject->{body} eq 'any';

    if ($subject->{body} eq 'gzip') {
        my $coding = $res->header('Content-Encoding') || 'none';

        die "$who: Content-Encoding $coding\n" if $coding ne 'gzip';
        gunzip(\$res->body, \$body) or die "$who: $GunzipError\n";
    }

    die "$who: the body is another: " . substr($body, 0, 200) . "\n"
        if $body ne $self->{body}{$size};

    return;
}


# What the upstream was asked so far.

sub upstream_requests {
    my ($self) = @_;

    my $res = Convotic::HTTP->new(port => $self->port('upstream.status'))
        ->get('/status');
    my ($requests) = $res->body =~ /^ \d+ \d+ (\d+) /m
        or die 'no status of the upstream: ' . $res->body . "\n";

    return $requests - ++$self->{status_requests};
}


# The gateway's own counters.

sub status {
    my ($self, $instance) = @_;

    my $res = Convotic::HTTP->new(port => $self->port("$instance.status"))
        ->get('/status');

    return JSON::PP->new->decode($res->body);
}


sub _write {
    my ($file, $text) = @_;

    open my $fh, '>', $file or die "$file: $!\n";
    print {$fh} $text;
    close $fh or die "$file: $!\n";

    return;
}


sub _slurp {
    my ($file) = @_;

    open my $fh, '<', $file or die "$file: $!\n";
    local $/;

    return scalar <$fh>;
}


1;

__END__

=head1 NAME

Convotic::Bench - what bench/run and bench/instructions have in common

=head1 DESCRIPTION

C<new> installs packages, builds, makes the directories and confines itself,
and so all that it starts, to one core; the workers of nginx choose the other.

=cut
