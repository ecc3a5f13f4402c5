#!/usr/bin/perl

# A Redis that came back empty, or was never ours, knows no key at all.  It is
# believed to have no key only while it has convotic:meta: otherwise every key,
# good or not, gets 503 instead of being told that it is invalid.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant BACK => 10;        # seconds until it is well again, at most

my $SERVER = 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;';

my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my $redis = $t->redis('keys');
my $key = test_key('acme');
my $body = contacts_body(workspace => 'acme', limit => 2);

my $nginx = $t->nginx(redis => $redis, upstream => $up, key => $key,
                      http => $SERVER);


sub unsure_ok {
    my ($name) = @_;

    $up->reset;

    my %res = (
        'a good key'    => $nginx->contacts('limit=2'),
        'a HEAD'        => $nginx->head('/v1/contacts', 'X-API-Key' => $key),
        'an unknown key'
            => $nginx->contacts('limit=2', 'X-API-Key' => 'unknown'),
        'a bad limit'   => $nginx->contacts('limit=0'),
    );

    for my $what (sort keys %res) {
        error_is($res{$what}, 503, 'INTERNAL_ERROR', undef, "$name: $what");
        like($res{$what}->header('Retry-After'), qr/^[1-9]\d?\z/,
             "$name: $what: Retry-After");
    }

    is($up->count, 0, "$name: the upstream is not asked");
    error_is($nginx->contacts('limit=2', 'X-API-Key' => undef), 401,
             'UNAUTHORIZED', 'Missing X-API-Key header',
             "$name: what needs no store");
    error_is($nginx->contacts('limit=2', 'X-API-Key' => ''), 401,
             'UNAUTHORIZED', 'Invalid API key', "$name: nor does an empty key");

    return;
}


sub sure_ok {
    my ($name) = @_;

    success_is($nginx->contacts('limit=2'), $body, "$name: a good key");
    error_is($nginx->contacts('limit=2', 'X-API-Key' => 'unknown'), 401,
             'UNAUTHORIZED', 'Invalid API key', "$name: an unknown key");

    return;
}


# Never marked, then marked.

unsure_ok('a new store');
$redis->add_key($key, workspace => 'acme');
unsure_ok('keys without a mark');
$redis->init;
sure_ok('marked');


# Emptied under way, and restored: the mark comes last.

for my $way (qw(FLUSHALL FLUSHDB)) {
    $redis->cmd($way);
    unsure_ok($way);
    $redis->add_key($key, workspace => 'acme');
    unsure_ok("$way, keys restored");
    $redis->init;
    sure_ok("$way, all restored");
}

$redis->cmd('DEL', $redis->meta_name);
unsure_ok('only the mark was lost');
$redis->cmd('HSET', $redis->meta_name, 'schema', 1);
sure_ok('the mark is back');

$redis->cmd('PEXPIRE', $redis->meta_name, 1);
ok(wait_until(sub { !$redis->cmd('EXISTS', $redis->meta_name) }, BACK),
   'a mark with an expiry');
unsure_ok('the mark has expired');
$redis->init;


# A revoked key and an expired one are as unsure as any other.

my ($revoked, $expired) = map { test_key($_) } qw(revoked expired);
$redis->add_key($revoked, status => 'revoked');
$redis->add_key($expired, expires => 1);
is($nginx->contacts('', 'X-API-Key' => $_)->status, 401, 'refused')
    for $revoked, $expired;
$redis->cmd('DEL', $redis->meta_name);
is($nginx->contacts('', 'X-API-Key' => $_)->status, 503, 'unsure')
    for $revoked, $expired;
$redis->init;


# Restarted without its data.

$redis->restart;

my $res;

wait_until(sub { $res = $nginx->contacts('limit=2');
                 $nginx->log_lines(qr/meta/) > 0
                 && $redis->cmd('CLIENT', 'LIST') =~ /name=ngx_convotic/ }, BACK);
unsure_ok('restarted empty');
$redis->add_key($key, workspace => 'acme');
$redis->init;
wait_until(sub { $nginx->contacts('limit=2')->status == 200 }, BACK);
sure_ok('restored');
$nginx->stop;


# It says so in the log, with what to do, and not once a request.

$nginx = $t->nginx(redis => $redis, upstream => $up, key => $key,
                   http => $SERVER);
sure_ok('before');
$redis->cmd('DEL', $redis->meta_name);
$nginx->contacts('limit=2') for 1 .. 30;

my @lines = $nginx->log_lines(qr/\[(?:warn|error|crit)\]/);

is(scalar(grep { /meta.*convoticctl init/ } @lines), 1,
   'the log names the remedy, once');
cmp_ok(scalar @lines, '<=', 2, 'and says little else')
    or diag(map { "    $_\n" } @lines[0 .. 3]);
$redis->init;
$nginx->stop;


# Emptied between the two questions of one request.

my $flushing = $t->fake_redis(behind => $redis, handler => sub {
    my ($ctx, $name) = @_;

    if ($name eq 'HGETALL' && $ctx->vars->{flush}) {
        select undef, undef, undef, 0.05;       # what was asked before is done

        my $conn = Convotic::Redis::Connection->new(name => 'flush',
                                                    port => $redis->port);
        $conn->cmd('FLUSHALL');
        $conn->close;
    }

    return { pass => 1 };
});

$nginx = $t->nginx(redis => $flushing, upstream => $up, key => $key,
                   http => $SERVER);
sure_ok('before it is emptied');
$flushing->set(flush => 1);
isnt($nginx->contacts('limit=2')->status, 401,
     'emptied in the middle of a request: a good key is not refused');
$flushing->set(flush => 0);
unsure_ok('emptied in the middle of a request: afterwards');

$t->finish;
