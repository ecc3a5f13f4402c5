package Convotic::Redis;

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use Exporter qw(import);
use IO::Select;
use IO::Socket::INET;
use Time::HiRes qw(sleep time);

use Convotic::Port qw(free_port);
use Convotic::Process;
use Convotic::Resp qw(resp_command resp_parse);

our @EXPORT_OK = qw(redis_url);

use constant COMMAND_TIMEOUT => 10;


sub new {
    my ($class, %arg) = @_;

    my $name = $arg{name} || 'redis';
    my $dir = "$arg{dir}/$name";
    mkdir $dir or die "$dir: $!\n";

    my $self = bless {
        name   => $name,
        dir    => $dir,
        port   => free_port(),
        socket => "$dir/redis.sock",
        prefix => $arg{prefix} || 'convotic:',
        conf   => $arg{conf} || [],
        conns  => {},
    }, $class;

    ($self->{password}) = map { /^\s*requirepass\s+(\S+)/ } @{ $self->{conf} };

    return $self;
}


sub name     { return $_[0]{name} }
sub port     { return $_[0]{port} }
sub socket   { return $_[0]{socket} }
sub addr     { return "127.0.0.1:$_[0]{port}" }
sub process  { return $_[0]{process} }
sub pid      { return $_[0]{process} && $_[0]{process}->pid }
sub prefix   { return $_[0]{prefix} }
sub log_file { return "$_[0]{dir}/redis.log" }


sub url {
    my ($self, %arg) = @_;

    return redis_url($self->{port}, password => $self->{password}, %arg);
}


sub redis_url {
    my ($port, %arg) = @_;

    my $user = defined $arg{user} ? $arg{user} : '';
    my $auth = defined $arg{password} ? "$user:$arg{password}\@" : '';

    return "redis://${auth}127.0.0.1:$port/" . ($arg{db} || 0);
}


sub server { return $ENV{TEST_REDIS_SERVER} || 'redis-server' }


# Whether the server is of this version or a later one: Redis, or Valkey.

my $version;

sub has_version {
    my ($wanted) = @_;

    $version ||= do {
        open my $fh, '-|', server(), '--version' or die server() . ": $!\n";
        local $/;
        my ($v) = <$fh> =~ /\bv=([\d.]+)/ or die server() . ": no version\n";
        version->parse("v$v");
    };

    return $version >= version->parse("v$wanted");
}


# What docs/ has for the users of Redis 7, as this server knows it: Redis 6.2
# cannot tell reading from writing.

sub acl_rules {
    my (@rules) = @_;

    return @rules if has_version('7.0');

    return map { s/%R~/~/gr } @rules;
}


sub start {
    my ($self) = @_;

    die "$self->{name} already runs\n"
        if $self->{process} && $self->{process}->alive;

    $self->_write_conf;
    $self->{conns} = {};
    $self->{process} = Convotic::Process->spawn(
        name   => $self->{name},
        argv   => [ server(), "$self->{dir}/redis.conf" ],
        stdout => $self->log_file,
    );

    $self->_wait_ready(15);

    return $self;
}


sub _write_conf {
    my ($self) = @_;

    my @conf = (
        "bind 127.0.0.1",
        "port $self->{port}",
        "unixsocket $self->{socket}",
        "dir $self->{dir}",
        'daemonize no',
        'save ""',
        'appendonly no',
        (has_version('7.0') ? 'enable-debug-command yes' : ()),
        'repl-diskless-sync yes',
        'repl-diskless-sync-delay 0',
        @{ $self->{conf} },
    );

    open my $fh, '>', "$self->{dir}/redis.conf"
        or die "$self->{dir}/redis.conf: $!\n";
    print {$fh} map { "$_\n" } @conf;
    close $fh;

    return;
}


sub _wait_ready {
    my ($self, $seconds) = @_;

    my $end = time() + $seconds * $Convotic::Process::FACTOR;

    while ($self->{process}->alive && time() < $end) {
        my $reply = eval { $self->try_cmd('PING') };
        return if defined $reply && $reply !~ /^LOADING/;
        sleep 0.01;
    }

    die "$self->{name} did not start:\n" . $self->log_text;
}


sub log_text {
    my ($self) = @_;

    open my $fh, '<', $self->log_file or return '';
    local $/;

    return scalar <$fh>;
}


sub stop {
    my ($self, $signal) = @_;

    my $process = $self->{process} or return 1;

    $self->{conns} = {};

    return $process->stop($signal || 'TERM', 5);
}


sub kill {
    my ($self) = @_;

    $self->{conns} = {};

    return $self->{process}->kill;
}


sub restart {
    my ($self) = @_;

    $self->kill if $self->{process}->alive;

    return $self->start;
}


sub sigstop {
    my ($self) = @_;

    $self->{process}->signal('STOP');

    return $self->_wait_state(sub { $_[0] eq 'T' });
}


sub cont {
    my ($self) = @_;

    $self->{process}->signal('CONT');

    return $self->_wait_state(sub { $_[0] ne 'T' });
}


# A signal is delivered some time after it was sent.

sub _wait_state {
    my ($self, $accept) = @_;

    for (1 .. 1000) {
        my ($me) = grep { $_->{pid} == $self->pid } $self->{process}->members;
        return 1 if $me && $accept->($me->{state});
        sleep 0.002;
    }

    return 0;
}


# One command over a kept connection.  cmd() dies of an error reply, try_cmd()
# returns it as a Convotic::Resp::Error; both die when there is no reply.

sub cmd {
    my ($self, @argv) = @_;

    my $reply = $self->try_cmd(@argv);

    die "$self->{name}: $argv[0]: $reply\n"
        if ref $reply && ref $reply eq 'Convotic::Resp::Error';

    return $reply;
}


sub try_cmd {
    my ($self, @argv) = @_;

    my $conn = $self->{conns}{$$} ||= $self->connect;
    my $reply = eval { $conn->cmd(@argv) };

    if (my $error = $@) {
        delete $self->{conns}{$$};
        die $error;
    }

    return $reply;
}


sub connect {
    my ($self) = @_;

    return Convotic::Redis::Connection->new(
        name     => $self->{name},
        port     => $self->{port},
        password => $self->{password},
    );
}


sub flushall { return $_[0]->cmd('FLUSHALL') }


# The lines that MONITOR prints while the sub runs.

sub monitor {
    my ($self, $sub) = @_;

    my $conn = $self->connect;
    my $mark = "monitor-mark-$$-" . int(rand(1e9));

    $conn->cmd('MONITOR');
    $sub->();
    $self->cmd('ECHO', $mark);

    my @lines;

    while (1) {
        my $line = $conn->read_reply;
        last if $line =~ /\Q$mark\E/;
        push @lines, $line;
    }

    return @lines;
}


# Every name and its value, whatever the type: name => string, array, hash.

sub keys_dump {
    my ($self) = @_;

    my (%dump, %get);

    %get = (
        string => sub { $self->cmd('GET', $_[0]) },
        hash   => sub { +{ @{ $self->cmd('HGETALL', $_[0]) } } },
        list   => sub { $self->cmd('LRANGE', $_[0], 0, -1) },
        set    => sub { [ sort @{ $self->cmd('SMEMBERS', $_[0]) } ] },
        zset   => sub { $self->cmd('ZRANGE', $_[0], 0, -1, 'WITHSCORES') },
    );

    for my $name ($self->names('*')) {
        my $get = $get{ $self->cmd('TYPE', $name) } or next;
        $dump{$name} = $get->($name);
    }

    return \%dump;
}


sub keys_text {
    my ($self) = @_;

    my $dump = $self->keys_dump;

    return join '', map { "$_ = " . _flat($dump->{$_}) . "\n" } sort keys %$dump;
}


sub _flat {
    my ($value) = @_;

    return join ' ', map { defined $_ ? $_ : '(nil)' }
        ref $value eq 'HASH'  ? map { ($_, $value->{$_}) } sort keys %$value :
        ref $value eq 'ARRAY' ? @$value :
                                $value;
}


sub names {
    my ($self, $pattern) = @_;

    my ($cursor, %names) = (0);

    do {
        my $reply = $self->cmd('SCAN', $cursor, 'MATCH', $pattern,
                               'COUNT', 1000);
        ($cursor, my $batch) = @$reply;
        @names{@$batch} = ();
    } while ($cursor);

    return sort keys %names;
}


# The counters of "INFO commandstats": calls so far, of one command or all.

sub calls {
    my ($self, $command) = @_;

    my %calls = $self->cmd('INFO', 'commandstats')
        =~ /^cmdstat_(\S+?):calls=(\d+)/mg;

    return \%calls unless defined $command;

    return $calls{ lc $command } || 0;
}


sub info {
    my ($self, $field) = @_;

    my %info = $self->cmd('INFO', 'everything') =~ /^(\w+):(.*?)\r?$/mg;

    return defined $field ? $info{$field} : \%info;
}


# Until the replica holds all that its master has written so far.

sub wait_replica {
    my ($self, $seconds) = @_;

    my $end = time() + ($seconds || 10) * $Convotic::Process::FACTOR;

    while (time() < $end) {
        return 1 if ($self->info('master_link_status') || '') eq 'up';
        sleep 0.02;
    }

    return 0;
}


# The names and records that the gateway reads.

sub meta_name { return $_[0]{prefix} . 'meta' }
sub key_name  { return $_[0]{prefix} . 'key:' . sha256_hex($_[1]) }
sub gen_name  { return $_[0]{prefix} . "gen:{$_[1]}" }
sub rate_name { return $_[0]{prefix} . 'rate:v1:' . sha256_hex($_[1]) }


sub init {
    my ($self) = @_;

    $self->cmd('HSET', $self->meta_name, 'schema', 1);

    return $self;
}


sub add_key {
    my ($self, $key, %field) = @_;

    my $raw = delete $field{fields};

    %field = $raw ? %$raw : (
        id        => 'key_' . substr(sha256_hex($key), 0, 8),
        workspace => 'acme',
        status    => 'active',
        name      => 'test key',
        created   => int(time()),
        %field,
    );

    my @pairs = map { ($_, $field{$_}) }
        grep { defined $field{$_} } sort keys %field;

    $self->cmd('HSET', $self->key_name($key), @pairs);

    return $key;
}


sub set_key {
    my ($self, $key, %field) = @_;

    my $name = $self->key_name($key);
    my @gone = grep { !defined $field{$_} } sort keys %field;
    my @pairs = map { ($_, $field{$_}) }
        grep { defined $field{$_} } sort keys %field;

    $self->cmd('HDEL', $name, @gone) if @gone;
    $self->cmd('HSET', $name, @pairs) if @pairs;

    return;
}


sub del_key { return $_[0]->cmd('DEL', $_[0]->key_name($_[1])) }
sub purge   { return $_[0]->cmd('INCR', $_[0]->gen_name($_[1])) }


package Convotic::Redis::Connection;

use strict;
use warnings;

use Time::HiRes qw(time);

use Convotic::Resp qw(resp_command resp_parse);


sub new {
    my ($class, %arg) = @_;

    my $socket = IO::Socket::INET->new(
        PeerAddr => '127.0.0.1',
        PeerPort => $arg{port},
        Proto    => 'tcp',
        Timeout  => 5,
    ) or die "$arg{name}: connect: $@\n";

    my $self = bless { name => $arg{name}, socket => $socket, buffer => '' },
        $class;

    if (defined $arg{password}) {
        my $reply = $self->cmd('AUTH', $arg{password});
        die "$arg{name}: AUTH: $reply\n" unless $reply eq 'OK';
    }

    return $self;
}


sub cmd {
    my ($self, @argv) = @_;

    $self->write(resp_command(@argv));

    return $self->read_reply;
}


sub write {
    my ($self, $bytes) = @_;

    while (length $bytes) {
        my $n = syswrite $self->{socket}, $bytes;
        die "$self->{name}: write: $!\n" unless defined $n;
        substr($bytes, 0, $n, '');
    }

    return;
}


# With a time given, no reply within it is an empty list, not a death.

sub read_reply {
    my ($self, $seconds) = @_;

    my $limit = defined $seconds ? $seconds
              : Convotic::Redis::COMMAND_TIMEOUT * $Convotic::Process::FACTOR;
    my $end = time() + $limit;

    while (1) {
        my @got = resp_parse(\$self->{buffer});
        return $got[0] if @got;

        my $left = $end - time();

        if ($left <= 0 || !IO::Select->new($self->{socket})->can_read($left)) {
            return if defined $seconds;
            die "$self->{name}: no reply within $limit s\n";
        }

        my $n = sysread $self->{socket}, $self->{buffer}, 65536,
                        length $self->{buffer};
        die "$self->{name}: connection closed\n" unless $n;
    }
}


sub close { return CORE::close($_[0]{socket}) }


1;

__END__

=head1 NAME

Convotic::Redis - a real Redis server for one test

=head1 SYNOPSIS

    my $redis = $t->redis('keys', 'maxmemory 20mb');

    $redis->init;
    $redis->add_key('cvtk_live_x', workspace => 'acme', rate => 100);
    $redis->cmd('GET', 'name');
    $redis->kill;
    $redis->start;

=head1 DESCRIPTION

C<< $t->redis($name, @conf_lines) >> starts C<redis-server> on a free port of
127.0.0.1 and on a Unix socket, without persistence.  Each further argument is
a line of its configuration.

=over

=item Convotic::Redis::has_version('7.0'), Convotic::Redis::acl_rules(@rules)

Whether the server is of this version, or a later one; and the rules of a user
as docs/ has them, or as Redis 6.2 takes them.

=item port, addr, socket, url(user => , password => , db => ), pid, dir

=item cmd(@argv), try_cmd(@argv)

The reply: a string, undef for nil, an array.  C<cmd> dies of an error reply,
C<try_cmd> returns it as an object whose string is the error's text.

=item connect

A connection of one's own, with C<cmd>, C<write($bytes)>, C<close> and
C<read_reply($seconds)>; with a time given, no reply is an empty list.

=item stop($signal), kill, start, restart, sigstop, cont

C<kill> is SIGKILL; C<start> uses the same port, with nothing in it.

=item monitor(sub { ... })

The lines of MONITOR while the sub ran.

=item keys_dump, keys_text, names($pattern), calls($command), info($field)

Everything that is stored, as a hash or one text to search; the names; calls
per command since the start; a field of INFO.

=item wait_replica($seconds)

For a server started with C<replicaof ...>: true once its link is up.

=item init

Marks the store as the gateway's (C<convotic:meta>).

=item add_key($key, field => value, ...)

Writes the key's record with one HSET and returns the key.  Fields not given
have plausible values; an undefined value leaves the field out; C<< fields =>
{...} >> gives the whole record.

=item set_key($key, field => value, ...), del_key($key)

Changes fields (undef deletes one), deletes the record.

=item purge($workspace)

INCR of the workspace's generation.

=item meta_name, key_name($key), gen_name($workspace), rate_name($key)

=back

=cut
