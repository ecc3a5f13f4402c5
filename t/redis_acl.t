#!/usr/bin/perl

# Users of Redis with too few permissions: nobody is let in, or the cache is
# done without; and the users that the documentation gives, which are enough.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant BACK => 10;        # seconds until it is well again, at most

my $MS = 500 * $Convotic::Process::FACTOR;
my $OPTIONS = "connect_timeout=${MS}ms timeout=${MS}ms";

my $t = Convotic::Test->new;
my $up = $t->upstream;
my $key = test_key('acme');
my $body = contacts_body(workspace => 'acme', limit => 5);

my $redis = $t->redis('keys');
$redis->init;
$redis->add_key($key, workspace => 'acme');


sub gateway {
    my (%arg) = @_;

    $arg{http} ||= "convotic_redis %%REDIS%% $OPTIONS;";

    return $t->nginx(upstream => $up, key => $key, %arg);
}


sub faults_of_away {
    my ($res) = @_;

    return 'no response' unless $res;
    return ($res->error_faults(503, 'INTERNAL_ERROR'),
            ($res->header('Retry-After') || '') =~ /^[1-9]/
                ? () : 'no Retry-After');
}


# A good key and a bad one; uncached, cached.

sub away_ok {
    my ($gateway, $name) = @_;

    $up->reset;

    my @faults = map { faults_of_away($_) } (
        $gateway->contacts('limit=5'),
        $gateway->contacts('limit=5', 'X-API-Key' => 'no-key-of-ours'),
    );

    push @faults, 'the upstream was asked' if $up->count;

    ok(!@faults, "$name: 503 for every key") or diag(map { "    $_\n" } @faults);

    return;
}


sub back_ok {
    my ($gateway, $name) = @_;

    my $res;

    wait_until(sub { $res = $gateway->contacts('limit=5');
                     $res->status == 200 }, BACK);
    success_is($res, $body, "$name: then well again");

    return;
}


sub complaints {
    my ($gateway) = @_;

    return $gateway->log_lines(qr/\[(?:warn|error|crit)\]/);
}


# Users with too few permissions, and the one of the documentation.

my %user = (
    no_hgetall => '~* &* +@all -hgetall',
    no_exists  => '~* &* +@all -exists',
    no_info    => '~* &* +@all -info',
    no_role    => '~* &* +@all -role',
    no_keys    => '~convotic:gen:* ~convotic:body:* &* +@all',
    no_meta    => '~convotic:key:* ~convotic:gen:* ~convotic:body:* &* +@all',
    off        => '~* &* +@all off',
);

for my $user (sort keys %user) {
    $redis->cmd('ACL', 'SETUSER', $user, 'reset', 'on', '>pw',
                split / /, $user{$user});

    my $gateway = gateway(redis => $redis->url(user => $user, password => 'pw'),
        http => "convotic_redis %%REDIS%% $OPTIONS;");
    away_ok($gateway, "ACL user $user");
    ok($gateway->wait_log(qr/NOPERM|WRONGPASS/), "ACL user $user: logged");
    $gateway->stop;
}

my %poor = (
    no_eval   => '~* &* +@all -eval',
    no_gen    => '~convotic:key:* ~convotic:meta ~convotic:body:* &* +@all',
    no_body   => '~convotic:key:* ~convotic:meta ~convotic:gen:* &* +@all',
    no_set    => '~* &* +@all -set',
    no_client => '~* &* +@all -client',
);

for my $user (sort keys %poor) {
    $redis->cmd('ACL', 'SETUSER', $user, 'reset', 'on', '>pw',
                split / /, $poor{$user});
    $redis->cmd('DEL', $redis->gen_name('acme'));

    my $gateway = gateway(redis => $redis->url(user => $user, password => 'pw'),
        http => "convotic_redis %%REDIS%% $OPTIONS;");
    success_is($gateway->contacts('limit=5'), $body, "ACL user $user")
        for 1, 2;
    $gateway->stop;
}


# The commands in docs/redis-keys.md give just enough.

{
    my ($keys_user, $bodies_user) = documented_users();
    my $bodies = $t->redis('bodies');

    $redis->cmd(@$keys_user);
    $bodies->cmd(@$bodies_user);
    $redis->cmd('DEL', $redis->gen_name('acme'));

    my @url = map {
        my ($server, $argv) = @$_;
        my ($password) = map { /^>(.+)/ } @$argv;
        $server->url(user => $argv->[2], password => $password);
    } [ $redis, $keys_user ], [ $bodies, $bodies_user ];

    my $gateway = gateway(redis => $url[0], cache_redis => $url[1],
        http => "convotic_redis %%REDIS%% $OPTIONS;"
              . "convotic_cache_redis %%CACHE_REDIS%% $OPTIONS;");

    $up->reset;
    success_is($gateway->contacts('limit=5'), $body, 'the documented users');
    ok(wait_until(sub { $bodies->cmd('DBSIZE') == 1 }, BACK),
       'the documented users: stored');
    success_is($gateway->contacts('limit=5'), $body, 'the documented users: hit');
    is($up->count, 1, 'the documented users: one fetch');
    is_deeply([ complaints($gateway) ], [], 'the documented users: no complaint');
    is($gateway->stop, 1, 'the documented users: a clean end');
}


# The two lines "ACL SETUSER gateway" as a shell would read them.

sub documented_users {
    open my $fh, '<', $t->top . '/docs/redis-keys.md' or die "docs: $!\n";
    local $/;

    my @users;
    my $text = <$fh>;

    while ($text =~ /^(?:keys|bodies) (ACL SETUSER gateway (?:.*\\\n)*.*)$/mg) {
        my $line = $1 =~ s/\\\n//gr;
        push @users, [ map { s/^'(.*)'\z/$1/r } split ' ', $line ];
    }

    return @users;
}


$t->finish;
