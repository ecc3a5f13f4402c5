package Convotic::Nginx;

use strict;
use warnings;

use IO::Socket::INET;
use IO::Socket::UNIX;
use Time::HiRes qw(sleep time);

use Convotic::HTTP;
use Convotic::Port qw(free_port);
use Convotic::Process;

use constant START_TIMEOUT => 20;
use constant PATIENCE => 1000;          # ms, of Redis in the tests

my $temp_paths = join ' ', map { "${_}_temp_path" }
    qw(client_body proxy fastcgi uwsgi scgi);

my $ALERT = qr/
    \[(?:alert|emerg)\]
    | exited\s on\s signal
    | exited\s with\s (?:fatal\s)? code\s [1-9]
/x;

my $SANITIZER = qr/
    AddressSanitizer | LeakSanitizer | UndefinedBehaviorSanitizer
    | :\s runtime\s error:
    | ^==\d+==                           # valgrind
/x;


# Options as Convotic::Test::nginx() has them.

sub new {
    my ($class, %arg) = @_;

    my $self = bless { name => 'nginx', workers => 1, %arg, ports => {} },
        $class;

    $self->{base} = $self->{dir};
    $self->{dir} = "$self->{base}/$self->{name}";
    mkdir $self->{dir} or die "$self->{dir}: $!\n";

    $self->write_conf;

    return $self;
}


sub binary {
    return $ENV{TEST_NGINX_BINARY} if $ENV{TEST_NGINX_BINARY};

    my ($found) = grep { -x } map { "$_/nginx" }
        split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';

    return $found || die "no nginx found: set TEST_NGINX_BINARY\n";
}


my $version;

sub version {
    ($version) = `@{[ binary() ]} -v 2>&1` =~ m{nginx/([\d.]+)}
        unless defined $version;

    return $version;
}


# Whether the version is at least this one.

sub has_version {
    my ($wanted) = @_;

    my @have = split /\./, version();

    for my $part (split /\./, $wanted) {
        my $order = (shift @have || 0) <=> $part;
        return $order > 0 if $order;
    }

    return 1;
}


# The module's file; the empty string: built into the binary.

sub module {
    my ($self) = @_;

    return $ENV{TEST_NGINX_MODULE} if defined $ENV{TEST_NGINX_MODULE};
    return "$self->{top}/build/ngx_convotic_module.so";
}


sub name    { return $_[0]{name} }
sub dir     { return $_[0]{dir} }
sub process { return $_[0]{process} }
sub port    { return $_[0]->_port($_[1] ? "PORT_$_[1]" : 'PORT') }
sub ssl_port { return $_[0]->_port('SSL_PORT') }
sub redis   { return $_[0]{redis} }
sub cache_redis { return $_[0]{cache_redis} }
sub upstream { return $_[0]{upstream} }
sub key     { return $_[0]{key} }


# The master.

sub pid {
    my ($self) = @_;

    return $self->pid_of_file if $self->{daemon};
    return $self->{process} && $self->{process}->pid;
}


# Configuration.

sub write_conf {
    my ($self, %arg) = @_;

    @$self{keys %arg} = values %arg;

    $self->{conf_file} = "$self->{dir}/nginx.conf";
    $self->{conf_text} = $self->_text;
    Convotic::HTTP::_spew($self->{conf_file}, $self->{conf_text});

    return $self;
}


sub conf_text { return $_[0]{conf_text} }


sub _text {
    my ($self) = @_;

    my $conf = defined $self->{conf} ? $self->{conf} : $self->_usual_conf;
    my $http = $self->_http_preamble($conf);

    $conf =~ s/^(\s*http\s*\{)/$1\n$http/m;

    return $self->fill($self->_preamble($conf) . $conf);
}


# What the test's own text says is not said again.

sub _preamble {
    my ($self, $conf) = @_;

    my @lines = (
        'daemon ' . ($self->{daemon} ? 'on' : 'off'),
        'master_process on',
        "worker_processes $self->{workers}",
        'error_log %%DIR%%/error.log ' . $self->_log_level,
        'pid %%DIR%%/nginx.pid',
    );

    push @lines, 'user root' if $> == 0;
    unshift @lines, 'load_module ' . $self->module if $self->_loads_module;
    push @lines, map { "env $_" } grep { $ENV{$_} }
        qw(ASAN_OPTIONS UBSAN_OPTIONS LSAN_OPTIONS);

    @lines = grep { /^(?:load_module|env) / || !_says($conf, /^(\w+)/) } @lines;

    my $text = join '', map { "$_;\n" } @lines;

    $text .= "$self->{main}\n" if defined $self->{main} && !defined $self->{conf};
    $text .= 'events { ' . ($self->{events} || '') . " }\n"
        unless $conf =~ /^\s*events\b/m;

    return $text;
}


sub _log_level {
    my ($self) = @_;

    return 'debug' if $ENV{TEST_NGINX_DEBUG};

    return $self->{log_level} || 'info';
}


sub _loads_module {
    my ($self) = @_;

    return length $self->module
           && !(defined $self->{convotic} && !$self->{convotic});
}


sub _says {
    my ($text, $directive) = @_;

    return $text =~ /(?:^|[;{}])\s*\Q$directive\E\s/m;
}


sub _http_preamble {
    my ($self, $conf) = @_;

    my $text = '';

    for my $path (split / /, $temp_paths) {
        $text .= "    $path %%DIR%%/$path;\n" unless _says($conf, $path);
    }

    $text .= "    access_log %%DIR%%/access.log;\n"
        unless $self->{no_access_log};

    return $text . $self->_direct($conf) . $self->_unlimited($conf);
}


# Nothing is known from one request to the next: each asks Redis.

sub _direct {
    my ($self, $conf) = @_;

    return '' unless $self->{direct} && _says($conf, 'convotic');

    return join '', map { "    $_ 0;\n" } grep { !_says($conf, $_) }
        qw(convotic_key_valid convotic_key_invalid convotic_key_stale
           convotic_cache_local);
}


# A test of something else sends as many requests as it likes, and counts
# commands that have nothing to do with the rate.

sub _unlimited {
    my ($self, $conf) = @_;

    return '' if $self->{rates} || !_says($conf, 'convotic')
                 || _says($conf, 'convotic_rate');

    return "    convotic_rate off;\n";
}


sub _usual_conf {
    my ($self) = @_;

    my ($http, $server, $location) =
        map { defined $self->{$_} ? $self->{$_} : '' } qw(http server location);
    my $on = !defined $self->{convotic} || $self->{convotic};

    my @http = ("$http\n");
    my @server = ("listen 127.0.0.1:%%PORT%%;", 'server_name localhost;');
    my @location = ("$location\n");

    push @server, '%%LISTEN_SSL%%' if $self->{ssl};
    push @http, 'upstream contacts { server %%UPSTREAM%%; keepalive 8; }'
        unless $http =~ /\bupstream\s+contacts\b/;

    if ($on) {
        for my $name (qw(redis cache_redis)) {
            push @http, "convotic_$name %%\U$name\E%%;"
                if $self->{$name} && !_says($http, "convotic_$name");
        }
        push @server, 'convotic_errors on;'
            unless _says("$http\n$server", 'convotic_errors');
        unshift @location, 'convotic on;' unless _says($location, 'convotic');
    }

    unshift @location, 'proxy_pass http://contacts;'
        unless _says($location, 'proxy_pass') || _says($location, 'return');

    return "http {\n" . join("\n", @http)
           . "\nserver {\n" . join("\n", @server, $server)
           . "\nlocation = /v1/contacts {\n" . join("\n", @location)
           . "}\n}\n}\n";
}


# %%NAME%%: the test's own variables first, then those known here.

sub fill {
    my ($self, $text) = @_;

    my $vars = $self->{vars} || {};

    1 while $text =~ s/%%(\w+)%%/
        defined $vars->{$1} ? $vars->{$1} : $self->_value($1)/ge;

    # A busy machine must not look like a slow Redis: where a test says nothing
    # of the timers, they are longer than their defaults.

    $text =~ s/(\bconvotic_(?:cache_)?redis\s+(?:redis:|unix:)[^;\n]*)(?=;)/
        _patient($1)/ge;

    return $text;
}


sub _patient {
    my ($line) = @_;

    for my $timer (qw(connect_timeout timeout)) {
        $line .= " $timer=" . PATIENCE . 'ms' if $line !~ /\s$timer=/;
    }

    return $line;
}


sub _value {
    my ($self, $name) = @_;

    return $self->_port($name) if $name =~ /^(?:SSL_)?PORT(?:_\w+)?\z/;
    return $self->{dir} if $name eq 'DIR';
    return _url($self->{redis}) if $name eq 'REDIS';
    return _url($self->{cache_redis}) if $name eq 'CACHE_REDIS';
    return $self->{redis}->socket if $name eq 'REDIS_SOCKET';
    return $self->_upstream_addr if $name eq 'UPSTREAM';
    return $self->_certificate . '.crt' if $name eq 'CERT';
    return $self->_certificate . '.key' if $name eq 'CERT_KEY';
    return $self->_listen_ssl if $name eq 'LISTEN_SSL';

    die "%%$name%% in the configuration has no value\n";
}


sub _port {
    my ($self, $name) = @_;

    return $self->{ports}{$name} ||= free_port();
}


sub _url {
    my ($redis) = @_;

    die "no Redis was given\n" unless defined $redis;

    return ref $redis ? $redis->url : $redis;
}


# A service that was not given refuses connections.

sub _upstream_addr {
    my ($self) = @_;

    return "127.0.0.1:" . $self->_port('PORT_closed') unless $self->{upstream};

    return ref $self->{upstream} ? $self->{upstream}->addr : $self->{upstream};
}


sub _listen_ssl {
    my ($self) = @_;

    my $listen = 'listen 127.0.0.1:%%SSL_PORT%% ssl';

    return ($self->has_http2_directive ? "$listen; http2 on;" : "$listen http2;")
           . ' ssl_certificate %%CERT%%; ssl_certificate_key %%CERT_KEY%%;';
}


sub has_http2_directive { return has_version('1.25.1') }


sub _certificate {
    my ($self) = @_;

    my $base = "$self->{base}/localhost";

    return $base if -f "$base.crt";

    my $out = `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 \\
        -nodes -days 30 -subj /CN=localhost \\
        -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \\
        -keyout $base.key -out $base.crt 2>&1`;
    die "openssl: $out\n" if $?;

    return $base;
}


# "nginx -t" of this configuration, or of another: {exit, out}.

sub test_config {
    my ($self, %arg) = @_;

    my $other = bless { %$self, %arg }, ref $self;
    my $file = "$self->{dir}/test.conf";
    my $text = $other->_text;

    $text =~ s{/error\.log }{/test.log };
    Convotic::HTTP::_spew($file, $text);

    local $ENV{ASAN_OPTIONS} = Convotic::Process::leaks_allowed();
    my $out = `@{[ binary() ]} -t -e stderr -p $self->{dir}/ -c $file 2>&1`;

    return { exit => $? >> 8, signal => $? & 127, out => $out };
}


# Running.

sub start {
    my ($self) = @_;

    die "$self->{name} already runs\n"
        if $self->{process} && $self->{process}->alive;

    unlink "$self->{dir}/nginx.pid";
    $self->{started} = 1;
    $self->{process} = Convotic::Process->spawn(
        name   => $self->{name},
        argv   => [ binary(), '-p', "$self->{dir}/", '-c', $self->{conf_file},
                    '-e', "$self->{dir}/error.log" ],
        stdout => "$self->{dir}/stdout",
        stderr => "$self->{dir}/stderr",
        env    => $self->{env},
    );

    $self->_adopt_daemon if $self->{daemon};

    die "$self->{name} did not start:\n" . $self->_output
        unless $self->_wait(START_TIMEOUT, sub {
            die "$self->{name} ended at its start:\n" . $self->_output
                unless $self->{process}->alive;
            $self->workers == $self->_worker_count && $self->_accepts;
        });

    return $self;
}


# The pid file may be there before the daemon leads a group of its own.

sub _adopt_daemon {
    my ($self) = @_;

    my $status = $self->{process}->wait(START_TIMEOUT);
    my $pid;

    $self->_wait(5, sub {
        my $named = $self->pid_of_file or return 0;
        ($pid) = map { $_->{pid} }
            grep { $_->{pid} == $named && $_->{pgrp} == $named }
            Convotic::Process::living();
    }) if defined $status && $status == 0;
    $self->{process}->kill;

    die "$self->{name} did not start:\n" . $self->_output unless $pid;

    $self->{process} = Convotic::Process->adopt(name => $self->{name},
                                                pid => $pid);

    return;
}


sub pid_of_file {
    my ($self, $suffix) = @_;

    my $text = Convotic::HTTP::_slurp("$self->{dir}/nginx.pid"
                                      . ($suffix || ''));

    return $text =~ /^(\d+)\n/ ? $1 : undef;
}


sub _worker_count {
    my ($self) = @_;

    return $1 if $self->{conf_text} =~ /(?:^|;)\s*worker_processes\s+(\d+)/m;
    return 1;
}


sub _accepts {
    my ($self) = @_;

    my $text = $self->{conf_text} =~ s/#.*//gr;

    for my $addr ($text =~ /\blisten\s+([^\s;]+)/g) {
        my $socket =
            $addr =~ /^unix:(.+)/ ? IO::Socket::UNIX->new(Peer => $1) :
            $addr =~ /^(?:\*:|127\.0\.0\.1:)?(\d+)\z/
                ? IO::Socket::INET->new(PeerAddr => '127.0.0.1',
                                        PeerPort => $1, Timeout => 2) : 1;
        return 0 unless $socket;
    }

    return 1;
}


sub _output {
    my ($self) = @_;

    return join '', $self->stderr, $self->error_log;
}


sub _wait {
    my ($self, $seconds, $cond) = @_;

    my $end = time() + $seconds * $Convotic::Process::FACTOR;

    while (1) {
        my $value = $cond->();
        return $value if $value;
        return 0 if time() > $end;
        sleep 0.01;
    }
}


# Workers that take connections, of the newest generation.

sub workers {
    my ($self) = @_;

    return $self->_titled(qr/^nginx: worker process\z/);
}


sub old_workers {
    my ($self) = @_;

    return $self->_titled(qr/^nginx: worker process is shutting down/);
}


sub process_count { return scalar $_[0]{process}->members }


sub _titled {
    my ($self, $title) = @_;

    my @pids = sort { $a <=> $b }
        grep { $self->_title($_) =~ $title }
        map { $_->{pid} } $self->{process}->members;

    return @pids;
}


# Under valgrind the command line stays valgrind's, and the log says what a
# process is.

sub _title {
    my ($self, $pid) = @_;

    return Convotic::Process::title($pid) unless $ENV{TEST_VALGRIND};

    my $log = $self->error_log;

    return '' if $log !~ /start worker process $pid$/m;
    return 'nginx: worker process'
           . ($log =~ / $pid#\d+: gracefully shutting down/ ? ' is shutting down' : '');
}


# HUP; true once a new generation has replaced the old one.  With conf => and
# the like the configuration is changed first; gone => 1 waits until the old
# workers have left, too.

sub reload {
    my ($self, %arg) = @_;

    my $gone = delete $arg{gone};
    $self->write_conf(%arg) if %arg;

    my %old = map { $_ => 1 } $self->workers;
    my $at = length $self->error_log;

    $self->signal('HUP');

    my $failed;
    my $up = $self->_wait(START_TIMEOUT, sub {
        $failed = substr($self->error_log, $at) =~ /\[emerg\]/;
        my @now = $self->workers;
        $failed || @now == $self->_worker_count && !grep { $old{$_} } @now;
    });

    return 0 if $failed || !$up;
    return !$gone || $self->_wait(START_TIMEOUT, sub { !$self->old_workers });
}


# A new binary: USR2, then QUIT to the old master.  Needs daemon => 1.

sub upgrade {
    my ($self) = @_;

    my $old = $self->pid_of_file;

    kill 'USR2', $old;

    return 0 unless $self->_wait(START_TIMEOUT, sub {
        ($self->pid_of_file || $old) != $old && $self->pid_of_file('.oldbin')
            && $self->workers >= 2 * $self->_worker_count;
    });

    kill 'QUIT', $old;

    return $self->_wait(START_TIMEOUT, sub {
        !grep { $_->{pid} == $old } Convotic::Process::living();
    });
}


sub stop {
    my ($self, $signal) = @_;

    my $process = $self->{process} or return 1;

    if ($self->{daemon} && $process->members) {
        $self->signal($signal || 'QUIT');
        $process->wait(8);
    }

    return $process->stop($signal || 'QUIT', 8);
}


sub kill_all    { return $_[0]{process}->kill }
sub signal      { return kill $_[1], $_[0]->pid }
sub kill_worker { return kill $_[2] || 'KILL', $_[1] }


# Logs.

sub error_log  { return Convotic::HTTP::_slurp("$_[0]{dir}/error.log") }
sub stderr     { return Convotic::HTTP::_slurp("$_[0]{dir}/stderr") }


sub access_log {
    my ($self, $name) = @_;

    return Convotic::HTTP::_slurp("$self->{dir}/" . ($name || 'access.log'));
}


sub log_lines {
    my ($self, $pattern) = @_;

    return grep { $_ =~ $pattern } split /\n/, $self->error_log;
}


sub wait_log {
    my ($self, $pattern, $seconds) = @_;

    return $self->_wait(defined $seconds ? $seconds : 5,
                        sub { $self->log_lines($pattern) });
}


# Lines that no test may leave behind, less those that this one allows.

sub alerts {
    my ($self, @allowed) = @_;

    my @lines = grep { $_ =~ $ALERT }
        split /\n/, $self->error_log . $self->stderr;

    for my $allowed (@allowed) {
        @lines = grep { $_ !~ $allowed } @lines;
    }

    return @lines;
}


sub sanitizer_reports {
    my ($self) = @_;

    return grep { $_ =~ $SANITIZER }
        split /\n/, $self->error_log . $self->stderr;
}


# The client's side.

sub http {
    my ($self) = @_;

    return $self->{http_client} ||= Convotic::HTTP->new(
        port => $self->port, tls_port => $self->ssl_port, dir => $self->{dir},
    );
}


sub get        { my $self = shift; return $self->http->get(@_) }
sub head       { my $self = shift; return $self->http->head(@_) }
sub h2         { my $self = shift; return $self->http->h2(@_) }
sub raw        { my $self = shift; return $self->http->raw(@_) }
sub connect    { my $self = shift; return $self->http->connect(@_) }
sub h2_many    { my $self = shift; return $self->http->h2_many(@_) }
sub load       { my $self = shift; return $self->http->load(@_) }
sub concurrent { my $self = shift; return $self->http->concurrent(@_) }


# GET /v1/contacts with the query, and the gateway's own key unless a header
# gives another.

sub contacts {
    my ($self, $query, @rest) = @_;

    my $opt = ref $rest[0] eq 'HASH' ? shift @rest : {};
    my $path = '/v1/contacts' . (defined $query && length $query ? "?$query" : '');

    push @rest, 'X-API-Key' => $self->{key}
        unless grep { lc eq 'x-api-key' } Convotic::HTTP::_names(@rest);

    return $self->get($path, $opt, @rest);
}


1;

__END__

=head1 NAME

Convotic::Nginx - an nginx with the module, for one test

=head1 SYNOPSIS

    my $nginx = $t->nginx(redis => $redis, upstream => $up,
                          location => 'convotic_cache_valid 1s;');
    my $res = $nginx->get('/v1/contacts', 'X-API-Key' => $key);

    my $nginx = $t->nginx(redis => $redis, conf => <<'EOC');
    http {
        convotic_redis %%REDIS%%;
        server {
            listen 127.0.0.1:%%PORT%%;
            %%LISTEN_SSL%%
            location / { return 204; }
        }
    }
    EOC

=head1 DESCRIPTION

=head2 Configuration

Without C<conf> the usual gateway is made: one server, errors in the documented
shape, C<location = /v1/contacts> with C<convotic on> and C<proxy_pass
http://contacts>.  C<main>, C<events>, C<http>, C<server> and C<location> are
texts added at their level; a default is left out where they say the same
directive (C<proxy_pass>, C<convotic>, C<convotic_errors>, C<convotic_redis>,
C<upstream contacts>).  C<< ssl => 1 >> adds a port with TLS and HTTP/2.  C<<
convotic => 0 >> neither loads nor uses the module.

In either form C<load_module>, C<daemon>, C<worker_processes> (C<workers>, 1),
C<error_log> (C<log_level>, info), C<pid>, C<events> and the temporary paths are
added where the text does not have them.

Placeholders: C<%%PORT%%> and any C<%%PORT_name%%>, C<%%SSL_PORT%%>,
C<%%LISTEN_SSL%%> (with HTTP/2 and the certificate), C<%%CERT%%>,
C<%%CERT_KEY%%>, C<%%DIR%%>, C<%%REDIS%%>, C<%%CACHE_REDIS%%>,
C<%%REDIS_SOCKET%%>, C<%%UPSTREAM%%> (an address that refuses if none was
given), and what C<< vars => {...} >> gives.

C<TEST_NGINX_BINARY> is the nginx to run, C<TEST_NGINX_MODULE> the module's file
(empty: built in), C<TEST_NGINX_DEBUG=1> logs at debug level.

=head2 Methods

=over

=item start

Returns when all workers are up and every port accepts; dies with the log if
that does not happen.

=item reload(option => text, ...)

Changes the configuration if options are given, sends HUP; true when the new
workers have taken over.  C<< gone => 1 >> waits for the old ones' end.

=item upgrade

Replaces the binary under load (USR2, QUIT); needs C<< daemon => 1 >>.

=item stop($signal), kill_all, signal($name), kill_worker($pid, $signal)

C<stop> is QUIT; false if something had to be killed.

=item test_config(option => text, ...)

C<nginx -t>: a hash of C<exit>, C<signal> and C<out>.

=item pid, workers, old_workers, process_count

Workers that accept, those that are shutting down, all processes.

=item error_log, access_log, log_lines(qr/../), wait_log(qr/../, $seconds)

=item get, head, h2, h2_many, raw, connect, concurrent, load

See L<Convotic::HTTP>.

=item contacts($query, {options}, headers...)

GET of the endpoint, with the default key of C<< $t->gateway >> unless the
headers have C<X-API-Key>.

=item port($name), ssl_port, dir, conf_text, key, redis, cache_redis, upstream

=item Convotic::Nginx::version(), Convotic::Nginx::has_version('1.25.1')

=back

=cut
