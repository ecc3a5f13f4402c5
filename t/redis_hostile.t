#!/usr/bin/perl

# What answers on Redis's port may be anything: another protocol, a later one,
# noise, or somebody who wants the worker's memory or time.  No verdict comes
# of it, and the worker goes on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Resp qw(resp_array resp_bulk resp_encode);
use Convotic::Test;

use constant {
    BACK   => 10,               # seconds until it is well again, at most
    GROWTH => 64 * 1024,        # KB that a worker may take more for all this
    NOISES => 30,
    SEED   => 20260330,
};

my $MS = 400 * $Convotic::Process::FACTOR;
my $SERVER = "convotic_redis %%REDIS%% connect_timeout=${MS}ms timeout=${MS}ms;";

# What is no RESP2.

my %broken = (
    'two billion elements'  => "*2147483647\r\n",
    'more than 32 bits'          => "*4294967296\r\n",
    'more than 64 bits'          => "*99999999999999999999\r\n",
    'more elements than any'     => "*100000\r\n",
    'a negative array'           => "*-2\r\n",
    'a very negative array'      => "*-2147483648\r\n",
    'an array of no number'      => "*x\r\n",
    'arrays in arrays'           => "*1\r\n" x 200,
    'wide arrays in arrays'      => "*4000\r\n" x 9,
    'many arrays in arrays'      => "*4000\r\n" . ("*4000\r\n" x 4000),
    'a negative string'          => "\$-2\r\n",
    'a very negative string'     => "\$-9223372036854775808\r\n",
    'a string of no number'      => "\$x\r\n",
    'a string of 10 GB'          => "\$9999999999\r\n" . 'x' x 3_000_000,
    'a string of 2 GB'           => "\$2147483647\r\n" . 'x' x 3_000_000,
    'a string of 3 MB'           => resp_bulk('x' x 3_000_000),
    'a line without an end'      => '+' . 'x' x 3_000_000,
    'an error without an end'    => '-' . 'x' x 3_000_000,
    'a number without an end'    => ':' . '1' x 3_000_000,
    'a length without an end'    => '$' . '1' x 3_000_000,
    'a RESP3 map'                => "%1\r\n+status\r\n+active\r\n",
    'a RESP3 set'                => "~2\r\n+status\r\n+active\r\n",
    'a RESP3 boolean'            => "#t\r\n",
    'a RESP3 double'             => ",1.5\r\n",
    'a RESP3 big number'         => "(3492890328409238509324850943850943825\r\n",
    'a RESP3 verbatim string'    => "=15\r\ntxt:Some string\r\n",
    'a RESP3 attribute'          => "|1\r\n+ttl\r\n:3600\r\n*0\r\n",
    'a RESP3 push'               => ">2\r\n+invalidate\r\n*0\r\n",
    'HTTP'   => "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    'TLS'                        => "\x15\x03\x03\x00\x02\x02\x16",
    'memcached'                  => "ERROR\r\n",
    'an empty line'              => "\r\n",
    'NUL'                        => "\0" x 100,
    'a wrong type in an array'   => "*2\r\n+status\r\n!\r\n",
);


my $t = Convotic::Test->new(direct => 1);
my $up = $t->upstream;
my $key = test_key('acme');
my $body = contacts_body(workspace => 'acme', limit => 3);

my $redis = $t->redis('keys');
$redis->init;
$redis->add_key($key, workspace => 'acme');

# Megabytes are told to the fake by their name.

my $fake = $t->fake_redis(behind => $redis, handler => sub {
    my ($ctx, @argv) = @_;
    my ($prefix, $name) = @{ $ctx->vars->{broken} || [] };

    return { pass => 1 } unless $prefix && "@argv" =~ /^\Q$prefix\E/;
    return $broken{$name};
});
my $nginx = $t->nginx(
    redis => $fake, upstream => $up, key => $key, http => $SERVER,
    server => 'location = /alive { return 204; }',
);


sub well_ok {
    my ($name) = @_;

    my $res;

    wait_until(sub { $res = $nginx->contacts('limit=3');
                     $res->status == 200 }, BACK);

    return success_is($res, $body, $name);
}


# Neither served nor refused, and nothing of it comes through.

sub no_verdict_ok {
    my ($name) = @_;

    my $res = $nginx->contacts('limit=3');
    my @faults = $res ? $res->error_faults(503, 'INTERNAL_ERROR')
                      : 'no response';

    push @faults, 'the upstream was asked' if $up->count;

    ok(!@faults, $name) or diag(map { "    $_\n" } @faults);

    return;
}


sub next_case {
    $fake->clear;
    $fake->set(broken => undef);
    $up->reset;

    return;
}


# A fresh worker knows nothing of a bad server: no waiting for the next attempt
# between two cases.

sub next_worker {
    my ($old) = $nginx->workers;

    next_case();
    $nginx->kill_worker($old, 'TERM');
    wait_until(sub { my ($new) = $nginx->workers; $new && $new != $old }, BACK)
        or die "no new worker\n";

    return;
}


sub drop_bodies {
    my @names = $redis->names('convotic:body:*') or return;

    return $redis->cmd('DEL', @names);
}


sub kilobytes {
    my ($field, $pid) = @_;

    open my $fh, '<', "/proc/$pid/status" or return 0;
    my ($kilobytes) = map { /^$field:\s*(\d+) kB/ ? $1 : () } <$fh>;

    return $kilobytes;
}


sub record {
    my (%field) = @_;

    return map { ($_, $field{$_}) } sort keys %field;
}


well_ok('nothing wrong');
$up->reset;


# The connection is worth nothing any more.

my %peak = map { $_ => 0 } qw(VmPeak VmHWM);

for my $name (sort keys %broken) {
    my ($worker) = $nginx->workers;
    my %before = map { $_ => kilobytes($_, $worker) } keys %peak;
    my $accepted = $fake->counters->{accepted};

    $fake->set(broken => [ HGETALL => $name ]);
    no_verdict_ok("no RESP2: $name");
    is($nginx->get('/alive')->status, 204, "$name: the worker is alive");

    for my $field (keys %peak) {
        my $grown = kilobytes($field, $worker) - $before{$field};
        $peak{$field} = $grown if $peak{$field} < $grown;
    }

    $fake->set(broken => undef);
    ok(wait_until(sub { my $now = $fake->counters;
                        !$now->{open} || $now->{accepted} > $accepted }, BACK),
       "$name: the connection was given up");
    next_worker();
}

well_ok('after all that');

cmp_ok($peak{$_}, '<', GROWTH, "memory: $_ grew little") for sort keys %peak;


# RESP2, but no answer to the question: nobody is judged by it.

my %good = (id => 'k1', workspace => 'acme', status => 'active');

my %odd = (
    'an integer'          => ":1\r\n",
    'a status'            => "+OK\r\n",
    'a string'            => resp_bulk('active'),
    'nil'                 => "\$-1\r\n",
    'a nil array'         => "*-1\r\n",
    'a field without a value' => resp_encode([ 'id' ]),
    'a last field without a value'
        => resp_encode([ record(%good), 'name' ]),
    'nil in front'        => resp_encode([ undef, undef, record(%good) ]),
    'nil at the end'      => resp_encode([ record(%good), 'rate', undef ]),
    'nil as a value'      => resp_encode([ record(%good, status => undef) ]),
    'integers'            => resp_encode([ \1, \2 ]),
    'an integer as a value' => resp_encode([ record(%good, id => \7) ]),
    'an array as a value' => resp_encode([ record(%good, id => [ 'k1' ]) ]),
    'pairs as RESP3 has them'
        => resp_encode([ map { [ $_, $good{$_} ] } sort keys %good ]),
    'an error in it'      => "*2\r\n\$2\r\nid\r\n-ERR no\r\n",
    'statuses'            => "*2\r\n+id\r\n+k1\r\n",
    'a status in two ways'
        => resp_encode([ record(%good), 'status', 'revoked' ]),
    'two workspaces'
        => resp_encode([ record(%good), 'workspace', 'other' ]),
);

for my $name (sort keys %odd) {
    $fake->script(HGETALL => $odd{$name});
    no_verdict_ok("HGETALL: $name");
    next_case();
}

for my $reply ("+1\r\n", "\$1\r\n1\r\n", "\$-1\r\n", "*0\r\n", ":0\r\n",
               ":2\r\n", ":-1\r\n", ":281474976710657\r\n")
{
    my $shown = $reply =~ s/\r\n/ /gr;

    for my $record (undef, "*0\r\n") {
        $fake->script(EXISTS => $reply, HGETALL => $record);
        no_verdict_ok("EXISTS: $shown" . ($record ? 'and no record' : ''));
        next_case();
    }
}

my $revoked = test_key('revoked');
$redis->add_key($revoked, status => 'revoked');
$fake->script(EXISTS => ":0\r\n");
is($nginx->contacts('limit=3', 'X-API-Key' => $revoked)->status, 503,
   'EXISTS: 0 and a revoked record: it is not our store');
next_case();


# Behind the key, the upstream helps out.

for my $command ('GET convotic:gen', 'GET convotic:body') {
    for my $name ('a string of 10 GB', 'two billion elements', 'HTTP',
                  'a line without an end', 'a RESP3 map')
    {
        $fake->set(broken => [ $command => $name ]);
        success_is($nginx->contacts('limit=3'), $body, "$command: $name");
        is($up->count, 1, "$command: $name: the upstream was asked");
        next_worker();
    }

    for my $reply (":1774878120000000\r\n", "+1774878120000000\r\n",
                   "+OK\r\n", "*0\r\n", resp_encode([ '1774878120000000' ]),
                   "*-1\r\n", resp_bulk(''), resp_bulk("\0" x 16),
                   resp_bulk('x' x 1000))
    {
        my $shown = substr $reply =~ s/\r\n/ /gr =~ s/\0/\\0/gr, 0, 30;

        $fake->script($command => $reply);
        success_is($nginx->contacts('limit=3'), $body, "$command: $shown");
        next_case();
    }
}


# More than was asked for, at once or later, and less.

my @surplus = ("+OK\r\n", ":1\r\n", "*0\r\n", "-ERR Protocol error\r\n",
               resp_bulk('1774878120000000'), resp_encode([ record(%good) ]));

for my $reply (@surplus) {
    my $shown = $reply =~ s/\r\n/ /gr;
    my $accepted = $fake->counters->{accepted};

    is($nginx->contacts('limit=3')->status, 200, 'a connection in order');
    $fake->push($reply);
    well_ok("unasked: $shown");
    cmp_ok($fake->counters->{accepted}, '>', $accepted,
           "unasked: $shown: over another connection");
    next_worker();
}

# The body's reply of a request comes with one too many: what the next one
# gets must not be one behind.

my $other = test_key('other');
$redis->add_key($other, workspace => 'other');

for my $extra (@surplus) {
    my $shown = $extra =~ s/\r\n/ /gr;
    my %bad;

    drop_bodies();
    $fake->script('GET convotic:body' => "\$-1\r\n$extra");

    for my $turn (1 .. 4) {
        for my $who (qw(acme other)) {
            my $res = $nginx->contacts('limit=3',
                                       'X-API-Key' => test_key($who));
            next if $res->status == 503;
            $bad{ $res->status }++
                if $res->status != 200
                   || $res->body ne contacts_body(workspace => $who, limit => 3);
        }
    }

    is_deeply(\%bad, {}, "one too many: $shown");
    next_worker();
}

for my $part ('*', "*6\r\n", "*6\r\n\$2\r\nid\r\n", '$', "\$5\r\nact", ':1', '+O')
{
    $fake->script(HGETALL => $part);
    no_verdict_ok('an unfinished reply: ' . $part =~ s/\r\n/ /gr);
    next_worker();
}


# A greeting of that kind.

for my $command (qw(CLIENT INFO ROLE PING)) {
    for my $name ('two billion elements', 'HTTP', 'a RESP3 map',
                  'a line without an end', 'a string of 10 GB', 'arrays in arrays')
    {
        next_worker();
        $fake->set(broken => [ $command => $name ]);
        $fake->drop;
        no_verdict_ok("a greeting: $command: $name");
    }

    next_worker();
}

well_ok('after bad greetings');


# Noise, the same at each run.

srand SEED;

my @bytes = ((map { chr } 0 .. 255), ("\r\n", '*', '$', ':', '+', '-') x 12,
             (0 .. 9) x 4);
my @noise = map {
    join '', map { $bytes[ rand @bytes ] } 1 .. 5 + rand 3000
} 1 .. NOISES;
my %seen;

for my $noise (@noise) {
    $up->reset;
    $fake->script(HGETALL => $noise, EXISTS => ":1\r\n");
    my $res = $nginx->contacts('limit=3');
    $seen{ $res->error_faults(503, 'INTERNAL_ERROR') ? $res->raw : 'well' }++;
    next_worker();
}

is_deeply(\%seen, { well => NOISES }, 'noise: no verdict');

%seen = ();

for my $noise (@noise) {
    $fake->script('GET convotic:body' => $noise);
    my $res = $nginx->contacts('limit=3');
    $seen{ $res->body eq $body && $res->status == 200 ? 'well' : $res->raw }++;
    next_worker();
}

is_deeply(\%seen, { well => NOISES }, 'noise as a body: the upstream answers');

well_ok('after the noise');
$nginx->stop;


# Bytes one by one, both ways: slow, and right.

my $proxy = $t->byte_proxy(to => $redis);
my $slow = 20_000 * $Convotic::Process::FACTOR;

drop_bodies();
$proxy->split(1);
$nginx = $t->nginx(
    redis => $proxy, upstream => $up, key => $key, http =>
    "convotic_redis %%REDIS%% connect_timeout=${slow}ms timeout=${slow}ms;");
$up->reset;

success_is($nginx->contacts('limit=3', { timeout => 30 }), $body,
           'byte by byte: a miss');
ok(wait_until(sub { my @names = $redis->names('convotic:body:*') }, BACK),
   'byte by byte: stored');
success_is($nginx->contacts('limit=3', { timeout => 30 }), $body,
           'byte by byte: a hit');
is($up->count, 1, 'byte by byte: one fetch');
error_is($nginx->contacts('limit=3', { timeout => 30 },
                          'X-API-Key' => 'not-a-key'),
         401, 'UNAUTHORIZED', 'Invalid API key', 'byte by byte: no such key');

$proxy->split(997);
$nginx->contacts('limit=100', { timeout => 30 });
success_is($nginx->contacts('limit=100', { timeout => 30 }),
           contacts_body(workspace => 'acme', limit => 100),
           'in uneven pieces: a large body');

$t->finish;
