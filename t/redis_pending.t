#!/usr/bin/perl

# The connection to the store of bodies is lost and not back yet, while answers
# come that are to be stored: so many of them wait as is bounded, the rest is not
# stored.  Redis is used again all the same, and nothing says that it is away.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use Time::HiRes qw(sleep);

use constant {
    BACK  => 20,                # seconds until something has happened, at most
    LARGE => 12 * 1024 * 1024,  # bytes: two are more than may wait
    N     => 7,
    KEPT_UP => 1.1,             # seconds until a connection is one that works
};

my $t = Convotic::Test->new;
my $keys = $t->redis('keys');
my $bodies = $t->redis('bodies');
my $proxy = $t->byte_proxy(to => $bodies);
my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $body = contacts_body(workspace => $req->tenant,
                             limit => $req->args->{limit});

    return { hold => $vars->{hold}, body => $body . ' ' x ($vars->{more} || 0) };
});
my $nginx = $t->gateway(
    redis => $keys, cache_redis => $proxy, upstream => $up,
    http => <<'END', server => 'location = /status { convotic_status json; }',
    convotic_redis %%REDIS%% connect_timeout=60s timeout=60s;
    convotic_cache_redis %%CACHE_REDIS%% connect_timeout=60s timeout=60s;
    convotic_cache_valid 1h;
    convotic_cache_local 0;
    convotic_cache_max_size 16m;
    convotic_fill_timeout 60s;
END
);

sub stored { return scalar(() = $bodies->names('convotic:body:*')) }

is($nginx->contacts('limit=99')->status, 200, 'before');
ok(wait_until(sub { stored() == 1 }, BACK), 'stored');
sleep KEPT_UP;


# Fetches are under way when the connection is lost, and another is only begun.

$up->reset;
$up->set(hold => 1, more => LARGE);

my @conns = map { $nginx->connect } 1 .. N;

$conns[ $_ - 1 ]->write(Convotic::HTTP::request_text(
    "/v1/contacts?limit=$_", { method => 'HEAD' }, 'X-API-Key' => $nginx->key))
    for 1 .. N;

ok(wait_until(sub { $up->count == N }, BACK), 'fetches are under way');
$proxy->accept('hang');
$proxy->drop;
ok($nginx->wait_log(qr/connection to Redis lost/, BACK), 'the connection is lost');
$up->set(hold => 0, more => 0);
$up->release;

is(join(' ', map { $_->read('HEAD', BACK)->status } @conns), join(' ', (200) x N),
   'all are served');

$proxy->accept('open');
ok(wait_until(sub { stored() == 2 }, BACK), 'one of the bodies was stored');

my $now = $nginx->contacts('limit=98');

is($now->status, 200, 'another one');
ok(wait_until(sub { stored() == 3 }, BACK), 'is stored');
is_deeply($nginx->get('/status')->json->{redis_away}, { keys => 0, bodies => 0 },
          'Redis is there');
unlike($nginx->error_log, qr/Redis is away|no memory/, 'and was, for the log');

$t->finish;
