#!/usr/bin/perl

# Users of Redis with too few permissions: nobody is let in, or the cache,
# tracking, locks or common rates are done without; and the users that the
# documentation and the examples give, which are enough.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Outage;
use Convotic::Test;

my $OPTIONS = timeouts();

my $t = Convotic::Test->new(direct => 1);
my %scene = outage($t);
my ($up, $redis, $body) = @scene{qw(upstream redis body)};
my $rate = $redis->rate_name($scene{key});


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


# Without tracking or leases, all is answered, and the log says what is lost,
# once.

my %slow = (
    no_tracking  => '~* &* +@all -client +client|id +client|setname',
    no_id        => '~* &* +@all -client +client|setname +client|tracking',
    no_subscribe => '~* &* +@all -subscribe',
    no_channel   => '~* resetchannels +@all',
);

for my $user (sort keys %slow) {
    $redis->cmd('ACL', 'SETUSER', $user, 'reset', 'on', '>pw',
                split / /, $slow{$user});

    my $gateway = gateway(workers => 2,
        redis => $redis->url(user => $user, password => 'pw'),
        http => "convotic_redis %%REDIS%% $OPTIONS;");
    ok($gateway->wait_log(qr/\[warn\].* not let its keys be tracked: .*NOPERM/),
       "ACL user $user: logged");
    success_is($gateway->contacts('limit=5'), $body, "ACL user $user")
        for 1, 2;
    is($gateway->stop, 1, "ACL user $user: a clean end");
    is(scalar(complaints($gateway)), 1, "ACL user $user: logged once");
    is(scalar($gateway->log_lines(qr/are tracked/)), 0,
       "ACL user $user: no tracking");
}

my %alone = (
    no_lock => '~convotic:key:* ~convotic:meta ~convotic:gen:* ~convotic:body:*'
               . ' &* +@all',
    no_del  => '~* &* +@all -del',
);

for my $user (sort keys %alone) {
    $redis->cmd('ACL', 'SETUSER', $user, 'reset', 'on', '>pw',
                split / /, $alone{$user});
    $redis->cmd('DEL', $redis->names('convotic:body:*'), 'none');

    my $gateway = gateway(redis => $redis->url(user => $user, password => 'pw'),
        http => "convotic_redis %%REDIS%% $OPTIONS;");

    $up->reset;
    success_is($gateway->contacts('limit=5'), $body, "ACL user $user");
    ok($gateway->wait_log(qr/Redis cannot say: .*(?:NOPERM|can't run|ACL)/),
       "ACL user $user: logged");
    success_is($gateway->contacts('limit=5'), $body, "ACL user $user: a hit");
    is($up->count, 1, "ACL user $user: one fetch");
    $gateway->stop;
    is(scalar(complaints($gateway)), 1, "ACL user $user: logged once");
}


# Without rates in common, a node limits by itself.  Nobody gets a 401 for it.

my %lonely = (
    no_rate    => '~convotic:key:* ~convotic:meta ~convotic:gen:*'
                  . ' ~convotic:body:* ~convotic:lock:* &* +@all',
    no_evalsha => '~* &* +@all -evalsha',
    no_time    => '~* &* +@all -time',
);

if (Convotic::Redis::has_version('7.0')) {
    $lonely{no_reading} = '~convotic:key:* ~convotic:meta ~convotic:gen:*'
        . ' ~convotic:body:* ~convotic:lock:* %W~convotic:rate:* &* +@all';

} else {
    note('ACL user no_reading: not tried, this server has no %W~');
}

for my $user (sort keys %lonely) {
    $redis->cmd('ACL', 'SETUSER', $user, 'reset', 'on', '>pw',
                split / /, $lonely{$user});
    $redis->cmd('DEL', $rate);

    my $gateway = gateway(redis => $redis->url(user => $user, password => 'pw'),
        http => "convotic_redis %%REDIS%% $OPTIONS;"
              . 'convotic_rate 9; convotic_rate_fallback local=2;');

    is_deeply(admitted($gateway, 5),
              [ '200 9 1', '200 9 0', ('429 9 0') x 3 ],
              "ACL user $user: the fallback");
    is($gateway->stop, 1, "ACL user $user: a clean end");
    is(scalar(complaints($gateway)), 1, "ACL user $user: logged once");
    like((complaints($gateway))[0], qr/Redis cannot say: .*(?:NOPERM|ACL|can't run)/,
         "ACL user $user: and why");
    is($redis->cmd('EXISTS', $rate), 0, "ACL user $user: nothing is leased");
}


# The commands in docs/redis-keys.md and the files in docs/examples/ give
# enough, no two of them something else, and none lets a key be made.

{
    my @documented = documented_users();
    my @examples = map { example_user($_) } qw(keys bodies);

    for my $i (0, 1) {
        is_deeply(rules($documented[$i]), rules($examples[$i]),
                  "the documented users: the same as the examples: $i");
    }

    enough_ok('the documented users', @documented);
    makes_none_ok('the documented users', $documented[0]);
    enough_ok('the examples', @examples);
    makes_none_ok('the examples', $examples[0]);
}


# What is permitted, without the order and the password.

sub rules {
    my ($argv) = @_;

    return [ sort grep { !/^(?:>.*|reset|resetchannels|-\@all)\z/ } @$argv ];
}


sub enough_ok {
    my ($name, $keys_user, $bodies_user) = @_;

    my $bodies = $t->redis;

    $redis->cmd(@$keys_user);
    $bodies->cmd(@$bodies_user);
    $redis->cmd('DEL', $redis->gen_name('acme'), $rate);

    my @url = map {
        my ($server, $argv) = @$_;
        my ($password) = map { /^>(.+)/ } @$argv;
        $server->url(user => $argv->[2], password => $password);
    } [ $redis, $keys_user ], [ $bodies, $bodies_user ];

    my $gateway = gateway(redis => $url[0], cache_redis => $url[1],
        http => "convotic_redis %%REDIS%% $OPTIONS;"
              . "convotic_cache_redis %%CACHE_REDIS%% $OPTIONS;"
              . 'convotic_rate 4;');

    ok($gateway->wait_log(qr/keys and generations are tracked/),
       "$name: tracked");

    $up->reset;
    success_is($gateway->contacts('limit=5'), $body, $name);
    ok(wait_until(sub { join(' ', $bodies->names('*'))
                        =~ /\Aconvotic:body:\S+\z/ }, BACK),
       "$name: stored, and the lease is given back");
    success_is($gateway->contacts('limit=5'), $body, "$name: a hit");
    is($up->count, 1, "$name: one fetch");
    is_deeply(admitted($gateway, 3), [ '200 4 1', '200 4 0', '429 4 0' ],
              "$name: the rate");
    like($redis->cmd('GET', $rate), qr/\A\d+ \d+ 4 0 0 /,
         "$name: is that of all nodes");
    is_deeply([ complaints($gateway) ], [], "$name: no complaint");
    is($gateway->stop, 1, "$name: a clean end");

    for my $server ($redis, $bodies) {
        my @log = grep { "@$_" =~ /\b$keys_user->[2]\b/ }
                  @{ $server->cmd('ACL', 'LOG') };
        is_deeply(\@log, [], "$name: nothing was refused");
        $server->cmd('ACL', 'LOG', 'RESET');
    }

    return;
}


# What the gateway reads, it cannot write.  Redis 6.2 has no way to say so of SET,
# which makes no record but takes its place.

sub makes_none_ok {
    my ($name, $keys_user) = @_;

    my ($password) = map { /^>(.+)/ } @$keys_user;
    my $conn = $redis->connect;
    my @names = map { $redis->key_name($_) } $scene{key}, 'none';

    is($conn->cmd('AUTH', $keys_user->[2], $password), 'OK', "$name: log in");

    for my $read (@names, $redis->meta_name) {
        my @commands = (
            [ 'HSET', $read, 'status', 'active' ],
            [ 'EVAL', q(return redis.call('HSET', KEYS[1], 'a', 'b')), 1, $read ],
            [ 'DEL', $read ],
            [ 'RENAME', $redis->gen_name('acme'), $read ],
            Convotic::Redis::has_version('7.0') ? [ 'SET', $read, '' ] : (),
        );

        like($conn->cmd(@$_), qr/NOPERM|can't run|ACL/, "$name: no @$_")
            for @commands;
    }

    note("$name: SET is not tried, this server has no %R~")
        unless Convotic::Redis::has_version('7.0');
    $conn->close;
    $redis->cmd('ACL', 'LOG', 'RESET');

    return;
}


# So many requests: the status, the limit, and what remains.

sub admitted {
    my ($gateway, $n) = @_;

    my @res = map { $gateway->contacts('limit=5') } 1 .. $n;

    return [ map { join ' ', $_->status, $_->header('X-RateLimit-Limit'),
                             $_->header('X-RateLimit-Remaining') } @res ];
}


# The two lines "ACL SETUSER gateway" as a shell would read them.

sub documented_users {
    my @users;
    my $text = slurp('docs/redis-keys.md');

    while ($text =~ /^(?:keys|bodies) (ACL SETUSER gateway (?:.*\\\n)*.*)$/mg) {
        my $line = $1 =~ s/\\\n//gr;
        push @users, [ Convotic::Redis::acl_rules(
            map { s/^'(.*)'\z/$1/r } split ' ', $line) ];
    }

    return @users;
}


sub example_user {
    my ($server) = @_;

    my ($rules) = slurp("docs/examples/$server.acl")
                  =~ /^user gateway (.*)$/m or die "$server.acl\n";

    return [ qw(ACL SETUSER gateway reset),
             Convotic::Redis::acl_rules(split ' ', $rules) ];
}


sub slurp {
    my ($file) = @_;

    open my $fh, '<', $t->top . "/$file" or die "$file: $!\n";
    local $/;

    return scalar <$fh>;
}


$t->finish;
