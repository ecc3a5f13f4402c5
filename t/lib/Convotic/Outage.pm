package Convotic::Outage;

use strict;
use warnings;

use Exporter qw(import);

use Convotic::Process;
use Convotic::Test;

use constant BACK => 10;        # seconds until it is well again, at most

our @EXPORT = qw(
    BACK outage timeouts gateway away_ok back_ok faults_of_away complaints
);

my ($t, $up, $key, $body);


sub outage {
    ($t) = @_;

    $up = $t->upstream;
    $key = test_key('acme');
    $body = contacts_body(workspace => 'acme', limit => 5);

    my $redis = $t->redis('keys');

    $redis->init;
    $redis->add_key($key, workspace => 'acme');

    return (redis => $redis, upstream => $up, key => $key, body => $body);
}


sub timeouts {
    my $ms = 500 * $Convotic::Process::FACTOR;

    return "connect_timeout=${ms}ms timeout=${ms}ms";
}


sub gateway {
    my (%arg) = @_;

    $arg{http} ||= "convotic_redis %%REDIS%% ${\timeouts()};";

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

    local $Test::Builder::Level = $Test::Builder::Level + 1;

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

    local $Test::Builder::Level = $Test::Builder::Level + 1;

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


1;

__END__

=head1 NAME

Convotic::Outage - gateways whose Redis cannot say whether a key is good

=head1 SYNOPSIS

    my $t = Convotic::Test->new(direct => 1);
    my %scene = outage($t);
    my $fake = $t->fake_redis(behind => $scene{redis});
    my $nginx = gateway(redis => $fake);

    $fake->script(HGETALL => "-LOADING\r\n");
    away_ok($nginx, 'loading');
    $fake->clear;
    back_ok($nginx, 'loaded');

=head1 DESCRIPTION

A test calls C<outage()> once, before all others.

=over

=item outage($t)

Starts a Redis with one key of the workspace acme, and an upstream.  Returns
both as C<redis> and C<upstream>, the C<key>, and the C<body> of the answer to
C<limit=5>.

=item timeouts

Parameters of C<convotic_redis> that make an outage short.

=item gateway(%arg)

An nginx of C<< $t->nginx(%arg) >> with that upstream and key, and with these
timeouts unless C<http> says otherwise.

=item away_ok($gateway, $name)

Every key gets 503 with Retry-After, and the upstream is not asked.

=item back_ok($gateway, $name)

The key is let in within C<BACK> seconds.

=item faults_of_away($response)

What keeps a response from being such a 503.

=item complaints($gateway)

The lines of its log from "warn" up.

=back

=cut
