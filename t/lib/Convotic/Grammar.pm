package Convotic::Grammar;

use strict;
use warnings;
no warnings 'qw';

use Convotic::H2 qw(frame settings field PREFACE);

# What is sent: a request as it should be, and what is done to it.  All is drawn
# with rand(), so that srand() decides.

use constant {
    MOST       => 9,            # requests of a connection
    HUGE       => 40_000,
};

# Weights: what is wrong with a request, at which level.

my @KINDS = (
    [ 12, 'as documented', sub { } ],
    [  8, 'method',        \&_method ],
    [ 12, 'target',        \&_target ],
    [  7, 'version',       \&_version ],
    [ 14, 'header lines',  \&_lines ],
    [  6, 'Host',          \&_host ],
    [ 12, 'key',           \&_key ],
    [ 14, 'body',          \&_body ],
    [ 16, 'query',         \&_query ],
    [  8, 'conditions, ranges', \&_conditions ],
    [  2, 'very long',     \&_long ],
);

my @RAW = (
    [ 12, '' ],
    [  2, 'bytes changed',  \&_change_bytes ],
    [  2, 'tokens changed', \&_change_tokens ],
    [  2, 'lines changed',  \&_change_lines ],
    [  1, 'whole changed',  \&_change_whole ],
);

my @METHODS = (
    qw(
        POST PUT DELETE PATCH OPTIONS TRACE CONNECT PROPFIND MKCOL COPY MOVE LOCK
        UNLOCK PROPPATCH SEARCH PRI BREW GETT GE HEA HEADS _ - GET_ -GET G_T X POST
        POST OPTIONS
    ),
    'X' x 31, 'X' x 32, 'X' x 33, 'LONG' x 300, 'get', 'Get', 'head', 'gEt', '',
    ' ', 'GET ', "GET\t", "GE\0T", "\0GET", "\x01", "G\xc8T", "GET\x7f", '"GET"',
    'GET:', '1GET', '{}', "GET\r", "GET\n", "\x80", "\xef\xbb\xbfGET",
);

my @TARGETS = (
    'http://localhost%s', 'https://localhost%s', 'HTTP://LOCALHOST%s',
    'x+y.z-1://h%s', 'http://user@localhost%s', 'http://localhost:80%s',
    'http://localhost:99999%s', 'http://localhost:%s', 'http://[::1]%s',
    'http://[::1]:8%s', 'http://[::1%s', 'http://[]%s', 'http://%s', 'http:/%s',
    'http:%s', 'http%s', '1http://localhost%s', 'http://a..b%s', 'http://.%s',
    'http://a_b%s', 'http://a b%s', 'http://localhost', 'http://localhost?limit=5',
    'http://?limit=5', '//localhost%s', '*', '*%s', 'localhost:80', 'localhost',
    '[::1]:80', 'v1/contacts', '?limit=5', '#', '', ' ', '%s#fragment', '%s%%23',
    '%s%%', '%s%%0', '%s%%00', '%s%%zz', '%s%%u0041', '/%%2e%%2e%s', '/..%s',
    '/x/..%s', '/x/../..%s', '/.%s', '/./.%s', '/%s', '//%s', '%s/', '%s//', '%s/.',
    '%s/..', '%s/%%2e', '%s/x/..', '\\%s', '/\\..%s', "%s\0", "/\0%s", "%s\xff",
    "/\xc0\xaf%s", "%s\x01", "%s\t", "%s\x7f", '%s;a=b', '%s:80', '%s&x', '%s?',
    '%s??limit=3', '%s?limit=4?limit=3', '/V1/contacts', '/v1/contact', '/v1', '/',
    '/status', '/index.html', '/%%', '/%%25', '/v1%%2fcontacts',
    '/%%76%%31/contacts', '/v1/%%63ontacts?limit=9', '/v1/contacts%%3flimit=9',
    '/v1/contacts%%2f', '/v1/contacts%%20', '/v1/contacts+',
    '/v1/contacts/../contacts', '/v1/contacts/x/%%2e%%2e', '/"><script>',
    '/v1/contacts HTTP/1.1', '/v1/con tacts', '/v1/contacts?a b',
);

my @SEGMENTS = (
    'v1', 'contacts', '.', '..', '', '%2e', '%2E%2e', '%2f', '%5c', 'x',
    '%63ontacts', '%25', '%23', '%3f', '+', ';a', '~', '\\', "\xe9", '%e9', '...',
    '.x', '%76%31', '..;',
);

my @VERSIONS = (
    'HTTP/0.9', 'HTTP/1.2', 'HTTP/1.9', 'HTTP/2.0', 'HTTP/3', 'HTTP/9.9',
    'http/1.1', 'HTTP/1', 'HTTP/1.', 'HTTP/.1', 'HTTP/', 'HTTP', 'H', 'HTTP/01.1',
    'HTTP/1.01', 'HTTP/1.001', 'HTTP/1.100', 'HTTP/1.1000', 'HTTP/11', 'HTTP/1.1x',
    'HTTP/1,1', 'HTTP/1.1 x', 'HTTP /1.1', 'HTTP/ 1.1', 'HTTP/1 .1', 'HTTP/-1.1',
    'HTTP/+1.1', 'HTTP/99999999999999999999.1', 'HTTP/1.99999999999999999999',
    'FTP/1.1', 'ICY/1.1', 'HTTPS/1.1', "HTTP/1.1\0", "HTTP/1.1\t", "HTTP/\x01.1",
    'HTTP/1.1  ', 'HTTP/1.1HTTP/1.1', 'HTTP/0.0', 'HTTP/00.9', 'HTTP/1.x',
);

my @LIMITS = (
    qw(
        1 2 20 99 100 0 101 500 -1 +1 1.0 1e1 0x10 010 0100 00000000000000000100 007
        255 256 65536 2147483647 2147483648 4294967296 4294967297
        9223372036854775807 9223372036854775808 18446744073709551617
        99999999999999999999999999999 NaN Infinity null true ten %31 %31%30 %30 1%00
        %001 1+ +1 1%20 %201 1%0a 1%0d%0aX-Injected:%201 1;2 1,2 [1] {1} "1" '1' 1'
        %D9%A3 %ff
    ),
    '', "\xd9\xa3", '0' x 200 . '7', '9' x 200,
);

my @PLATFORMS = (
    qw(
        instagram line facebook whatsapp LINE Line lin linee line,facebook line%20
        %20line line%00 %6cine l%69ne line%0a telegram * all null undefined line;
        line' %ff %C3%A9 [line] ../line
    ),
    '', "\xe9", 'line' x 100,
);

my @NAMES = (
    qw(
        limit limit platform platform LIMIT Limit limi limits limi%74 %6cimit
        plat%66orm limit%00 limit%20 +limit limit[] limit.x platform%5b%5d x _
        callback workspace X-API-Key api_key offset cursor page %00 %ff %25
    ),
    '', "\xe9", ' limit', 'x' x 300,
);

my @KEYHEADERS = (
    'X-API-Key: %s', 'x-api-key: %s', 'X-API-KEY:%s', 'X-Api-Key:     %s   ',
    "X-API-Key:\t%s", "X-API-Key: %s\t", 'X_API_Key: %s', 'X-API_Key: %s',
    'X.API.Key: %s', 'XAPIKey: %s', 'X-API-Key : %s', ' X-API-Key: %s',
    "\tX-API-Key: %s", 'X-API-Key %s', 'X-API-Key=%s', 'X-API-Key: "%s"',
    'X-API-Key: Bearer %s', 'Authorization: Bearer %s', 'X-API-Key', 'X-API-Key:',
    'X-API-Key: ', "X-API-Key:\r\n %s", 'X-API-Key: %s, %s', 'X-API-Key: %s%s',
    'X-API-Key:: %s', "X-API-Key\0: %s", "X-API-Key: %s\0", "X-API-Key: \0%s",
    "X-API-Key: %s\x7f", "X-API-Key: %s\xff", "X-API-Key: %s\r",
    "X-API-Key: %s\r\r", 'Cookie: X-API-Key=%s', 'X-Forwarded-API-Key: %s',
    "X-API-Key: %s\nX: y", "\xef\xbb\xbfX-API-Key: %s", 'X-API-Key%%20: %s',
    'X-API-Keys: %s', 'X-API-Ke: %s',
);

my @LINES = (
    'Foo', 'Foo:', ': bar', ':', 'Foo : bar', ' Foo: bar', "\tFoo: bar",
    'Foo: bar: baz', 'Foo::', "Foo: bar\r\n baz", "Foo: bar\r\n\tbaz", "Foo: a\rb",
    "Foo: a\nb", "Foo\r: a", "Foo: a\r\r", "\r", "Foo: a\0b", "Fo\0o: a", "\0",
    "F\x01o: a", "F\x7f: a", "F\xff: a", "\xff\xfe: a", 'F@o: a', 'F(o): a',
    'F"o": a', 'F/o: a', '{"a": 1}', '<h1>: a', 'Foo_Bar: a', '_: a', '-: a',
    '--: a', 'Foo:  ', 'HTTP/1.1 200 OK', 'GET / HTTP/1.1', 'Connection: close',
    'Connection: keep-alive', 'Connection: close, keep-alive',
    'Connection: Upgrade, HTTP2-Settings', 'Connection: X-API-Key',
    'Connection: cLoSe', 'Connection:', 'Upgrade: h2c', 'Upgrade: websocket',
    'HTTP2-Settings: AAMAAABkAAQAAP__', 'Keep-Alive: timeout=9',
    'Keep-Alive: 999999999999999999999', 'Cookie: a=b; c=d', 'Cookie:',
    'X-HTTP-Method-Override: DELETE', 'X-HTTP-Method: PUT',
    'X-Method-Override: POST', 'X-Original-URL: /status', 'X-Rewrite-URL: /status',
    'X-Convotic-Workspace: beta', 'X_Convotic_Workspace: beta',
    'x-convotic-workspace:beta', 'X.Convotic.Workspace: beta',
    'X-Convotic-Key-Id: x', 'X-Accel-Redirect: /status', 'X-Accel-Buffering: no',
    'Accept-Encoding: gzip', 'Accept-Encoding: gzip;q=0', 'Accept-Encoding: *',
    'Accept-Encoding: br, gzip;q=0.001', 'Accept-Encoding: gzip;q=1.0001',
    'Accept-Encoding: ,,gzip', 'Accept-Encoding:', 'Accept: text/html', 'Accept: ',
    'Accept-Language: ' . 'th,' x 50, 'Authorization: Basic x', 'Authorization:',
    'Via: 1.0 x', 'User-Agent: ', "User-Agent: \xf0\x9f\x92\xa9",
    'Referer: javascript:', 'TE: trailers', 'TE: gzip', 'Trailer: X-API-Key',
    'Forwarded: for=127.0.0.1', 'X-Forwarded-For: 1.2.3.4',
    'X-Forwarded-Host: evil', 'X-Real-IP: 127.0.0.1', 'Proxy: http://evil',
    'Content-Encoding: gzip', 'Content-Type: text/html', 'Content-Type:',
    'Content-Range: x', 'Content-Length: 0', 'Content-Length: 00',
    'Cache-Control: no-cache', 'Cache-Control: only-if-cached', 'Pragma: no-cache',
    'Origin: https://evil', 'traceparent: 00-x-y-01', 'X-Request-Id: ' . 'x' x 300,
    'Max-Forwards: 0', 'Depth: infinity', 'Destination: /v1/contacts', 'Date: now',
    'From: a@b', 'Warning: x', 'Expect: 100-continue', 'Expect: x', 'Expect:',
    "X: \r\n\r\n", "X: %0d%0aSet-Cookie: a", 'X: ${jndi:ldap://x}',
    'X: () { :;}; echo', 'X: ' . '%s' x 20,
);

my @HOSTS = (
    '', 'localhost:80', 'localhost:', 'localhost:x', 'LOCALHOST', 'localhost.', '.',
    '..', 'a..b', 'a/b', 'a b', "a\tb", "a\0b", 'a@b', 'a,b', '[::1]', '[::1', '[]',
    '[]:80', ':80', ':', '*', '_', '-', 'a.b.c.d.e', 'xn--a', "\xe9", "\x7f", '%20',
    '%00', 'localhost?x', 'localhost#x', 'a\\b', '127.0.0.1', 'evil.example',
    'x' x 300, 'x.' x 2000, '"', '<script>', "a\rb", ' ', 'http://localhost',
);

my @CONDITIONS = (
    'If-None-Match: *', 'If-None-Match: "%s"', 'If-None-Match: W/"%s"',
    'If-None-Match: "x", "%s"', 'If-None-Match: %s', 'If-None-Match: ',
    'If-None-Match: "', 'If-None-Match: ' . '"x", ' x 100, 'If-None-Match: "%s',
    'If-Match: *', 'If-Match: "%s"', 'If-Match: W/"%s"', 'If-Match: "x", "%s"',
    'If-Match: "x"', 'If-Match: ', 'If-Match: "', 'If-Match: ,,,',
    'If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT', 'If-Modified-Since: 0',
    'If-Modified-Since: x', 'If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT',
    'If-Unmodified-Since: x', 'If-Range: "%s"', 'If-Range: "x"', 'If-Range: x',
    'Range: bytes=0-9', 'Range: bytes=5-', 'Range: bytes=-5', 'Range: bytes=0-0',
    'Range: bytes=99999999-', 'Range: bytes=-0', 'Range: bytes=9-5',
    'Range: bytes=0-1,3-4', 'Range: bytes=' . '0-1,' x 200 . '2-3',
    'Range: bytes=-', 'Range: bytes=x', 'Range: bytes', 'Range: items=0-1',
    'Range: bytes=0-18446744073709551616', 'Range: bytes= 0 - 9',
    'Range: bytes=-99999999', 'Range: BYTES=0-1', 'Range:', 'Range: bytes=0-1 ',
    'Range: bytes=1-99999999999',
);

my @FOREIGN = (
    "SSH-2.0-OpenSSH_9.2\r\n", "EHLO x\r\n",
    "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" . "\0" x 300, "\x80\x2e\x01\0\x02",
    PREFACE, "PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n", "\0" x 50,
    "*1\r\n\$4\r\nPING\r\n", "\r\n" x 3000, "\n", "\r", '{"a":1}', '<?xml?>',
    "\x05\x01\0", "GET", "GET /", "HTTP/1.1 200 OK\r\n\r\n", "\xff\xf4\xff\xfd\x06",
    ' ' x 2000, 'A' x 9000, "GET / HTTP/1.1\r\n", "USER x\r\n",
);


# keys: name => key, of all sorts; good: names of those that are; tag: a sub
# that says the tag of a body.

sub new {
    my ($class, %arg) = @_;

    return bless {%arg}, $class;
}


sub pick { return $_[ rand @_ ] }


# One of [weight, ...].

sub weighed {
    my (@of) = @_;

    my $dice = 0;
    $dice += $_->[0] for @of;
    $dice = rand $dice;

    for (@of) {
        return $_ if ($dice -= $_->[0]) < 0;
    }

    return $of[-1];
}


# A connection: {way, messages => [{bytes, kinds}], ...}.

sub connection {
    my ($self) = @_;

    my $way = weighed([ 80, 'plain' ], [ 12, 'HTTP/2' ], [ 2, 'TLS' ],
        [ 1, 'HTTP/2 over TLS' ], [ 3, 'plain text to the port for TLS' ],
        [ 1, 'noise to the port for TLS' ],
        [ 0.5, 'HTTP/1 to the port for HTTP/2' ])->[1];
    my $mode = weighed([ 85, 'to the end' ], [ 4, 'aborted' ],
        [ 4, 'half-closed early' ], [ 0.1, 'left alone' ])->[1];
    my $count = 1 + int(MOST * rand() ** 1.5);
    my %it = (way => $way, mode => $mode,
              writes => weighed([ 60, 'at once' ], [ 20, 'in parts' ],
                  [ 1, 'byte by byte' ], [ 12, 'in turn' ])->[1]);

    if ($way =~ /^HTTP\/2/) {
        $it{writes} = 'at once' if $it{writes} eq 'in turn';
        $it{frames} = $self->_frames($count, \%it);
    } else {
        $it{messages} = [ map { $self->message } 1 .. $count ];
        $it{messages} = [ { bytes => _noise(), kinds => [ 'noise' ] } ]
            if $way =~ /^noise/;
    }

    return \%it;
}


sub _noise {
    my $hello = "\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" . join '',
        map { chr rand 256 } 1 .. 500;

    return substr $hello, 0, 1 + rand length $hello;
}


# A request of HTTP/1.

sub message {
    my ($self) = @_;

    my $it = $self->_usual;
    my @kinds;

    for (1 .. (rand() < 0.8 ? 1 : 1 + rand 3)) {
        my $kind = weighed(@KINDS);
        push @kinds, $kind->[1];
        $kind->[2]->($self, $it);
    }

    my $bytes = _render($it);
    my $raw = weighed(@RAW);

    if ($raw->[2]) {
        push @kinds, $raw->[1];
        $bytes = $raw->[2]->($bytes);
    }

    return { bytes => $bytes, kinds => \@kinds };
}


sub _usual {
    my ($self) = @_;

    my $key = $self->{keys}{ pick(@{ $self->{good} }) };

    return {
        method  => rand() < 0.1 ? 'HEAD' : 'GET',
        path    => '/v1/contacts',
        query   => _good_query(),
        version => rand() < 0.1 ? 'HTTP/1.0' : 'HTTP/1.1',
        host    => 'Host: localhost',
        key     => "X-API-Key: $key",
        lines   => [ rand() < 0.2 ? 'Accept-Encoding: gzip' : (),
                     rand() < 0.2 ? 'Accept: */*' : () ],
        eol     => "\r\n",
        body    => '',
    };
}


sub _good_query {
    my @args;

    push @args, 'limit=' . int(1 + rand 100) if rand() < 0.7;
    push @args, 'platform=' . pick(@PLATFORMS[ 0 .. 3 ]) if rand() < 0.3;

    return @args ? '?' . join '&', rand() < 0.5 ? @args : reverse @args : '';
}


sub _render {
    my ($it) = @_;

    my @lines = grep { defined } @$it{qw(host key)}, @{ $it->{lines} };
    my $line = join ' ', $it->{method}, $it->{path} . $it->{query},
        grep { defined } $it->{version};

    return join($it->{eol}, $line, @lines, '', '') . $it->{body};
}


sub _insert {
    my ($it, @lines) = @_;

    splice @{ $it->{lines} }, rand(1 + @{ $it->{lines} }), 0, @lines;

    return;
}


sub _method { $_[1]{method} = pick(@METHODS); return }


sub _target {
    my ($self, $it) = @_;

    if (rand() < 0.3) {
        $it->{path} = '/' . join '/', map { pick(@SEGMENTS) } 1 .. 1 + rand 6;
        $it->{path} .= '/v1/contacts' if rand() < 0.3;
        return;
    }

    my $form = pick(@TARGETS);
    my $whole = $it->{path} . $it->{query};

    $it->{path} = index($form, '%s') < 0 ? $form =~ s/%%/%/gr : sprintf $form, $whole;
    $it->{query} = '';

    return;
}


sub _version {
    my ($self, $it) = @_;

    $it->{version} = rand() < 0.08 ? undef : pick(@VERSIONS);

    return;
}


sub _lines {
    my ($self, $it) = @_;

    my $dice = rand;

    if ($dice < 0.75) {
        _insert($it, pick(@LINES)) for 1 .. 1 + 3 * rand() ** 3;
    } elsif ($dice < 0.82) {
        my $line = pick(@LINES);
        _insert($it, ($line) x (2 + rand 3));
    } elsif ($dice < 0.88) {
        $it->{eol} = pick("\n", "\r\r\n", "\r", "\n\r", "\r\n ", "\r\n\t", " \r\n",
            "\r\n\0");
    } elsif ($dice < 0.97) {
        unshift @{ $it->{lines} }, map { "X-$_: $_" } 1 .. pick(20, 21, 50, 100, 400);
    } else {
        unshift @{ $it->{lines} }, ('a: b') x pick(1000, 2000, 6000);
    }

    return;
}


sub _host {
    my ($self, $it) = @_;

    my $dice = rand;

    if ($dice < 0.15) {
        $it->{host} = undef;
    } elsif ($dice < 0.3) {
        _insert($it, pick('Host: localhost', 'host: b', 'Host:'));
    } else {
        $it->{host} = 'Host: ' . pick(@HOSTS);
    }

    return;
}


sub _key {
    my ($self, $it) = @_;

    my $dice = rand;

    if ($dice < 0.1) {
        $it->{key} = undef;
    } elsif ($dice < 0.25) {
        _insert($it, pick($it->{key} || 'X-API-Key:', 'X-API-Key: x', 'X-API-Key:',
                          "x-api-key: $self->{keys}{beta}"));
    } elsif ($dice < 0.5) {
        $it->{key} = pick(@KEYHEADERS) =~ s/%s/$self->_some_key/ger =~ s/%%/%/gr;
    } else {
        $it->{key} = 'X-API-Key: ' . $self->_some_key;
    }

    return;
}


sub _some_key {
    my ($self) = @_;

    my $keys = $self->{keys};
    my $key = $keys->{ pick(sort keys %$keys) };
    my $dice = rand;

    return $key if $dice < 0.4;
    return join '', 'cvtk_live_', map { pick('a' .. 'z', 0 .. 9) } 1 .. 32
        if $dice < 0.5;

    if ($dice < 0.8) {                  # one that is nearly right
        my $at = rand length $key;
        my $how = int rand 7;
        return $how == 0 ? substr($key, 0, $at)
             : $how == 1 ? $key . pick('x', '0', '=', '_', "\xa0", '%00', ',')
             : $how == 2 ? lc $key
             : $how == 3 ? uc $key
             : $how == 4 ? $key =~ s/live/test/r
             : $how == 5 ? reverse($key) . ''
             :             substr($key, 0, $at) . pick('a' .. 'z', ' ', "\t")
                 . substr $key, $at + 1;
    }

    return pick('', ' ', 'x', '*', '0', 'null', '{}', '%', 'cvtk_live_',
        'cvtk_live_*', "' OR 1=1", '../../x', "\$(id)", 'convotic:meta', ('a' x 255),
        ('a' x 256), ('a' x 257), $key . 'a' x 500, 'a' x 3000, "\xff" x 20, "\x01",
        "a\tb", 'a b', ';', '{acme}', '<b>');
}


sub _body {
    my ($self, $it) = @_;

    my $inner = $self->_smuggled;
    my $body = pick('x', '{"a":1}', $inner, $inner, 'x' x 3000, '', "\0" x 10,
        "0\r\n\r\n", "\r\n");
    my $length = length $body;
    my $dice = rand;

    $it->{method} = pick(qw(POST PUT DELETE GET HEAD)) if rand() < 0.3;
    $it->{path} = pick('/', '/none', '/v1/none') if rand() < 0.25;

    if ($dice < 0.3) {
        _insert($it, "Content-Length: $length");
    } elsif ($dice < 0.5) {
        _insert($it, 'Content-Length: '
            . pick(-1, "+$length", "0$length", "$length ", " $length", "0x$length",
            "$length, $length", "$length;", '', 'x', '1e3', '0.5', 0, $length + 1,
            $length > 1 ? $length - 1 : 0, 1048576, 1048577, 2147483648, 4294967296,
            '9223372036854775807', '9223372036854775808', '18446744073709551615',
            '99999999999999999999', "$length\t", '0' x 50 . $length));
    } elsif ($dice < 0.6) {
        _insert($it, "Content-Length: $length", 'Content-Length: '
            . pick($length, 0, $length + 1, ''));
    } elsif ($dice < 0.85) {
        _insert($it, 'Transfer-Encoding: '
            . pick(('chunked') x 12, 'Chunked', 'chunked ', 'CHUNKED', ' chunked'));
        $body = _chunks($body);
    } elsif ($dice < 0.93) {
        _insert($it, pick('Transfer-Encoding: gzip',
            'Transfer-Encoding: gzip, chunked', 'Transfer-Encoding: chunked, gzip',
            'Transfer-Encoding: identity', 'Transfer-Encoding: xchunked',
            "Transfer-Encoding:\tchunked", 'Transfer-Encoding: chunked;x',
            'Transfer-Encoding:', 'Transfer_Encoding: chunked',
            'Transfer-Encoding : chunked', "Transfer-Encoding: chunked\x0b",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
            "Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding:\r\n chunked", '"Transfer-Encoding": chunked'));
        $body = _chunks($body) if rand() < 0.5;
    } else {
        _insert($it, "Content-Length: $length", 'Transfer-Encoding: chunked');
        $body = _chunks($body) if rand() < 0.5;
    }

    _insert($it, pick('Expect: 100-continue', 'Expect: 100-Continue',
        'Expect: 200-ok', 'expect:100-continue')) if rand() < 0.15;
    $it->{body} = $body;

    return;
}


# A body that is a request, of another workspace.

sub _smuggled {
    my ($self) = @_;

    return "GET /v1/contacts?limit=77 HTTP/1.1\r\nHost: localhost\r\n"
           . pick("X-API-Key: $self->{keys}{beta}\r\n", '',
               "X-Convotic-Workspace: beta\r\n") . "\r\n";
}


sub _chunks {
    my ($body) = @_;

    my @parts = $body =~ /(.{1,1000})/gs;
    my $text = join '', map { sprintf("%x\r\n", length) . "$_\r\n" } @parts;
    my $dice = rand;

    $text .= "0\r\n\r\n";

    return $text if $dice < 0.4;

    my $size = sprintf '%x', length $body;

    return pick("$size\n$body\n0\n\n", "$size;x=y\r\n$body\r\n0;x\r\n\r\n",
        "$size \r\n$body\r\n0\r\n\r\n", "000$size\r\n$body\r\n000\r\n\r\n", uc($size)
        . "\r\n$body\r\n0\r\n\r\n", "$size\r\n${body}0\r\n\r\n",
        "$size\r$body\r\n0\r\n\r\n", "g\r\n$body", "-1\r\n$body", "\r\n$body",
        "0x$size\r\n$body\r\n0\r\n\r\n", "7fffffffffffffff\r\n$body",
        "8000000000000000\r\n$body", "fffffffffffffffff\r\n$body",
        "7ffffffffffffff\r\n$body", "ffffffff\r\n$body",
        "$size\r\n$body\r\n0\r\nX-API-Key: x\r\n\r\n",
        "$size\r\n$body\r\n0\r\nFoo\r\n\r\n", "$size\r\n$body\r\n0\r\n",
        "$size\r\n$body\r\n0\r\n\r", "$size\r\n$body", $size, '',
        "$size\r\n$body\r\n0\r\n" . "a: b\r\n" x 500 . "\r\n", '1' . ';' . 'x' x 3000
        . "\r\nx\r\n0\r\n\r\n", "1\r\nx\r\n" x 200 . "0\r\n\r\n", "$size\r\n$body\rx",
        "0\r\n\r\n$body", "0\n\n");
}


sub _query {
    my ($self, $it) = @_;

    my @args = map {
        my $name = pick(@NAMES);
        my $value = $name =~ /plat/i ? pick(@PLATFORMS) : $name =~ /lim/i
            ? pick(@LIMITS) : pick('', 'x', '%', '%0', '1', '%41', '+');
        rand() < 0.9 ? "$name=$value" : pick($name, "$name==$value", "=$value",
            "$name=$value=", "$name%3d$value")
    } 1 .. pick(1, 1, 1, 2, 2, 3, 4, 12);

    @args = ('limit=' . pick(@LIMITS)) if rand() < 0.2;
    @args = map { "x$_=$_" } 1 .. pick(100, 500) if rand() < 0.02;

    $it->{query} = '?' . join pick(('&') x 12, ';', '&&', '&amp;', '?', '#', '%26',
        ' ', ','), @args;
    $it->{query} .= pick('&', '%', '%f', '#x', '?', '=', '&=', '%00', '&limit=5')
        if rand() < 0.1;

    return;
}


sub _conditions {
    my ($self, $it) = @_;

    my ($limit) = $it->{query} =~ /limit=(\d+)/;
    my ($platform) = $it->{query} =~ /platform=(\w+)/;
    my ($key) = ($it->{key} || '') =~ /: (\S+)/;

    for (1 .. 1 + 2 * rand() ** 2) {
        my $line = pick(@CONDITIONS);
        my $tag = $self->{tag}->($key, $limit || 20, $platform || '');
        _insert($it, $line =~ s/%s/$tag/r);
    }

    return;
}


# About what nginx has room for, and far more.

sub _long {
    my ($self, $it) = @_;

    my $length = pick(500, 1000, 1024, 4000, 8000, 8150 .. 8200, 9000, HUGE);
    my $how = int rand 7;

    $it->{path} .= 'x' x $length if $how == 0;
    $it->{query} = '?' . 'x' x $length if $how == 1;
    $it->{query} = '?limit=' . '0' x $length . '5' if $how == 2;
    $it->{method} = 'A' x $length if $how == 3;
    $it->{key} = 'X-API-Key: ' . 'x' x $length if $how == 4;
    _insert($it, 'Foo: ' . 'x' x $length) if $how == 5;
    _insert($it, 'F' x $length . ': x') if $how == 6;

    return;
}


# What is done to the bytes.

sub _change_bytes {
    my ($bytes) = @_;

    for (1 .. 1 + 4 * rand() ** 2) {
        my $at = int rand length $bytes;
        my $how = int rand 6;

        last if $bytes eq '';
        substr($bytes, $at, 1) = chr rand 256 if $how == 0;
        substr($bytes, $at, 1) ^= chr(1 << int rand 8) if $how == 1;
        substr($bytes, $at, 0) = pick("\r", "\n", "\0", ' ', "\t", ':', "\r\n",
            "\r\n\r\n", chr rand 256) if $how == 2;
        substr($bytes, $at, 1 + rand 4) = '' if $how == 3;
        substr($bytes, $at, 0) = substr($bytes, $at, 1 + rand 20) if $how == 4;
        $bytes = substr $bytes, 0, $at if $how == 5 && rand() < 0.3;
    }

    return $bytes;
}


sub _change_list {
    my ($list) = @_;

    my $at = int rand @$list;
    my $how = int rand 5;

    splice @$list, $at, 1 if $how == 0;
    splice @$list, $at, 0, $list->[$at] if $how == 1;
    splice @$list, $at, 0, ($list->[ rand @$list ]) x (1 + rand 3) if $how == 2;
    @$list[ $at, -1 ] = @$list[ -1, $at ] if $how == 3;
    splice @$list, $at, 1 + rand 3 if $how == 4;

    return;
}


sub _change_tokens {
    my ($bytes) = @_;

    my @tokens = split /([ :\r\n,;=&?\/%])/, $bytes;

    for (1 .. 1 + rand 3) {
        _change_list(\@tokens) if @tokens;
    }

    return join '', @tokens;
}


sub _change_lines {
    my ($bytes) = @_;

    my @lines = split /(?<=\n)/, $bytes;

    for (1 .. 1 + rand 2) {
        _change_list(\@lines) if @lines;
    }

    return join '', @lines;
}


sub _change_whole {
    my ($bytes) = @_;

    my $half = int(length($bytes) / 2);
    my $how = int rand 7;

    return $how == 0 ? substr($bytes, 0, $half) . $bytes
         : $how == 1 ? substr($bytes, $half)
         : $how == 2 ? reverse($bytes) . ''
         : $how == 3 ? pick(@FOREIGN)
         : $how == 4 ? pick(@FOREIGN) . $bytes
         : $how == 5 ? join('', map { chr rand 256 } 1 .. 1 + rand 300)
         :             $bytes =~ s/\r\n\z/pick('', "\r", "x\r\n\r\n")/er;
}


# HTTP/2.  Frames: {bytes, kind; stream: its number; fields, open: what
# its headers say; may: it need not be answered; fatal: ends the connection}.

my @FIELDS = (
    [ 'X-API-Key' => 'x' ], [ 'x-api-key ' => 'x' ], [ 'x_api_key' => 'x' ],
    [ 'x:y' => 'x' ], [ "x\0y" => 'x' ], [ 'x@y' => 'x' ], [ "\xff" => 'x' ],
    [ x => "a\0b" ], [ x => "a\r\nb: c" ], [ x => "a\nb" ], [ x => '' ],
    [ x => "\xff" ], [ x => ' a ' ], [ connection => 'close' ],
    [ 'keep-alive' => '1' ], [ upgrade => 'h2c' ], [ 'proxy-connection' => 'x' ],
    [ te => 'gzip' ], [ 'transfer-encoding' => 'chunked' ],
    [ 'transfer-encoding' => 'gzip' ], [ 'content-length' => 0 ],
    [ 'content-length' => 5 ], [ 'content-length' => -1 ],
    [ 'content-length' => 2_000_000 ], [ 'content-length' => '' ],
    [ host => 'localhost' ], [ host => 'a/b' ], [ ':status' => 200 ],
    [ ':protocol' => 'websocket' ], [ ':foo' => 'x' ], [ ':' => 'x' ],
    [ ':path' => '/' ], [ ':method' => 'GET' ], [ ':authority' => 'x' ],
    [ ':scheme' => 'http' ], [ ':Path' => '/' ], [ ':path ' => '/' ],
    [ cookie => 'a=b' ], [ cookie => 'c=d' ], [ expect => '100-continue' ],
    [ authorization => 'x' ], [ 'if-none-match' => '*' ], [ 'if-match' => '"x"' ],
    [ range => 'bytes=0-9' ], [ 'accept-encoding' => 'gzip' ],
    [ 'x-convotic-workspace' => 'beta' ], [ 'x-http-method-override' => 'PUT' ],
    [ 'x' x 3000 => 'y' ], [ x => 'y' x 4000 ],
    [ 'http2-settings' => 'AAMAAABkAAQAAP__' ], [ trailer => 'x-api-key' ],
);

my %PSEUDO = (
    ':method' => [ '', 'get', 'POST', 'PUT', 'HEAD', 'CONNECT', 'TRACE', 'OPTIONS',
        'GE T', "GET\0", 'X' x 40, 'GET_', "G\xc8T" ],
    ':scheme' => [ '', 'http', 'ftp', 'HTTPS', 'h ttp', '1http', "http\0", 'http:',
        'x+y' ],
    ':authority' => [ @HOSTS ],
);


sub _frames {
    my ($self, $count, $it) = @_;

    my @frames = ({ bytes => _preface($it), kind => 'preface' });

    my $small = rand() < 0.05;
    my $settings = $small ? settings(4, pick(0, 1, 100)) : settings(4, 1 << 24);

    push @frames, { bytes => $settings, kind => $small ? 'small window'
        : 'as documented' },
                  { bytes => frame(8, 0, 0, pack 'N', 1 << 24),
                      kind => 'as documented' };
    push @frames, { bytes => settings(@{ pick([ 1, 0 ], [ 1, 1 << 31 ], [ 2, 0 ],
        [ 3, 0 ], [ 3, 0xffffffff ], [ 5, 16384 ], [ 5, 16_777_215 ], [ 6, 0 ],
        [ 99, 99 ], [ 0, 0 ], [ (4, 1 << 24) x 100 ]) }), kind => 'SETTINGS absurd' }
        if rand() < 0.15;

    my $id = -1;

    for (1 .. $count) {
        $id += 2;
        $id += 2 * int rand 50 if rand() < 0.1;
        push @frames, $self->_stream($id);
        push @frames, $self->_abuse($id) if rand() < 0.15;
    }

    push @frames, { bytes => settings(4, 1 << 24), kind => 'window' } if $small;
    push @frames, { bytes => frame(6, 0, 0, 'probe-up'), kind => 'PING', ping => 1 };

    if (rand() < 0.06) {
        my $at = 1 + int rand @frames - 1;
        $frames[$at]{bytes} = _change_bytes($frames[$at]{bytes});
        $frames[$at]{kind} = 'bytes changed';
        $it->{vague} = 1;
    }

    return \@frames;
}


sub _preface {
    my ($it) = @_;

    return PREFACE if rand() < 0.96;

    $it->{vague} = 1;

    return pick('', _change_bytes(PREFACE), substr(PREFACE, 0, rand 24), PREFACE
        . PREFACE, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 'PRI * HTTP/1.1'
        . "\r\n\r\nSM\r\n\r\n", lc PREFACE);
}


sub _stream {
    my ($self, $id) = @_;

    my $it = $self->_usual;
    my @kinds = 'as documented';
    my $body;

    if (rand() < 0.75) {
        my $kind = weighed([ 8, 'method' ], [ 12, 'target' ], [ 8, 'key' ],
            [ 14, 'query' ], [ 6, 'conditions, ranges' ], [ 10, 'pseudo-headers' ],
            [ 12, 'header fields' ], [ 8, 'body' ], [ 3, 'very long' ]);
        @kinds = $kind->[1];
        my ($sub) = map { $_->[2] } grep { $_->[1] eq $kinds[0] } @KINDS;
        $sub->($self, $it) if $sub && $kinds[0] !~ /body|long/;
    }

    my @fields = ([ ':method', $it->{method} ], [ ':scheme', 'http' ],
        [ ':path', $it->{path} . $it->{query} ], [ ':authority', 'localhost' ]);

    for (grep { defined } $it->{key}, @{ $it->{lines} }) {
        my ($name, $value) = split /:\s*/, $_, 2;
        push @fields, [ lc $name, defined $value ? $value : '' ] if length $name;
    }

    if ($kinds[0] eq 'pseudo-headers') {
        _abuse_pseudo(\@fields);
    } elsif ($kinds[0] eq 'header fields') {
        splice @fields, rand(1 + @fields), 0, pick(@FIELDS)
            for 1 .. 1 + 3 * rand() ** 2;
    } elsif ($kinds[0] eq 'body') {
        $body = pick('', 'x', $self->_smuggled, 'x' x 5000);
        push @fields, [ 'content-length',
            pick(length $body, length $body, 0, 1, 10, 'x') ] if rand() < 0.5;
    } elsif ($kinds[0] eq 'very long') {
        my $of = pick(grep { $_->[0] =~ /path|key/ } @fields);
        $of->[1] .= 'x' x pick(1000, 5000, 8000) if $of;
    }

    # the length of a string is told in at most four bytes, its name may not be
    # empty, and a field has a limit

    my $size = 0;
    my $fatal;
    for (@fields) {
        $size += length($_->[0]) + length $_->[1];
        $fatal = 1 if $_->[0] eq '' || length $_->[0] > 8192 || length $_->[1] > 8192;
    }
    $fatal = 1 if $size > 4 * 8192;

    my $block = join '', map {
        field(@$_, pick(0, 0, 16), length $_->[1] < 2000 && rand() < 0.3)
    } @fields;
    my %frame = (kind => $kinds[0], stream => $id, fields => \@fields,
        open => defined $body, fatal => $fatal,
        bytes => _header_frames($id, $block, defined $body));

    return \%frame unless defined $body;

    return (\%frame,
            map { { bytes => $_, kind => 'DATA' } } _data_frames($id, $body));
}


sub _abuse_pseudo {
    my ($fields) = @_;

    my $how = int rand 6;
    my $at = int rand 4;

    if ($how == 0) {
        splice @$fields, $at, 1;
    } elsif ($how == 1) {
        splice @$fields, rand @$fields, 0, [ @{ $fields->[$at] } ];
    } elsif ($how == 2) {
        push @$fields, splice @$fields, $at, 1;
    } elsif ($how == 3) {
        my $name = pick(sort keys %PSEUDO);
        $_->[1] = pick(@{ $PSEUDO{$name} }) for grep { $_->[0] eq $name } @$fields;
    } elsif ($how == 4) {
        @$fields = sort { rand() <=> 0.5 } @$fields;
    } else {
        splice @$fields, 0, 4;
    }

    return;
}


sub _header_frames {
    my ($id, $block, $open) = @_;

    my $flags = $open ? 0 : 1;
    my @parts = $block;

    # a part of a HEADERS frame must not be empty

    if (rand() < 0.15 && length $block > 1) {
        my $at = 1 + int rand(length($block) - 1);
        @parts = (substr($block, 0, $at), substr $block, $at);
        push @parts, '' if rand() < 0.3;
        @parts = ($parts[0], ('') x pick(1, 5, 60), $parts[1]) if rand() < 0.3;
        @parts = split /(?<=.)/s, $block if rand() < 0.1;
    } elsif (length $block > 16_000) {
        @parts = $block =~ /(.{1,16000})/gs;
    }

    my $first = shift @parts;
    my $before = '';

    $flags |= 4 unless @parts;

    if (rand() < 0.05) {
        $flags |= 8;
        my $pad = int rand 100;
        $before = chr $pad;
        $first .= "\0" x $pad;
    }

    if (rand() < 0.05) {
        $flags |= 32;
        $before .= pack 'NC', pick(0, 0, $id + 2, 1 << 31), rand 256;
    }

    return frame(1, $flags, $id, $before . $first)
           . join '', map { frame(9, $_ == $#parts ? 4 : 0, $id,
               $parts[$_]) } 0 .. $#parts;
}


sub _data_frames {
    my ($id, $body) = @_;

    return frame(0, 1, $id, $body) if rand() < 0.5;

    my $at = int rand(1 + length $body);

    return (frame(0, 0, $id, substr $body, 0, $at),
        frame(0, rand() < 0.9, $id, substr $body, $at));
}


# Frames that end the connection, harm a stream, or do nothing.

sub _abuse {
    my ($self, $id) = @_;

    my @harmless = (
        frame(2, 0, $id + 100, pack 'NC', 0, 5),
        frame(2, 0, $id + 2, pack 'NC', 1 << 31, 255), frame(10, 0, 0, 'x' x 100),
        frame(255, 255, $id, ''), frame(6, 1, 0, 'x' x 8),
        frame(8, 0, $id + 100, pack 'N', 5), frame(3, 0, $id + 100, pack 'N', 8),
        frame(0, 1, $id + 1000, 'x'), settings(), frame(4, 1, 0),
        frame(6, 0, 0, 'y' x 8) x 5, frame(7, 0, 0, pack 'NN', 0, 0),
        frame(0, 1, $id + 1000, 'x' x 1000), frame(10, 0, 0, '') x 50,
        frame(8, 0, 0, pack 'N', 1), frame(11, 4, $id, ''),
    );
    my @fatal = (
        frame(8, 0, 0, pack 'N', 0), frame(8, 0, 0, pack 'N', 0x7fffffff),
        frame(8, 0, 0, 'x'), frame(8, 0, 0, ''), frame(4, 0, 1, ''),
        frame(4, 0, 0, 'x'), frame(4, 1, 0, 'x' x 6), settings(4, 0xffffffff),
        settings(5, 1), settings(5, 1 << 30), settings(2, 2), frame(6, 0, 0, 'x'),
        frame(6, 0, 1, 'x' x 8), frame(5, 4, $id, pack('N', 2) . "\x82"),
        frame(9, 4, $id, "\x82"), frame(1, 5, 2, "\x82"), frame(1, 5, 0, "\x82"),
        frame(1, 5, $id, "\x82"), frame(1, 5, $id + 2, ''),
        frame(1, 5, $id + 2, "\x80"),
        frame(1, 5, $id + 2, "\xff\xff\xff\xff\xff\xff"),
        frame(1, 5, $id + 2, "\xbe"), frame(1, 5, $id + 2, "\x3f\xff\xff\x7f"),
        frame(1, 5, $id + 2, "\0\x01"), frame(1, 5, $id + 2, "\0\x82\xff\xff\x01x"),
        frame(1, 5, $id + 2, "\0\x00\x01x"), frame(1, 4, $id + 2, "\0\x01x\x7f"),
        frame(1, 13, $id + 2, "\xff\x82"),
        frame(1, 37, $id + 2, pack('NC', $id + 2, 1) . "\x82"),
        frame(1, 1, $id + 2, "\x82") . frame(0, 1, $id + 2, 'x'),
        frame(1, 1, $id + 2, "\x82") . frame(9, 4, $id + 4, "\x84"),
        frame(0, 0, 0, 'x'), frame(0, 8, $id, ''), frame(0, 9, $id, "\xffx"),
        frame(2, 0, 0, 'x' x 5), frame(2, 0, $id, 'x'),
        frame(2, 0, $id, pack 'NC', $id, 1), frame(3, 0, 0, pack 'N', 1),
        frame(3, 0, $id, 'x'), frame(7, 0, 0, 'x'), frame(7, 0, 1, 'x' x 8),
        frame(1, 5, $id + 2, "\0\x7f\xff\xff\x01" . 'x' x 1000),
    );
    my $dice = rand;

    return { bytes => pick(@harmless), kind => 'frames, harmless' } if $dice < 0.35;
    return { bytes => pick(@fatal), kind => 'frames, forbidden', fatal => 1 }
        if $dice < 0.65;

    return { harms => $id, kind => 'frames, of a stream', bytes => pick(
        frame(3, 0, $id, pack 'N', pick(0, 1, 7, 8, 0xffffffff)),
            frame(8, 0, $id, pack 'N', 0x7fffffff), frame(8, 0, $id, pack 'N', 1),
        frame(0, 1, $id, 'x'), frame(0, 0, $id, 'x' x 100),
            frame(3, 0, $id, pack 'N', 8) x 3, frame(0, 1, $id, 'x') x 3) };
}


1;

__END__

=head1 NAME

Convotic::Grammar - requests as they should be, and what is done to them

=head1 DESCRIPTION

=over

=item new(keys => {name => key}, good => [names], tag => sub)

The keys that are sent, and those of them that are good; C<tag> tells the entity
tag of what a key, a limit and a platform are answered.

=item connection

One connection, drawn with C<rand()>: C<way> (plain, TLS, HTTP/2 and so on),
C<mode> (to the end, aborted, half-closed early, left alone), C<writes> (at once,
in parts, byte by byte, in turn), and C<messages>, each with C<bytes> and
C<kinds>; for HTTP/2 C<frames>, each with C<bytes> and C<kind>, and if it begins a
request with C<stream>, C<fields> and C<open> (data follow).  C<fatal> ends the
connection, C<harms> is the stream that need not be answered then, C<vague> says
that bytes were changed.

=item message

One request of HTTP/1.

=back

=cut
