#!/usr/bin/perl

# The documented limit: so many requests of a key in a minute and none more,
# on one node, however many workers it has; what it tells with each response,
# and what costs nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;
use Convotic::Workers;

use constant {
    LIMIT    => 1000,           # a minute, as documented
    QUESTIONS => 40,            # to Redis for all of these, at most
    REFUSED  => 100,
    BURST    => 300,
    CLIENTS  => 6,
    OF_BURST => 100,            # the limit of who asks so
    BACK     => 15,             # seconds until something has happened, at most
};

my @NAMES = qw(X-RateLimit-Limit X-RateLimit-Remaining);

my $t = Convotic::Test->new(rates => 1);
my $redis = $t->redis->init;
my $up = $t->upstream(handler => sub {
    my ($req, $vars) = @_;

    my $limit = $req->args->{limit};
    my %answer = (
        90 => { status => 404, body =>
                '{"error":{"code":"NOT_FOUND","message":"Not here"}}' },
        91 => { status => 500, body => '<h1>Oops</h1>' },
        92 => { body => '<h1>Welcome</h1>' },
        93 => { status => 429, headers => [ 'Retry-After' => 7 ] },
        94 => { status => 503, headers => [ 'Retry-After' => 7 ] },
        95 => { close => 1, raw => '' },
    );
    my $answer = $answer{$limit}
        || { body => contacts_body(workspace => $req->tenant,
                                   limit => $limit) };

    # another limiter's, which are nothing to our clients

    return { %$answer, headers => [
        @{ $answer->{headers} || [] }, map { ($_ => 7) } @NAMES,
        'RateLimit', 'RateLimit-Policy' ] };
});

my $KNOWN = 'convotic_key_valid 1h; convotic_cache_valid 1h;';
my $STATUS = 'location = /status { convotic_status json; }';
my $OFF = 'location = /off { convotic on; convotic_rate off;'
        . 'proxy_pass http://contacts; }';
my $n = 0;


sub new_key { return $redis->add_key(test_key('key ' . ++$n), @_) }

sub metrics { return $_[0]->get('/status')->json }

# Each begins with EVALSHA; EVAL follows once, as for other scripts.

sub questions { return $redis->calls('EVALSHA') }


# The calls that requests make, and not the connection by itself, nor this test.

sub calls {
    my $calls = $redis->calls;

    delete @$calls{qw(ping role info config|get command client|setinfo)};

    return $calls;
}


sub tracked {
    my ($nginx) = @_;

    return ok(wait_until(sub { metrics($nginx)->{tracking_confirmed} }, BACK),
              $nginx->name . ': tracking is confirmed');
}


# Both headers, each once.

sub rate_is {
    my ($res, $limit, $remaining, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my @told = map { join ',', $res ? $res->header($_) : 'no response' }
        @NAMES;

    return is("@told", "$limit $remaining", "$name: $remaining of $limit");
}


sub no_rate_ok {
    my ($res, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return is_deeply([ map { $_->[0] } grep { $_->[0] =~ /ratelimit/i }
                       $res->headers ], [], "$name: nothing of a rate");
}


# A refusal: Retry-After is the number in the message.

sub refused_ok {
    my ($res, $limit, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    error_is($res, 429, 'RATE_LIMITED',
             qr/\ARate limit exceeded\. Retry after \d+ seconds\.\z/, $name);
    rate_is($res, $limit, 0, $name);

    my ($said) = $res->body =~ / after (\d+) seconds/;
    my @after = $res->header('Retry-After');

    is("@after", defined $said ? $said : 'none',
       "$name: Retry-After as in the message");
    ok("@after" =~ /^[1-9]\d*\z/ && $after[0] <= 60, "$name: 1 to 60");
    is(scalar(my @status = $res->header('Cache-Status')), 1,
       "$name: Cache-Status");

    return;
}


# All that the documented limit allows, one after the other, and then more.

for my $workers (1, 2) {
    my $name = "$workers worker" . ($workers > 1 ? 's' : '');
    my $key = new_key();
    my $g = $t->nginx(
        redis => $redis, upstream => $up, key => $key, workers => $workers,
        http => $KNOWN, server => Convotic::Workers::server_conf(),
    );

    tracked($g);

    # one over a connection that is kept, several over new ones

    my $kept = $workers == 1 ? $g->connect(port => $g->port('each')) : undef;
    my ($first, $asked, @faults, %by);
    my $left = LIMIT;

    my $ask = sub {
        return $kept
            ? $kept->get('/v1/contacts?limit=1', 'X-API-Key' => $key)
            : $g->contacts('limit=1', { port => $g->port('each') });
    };

    $asked = questions() + $redis->calls('EVAL');

    for my $i (1 .. LIMIT) {
        my $res = $ask->();
        my $told = $res->status . ' ' . join ' ', map { $res->header($_) }
            @NAMES;
        my $right = '200 ' . LIMIT . ' ' . --$left;

        $by{ $res->header('X-Pid') }++;
        push @faults, "$i: $told, not $right" if $told ne $right;
    }

    splice @faults, 5, @faults - 5, '...' if @faults > 5;
    is_deeply(\@faults, [], "$name: from " . (LIMIT - 1) . ' to 0');
    is(scalar keys %by, $workers, "$name: by all of them");
    cmp_ok(questions() + $redis->calls('EVAL') - $asked, '<=', QUESTIONS,
           "$name: questions to Redis") if $workers == 1;

    my ($before, $tracking) = (calls(), metrics($g)->{tracking});

    refused_ok($ask->(), LIMIT, "$name: one more");

    my %status;

    $status{ $ask->()->status }++ for 1 .. REFUSED;
    is_deeply(\%status, { 429 => REFUSED }, "$name: and all that follow");

    SKIP: {
        skip 'tracking began anew, and so does all that is known', 2
            if $tracking->{confirmed} != metrics($g)->{tracking}{confirmed};

        is_deeply(calls(), $before, "$name: for which Redis is not asked");
        is(scalar(() = $g->log_lines(qr/nothing is left of the rate of key/)),
           1, "$name: said once");
    }

    is(metrics($g)->{rate}{refused}, REFUSED + 1, "$name: they are counted");
    is(scalar(() = $g->log_lines(qr/is over its rate of 1000 a minute/)),
       REFUSED + 1, "$name: and for each of them");

    # another key

    my $other = new_key();

    rate_is($g->contacts('limit=1', 'X-API-Key' => $other), LIMIT, LIMIT - 1,
            "$name: another key");
    is($ask->()->status, 429, "$name: the first one, still");
    $kept->close if $kept;
    $g->stop;
}


# All responses of a known key cost one and say so; with bodies at hand, and
# with those of Redis alone.

my $SERVER = <<'END' . "$STATUS $OFF";
    location = /uncached { convotic on; convotic_cache off;
                           proxy_pass http://contacts; }
    location = /documented { convotic on; convotic_error_status documented;
                             proxy_pass http://contacts; }
    location = /paged { convotic on; proxy_pass http://contacts;
                        error_page 400 404 429 500 502 503 504 /page.html; }
    location = /named { convotic on; proxy_pass http://contacts;
                        error_page 404 429 502 = @named; }
    location @named { return 200 "named"; }
    location = /down { convotic on; proxy_pass http://127.0.0.1:%%DEAD%%; }
    location = /static { convotic on; }
    location = /gone { convotic on; proxy_pass http://127.0.0.1:%%DEAD%%;
                       error_page 502 503 =200 /page.html; }
    location = /page.html { return 200 "page"; }
END

my %kind = (
    local  => [ '', qr/; hit; .*; detail=local\z/ ],
    stored => [ 'convotic_cache_local 0;', qr/; hit; ttl=\d+\z/ ],
);

for my $kind (sort keys %kind) {
    my ($conf, $hit) = @{ $kind{$kind} };
    my $key = new_key();
    my $gone = new_key();
    my $g = $t->nginx(
        redis => $redis, upstream => $up, key => $key, ssl => 1,
        http => "$KNOWN $conf", server => $SERVER,
        vars => { DEAD => free_port() },
    );

    tracked($g);

    my $left = LIMIT;
    my $tag;

    my @cases = (
        [ 'a miss', 'v1/contacts?limit=2', 200 ],
        [ 'a hit', 'v1/contacts?limit=2', 200 ],
        [ 'no cache', 'uncached?limit=2', 200 ],
        [ 'HEAD', 'v1/contacts?limit=2', 200, { method => 'HEAD' } ],
        [ 'HEAD, a miss', 'v1/contacts?limit=3', 200, { method => 'HEAD' } ],
        [ 'HTTP/1.0', 'v1/contacts?limit=2', 200, { version => '1.0' } ],
        [ 'HTTP/2', 'v1/contacts?limit=2', 200, { h2 => 1 } ],
        [ 'HTTP/2, an error', 'v1/contacts?limit=0', 400, { h2 => 1 } ],
        [ 'gzip', 'v1/contacts?limit=50', 200, {},
          'Accept-Encoding' => 'gzip' ],
        [ 'unchanged', 'v1/contacts?limit=2', 304, {},
          'If-None-Match' => '*' ],
        [ 'unchanged, HEAD', 'v1/contacts?limit=2', 304, { method => 'HEAD' },
          'If-None-Match' => '*' ],
        [ 'a range', 'v1/contacts?limit=2', 206, {}, Range => 'bytes=0-9' ],
        [ 'a parameter', 'v1/contacts?limit=0', 400 ],
        [ 'a parameter twice', 'v1/contacts?limit=1&limit=1', 400 ],
        [ 'a malformed query', 'v1/contacts?%', 400 ],
        [ 'a condition', 'v1/contacts?limit=2', 412, {},
          'If-Match' => '"x"' ],
        [ 'a range of nothing', 'v1/contacts?limit=2', 416, {},
          Range => 'bytes=99999-' ],
        [ 'HEAD of an error', 'v1/contacts?limit=0', 400,
          { method => 'HEAD' } ],
        [ 'not found', 'v1/contacts?limit=90', 404 ],
        [ 'a failure', 'v1/contacts?limit=91', 500 ],
        [ 'a failure, no cache', 'uncached?limit=91', 500 ],
        [ 'garbage', 'v1/contacts?limit=92', 502 ],
        [ "the upstream's own limit", 'v1/contacts?limit=93', 429 ],
        [ 'unavailable', 'v1/contacts?limit=94', 503 ],
        [ 'broken off', 'v1/contacts?limit=95', 502 ],
        [ 'nobody there', 'down?limit=2', 502 ],
        [ 'nobody there, HEAD', 'down?limit=2', 502, { method => 'HEAD' } ],
        [ 'no upstream at all', 'static', 404 ],
        [ 'documented, a failure', 'documented?limit=94', 500 ],
        [ 'documented, a parameter', 'documented?limit=0', 400 ],
        [ 'a page for it', 'paged?limit=90', 404 ],
        [ 'a page for a parameter', 'paged?limit=0', 400 ],
        [ 'a page for garbage', 'paged?limit=92', 502 ],
        [ 'a location for it', 'named?limit=90', 404 ],
        [ 'a page for nobody', 'gone?limit=2', 502 ],
    );

    for my $case (@cases) {
        my ($name, $path, $status, $opt, @headers) = @$case;
        my $res = $g->get("/$path", $opt || {}, 'X-API-Key' => $key, @headers);

        $name = "$kind: $name";
        is($res->status, $status, $name);
        rate_is($res, LIMIT, --$left, $name);
        like($res->header('Cache-Status'), $hit, $name) if $name =~ /a hit\z/;
    }

    # What is refused before the rate: neither a cost nor a word.

    is($g->contacts('limit=2', 'X-API-Key' => $gone)->status, 200,
       "$kind: a key that is good");
    $redis->set_key($gone, status => 'revoked');
    ok(wait_until(sub { $g->contacts('limit=2', 'X-API-Key' => $gone)->status
                        == 401 }, BACK), "$kind: and revoked");

    my @free = (
        [ 'no key', 401, {} ],
        [ 'a malformed key', 401, {}, 'X-API-Key' => 'a b' ],
        [ 'an unknown key', 401, {}, 'X-API-Key' => test_key('nobody') ],
        [ 'a revoked key', 401, {}, 'X-API-Key' => $gone ],
        [ 'a method', 405, { method => 'DELETE' }, 'X-API-Key' => $key ],
        [ 'OPTIONS', 405, { method => 'OPTIONS' }, 'X-API-Key' => $key ],
        [ 'a body', 400, { body => 'x' }, 'X-API-Key' => $key ],
        [ 'two keys', 400, {}, 'X-API-Key' => $key, 'X-API-Key' => $key ],
    );

    for my $case (@free) {
        my ($name, $status, $opt, @headers) = @$case;
        my $asked = questions();

        for my $turn ($opt, { %$opt, h2 => 1 }) {
            my $res = $g->get('/v1/contacts?limit=2', $turn, @headers);
            my $of = "$kind: $name" . ($turn->{h2} ? ', HTTP/2' : '');

            is($res->status, $status, $of);
            no_rate_ok($res, $of);
        }

        is(questions(), $asked, "$kind: $name: no question");
    }

    rate_is($g->contacts('limit=2'), LIMIT, --$left, "$kind: afterwards");

    # Refused in each of these ways, the key is told so and nothing else.

    my $few = new_key(rate => 2);
    my @few = ('X-API-Key' => $few);

    rate_is($g->get('/v1/contacts?limit=2', @few), 2, $_, "$kind: two of two")
        for 1, 0;

    for my $case (
        [ 'a hit', 'v1/contacts?limit=2' ],
        [ 'what is not cached', 'v1/contacts?limit=70' ],
        [ 'HTTP/2', 'v1/contacts?limit=2', { h2 => 1 } ],
        [ 'HEAD', 'v1/contacts?limit=2', { method => 'HEAD' } ],
        [ 'a bad parameter', 'v1/contacts?limit=0' ],
        [ 'documented', 'documented?limit=2' ],
        [ 'no cache', 'uncached?limit=2' ],
        [ 'a page for it', 'paged?limit=2' ],
        [ 'a location for it', 'named?limit=2' ],
        [ 'a condition', 'v1/contacts?limit=2', {}, 'If-None-Match' => '*' ],
    ) {
        my ($name, $path, $opt, @headers) = @$case;
        my $res = $g->get("/$path", $opt || {}, @few, @headers);

        if ($opt && $opt->{method}) {
            is($res->status, 429, "$kind, over: $name");
            rate_is($res, 2, 0, "$kind, over: $name");
            like($res->header('Retry-After'), qr/^[1-9]\d?\z/,
                 "$kind, over: $name: Retry-After");
        } else {
            refused_ok($res, 2, "$kind, over: $name");
        }
    }

    for my $case ([ 'a method', 405, { method => 'PUT' }, @few ],
                  [ 'two keys', 400, {}, @few, @few ])
    {
        my ($name, $status, $opt, @headers) = @$case;
        my $res = $g->get('/v1/contacts', $opt, @headers);

        is($res->status, $status, "$kind, over: $name comes before");
        no_rate_ok($res, "$kind, over: $name");
    }

    # Nothing is limited there, whatever the record says.

    my $asked = questions();

    for my $who (new_key(), new_key(rate => 1), $few) {
        for my $turn (1 .. 3) {
            my $res = $g->get('/off?limit=2', 'X-API-Key' => $who);

            is($res->status, 200, "$kind: off");
            no_rate_ok($res, "$kind: off");
        }
    }

    no_rate_ok($g->get("/off?limit=$_", @few), "$kind: off, limit=$_")
        for 0, 90, 92;
    is(questions(), $asked, "$kind: off, no question");
    $g->stop;
}


# A crowd that comes all at once.

for my $workers (1, 2) {
    my $name = "a crowd, $workers worker" . ($workers > 1 ? 's' : '');
    my $key = new_key(rate => OF_BURST);
    my $g = $t->nginx(
        redis => $redis, upstream => $up, key => $key, workers => $workers,
        http => $KNOWN, server => Convotic::Workers::server_conf(),
    );
    my $each = Convotic::HTTP->new(port => $g->port('each'));

    tracked($g);

    my @all = map { @$_ } parallel(CLIENTS, sub {
        return [ map { $_ ? join ' ', $_->status,
                            map({ $_->header('X-RateLimit-Remaining') } $_)
                          : 'no answer' }
            $each->concurrent([ map { [ '/v1/contacts?limit=2',
                                        'X-API-Key' => $key ] }
                                1 .. BURST / CLIENTS ]) ];
    });
    my @good = sort { $b <=> $a } map { /^200 (\d+)\z/ ? $1 : () } @all;

    is(scalar @good, OF_BURST, "$name: so many are admitted");
    is(scalar(grep { $_ eq '429 0' } @all), BURST - OF_BURST,
       "$name: all others are refused");

    # of several workers two may say at the same time what is left

    is_deeply(\@good, [ reverse 0 .. OF_BURST - 1 ], "$name: each its own")
        if $workers == 1;
    cmp_ok($good[0], '<', OF_BURST, "$name: none says more than is left");
    is(metrics($g)->{rate}{refused}, BURST - OF_BURST, "$name: counted");
    $g->stop;
}


# A client that leaves while Redis is asked on its behalf: what was leased is
# the key's, and who stays, or comes next, has it.

{
    my $fake = $t->fake_redis(behind => $redis);
    my $g = $t->nginx(
        redis => $fake, upstream => $up, server => "$STATUS $OFF",
        http => "$KNOWN convotic_redis %%REDIS%% connect_timeout=20s "
                . 'timeout=20s; log_format s "$http_x_id $status";'
                . 'access_log %%DIR%%/ends.log s;',
    );

    tracked($g);

    for my $way (qw(close reset)) {
        for my $who ('alone', 'not alone') {
            my $name = "$way, $who";
            my $rate = $who eq 'alone' ? 1 : 2;
            my $changes = metrics($g)->{invalidations}{key};
            my @key = ('X-API-Key' => new_key(rate => $rate));

            # what is told of the new record is not to come behind its look-up

            wait_until(sub { metrics($g)->{invalidations}{key} > $changes }, BACK);

            my @clients = $who eq 'alone' ? 'goes' : qw(goes stays);

            # its record and the body are known: the rate is all that is asked

            is($g->get('/off?limit=2', @key)->status, 200, "$name: known");
            is($g->get('/v1/contacts?limit=2', @key)->status, 200,
               "$name: the first of two") if $rate == 2;
            $fake->reset;
            $redis->sigstop;

            my %conn;

            for my $client (@clients) {
                $conn{$client} = $g->connect;
                $conn{$client}->write(Convotic::HTTP::request_text(
                    '/v1/contacts?limit=2', {}, 'X-Id' => "$name, $client",
                    @key));
                ok(wait_until(sub { $fake->count('EVALSHA') }, BACK),
                   "$name: Redis is asked");
            }

            $conn{goes}->$way;
            ok(wait_until(sub { $g->access_log('ends.log')
                                =~ /^$name, goes 499$/m }, BACK),
               "$name: its request ends");
            $redis->cont;

            my $res = $conn{stays} ? $conn{stays}->read('GET', BACK)
                    : $g->get('/v1/contacts?limit=2', @key);

            is($res ? $res->status : 'none', 200, "$name: a good answer");
            rate_is($res, $rate, 0, "$name: with what the other one left");
            is($fake->count('EVALSHA'), 1, "$name: of one question");
            refused_ok($g->get('/v1/contacts?limit=2', @key), $rate,
                       "$name: there is no more than that");
        }
    }

    $g->stop;
}

$t->finish;
