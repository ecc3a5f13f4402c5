#!/usr/bin/perl

# One value in Redis that is larger than anything the gateway would read is the
# trouble of those who ask for it.  The connection is everybody's: it stays.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK  => 10,                # seconds until something has happened, at most
    TURNS => 15,
    MANY  => 1_000_000,
};

my $SERVER = 'convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;';

my $t = Convotic::Test->new;
my $redis = $t->redis('keys');
my %key = map { $_ => test_key($_) } qw(acme other);

my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;
    my $limit = $req->args->{limit};
    my $padding = $limit == 100 ? $vars->{padding} || 0 : 0;

    return '{"contacts":[],"total":0,"of":"' . $req->tenant . '","padding":"'
           . 'x' x $padding . qq(","limit":$limit});
});

$redis->init;
$redis->add_key($key{$_}, workspace => $_) for sort keys %key;

my $nginx = $t->nginx(redis => $redis, upstream => $up, http => $SERVER,
                      location => 'convotic_cache_max_size 1m;');


sub ask {
    my ($who, $query) = @_;

    return $nginx->contacts($query, 'X-API-Key' => $key{$who});
}


# Who asks for it, and who does not, in turns; the statuses of both.

sub turns {
    my ($who, $query) = @_;

    my ($theirs, %others) = (ask($who, $query)->status);

    for my $turn (1 .. TURNS) {
        $others{ ask('other', 'limit=5')->status }++;
        $others{ 'again ' . ask($who, $query)->status }++;
    }

    return ($theirs, \%others);
}


sub harmless_ok {
    my ($name, $who, $query, $status) = @_;

    my $connected = $redis->info('total_connections_received');
    my ($theirs, $others) = turns($who, $query);

    is($theirs, $status, "$name: $status for those who ask for it");
    is_deeply($others, { 200 => TURNS, "again $status" => TURNS },
              "$name: nobody else notices");
    is($redis->info('total_connections_received'), $connected,
       "$name: the connection stays");

    return;
}


is(ask('other', 'limit=5')->status, 200, 'nothing is large');


# A body of a time when more was allowed, or of a node where more is.

$up->set(padding => 500_000);
cmp_ok(length ask('acme', 'limit=100')->body, '>', 500_000, 'a large body');
ok(wait_until(sub { grep { $redis->cmd('STRLEN', $_) > 500_000 }
                    $redis->names('convotic:body:*') }, BACK), 'it is stored');
$up->set(padding => 0);
ok($nginx->reload(location => 'convotic_cache_max_size 64k;', gone => 1),
   'less is allowed');
is(ask('other', 'limit=5')->status, 200, 'a small body');
harmless_ok('a body', 'acme', 'limit=100', 200);


# Fields of a record that are not the gateway's.

$redis->set_key($key{acme}, notes => 'n' x MANY);
harmless_ok('a record with a large field', 'acme', 'limit=5', 200);
$redis->set_key($key{acme}, notes => undef);

$redis->cmd('HSET', $redis->key_name($key{acme}),
            map { ("field$_" => $_) } 1 .. 5000);
harmless_ok('a record of many fields', 'acme', 'limit=5', 200);
$redis->del_key($key{acme});
$redis->add_key($key{acme});


# A generation that is none.

$redis->cmd('SET', $redis->gen_name('acme'), 'g' x MANY);
harmless_ok('a generation', 'acme', 'limit=5', 200);

$t->finish;
