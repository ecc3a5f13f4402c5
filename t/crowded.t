#!/usr/bin/perl

# Somebody who tries keys fills the zone, from one address and from many.  What
# customers have there stays: their records, what is left of their leases, that
# they have used up their rate; and so does what is known of workspaces.  Redis
# is asked as often as the guesses of an address may cost, and no oftener.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    GOOD    => 60,              # keys, of as many workspaces
    SPENT   => 12,              # requests of each, before
    RATE    => 1000,
    TRIED   => 24_000,          # unknown keys
    CLIENTS => 3,
    PIPE    => 100,             # requests in one piece
    BUDGET  => 1000,            # unknown keys a minute and address
    BACK    => 15,              # seconds until something has happened, at most
};

my $t = Convotic::Test->new(rates => 1);
my $realip = `@{[ Convotic::Nginx::binary() ]} -V 2>&1`
             =~ /http_realip_module/;
my $redis = $t->redis;
my $nginx = $t->gateway(
    redis => $redis, log_level => 'error', workers => 2,
    events => 'worker_connections 512;',
    http => <<'EOC' . ($realip ? 'set_real_ip_from 127.0.0.1;'
    access_log off;
    keepalive_requests 1000000;
    convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;
    convotic_zone 1m;
    convotic_key_valid 1h; convotic_key_invalid 1h; convotic_cache_valid 1h;
EOC
                                 . 'real_ip_header X-Forwarded-For;' : ''),
    server => <<'EOC',
    location = /status { convotic_status json; }
    location = /guarded {
        convotic on;
        convotic_auth_failures 1000;
        proxy_pass http://contacts;
    }
EOC
);
my @good = map { $redis->add_key(test_key("good $_"), workspace => "w$_") }
    1 .. GOOD;
my $used_up = $redis->add_key(test_key('used up'), rate => 2);


sub metrics { return $nginx->get('/status')->json }


sub request {
    my ($path, $key, @headers) = @_;

    return Convotic::HTTP::request_text("$path?limit=3", {}, 'X-API-Key' => $key,
                                        @headers);
}


# What is wrong with one answer for each good key, of which so many are left.

sub faults {
    my ($left) = @_;

    my $conn = $nginx->connect;
    my @faults;

    $conn->write(join '', map { request('/v1/contacts', $_) } @good);

    for my $n (1 .. GOOD) {
        my $res = $conn->read;
        my $has = $res->header('X-RateLimit-Remaining');

        push @faults, "key $n: status " . $res->status if $res->status != 200;
        push @faults, "key $n: a body of another" if $res->body
            ne contacts_body(workspace => "w$n", limit => 3);
        push @faults, "key $n: $has are left, not $left" if $has != $left;
    }

    $conn->close;

    return @faults;
}

ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');

my $spent = 0;

while ($spent < SPENT) {
    my @faults = faults(RATE - ++$spent);
    is_deeply(\@faults, [], "good keys, request $spent") if @faults;
}

is($nginx->contacts('limit=3', 'X-API-Key' => $used_up)->status, $_,
   'another key is used up') for 200, 200, 429;

my $calls = $redis->calls;
my $before = metrics();


# The guesses: bytes of answers are counted, for they are all the same.

sub guess {
    my ($path, $tried, @addresses) = @_;

    my $each = $tried / CLIENTS;
    my @counts = parallel(CLIENTS, sub {
        my ($i) = @_;

        my $socket = $nginx->connect->socket;
        my %seen;

        for my $n (1 .. $each / PIPE) {
            my $bytes = join '', map {
                request($path, "cvtk_live_guess.$path.$i.$n.$_", !@addresses
                        ? () : ('X-Forwarded-For' => $addresses[ rand @addresses ]))
            } 1 .. PIPE;
            my ($answers, $left) = ('', PIPE);

            syswrite($socket, $bytes) == length $bytes or last;

            while ($left > 0) {
                sysread($socket, $answers, 65536, length $answers) or last;

                while ($answers =~ s{\AHTTP/1\.1\ (\d+)\ .*?\r\n\r\n
                                     \{"error".*?\}\}}{}sx) {
                    $seen{$1}++;
                    $left--;
                }
            }
        }

        return \%seen;
    }, 120);

    my %seen;

    for my $count (@counts) {
        $seen{$_} += $count->{$_} for keys %$count;
    }

    return \%seen;
}

is_deeply(guess('/v1/contacts', TRIED), { 401 => TRIED },
          TRIED . ' keys are refused');

my $asked = $redis->calls('hgetall') - ($calls->{hgetall} || 0);
is($asked, TRIED, 'each was asked for once');

SKIP: {
    skip 'this nginx has no realip module', 2 unless $realip;

    # many addresses, within their budgets; then one beyond its own

    my $seen = guess('/guarded', TRIED / 4, map { join '.', 10, map {
                         int rand 256 } 1 .. 3 } 1 .. 5000);
    is_deeply($seen, { 401 => TRIED / 4 }, 'from many addresses: refused');

    $calls->{beyond} = $redis->calls('hgetall');
    $seen = guess('/guarded', TRIED / 4, '192.0.2.1');
    cmp_ok($seen->{429} || 0, '>', TRIED / 8, 'from one: told to wait');
    cmp_ok($redis->calls('hgetall') - $calls->{beyond}, '<=',
           $seen->{401} + 2 * CLIENTS, 'and Redis is not asked for those');
}

my $now = metrics();

cmp_ok($now->{zone_evicted}{refusals}, '>', TRIED / 2,
       'the table of refusals was filled many times over');
is($now->{zone_evicted}{$_}, 0, "nothing was evicted of: $_")
    for qw(keys generations leases);
is($now->{zone_entries}{$_}, $before->{zone_entries}{$_},
   "nothing came or went of: $_") for qw(keys generations leases);


# All that customers had is there.

my %mine = (hgetall => $redis->calls('hgetall'));
my $leases = metrics()->{rate_leases};

is_deeply([ faults(RATE - ++$spent) ], [],
          'good keys: served, and what is left of each is what was');
is($redis->calls('hgetall'), $mine{hgetall},
   'good keys: Redis is not asked about any');

$mine{evalsha} = $redis->calls('evalsha');

error_is($nginx->contacts('limit=3', 'X-API-Key' => $used_up), 429,
         'RATE_LIMITED', undef, 'the one that is used up is refused');
is($redis->calls('evalsha'), $mine{evalsha}, 'without a question');
is(metrics()->{rate_leases}{failed}, $leases->{failed},
   'no question of a rate has failed');

$t->finish;
