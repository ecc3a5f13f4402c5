#!/usr/bin/perl

# Answers of the upstream that are no errors and not what is documented: each
# is refused in the documented shape, never cached, and costs neither the
# client's connection nor a temporary file.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    MAX       => 16384,                 # convotic_cache_max_size here
    BATCH     => 100,                   # connections at the same time
    PROCESSES => 4,
    PATIENCE  => 150,                   # s, for all of them
};

my @INVALID = (502, 'INTERNAL_ERROR',
               'The upstream service gave no valid answer');
my @LATE = (504, 'INTERNAL_ERROR',
            'The upstream service did not answer in time');

# What a refusal may carry beside its body.

my $OWN_HEADER = qr/^(?: Server | Date | Content-Type | Content-Length
                        | Connection | Cache-Status | X-RateLimit-\w+ )\z/xi;

my $GOOD = contacts_body(workspace => 'acme', limit => 20, total => 12);


# A body of exactly this size.

sub sized {
    my ($size) = @_;

    my ($head, $tail) = ('{"contacts":[],"total":0,"pad":"', '","limit":20}');

    return $head . 'x' x ($size - length $head . $tail) . $tail;
}


# A document like the good one with other bytes in some place.

sub changed {
    my ($from, $to) = @_;

    my $body = $GOOD;
    $body =~ s/$from/$to/ or die "no $from\n";

    return $body;
}


sub with {
    my ($name, $value, %spec) = @_;

    return { body => $GOOD, headers => [ $name => $value ], %spec };
}


sub status {
    my ($status, %spec) = @_;

    return { status => $status, body => $GOOD, %spec };
}


# Bodies: name => bytes.

my %body = (
    'HTML'                    => '<html><body>Please wait</body></html>',
    'plain text'              => 'OK',
    'nothing'                 => '',
    'blanks'                  => "  \r\n",
    'null'                    => 'null',
    'true'                    => 'true',
    'a number'                => '20',
    'a string'                => '"contacts"',
    'an array'                => '[]',
    'an array of the object'  => "[$GOOD]",
    'an empty object'         => '{}',
    'an error in a 200'       => '{"error":{"code":"X","message":"leak"}}',
    'truncated by a byte'     => substr($GOOD, 0, -1),
    'truncated by half'       => substr($GOOD, 0, length($GOOD) / 2),
    'a byte too many'         => $GOOD . 'x',
    'a brace too many'        => $GOOD . '}',
    'two documents'           => $GOOD . $GOOD,
    'a byte before it'        => 'x' . $GOOD,
    'a NUL after it'          => "$GOOD\0",
    'no contacts'             => changed(qr/"contacts"/, '"people"'),
    'contacts in capitals'    => changed(qr/"contacts"/, '"Contacts"'),
    'contacts null'           => '{"contacts":null,"total":0,"limit":20}',
    'contacts an object'      => '{"contacts":{},"total":0,"limit":20}',
    'contacts a string'       => '{"contacts":"[]","total":0,"limit":20}',
    'contacts one level down' => qq({"data":$GOOD,"total":1,"limit":20}),
    'no total'                => changed(qr/"total"/, '"count"'),
    'total a string'          => changed(qr/"total":(\d+)/, '"total":"9"'),
    'total null'              => changed(qr/"total":(\d+)/, '"total":null'),
    'total true'              => changed(qr/"total":(\d+)/, '"total":true'),
    'no limit'                => changed(qr/"limit"/, '"max"'),
    'limit a string'          => changed(qr/"limit":20/, '"limit":"20"'),
    'limit null'              => changed(qr/"limit":20/, '"limit":null'),
    'limit an array'          => changed(qr/"limit":20/, '"limit":[20]'),
    'contacts twice'          => changed(qr/^\{/, '{"contacts":[],'),
    'limit twice'             => changed(qr/^\{/, '{"limit":20,'),
    'single quotes'           => $GOOD =~ tr/"/'/r,
    'NaN'                     => changed(qr/"total":(\d+)/, '"total":NaN'),
    'a number with a zero'    => changed(qr/"total":(\d+)/, '"total":012'),
    'a hexadecimal number'    => changed(qr/"total":(\d+)/, '"total":0x1'),
    'a trailing comma'        => changed(qr/\}\z/, ',}'),
    'a comment'               => changed(qr/^\{/, '{/* x */'),
    'a raw newline'           => changed(qr/no\. 1"/, qq(no.\n1")),
    'a raw NUL'               => changed(qr/no\. 1"/, qq(no.\0 1")),
    'a bad escape'            => changed(qr/no\. 1"/, 'no.\x31"'),
    'bad UTF-8'               => changed(qr/no\. 1"/, qq(no. \xff")),
    'UTF-8 cut short'         => changed(qr/no\. 1"/, qq(no. \xe0\xb8")),
    'overlong UTF-8'          => changed(qr/no\. 1"/, qq(no. \xc0\xaf")),
    'a surrogate in UTF-8'    => changed(qr/no\. 1"/, qq(no. \xed\xa0\x80")),
    'a byte order mark'       => "\xef\xbb\xbf$GOOD",
    'UTF-16'                  => join('', map { "$_\0" } split //, $GOOD),
    'too deep'                => changed(qr/^\{/, '{"x":' . '[' x 7000
                                                  . ']' x 7000 . ','),
    'deep and never closed'   => '[' x 16000,
    'larger by a byte'        => sized(MAX + 1),
    'larger by far'           => sized(20 * MAX),
);

# Answers: name => what the upstream does.

my %answer = (
    (map { ("body, $_" => { body => $body{$_} }) } keys %body),
    (map { ("chunked, $_" => { body => $body{$_}, chunked => 1 }) }
        'nothing', 'HTML', 'truncated by half', 'larger by a byte',
        'larger by far'),
    (map { ("to the end, $_" => { body => $body{$_}, no_length => 1,
                                  close => 1 }) }
        'nothing', 'HTML', 'truncated by half', 'larger by a byte',
        'larger by far'),

    (map { ("status $_" => status($_, headers => [ Location => '/leak' ])) }
        qw(201 202 203 205 226 299 300 301 302 303 307 308 399)),
    (map { ("status $_" => { status => $_ }) } qw(204 304)),
    (map { ("status $_" => status($_, close => 1)) }
        qw(000 001 099 101 102 199 600 700 999)),
    'status 206' => status(206, headers => [
        'Content-Range' => 'bytes 0-' . (length($GOOD) - 1) . '/*' ]),
    'status 100 and no more' => { raw => "HTTP/1.1 100 Continue\r\n\r\n",
                                  close => 1 },

    'encoded, gzip'      => with('Content-Encoding' => 'gzip'),
    'encoded, GZIP'      => with('CONTENT-ENCODING' => 'GZIP'),
    'encoded, deflate'   => with('Content-Encoding' => 'deflate'),
    'encoded, br'        => with('Content-Encoding' => 'br'),
    'encoded twice'      => with('Content-Encoding' => 'identity, gzip'),
    'encoded, two lines' => { body => $GOOD, headers => [
        'Content-Encoding' => 'identity', 'Content-Encoding' => 'gzip' ] },

    'workspace, another'     => with('X-Convotic-Workspace' => 'other'),
    'workspace, none'        => with('X-Convotic-Workspace' => ''),
    'workspace, capitals'    => with('X-Convotic-Workspace' => 'ACME'),
    'workspace, longer'      => with('X-Convotic-Workspace' => 'acme2'),
    'workspace, a list'      => with('X-Convotic-Workspace' => 'acme, other'),
    'workspace, lower case'  => with('x-convotic-workspace' => 'other'),
    'workspace, two lines'   => { body => $GOOD, headers => [
        'X-Convotic-Workspace' => 'acme', 'X-Convotic-Workspace' => 'other',
    ] },
    'workspace, chunked'     => with('X-Convotic-Workspace' => 'other',
                                     chunked => 1),
    'workspace, with a 404'  => with('X-Convotic-Workspace' => 'other',
                                     status => 404),
    'workspace, with a 500'  => with('X-Convotic-Workspace' => 'other',
                                     status => 500),

    (map { ("redirected to $_" => with('X-Accel-Redirect' => $_)) }
        qw(/ordinary /static /returned /v1/contacts /on-1.1 @named /nowhere
           /ordinary?limit=1 /../x http://127.0.0.1/ordinary), '', 'x'),
    'redirected, no body' => { headers => [ 'X-Accel-Redirect' =>
                                            '/ordinary' ] },

    'no header'             => { raw => $GOOD, close => 1 },
    'another protocol'      => { raw => "SSH-2.0-OpenSSH_9.2\r\n", close => 1 },
    'an empty line'         => { raw => "\r\n", close => 1 },
    'half a header'         => { raw => "HTTP/1.1 200 OK\r\nContent-Le",
                                 close => 1 },
    'a status line alone'   => { raw => "HTTP/1.1 200 OK\r\n", close => 1 },
    'a bad status line'     => { raw => "HTTP/1.1 two OK\r\n\r\n$GOOD",
                                 close => 1 },
    'a bad header'          => with("X-Bad\0" => 'x'),
    'too large a header'    => with('X-Large' => 'x' x 70000),
    'closed at once'        => { raw => '', close => 1 },
    'reset at once'         => { raw => '', rst => 1 },

    'a length too long'     => with('Content-Length' => length($GOOD) + 1,
                                    close => 1),
    'a length too short'    => with('Content-Length' => length($GOOD) - 1,
                                    close => 1),
    'a length of 0'         => with('Content-Length' => 0, close => 1),
    'cut, with a length'    => { body => $GOOD, cut => 100 },
    'cut, no byte of body'  => { body => $GOOD, cut => 0 },
    'cut in chunks'         => { body => $GOOD, chunked => 1, cut => 100 },
    'cut before the last chunk' => { body => $GOOD, chunked => 1,
                                     cut => length($GOOD) + 7 },
    'cut within the last chunk' => { body => $GOOD, chunked => 1,
                                     cut => length($GOOD) + 8 },
    'reset in a body'       => { raw => "HTTP/1.1 200 OK\r\nContent-Length: "
                                        . length($GOOD) . "\r\n\r\n"
                                        . substr($GOOD, 0, 200),
                                 close_delay => 0.02, rst => 1 },
);

# Chunks that are none.

for my $case (
    [ 'size, no number'     => "xyz\r\n$GOOD\r\n0\r\n\r\n" ],
    [ 'size, negative'      => "-5\r\n$GOOD\r\n0\r\n\r\n" ],
    [ 'size, beyond 64 bits' => "1ffffffffffffffff\r\n$GOOD\r\n0\r\n\r\n" ],
    [ 'size, far too large' => "7fffffffffffffff\r\n$GOOD" ],
    [ 'size, none'          => "\r\n$GOOD\r\n0\r\n\r\n" ],
    [ 'no chunks'           => $GOOD ],
    [ 'too short a size'    => sprintf("%x\r\n%s\r\n0\r\n\r\n",
                                       length($GOOD) - 1, $GOOD) ],
    [ 'too long a size'     => sprintf("%x\r\n%s\r\n0\r\n\r\n",
                                       length($GOOD) + 2, $GOOD) ],
    [ 'no end of a chunk'   => sprintf("%x\r\n%s0\r\n\r\n",
                                       length $GOOD, $GOOD) ],
) {
    my ($name, $bytes) = @$case;

    $answer{"chunks, $name"} = {
        raw   => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n$bytes",
        close => 1,
    };
}

# Answers that do not end within convotic_fill_timeout, which is short there.

my %slow = (
    'never answers'     => { hang => 1 },
    'a trickled header' => with('X-Large' => 'x' x 3000,
                                trickle => { bytes => 1, interval => 0.03 }),
    'a trickled body'   => { body => $GOOD,
                             trickle => { bytes => 160, interval => 0.2 } },
    'trickled chunks'   => { body => $GOOD, chunked => [ split //, $GOOD ],
                             trickle => { bytes => 200, interval => 0.1 } },
    'trickled blanks'   => { body => $GOOD . ' ' x 9000, no_length => 1,
                             trickle => { bytes => 1000, interval => 0.1 } },
    'the end is missing' => { raw => "HTTP/1.1 200 OK\r\n"
                                     . "Transfer-Encoding: chunked\r\n\r\n"
                                     . sprintf("%x\r\n%s\r\n",
                                               length $GOOD, $GOOD),
                             close_delay => 5 },
    'one byte and no more' => { raw => "HTTP/1.1 200 OK\r\n"
                                       . "Content-Length: 100\r\n\r\n{",
                                close_delay => 5 },
);

# Answers that are good after all: name => [what, its bytes, is it cached].

my %good = (
    'exactly as large as allowed' => [ { body => sized(MAX) }, sized(MAX), 1 ],
    'exactly as large, chunked'   => [ { body => sized(MAX), chunked => 1 },
                                       sized(MAX), 1 ],
    'exactly as large, to the end' => [ { body => sized(MAX), no_length => 1,
                                          close => 1 }, sized(MAX), 1 ],
    'in many chunks'  => [ { chunked => [ $GOOD =~ /(.{1,7})/gs ] }, $GOOD, 1 ],
    'with a trailer'  => [ {
        raw => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
               . sprintf("%x;x=y\r\n%s\r\n0\r\nX: y\r\n\r\n",
                         length $GOOD, $GOOD),
    }, $GOOD, 1 ],
    'byte by byte'    => [ { body => $GOOD, trickle => { bytes => 97,
                                                         interval => 0.001 } },
                           $GOOD, 1 ],
    'blanks around'   => [ { body => " \n$GOOD\r\n" }, " \n$GOOD\r\n", 1 ],
    'as text/html'    => [ with('Content-Type' => 'text/html'), $GOOD, 1 ],
    'identity'        => [ with('Content-Encoding' => 'identity'), $GOOD, 1 ],
    'our workspace'   => [ with('X-Convotic-Workspace' => 'acme'), $GOOD, 1 ],
    'an HTTP/1.0 answer' => [ { raw => "HTTP/1.0 200 OK\r\n\r\n$GOOD",
                                close => 1 }, $GOOD, 1 ],
    'a nested field'  => [ { body => changed(qr/^\{/, '{"x":' . '[' x 500
                                                      . ']' x 500 . ',') },
                           changed(qr/^\{/, '{"x":' . '[' x 500 . ']' x 500
                                            . ','), 1 ],
    'its limit 20.0'  => [ { body => changed(qr/"limit":20/, '"limit":20.0') },
                           changed(qr/"limit":20/, '"limit":20.0'), 1 ],
    map { ("its limit $_" => [
        { body => changed(qr/"limit":20/, qq("limit":$_)) },
        changed(qr/"limit":20/, qq("limit":$_)), 0,
    ]) } qw(10 0 -20 20.5 200 1e3 20000000000000000000),
);


# Interim answers, and a second answer behind the first.

my $OK = "HTTP/1.1 200 OK\r\nContent-Length: " . length($GOOD) . "\r\n";

my %odd = (
    '103' => { raw => "HTTP/1.1 103 Early Hints\r\nLink: </leak>\r\n\r\n"
                      . "$OK\r\n$GOOD", close => 1 },
    '100' => { raw => "HTTP/1.1 100 Continue\r\n\r\n$OK\r\n$GOOD",
               close => 1 },
    'two' => { raw => "$OK\r\n$GOOD$OK" . "X-Convotic-Workspace: beta\r\n\r\n"
                      . $GOOD =~ s/acme/leak/gr },
);


# The upstream is told by a parameter what to answer.

my %plan = (%answer, %slow, %odd, (map { ($_ => $good{$_}[0]) } keys %good));
my @plan = sort keys %plan;
my %number = map { ($plan[$_] => $_) } 0 .. $#plan;

my $t = Convotic::Test->new(direct => 1);
my $redis = $t->redis;
my $other = $t->upstream(name => 'other');
my $up = $t->upstream(handler => sub {
    my ($req) = @_;

    my $n = $req->args->{plan};

    return $plan{ $plan[$n] } if defined $n;
    return contacts_body(workspace => $req->tenant, limit => 20, total => 12);
});

my $HAS_HINTS = Convotic::Nginx::has_version('1.29.0');
my @PLACES = qw(on-1.1 on-1.0 off-1.1 off-1.0);
my $locations = '';

for my $place (@PLACES) {
    my ($buffering, $version) = split /-/, $place;

    for my $kind ('', 'slow-') {
        my $more = $kind ? 'convotic_fill_timeout 300ms;' : '';

        $locations .= <<"EOL";
    location = /$kind$place {
        convotic on;
        $more
        proxy_buffering $buffering;
        proxy_buffer_size 4k;
        proxy_buffers 2 4k;
        proxy_busy_buffers_size 4k;
        proxy_http_version $version;
        proxy_set_header Connection "";
        proxy_pass http://contacts;
    }
EOL
    }
}

my $g = $t->gateway(
    redis => $redis, upstream => $up, ssl => 1,
    vars   => {
        OTHER       => $other->addr,
        EARLY_HINTS => $HAS_HINTS ? 'early_hints 1;' : '',
    },
    http   => 'convotic_redis %%REDIS%% connect_timeout=5s timeout=5s;'
              . 'convotic_cache_max_size ' . MAX . ';'
              . 'convotic_forward_args plan;',
    server => $locations . <<'EOC',
    location = /hints {
        convotic on;
        %%EARLY_HINTS%%
        proxy_pass http://contacts;
    }

    location = /timeout {
        convotic on;
        proxy_read_timeout 200ms;
        proxy_pass http://contacts;
    }

    location = /refused {
        convotic on;
        proxy_pass http://127.0.0.1:%%PORT_closed%%;
    }

    location = /unresolved {
        convotic on;
        set $name nowhere;
        proxy_pass http://$name;
    }

    location = /ignored {
        convotic on;
        proxy_ignore_headers X-Accel-Redirect;
        proxy_pass http://contacts;
    }

    # Places to be redirected to.

    location = /ordinary { proxy_pass http://%%OTHER%%; }
    location = /returned { return 200 '{"contacts":[],"total":0,"limit":20}'; }
    location = /static   { root %%DIR%%; }
    location @named      { proxy_pass http://%%OTHER%%; }
EOC
);

$t->write_file('nginx/static', $GOOD);


sub path {
    my ($place, $name) = @_;

    return "/$place?plan=$number{$name}";
}


# What is wrong with a response that should be a refusal; empty if nothing.

sub refusal_faults {
    my ($res, @error) = @_;

    return 'no response' unless $res;

    my @faults = $res->error_faults(@error);
    my @foreign = grep { $_ !~ $OWN_HEADER } map { $_->[0] } $res->headers;

    push @faults, "foreign headers @foreign" if @foreign;
    push @faults, 'bytes of the upstream' if $res->raw =~ /leak|ct_acme/;
    push @faults, 'Cache-Status: ' . $res->header('Cache-Status')
        if ($res->header('Cache-Status') || '') !~ /^convotic; fwd=uri-miss/
           || $res->header('Cache-Status') =~ /stored|hit/;

    return map { substr $_, 0, 300 } @faults;
}


sub no_faults {
    my ($name, @faults) = @_;

    ok(!@faults, $name) or diag(map { "    $_\n" } @faults);

    return;
}


# Each on a connection of its own, many side by side: twice the refusal, and a
# good answer after it.

sub refused_over_one_connection {
    my ($places, $names, @error) = @_;

    my @all = map { my $place = $_; map { [ $place, $_ ] } @$names } @$places;

    while (my @batch = splice @all, 0, BATCH) {
        $up->reset;

        my @jobs = map { { place => $_->[0], name => $_->[1], faults => [],
                           conn => $g->connect } } @batch;

        for my $round (1 .. 2) {
            ask($_, path($_->{place}, $_->{name})) for @jobs;
            push @{ $_->{faults} }, map { "$round: $_" }
                refusal_faults($_->{conn}->read, @error) for @jobs;
        }

        for my $job (@jobs) {
            ask($job, '/on-1.1');
            my $res = $job->{conn}->read;
            push @{ $job->{faults} }, 'the connection is lost'
                unless $res && $res->status == 200 && $res->body eq $GOOD;
            $job->{conn}->close;
        }

        my %count;
        wait_until(sub {
            %count = counts();
            !grep { asked($_, %count) < 2 } @jobs;
        });

        for my $job (@jobs) {
            my $count = asked($job, %count);
            push @{ $job->{faults} }, "$count requests to the upstream"
                if $count < 2;
            no_faults("$job->{name}: $job->{place}", @{ $job->{faults} });
        }
    }

    return;
}


# How often the upstream was asked for what, and for the job's.

sub counts {
    my %count;

    $count{ $_->uri =~ s/limit=20&//r }++ for $up->requests;

    return %count;
}


sub asked {
    my ($job, %count) = @_;

    return $count{ path($job->{place}, $job->{name}) } || 0;
}


sub ask {
    my ($job, $path) = @_;

    return $job->{conn}->write(Convotic::HTTP::request_text(
        $path, {}, 'X-API-Key' => $g->key));
}


# Over HTTP/2, in some processes side by side.

sub refused_over_h2 {
    my ($place, $names, @error) = @_;

    my @faults = parallel(PROCESSES, sub {
        my ($i) = @_;

        return { map { ($names->[$_] => [ refusal_faults(
            $g->get(path($place, $names->[$_]), { h2 => 1 },
                    'X-API-Key' => $g->key), @error) ]) }
            grep { $_ % PROCESSES == $i } 0 .. $#$names };
    }, PATIENCE);

    my %faults = map { %$_ } @faults;

    no_faults("$_: $place, HTTP/2", @{ $faults{$_} }) for @$names;

    return;
}


my @answers = sort keys %answer;
my @slow = sort keys %slow;
my @slow_places = map { "slow-$_" } @PLACES;

refused_over_one_connection(\@PLACES, \@answers, @INVALID);
refused_over_one_connection(\@slow_places, \@slow, @LATE);
refused_over_one_connection([ 'timeout' ], [ 'never answers' ], @LATE);
refused_over_h2('off-1.1', \@answers, @INVALID);
refused_over_h2('slow-on-1.1', \@slow, @LATE);

is($other->count, 0, 'no redirection reached another upstream');


# No upstream at all.

for my $path (qw(/refused /unresolved)) {
    my $job = { conn => $g->connect };

    for my $round (1 .. 2) {
        ask($job, $path);
        no_faults("$path, $round",
                  refusal_faults($job->{conn}->read, @INVALID));
    }
}

my @stored = $redis->names('convotic:body*');

cmp_ok(scalar @stored, '<=', 1, 'none of that is stored');


# What is good, and whether the second answer comes from the cache.

for my $name (sort keys %good) {
    my (undef, $body, $cached) = @{ $good{$name} };

    for my $place (@PLACES) {
        my $get = sub { $g->get(path($place, $name), 'X-API-Key' => $g->key) };

        $up->reset;
        success_is($get->(), $body, "$name: $place");

        if ($cached) {
            ok(wait_until(sub { $get->()->header('Cache-Status') =~ /; hit/ }),
               "$name: $place, cached");
        } else {
            success_is($get->(), $body, "$name: $place, again");
            is($up->count, 2, "$name: $place, not cached");
        }
    }
}

ok($g->wait_log(qr/not cached: its "limit" is not the one asked/),
   'another limit is logged');

success_is($g->get(path('ignored', 'redirected to /ordinary'),
                   'X-API-Key' => $g->key), $GOOD, 'proxy_ignore_headers');


# An interim answer is never passed on; what follows it is the answer, where
# nginx knows of interim answers.

for my $case (
    [ '103', 'hints', {}, $HAS_HINTS ],
    [ '103', 'hints', { h2 => 1 }, $HAS_HINTS ],
    [ '100', 'off-1.1', {}, 0 ],
) {
    my ($name, $place, $opt, $good) = @$case;
    my $res = $g->get(path($place, $name), $opt, 'X-API-Key' => $g->key);
    my $what = join ' ', $name, sort keys %$opt;

    if ($good) {
        success_is($res, $GOOD, "$what before the answer");
    } else {
        no_faults("$what before the answer", refusal_faults($res, @INVALID));
    }

    is(join(' ', $res->interim), '', "$what: not passed on");
    unlike($res->raw, qr/leak/, "$what: no header of it");
}


# What follows an answer on a connection is never taken for the next one.

my $beta = $redis->add_key(test_key('beta'), workspace => 'beta');
my %seen;

for my $round (1 .. 10) {
    for my $place (qw(on-1.1 off-1.1)) {
        $seen{ $g->get(path($place, 'two'), 'X-API-Key' => $g->key)->body }++;
        $redis->purge('beta');

        my $res = $g->get("/$place", 'X-API-Key' => $beta);
        my $own = $res->body eq $GOOD =~ s/acme/beta/gr;
        $seen{ $own ? 'own' : $res->body }++;
    }
}

is_deeply(\%seen, { $GOOD => 20, own => 20 }, 'a second answer is dropped');


# All that went to memory.

my @temporary = glob $g->dir . '/*_temp_path/*';

is("@temporary", '', 'no temporary files');
ok(!$g->log_lines(qr/buffered to a temporary file/), 'none in the log');

$t->finish;
