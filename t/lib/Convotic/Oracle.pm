package Convotic::Oracle;

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);

# What nginx takes bytes for, and what has to come back: its reading of request
# lines, header lines and bodies told a second time, and the order of the
# gateway's checks.  Written after nginx 1.22 (ngx_http_parse.c,
# ngx_http_request.c, ngx_http_request_body.c, v2/ngx_http_v2.c); where other
# versions differ, both answers are expected.

use constant {
    LINE        => 8192,        # large_client_header_buffers: 4 of these
    FIRST       => 1024,        # client_header_buffer_size
    BODY        => 1_048_576,   # client_max_body_size
    METHOD_SEEN => 32,          # as much of a method as a message repeats
    HELD        => 5000,        # bodies that are remembered
};

our $ENDPOINT = '/v1/contacts';

# A second one of these is refused.

my %unique = map { $_ => 1 } qw(
    if-modified-since if-unmodified-since if-match if-none-match content-length
    content-range if-range transfer-encoding expect authorization
);

my %message = (
    400 => 'Malformed request',       403 => 'Access denied',
    404 => 'Resource not found',      405 => 'Method not allowed',
    412 => 'Precondition failed',     413 => 'Request body is too large',
    414 => 'Request URI is too long', 416 => 'Range not satisfiable',
    500 => 'An unexpected error occurred', 501 => 'Not implemented',
    502 => 'The upstream service gave no valid answer',
    503 => 'Service temporarily unavailable',
    505 => 'HTTP version not supported',
);

my $LIMIT = "Parameter 'limit' must be between 1 and 100";
my $PLATFORM = "Parameter 'platform' must be one of: "
               . 'instagram, line, facebook, whatsapp';
my %platform = map { $_ => 1 } qw(instagram line facebook whatsapp);

# What the upstream says to the workspace "odd" for these limits, and what is
# made of it.

my %ODD = (
    90 => [ 404, 'Not "here"' ],
    91 => [ 500, $message{500} ],
    92 => [ 502, $message{502} ],
    93 => [ 503, $message{503} ],
    94 => [ 502, $message{502} ],
    95 => [ 502, $message{502} ],
    96 => [ 403, $message{403} ],
    97 => [ 502, $message{502} ],
    98 => [ 502, $message{502} ],
);


# keys: the good ones, key => {workspace, rate, scarce}; body: a sub that says
# what the upstream answers for workspace, platform and limit; headers: how many
# nginx takes at most, if it counts them.

sub new {
    my ($class, %arg) = @_;

    return bless { %arg, bodies => {} }, $class;
}


sub is_odd { return scalar grep { $_->[0] == $_[0] } values %ODD }


sub body {
    my ($self, $ok) = @_;

    my $name = "$ok->{workspace} $ok->{platform} $ok->{limit}";
    my $bodies = $self->{bodies};

    %$bodies = () if keys %$bodies > HELD;

    return $bodies->{$name} ||= $self->{body}->($ok);
}


# The tag of a body, known from its bytes.

sub tag {
    my ($self, $ok) = @_;

    my $name = "$ok->{workspace} $ok->{platform} $ok->{limit}";

    return $self->{tags}{$name} ||=
        substr sha256_hex($self->body($ok)), 0, 32;
}


# The answers to bytes that are all of a connection, in their order, and what
# becomes of it then: "open" (it waits for the rest of a request, or the next),
# "closed", or "vague" (nobody can say).  tls: it is sent to a port for TLS.

sub read {
    my ($self, $bytes, %arg) = @_;

    my @expect;

    pos($bytes) = 0;

    return ([], 'vague') if $arg{tls} && $bytes =~ /\A[\x16\x80-\xff]/;

    while (1) {
        my $one = $self->_request(\$bytes, \%arg);

        return (\@expect, 'open') unless $one;
        return (\@expect, 'vague') if $one->{vague};

        # behind the byte that decides

        $one->{end} = (pos($bytes) || 0) + ($one->{early} ? 1 : 0);
        push @expect, $one;

        return (\@expect, $one->{rest}) if $one->{rest};
        return (\@expect, 'closed') unless $one->{keep};
    }
}


sub _request {
    my ($self, $in, $arg) = @_;

    $$in =~ /\G[\r\n]+/gc;

    my $start = pos($$in) || 0;
    return undef if $start == length $$in;

    my %req = (method => '', version => 1000, start => $start,
               tls => $arg->{tls}, h => {}, connection => '');
    my $rc = _line($in, \%req);
    my $used = ($rc eq 'more' ? length $$in : pos $$in) - $start;

    # $used is the offending byte's offset, or where the next line begins

    pos($$in) = length $$in if $rc eq 'more';

    return _nginx({ %req, version => 1000 }, 414)
        if $used > LINE || $rc && $used >= LINE;
    return undef if $rc eq 'more';
    return _nginx(\%req, $rc) if $rc;

    return _nginx(\%req, 400)
        if $req{version} == 9 && $req{method} ne 'GET'
           || !_uri(\%req) || defined $req{host} && !_host($req{host});

    return $self->judge(\%req) if $req{version} < 1000;

    $rc = $self->_headers($in, \%req);
    return undef if $rc eq 'more';
    return { vague => 1 } if $rc eq 'vague';
    return _nginx(\%req, $rc) if $rc;

    $rc = _head(\%req);

    return _with_body($in, \%req, $rc ? _nginx(\%req, $rc) : $self->judge(\%req));
}


# "more", the status of an error (pos at the byte that is one), or 0 with pos
# behind the line.

sub _line {
    my ($in, $req) = @_;

    if ($$in =~ m{\G([A-Z_-]+)\ +(/[^\x00-\x20\x7f]*)\ +HTTP/1\.(\d\d?)\ *\r?\n}gcx) {
        @$req{qw(method uri version)} = ($1, $2, 1000 + $3);
        return 0;
    }

    $$in =~ /\G([A-Z_-]*)/gc;
    my $method = $1;

    return _bad($in) if _next($in) ne ' ' || $method eq '';

    $req->{method} = $method;
    $$in =~ /\G +/gc;

    my $next = _next($in);

    if ($next eq '/') {
        $$in =~ m{\G([^\x00-\x20\x7f]*)}gc;
        $req->{uri} = $1;

    } elsif ($next =~ /[A-Za-z]/) {
        my $rc = _absolute($in, $req);
        return $rc if $rc;

    } else {
        return _bad($in);
    }

    return _version($in, $req);
}


sub _next { return substr ${ $_[0] }, pos(${ $_[0] }) || 0, 1 }

sub _bad { return _next($_[0]) eq '' ? 'more' : 400 }


sub _absolute {
    my ($in, $req) = @_;

    $$in =~ m{\G[A-Za-z][A-Za-z0-9+.-]*}gc;

    for my $char (':', '/', '/') {
        return _bad($in) if _next($in) ne $char;
        pos($$in)++;
    }

    my $start = pos $$in;

    if (_next($in) eq '[') {
        $$in =~ /\G\[[0-9A-Za-z:._~!\$&'()*+,;=-]*/gc;
        return _bad($in) if _next($in) ne ']';
        pos($$in)++;
    } else {
        $$in =~ /\G[A-Za-z0-9.-]*/gc;
    }

    $req->{host} = substr $$in, $start, pos($$in) - $start;

    $$in =~ /\G:[0-9]*/gc;

    my $next = _next($in);

    if ($next eq ' ') {
        $req->{uri} = '/';
        return 0;
    }

    return _bad($in) if $next ne '/' && $next ne '?';

    $$in =~ m{\G([^\x00-\x20\x7f]*)}gc;
    $req->{uri} = $1;

    return 0;
}


sub _version {
    my ($in, $req) = @_;

    my $next = _next($in);

    return _bad($in) if $next !~ /[ \r\n]/;

    $$in =~ /\G +/gc;
    $next = _next($in);

    if ($next eq "\r" || $next eq "\n") {
        my $rc = _newline($in);
        $req->{version} = 9 unless $rc;
        return $rc;
    }

    for my $char (split //, 'HTTP/') {
        return _bad($in) if _next($in) ne $char;
        pos($$in)++;
    }

    return _bad($in) if _next($in) !~ /[1-9]/;
    return 505 if _next($in) ne '1';
    pos($$in)++;
    return 505 if _next($in) =~ /\d/;
    return _bad($in) if _next($in) ne '.';
    pos($$in)++;
    return _bad($in) if _next($in) !~ /\d/;

    my $minor = 0;

    while (_next($in) =~ /(\d)/) {
        return 400 if $minor > 99;
        $minor = 10 * $minor + $1;
        pos($$in)++;
    }

    return _bad($in) if _next($in) !~ /[ \r\n]/;

    $$in =~ /\G +/gc;

    my $rc = _newline($in);
    $req->{version} = 1000 + $minor unless $rc;

    return $rc;
}


sub _newline {
    my ($in) = @_;

    $$in =~ /\G\r/gc;
    return _bad($in) if _next($in) ne "\n";
    pos($$in)++;

    return 0;
}


# The path, decoded, and the query.

sub _uri {
    my ($req) = @_;

    my $uri = $req->{uri};

    if ($uri =~ m{\A([A-Za-z0-9/_-]+)(?:\?([^#]*))?\z} && index($1, '//') < 0) {
        @$req{qw(path args)} = ($1, $2);
        return 1;
    }

    return _complex($req, $uri);
}


sub _complex {
    my ($req, $uri) = @_;

    my $out = $uri =~ /\A\?/ ? '/' : '';
    my $state = 'usual';
    my $at = 0;

    while ($at < length $uri) {
        my $char = substr $uri, $at++, 1;

        if ($char eq '%') {
            return 0 if substr($uri, $at, 2) !~ /\A([0-9A-Fa-f]{2})\z/;
            $char = chr hex $1;
            $at += 2;
            return 0 if $char eq "\0";

            if ($char =~ /[%#?]/) {
                $out .= $char;
                $state = 'usual';
                next;
            }
        } elsif ($char eq '?' || $char eq '#') {
            return 0 unless _end_of_path(\$out, $state);
            $req->{path} = $out;
            ($req->{args}) = substr($uri, $at) =~ /\A([^#]*)/ if $char eq '?';
            return 1;
        }

        if ($char eq '/') {
            next if $state eq 'slash';

            if ($state eq 'dot' || $state eq 'dots') {
                return 0 unless _end_of_path(\$out, $state);
            } else {
                $out .= '/';
            }
            $state = 'slash';

        } elsif ($char eq '.' && $state =~ /\A(?:slash|dot)\z/) {
            $out .= '.';
            $state = $state eq 'slash' ? 'dot' : 'dots';

        } else {
            $out .= $char;
            $state = 'usual';
        }
    }

    return 0 unless _end_of_path(\$out, $state);
    $req->{path} = $out;

    return 1;
}


sub _end_of_path {
    my ($out, $state) = @_;

    if ($state eq 'dot') {
        chop $$out;
    } elsif ($state eq 'dots') {
        my $from = length($$out) - 4;
        return 0 if $from < 0;
        my $slash = rindex $$out, '/', $from;
        return 0 if $slash < 0;
        $$out = substr $$out, 0, $slash + 1;
    }

    return 1;
}


sub _host {
    my ($host) = @_;

    return 0 if $host =~ m{[\x00-\x20\x7f/]|\.\.};

    my $name = $host =~ /\A(\[[^\]]*\])/ ? $1
             : $host =~ /\A\[/           ? $host
             : $host =~ /\A([^:]*)/      ? $1 : '';

    return $name !~ /\A\.?\z/;
}


# Header lines, up to the end of the last.  Of one that is too long for sure,
# or all of which are, or are not for sure, is known what becomes.

sub _headers {
    my ($self, $in, $req) = @_;

    my ($longest, $rc) = (0, undef);

    until (defined $rc) {
        my $from = pos $$in;

        if ($$in =~ /\G([^\x00-\x20\x7f:]+)(?::\ *([^\x00\r\n]*))?\r*\n/gc) {
            my ($name, $value) = ($1, defined $2 ? $2 : '');
            my $length = pos($$in) - $from;

            $longest = $length if $length > $longest;

            if ($length <= LINE && $name !~ /[^A-Za-z0-9-]/) {
                $value =~ s/ +\z//;
                $rc = $self->_is_one_too_many($req)
                      || _field($req, lc $name, $value) || undef;
            }
        } elsif ($$in =~ /\G\r?\n/gc) {
            $rc = 0;
        } else {
            $rc = _bad_field($in);
        }

        my $to = $rc && $rc eq 'more' ? length $$in : pos $$in;

        $longest = $to - $from if $to - $from > $longest;
        return 400 if $longest > LINE || $rc && $longest == LINE;

        # the request line stands in the same buffers

        my $all = $to - $req->{start};
        return 400 if $all > FIRST + 4 * LINE;
        return 'vague' if $all > 3 * LINE - 4 * $longest && $all > FIRST;
    }

    return $rc;
}


# Newer versions, and Debian's, count them.

sub _is_one_too_many {
    my ($self, $req) = @_;

    return $self->{headers} && ++$req->{count} > $self->{headers} ? 400 : 0;
}


# The byte that cannot stand where it does, or the end.

sub _bad_field {
    my ($in) = @_;

    return _newline($in) if $$in =~ /\G(?=\r)/gc;
    return _bad($in) if _next($in) =~ /\A[\x00-\x20\x7f:]?\z/;

    $$in =~ /\G[^\x00-\x20\x7f:]+/gc;
    return _bad($in) if _next($in) !~ /\A[:\r\n]\z/;

    $$in =~ /\G:[^\x00\r\n]*/gc;
    $$in =~ /\G\r+/gc;

    return _bad($in);
}


sub _field {
    my ($req, $name, $value) = @_;

    my $values = $req->{h}{$name} ||= [];

    push @$values, $value;

    if ($name eq 'host') {
        return 400 if @$values > 1 || !_host($value);
    } elsif ($name eq 'connection') {
        $req->{connection} = $value =~ /close/i      ? 'close'
                           : $value =~ /keep-alive/i ? 'keep-alive'
                           :                           $req->{connection};
    } elsif ($unique{$name} && @$values > 1) {
        return 400;
    }

    return 0;
}


# What nginx looks at once it has them all.

sub _head {
    my ($req) = @_;

    my $h = $req->{h};

    return 400 if !$h->{host} && $req->{version} > 1000;

    if ($h->{'content-length'}) {
        my $length = $h->{'content-length'}[0];

        return 400 if $length !~ /\A\d+\z/;
        $length =~ s/\A0+(?=\d)//;
        return 400 if length $length > 19
                      || length $length == 19 && $length gt '9223372036854775807';
        $req->{length} = $length;
    }

    if ($h->{'transfer-encoding'}) {
        return 400 if $req->{version} < 1001;
        return 501 if lc $h->{'transfer-encoding'}[0] ne 'chunked';
        return 400 if $h->{'content-length'};
        $req->{chunked} = 1;
    }

    return 405 if $req->{method} eq 'CONNECT' || $req->{method} eq 'TRACE';

    return 0;
}


# An error of nginx's before it has looked at the whole.

sub _nginx {
    my ($req, $status) = @_;

    # CONNECT was once refused as malformed

    my @any = map { [ $_, $message{$_} ] }
        $status == 405 && $req->{method} eq 'CONNECT' ? (400, 405) : $status;

    return {
        any => \@any, keep => 0, gateway => 0, early => 1,
        head => $req->{version} >= 1000 && $req->{method} eq 'HEAD',
        bare => $req->{version} < 1000,
    };
}


# What is told is read, also behind a refusal: as long as bytes of it are missing,
# the connection stays.

sub _with_body {
    my ($in, $req, $one) = @_;

    $one->{early} = 0;

    if ($req->{chunked}) {
        my $rc = _chunks($in);

        $one->{rest} = 'open' if $rc eq 'more';

        # whether they were there when it answered is another question

        @$one{qw(keep unsaid early)} = (0, $one->{keep}, 1) if $rc eq 'bad';

    } elsif ($req->{length}) {
        if ($req->{length} > length($$in) - pos $$in) {
            $one->{rest} = 'open';
        } else {
            pos($$in) += $req->{length};
        }
    }

    return $one;
}


# "more", "bad", or "" with pos behind the body.

sub _chunks {
    my ($in) = @_;

    while (1) {
        return _next($in) eq '' ? 'more' : 'bad'
            unless $$in =~ /\G0*([0-9A-Fa-f]*)/gc && $+[0] > $-[0];

        my $size = $1;

        return 'more' if _next($in) eq '';
        return 'bad' if length $size > 15
                        || length $size == 15 && $size =~ /\A[89A-Fa-f]/;
        $size = length $size > 8 ? length $$in : hex($size || 0);

        $$in =~ /\G[; \t][^\r\n]*/gc;
        my $rc = _newline($in);
        return $rc eq 'more' ? 'more' : 'bad' if $rc;

        if ($size == 0) {
            return _trailer($in);
        }

        return 'more' if $size >= length($$in) - pos $$in;

        pos($$in) += $size;
        $rc = _newline($in);
        return $rc eq 'more' ? 'more' : 'bad' if $rc;
    }
}


sub _trailer {
    my ($in) = @_;

    while (1) {
        my $last = _next($in) =~ /\A[\r\n]/;

        $$in =~ /\G[^\r\n]*/gc;
        my $rc = _newline($in);
        return $rc eq 'more' ? 'more' : 'bad' if $rc;
        return '' if $last;
    }
}


# A whole request: {method, version, path, args, h => {name => [values]},
# length, chunked, connection, tls, open (HTTP/2: the stream is not ended)}.

sub judge {
    my ($self, $req) = @_;

    my $method = $req->{method};

    return _nginx($req, 400) if $req->{tls};
    return _nginx($req, 413) if defined $req->{length} && $req->{length} > BODY;

    my %one = (
        head => $method eq 'HEAD', bare => $req->{version} < 1000, gateway => 0,
        keep => $req->{connection} eq 'close'      ? 0
              : $req->{connection} eq 'keep-alive' ? 1
              : $req->{version} > 1000,
    );

    if ($req->{path} ne $ENDPOINT) {
        $one{any} = [ map { [ $_, $message{$_} ] }
                      $method =~ /\A(?:GET|HEAD|POST)\z/ ? (403, 404) : 405 ];
        return \%one;
    }

    return $self->_gateway($req, \%one);
}


sub _gateway {
    my ($self, $req, $one) = @_;

    my ($method, $h) = @$req{qw(method h)};
    my $body = $req->{length} || $req->{chunked};

    $one->{gateway} = 1;
    $one->{keep} = 0 if $body;

    # of chunks that came with the header and are none, nginx says so itself

    my @broken = $req->{chunked} ? [ 400, $message{400} ] : ();

    if ($method ne 'GET' && $method ne 'HEAD') {
        my $seen = substr $method, 0, METHOD_SEEN;
        return _refuse($one, 405, "Method $seen is not allowed", @broken);
    }

    return _refuse($one, 400, 'A request body is not allowed', @broken) if $body;

    my $keys = $h->{'x-api-key'};

    return _refuse($one, 401, 'Missing X-API-Key header') unless $keys;
    return _refuse($one, 400, "Header 'X-API-Key' must appear at most once")
        if @$keys > 1;

    my $key = $self->{keys}{ $keys->[0] }
        or return _refuse($one, 401, 'Invalid API key');

    $one->{rate} = $key->{rate};
    $one->{scarce} = $key->{scarce};

    my %ok = (workspace => $key->{workspace});
    my $fault = _query($req->{args}, \%ok);

    return _refuse($one, 400, $fault) if $fault;

    return _refuse($one, @{ $ODD{ $ok{limit} } })
        if $ok{workspace} eq 'odd' && $ODD{ $ok{limit} };

    $one->{ok} = \%ok;
    $one->{any} = [];
    $one->{h} = $h;

    return $one;
}


sub _refuse {
    my ($one, $status, $message, @others) = @_;

    $one->{any} = [ [ $status, $message ], @others ];
    $one->{broken} = @others;

    return $one;
}


# The canonical query, or the message.

sub _query {
    my ($args, $ok) = @_;

    my (%value, $twice);

    for my $part (grep { length } split /&/, defined $args ? $args : '') {
        my ($name, $value) = split /=/, $part, 2;

        for ($name, $value) {
            next unless defined;
            return 'Malformed query string' if /%(?![0-9A-Fa-f]{2})/;
            tr/+/ /;
            s/%(..)/chr hex $1/ge;
        }

        next if $name ne 'limit' && $name ne 'platform';
        $twice = $name if exists $value{$name};
        $value{$name} = defined $value ? $value : '';
    }

    return "Parameter '$twice' must appear at most once" if $twice;

    my ($limit, $platform) = @value{qw(limit platform)};

    if (defined $limit) {
        return $LIMIT if $limit !~ /\A0*([1-9][0-9]?|100)\z/;
        $limit = $1;
    }

    return $PLATFORM if defined $platform && !$platform{$platform};

    $ok->{limit} = defined $limit ? $limit : 20;
    $ok->{platform} = defined $platform ? $platform : '';

    return '';
}


# HTTP/2: what becomes of a stream whose header fields are these, in their
# order; undef if the whole connection ends.  A field with bytes that cannot be
# has the stream reset, by later versions it is a 400.  Of what follows a field that it has refused, nginx 1.22 takes each name and each
# value to be as long as that field's value: they are without a name if it was
# empty, and too much if it was long.

sub stream {
    my ($self, $fields, $open) = @_;

    my %req = (method => '', version => 2000, h => {}, connection => '');
    my $size = 0;

    for my $i (0 .. $#$fields) {
        my ($name, $value) = @{ $fields->[$i] };
        my $rc = $self->_h2_field(\%req, $name, $value);

        $size += length($name) + length $value;
        next unless $rc;

        my $rest = $#$fields - $i;
        return undef if $rest && $value eq ''
            || $size + 2 * $rest * length $value > 4 * LINE;
        return { %{ _nginx(\%req, 400) }, reset => $rc eq 'reset' };
    }

    return _nginx(\%req, 400)
        if grep { !defined $req{$_} } qw(:method :scheme uri);

    my $rc = _head(\%req);
    return _nginx(\%req, $rc) if $rc;

    return _nginx(\%req, 400) if $req{length} && !$open;

    $req{chunked} = 1 if !defined $req{length} && $open;

    return $self->judge(\%req);
}


sub _h2_field {
    my ($self, $req, $name, $value) = @_;

    return 'reset' if substr($name, 1) =~ /[\x00-\x20\x7f:A-Z]/
                      || $name =~ /\A[\x00-\x20\x7fA-Z]/
                      || $value =~ /[\x00\r\n]/;

    return _pseudo($req, $name, $value) && 400 if $name =~ /\A:/;
    return 0 if $name =~ /[^a-z0-9-]/;

    return $name ne 'cookie' && $self->_is_one_too_many($req)
           || _field($req, $name, $value);
}


sub _pseudo {
    my ($req, $name, $value) = @_;

    if ($name eq ':path') {
        return 400 if defined $req->{uri}
                      || $value !~ m{\A/[^\x00-\x20\x7f]*\z};
        $req->{uri} = $value;
        return !_uri($req);
    }

    if ($name eq ':authority') {
        return _field($req, host => $value);
    }

    return 400 if defined $req->{$name} || $value eq '';

    if ($name eq ':method') {
        $req->{$name} = $value;
        return 400 if $value =~ /[^A-Z_-]/;
        $req->{method} = $value;
        return 0;
    }

    if ($name eq ':scheme') {
        return 400 if $value !~ /\A[A-Za-z][A-Za-z0-9+.-]*\z/;
        $req->{$name} = $value;
        return 0;
    }

    return 400;
}


1;

__END__

=head1 NAME

Convotic::Oracle - what must be answered to bytes, whatever they are

=head1 SYNOPSIS

    my $oracle = Convotic::Oracle->new(
        keys => { $key => { workspace => 'acme', rate => 1000 } },
        body => sub { my ($ok) = @_; ... },
    );
    my ($expect, $end) = $oracle->read("GET /v1/contacts HTTP/1.1\r\n...");

=head1 DESCRIPTION

=over

=item new(keys =>, body =>, headers =>)

The good keys (C<scarce>: may be over the rate), a sub that tells a body, and how
many header lines this nginx takes, 0 if it does not count them.

=item read($bytes, tls => 1)

What an HTTP/1 connection with these bytes is answered, and its end: C<open>,
C<closed> or C<vague>.  Each answer has C<any>, a list of [status, message], and
where it may be a success C<ok>: workspace, limit, platform; C<head> (no body),
C<bare> (no header), C<keep>, C<gateway>, C<rate>, and C<end>, the offset behind what
decides it.

=item stream(\@fields, $open)

The same for the header fields of a stream of HTTP/2.

=item body($ok), tag($ok), Convotic::Oracle::is_odd($status)

=back

=cut
