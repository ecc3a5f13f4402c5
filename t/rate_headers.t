#!/usr/bin/perl

# What clients are told of their rate: convotic_rate_headers, in the documented
# form, in that of the draft of a standard, or in both; and what is only
# counted and logged: convotic_rate_dry_run, $convotic_rate_remaining.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    SHORT    => 12_000,         # ms, of a window that has begun before
    LATE     => 8,              # requests above the limit
    TICK     => 0.05,           # s, by which two clocks may differ
    BACK     => 15,             # seconds until something has happened, at most
};

my @NAMES = qw(X-RateLimit-Limit X-RateLimit-Remaining RateLimit-Policy
               RateLimit);

my $t = Convotic::Test->new(rates => 1);
my $g = $t->gateway(
    ssl => 1,
    http => <<'END',
    convotic_key_valid 1h;
    convotic_cache_valid 1h;
    log_format rate "$http_x_id $status $convotic_rate_remaining";
    access_log %%DIR%%/rate.log rate;
END
    server => <<'END',
    location = /status     { convotic_status json; }
    location = /documented { convotic on; convotic_rate_headers documented;
                             proxy_pass http://contacts; }
    location = /draft      { convotic on; convotic_rate_headers draft;
                             proxy_pass http://contacts; }
    location = /both       { convotic on; convotic_rate_headers both;
                             proxy_pass http://contacts; }
    location = /off        { convotic on; convotic_rate_headers both;
                             convotic_rate off; proxy_pass http://contacts; }
    location = /dry        { convotic on; convotic_rate_dry_run on;
                             convotic_rate 2; convotic_rate_headers both;
                             proxy_pass http://contacts; }
    location = /wet        { convotic on; convotic_rate 2;
                             proxy_pass http://contacts; }
    location = /wide       { convotic on; convotic_rate 5;
                             proxy_pass http://contacts; }
END
);
my $redis = $g->redis;
my $n = 0;
my $id = 0;


sub metrics { return $g->get('/status')->json }

sub new_key { return $redis->add_key(test_key('key ' . ++$n), @_) }

sub ask {
    my ($path, $key, @rest) = @_;

    my $opt = ref $rest[0] ? shift @rest : {};

    return $g->get("$path?limit=2", $opt, 'X-API-Key' => $key, @rest);
}


# Those of the four headers that are there, but for the time that is left.

sub told {
    my ($res) = @_;

    return join "\n", map {
        my $name = $_;
        map { "$name: $_" } map { s/;t=(?:[1-9]|[1-5]\d|60)\z/;t=T/r }
            $res->header($name);
    } @NAMES;
}


# What they should be; nothing, for a form that is not asked for.

sub right {
    my ($form, $limit, $remaining) = @_;

    return join "\n",
        $form eq 'draft' ? () : ("X-RateLimit-Limit: $limit",
                                 "X-RateLimit-Remaining: $remaining"),
        $form eq 'documented' ? ()
            : (qq(RateLimit-Policy: "default";q=$limit;w=60),
               qq(RateLimit: "default";r=$remaining;t=T));
}

my %form = ('/v1/contacts' => 'documented', '/documented' => 'documented',
            '/draft' => 'draft', '/both' => 'both');

ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK),
   'tracking is confirmed');


# Each form, with all kinds of answers.

for my $path (sort keys %form) {
    my $form = $form{$path};
    my $key = new_key(rate => 12);
    my $left = 12;

    for my $case (
        [ 'a miss' => 200, 'limit=2' ],
        [ 'a hit' => 200, 'limit=2' ],
        [ 'HTTP/2' => 200, 'limit=2', { h2 => 1 } ],
        [ 'HTTP/1.0' => 200, 'limit=2', { version => '1.0' } ],
        [ 'HEAD' => 200, 'limit=2', { method => 'HEAD' } ],
        [ 'unchanged' => 304, 'limit=2', {}, 'If-None-Match' => '*' ],
        [ 'a range' => 206, 'limit=2', {}, Range => 'bytes=0-9' ],
        [ 'a condition' => 412, 'limit=2', {}, 'If-Match' => '"x"' ],
        [ 'no range' => 416, 'limit=2', {}, Range => 'bytes=99999-' ],
        [ 'a parameter' => 400, 'limit=0' ],
        [ 'a malformed query' => 400, '%' ],
        [ 'the last one' => 200, 'limit=2' ],
        [ 'over' => 429, 'limit=2' ],
        [ 'over, HTTP/2' => 429, 'limit=2', { h2 => 1 } ],
        [ 'over, HEAD' => 429, 'limit=2', { method => 'HEAD' } ],
    ) {
        my ($name, $status, $query, $opt, @headers) = @$case;
        my $res = $g->get("$path?$query", $opt || {}, 'X-API-Key' => $key,
                          @headers);

        $left-- if $left;
        is($res->status, $status, "$path, $name");
        is(told($res), right($form, 12, $left), "$path, $name: told so");

        my @after = $res->header('Retry-After');

        is(scalar @after, $status == 429 ? 1 : 0, "$path, $name: Retry-After");
    }

    for my $case (
        [ 'no key' => 401 ],
        [ 'an unknown key' => 401, {}, 'X-API-Key' => test_key('nobody') ],
        [ 'a method' => 405, { method => 'PUT' }, 'X-API-Key' => $key ],
        [ 'two keys' => 400, {}, ('X-API-Key' => $key) x 2 ],
    ) {
        my ($name, $status, $opt, @headers) = @$case;
        my $res = $g->get($path, $opt || {}, @headers);

        is($res->status, $status, "$path, $name");
        is(told($res), '', "$path, $name: nothing of a rate");
    }
}

is(told(ask('/both', new_key())), right('both', 1000, 999), 'by default');
is(told(ask('/both', new_key(rate => 1_000_000_000))),
   right('both', 1_000_000_000, 999_999_999), 'the largest rate');
is(told(ask('/off', new_key(rate => 5))), '', 'off: nothing of a rate');


# What is left of the window: of one that has begun before, by the server's
# clock, it is known how long it lasts at most.

{
    my $key = new_key(rate => 7);
    my ($s, $us) = @{ $redis->cmd('TIME') };
    my $end = $s * 1000 + int($us / 1000) + SHORT;

    $redis->cmd('SET', $redis->rate_name($key),
                sprintf('%d%06d %d 5 0 0 -', $s, $us, $end), 'PX', SHORT);

    for my $remaining (1, 0, 0) {
        my $res = ask('/both', $key);
        my $least = $redis->cmd('PTTL', $redis->rate_name($key)) / 1000;
        my ($rest) = $res->header('RateLimit') =~ /;t=(\d+)\z/;

        is(told($res), right('both', 7, $remaining), 'a window of before');
        cmp_ok($rest, '>=', $least - TICK, 'it lasts so long at least');
        cmp_ok($rest, '<=', SHORT / 1000 + 1, 'and so long at most');
    }

    my $res = ask('/both', $key);

    is($res->status, 429, 'it is used up');
    is($res->header('Retry-After'), $res->header('RateLimit') =~ s/.*;t=//r,
       'Retry-After: the same number');
    error_is($res, 429, 'RATE_LIMITED', 'Rate limit exceeded. Retry after '
             . $res->header('Retry-After') . ' seconds.');
}


# A dry run: what would be refused is counted, logged and served.

{
    my $key = new_key(id => 'dry');
    my $body = contacts_body(workspace => 'acme', limit => 2);
    my ($before, $asked) = (metrics(), 0);

    for my $remaining (1, 0, (0) x LATE) {
        my $res = ask('/dry', $key);

        success_is($res, $body, 'dry run');
        is(told($res), right('both', 2, $remaining), 'dry run: told so');
        is($res->header('Retry-After'), undef, 'dry run: no Retry-After');

        # from the first one on that is above the limit

        $asked ||= $redis->calls('EVALSHA')
            if metrics()->{rate}{dry_run} > $before->{rate}{dry_run};
    }

    is($redis->calls('EVALSHA'), $asked, 'dry run: Redis is asked no more');
    error_is($g->get('/dry?limit=0', 'X-API-Key' => $key), 400,
             'INVALID_REQUEST', undef, 'dry run: other checks follow');

    my $after = metrics();

    is($after->{rate}{dry_run} - $before->{rate}{dry_run}, LATE + 1,
       'dry run: counted');
    is($after->{rate}{refused}, $before->{rate}{refused},
       'dry run: not as refused');
    is($after->{errors}{RATE_LIMITED}, $before->{errors}{RATE_LIMITED},
       'dry run: and as no error');
    is(scalar(() = $g->log_lines(
           qr/\[info\].*key "dry" is over its rate of 2 a minute, dry run/)),
       LATE + 1, 'dry run: logged');

    # the count is the same, but what was above the limit is not in it

    is(ask('/wet', $key)->status, 429, 'dry run: the others are refused');
    is(told(ask('/wide', $key)), right('documented', 5, 2),
       'dry run: what was used under the limit');
}


# The variable, in the access log.

sub logged_is {
    my ($expected, $name, $path, @rest) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $opt = ref $rest[0] ? shift @rest : {};
    my $of = 'id' . ++$id;
    my $line = '';

    $g->get($path, $opt, 'X-Id' => $of, @rest);
    wait_until(sub { ($line) = $g->access_log('rate.log') =~ /^$of (.*)$/m },
               BACK);

    return is($line, $expected, "logged: $name");
}

{
    my @key = ('X-API-Key' => new_key());
    my @many = ('X-API-Key' => new_key(rate => 1_000_000_000));

    logged_is('200 1', 'one is left', '/wet?limit=2', @key);
    logged_is('400 0', 'none is left', '/wet?limit=0', @key);
    logged_is('429 0', 'over', '/wet?limit=2', @key);
    logged_is('429 0', 'over, HTTP/2', '/wet?limit=2', { h2 => 1 }, @key);
    logged_is('200 0', 'over in a dry run', '/dry?limit=2', @key);
    logged_is('200 -', 'no rate', '/off?limit=2', @key);
    logged_is('200 999999999', 'many', '/draft?limit=2', @many);
    logged_is('401 -', 'no key', '/wet?limit=2');
    logged_is('401 -', 'a malformed key', '/wet', 'X-API-Key' => 'a b');
    logged_is('401 -', 'an unknown key', '/wet?limit=2',
              'X-API-Key' => test_key('nobody'));
    logged_is('405 -', 'a method', '/wet', { method => 'PUT' }, @key);
    logged_is('200 -', 'another location', '/status');
}

$t->finish;
