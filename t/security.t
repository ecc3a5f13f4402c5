#!/usr/bin/perl

# What docs/security.md says and no other test shows: that a key is told from
# another by its digest alone, that nothing of a client's is a command or a name
# in Redis, that the upstream cannot send the gateway anywhere, that one crowd
# is bounded, and what exactly whoever can write bodies is believed.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    BACK    => 10,              # seconds until something has happened, at most
    TRIED   => 40,              # keys of each kind
    CROWD   => 80,              # clients
    WAITING => 64,              # of them, half of worker_connections
};

my $PATIENT = 'convotic_redis %%REDIS%% connect_timeout=20s timeout=20s;';

my $t = Convotic::Test->new;
my $up = $t->upstream;
my $redis = $t->redis->init;
my %key = map { $_ => $redis->add_key(test_key($_), workspace => $_) }
    qw(acme umbra);


sub ask {
    my ($nginx, $who, $query, @headers) = @_;

    return $nginx->contacts($query, 'X-API-Key' => $key{$who}, @headers);
}


sub metrics { return $_[0]->get('/status')->json }


sub body {
    my ($who, $limit) = @_;

    return contacts_body(workspace => $who, limit => $limit);
}


# The connections for commands, less what a worker asks by itself.

sub commands_of {
    my ($sub) = @_;

    my %client;

    for my $client (split /\n/, $redis->cmd('CLIENT', 'LIST')) {
        my ($addr) = $client =~ / addr=(\S+)/;
        $client{$addr} = 1
            if $client =~ / name=ngx_convotic-/ && $client !~ /-tracking /;
    }

    return grep { !/^"(?:ROLE|INFO)"/ } map { s/^\S+ \[\d+ (\S+)\] //r }
           grep { / \[\d+ (\S+)\] / && $client{$1} } $redis->monitor($sub);
}


my $nginx = $t->nginx(
    redis => $redis, upstream => $up, http => "$PATIENT convotic_key_valid 1h;"
          . 'convotic_forward_args cursor; convotic_key_invalid 1h;',
    server => 'location = /status { convotic_status json; }',
);

ok(wait_until(sub { metrics($nginx)->{tracking_confirmed} }, BACK),
   'tracking is confirmed');
success_is(ask($nginx, $_, 'limit=3'), body($_, 3), "$_: a good key")
    for qw(acme umbra);


# A key is hashed before anything is compared with it.  One that differs from a
# good one in its last character costs what any other costs, and says as much.

{
    my @digits = (0 .. 9, 'A' .. 'Z', 'a' .. 'z');
    my %tried = (
        'nothing in common' => [ map { test_key("unknown $_") } 1 .. TRIED ],
        'all but the last'  => [ map { substr($key{acme}, 0, -1) . $_ } @digits ],
        'all but the first' => [ map { $_ . substr $key{acme}, 1 } @digits ],
    );
    my (%commands, %answers);

    for my $kind (sort keys %tried) {
        my @keys = (grep { $_ ne $key{acme} } @{ $tried{$kind} })[ 0 .. TRIED - 1 ];
        my @first = commands_of(sub {
            for my $key (@keys) {
                my $res = $nginx->contacts('', 'X-API-Key' => $key);
                $answers{ $res->raw =~ s/^Date: .*\r\n//mr }{$kind}++;
            }
        });

        $commands{ join "\n", map { s/[0-9a-f]{64}/DIGEST/r } @first }{$kind}++;
        is(scalar @first, 3 * TRIED, "$kind: three commands for each");
        is(scalar(my @again = commands_of(sub {
               $nginx->contacts('', 'X-API-Key' => $_) for @keys;
           })), 0, "$kind: and none when it is tried again");
    }

    is(scalar keys %commands, 1, 'near or far: the same commands');
    is(scalar keys %answers, 1, 'near or far: the same answer');
}


# What a client sends is no command, no name and no line.

{
    my $evil = '%0D%0A*1%0D%0A%248%0D%0AFLUSHALL%0D%0A';
    my $line = '%0Aworkspace%20umbra%0Alength%200%0A%0A';
    my %asked = (GET => 1, SET => 1, EVALSHA => 1, EVAL => 1);

    $redis->cmd('SET', 'witness', 'here');

    my @commands = commands_of(sub {
        for my $cursor ($evil, $line, '%00', '{umbra}', '*', "x' .. 'y") {
            my $query = 'limit=3&cursor=' . ($cursor =~ s/ /%20/gr);
            success_is(ask($nginx, 'acme', $query), body('acme', 3),
                       "a query for Redis: $cursor");
        }

        my @raw = $nginx->raw("GET /v1/contacts HTTP/1.1\r\nHost: localhost\r\n"
                              . "X-API-Key: $key{acme}\r\n*1\r\n\$8\r\nFLUSHALL"
                              . "\r\nConnection: close\r\n\r\n");
        success_is($raw[0], body('acme', 20), 'a header for Redis');
    });
    my @other = grep { my ($name) = /^"(\w+)"/; !$asked{$name} } @commands;
    my @names = map { /^"(?:GET|SET)" "([^"]*)"/ } @commands;

    is_deeply(\@other, [], 'no command that the gateway does not have');
    is_deeply([ grep { !/^convotic:gen:\{acme\}\z/ }
                grep { !/^convotic:(?:body|lock):v1:\{acme\}:[0-9a-f]{64}\z/ }
                @names ], [], 'no name but its own workspace and a digest');
    is($redis->cmd('GET', 'witness'), 'here', 'nothing was flushed');

    my @lines = grep { /^query .*cursor=/ } map { split /\n/ }
        map { $redis->cmd('GET', $_) } $redis->names('convotic:body:*');

    cmp_ok(scalar @lines, '>=', 5, 'bodies of such queries are kept');
    is_deeply([ grep { /[^!-~ ]/ } @lines ], [], 'each of them in one line');
    success_is(ask($nginx, 'umbra', "limit=3&cursor=$line"), body('umbra', 3),
               'and another workspace has its own');
}


# An entity tag of another workspace's is not one's own.

{
    my $tag = ask($nginx, 'acme', 'limit=3')->header('ETag');

    is(ask($nginx, 'acme', 'limit=3', 'If-None-Match' => $tag)->status, 304,
       'an entity tag');
    success_is(ask($nginx, 'umbra', 'limit=3', 'If-None-Match' => $tag),
               body('umbra', 3), 'and the same of another workspace');
}


# The metrics are for whoever may ask for them: they name nobody.

{
    my $text = $nginx->get('/status')->raw;
    my @named = grep { index($text, $_) >= 0 } 'acme', 'umbra', values %key,
        map { my $hash = sha256_hex($_); ($hash, substr($hash, 0, 8)) } values %key;

    is_deeply(\@named, [], 'the metrics have no workspace and no key');
}

$nginx->stop;


# A password in a file is in nothing that nginx shows of its configuration.

{
    my $file = $t->write_file('redis.password', "Zx9-of-the-file\n");
    my $shown = $t->nginx(redis => $redis, upstream => $up, start => 0,
        http => 'convotic_redis redis://user@' . $redis->addr
                . "/0 password_file=$file;");
    my $result = $t->run([ Convotic::Nginx::binary(), '-T', '-p', $shown->dir . '/',
                           '-c', $shown->dir . '/nginx.conf' ]);

    is($result->{exit}, 0, 'nginx -T');
    like($result->{out}, qr/password_file/, 'nginx -T: shows the name of the file');
    unlike("$result->{out}$result->{err}", qr/of-the-file/, 'and not what is in it');
}


# Wherever the upstream points to, nobody goes there.

{
    my $inner = $t->upstream(name => 'inner');
    my $there = 'http://' . $inner->addr . '/v1/contacts';
    my @ways = (
        (map { [ $_, Location => $there ] } 201, 301, 302, 303, 307, 308),
        [ 200, 'X-Accel-Redirect' => '/inner' ],
        [ 200, 'X-Accel-Redirect' => '@inner' ],
        [ 200, 'X-Accel-Redirect' => $there ],
        [ 302, 'X-Accel-Redirect' => '/inner', Location => $there ],
        [ 404, 'X-Accel-Redirect' => '/inner' ],
        [ 503, 'X-Accel-Redirect' => '@inner', Refresh => "0; $there" ],
        [ 200, Refresh => "0; url=$there", 'Content-Location' => $there ],
        [ 200, Link => "<$there>; rel=preload" ],
    );
    my $pointing = $t->upstream(handler => sub {
        my ($req) = @_;

        my ($status, @headers) = @{ $ways[ $req->args->{limit} - 1 ] };

        return { status => $status, headers => \@headers,
                 body => body($req->tenant, $req->args->{limit}) };
    });
    my $g = $t->nginx(redis => $redis, upstream => $pointing, http => $PATIENT,
        server => 'location /inner { proxy_pass http://' . $inner->addr . '; }'
                . 'location @inner { proxy_pass http://' . $inner->addr . '; }');

    $redis->cmd('DEL', $redis->names('convotic:body:*'));

    for my $i (0 .. $#ways) {
        my $res = ask($g, 'acme', 'limit=' . ($i + 1));
        my @shown = grep { $res->header($_) }
            qw(Location Refresh Content-Location X-Accel-Redirect);
        my $name = join ' ', @{ $ways[$i] }[ 0, 1 ];

        is_deeply(\@shown, [], "$name: not passed on");
        is($res->status, "@{ $ways[$i] }" =~ /^200 (?:Refresh|Link)/ ? 200 : 502,
           "$name: the status");
    }

    is($inner->count, 0, 'nobody was asked for what the upstream points to');
    cmp_ok($pointing->count, '>=', scalar @ways, 'and the upstream for all');
    $g->stop;
}


# A crowd: as many wait as there is room for, the others are told so at once.

{
    my $g = $t->nginx(
        redis => $redis, upstream => $up, events => 'worker_connections 128;',
        http => "$PATIENT convotic_key_valid 1h;",
        server => 'location = /status { convotic_status json; }',
        location => 'convotic_cache_lock_timeout 60s; convotic_fill_timeout 60s;'
                  . 'proxy_read_timeout 60s;',
    );

    success_is(ask($g, 'acme', 'limit=4'), body('acme', 4), 'before the crowd');
    $up->reset;
    $up->set(hold => 1);

    my $text = Convotic::HTTP::request_text('/v1/contacts?limit=9',
        { }, 'X-API-Key' => $key{acme});
    my @conns = map { $g->connect } 1 .. CROWD;

    $conns[0]->write($text);
    ok(wait_until(sub { $up->count == 1 }, BACK), 'a crowd: one leads');
    $_->write($text) for @conns[ 1 .. $#conns ];

    ok(wait_until(sub { metrics($g)->{waiting} == WAITING }, BACK),
       'a crowd: so many wait');

    my @rest = @conns[ WAITING + 1 .. $#conns ];
    my @told = grep { $_ } map { $_->read('GET', BACK) } @rest;

    is(scalar(grep { !$_->error_faults(503, 'INTERNAL_ERROR')
                     && $_->header('Retry-After') } @told),
       CROWD - WAITING - 1, 'a crowd: the others get 503 while these wait');
    is($up->count, 1, 'a crowd: one question to the upstream');

    $up->set(hold => 0);
    $up->release;

    my @served = grep { $_ && $_->status == 200 && $_->body eq body('acme', 9) }
                 map { $_->read('GET', BACK) } @conns[ 0 .. WAITING ];

    is(scalar @served, WAITING + 1, 'a crowd: who waited is served');
    is(metrics($g)->{waiting}, 0, 'a crowd: and nobody waits');
    $g->stop;
}


# Who can write bodies is believed what a body may say, for that workspace and
# query, until the next purge; nothing of it is a header of his choice.

{
    my $g = $t->nginx(redis => $redis, upstream => $up,
        http => "$PATIENT convotic_cache_local 0;");

    $redis->cmd('DEL', $redis->names('convotic:body:*'));
    $up->set(version => 2);

    my $true = contacts_body(workspace => 'acme', limit => 6, version => 2);
    my $name;

    success_is(ask($g, 'acme', 'limit=6'), $true, 'a body');
    ok(wait_until(sub { ($name) = $redis->names('convotic:body:*') }, BACK),
       'and its envelope');

    my $forged = '{"forged":"no document of the service\'s"}';
    my $envelope = $redis->cmd('GET', $name)
        =~ s/^length \d+\ngzip .*\n\n.*/"length " . length($forged) . "\ngzip 0\n\n$forged"/smer
        =~ s/^fresh \d+/fresh 999999999999999/mr;

    $redis->cmd('SET', $name, $envelope, 'PX', 3_600_000);

    my $res = ask($g, 'acme', 'limit=6');

    is($res->body, $forged, 'forged: its bytes are served, as the documentation says');
    is($res->header('Content-Type'), 'application/json', 'forged: as JSON, no page');
    is(ask($g, 'umbra', 'limit=6')->body,
       contacts_body(workspace => 'umbra', limit => 6, version => 2),
       'forged: to nobody else');

    $redis->purge('acme');
    ok(wait_until(sub { ask($g, 'acme', 'limit=6')->body eq $true }, BACK),
       'forged: until the next purge');

    $redis->cmd('SET', $name, $envelope, 'PX', 3_600_000);
    success_is(ask($g, 'acme', 'limit=6'), $true,
               'forged: an old generation is none');
    $g->stop;
}

$t->finish;
