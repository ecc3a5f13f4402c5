#!/usr/bin/perl

# Memory comes to its end, for one allocation: the first of a request, the
# second, and so on until the request needs no more.  It is answered rightly, in
# the documented shape, or not at all; nobody is let in or told that his key is
# bad for it; the worker lives, and all is well with the next request.
#
# What fails is malloc() and its like in the worker.  nginx takes most memory
# from pools, so that few of the places are met; with TEST_NGINX_BINARY naming
# an nginx that was built with -DNGX_DEBUG_PALLOC=1, and without a sanitizer,
# it is each of them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(sleep time);

use constant {
    BACK    => 10,              # seconds until something has happened, at most
    MOST    => 1000,            # allocations of one request
    NONE    => 12,              # requests in a row in which none has failed
    SECONDS => 8,               # for each kind of request, at most
};

plan(skip_all => 'a sanitizer has an allocator of its own')
    if $ENV{ASAN_OPTIONS};

my $t = Convotic::Test->new(rates => 1);


# The allocator, and a page that it shares with the test: of how many
# allocations from now on the last one fails, and how many have failed.

$t->write_file('memory', "\0" x 4096);
chmod 0666, $t->dir . '/memory';
$t->write_file('memory.c', <<'EOC');
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

static volatile long  *page;

__attribute__((constructor)) static void
begin(void)
{
    int          fd;
    void        *p;
    const char  *name;

    name = getenv("TEST_MEMORY");
    fd = name ? open(name, O_RDWR) : -1;

    if (fd == -1) {
        return;
    }

    p = mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED, fd, 0);

    if (p != MAP_FAILED) {
        page = p;
    }
}

static int
fails(void)
{
    if (page == NULL || page[0] <= 0 || --page[0] > 0) {
        return 0;
    }

    page[1]++;
    errno = ENOMEM;

    return 1;
}

void *
malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}

void *
calloc(size_t n, size_t size)
{
    return fails() ? NULL : __libc_calloc(n, size);
}

void *
realloc(void *p, size_t size)
{
    return fails() ? NULL : __libc_realloc(p, size);
}

void *
memalign(size_t alignment, size_t size)
{
    return fails() ? NULL : __libc_memalign(alignment, size);
}

int
posix_memalign(void **p, size_t alignment, size_t size)
{
    void  *memory;

    memory = fails() ? NULL : __libc_memalign(alignment, size);

    if (memory == NULL) {
        return ENOMEM;
    }

    *p = memory;

    return 0;
}
EOC

my $shim = $t->dir . '/memory.so';
my $cc = $t->run([ 'cc', '-shared', '-fPIC', '-o', $shim,
                   $t->dir . '/memory.c' ]);

is($cc->{exit}, 0, 'an allocator that fails') or diag($cc->{err});

open my $page, '+<:raw', $t->dir . '/memory' or die "memory: $!\n";

sub fail_at {
    my ($n) = @_;

    sysseek $page, 0, 0;
    syswrite $page, pack 'q', $n;

    return;
}

sub failed {
    sysseek $page, 8, 0;
    sysread $page, my $bytes, 8;

    return unpack 'q', $bytes;
}


my $redis = $t->redis;
my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    return { status => $vars->{status}, body => $vars->{status} ? 'no'
             : contacts_body(workspace => $req->tenant, %{ $req->args }) };
});
my $nginx = $t->gateway(
    redis => $redis, upstream => $up,
    env => { LD_PRELOAD => $shim, TEST_MEMORY => $t->dir . '/memory' },
    http => <<'EOC',
    convotic_redis %%REDIS%% connect_timeout=1s timeout=1s;
    convotic_rate 1000000;
    convotic_forward_args n;
    convotic_cache_valid 1h;
    convotic_fill_timeout 2s;
EOC
    server => <<'EOC',
    location = /status { convotic_status json; }
    location = /prometheus { convotic_status prometheus; }
EOC
);

my $body = contacts_body(workspace => 'acme', limit => 50);
my $n = 0;
my @good = ('X-API-Key' => $nginx->key);


sub ask {
    my ($path, @headers) = @_;

    return eval { $nginx->get($path, { lax => 1, timeout => 5 }, @headers) };
}

sub cold { return '/v1/contacts?limit=50&n=' . ++$n }

# A kind of request, and the status that it has where nothing fails.

my %kind = (
    'a miss' => [ 200, sub { ask(cold(), @good) } ],
    'a miss, compressed' => [ 200, sub {
        ask(cold(), @good, 'Accept-Encoding' => 'gzip') } ],
    'a hit' => [ 200, sub { ask('/v1/contacts?limit=50', @good) } ],
    'a hit, compressed' => [ 200, sub {
        ask('/v1/contacts?limit=50', @good, 'Accept-Encoding' => 'gzip') } ],
    'ranges' => [ 206, sub {
        ask('/v1/contacts?limit=50', @good, Range => 'bytes=0-9,20-29') } ],
    'an unknown key' => [ 401, sub {
        ask('/v1/contacts?limit=50', 'X-API-Key' => 'nobody' . ++$n) } ],
    'a new key' => [ 200, sub {
        ask('/v1/contacts?limit=50', 'X-API-Key' =>
            $redis->add_key(test_key('new ' . ++$n), workspace => 'acme')) } ],
    'a bad parameter' => [ 400, sub { ask('/v1/contacts?limit=0', @good) } ],
    'an error of the upstream' => [ 500, sub {
        $up->set(status => 500);
        my $res = ask(cold(), @good);
        $up->set(status => undef);
        return $res;
    } ],
    'another connection to Redis' => [ 200, sub {
        $redis->cmd(qw(CLIENT KILL TYPE normal SKIPME yes));
        return ask(cold(), @good);
    } ],
    'another connection for tracking' => [ 200, sub {
        $redis->cmd(qw(CLIENT KILL TYPE pubsub));
        return ask(cold(), @good);
    } ],
    'metrics' => [ 200, sub { ask('/status') } ],
    'metrics of Prometheus' => [ 200, sub { ask('/prometheus') } ],
);


# What is wrong with an answer.

sub fault_of {
    my ($res, $name, $status) = @_;

    return unless $res && $res->status;
    return if $res->status >= 500
              && !$res->error_faults($res->status, 'INTERNAL_ERROR');

    # what could not be said may not be more or less than it is

    return $res->raw if $res->status != $status
                        && !($status == 206 && $res->status == 200);
    return 'another body' if $res->status == 200 && $name =~ /^a hit\z|^a miss\z/
                             && $res->body ne $body;
    return;
}


sub well {
    my $res = ask('/v1/contacts?limit=50', @good);

    return $res && $res->status == 200 && $res->body eq $body;
}

ok(wait_until(sub { well() && $nginx->get('/status')->json
                                    ->{tracking_confirmed} }, BACK), 'before');

my ($worker) = $nginx->workers;

for my $name (sort keys %kind) {
    my ($status, $sub) = @{ $kind{$name} };
    my $start = time();
    my ($met, $quiet, %seen, @wrong) = (0, 0);

    for my $at (1 .. MOST) {
        my $before = failed();

        fail_at($at);
        my $res = $sub->();
        fail_at(0);

        if (failed() > $before) {
            $seen{ $res && $res->status ? $res->status : 'none' }++;
            $met++;
            $quiet = 0;
        } else {
            $quiet++;
        }

        push @wrong, map { "allocation $at: $_" } fault_of($res, $name, $status);
        push @wrong, "allocation $at: not well afterwards"
            unless wait_until(\&well, BACK);

        last if $quiet == NONE
                || time() - $start > SECONDS * $Convotic::Process::FACTOR;
    }

    is_deeply(\@wrong, [], "$name: right, in the documented shape, or nothing");
    note("$met allocations have failed: ",
         join ', ', map { "$_ $seen{$_}" } sort keys %seen);
    is_deeply([ $nginx->workers ], [ $worker ], "$name: the worker lives");
    ($worker) = $nginx->workers;
}

ok(wait_until(sub { my $now = $nginx->get('/status')->json;
                    $now->{waiting} == 0 && $now->{tracking_confirmed}
                        && !$now->{redis_away}{keys} }, BACK),
   'nobody waits, changes are told, Redis is there');

$t->allow_log(qr/\[emerg\].*(?:malloc|calloc|posix_memalign)\(.*failed/);

$redis->set_key($nginx->key, status => 'revoked');
ok(wait_until(sub { my $res = ask('/v1/contacts?limit=50', @good);
                    $res && $res->status == 401 }, BACK),
   'and a revocation is seen');

$t->finish;
