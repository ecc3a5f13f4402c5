#!/usr/bin/perl

# An upstream that is not told the workspace, or another one, is not believed.

use strict;
use warnings;

use Convotic::Test;

my $t = Convotic::Test->new(direct => 1);

for my $value ('""', 'evil', '$http_x_workspace') {
    my $g = $t->gateway(
        server => "proxy_set_header X-Convotic-Workspace $value;");

    for my $time (1, 2) {
        error_is($g->contacts('limit=3', {}, 'X-Workspace' => 'evil'), 500,
                 'INTERNAL_ERROR', 'An unexpected error occurred',
                 "proxy_set_header X-Convotic-Workspace $value, $time");
    }

    ok($g->wait_log(qr/took the workspace from its request/), 'logged');
    is(scalar(my @names = $g->redis->names('convotic:body:*')), 0,
       'not stored');
}

my $own = $t->gateway(
    server => 'proxy_set_header X-Convotic-Workspace $convotic_workspace;');

success_is($own->contacts('limit=3'),
           contacts_body(workspace => 'acme', limit => 3), 'our own variable');

$t->finish;
