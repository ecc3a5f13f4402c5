#!/usr/bin/perl

# convotic_status and convotic_zone: the counters and gauges of all workers, in
# the text format of Prometheus and in JSON; counters survive a reload.

use strict;
use warnings;

use Convotic::Test;

use constant BACK => 10;        # seconds until something has happened, at most

my $t = Convotic::Test->new(direct => 1);

my $g = $t->gateway(
    workers => 2,
    http => 'convotic_zone 1m;',
    server => <<'END',
convotic_errors on;
location = /metrics { convotic_status prometheus; }
location = /status { convotic_status json; }
location = /none { return 404; }
END
);

sub counters {
    my ($nginx) = @_;

    return ($nginx || $g)->get('/status')->json;
}

# What one request changes.  Without $all, of requests, keys, errors and fills:
# the rest depends on who of the workers it was, and on tracking.

sub delta {
    my ($sub, $nginx, $all) = @_;

    my $before = counters($nginx);
    $sub->();
    my $after = counters($nginx);
    my %changed;

    for my $family (keys %$after) {
        next if $family =~ /_seconds$|^redis_|^zone_/;
        next if !$all && $family =~ /^(?:invalidations|races|tracking)/;

        my ($new, $old) = ($after->{$family}, $before->{$family});

        if (!ref $new) {
            $changed{$family} = $new - $old if $new != $old;
            next;
        }

        for my $name (keys %$new) {
            my $n = $new->{$name} - $old->{$name};
            $changed{"$family.$name"} = $n if $n;
        }
    }

    return \%changed;
}

my @cases = (
    ['a miss', sub { $g->contacts('limit=3') },
        { 'requests.miss' => 1, 'keys.valid' => 1, 'fills.stored' => 1 }],
    ['a hit', sub { $g->contacts('limit=3') },
        { 'requests.hit' => 1, 'keys.valid' => 1 }],
    ['a method', sub { $g->get('/v1/contacts', { method => 'DELETE' }) },
        { 'requests.refused' => 1, 'errors.INVALID_REQUEST' => 1 }],
    ['a parameter', sub { $g->contacts('limit=0') },
        { 'requests.refused' => 1, 'errors.INVALID_REQUEST' => 1,
          'keys.valid' => 1 }],
    ['an unknown key',
        sub { $g->get('/v1/contacts', 'X-API-Key' => test_key('nobody')) },
        { 'requests.refused' => 1, 'errors.UNAUTHORIZED' => 1,
          'keys.denied' => 1 }],
    ['a malformed key',
        sub { $g->get('/v1/contacts', 'X-API-Key' => "a b") },
        { 'requests.refused' => 1, 'errors.UNAUTHORIZED' => 1 }],
    ['a page that is not there', sub { $g->get('/none') },
        { 'shaped_errors.NOT_FOUND' => 1 }],
);

for my $case (@cases) {
    my ($name, $sub, $expected) = @$case;
    is_deeply(delta($sub), $expected, $name);
}

$g->redis->add_key(test_key('broken'), id => 'k', workspace => 'no spaces',
                   status => 'active');

is_deeply(
    delta(sub { $g->get('/v1/contacts', 'X-API-Key' => test_key('broken')) }),
    { 'requests.refused' => 1, 'errors.UNAUTHORIZED' => 1,
      'keys.denied' => 1, malformed_records => 1 },
    'a malformed record');

$g->upstream->set(status => 500);

is_deeply(delta(sub { $g->contacts('limit=4') }),
    { 'requests.miss' => 1, 'errors.INTERNAL_ERROR' => 1,
      'keys.valid' => 1, 'fills.error' => 1 },
    'an error of the upstream');

$g->upstream->set(status => 200, headers => ['Cache-Control' => 'no-store']);

is_deeply(delta(sub { $g->contacts('limit=4') }),
    { 'requests.miss' => 1, 'keys.valid' => 1, 'fills.passed' => 1,
      'fills_not_stored.upstream' => 1 },
    'an answer that is not to be stored');

# Redis, and the form of Prometheus.

my $json = counters();

cmp_ok($json->{redis_commands}{keys}, '>', 0, 'commands to Redis');
is($json->{redis_errors}{keys}, 0, 'no errors');
cmp_ok($json->{redis_connections}{keys}, '>=', 2, 'a connection per worker');
cmp_ok($json->{fill_seconds}{count}, '>=', 3, 'time of fills');

my $res = $g->get('/metrics');

is($res->status, 200, 'metrics');
like($res->header('Content-Type'), qr{^text/plain; version=0\.0\.4},
     'content type');

my (%type, %help, %value, @bad);

for my $line (split /\n/, $res->body) {
    if ($line =~ /^# HELP (\w+) \S.*\.$/) {
        push @bad, $line if $help{$1}++;
    } elsif ($line =~ /^# TYPE (\w+) (counter|gauge|histogram)$/) {
        push @bad, $line if $type{$1} || !$help{$1};
        $type{$1} = $2;
    } elsif ($line =~ /^(\w+)(\{(?:\w+="[^"]*",?)+\})? (\d+(?:\.\d+)?)$/) {
        my ($name, $labels, $value) = ($1, $2 || '', $3);
        my $family = $name;
        $family =~ s/_(?:bucket|sum|count)$// unless $type{$family};
        push @bad, $line if !$type{$family} || exists $value{"$name$labels"};
        $value{"$name$labels"} = $value;
    } else {
        push @bad, $line;
    }
}

is_deeply(\@bad, [], 'every line is well-formed, every family described once');

for my $family (sort keys %type) {
    like($family, $type{$family} eq 'counter'   ? qr/_total$/ :
                  $type{$family} eq 'histogram' ? qr/_seconds$/ :
                                                  qr/(?<!_total)(?<!_seconds)$/,
         "$family is named for what it is");
}

is($value{'convotic_fill_seconds_bucket{le="+Inf"}'},
   $value{convotic_fill_seconds_count}, 'the last bucket has them all');
is($value{'convotic_requests_total{result="hit"}'}, $json->{requests}{hit},
   'both forms agree');

# The documentation has each metric and each value of its labels, and no other.

{
    my $docs = do { local (@ARGV, $/) = $t->top . '/docs/metrics.md'; <> };
    my %told = $docs =~ /^\| `(convotic_\w+)` \|(.*)$/mg;

    is_deeply([ sort keys %told ], [ sort keys %type ],
              'docs/metrics.md has each metric, and no other');

    my @untold;

    for my $name (sort keys %value) {
        my ($family, $label, $value) = $name =~ /^(\w+)\{(\w+)="([^"]*)"\}$/
            or next;

        push @untold, $name
            if $label ne 'le' && $label ne 'server'
               && $family !~ /errors_total$/ && $docs !~ /^\| `$family` \| `$label`.*`$value`/m
               && !($label eq 'table' && $docs =~ /`$value`/);
    }

    is_deeply(\@untold, [], 'and what they count');
}

# promtool knows the format best.

SKIP: {
    my ($promtool) = grep { -x } map { "$_/promtool" } split /:/, $ENV{PATH};

    skip 'no promtool', 1 unless $promtool;

    my $run = $t->run([ $promtool, 'check', 'metrics' ], stdin => $res->body);

    is($run->{exit}, 0, 'promtool has no complaint')
        or diag($run->{out} . $run->{err});
}

$res = $g->head('/metrics');
is($res->status, 200, 'HEAD');
is($res->body, '', 'without a body');
is($g->get('/metrics', { method => 'POST' })->status, 405, 'POST');

# A reload keeps them; another size begins anew.

my $hits = counters()->{requests}{hit};

$g->reload;
is(counters()->{requests}{hit}, $hits, 'kept over a reload');

$g->reload(http => 'convotic_zone 2m;');
is(counters()->{requests}{hit}, 0, 'anew with another size');

# What is known without asking: one worker, with all that is on by default.

my $one = $t->gateway(
    direct => 0, http => 'convotic_key_valid 1h; convotic_key_invalid 1h;',
    server => 'location = /status { convotic_status json; }',
    redis => $t->redis('own'), cache_redis => $t->redis('bodies'),
);
my $own = $one->redis;

sub settled {
    my ($name) = @_;

    ok(wait_until(sub {
           my $m = counters($one);
           my $changed = delta(sub { $one->contacts('limit=3') }, $one, 1);

           $m->{tracking_confirmed} && $m->{zone_entries}{generations}
               && join(' ', sort keys %$changed)
                  eq 'known_keys.valid requests.local';
       }, BACK), $name);

    return;
}

settled('tracked, and a body is at hand');

is(counters($one)->{zone_entries}{$_}, 1, "one entry of $_")
    for qw(keys generations);
is(counters($one)->{zone_entries}{refusals}, 0, 'none of refusals');
is(counters($one)->{local_bodies}, 1, 'one body in the first level');
cmp_ok(counters($one)->{local_bytes}, '>',
       length contacts_body(workspace => 'acme', limit => 3), 'of this size');
is_deeply(counters($one)->{redis_away}, { keys => 0, bodies => 0 },
          'Redis is there');
is(counters($one)->{waiting}, 0, 'nobody waits');

is_deeply(delta(sub { $one->contacts('limit=3') }, $one, 1),
          { 'requests.local' => 1, 'known_keys.valid' => 1 }, 'a hit');

my $stranger = test_key('stranger');

$one->contacts('limit=3', 'X-API-Key' => $stranger);
is_deeply(delta(sub { $one->contacts('limit=3', 'X-API-Key' => $stranger) },
                $one, 1),
          { 'requests.refused' => 1, 'errors.UNAUTHORIZED' => 1,
            'known_keys.denied' => 1 }, 'a key that is known to be none');

{
    my $changed = delta(sub { $one->contacts('limit=4') }, $one, 1);

    is(delete $changed->{local_bytes} > 0, 1, 'a miss takes memory');
    is_deeply($changed, { 'requests.miss' => 1, 'known_keys.valid' => 1,
                          'fills.stored' => 1, local_stored => 1,
                          local_bodies => 1 },
              'a miss');
}

{
    my $changed = delta(sub {
        $own->set_key($one->key, name => 'another');
        wait_until(sub { counters($one)->{invalidations}{key} }, BACK);
    }, $one, 1);

    is_deeply($changed, { 'invalidations.key' => 1 }, 'a record was written');
    is_deeply(delta(sub { $one->contacts('limit=3') }, $one, 1),
              { 'requests.local' => 1, 'keys.valid' => 1 }, 'it is read again');
}

{
    my $changed = delta(sub {
        my $before = counters($one)->{invalidations}{generation};
        $own->purge('acme');
        wait_until(sub { counters($one)->{invalidations}{generation}
                         > $before }, BACK);
    }, $one, 1);

    is_deeply($changed, { 'invalidations.generation' => 1 }, 'a purge');

    $changed = delta(sub { $one->contacts('limit=3') }, $one, 1);
    delete @$changed{qw(local_bytes local_stored)};
    is_deeply($changed, { 'requests.miss' => 1, 'known_keys.valid' => 1,
                          'fills.stored' => 1, fills_unchanged => 1 },
              'it is fetched again, and has not changed');
}

{
    my $changed = delta(sub {
        $own->cmd('PUBLISH', '__redis__:invalidate', 'a forgery');
        wait_until(sub { counters($one)->{invalidations}{foreign} }, BACK);
    }, $one, 1);

    is_deeply($changed, { 'invalidations.foreign' => 1 }, 'a forged message');
}

{
    my $before = counters($one);

    $one->upstream->set(delay => 0.3);

    my @all = $one->concurrent([ map {
        [ '/v1/contacts?limit=5', 'X-API-Key' => $one->key ]
    } 1 .. 10 ]);
    my $after = counters($one);

    is(scalar(grep { $_ && $_->status == 200 } @all), 10, 'ten for one query');
    is($after->{fills}{stored} - $before->{fills}{stored}, 1, 'one fill');
    is($after->{waits}{served} + $after->{requests}{local}
       - $before->{waits}{served} - $before->{requests}{local}, 9,
       'the others waited, or came later');
    is($after->{waiting}, 0, 'nobody waits any more');
    $one->upstream->set(delay => 0);
}

{
    $one->upstream->set(headers => [ 'Cache-Control' => 'max-age=1' ]);
    $one->contacts('limit=6');

    my $before = counters($one);

    ok(wait_until(sub { $one->contacts('limit=6');
                        my $m = counters($one);
                        $m->{requests}{updating} > $before->{requests}{updating}
                        || $m->{refreshes} > $before->{refreshes} }, BACK),
       'a fill that nobody waits for');
    ok(wait_until(sub { counters($one)->{fills_unchanged}
                        > $before->{fills_unchanged} }, BACK),
       'which brings nothing new');
}

$own->kill;
ok(wait_until(sub { counters($one)->{redis_away}{keys} == 1 }, BACK),
   'Redis is away: said');
is(counters($one)->{redis_away}{bodies}, 0, 'that of bodies is there');
is(counters($one)->{tracking_confirmed}, 0, 'nothing is tracked');
is(counters($one)->{tracking}{lost}, 1, 'and that was a loss');
is(delta(sub { $one->contacts('limit=3') }, $one)->{'known_keys.aged'}, 1,
   'a key from before');
$one->stop;

# The rate: what it refuses, and what Redis is asked about it.

my $rated = $t->gateway(
    direct => 0, redis => $t->redis('rates'),
    http => 'convotic_key_valid 1h; convotic_cache_valid 1h;'
            . 'convotic_rate 2; convotic_rate_fallback closed;',
    server => <<'END',
location = /status { convotic_status json; }
location = /metrics { convotic_status prometheus; }
location = /dry { convotic on; convotic_rate_dry_run on;
                  proxy_pass http://contacts; }
location = /local { convotic on; convotic_rate_fallback local;
                    proxy_pass http://contacts; }
location = /few { convotic on; convotic_auth_failures 1;
                  proxy_pass http://contacts; }
END
);

sub rate_delta {
    my ($sub) = @_;

    my $changed = delta($sub, $rated, 1);

    return { map { $_ => $changed->{$_} }
             grep { /^rate|^auth_limited|\.RATE_LIMITED$|^requests.refused$/ }
             keys %$changed };
}

my @two = ('X-API-Key' => test_key('two'));

$rated->redis->add_key($two[1], rate => 10);
ok(wait_until(sub { counters($rated)->{tracking_confirmed} }, BACK),
   'tracked as well');

for my $case (
    [ 'a lease, of one', sub { $rated->contacts('limit=3') },
      { 'rate_leases.granted' => 1 } ],
    [ 'another one', sub { $rated->contacts('limit=3') },
      { 'rate_leases.granted' => 1 } ],
    [ 'over the rate', sub { $rated->contacts('limit=3') },
      { 'rate.refused' => 1, 'requests.refused' => 1,
        'errors.RATE_LIMITED' => 1 } ],
    [ 'over the rate, dry', sub { $rated->get('/dry', 'X-API-Key' =>
                                              $rated->key) },
      { 'rate.dry_run' => 1 } ],
    [ 'another key', sub { $rated->contacts('limit=3', @two) },
      { 'rate_leases.granted' => 1 } ],
) {
    my ($name, $sub, $expected) = @$case;

    is_deeply(rate_delta($sub), $expected, $name);
}

is(counters($rated)->{zone_entries}{leases}, 2, 'an entry for each key');
is(counters($rated)->{zone_entries}{addresses}, 0, 'none of addresses');
cmp_ok(counters($rated)->{zone_places}{$_}, '>', 0, "places for $_")
    for qw(leases addresses);
is(counters($rated)->{zone_evicted}{$_}, 0, "$_: nothing was given up")
    for qw(leases addresses);

# nothing is left: another node has used it

{
    my @gone = ('X-API-Key' => $rated->redis->add_key(test_key('gone')));
    my ($s, $us) = @{ $rated->redis->cmd('TIME') };

    $rated->redis->cmd('SET', $rated->redis->rate_name($gone[1]),
                       sprintf('%d%06d %d 2 0 0 -', $s, $us, ($s + 60) * 1000),
                       'PX', 60_000);
    is_deeply(rate_delta(sub { $rated->contacts('limit=3', @gone) }),
              { 'rate_leases.empty' => 1, 'rate.refused' => 1,
                'requests.refused' => 1, 'errors.RATE_LIMITED' => 1 },
              'nothing is left');
}

# unknown keys of one address: a few are looked up even so

ok(wait_until(sub {
       $rated->get('/few', 'X-API-Key' => test_key('nobody ' . rand));
       counters($rated)->{auth_limited};
   }, BACK), 'too many unknown keys');
is(counters($rated)->{zone_entries}{addresses}, 1, 'an entry for the address');

# Redis is away

$rated->redis->kill;
ok(wait_until(sub { counters($rated)->{redis_away}{keys} }, BACK),
   'no Redis for rates');

for my $case (
    [ 'no Redis: one that is still good', '/local',
      { 'rate.unverified' => 1 } ],
    [ 'no Redis: closed', '/v1/contacts',
      { 'rate.unsure' => 1, 'requests.refused' => 1 } ],
) {
    my ($name, $path, $expected) = @$case;
    my $changed = rate_delta(sub { $rated->get("$path?limit=3", @two) });

    is_deeply($changed, $expected, $name);
}

{
    my $json = counters($rated);
    my %text = $rated->get('/metrics')->body
        =~ /^(convotic_(?:rate|auth_limited|zone)\S+) (\d+)$/mg;
    my %rows = (
        map({ ("convotic_rate_total{result=\"$_\"}" => $json->{rate}{$_}) }
            qw(refused dry_run unverified unsure)),
        map({ ("convotic_rate_leases_total{result=\"$_\"}"
               => $json->{rate_leases}{$_}) } qw(granted empty failed)),
        convotic_auth_limited_total => $json->{auth_limited},
        map({ ("convotic_zone_entries{table=\"$_\"}"
               => $json->{zone_entries}{$_}) } qw(leases addresses)),
    );

    is_deeply({ map { $_ => $text{$_} } keys %rows }, \%rows,
              'the rate: both forms agree');
}

$rated->stop;

# The configuration.

for my $size ('100k', '0', 'x') {
    my $test = $g->test_config(http => "convotic_zone $size;");
    isnt($test->{exit}, 0, "convotic_zone $size");
    like($test->{out}, qr/\Qinvalid value "$size" in "convotic_zone"\E.*1m/,
         'said why');
}

$t->finish;
