#!/usr/bin/perl

# convotic_status and convotic_zone: the counters of all workers, in the text
# format of Prometheus and in JSON; they survive a reload.

use strict;
use warnings;

use Convotic::Test;

my $t = Convotic::Test->new;

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
    return $g->get('/status')->json;
}

sub delta {
    my ($sub) = @_;

    my $before = counters();
    $sub->();
    my $after = counters();
    my %changed;

    for my $family (keys %$after) {
        next if $family =~ /_seconds$|^redis_/;

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
    } elsif ($line =~ /^# TYPE (\w+) (counter|histogram)$/) {
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
    like($family, $type{$family} eq 'counter' ? qr/_total$/ : qr/_seconds$/,
         "$family is named for what it is");
}

is($value{'convotic_fill_seconds_bucket{le="+Inf"}'},
   $value{convotic_fill_seconds_count}, 'the last bucket has them all');
is($value{'convotic_requests_total{result="hit"}'}, $json->{requests}{hit},
   'both forms agree');

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

# The configuration.

for my $size ('100k', '0', 'x') {
    my $test = $g->test_config(http => "convotic_zone $size;");
    isnt($test->{exit}, 0, "convotic_zone $size");
    like($test->{out}, qr/\Qinvalid value "$size" in "convotic_zone"\E.*1m/,
         'said why');
}

$t->finish;
