#!/usr/bin/perl

# A key's record that is written field by field, in any order, taken away so,
# or left half way: until the three fields that are required are there it opens
# nothing; what it opens then is its own workspace, within a rate, at every
# step; what is absurd in it closes it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK    => 10,              # seconds until something has happened, at most
    DEFAULT => 50,              # requests a minute, where the record says none
    RATE    => 7,
    ASKED   => 200,             # requests while a key is moved
};

my @DENIED = (401, 'UNAUTHORIZED', 'Invalid API key');
my @REQUIRED = qw(id workspace status);

my %whole = (id => 'k1', workspace => 'acme', status => 'active',
             rate => RATE, expires => 4102444800);

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis;
my $up = $t->upstream;
my $nginx = $t->gateway(
    redis => $redis, upstream => $up,
    http => 'convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;'
            . 'convotic_key_valid 1h; convotic_key_invalid 1h;'
            . 'convotic_cache_valid 1h; convotic_rate ' . DEFAULT . ';',
    server => 'location = /status { convotic_status json; }',
);
my $body = contacts_body(workspace => 'acme', limit => 2);
my $made = 0;


sub metrics { return $nginx->get('/status')->json }
sub new_key { return test_key('half ' . ++$made) }


# One command, and until the node was told of it: from then on what it has read
# of the record before counts no more.

sub change {
    my (@command) = @_;

    my $told = metrics()->{invalidations}{key};

    $redis->cmd(@command);
    wait_until(sub { metrics()->{invalidations}{key} > $told }, BACK)
        or die "nobody was told of @command\n";

    return;
}


# What is wrong with what a key gets whose record is this.

sub faults {
    my ($key, %record) = @_;

    my $res = $nginx->contacts('limit=2', 'X-API-Key' => $key);
    my $limit = $res->header('X-RateLimit-Limit');
    my $left = $res->header('X-RateLimit-Remaining');

    if (grep { !defined $record{$_} } @REQUIRED) {
        return ($res->error_faults(@DENIED),
                defined $limit ? 'a rate' : (), $up->count ? 'a fetch' : ());
    }

    my $rate = defined $record{rate} ? $record{rate} : DEFAULT;

    return 'without a rate' unless defined $limit && defined $left;
    return "a rate of $limit" if $limit != $rate;
    return "$left are left" if $left !~ /^\d+\z/ || $left >= $rate;
    return $res->status if $res->status != 200;
    return 'another body' if $res->body ne $body;
    return;
}


sub orders {
    my (@fields) = @_;

    return [] unless @fields;

    return map {
        my $i = $_;
        my @rest = @fields[ grep { $_ != $i } 0 .. $#fields ];
        map { [ $fields[$i], @$_ ] } orders(@rest);
    } 0 .. $#fields;
}

ok(wait_until(sub { metrics()->{tracking_confirmed} }, BACK), 'tracked');


# Every order of four fields: written one by one, then deleted one by one.

for my $order (orders(@REQUIRED, 'rate')) {
    my $key = new_key();
    my $name = $redis->key_name($key);
    my (%record, @wrong);

    push @wrong, map { "nothing: $_" } faults($key);

    for my $field (@$order) {
        change('HSET', $name, $field, $whole{$field});
        $record{$field} = $whole{$field};
        $up->reset;
        push @wrong, map { join(',', sort keys %record) . ": $_" }
            faults($key, %record);
    }

    for my $field (@$order) {
        change('HDEL', $name, $field);
        delete $record{$field};
        $up->reset;
        push @wrong, map { join(',', sort keys %record) . " left: $_" }
            faults($key, %record);
    }

    is_deeply(\@wrong, [], "written and taken away in the order @$order");
}


# The second half of a record is absurd, or takes the first one's place.

my %absurd = (
    id        => [ '', ' ', "k\n1", 'x' x 129, "\0", 'k:1' ],
    workspace => [ '', 'acme ', 'acme}', '{acme}', 'a:b', "acme\0", 'x' x 129 ],
    status    => [ '', 'Active', 'active ', "active\0", '1', 'x' x 5000 ],
    rate      => [ '', '0', '-1', '1.5', '1e9', 'inf', 'unlimited', 'off',
                   '99999999999', '1000000001', '18446744073709551617',
                   "7\0", ' 7', '9' x 400 ],
    expires   => [ '', '0', '1', '-1', 'never', '1e12', "4102444800\0",
                   '9' x 400 ],
);

for my $field (sort keys %absurd) {
    my $key = new_key();
    my $name = $redis->key_name($key);
    my %first = %whole;

    delete $first{$field};

    my $optional = !grep { $_ eq $field } @REQUIRED;
    my @wrong;

    for my $value (@{ $absurd{$field} }) {
        my $shown = substr $value =~ s/([^!-~])/sprintf '\\x%02x', ord $1/egr,
                           0, 30;

        change('DEL', $name) if $redis->cmd('EXISTS', $name);
        change('HSET', $name, %first);
        $up->reset;
        push @wrong, map { "without it: $_" } faults($key, %first);

        change('HSET', $name, $field, $value);
        $up->reset;
        push @wrong, map { "'$shown': $_" } faults($key);

        change('HSET', $name, $field, $whole{$field});
        $up->reset;
        push @wrong, map { "good after '$shown': $_" } faults($key, %whole)
            if $value eq $absurd{$field}[-1];

        # the window is the key's, whatever becomes of its record

        $key = new_key(), $name = $redis->key_name($key) if $optional;
    }

    is_deeply(\@wrong, [], "$field, in a second step: absurd values are refused");
}


# Moved while it is in use, in one step: what it opens is one workspace or the
# other, and never what is cached of the one for the other.

{
    my $key = $redis->add_key(new_key(), workspace => 'acme', rate => 1000000);
    my %body = map { ($_ => contacts_body(workspace => $_, limit => 2)) }
        qw(acme beta);

    my $mover = background(sub {
        my ($go) = @_;

        my $conn = $redis->connect;
        my $moves = 0;

        while ($go->()) {
            my $to = $moves++ % 2 ? 'acme' : 'beta';
            $conn->cmd('HSET', $redis->key_name($key), 'workspace', $to);
        }

        return $moves;
    });

    my %seen;
    my $asked = 0;
    my $conn = $nginx->connect;

    wait_until(sub {
        my $res = $conn->get('/v1/contacts?limit=2', 'X-API-Key' => $key);
        my ($whose) = grep { $res->body eq $body{$_} } keys %body;
        $seen{ $res->status == 200 && $whose ? $whose : $res->raw }++;
        ++$asked >= ASKED && keys %seen > 1;
    }, BACK);

    my $moves = $mover->end->result;

    is_deeply([ sort keys %seen ], [ qw(acme beta) ],
              "moved $moves times: either workspace's, nothing else");
    $redis->set_key($key, workspace => 'beta');
    ok(wait_until(sub { $nginx->contacts('limit=2', 'X-API-Key' => $key)->body
                        eq $body{beta} }, BACK), 'moved: where it is in the end');
}

$t->finish;
