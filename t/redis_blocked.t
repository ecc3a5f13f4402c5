#!/usr/bin/perl

# A server of bodies that takes no more bytes: what the kernel has not taken
# waits in the worker, up to a bound; what goes beyond it is not stored.  No
# client waits for any of it, nothing arrives in part or in another order, and
# the memory is given back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK   => 20,               # seconds until something has happened, at most
    MB     => 1024 * 1024,
    LARGE  => 12,               # MB of a body: more than a socket takes
    BODIES => 7,                # more than the worker keeps, which are 64 MB
    KEPT   => 48,               # MB that it may have of them in the end
    FILLER => ' ' x 1024,
};

my $PATIENT = 'connect_timeout=60s timeout=60s';

my $t = Convotic::Test->new;
my ($keys, $bodies) = map { $t->redis($_) } qw(keys bodies);

my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $limit = $req->args->{limit};
    my $size = $vars->{large} || 0;

    return { hold => $vars->{hold}, body =>
             contacts_body(workspace => $req->tenant, limit => $limit)
             . FILLER x (1024 * $size) };
});

my $g = $t->gateway(
    redis => $keys, cache_redis => $bodies, upstream => $up,
    events => 'worker_connections 128;',
    http => "convotic_redis %%REDIS%% $PATIENT;"
          . "convotic_cache_redis %%CACHE_REDIS%% $PATIENT;"
          . 'convotic_key_valid 1h; convotic_cache_valid 1h;'
          . 'convotic_cache_local 0; convotic_cache_max_size 16m;'
          . 'convotic_fill_timeout 60s; convotic_cache_lock_timeout 60s;'
          . 'proxy_buffer_size 64k; proxy_buffers 8 64k;'
          . 'proxy_busy_buffers_size 128k;',
    server => 'location = /status { convotic_status json; }',
);


sub metrics { return $g->get('/status')->json }


# The bodies that are in Redis, by their limits; of each, how many bytes are
# missing of what its envelope says.

sub bodies_stored {
    my %missing;

    for my $name ($bodies->names('convotic:body:*')) {
        my ($head) = split /\n\n/, $bodies->cmd('GETRANGE', $name, 0, 2000);
        my ($limit, $length) =
            "$head\n" =~ /^query limit=(\d+)\n.*^length (\d+)$/ms;

        $missing{$limit} = length("$head\n\n") + $length
                           - $bodies->cmd('STRLEN', $name);
    }

    return \%missing;
}


sub kilobytes {
    my ($pid) = @_;

    return Convotic::HTTP::_slurp("/proc/$pid/status")
           =~ /^RssAnon:\s*(\d+) kB/m ? $1 : 0;
}


# The answer has the length of the body; so much of it need not be read.

sub send_head {
    my ($conn, $limit) = @_;

    $conn->write(Convotic::HTTP::request_text("/v1/contacts?limit=$limit",
                                              { method => 'HEAD' },
                                              'X-API-Key' => $g->key));

    return $conn;
}


sub length_of {
    my ($res) = @_;

    return $res && $res->status == 200 ? $res->header('Content-Length') : 0;
}


sub large {
    return length(contacts_body(workspace => 'acme', limit => $_[0]))
           + LARGE * MB;
}


ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');
success_is($g->contacts('limit=99'),
           contacts_body(workspace => 'acme', limit => 99), 'all is well');

my ($worker) = $g->workers;
my $before = kilobytes($worker);
my $connections = metrics()->{redis_connections}{bodies};


# So many are being fetched when the server of bodies ceases to read.

$up->reset;
$up->set(hold => 1, large => LARGE);

my @conns = map { send_head($g->connect, $_) } 1 .. BODIES;

ok(wait_until(sub { $up->count == BODIES }, BACK), 'all are asked for');
ok($bodies->sigstop, 'the server of bodies stops');

my $fills = metrics()->{fills};

$up->set(hold => 0, large => 0);
$up->release;

is_deeply([ map { length_of($_->read('HEAD', BACK)) } @conns ],
          [ map { large($_) } 1 .. BODIES ],
          'each client has its answer meanwhile');

my $now = metrics()->{fills};
my $stored = $now->{stored} - $fills->{stored};
my $passed = $now->{passed} - $fills->{passed};

cmp_ok($stored, '>', 1, 'some are on their way to be stored');
cmp_ok($passed, '>', 0, 'there is an end to what is kept for that');
is($stored + $passed, BODIES, 'that is all of them');


# What comes behind them waits for its turn.

my $conn = send_head($g->connect, 99);

is($conn->read('HEAD', 0.1), undef, 'a question waits behind them');
ok($bodies->cont, 'the server goes on');
is(length_of($conn->read('HEAD', BACK)), large(99) - LARGE * MB,
   'the question is answered');
is($up->count, BODIES, 'by what was stored before');

my $missing = bodies_stored();

delete $missing->{99};
is(scalar keys %$missing, $stored, 'what was said to be stored is there');
is_deeply([ grep { $missing->{$_} } keys %$missing ], [], 'all of it');

my ($lost) = grep { !defined $missing->{$_} } 1 .. BODIES;

success_is($g->contacts("limit=$lost"),
           contacts_body(workspace => 'acme', limit => $lost),
           'what was not is fetched again');
is(metrics()->{redis_connections}{bodies}, $connections,
   'all over the same connection');

SKIP: {
    skip 'a sanitizer keeps what was freed', 1 if $ENV{ASAN_OPTIONS};

    cmp_ok(kilobytes($worker) - $before, '<', KEPT * 1024,
           'the memory is given back');
}

$t->finish;
