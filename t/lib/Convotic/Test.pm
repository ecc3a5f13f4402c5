package Convotic::Test;

use strict;
use warnings;

use Cwd qw(abs_path);
use Digest::SHA qw(sha256 sha256_hex);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use Storable qw(nstore);
use Test::More;
use Time::HiRes qw(sleep time);

use Convotic::ByteProxy;
use Convotic::FakeRedis;
use Convotic::Nginx;
use Convotic::Port qw(free_port);
use Convotic::Process;
use Convotic::Redis;
use Convotic::Upstream qw(contacts_body);

use constant {
    LOG_TAIL  => 60,                    # lines shown when a test fails
    TIME_OUT  => 300,                   # seconds for a whole test file
};

our @EXPORT = (@Test::More::EXPORT, qw(
    wait_until parallel background error_is success_is test_key contacts_body
    free_port sha256_hex
));

my $current;


sub import {
    my ($class) = @_;

    my $caller = caller;

    strict->import;
    warnings->import;

    no strict 'refs';

    for my $name (@EXPORT) {
        my $sub = $class->can($name) or next;
        *{"${caller}::$name"} = $sub;
    }

    *{"${caller}::TODO"} = \$Test::More::TODO;

    return;
}


sub new {
    my ($class, %arg) = @_;

    my $self = bless {
        direct => $arg{direct}, rates => $arg{rates},
        dir => tempdir('cvt-XXXXXX', DIR => '/tmp'),
        top => abs_path(dirname(__FILE__) . '/../../..'),
        redis => [], nginx => [], servers => [], allowed => [], names => {},
        owner => $$,
    }, $class;

    Convotic::Process::own_dir($self->{dir});
    chmod 0755, $self->{dir};
    $current = $self;

    $SIG{ALRM} = sub {
        diag('not done within ' . TIME_OUT . ' seconds');
        exit 1;
    };
    alarm TIME_OUT * $Convotic::Process::FACTOR;

    return $self;
}


sub dir { return $_[0]{dir} }
sub top { return $_[0]{top} }


# Servers.

sub redis {
    my ($self, $name, @conf) = @_;

    my $redis = Convotic::Redis->new(
        name => $self->_name($name || 'redis'), dir => $self->{dir},
        conf => \@conf,
    );
    push @{ $self->{redis} }, $redis;

    return $redis->start;
}


sub nginx {
    my ($self, %arg) = @_;

    my $start = exists $arg{start} ? delete $arg{start} : 1;
    my $nginx = Convotic::Nginx->new(
        direct => $self->{direct}, rates => $self->{rates}, %arg,
        name => $self->_name($arg{name} || 'nginx'),
        dir => $self->{dir}, top => $self->{top},
    );
    push @{ $self->{nginx} }, $nginx;

    $nginx->start if $start;

    return $nginx;
}


sub upstream {
    my ($self, %arg) = @_;

    return $self->_server('Convotic::Upstream', 'upstream', %arg);
}


sub fake_redis {
    my ($self, %arg) = @_;

    $arg{behind} = $arg{behind}->addr if ref $arg{behind};

    return $self->_server('Convotic::FakeRedis', 'fake_redis', %arg);
}


sub byte_proxy {
    my ($self, %arg) = @_;

    $arg{to} = $arg{to}->addr if ref $arg{to};

    return $self->_server('Convotic::ByteProxy', 'byte_proxy', %arg);
}


sub _server {
    my ($self, $class, $name, %arg) = @_;

    my $server = $class->new(
        %arg, name => $self->_name($arg{name} || $name), dir => $self->{dir},
    );
    push @{ $self->{servers} }, $server;

    return $server;
}


# Names are directories and files: a second "nginx" is "nginx2".

sub _name {
    my ($self, $name) = @_;

    my $count = ++$self->{names}{$name};

    return $count == 1 ? $name : "$name$count";
}


# The usual scene: Redis with one key of the workspace acme, a contacts service
# and nginx with the module.

sub gateway {
    my ($self, %arg) = @_;

    my $redis = $arg{redis} ||= $self->redis;
    my $store = ref $redis && $redis->isa('Convotic::Redis') ? $redis
              : delete $arg{store};

    $arg{upstream} = $self->upstream(handler => $arg{upstream})
        if ref $arg{upstream} eq 'CODE';
    $arg{upstream} ||= $self->upstream;
    $arg{key} ||= test_key('acme');

    if ($store) {
        $store->init;
        $store->add_key($arg{key}, workspace => 'acme');
    }

    return $self->nginx(%arg);
}


sub has_module {
    my ($self) = @_;

    my $module = Convotic::Nginx::module($self);

    return $module eq '' || -f $module;
}


# Commands and files.

sub run {
    my ($self, $argv, %arg) = @_;

    my $base = "$self->{dir}/run" . ++$self->{runs};
    $self->_write("$base.in", defined $arg{stdin} ? $arg{stdin} : '');

    my %env = (ASAN_OPTIONS => Convotic::Process::leaks_allowed(),
               %{ $arg{env} || {} });

    my $process = Convotic::Process->spawn(
        name  => $argv->[0], argv => $argv, env => \%env,
        stdin => "$base.in", stdout => "$base.out", stderr => "$base.err",
    );
    my $status = $process->wait($arg{timeout} || 30);
    $process->kill;

    my %result = (
        exit    => defined $status ? $status >> 8 : -1,
        signal  => defined $status ? $status & 127 : 0,
        timeout => !defined $status,
        out     => Convotic::HTTP::_slurp("$base.out"),
        err     => Convotic::HTTP::_slurp("$base.err"),
    );

    unlink map { "$base.$_" } qw(in out err);

    return \%result;
}


sub ctl {
    my ($self, @args) = @_;

    my %opt = ref $args[-1] eq 'HASH' ? %{ pop @args } : ();
    my $binary = $ENV{TEST_CONVOTICCTL} || "$self->{top}/build/convoticctl";

    return $self->run([ $binary, @args ], %opt);
}


sub write_file {
    my ($self, $name, $bytes) = @_;

    $self->_write("$self->{dir}/$name", $bytes);

    return "$self->{dir}/$name";
}


sub read_file { return Convotic::HTTP::_slurp("$_[0]{dir}/$_[1]") }
sub _write    { return Convotic::HTTP::_spew(@_[1, 2]) }


# Waiting and working side by side.

sub wait_until {
    my ($cond, $seconds) = @_;

    $seconds = 5 unless defined $seconds;

    my $end = time() + $seconds * $Convotic::Process::FACTOR;

    while (1) {
        my $value = $cond->();
        return $value if $value || time() > $end;
        sleep 0.01;
    }
}


# The sub runs in $n processes, with their number; what they return, in order.

sub parallel {
    my ($n, $sub, $seconds) = @_;

    my @jobs = map { my $i = $_; background(sub { $sub->($i) }) } 0 .. $n - 1;

    return map { $_->result($seconds) } @jobs;
}


sub background {
    my ($sub) = @_;

    my $file = "$current->{dir}/job" . ++$current->{jobs};

    my $process = Convotic::Process->spawn(
        name   => 'background job',
        stderr => "$file.err",
        code   => sub {
            srand;
            @Convotic::HTTP::problems = ();
            my $value = $sub->(sub { !-e "$file.end" });
            nstore({ value => $value, problems => \@Convotic::HTTP::problems },
                   $file);
        },
    );

    return bless { file => $file, process => $process }, 'Convotic::Test::Job';
}


# Keys that look like real ones, the same for the same label.

sub test_key {
    my ($label) = @_;

    my @digits = (0 .. 9, 'A' .. 'Z', 'a' .. 'z');

    return 'cvtk_live_' . join '',
        map { $digits[ $_ % 62 ] } unpack 'C32', sha256($label);
}


# Assertions.

sub error_is {
    my ($res, $status, $code, $message, $name) = @_;

    $name = "$status $code" . (defined $message ? ": $message" : '')
        unless defined $name;

    my @faults = $res ? $res->error_faults($status, $code, $message)
                      : 'no response';

    return _no_faults($name, @faults);
}


# A 200 with exactly these bytes of JSON; a HEAD's has their length.

sub success_is {
    my ($res, $body, $name) = @_;

    my @faults = $res ? ($res->problems, $res->type_faults) : 'no response';

    if ($res) {
        push @faults, 'status ' . $res->status . ', not 200'
            if $res->status != 200;
        push @faults, _body_faults($res, $body) if defined $body;
    }

    return _no_faults(defined $name ? $name : 'status 200', @faults);
}


sub _body_faults {
    my ($res, $body) = @_;

    if ($res->method eq 'HEAD') {
        return 'length ' . $res->header('Content-Length') . ', not '
               . length $body
            if ($res->header('Content-Length') || 0) != length $body;
        return;
    }

    return if $res->body eq $body;

    return sprintf "body is\n%.300s\nnot\n%.300s", $res->body, $body;
}


sub _no_faults {
    my ($name, @faults) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 2;

    my $ok = ok(!@faults, $name);
    diag(map { "    $_\n" } @faults) unless $ok;

    return $ok;
}


# The end: stops everything and asserts that all went well.

sub allow_log {
    my ($self, @patterns) = @_;

    push @{ $self->{allowed} }, @patterns;

    return;
}


sub finish {
    my ($self) = @_;

    Convotic::HTTP::Connection::close_all();

    my @hung = grep { !$_->stop }
        grep { $_->process && $_->process->alive } @{ $self->{nginx} };
    my @died = grep { length $_->errors } @{ $self->{servers} };

    $_->stop for @{ $self->{servers} };
    $_->stop for @{ $self->{redis} };

    my @started = grep { $_->{started} } @{ $self->{nginx} };

    _none('nginx stopped gracefully', map { $_->name } @hung) if @started;
    _none('no alerts', map { $_->alerts(@{ $self->{allowed} }) } @started)
        if @started;
    _none('no sanitizer errors', map { $_->sanitizer_reports } @started)
        if @started;
    _none('responses are well-formed', @Convotic::HTTP::problems);
    _none('no handler died', map { $_->name . ': ' . $_->errors } @died)
        if @{ $self->{servers} };

    $_->kill for Convotic::Process::all_live();
    _none('nothing is left running',
          map { $_->name } Convotic::Process::all_live());

    $self->{finished} = 1;
    $self->_show_logs unless Test::More->builder->is_passing;

    return done_testing();
}


sub _none {
    my ($name, @what) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 2;

    splice @what, 20, @what - 20, '...' if @what > 20;
    ok(!@what, $name) or diag(map { "    $_\n" } @what);

    return;
}


sub _show_logs {
    my ($self) = @_;

    for my $nginx (@{ $self->{nginx} }) {
        my @lines = split /\n/, $nginx->stderr . $nginx->error_log;
        splice @lines, 0, @lines - LOG_TAIL if @lines > LOG_TAIL;
        diag('log of ' . $nginx->name . ":\n", map { "  $_\n" } @lines);
    }

    for my $server (@{ $self->{servers} }) {
        diag($server->name . ': ' . $server->errors) if length $server->errors;
    }

    return;
}


package Convotic::Test::Job;

sub end {
    my ($self) = @_;

    Convotic::HTTP::_spew("$self->{file}.end", '');

    return $self;
}


sub result {
    my ($self, $seconds) = @_;

    my ($file, $process) = @$self{qw(file process)};
    my $status = $process->wait($seconds || 60);
    $process->kill;

    my $error = Convotic::HTTP::_slurp("$file.err");

    die $process->name . (defined $status ? " died: $error" : " hangs") . "\n"
        unless defined $status && $status == 0;

    my $result = Storable::retrieve($file);
    push @Convotic::HTTP::problems, @{ $result->{problems} };
    unlink $file, "$file.err", "$file.end";

    return $result->{value};
}


END {
    if ($current && !$current->{finished}
        && $current->{owner} == $$) {
        local ($?, $!, $@);
        $current->_show_logs;
    }
}


1;

__END__

=head1 NAME

Convotic::Test - the frame of every test of the gateway

=head1 SYNOPSIS

    use Convotic::Test;

    my $t = Convotic::Test->new;
    my $g = $t->gateway(location => 'convotic_cache_valid 1s;');

    my $res = $g->contacts('limit=5');
    success_is($res, contacts_body(workspace => 'acme', limit => 5), 'five');
    error_is($g->contacts('limit=0'), 400, 'INVALID_REQUEST',
             "Parameter 'limit' must be between 1 and 100");

    $t->finish;

=head1 DESCRIPTION

C<use Convotic::Test> turns on strict and warnings and exports L<Test::More>
and the functions below.  Times are in seconds and multiplied by
C<TEST_TIME_FACTOR>, for slow builds.  C<TEST_KEEP=1> keeps the directory.  A
file that is not done within 300 seconds is ended.

=head2 Servers

=over

=item redis($name, @conf_lines)

L<Convotic::Redis>, started.

=item nginx(option => value, ...)

L<Convotic::Nginx>, started unless C<< start => 0 >>.  Options: C<redis> and
C<cache_redis> (an object or URL), C<upstream> (an object or address), C<conf>
or C<main>, C<events>, C<http>, C<server>, C<location>; C<vars>, C<workers>,
C<log_level>, C<ssl>, C<convotic>, C<daemon>, C<env>, C<name>.

=item upstream(handler => sub, ignore_bodies => 1)

L<Convotic::Upstream>.

=item fake_redis(behind => $redis, handler => sub), byte_proxy(to => $redis)

L<Convotic::FakeRedis>, L<Convotic::ByteProxy>.

=item gateway(option => value, ...)

All at once: what is not given as C<redis> and C<upstream> (an object, or a
handler) is made, the store is marked and a key of the workspace acme added;
returns the nginx, with C<redis>, C<upstream> and C<key>.  With a proxy or a
fake as C<redis>, C<store> is the real Redis to write to.

=back

=head2 Other methods

=over

=item run([command, arguments], stdin =>, env =>, timeout =>)

Runs a command; a hash of C<exit>, C<signal>, C<timeout>, C<out>, C<err>.

=item ctl(arguments, {options})

The same for convoticctl (C<TEST_CONVOTICCTL>).

=item dir, top, write_file($name, $bytes), read_file($name), has_module

=item allow_log(qr/../, ...)

Alerts that this test provokes.

=item finish

Stops everything; asserts that nginx stopped by itself, that the error log has
no alert, no crash and no sanitizer's report, that all responses were
well-formed, that no handler died and that nothing is left running; ends the
plan.  If a test failed, the logs are shown.

=back

=head2 Functions

=over

=item wait_until(sub { condition }, $seconds)

The condition's value, as soon as it is true or the time is over.

=item parallel($n, sub { my ($i) = @_; ... }, $seconds)

Runs the sub in so many processes; what each returned (one scalar).  No
assertions inside.

=item background(sub { my ($go) = @_; ... while $go->() ... })

Runs the sub in a process of its own meanwhile.  C<< $job->end >> makes C<<
$go->() >> false, C<< $job->result($seconds) >> waits for what it returned.

=item error_is($res, $status, $code, $message, $name)

One of the documented errors, with its type and its exact length; the message
may be a pattern.

=item success_is($res, $body, $name)

A 200 of exactly these bytes.

=item test_key($label), contacts_body(...), free_port(), sha256_hex($bytes)

=back

=cut
