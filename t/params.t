#!/usr/bin/perl

# The query string: what is accepted, the one canonical query that each
# becomes, and what is refused.  The limits and platforms are the default
# ones; limit.t, platforms.t, unknown_args.t and forward_args.t change them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use constant {
    LIMIT     => "Parameter 'limit' must be between 1 and 100",
    PLATFORM  => "Parameter 'platform' must be one of: "
                 . 'instagram, line, facebook, whatsapp',
    TWICE     => "Parameter '%s' must appear at most once",
    MALFORMED => 'Malformed query string',
};

my $t = Convotic::Test->new(direct => 1);
my $g = $t->gateway(ssl => 1, location => 'convotic_cache_valid 1h;');
my $up = $g->upstream;


sub invalid {
    my ($query, $message) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $shown = length $query > 60 ? substr($query, 0, 60) . '...' : $query;
    $shown =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/eg;

    return error_is($g->contacts($query), 400, 'INVALID_REQUEST', $message,
                    "'$shown': $message");
}


# Queries that mean the same are one request to the upstream, with these
# bytes, and one body.

my @same = (
    [ 'limit=20',
      '', '&', '&&&&', '=', '==', '&=&', '=x', '=limit', 'x', 'x=', 'x=y',
      'limit=20', 'limit=020', 'limit=20&', '&limit=20', '&&limit=20&&',
      'LIMIT=5', 'Limit=5', 'lim%49t=5', 'limit%00=5', '%00limit=5',
      'limit%20=5', '%20limit=5', 'limit+=5', '+limit=5', 'limit%09=5',
      'limit[]=5', 'limit[0]=5', 'limits=5', 'limi=5', 'li=mit&mit=5',
      'limit%3D5', 'limit%3d=5', 'limit%26=5', '%2526limit=5', 'limit.=5',
      'PLATFORM=line', 'Platform=line', 'platform%00=line', 'platform+=line',
      'platforms=line', 'plat=form=line', '?', '??', '?limit=5',
      'x=1;limit=5', ';limit=5', 'x;platform=line', '%26limit=5',
      '%3Flimit=5', 'x=%26limit=5', 'x=1%26limit=5', 'offset=5&page=2',
      '#', '#limit=5', '?#', '&#&limit=5', '#%zz', 'cursor=%00', 'x=%ff%fe',
      'x=%25zz', '%25=%25', 'x=%C3%28', "x=\xff\xfe", "\xe9=1",
      'X-Convotic-Workspace=evil', 'workspace=evil', 'x=' . 'y' x 7000,
      'a&' x 3500, '=&' x 3500, '%61&' x 1700 ],

    [ 'limit=5',
      'limit=5', 'limit=05', 'limit=005', 'limit=' . '0' x 3000 . '5',
      '%6c%69%6d%69%74=%35', '%6C%69%6D%69%74=%35', 'limi%74=5', 'limit=%35',
      'limit=%30%35', 'limit=5&', '&limit=5', 'limit=5&x=y', 'x=y&limit=5',
      'limit=5&LIMIT=9', 'Limit=9&limit=5', 'limit=5&limit%00=9',
      'limit%20=9&limit=5', 'limit=5&x=limit=9', 'limit=5&%26limit=9',
      'limit=5#', 'limit=5#0', 'limit=5#&limit=9', 'limit=5#%', 'limit=5&#',
      'limit=5&x=' . 'y' x 7000, 'x&' x 3000 . 'limit=5',
      'limit=5&platforms=line' ],

    [ 'limit=1',   'limit=1', 'limit=01', 'limit=%31' ],
    [ 'limit=10',  'limit=10', 'limit=010', 'limit=%31%30', 'limit=1%30' ],
    [ 'limit=100', 'limit=100', 'limit=0100', 'limit=%3100' ],

    [ 'platform=line&limit=20',
      'platform=line', 'platform=line&limit=20', 'limit=20&platform=line',
      'limit=020&platform=line', 'plat%66orm=line', 'platform=%6cine',
      'platform=%6C%69%6E%65', '%70latform=line&x=1', 'x=1&platform=line',
      'platform=line&Platform=facebook', 'platform=line#facebook' ],

    [ 'platform=line&limit=5',
      'platform=line&limit=5', 'limit=5&platform=line',
      'limit=%35&plat%66orm=l%69ne', 'x=1&limit=05&y=2&platform=line&z=3',
      '&&limit=5&&&platform=line&&', '=&limit=5&=&platform=line' ],

    [ 'platform=instagram&limit=20', 'platform=instagram' ],
    [ 'platform=facebook&limit=20',  'platform=facebook' ],
    [ 'platform=whatsapp&limit=100', 'limit=100&platform=whatsapp' ],
);

for my $case (@same) {
    my ($canonical, @queries) = @$case;
    my %args = map { split /=/ } split /&/, $canonical;
    my $body = contacts_body(workspace => 'acme', %args);

    $up->reset;

    for my $query (@queries) {
        my $shown = length $query > 60 ? substr($query, 0, 60) . '...' : $query;
        $shown =~ s/([^\x20-\x7e])/sprintf '\\x%02x', ord $1/eg;

        success_is($g->contacts($query), $body, "'$shown' is '$canonical'");
    }

    is_deeply([ map { $_->method . ' ' . $_->uri } $up->requests ],
              [ "GET /v1/contacts?$canonical" ],
              "'$canonical': the upstream was asked once, and so");
}

$up->reset;


# limit: a decimal integer from 1 to 100 and nothing else.

invalid("limit=$_", LIMIT) for (
    '', 0, '00', '-0', 101, '0101', 1000, -1, '--1', '+1', '%2B1', '%2D1',
    '1.5', '1.0', '1.', '.5', '1e1', '1E1', '0x10', '0b1', '0o7', '1,0',
    '1%2C000', '1_0', '1%27000', 'abc', '1a', 'a1', 'ten', 'null', 'true',
    'NaN', 'Infinity', '%2B', '-', '+', '%20', '%201', '1%20', '1+',
    '+10', '1+0', '1%0a', '%0a1', '1%0d%0a', '1%09', '%091', '1%00', '%001',
    '%00', '1%000', '10%00', '"1"', "'1'", '(1)', '[1]', '1;', '1;limit=1',
    '1%3B', '=1', '1=', '1=1', '1?', '1?x=1', '1%26x', '1%23', '1/1', '1..5',
    '1-5', '%D9%A1', '%EF%BC%91', '%E0%B9%91', "\xb9", '%c2%b2',
    2147483647, 2147483648, 2147483649, 4294967295, 4294967296, 4294967297,
    4294967306, '9223372036854775807', '9223372036854775808',
    '18446744073709551615', '18446744073709551616', '18446744073709551617',
    '18446744073709551626', '-18446744073709551615', '1' x 40, '1' x 7000,
);

invalid('limit', LIMIT);
invalid('x&limit&y', LIMIT);
invalid('%6cimit=0', LIMIT);
invalid('limit=500', LIMIT);
invalid('platform=line&limit=0', LIMIT);


# platform: a name of the list, as it is written there.

invalid("platform=$_", PLATFORM) for (
    '', 'Line', 'LINE', 'line%20', '%20line', 'line+', '+line', 'line%00',
    'li%00ne', '%00', 'line%0a', 'line%09', 'lines', 'lin', 'ine', 'line,',
    'line,facebook', 'line%2Cfacebook', 'line%7Cfacebook', 'line;', 'line=',
    '=line', 'line%26', 'line?', 'line%23', 'telegram', 'all', '*', 'null',
    '%25', 'l%25ine', '%256cine', 'line/', '../line', '"line"', "l\xefne",
    'l%C4%B1ne', 'x' x 7000, '%00' x 2000,
);

invalid('platform', PLATFORM);
invalid('plat%66orm=x', PLATFORM);
invalid('platform=x&limit=5', PLATFORM);
invalid('platform=line;limit=5', PLATFORM);


# Neither twice, whatever their values and spellings.

for my $case (
    [ limit => 'limit=1&limit=1', 'limit=1&limit=2', 'limit=5&x=y&limit=5',
               'limit=5&%6cimit=5', 'l%69mit=5&lim%69t=5', 'limit=5&limit',
               'limit&limit=5', 'limit=&limit=5', 'limit=5&limit=',
               'limit=5&&&limit=5', 'limit=5&limit=05', 'limit=5&limit=500',
               'limit=500&limit=5', 'limit=5&limit=5&limit=5',
               'limit=5&platform=line&limit=5', 'limit=5&' x 800 ],
    [ platform => 'platform=line&platform=line',
                  'platform=line&platform=facebook',
                  'platform=line&plat%66orm=line',
                  '%70latform=line&platform=line',
                  'platform=line&platform', 'platform=&platform=line',
                  'platform=line&platform=x', 'platform=x&platform=line',
                  'platform=line&limit=5&platform=line' ],
) {
    my ($name, @queries) = @$case;

    invalid($_, sprintf TWICE, $name) for @queries;
}

invalid('limit=5&limit=5&platform=line&platform=line',
        qr/^Parameter '(?:limit|platform)' must appear at most once\z/);


# Percent-encoding is two hexadecimal digits, in whatever parameter.

for my $bad (qw(% %z %zz %2 %2z %z2 %g0 %0g %%25 %-1 %+1 %0x %x0 %u0031 %2%35
                %e0%b8%a %.. %:1))
{
    invalid($_, MALFORMED) for (
        $bad, "x=$bad", "$bad=x", "limit=$bad", "limit=5$bad", "limit$bad=5",
        "platform=line$bad", "limit=5&x=$bad", "limit=5&$bad", "x=$bad&limit=5",
    );
}

invalid($_, MALFORMED) for 'limit=%', 'limit=%3', '%&limit=5', 'limit=5&&%',
    'x=%2&35', 'x=%&x=%41', 'x=' . 'y' x 7000 . '%';

is_deeply([ map { $_->uri } $up->requests ], [],
          'the upstream saw nothing of what was refused');


# After the key: what is wrong with a query is nobody's business before.

for my $query ('limit=0', 'platform=x', 'limit=1&limit=1', '%') {
    error_is($g->contacts($query, 'X-API-Key' => undef), 401, 'UNAUTHORIZED',
             'Missing X-API-Key header', "'$query': after the key");
    error_is($g->contacts($query, 'X-API-Key' => test_key('nobody')),
             401, 'UNAUTHORIZED', 'Invalid API key',
             "'$query': after an unknown key");
}


# The question mark may be missing, or stand alone; other spellings of the
# path are the same request; other forms and versions of HTTP are alike.

my $default = contacts_body(workspace => 'acme');
my $five = contacts_body(workspace => 'acme', limit => 5);
my @key = ('X-API-Key' => $g->key);

success_is($g->get('/v1/contacts', @key), $default, 'no question mark');
success_is($g->get('/v1/contacts?', @key), $default, 'nothing behind it');
success_is($g->get($_, @key), $five, $_) for (
    '/v1/contacts?limit=5', '//v1/contacts?limit=5', '/v1/./contacts?limit=5',
    '/v1/x/../contacts?limit=5', '/%76%31/contact%73?limit=5',
    '/v1%2fcontacts?limit=5', 'http://localhost/v1/contacts?limit=5',
);

for my $opt ({ version => '1.0' }, { tls => 1 }, { h2 => 1 }) {
    my $name = join ' ', %$opt;

    success_is($g->contacts('limit=%35&x=1', $opt), $five, $name);
    success_is($g->contacts('limit=5', { %$opt, method => 'HEAD' }), $five,
               "$name, HEAD");
    error_is($g->contacts('limit=500', $opt), 400, 'INVALID_REQUEST', LIMIT,
             "$name, limit");
    error_is($g->contacts('platform=x', $opt), 400, 'INVALID_REQUEST',
             PLATFORM, "$name, platform");
    error_is($g->contacts('limit=5&limit=5', $opt), 400, 'INVALID_REQUEST',
             sprintf(TWICE, 'limit'), "$name, twice");
    error_is($g->contacts('%', $opt), 400, 'INVALID_REQUEST', MALFORMED,
             "$name, malformed");
    error_is($g->contacts('limit=500', { %$opt, method => 'HEAD' }), 400,
             'INVALID_REQUEST', LIMIT, "$name, HEAD, limit");
}

is_deeply([ map { $_->uri } $up->requests ], [],
          'no request to the upstream for any of these');

$t->finish;
