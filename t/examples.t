#!/usr/bin/perl

# The configurations in docs/examples/ and in README.md, with other addresses,
# names of files and patience, and all else as it stands there: nginx and Redis
# take them, the users of the ACL files can do their work, and together they are
# a gateway.  What systemd is to take from nginx, nginx does not need.  Whether
# the gateway's users may do no more than they have to is in redis_acl.t.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use IO::Socket::INET;
use IO::Socket::SSL;

use Convotic::Response;
use Convotic::Test;

use constant {
    BACK        => 10,          # seconds until something is seen, at most
    UNCONFIRMED => 3,           # convoticctl: done, but no replica has it yet
};

my $EXAMPLES = "$FindBin::Bin/../docs/examples";
my $NAME = 'api.example.com';

my $t = Convotic::Test->new(rates => 1);
my $up = $t->upstream;


sub slurp {
    my ($file) = @_;

    open my $fh, '<', $file or die "$file: $!\n";
    local $/;

    return scalar <$fh>;
}


# A replacement may be made of what was in parentheses.  What was not there to
# be changed is no longer in the example.

sub changed {
    my ($text, @changes) = @_;

    while (my ($from, $to) = splice @changes, 0, 2) {
        $text =~ s/$from/ref $to ? $to->($1) : $to/ge
            or die "nothing like $from\n";
    }

    return $text;
}


# As many open files as this machine lets anybody have.

sub allowed {
    my ($wanted) = @_;

    my ($most) = `sh -c 'ulimit -Hn'` =~ /^(\d+)$/;

    return !defined $most || $wanted < $most ? $wanted : $most;
}


# Redis: the files, with addresses and directories of this test, and for Redis
# 6.2 with what their heading says.  What the file has for a replica alone stands
# in comments.

my %password = map { $_ => "CHANGE-ME-$_" }
    qw(gateway backend replica admin);

sub example_redis {
    my ($name, $file, @more) = @_;

    my $acl = ($file =~ s/^redis-//r) . '.acl';
    my $users = $t->write_file("$name.acl",
                    Convotic::Redis::acl_rules(slurp("$EXAMPLES/$acl")));

    my $text = changed(slurp("$EXAMPLES/$file.conf"),
        qr/^bind .*/m => '', qr/^port .*/m => '', qr/^dir .*/m => '',
        qr{^aclfile +/etc/redis/\Q$acl\E$}m => "aclfile $users");

    my $redis = $t->redis($name, $text, @more);
    $redis->cmd('AUTH', 'admin', $password{admin});

    return $redis;
}


sub url_of {
    my ($redis, $user) = @_;

    return $redis->url(user => $user, password => $password{$user});
}


my %aside = slurp("$EXAMPLES/redis-keys.conf") =~ /^#     ([\w-]+) +(.*)$/mg;
my @careful = map { "$_ $aside{$_}" } grep { /^min-replicas/ } sort keys %aside;

is(scalar @careful, 2, 'redis-keys.conf: two lines for both');

my $keys = example_redis('keys', 'redis-keys', @careful);
my $bodies = example_redis('bodies', 'redis-bodies');
my $replica = example_redis('replica', 'redis-keys', @careful,
    "replicaof 127.0.0.1 " . $keys->port,
    map { "$_ " . ($aside{$_} =~ s/the-password-of-replica/$password{replica}/r) }
        qw(masteruser masterauth));

ok($replica->wait_replica(BACK), 'redis-keys.conf: a replica follows');
ok(wait_until(sub { $keys->info('min_slaves_good_slaves') }, BACK),
   'redis-keys.conf: and counts');
is($keys->info('maxmemory_policy'), 'noeviction', 'redis-keys.conf: is read');
is($bodies->info('maxmemory_policy'), 'allkeys-lru', 'redis-bodies.conf: is read');

for my $server ($keys, $bodies) {
    is($server->connect->cmd('PING') . '', 'NOAUTH Authentication required.',
       $server->name . ': nobody comes in without a name');
}


# convoticctl, for each as its user.

sub ctl {
    my ($user, @args) = @_;

    return $t->ctl(@args, '--redis', url_of($keys, $user));
}


# On a busy machine the replica may have a write only after convoticctl has
# ceased to wait for it, and said so.

sub done_ok {
    my ($result, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return ok($result->{exit} == 0 || $result->{exit} == UNCONFIRMED, $name)
           || diag(@$result{qw(exit out err)});
}

done_ok(ctl('admin', 'init'), 'admin: marks the store');

my $created = ctl('backend', qw(key create --workspace acme --name), 'A key');
my ($key) = $created->{out} =~ /\b(cvtk_live_\w+)/;

done_ok($created, 'backend: creates a key');

my $doctor = $t->ctl('doctor', '--redis', url_of($keys, 'gateway'),
                     '--cache-redis', url_of($bodies, 'gateway'));

is($doctor->{exit}, 0, 'gateway: has all that it needs')
    or diag(@$doctor{qw(out err)});

$doctor = $t->ctl('doctor', '--redis', url_of($keys, 'admin'),
                  '--cache-redis', url_of($bodies, 'admin'));

is($doctor->{exit}, 0, 'the two servers: nothing is wrong with them')
    or diag(@$doctor{qw(out err)});


# nginx: the files, with addresses, names and certificates of this test.

$t->write_file("$_.password", "$password{gateway}\n") for qw(keys bodies);

my @OF_THIS_TEST = (
    qr/^load_module .*/m       => '',
    qr/^(worker_processes +)auto/m => sub { "${1}2" },
    qr{/run/nginx\.pid}        => '%%DIR%%/nginx.pid',
    qr{/var/log/nginx}         => '%%DIR%%',
    qr/\@10\.0\.1\.10:6379/    => '@' . $keys->addr,
    qr/\@10\.0\.1\.11:6379/    => '@' . $bodies->addr,
    qr{/etc/nginx/convotic}    => $t->dir,
    qr/10\.0\.0\.\d:8080/      => $up->addr,
    qr/^( +listen +)443 /m     => sub { "${1}127.0.0.1:%%SSL_PORT%% " },
    qr{/etc/ssl/certs/\S+\.pem}   => '%%CERT%%',
    qr{/etc/ssl/private/\S+\.key} => '%%CERT_KEY%%',
);

# A busy machine must not look like a slow Redis.

my $conf = changed(slurp("$EXAMPLES/nginx.conf"), @OF_THIS_TEST,
    qr/connect_timeout=100ms +timeout=50ms/ => 'connect_timeout=9s timeout=9s',
    qr/127\.0\.0\.1:8081/ => '127.0.0.1:%%PORT_inner%%',
    qr/^(worker_rlimit_nofile +\d+)/m => sub { $1 =~ s/(\d+)$/allowed($1)/er });

my ($readme) = slurp("$FindBin::Bin/../README.md")
    =~ /^## A production configuration\n.*?^```nginx\n(.*?)^```$/ms;

unlike($conf =~ s/^\s*#.*$//mgr, qr{/(?:etc|var|run)/|\b10\.\d+\.},
       'nginx.conf: nothing of another machine is left');

# Only root may raise what its workers may open.

$t->allow_log(qr/setrlimit\(RLIMIT_NOFILE/) if $> != 0;

for my $case ([ 'nginx.conf', $conf ],
              [ 'README.md', changed($readme || '', @OF_THIS_TEST) ])
{
    my ($name, $text) = @$case;
    my $tested = $t->nginx(conf => $text, start => 0, name => "tested-$name")
                   ->test_config;
    my @said = grep { !/syntax is ok|test is successful/ }
               grep { !/"listen \.\.\. http2" directive is deprecated/ }
               grep { !/"user" directive makes sense only/ }
               split /\n/, $tested->{out};

    is($tested->{exit}, 0, "$name: nginx takes it");
    is_deeply(\@said, [], "$name: and says nothing");
}


# By the server's name, as clients do.

sub ask {
    my ($nginx, $path, @headers) = @_;

    my $port = $nginx->ssl_port;
    my $res = $t->run([ qw(curl -k -sS -i --raw --http1.1),
        '--resolve', "$NAME:$port:127.0.0.1",
        (map { (-H => $_) } @headers), "https://$NAME:$port$path" ]);

    return Convotic::Response->parse(\$res->{out}, eof => 1)
           || die "no response: $res->{err}\n";
}


sub asks_well {
    my ($nginx, $name) = @_;

    my $res = ask($nginx, '/v1/contacts?limit=5', "X-API-Key: $key");

    return success_is($res, contacts_body(workspace => 'acme', limit => 5), $name);
}


my $nginx = $t->nginx(conf => $conf);

ok(wait_until(sub {
       ask($nginx, '/v1/contacts', "X-API-Key: $key")->status == 200 }, BACK),
   'a good key opens its workspace');
asks_well($nginx, 'the contacts');
ok(wait_until(sub { my @names = $bodies->names('convotic:body:*'); @names == 2 },
              BACK), 'the bodies are kept where they belong');

$up->reset;
asks_well($nginx, 'and served from there');
is($up->count, 0, 'without the contacts service');
is(ask($nginx, '/v1/contacts', "X-API-Key: $key")->header('X-RateLimit-Limit'), 1000,
   'within a rate');
like($keys->cmd('GET', $keys->rate_name($key)) || '', qr/\A\d+ \d+ [1-9]/,
     'which is leased from Redis');

error_is(ask($nginx, '/v1/contacts'), 401, 'UNAUTHORIZED',
         'Missing X-API-Key header', 'no key');
error_is(ask($nginx, '/v1/contacts', 'X-API-Key: ' . test_key('none')), 401,
         'UNAUTHORIZED', 'Invalid API key', 'an unknown one');
error_is(ask($nginx, '/'), 404, 'NOT_FOUND', undef, 'another path');
like(ask($nginx, '/')->header('X-Request-Id') || '', qr/^[0-9a-f]{32}\z/,
     'a request has an id');

ok(!IO::Socket::SSL->new(PeerAddr => '127.0.0.1:' . $nginx->ssl_port,
                         SSL_verify_mode => 0, Timeout => BACK),
   'another name: no handshake');

my $inner = $nginx->port('inner');

is($nginx->get('/health', { port => $inner })->body, qq({"status":"up"}\n),
   'the inner server: /health');
is($nginx->get('/nginx', { port => $inner })->status, 200, '/nginx');
like($nginx->get('/metrics', { port => $inner })->body,
     qr/^convotic_requests_total\b/m, '/metrics');
error_is($nginx->get('/v1/contacts', { port => $inner }, 'X-API-Key' => $key),
         404, 'NOT_FOUND', undef, 'but not the contacts');


# One line of JSON a request, and no secret in it.

ask($nginx, "/v1/contacts?limit=7&key=$key", "X-API-Key: $key");

my @lines;

ok(wait_until(sub { @lines = split /\n/, $nginx->access_log('contacts.log');
                    grep { /"limit":"7"/ } @lines }, BACK), 'requests are logged');

my ($line) = grep { /"limit":"7"/ } @lines;
my $told = JSON::PP::decode_json($line);

is_deeply([ @$told{qw(status workspace limit error)} ], [ 200, 'acme', 7, '' ],
          'who asked for what');
is(scalar(grep { !eval { JSON::PP::decode_json($_) } } @lines), 0,
   'all of them as JSON');
is(index($nginx->access_log('contacts.log'), $key), -1, 'no key is in it');
is(index($nginx->error_log, $_), -1, 'nor in the error log, nor a password')
    for $key, values %password;


# What the backend does counts at once.

my $hash = sha256_hex($key);

done_ok(ctl('backend', qw(cache purge --workspace acme)), 'backend: purges');
$up->set(version => 2);
ok(wait_until(sub { ask($nginx, '/v1/contacts?limit=5', "X-API-Key: $key")->body
                    =~ /v2/ }, BACK), 'and it is seen');
done_ok(ctl('backend', qw(rate reset), $hash), 'backend: resets a rate');
done_ok(ctl('backend', qw(key revoke), $hash), 'backend: revokes');
ok(wait_until(sub { ask($nginx, '/v1/contacts', "X-API-Key: $key")
                    ->status == 401 }, BACK), 'and it is seen');

$created = ctl('backend', qw(key create --workspace acme --name), 'Another key');
($key) = $created->{out} =~ /\b(cvtk_live_\w+)/;
$up->set(version => 1);
done_ok(ctl('backend', qw(cache purge --workspace acme)), 'and purges');

ok(wait_until(sub { ask($nginx, '/v1/contacts', "X-API-Key: $key")
                    ->status == 200 }, BACK), 'another key');
$nginx->stop;


# The lines for both servers: without its replica the master takes no write.

$replica->stop;
ok(wait_until(sub { $keys->info('connected_slaves') == 0 }, BACK),
   'the replica is gone');

my $refused = ctl('backend', qw(key create --workspace acme --name), 'None');

isnt($refused->{exit}, 0, 'min-replicas-to-write: a key cannot be made');
like("$refused->{out}$refused->{err}", qr/NOREPLICAS/, 'and it is said why');
$keys->cmd('CONFIG', 'SET', 'min-replicas-to-write', 0);


# nginx-hardening.conf, by systemd.

my $hardening = slurp("$EXAMPLES/nginx-hardening.conf");
my ($unit) = grep { -f } map { "$_/nginx.service" }
    qw(/lib/systemd/system /usr/lib/systemd/system);

SKIP: {
    skip 'no systemd-analyze, or no nginx.service', 3
        unless $unit && grep { -x "$_/systemd-analyze" } split /:/, $ENV{PATH};

    mkdir $t->dir . "/units$_" for '', '/nginx.service.d';
    my $copy = $t->write_file('units/nginx.service', slurp($unit));
    $t->write_file('units/nginx.service.d/hardening.conf', $hardening);

    my %env = (SYSTEMD_UNIT_PATH => $t->dir . '/units:');
    my $verified = $t->run([ qw(systemd-analyze verify --man=no), $copy ],
                           env => \%env);

    is(join('', @$verified{qw(out err)}) =~ s/^(?!.*hardening\.conf).*\n//mgr, '',
       'nginx-hardening.conf: systemd knows all of it');

    my $security = $t->run([ qw(systemd-analyze security --no-pager --offline=yes),
                             $copy ], env => \%env);

    skip 'this systemd-analyze has no "--offline"', 2
        if $security->{err} =~ /unrecognized option/;

    my ($exposure) = $security->{out} =~ /exposure level .*: ([\d.]+)/;
    cmp_ok($exposure, '<', 4, 'nginx-hardening.conf: an exposure of less than 4')
        or diag($security->{out});
    is($security->{exit}, 0, 'nginx-hardening.conf: systemd is content');
}


# By nginx: with these capabilities and no others it does all that a master
# does, with a port below 1024 and logs that belong to the workers' user.

sub low_port {
    for my $port (reverse 600 .. 1023) {
        return $port if IO::Socket::INET->new(LocalAddr => '127.0.0.1',
                                              LocalPort => $port, Listen => 1);
    }

    die "no free port below 1024\n";
}


SKIP: {
    my ($setpriv) = grep { -x } map { "$_/setpriv" } split /:/, $ENV{PATH};

    skip 'only root has capabilities to lose', 1 if $> != 0;
    skip 'no setpriv', 1 unless $setpriv;
    skip 'no user www-data', 1 unless defined getpwnam 'www-data';

    my $kept = join ',', map { "+$_" } map { lc s/^CAP_//r } map { split }
        $hardening =~ /^CapabilityBoundingSet=(.*)$/mg;
    my $files = allowed($hardening =~ /^LimitNOFILE=(\d+)$/m);
    my $wrapper = $t->write_file('hardened.sh', <<"EOS");
#!/bin/sh
ulimit -c 0 && ulimit -n $files || exit 1
exec $setpriv --no-new-privs --bounding-set=-all,$kept @{[
    Convotic::Nginx::binary() ]} "\$@"
EOS
    chmod 0755, $wrapper;

    my $port = low_port();
    my $hardened = $t->nginx(
        conf => changed($conf, qr/%%PORT_inner%%/ => $port), daemon => 1,
        start => 0, name => 'hardened');
    my $log = $hardened->dir . '/contacts.log';
    my $owner = getpwnam 'www-data';

    close $_ for map { open my $fh, '>', $_ or die "$_: $!\n"; $fh }
        $log, $hardened->dir . '/error.log';
    chown $owner, 0, $log, $hardened->dir . '/error.log';
    chmod 0640, $log, $hardened->dir . '/error.log';

    {
        local $ENV{TEST_NGINX_BINARY} = $wrapper;
        $hardened->start;
    }

    my $well = sub {
        my ($name) = @_;

        asks_well($hardened, "$name: served");
        is($hardened->get('/health', { port => $port })->status, 200,
           "$name: on a port below 1024");
    };

    $well->('hardened');

    my %status = slurp('/proc/' . ($hardened->workers)[0] . '/status')
                 =~ /^(\w+):\s*(.*)$/mg;

    is($status{NoNewPrivs}, 1, 'hardened: a worker gets no new privileges');
    like($status{CapEff}, qr/^0+\z/, 'hardened: and has none');

    rename $log, "$log.1";
    $hardened->signal('USR1');
    ok(wait_until(sub { (stat $log)[4] // -1 == $owner }, BACK),
       'hardened: logs are opened anew');
    $well->('hardened, with new logs');
    ok(wait_until(sub { -s $log }, BACK), 'hardened: and written');

    ok($hardened->reload, 'hardened: a reload');
    $well->('hardened, reloaded');

    ok($hardened->upgrade, 'hardened: an upgrade');
    $well->('hardened, upgraded');

    is(scalar(() = $hardened->log_lines(qr/\[(?:alert|emerg|crit)\]/)), 0,
       'hardened: nothing was refused');

    $t->allow_log(qr/exited on signal 9/);
    kill 'STOP', ($hardened->workers)[0];
    is($hardened->stop('TERM'), 1, 'hardened: the end of a worker that hangs');
}

$t->finish;
