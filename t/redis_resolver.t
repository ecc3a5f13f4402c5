#!/usr/bin/perl

# A Redis server that moves: its name is resolved when nginx starts and, with
# "resolver", asked for again once the address has failed.  A resolver that
# fails keeps nobody waiting, and is asked again.  Of the addresses that a name
# has when nginx starts, all are tried before the server is away.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Port qw(free_port);
use Convotic::Process;
use Convotic::Test;

use IO::Socket::INET;
use Time::HiRes qw(sleep);

use constant {
    BACK  => 15,                # seconds until it is well again, at most
    RETRY => 1.1,               # seconds until the next attempt, at most
};

my $MS = 500 * $Convotic::Process::FACTOR;

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my $redis = $t->redis('keys', 'bind 127.0.0.1 127.0.0.2 127.0.0.3');
my $port = $redis->port;
my $key = test_key('acme');
my $body = contacts_body(workspace => 'acme', limit => 2);

$redis->init;
$redis->add_key($key, workspace => 'acme');


# A name server that tells what the file says: addresses, or how it fails.

my $dns_port = free_port();
my $zone = $t->write_file('zone', '127.0.0.1');
my $queries = $t->dir . '/queries';

sub names_say { $t->write_file('zone', $_[0]); return }
sub asked { return -s $queries || 0 }

sub slurp {
    my ($file) = @_;

    open my $fh, '<', $file or return '';
    local $/;
    my $text = <$fh>;

    return defined $text ? $text : '';
}

sub serve_names {
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'udp',
                                       LocalPort => $dns_port)
        or die "name server: $!\n";

    while ($socket->recv(my $query, 512)) {
        my $text = slurp($zone);

        open my $log, '>>', $queries or die "$queries: $!\n";
        print {$log} '.';
        close $log;

        sleep 0.02 while ($text = slurp($zone)) eq 'wait';
        next if $text eq 'silent';
        $socket->send($text eq 'noise' ? "\xff" x 40 : answer($query, $text));
    }

    return;
}

sub answer {
    my ($query, $text) = @_;

    my ($id) = unpack 'n', $query;
    my $question = substr $query, 12;
    my $end = index($question, "\0") + 5;
    my $type = unpack 'n', substr $question, $end - 4, 2;
    my %code = (nxdomain => 3);
    my @addresses = $type == 1 ? $text =~ /(\d+(?:\.\d+){3})/g : ();

    return pack('n6', $id, 0x8180 | ($code{$text} || 0), 1, scalar @addresses, 0, 0)
           . substr($question, 0, $end)
           . join '', map { pack 'n3 N n C4', 0xc00c, 1, 1, 1, 4, split /\./ }
                      @addresses;
}

Convotic::Process->spawn(name => 'name server', code => \&serve_names,
                         stderr => $t->dir . '/names.stderr');


sub gateway {
    return $t->nginx(
        redis => $redis, upstream => $up, key => $key, http =>
        "resolver 127.0.0.1:$dns_port valid=1s ipv6=off; resolver_timeout 300ms;"
        . "convotic_redis redis://localhost:$port/0 connect_timeout=${MS}ms"
        . " timeout=${MS}ms;");
}


# From now on it is there and nowhere else.

sub move_to {
    my ($address) = @_;

    $redis->cmd('CONFIG', 'SET', 'bind', $address);

    for my $client (split /\n/, $redis->cmd('CLIENT', 'LIST')) {
        $redis->cmd('CLIENT', 'KILL', 'ID', $1)
            if $client =~ /^id=(\d+) .* name=ngx_convotic/;
    }

    return;
}


sub well_ok {
    my ($nginx, $name) = @_;

    my $res;

    wait_until(sub { $res = $nginx->contacts('limit=2');
                     $res->status == 200 }, BACK);

    return success_is($res, $body, $name);
}


sub where_is {
    my ($clients) = join "\n", grep { /name=ngx_convotic/ }
        split /\n/, $redis->cmd('CLIENT', 'LIST');

    return $clients =~ /laddr=([\d.]+):/ ? $1 : 'nowhere';
}


my $nginx = gateway();

well_ok($nginx, 'at the address of the configuration');
is(where_is(), '127.0.0.1', 'which is that of localhost');

# localhost may have an IPv6 address too, which fails at the start

my $asked = asked();
$nginx->contacts("limit=$_") for 2 .. 4;
is(asked(), $asked, 'the resolver is not asked while all is well');

names_say('127.0.0.2');
move_to('127.0.0.2');
well_ok($nginx, 'moved, and found by its name');
is(where_is(), '127.0.0.2', 'at its new address');
cmp_ok(asked(), '>', $asked, 'of the resolver');


# The resolver fails, and tells in the end.
# Never back at the address of the configuration, which is tried unasked.

my @homes = ('127.0.0.3', '127.0.0.2');

for my $fault (qw(nxdomain silent noise)) {
    my $home = $homes[0];
    @homes = reverse @homes;

    names_say($fault);
    move_to($home);

    ok(wait_until(sub { $nginx->contacts('limit=2')->status == 503 }, BACK),
       "$fault: it is away");

    my $asked = asked();

    ok(wait_until(sub { asked() > $asked }, BACK), "$fault: asked again");
    error_is($nginx->contacts('limit=2'), 503, 'INTERNAL_ERROR', undef,
             "$fault: 503 meanwhile");
    names_say($home);
    well_ok($nginx, "$fault: then well again");
    is(where_is(), $home, "$fault: at its new address");
}

ok($nginx->wait_log(qr/could not be resolved|localhost": /),
   'the log says why');


# Two addresses, of which one is right.

names_say('127.0.0.9 ' . $homes[0]);
move_to($homes[0]);
well_ok($nginx, 'two addresses: the right one is found');


# Reloads and the end do not wait for the name.

names_say('silent');
move_to($homes[1]);
wait_until(sub { $nginx->contacts('limit=2')->status == 503 }, BACK);
ok($nginx->reload(gone => 1), 'a reload while the name is asked for');

$asked = asked();

$nginx->contacts('limit=2');
wait_until(sub { asked() > $asked }, BACK);
ok($nginx->stop, 'an end while the name is asked for');


# A worker that has been told to leave, and has a request still, uses what the
# resolver tells it for that request only: who tracks is to be one that stays.

names_say($homes[0]);
move_to($homes[0]);
$nginx = $t->nginx(
    redis => $redis, upstream => $up, key => $key,
    server => 'location = /held { proxy_pass http://contacts; }', http =>
    "resolver 127.0.0.1:$dns_port valid=1s ipv6=off; resolver_timeout 20s;"
    . "convotic_redis redis://localhost:$port/0 connect_timeout=${MS}ms"
    . " timeout=${MS}ms;");
well_ok($nginx, 'a worker that leaves: before');

{
    my ($old) = $nginx->workers;
    my $held = $nginx->connect;
    my $clients = sub {
        return grep { / name=ngx_convotic-$old/ }
            split /\n/, $redis->cmd('CLIENT', 'LIST');
    };

    $up->set(hold => 1);
    $held->write(Convotic::HTTP::request_text('/held', {}));
    names_say('wait');
    $asked = asked();
    move_to($homes[1]);
    wait_until(sub { $nginx->contacts('limit=2')->status == 503 }, BACK);
    ok(wait_until(sub { asked() > $asked }, BACK),
       'a worker that leaves: the name is asked for');
    sleep RETRY;
    ok($nginx->reload, 'a worker that leaves: a reload');
    names_say($homes[1]);
    ok(wait_until(sub { $clients->() }, BACK),
       'a worker that leaves: it connects');
    sleep 0.2;
    is_deeply([ grep { /-tracking / } $clients->() ], [],
              'a worker that leaves: not to track');
    $up->set(hold => 0);
    $up->release;
    is($held->read->status, 200,
       'a worker that leaves: its request is answered');
    ok(wait_until(sub { !$nginx->old_workers }, BACK),
       'a worker that leaves: it is gone');
    well_ok($nginx, 'a worker that leaves: its successor');
    $nginx->stop;
}


# Addresses of the configuration, of which the first ones are dead.  This libc
# knows one name.

SKIP: {
    my $shim = $t->write_file('shim.c', <<'C');
#include <arpa/inet.h>
#include <netdb.h>
#include <string.h>

static const char *addresses[] = { "127.0.0.8", "127.0.0.9", "127.0.0.2" };
static struct sockaddr_in sockaddrs[3];
static struct addrinfo infos[3];

int
getaddrinfo(const char *name, const char *service,
    const struct addrinfo *hints, struct addrinfo **res)
{
    int  i;

    (void) service;
    (void) hints;

    if (name == NULL || strcmp(name, "several.test") != 0) {
        return EAI_NONAME;
    }

    for (i = 0; i < 3; i++) {
        sockaddrs[i].sin_family = AF_INET;
        inet_pton(AF_INET, addresses[i], &sockaddrs[i].sin_addr);

        infos[i].ai_family = AF_INET;
        infos[i].ai_socktype = SOCK_STREAM;
        infos[i].ai_addr = (struct sockaddr *) &sockaddrs[i];
        infos[i].ai_addrlen = sizeof(sockaddrs[i]);
        infos[i].ai_next = (i < 2) ? &infos[i + 1] : NULL;
    }

    *res = infos;

    return 0;
}

void
freeaddrinfo(struct addrinfo *res)
{
    (void) res;
}
C
    my $so = $t->dir . '/shim.so';
    my $built = eval {
        $t->run([ split(' ', $ENV{CC} || 'cc'), '-shared', '-fPIC',
                  '-o', $so, $shim ]);
    };

    skip 'no C compiler', 9 unless $built && $built->{exit} == 0;

    my %several = (
        redis => $redis, upstream => $up, key => $key, workers => 1,
        env => { LD_PRELOAD => $so,
                 ASAN_OPTIONS => Convotic::Process::leaks_allowed()
                                 . ':verify_asan_link_order=0' },
        http => "convotic_redis redis://several.test:$port/0"
              . " connect_timeout=${MS}ms timeout=${MS}ms;");

    move_to('127.0.0.2');
    $nginx = $t->nginx(%several);
    success_is($nginx->contacts('limit=2'), $body,
               'two dead addresses: the first request is served');
    is(where_is(), '127.0.0.2', 'by the third');
    is_deeply([ $nginx->log_lines(qr/\[(?:warn|error|crit)\]/) ], [],
              'nothing has failed');
    cmp_ok(scalar($nginx->log_lines(qr/\[info\].*trying another/)), '>=', 2,
           'the log has the dead ones');
    $nginx->stop;

    move_to('127.0.0.3');
    $nginx = $t->nginx(%several);
    error_is($nginx->contacts('limit=2'), 503, 'INTERNAL_ERROR', undef,
             'three dead addresses: it is away');
    is(scalar($nginx->log_lines(qr/\[error\].*Redis is away: cannot connect/)),
       1, 'which is said once');
    move_to('127.0.0.2');
    well_ok($nginx, 'one is back: well again');
    is(where_is(), '127.0.0.2', 'there');
    ok($nginx->stop, 'the end');
}

$t->finish;
