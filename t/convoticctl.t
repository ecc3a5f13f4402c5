#!/usr/bin/perl

# convoticctl: every command, exit code and failure, against real servers.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use JSON::PP;
use Time::HiRes qw(sleep time);

use Convotic::Resp qw(resp_array resp_bulk);
use Convotic::Test;

use constant {
    OK => 0, FAILED => 1, USAGE => 2, UNACKED => 3, NOT_FOUND => 4,
};

my @RECORD = qw(created expired expires hash id incomplete malformed name rate
                status workspace);
my @WRITTEN = qw(acknowledged replicas);

delete @ENV{qw(CONVOTIC_REDIS CONVOTIC_CACHE_REDIS)};

my $t = Convotic::Test->new(direct => 1);
my $keys = $t->redis('keys', 'appendonly yes', 'maxmemory-policy noeviction');
my $bodies = $t->redis('bodies', 'maxmemory 20mb',
                       'maxmemory-policy allkeys-lru');

my @crashes;                            # runs that ended by other than exit
my %secrets;                            # every key that was ever printed


# ctl(words..., {stdin =>, env =>, redis =>}): against $keys unless told.

sub ctl {
    my (@args) = @_;

    my %opt = ref $args[-1] ? %{ pop @args } : ();
    my $redis = exists $opt{redis} ? delete $opt{redis} : $keys;

    push @args, '--redis', ref $redis ? $redis->url : $redis
        if defined $redis;

    my $res = $t->ctl(@args, \%opt);

    push @crashes, "@args: " . substr($res->{err}, 0, 2000)
        if $res->{signal} || $res->{timeout} || $res->{exit} > 4
           || $res->{err} =~ /Sanitizer|runtime error/;

    $secrets{$_}++ for $res->{out} =~ /\b(cvtk_live_\w+)/g;

    return $res;
}


# The same with --json; its result is decoded at {json}.

sub ctl_json {
    my (@args) = @_;

    my $opt = ref $args[-1] ? pop @args : {};
    my $res = ctl(@args, '--json', $opt);

    $res->{json} = eval { JSON::PP->new->utf8->decode($res->{out}) };

    return $res;
}


sub done_is {
    my ($res, $exit, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return is($res->{exit}, $exit, $name) || diag($res->{err}, $res->{out});
}


# The exit code, one sentence on standard error, and no output.

sub refused {
    my ($res, $exit, $pattern, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my $good = $res->{exit} == $exit && $res->{out} eq ''
               && $res->{err} =~ /\Aconvoticctl: [^\n]+\n\z/
               && $res->{err} =~ $pattern;

    return ok($good, $name)
        || diag("exit $res->{exit}\n$res->{err}$res->{out}");
}


sub key_new {
    my (@args) = @_;

    my $res = ctl_json('key', 'create', '--workspace', 'acme', @args);
    die "key create: $res->{err}\n" unless $res->{exit} == OK;

    return $res->{json};
}


sub key_name { return "convotic:key:$_[0]{hash}" }

sub record { return { @{ $keys->cmd('HGETALL', key_name($_[0])) } } }


sub members_are {
    my ($json, $names, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return is_deeply([ sort keys %{ $json || {} } ], [ sort @$names ], $name);
}


# Base 62 and CRC-32, written here once more.

sub checksum {
    my ($bytes) = @_;

    my $crc = 0xffffffff;

    for my $byte (unpack 'C*', $bytes) {
        $crc ^= $byte;
        $crc = $crc & 1 ? ($crc >> 1) ^ 0xedb88320 : $crc >> 1 for 1 .. 8;
    }

    $crc ^= 0xffffffff;

    my @digits = ('0' .. '9', 'A' .. 'Z', 'a' .. 'z');
    my $text = '';

    for (1 .. 6) {
        $text = $digits[$crc % 62] . $text;
        $crc = int($crc / 62);
    }

    return $text;
}


# Usage.

for my $case (
    [ [], qr/no command/ ],
    [ ['frob'], qr/no such command/ ],
    [ ['key'], qr/no such command/ ],
    [ ['key', 'frob'], qr/no such command/ ],
    [ ['init', 'more'], qr/too many operands; .* convoticctl init$/ ],
    [ ['key', 'show'], qr/too few operands; .* key show/ ],
    [ ['key', 'show', 'a', 'b'], qr/too many/ ],
    [ ['rate'], qr/no such command/ ],
    [ ['rate', 'show'], qr/too few operands; .* rate show/ ],
    [ ['rate', 'reset', 'a', 'b'], qr/too many operands; .* rate reset/ ],
    [ ['rate', 'reset', 'a b'], qr/neither an id/ ],
    [ ['key', 'create'], qr/--workspace is missing/ ],
    [ ['cache', 'purge'], qr/--workspace is missing/ ],
    [ ['key', 'list', '--rate', '5'], qr/--rate does not belong here/ ],
    [ ['key', 'create', '--grace', '5'], qr/--grace does not belong here/ ],
    [ ['key', 'create', '--workspace'], qr/--workspace needs a value/ ],
    [ ['--frob=hidden'], qr/--frob is unknown/ ],
    [ ['-x'], qr/-x is unknown/ ],
    [ ['--json=hidden'], qr/--json is unknown, ambiguous, or takes no value/ ],
    [ ['key', 'show', 'a b'], qr/neither an id/ ],
    [ ['key', 'show', ''], qr/neither an id/ ],
    [ ['key', 'show', 'x' x 129], qr/neither an id/ ],
    [ ['key', 'check', 'key_1'], qr/standard input only/ ],
    [ ['cache', 'purge', '--workspace', 'a:b'], qr/"a:b".*are allowed/ ],
    [ ['cache', 'purge', '--workspace', ''], qr/are allowed/ ],
    [ ['cache', 'purge', '--workspace', 'a' x 129], qr/are allowed/ ],
    [ ['init', '--timeout', '0'], qr/--timeout "0": an integer from 1/ ],
    [ ['init', '--timeout', '1s'], qr/--timeout "1s"/ ],
    [ ['init', '--prefix', 'a{b'], qr/--prefix/ ],
    [ ['init', '--prefix', 'a b'], qr/--prefix/ ],
    [ ['init', '--prefix', 'x' x 129], qr/--prefix/ ],
) {
    my ($args, $pattern) = @$case;

    my $res = ctl(@$args, { redis => undef });
    refused($res, USAGE, $pattern, "usage: @$args");
    unlike($res->{err}, qr/hidden/, 'usage: no value is repeated')
        if "@$args" =~ /hidden/;
}

my $res = ctl('--help', { redis => undef });
done_is($res, OK, 'help: exit 0');
like($res->{out}, qr/^  \Q$_\E/m, "help: $_")
    for 'init', 'key create', 'key rotate', 'rate show', 'rate reset',
        'cache purge', 'doctor';

$res = ctl('key', 'rotate', '--help', { redis => undef });
like($res->{out}, qr/^Usage: convoticctl key rotate .*--grace/, 'help: one');

$res = ctl('--version', { redis => undef });
like($res->{out}, qr/^convoticctl \d+\.\d+/, 'version');


# init.

$res = ctl('key', 'create', '--workspace', 'acme');
done_is($res, OK, 'create without meta: done');
like($res->{err}, qr/^convoticctl: warning: .*run "convoticctl init"$/,
     'create without meta: a warning');
$keys->flushall;

$res = ctl_json('init');
done_is($res, OK, 'init: exit 0');
is_deeply($res->{json}, { schema => 1, created => JSON::PP::true,
                          replicas => 0, acknowledged => 0 }, 'init: JSON');
is_deeply($keys->keys_dump, { 'convotic:meta' => { schema => 1 } },
          'init: the mark, and nothing else');

$res = ctl_json('init');
done_is($res, OK, 'init again: exit 0');
ok($res->{json} && !$res->{json}{created}, 'init again: nothing created');

$keys->cmd('HSET', 'convotic:meta', 'schema', '2');
refused(ctl('init'), FAILED, qr/schema 2;.*knows schema 1/, 'init: schema 2');
is($keys->cmd('HGET', 'convotic:meta', 'schema'), 2, 'schema 2 stays');

$keys->cmd('SET', 'convotic:meta', 'x');
refused(ctl('init'), FAILED, qr/another type.*WRONGTYPE/, 'init: wrong type');
$keys->flushall;
ctl('init');


# key create.

my $calls = $keys->calls('hset');
my $before = time();
my $made = ctl_json('key', 'create', '--workspace', 'acme', '--name',
                    "\xe0\xb8\xaa\xe0\xb8\xa1 \\ \"app\"", '--rate', '500',
                    '--expires', '+2d');

done_is($made, OK, 'create: exit 0');
is($made->{err}, '', 'create: nothing on standard error');

my $json = $made->{json};

members_are($json, [ @RECORD, @WRITTEN, 'key' ], 'create: members');
like($json->{key}, qr/\Acvtk_live_[0-9A-Za-z]{32}\z/, 'create: the form');
is(substr($json->{key}, 36), checksum(substr $json->{key}, 10, 26),
   'create: the checksum');
like($json->{id}, qr/\Akey_[0-9A-Za-z]{12}\z/, 'create: the id');
is($json->{hash}, sha256_hex($json->{key}), 'create: the hash');
is($json->{name}, "\x{e2a}\x{e21} \\ \"app\"", 'create: the name');
ok($json->{created} >= int($before) && $json->{created} <= time(),
   'create: created is now');
is($json->{expires}, $json->{created} + 2 * 86400, 'create: expires');
is_deeply([ @$json{qw(workspace status rate malformed incomplete)} ],
          [ 'acme', 'active', 500, undef, undef ], 'create: the rest');
is_deeply(record($json), {
    id => $json->{id}, workspace => 'acme', status => 'active', rate => 500,
    expires => $json->{expires}, created => $json->{created},
    name => "\xe0\xb8\xaa\xe0\xb8\xa1 \\ \"app\"",
}, 'create: the record in Redis');
is($keys->calls('hset') - $calls, 1, 'create: one HSET');

my $plain = key_new();
is_deeply(record($plain), {
    id => $plain->{id}, workspace => 'acme', status => 'active', name => '',
    created => $plain->{created},
}, 'create: no rate and no expiry where none is given');
isnt($plain->{key}, $json->{key}, 'create: another key');
isnt($plain->{id}, $json->{id}, 'create: another id');

my @monitor = $keys->monitor(sub { $plain = key_new() });
unlike("@monitor", qr/cvtk_live/, 'create: Redis never hears of the key');
like("@monitor", qr/$plain->{hash}/, 'create: but of its hash');

$res = ctl('key', 'create', '--workspace', 'A.b_c-9', '--name', 'x');
my ($key) = $res->{out} =~ /^key +(cvtk_live_\w{32})$/m;
ok($key, 'create: the key in text');
like($res->{out}, qr/^$_ +\S/m, "create: $_ in text")
    for qw(id workspace status rate expires name created hash);
like($res->{out}, qr/cannot be shown again\.$/, 'create: keep it');

$res = ctl('--workspace', 'acme', 'key', '--name', 'x', 'create');
done_is($res, OK, 'options may come before and between the words');

for my $case (
    [ '--rate', '0', qr/from 1 to 1000000000/ ],
    [ '--rate', '1000000001', qr/from 1 to 1000000000/ ],
    [ '--rate', '-1', qr/--rate "-1"/ ],
    [ '--rate', '1.5', qr/--rate "1.5"/ ],
    [ '--rate', '010', qr/--rate "010"/ ],
    [ '--rate', '', qr/--rate ""/ ],
    [ '--name', "a\nb", qr/--name "a\\x0ab"/ ],
    [ '--name', "a\xc2\x9bb", qr/control characters/ ],
    [ '--name', "a\xff", qr/UTF-8/ ],
    [ '--name', 'x' x 257, qr/up to 256 bytes/ ],
    [ '--expires', '0', qr/is past/ ],
    [ '--expires', '+0s', qr/is past/ ],
    [ '--expires', int(time()) - 5, qr/is past/ ],
    [ '--expires', '2020-01-01', qr/is past/ ],
    [ '--expires', '2999-02-30', qr/YYYY-MM-DD/ ],
    [ '--expires', '2999-13-01', qr/YYYY-MM-DD/ ],
    [ '--expires', '2999-01-01T24:00:00Z', qr/YYYY-MM-DD/ ],
    [ '--expires', '2999-01-01T10:00:00', qr/YYYY-MM-DD/ ],
    [ '--expires', '2999-01-01 10:00', qr/YYYY-MM-DD/ ],
    [ '--expires', '+1w', qr/YYYY-MM-DD/ ],
    [ '--expires', '1d', qr/YYYY-MM-DD/ ],
    [ '--expires', '+', qr/YYYY-MM-DD/ ],
    [ '--expires', '253402300800', qr/YYYY-MM-DD/ ],
    [ '--expires', '+99999999999d', qr/YYYY-MM-DD/ ],
    [ '--expires', '', qr/YYYY-MM-DD/ ],
) {
    my ($option, $value, $pattern) = @$case;

    refused(ctl('key', 'create', '--workspace', 'acme', $option, $value),
            USAGE, $pattern, "create: $option '$value' is refused");
}

for my $case (
    [ '2999-01-31', 32474736000 ],
    [ '2999-01-31T23:59:58Z', 32474822398 ],
    [ '32474736000', 32474736000 ],
) {
    my ($value, $expires) = @$case;

    is(key_new('--expires', $value)->{expires}, $expires,
       "create: --expires $value");
}

for my $case ([ '+90s', 90 ], [ '+15m', 900 ], [ '+12h', 43200 ],
              [ '+30d', 2592000 ])
{
    my ($value, $seconds) = @$case;

    my $new = key_new('--expires', $value);
    is($new->{expires} - $new->{created}, $seconds, "create: $value");
}

is(key_new('--rate', '1000000000')->{rate}, 1e9, 'create: the highest rate');
is(key_new('--name', '')->{name}, '', 'create: an empty name');


# Standard output that takes nothing: the key must not be lost in silence, nor
# land in the socket that gets the number of a closed descriptor.

my $binary = $ENV{TEST_CONVOTICCTL} || $t->top . '/build/convoticctl';

for my $case ([ 'full', '>/dev/full' ], [ 'closed', '>&-' ]) {
    my ($name, $redirect) = @$case;

    @monitor = $keys->monitor(sub {
        $res = $t->run([ 'sh', '-c', "'$binary' key create --workspace acme "
                         . '--redis ' . $keys->url . " $redirect" ]);
    });
    is($res->{exit}, FAILED, "standard output $name: exit 1");
    like($res->{err}, qr/was created but not shown: revoke it$/,
         "standard output $name: a sentence");
    unlike("@monitor", qr/cvtk_live/, "standard output $name: nothing leaks");
}


# A record that is there already: the random numbers are taken away.

SKIP: {
    my $shim = $t->write_file('shim.c', <<'C');
#include <string.h>
#include <sys/types.h>

ssize_t
getrandom(void *buf, size_t size, unsigned flags)
{
    (void) flags;
    memset(buf, 7, size);
    return size;
}
C
    my $so = $t->dir . '/shim.so';
    my $cc = $ENV{CC} || 'cc';
    my $built = eval {
        $t->run([ split(' ', $cc), '-shared', '-fPIC', '-o', $so, $shim ]);
    };

    skip 'no C compiler', 4 unless $built && $built->{exit} == 0;

    my %env = (LD_PRELOAD => $so,
               ASAN_OPTIONS => 'verify_asan_link_order=0');
    my @create = qw(key create --workspace first);

    my $first = ctl_json(@create, { env => \%env });
    done_is($first, OK, 'create: a key of no chance');
    like($first->{json}{key}, qr/\Acvtk_live_7{26}/, 'create: it is known');

    $create[-1] = 'second';
    refused(ctl(@create, { env => \%env }), FAILED,
            qr/there already; nothing is written/, 'create: not again');
    is(record($first->{json})->{workspace}, 'first',
       'create: the record is as it was');

    $keys->cmd('DEL', key_name($first->{json}));
}


# key show, in its ways to name a key.

$res = ctl_json('key', 'show', $plain->{id});
done_is($res, OK, 'show: by id');
members_are($res->{json}, \@RECORD, 'show: members');
is_deeply({ map { ($_ => $plain->{$_}) } @RECORD }, $res->{json},
          'show: what create told');

for my $case (
    [ 'by hash', $plain->{hash}, '' ],
    [ 'a key', '-', $plain->{key} ],
    [ 'a key and LF', '-', "$plain->{key}\n" ],
    [ 'a key and CRLF', '-', "$plain->{key}\r\n" ],
    [ 'a key and more lines', '-', "$plain->{key}\nmore\n" ],
) {
    my ($name, $operand, $stdin) = @$case;

    $res = ctl_json('key', 'show', $operand, { stdin => $stdin });
    is($res->{json} && $res->{json}{id}, $plain->{id}, "show: $name");
    unlike($res->{out}, qr/cvtk_live/, "show: $name: no key is shown");
}

refused(ctl('key', 'show', 'key_none'), NOT_FOUND, qr/key_none/,
        'show: no such id');
refused(ctl('key', 'show', '0' x 64), NOT_FOUND, qr/no record/,
        'show: no such hash');
refused(ctl('key', 'show', '-', { stdin => 'cvtk_live_' . 'x' x 32 }),
        NOT_FOUND, qr/whose form or checksum is wrong/, 'show: mistyped');
refused(ctl('key', 'show', '-', { stdin => $_->[1] }), USAGE,
        qr/one line of 1 to 256/, "show: $_->[0]")
    for [ 'nothing', '' ], [ 'an empty line', "\n" ], [ 'a blank', "a b\n" ],
        [ 'a control character', "a\x01" ], [ 'a NUL', "a\0b" ],
        [ 'CR within', "a\rb" ], [ 'too long', 'x' x 257 ];

$res = ctl('key', 'revoke', $plain->{key});
refused($res, USAGE, qr/does not belong on a command line/,
        'a raw key among the arguments is refused');
unlike($res->{err}, qr/$plain->{key}/, 'and not repeated');

my $by_hand = $keys->add_key('by-hand', id => 'a' x 64);
is(ctl_json('key', 'show', 'a' x 64)->{json}{hash}, sha256_hex($by_hand),
   'show: an id that looks like a hash');
$keys->del_key('by-hand');


# key check.

for my $case (
    [ 'genuine', $plain->{key}, OK ],
    [ 'one character', $plain->{key} =~ s/(.)\z/$1 eq 'a' ? 'b' : 'a'/er,
      FAILED ],
    [ 'two swapped', 'cvtk_live_' . '01' . substr($plain->{key}, 12), FAILED ],
    [ 'too short', substr($plain->{key}, 0, -1), FAILED ],
    [ 'another prefix', 'cvtk_test_' . substr($plain->{key}, 10), FAILED ],
) {
    my ($name, $stdin, $exit) = @$case;

    $res = ctl_json('key', 'check', '-', { stdin => $stdin, redis => undef });
    done_is($res, $exit, "check: $name");
    is_deeply($res->{json},
              { genuine => $exit ? JSON::PP::false : JSON::PP::true },
              "check: $name: JSON");
}


# key disable, enable, revoke.

my $victim = key_new('--name', 'victim', '--rate', 9);
my %record = %{ record($victim) };

for my $case (
    [ 'disable', 'disabled' ], [ 'disable', 'disabled' ],
    [ 'enable', 'active' ], [ 'enable', 'active' ],
    [ 'revoke', 'revoked' ], [ 'revoke', 'revoked' ],
) {
    my ($verb, $status) = @$case;

    $calls = $keys->calls('hset');
    $res = ctl_json('key', $verb, $victim->{id});
    done_is($res, OK, "$verb: exit 0");
    members_are($res->{json}, [ @RECORD, @WRITTEN ], "$verb: members");
    is($res->{json}{status}, $status, "$verb: $status");
    is_deeply(record($victim), { %record, status => $status },
              "$verb: nothing else has changed");
    is($keys->calls('hset') - $calls, 1, "$verb: is written, even again");
}

refused(ctl('key', 'enable', $victim->{id}), FAILED,
        qr/is revoked, which is final/, 'enable: not a revoked key');
refused(ctl('key', 'disable', $victim->{id}), FAILED,
        qr/is revoked, which is final/, 'disable: nor this');
is(record($victim)->{status}, 'revoked', 'and it stays revoked');

refused(ctl('key', $_, 'key_none'), NOT_FOUND, qr/key_none/, "$_: not found")
    for qw(disable enable revoke rotate);

$victim = key_new();
done_is(ctl('key', 'revoke', '-', { stdin => $victim->{key} }), OK,
        'revoke: by the key on standard input');
is(record($victim)->{status}, 'revoked', 'revoke: it is');

$keys->add_key('odd', id => 'key_odd', status => 'paused');
refused(ctl('key', 'enable', 'key_odd'), FAILED,
        qr/neither active nor disabled/, 'enable: not an unknown status');
$res = ctl('key', 'revoke', 'key_odd');
done_is($res, OK, 'revoke: an unknown status');

$keys->set_key('odd', workspace => undef);
$res = ctl('key', 'revoke', 'key_odd');
done_is($res, OK, 'revoke: a malformed record');
like($res->{err}, qr/warning: .*its workspace is missing/, 'and it is told');

$keys->add_key('twin', id => 'key_odd');
refused(ctl('key', 'revoke', 'key_odd'), FAILED, qr/in 2 records/,
        'revoke: an id of two records');
done_is(ctl('key', 'revoke', sha256_hex('twin')), OK, 'revoke: by hash');
$keys->del_key($_) for 'odd', 'twin';

$keys->cmd('SET', 'convotic:key:' . '1' x 64, 'x');
refused(ctl('key', 'revoke', '1' x 64), FAILED, qr/WRONGTYPE/,
        'revoke: a record of another type');
$keys->cmd('DEL', 'convotic:key:' . '1' x 64);


# A change between reading and writing: made by a Redis in between, just
# before the script that begins with these words arrives.

sub between {
    my ($script, @commands) = @_;

    return $t->fake_redis(behind => $keys, handler => sub {
        my ($ctx, $name, @args) = @_;

        if (uc $name eq 'EVAL' && $args[0] =~ /$script/) {
            my $conn = $keys->connect;
            $conn->cmd(@$_) for @commands;
            $conn->close;
        }

        return { pass => 1 };
    });
}

$victim = key_new();
my $fake = between(qr/'absent'/, [ 'DEL', key_name($victim) ]);

refused(ctl('key', 'disable', $victim->{id}, { redis => $fake->url }),
        NOT_FOUND, qr/was deleted meanwhile/, 'disable: deleted meanwhile');
is($keys->cmd('EXISTS', key_name($victim)), 0,
   'disable: a deleted record does not come back');

$victim = key_new();
$fake = between(qr/'absent'/, [ 'HSET', key_name($victim), 'status',
                                'revoked' ]);
refused(ctl('key', 'enable', $victim->{id}, { redis => $fake->url }),
        FAILED, qr/is revoked/, 'enable: revoked meanwhile');
is(record($victim)->{status}, 'revoked', 'enable: it stays revoked');


# key rotate.

my $old = key_new('--name', 'rotating', '--rate', 7, '--expires', '+9d');
$res = ctl_json('key', 'rotate', $old->{id});

done_is($res, OK, 'rotate: exit 0');

my $new = $res->{json};

members_are($new, [ @RECORD, @WRITTEN, 'key', 'replaced' ], 'rotate: members');
members_are($new->{replaced}, \@RECORD, 'rotate: members of the old');
isnt($new->{key}, $old->{key}, 'rotate: a new key');
isnt($new->{id}, $old->{id}, 'rotate: a new id');
is_deeply([ @$new{qw(workspace name rate expires status)} ],
          [ @$old{qw(workspace name rate expires)}, 'active' ],
          'rotate: the rest is inherited');
is(record($new)->{status}, 'active', 'rotate: the new one is there');
is(record($old)->{status}, 'revoked', 'rotate: the old one is revoked');
is($new->{replaced}{id}, $old->{id}, 'rotate: tells the old one');
is($new->{replaced}{status}, 'revoked', 'rotate: and its status');

$old = key_new();
$res = ctl_json('key', 'rotate', $old->{id}, '--grace', '15m');
done_is($res, OK, 'rotate with grace: exit 0');
is(record($old)->{status}, 'active', 'rotate with grace: the old one works');
is(record($old)->{expires} - $res->{json}{created}, 900,
   'rotate with grace: until it ends');
ok(!exists record($res->{json})->{expires}, 'the new one does not expire');

$old = key_new('--expires', '+10m');
ctl('key', 'rotate', $old->{id}, '--grace', '1h');
is(record($old)->{expires}, $old->{expires},
   'rotate with grace: no longer than it had');

$old = key_new();
$res = ctl('key', 'rotate', '-', '--grace', '+1d', { stdin => $old->{key} });
like($res->{out}, qr/^key +cvtk_live_\w{32}$/m, 'rotate: text');
like($res->{out}, qr/^The old key $old->{id} works until 2\d\d\d-/m,
     'rotate: until when');

$old = key_new();
$res = ctl('key', 'rotate', $old->{id}, '--grace', '0');
like($res->{out}, qr/^The old key $old->{id} is revoked\.$/m,
     'rotate: a grace of 0');

refused(ctl('key', 'rotate', $old->{id}), FAILED, qr/is revoked; only/,
        'rotate: not a revoked key');

$old = key_new();
ctl('key', 'disable', $old->{id});
refused(ctl('key', 'rotate', $old->{id}), FAILED, qr/is disabled; only/,
        'rotate: not a disabled key');

$old = key_new();
$keys->cmd('HSET', key_name($old), 'expires', int(time()) - 1);
refused(ctl('key', 'rotate', $old->{id}), FAILED, qr/has expired/,
        'rotate: not an expired key');

$keys->cmd('HSET', key_name($old), 'expires', 'soon');
refused(ctl('key', 'rotate', $old->{id}), FAILED, qr/its expires is malformed/,
        'rotate: not a malformed one');

refused(ctl('key', 'rotate', 'key_x', '--grace', $_), USAGE, qr/--grace/,
        "rotate: --grace '$_'") for '', '-1', '1w', '1.5h', '9999999999999d';

for my $change ([ 'status', 'revoked' ], [ 'expires', '99999999999' ]) {
    $old = key_new();
    $fake = between(qr/'changed'/, [ 'HSET', key_name($old), @$change ]);

    my %known = map { ($_ => 1) } $keys->names('convotic:key:*');
    $res = ctl('key', 'rotate', $old->{id}, { redis => $fake->url });

    refused($res, FAILED, qr/was changed by another meanwhile/,
            "rotate: $change->[0] changed meanwhile");
    is(record($old)->{$change->[0]}, $change->[1],
       'rotate: and is not undone');

    my @fresh = grep { !$known{$_} } $keys->names('convotic:key:*');
    is_deeply([ map { $keys->cmd('HGET', $_, 'status') } @fresh ],
              ['revoked'], 'rotate: the new key is revoked');
}

$old = key_new();
$fake = $t->fake_redis(behind => $keys, handler => sub {
    my ($ctx, $name, @args) = @_;

    return { raw => '', close => 1 }
        if uc $name eq 'EVAL' && $args[0] =~ /'changed'/;
    return { pass => 1 };
});
$res = ctl_json('key', 'rotate', $old->{id}, { redis => $fake->url });
done_is($res, FAILED, 'rotate: the connection breaks half-way: exit 1');
like($res->{err}, qr/the new key works, but the old one may work still/,
     'rotate: half-way: a sentence');
is(record($res->{json} || {})->{status}, 'active',
   'rotate: half-way: the new key is told');

$fake = $t->fake_redis(behind => $keys, handler => sub {
    my ($ctx, $name, @args) = @_;

    return { raw => '', close => 1 }
        if uc $name eq 'EVAL' && $args[0] =~ /'exists'/;
    return { pass => 1 };
});
refused(ctl('key', 'create', '--workspace', 'acme', { redis => $fake->url }),
        FAILED, qr/whether the key key_\w+ was written is not known/,
        'create: the connection breaks: no key, and its id');


# key list.

$keys->flushall;
ctl('init');

$res = ctl_json('key', 'list');
is_deeply($res->{json}, [], 'list: nothing');

$keys->add_key('b1', id => 'b1', workspace => 'beta', created => 100);
$keys->add_key('a2', id => 'a2', workspace => 'alpha', created => 200);
$keys->add_key('a1', id => 'a1', workspace => 'alpha', created => 100,
               expires => 1000, name => "caf\xc3\xa9");

$res = ctl_json('key', 'list');
is_deeply([ map { $_->{id} } @{ $res->{json} } ], [ 'a1', 'a2', 'b1' ],
          'list: by workspace, from old to new');
members_are($res->{json}[0], \@RECORD, 'list: members');
ok($res->{json}[0]{expired} && !$res->{json}[1]{expired}, 'list: expired');
is($res->{json}[0]{name}, "caf\x{e9}", 'list: UTF-8');

$res = ctl_json('key', 'list', '--workspace', 'beta');
is_deeply([ map { $_->{id} } @{ $res->{json} } ], ['b1'], 'list: a workspace');
$res = ctl_json('key', 'list', '--workspace', 'bet');
is_deeply($res->{json}, [], 'list: not a part of its name');

$res = ctl('key', 'list');
my @lines = split /\n/, $res->{out};
is(@lines, 4, 'list: a line each, and a heading');
like($lines[0], qr/^ID +WORKSPACE +STATUS +RATE +EXPIRES +CREATED +NAME$/,
     'list: the heading');
like($lines[1],
     qr/^a1 +alpha +expired +default +1970-01-01T00:16:40Z +\S+ +caf/,
     'list: a row');


# What others have written.

my @malformed = (
    [ 'no id', { id => undef }, qr/its id/ ],
    [ 'an empty id', { id => '' }, qr/its id/ ],
    [ 'an id with a blank', { id => 'a b' }, qr/its id/ ],
    [ 'no workspace', { workspace => undef }, qr/its workspace/ ],
    [ 'a workspace of braces', { workspace => 'a}' }, qr/its workspace/ ],
    [ 'a long workspace', { workspace => 'a' x 129 }, qr/its workspace/ ],
    [ 'no status', { status => undef }, qr/its status/ ],
    [ 'an upper-case status', { status => 'Active' }, qr/its status/ ],
    [ 'a status with a NUL', { status => "active\0" }, qr/its status/ ],
    [ 'a rate of 0', { rate => 0 }, qr/its rate/ ],
    [ 'an empty rate', { rate => '' }, qr/its rate/ ],
    [ 'a rate too high', { rate => 1000000001 }, qr/its rate/ ],
    [ 'a negative rate', { rate => -1 }, qr/its rate/ ],
    [ 'a date', { expires => '2030-01-01' }, qr/its expires/ ],
    [ 'an empty expires', { expires => '' }, qr/its expires/ ],
    [ 'a fraction', { expires => '1e9' }, qr/its expires/ ],
    [ 'an expires of 13 digits', { expires => '1' x 13 }, qr/its expires/ ],
    [ 'a name with ESC', { name => "\e[31m" }, qr/its name/ ],
    [ 'a huge name', { name => 'x' x 1025 }, qr/its name/ ],
    [ 'created with LF', { created => "1\n2" }, qr/its created/ ],
);

for my $case (@malformed) {
    my ($name, $fields, $pattern) = @$case;

    $keys->flushall;
    $keys->add_key('bad', id => 'key_bad', %$fields);

    $res = ctl_json('key', 'list');
    is(scalar @{ $res->{json} || [] }, 1, "malformed: $name: is listed");
    like($res->{json}[0]{malformed}, $pattern, "malformed: $name: the reason");

    $res = ctl('key', 'list');
    like($res->{out}, qr/ malformed .*: its /, "malformed: $name: in text");
    unlike($res->{out}, qr/[^\n\x20-\x7e]/, "malformed: $name: printable");

    $res = ctl('key', 'show', sha256_hex('bad'));
    like($res->{out}, qr/^malformed +its /m, "malformed: $name: show");
}

for my $case (
    [ 'a rate of zeros and digits', { rate => '007' }, 7 ],
    [ 'other fields', { more => 'x', id => 'x' }, undef ],
) {
    my ($name, $fields, $rate) = @$case;

    $keys->flushall;
    $keys->add_key('good', %$fields);
    $res = ctl_json('key', 'list');
    is($res->{json}[0]{malformed}, undef, "well formed: $name");
    is($res->{json}[0]{rate}, $rate, "well formed: $name: its rate");
}

for my $case (
    [ 'no name', { name => undef }, qr/its name/ ],
    [ 'a long name', { name => 'x' x 300 }, qr/its name/ ],
    [ 'no created', { created => undef }, qr/its created/ ],
    [ 'created in words', { created => 'today' }, qr/its created/ ],
) {
    my ($name, $fields, $pattern) = @$case;

    $keys->flushall;
    $keys->add_key('poor', %$fields);
    $res = ctl_json('key', 'list');
    is($res->{json}[0]{malformed}, undef, "incomplete: $name: not malformed");
    like($res->{json}[0]{incomplete}, $pattern, "incomplete: $name");
}

$keys->flushall;
$keys->cmd('SET', 'convotic:key:' . 'a' x 64, 'x');
$keys->cmd('LPUSH', 'convotic:key:' . 'b' x 64, 'x');
$keys->cmd('HSET', 'convotic:key:short', 'id', 'x');
$keys->cmd('HSET', 'convotic:key:' . 'A' x 64, 'id', 'x');
$keys->cmd('HSET', "convotic:key:\e\xff\0\n", 'id', "\e\xff\0\n");
$keys->cmd('HSET', 'convotic:key:' . 'c' x 64, 'foreign', 'x');
$keys->add_key('good', id => 'good');

$res = ctl_json('key', 'list');
is(grep({ $_->{malformed} } @{ $res->{json} || [] }), 6,
   'list: wrong types and names are shown as malformed');
is(grep({ !$_->{malformed} } @{ $res->{json} || [] }), 1,
   'list: and the good record');
$res = ctl('key', 'list');
done_is($res, OK, 'list: in text too');
unlike($res->{out}, qr/[^\n\x20-\x7e]/, 'list: no raw bytes');
is(ctl_json('key', 'show', 'good')->{json}{id}, 'good',
   'show: finds the good one among them');


# More records than a page of SCAN, or than a batch.

$keys->flushall;
$keys->cmd('EVAL', <<'LUA', 0);
for i = 1, 3500 do
    redis.call('HSET', 'convotic:key:' .. string.format('%064x', i),
               'id', 'key_' .. i, 'workspace', 'w' .. i % 2, 'name', 'n',
               'status', 'active', 'created', i)
    redis.call('SET', 'other:' .. i, i)
end
LUA

$res = ctl_json('key', 'list');
my %ids = map { ($_->{id} => 1) } @{ $res->{json} || [] };
is(keys %ids, 3500, 'list: thousands');
is(@{ $res->{json} }, 3500, 'list: none twice');
is(@{ ctl_json('key', 'list', '--workspace', 'w1')->{json} }, 1750,
   'list: half of them');
is(ctl_json('key', 'show', 'key_3499')->{json}{created}, 3499,
   'show: one of thousands');
$keys->flushall;
ctl('init');


# cache purge.

my $gen = 'convotic:gen:{acme}';
my ($seconds, $micros) = @{ $keys->cmd('TIME') };

$res = ctl_json('cache', 'purge', '--workspace', 'acme');
done_is($res, OK, 'purge: exit 0');
members_are($res->{json}, [ @WRITTEN, qw(workspace generation was) ],
            'purge: members');
is($res->{json}{was}, 'absent', 'purge: there was none');

my $now = $res->{json}{generation};
ok($now >= $seconds * 1e6 + $micros && $now < ($seconds + 60) * 1e6,
   "purge: starts from the server's clock in microseconds");
is($keys->cmd('GET', $gen), $now, 'purge: is what it tells');
is($keys->cmd('TTL', $gen), -1, 'purge: without an expiry');

$res = ctl_json('cache', 'purge', '--workspace', 'acme');
is($res->{json}{generation}, $now + 1, 'purge: one more');
is($res->{json}{was}, 'present', 'purge: it was there');
is($keys->cmd('GET', $gen), $now + 1, 'purge: in Redis');

$keys->cmd('DEL', $gen);
ok(ctl_json('cache', 'purge', '--workspace', 'acme')->{json}{generation}
   > $now + 1, 'purge: a lost one does not return to what was used');

$keys->cmd('SET', $gen, '99999999999999998');
$res = ctl('cache', 'purge', '--workspace', 'acme');
like($res->{out}, qr/^acme: purged, generation 99999999999999999$/,
     'purge: 17 digits are exact');

for my $value ('1', '007', '999999999999999') {
    $keys->cmd('SET', $gen, $value);
    $res = ctl_json('cache', 'purge', '--workspace', 'acme');
    is($res->{json}{was}, 'present', "purge: $value is plain");
    ok($res->{json}{generation} > $now, "purge: $value becomes the clock");
}

for my $value ('', 'x', '-5', '1.5', '1e9', ' 1', "1\0", '9' x 19) {
    $keys->cmd('SET', $gen, $value);
    $res = ctl_json('cache', 'purge', '--workspace', 'acme');
    done_is($res, OK, "purge: '$value': done");
    is($res->{json}{was}, 'malformed', "purge: '$value' was malformed");
    like($res->{err}, qr/^convoticctl: warning: .*starts anew$/,
         "purge: '$value': a warning");
    like($keys->cmd('GET', $gen), qr/\A[1-9]\d{15}\z/,
         "purge: '$value' is repaired");
}

$keys->cmd('DEL', $gen);
$keys->cmd('LPUSH', $gen, 'x');
refused(ctl('cache', 'purge', '--workspace', 'acme'), FAILED, qr/WRONGTYPE/,
        'purge: a generation of another type');
$keys->cmd('DEL', $gen);
is_deeply([ $keys->names('convotic:gen:*') ], [], 'purge: no other names');


# rate show and rate reset.  What comes of them on the nodes is in
# t/rate_reset.t.

my @RATE = qw(id hash rate window leased left rest);
my $limited = key_new('--rate', '100');
my $rate = "convotic:rate:v1:$limited->{hash}";


sub window_set {
    my ($ms, $used) = @_;

    my ($s, $us) = @{ $keys->cmd('TIME') };
    my $end = $s * 1000 + int($us / 1000) + $ms;

    return $keys->cmd('SET', $rate,
                      "1774880520123456 $end $used 0 0 0123456789abcdef");
}


sub window_is {
    my ($json, $window, $leased, $left, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    return is_deeply([ @{ $json || {} }{qw(window leased left)} ],
                     [ $window, $leased, $left ], $name);
}


$res = ctl_json('rate', 'show', $limited->{id});
done_is($res, OK, 'rate show: exit 0');
members_are($res->{json}, \@RATE, 'rate show: members');
is_deeply($res->{json}, {
    id => $limited->{id}, hash => $limited->{hash}, rate => 100,
    window => 'none', leased => 0, left => 100, rest => 0,
}, 'rate show: no window');

window_set(30_000, 37);

for my $case ([ 'by id', $limited->{id} ], [ 'by hash', $limited->{hash} ],
              [ 'by the key', '-' ])
{
    my ($name, $operand) = @$case;

    $res = ctl_json('rate', 'show', $operand, { stdin => $limited->{key} });
    window_is($res->{json}, 'open', 37, 63, "rate show: $name");
    ok($res->{json}{rest} > 0 && $res->{json}{rest} <= 30_000,
       "rate show: $name: its rest");
}

$res = ctl('rate', 'show', $limited->{id});
like($res->{out}, qr/\Aid +key_\w+\nrate +100\nwindow +open\nleased +37\n/,
     'rate show: in text');
like($res->{out}, qr/\nleft +63\nends in +\d+\.\d{3} s\n\z/,
     'rate show: in text, what is left');
is($keys->cmd('PTTL', $rate), -1, 'rate show: changes nothing');

window_set(90_000, 130);
$res = ctl_json('rate', 'show', $limited->{id});
window_is($res->{json}, 'open', 130, 0, 'rate show: more than the limit');
is($res->{json}{rest}, 60_000, 'rate show: no more than a minute');

window_set(0, 37);
window_is(ctl_json('rate', 'show', $limited->{id})->{json}, 'none', 0, 100,
          'rate show: one that has ended');

for my $value ('', 'x', '5', '1 2 3 4 5', '1 2 3 4 5 ', '1 2 3 4 5 6 7',
               '1 2 -3 4 5 6', '1 2 3 x 5 6', ' 1 2 3 4 5 6', "1 2 3 4 5 6\0",
               "1 2 3 4 5 6\n")
{
    $keys->cmd('SET', $rate, $value);
    $res = ctl_json('rate', 'show', $limited->{id});
    done_is($res, OK, "rate show: '$value': exit 0");
    window_is($res->{json}, 'malformed', 0, 100, "rate show: '$value'");
}

like(ctl('rate', 'show', $limited->{id})->{out}, qr/^window +malformed; the/m,
     'rate show: malformed, in text');
$keys->cmd('DEL', $rate);
$keys->cmd('LPUSH', $rate, 'x');
window_is(ctl_json('rate', 'show', $limited->{id})->{json}, 'malformed', 0,
          100, 'rate show: another type');

# Numbers of more digits than the gateway takes.

$keys->cmd('SET', $rate, '1 ' . '9' x 30 . ' ' . '9' x 30 . ' * 0 -');
window_is(ctl_json('rate', 'show', $limited->{id})->{json}, 'malformed', 0,
          100, 'rate show: huge numbers');

my $unlimited = key_new();

$res = ctl_json('rate', 'reset', $unlimited->{id});
is_deeply([ @{ $res->{json} }{qw(rate left)} ], [ undef, undef ],
          'rate reset: a record without a rate');
$res = ctl('rate', 'show', $unlimited->{id});
like($res->{out}, qr/^rate +the gateway's convotic_rate\n.*^leased +0\nends/ms,
     'rate show: a record without a rate');

my %before = %{ record($limited) };

$calls = $keys->calls('hset');
$res = ctl_json('rate', 'reset', $limited->{id});
done_is($res, OK, 'rate reset: exit 0');
members_are($res->{json}, [ @RATE, @WRITTEN ], 'rate reset: members');
window_is($res->{json}, 'open', 0, 100, 'rate reset: what it tells');
is($keys->calls('hset') - $calls, 1, 'rate reset: the record is written');
is_deeply(record($limited), \%before, 'rate reset: as it is');

my ($number, $end, $rest) = split / /, $keys->cmd('GET', $rate), 3;

is($rest, '0 * 0 -', 'rate reset: the order to forget');
is(length $number, 16, 'rate reset: the number is in microseconds');
is($end - int($number / 1000), 60_000, 'rate reset: a minute');
ok($keys->cmd('PTTL', $rate) > 0 && $keys->cmd('PTTL', $rate) <= 60_000,
   'rate reset: with an expiry');

@monitor = grep { / lua\] / } $keys->monitor(sub {
    $res = ctl('rate', 'reset', '-', { stdin => $limited->{key} }) });
like($res->{out}, qr/\Akey_\w+: a new window, of which nothing is leased\n\z/,
     'rate reset: in text');
like(join("\n", @monitor), qr/"SET" "convotic:rate:.*"HSET" "convotic:key:/s,
     'rate reset: the window first, for then the nodes are told');

for my $verb (qw(show reset)) {
    refused(ctl('rate', $verb, 'key_none'), NOT_FOUND, qr/no record of the key/,
            "rate $verb: no such key");
    refused(ctl('rate', $verb, '2' x 64), NOT_FOUND, qr/no record of the key/,
            "rate $verb: no such hash");
    refused(ctl('rate', $verb, $limited->{key}), USAGE,
            qr/does not belong on a command line/, "rate $verb: no raw key");
}

is($keys->cmd('EXISTS', 'convotic:rate:v1:' . '2' x 64), 0,
   'rate reset: no window without a record');

$fake = between(qr/'absent'/, [ 'HSET', key_name($limited), 'status',
                                'revoked' ]);
done_is(ctl('rate', 'reset', $limited->{id}, { redis => $fake->url }), OK,
        'rate reset: revoked meanwhile');
is(record($limited)->{status}, 'revoked', 'rate reset: it stays revoked');

$fake = between(qr/'absent'/, [ 'DEL', key_name($limited), $rate ]);
refused(ctl('rate', 'reset', $limited->{id}, { redis => $fake->url }),
        NOT_FOUND, qr/was deleted meanwhile/, 'rate reset: deleted meanwhile');
is($keys->cmd('EXISTS', key_name($limited), $rate), 0,
   'rate reset: nothing comes back');

$keys->cmd('SET', 'convotic:key:' . '1' x 64, 'x');
refused(ctl('rate', 'reset', '1' x 64), FAILED, qr/WRONGTYPE/,
        'rate reset: a record of another type');
is($keys->cmd('EXISTS', 'convotic:rate:v1:' . '1' x 64), 0,
   'rate reset: which gets no window');
$keys->flushall;
ctl('init');


# doctor.  checks_are(config..., [check, result], ...): these results, and no
# other FAIL.

my @pair = ('--cache-redis', $bodies->url);

sub doctor {
    my (@args) = @_;

    my $opt = ref $args[-1] eq 'HASH' ? pop @args : {};

    return ctl_json('doctor', (grep { /cache-redis/ } @args) ? () : @pair,
                    @args, $opt);
}


sub checks_are {
    my ($res, $want, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    my (%got, %text);

    for my $check (@{ $res->{json}{checks} || [] }) {
        my $result = $got{ $check->{check} } || '';
        $got{ $check->{check} } = $check->{result} if $result ne 'fail';
        $text{ $check->{check} } .= "$check->{text}\n";
    }

    my $failed = join ', ', sort grep { $got{$_} eq 'fail' } keys %got;
    my $expected = join ', ', sort grep { $want->{$_} eq 'fail' } keys %$want;

    is($failed, $expected, "doctor: $name: what fails") or diag($res->{out});
    is($got{$_}, $want->{$_}, "doctor: $name: $_ is $want->{$_}")
        for sort keys %$want;
    is($res->{exit}, $expected eq '' ? OK : FAILED, "doctor: $name: exit");
    is($res->{err}, '', "doctor: $name: nothing on standard error");

    return \%text;
}

key_new('--rate', 5);
ctl('cache', 'purge', '--workspace', 'acme');
$keys->cmd('SET', 'convotic:rate:v1:x', '1 2 3 0 0 -', 'PX', 60000);

my $dump = $keys->keys_dump;
my $rdb = $keys->info('rdb_changes_since_last_save');

$res = doctor();
my $text = checks_are($res, {
    'keys reach' => 'ok', 'keys version' => 'ok', 'keys role' => 'warn',
    'keys commands' => 'ok', 'keys leases' => 'ok', 'keys windows' => 'ok',
    'keys tracking' => 'ok', 'keys meta' => 'ok', 'keys eviction' => 'ok',
    'keys persistence' => 'ok', 'keys records' => 'ok',
    'keys generations' => 'ok', 'keys rates' => 'ok',
    'bodies reach' => 'ok', 'bodies version' => 'ok', 'bodies role' => 'ok',
    'bodies commands' => 'ok', 'bodies locks' => 'ok',
    'bodies eviction' => 'ok', 'apart' => 'ok',
}, 'a good pair');
ok($res->{json}{ok}, 'doctor: a good pair is ok');
like($text->{'keys role'}, qr/without a replica/, 'doctor: no replica');
is_deeply($keys->keys_dump, $dump, 'doctor: changes nothing');
is($keys->info('rdb_changes_since_last_save'), $rdb, 'doctor: writes nothing');
is_deeply([ $bodies->names('*') ], [], 'doctor: nor among the bodies');
is($keys->cmd('PUBSUB', 'NUMSUB', '__redis__:invalidate')->[1], 0,
   'doctor: leaves no subscription');
is($keys->info('tracking_clients'), 0, 'doctor: nor a tracking');

$res = ctl('doctor', @pair);
done_is($res, OK, 'doctor: in text');
is(grep({ !/^(ok|warn|FAIL) +(keys \w+|bodies \w+|apart) +\S/ }
        split /\n/, $res->{out}), 0, 'doctor: one line a check');

$res = ctl_json('doctor');
$text = checks_are($res, { apart => 'fail' }, 'one server');
like($text->{apart}, qr/share one server/, 'doctor: one server: says so');
ok(!$res->{json}{ok}, 'doctor: one server: not ok');
like(ctl('doctor')->{out}, qr/^FAIL +apart /m, 'doctor: FAIL in text');

$text = checks_are(doctor('--cache-redis', $keys->url(db => 1)),
    { apart => 'fail', 'bodies eviction' => 'warn' }, 'two databases');
like($text->{apart}, qr/same server/, 'doctor: two databases: says so');


# Configurations: server, directive, value, what is good, what it gives.

for my $case (
    [ $keys, 'maxmemory-policy', 'allkeys-lru', 'noeviction',
      'keys eviction', 'fail' ],
    [ $keys, 'maxmemory-policy', 'volatile-lru', 'noeviction',
      'keys eviction', 'fail' ],
    [ $keys, 'appendonly', 'no', 'yes', 'keys persistence', 'warn' ],
    [ $bodies, 'maxmemory-policy', 'noeviction', 'allkeys-lru',
      'bodies eviction', 'warn' ],
    [ $bodies, 'maxmemory-policy', 'volatile-ttl', 'allkeys-lru',
      'bodies eviction', 'warn' ],
    [ $bodies, 'maxmemory', '0', '20mb', 'bodies eviction', 'warn' ],
) {
    my ($server, $name, $bad, $good, $check, $result) = @$case;

    $server->cmd('CONFIG', 'SET', $name, $bad);
    checks_are(doctor(), { $check => $result }, "$name $bad");
    $server->cmd('CONFIG', 'SET', $name, $good);
}

$keys->cmd('CONFIG', 'SET', 'appendonly', 'no');
$keys->cmd('CONFIG', 'SET', 'save', '3600 1');
checks_are(doctor(), { 'keys persistence' => 'ok' }, 'RDB only');
$keys->cmd('CONFIG', 'SET', 'save', '');
$keys->cmd('CONFIG', 'SET', 'appendonly', 'yes');
wait_until(sub { $keys->info('aof_rewrite_in_progress') eq '0' });

# So large that the connections of convoticctl do not fill the rest.

$keys->cmd('SETRANGE', 'ballast', 16e6, 'x');
my $used = $keys->info('used_memory');
$keys->cmd('CONFIG', 'SET', 'maxmemory', int($used * 1.03));
$text = checks_are(doctor(), { 'keys eviction' => 'warn' }, 'nearly full');
like($text->{'keys eviction'}, qr/raise maxmemory/, 'doctor: what to do');
$keys->cmd('CONFIG', 'SET', 'maxmemory', 0);
$keys->cmd('DEL', 'ballast');


# The store.

$keys->cmd('RENAME', 'convotic:meta', 'saved');
$text = checks_are(doctor(), { 'keys meta' => 'fail' }, 'no meta');
like($text->{'keys meta'}, qr/run "convoticctl init"/, 'doctor: what to do');
$keys->cmd('HSET', 'convotic:meta', 'schema', 9);
checks_are(doctor(), { 'keys meta' => 'fail' }, 'another schema');
$keys->cmd('SET', 'convotic:meta', 9);
checks_are(doctor(), { 'keys meta' => 'fail' }, 'meta of another type');
$keys->cmd('RENAME', 'saved', 'convotic:meta');

$keys->add_key('bad', workspace => '');
$text = checks_are(doctor(), { 'keys records' => 'warn' }, 'a bad record');
like($text->{'keys records'}, qr/^1 of 2 .*@{[ sha256_hex('bad') ]}: its work/,
     'doctor: a bad record is counted and named');
$keys->set_key('bad', workspace => 'acme', name => undef);
$text = checks_are(doctor(), { 'keys records' => 'warn' }, 'no name');
like($text->{'keys records'}, qr/^1 of 2 lack a name/, 'doctor: counted');
$keys->del_key('bad');

for my $case (
    [ 'gen:{a}', 'x' ], [ 'gen:{a}', '-1' ], [ 'gen:{a}', '' ],
    [ 'gen:a', '5' ], [ 'gen:{a:b}', '5' ], [ 'gen:{}', '5' ],
) {
    my ($name, $value) = @$case;

    $keys->cmd('SET', "convotic:$name", $value);
    $text = checks_are(doctor(), { 'keys generations' => 'warn' },
                       "$name = '$value'");
    like($text->{'keys generations'}, qr/^1 of 2 .*convotic:\Q$name\E/,
         "doctor: $name = '$value' is counted and named");
    $keys->cmd('DEL', "convotic:$name");
}

$keys->cmd('INCR', 'convotic:gen:{fresh}');
checks_are(doctor(), { 'keys generations' => 'ok' }, 'a bare INCR');
$keys->cmd('DEL', 'convotic:gen:{fresh}');

$keys->cmd('PERSIST', 'convotic:rate:v1:x');
$text = checks_are(doctor(), { 'keys rates' => 'warn' }, 'a rate for ever');
like($text->{'keys rates'}, qr/^1 of 1 .*convotic:rate:v1:x/, 'doctor: named');
is($text->{'keys windows'}, "1, all as the gateway writes them\n",
   'doctor: their form is another matter');
$keys->cmd('SET', 'convotic:rate:v1:x', '12', 'PX', 60000);
$text = checks_are(doctor(), { 'keys rates' => 'ok', 'keys windows' => 'warn' },
                   'a rate of another form');
like($text->{'keys windows'}, qr/^1 of 1 hold no .*convotic:rate:v1:x/,
     'doctor: named too');
$keys->cmd('DEL', 'convotic:rate:v1:x');


# Servers that are away, old, or no masters.

my $nowhere = 'redis://127.0.0.1:' . free_port() . '/0';

$text = checks_are(doctor({ redis => $nowhere }), { 'keys reach' => 'fail' },
                   'no key server');
like($text->{'keys reach'}, qr/cannot connect/, 'doctor: no key server: why');
checks_are(doctor('--cache-redis', $nowhere), { 'bodies reach' => 'fail' },
           'no server of bodies');

sub info_fake {
    my ($behind, $from, $to) = @_;

    return $t->fake_redis(behind => $behind, handler => sub {
        my ($ctx, $name) = @_;

        return { pass => 1 } unless uc $name eq 'INFO';

        my $conn = $behind->connect;
        my $info = $conn->cmd('INFO');
        $conn->close;
        $info =~ s/$from/$to/;

        return resp_bulk($info);
    });
}

# Valkey tells the version of Redis that it is like, and names its mode its own
# way.

my $VERSION = qr/redis_version:\S+(?:.*^valkey_version:\S+)?/ms;

for my $case (
    [ $VERSION, 'redis_version:5.0.14', 'version', 'fail' ],
    [ qr/(?:redis|server)_mode:\S+/, 'redis_mode:cluster', 'mode', 'fail' ],
    [ qr/(?:redis|server)_mode:\S+/, 'server_mode:cluster', 'mode', 'fail' ],
    [ $VERSION, "redis_version:7.2.4\r\nvalkey_version:8.0.1", 'version', 'ok' ],
    [ qr/aof_last_write_status:\S+/, 'aof_last_write_status:err',
      'persistence', 'warn' ],
    [ qr/.*/s, '', 'eviction', 'warn' ],
) {
    my ($from, $to, $check, $result) = @$case;

    $fake = info_fake($keys, $from, $to);
    checks_are(doctor({ redis => $fake->url }), { "keys $check" => $result },
               "INFO with '" . $to =~ s/\s.*//sr . "'");
}

my %subject = map { ($_ => key_new()->{id}) } qw(status rotate);
my $replica = $t->redis('replica', 'replicaof 127.0.0.1 ' . $keys->port,
                        'appendonly yes');
$replica->wait_replica or die "no replica\n";

# The master counts a replica a little after its link is up.

wait_until(sub { @{ $keys->cmd('ROLE')->[2] } }) or die "no replica yet\n";

$text = checks_are(doctor({ redis => $replica }), { 'keys role' => 'fail' },
                   'a replica for keys');
my $address = '127.0.0.1:' . $keys->port;
like($text->{'keys role'}, qr/name its master, \Q$address\E$/,
     'doctor: names the master');
$text = checks_are(doctor(), { 'keys role' => 'ok' }, 'with a replica');
like($text->{'keys role'}, qr/master, replicas: 1/, 'doctor: counts it');


# Replicas and WAIT.

sub replicas_are {
    my ($res, $replicas, $acknowledged, $exit, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    done_is($res, $exit, "$name: exit $exit");
    is_deeply([ @{ $res->{json} || {} }{qw(replicas acknowledged)} ],
              [ $replicas, $acknowledged ], "$name: JSON");
    like($res->{err}, qr/\Aconvoticctl: .*written, but/, "$name: a sentence")
        if $exit == UNACKED;

    return;
}

my @writes = (
    [ 'init' ], [ 'cache', 'purge', '--workspace', 'acme' ],
    [ 'key', 'create', '--workspace', 'acme' ],
    [ 'key', 'disable', $subject{status} ],
    [ 'key', 'enable', $subject{status} ],
    [ 'rate', 'reset', $subject{status} ],
    [ 'key', 'revoke', $subject{status} ],
    [ 'key', 'revoke', $subject{status} ],
);

# A machine under load may take more than 100 ms for an acknowledgement.

sub ctl_patient {
    my (@args) = @_;

    for (1 .. 20) {
        my $res = ctl_json(@args);
        return $res if $res->{exit} != UNACKED || $_ == 20;
        sleep 0.1;
    }
}

replicas_are(ctl_patient(@$_), 1, 1, OK, "a replica: @$_") for @writes[0 .. 5];

$replica->sigstop;

for my $args (@writes[1 .. $#writes],
              [ 'key', 'rotate', $subject{rotate}, '--grace', '1d' ],
              $writes[0])
{
    my $res = ctl_json(@$args);
    replicas_are($res, 1, 0, UNACKED, "a replica that hangs: @$args");
    like($res->{json}{key}, qr/^cvtk_live_/, "the key is shown all the same")
        if "@$args" =~ /create|rotate/;
}

done_is(ctl('key', 'list'), OK, 'a replica that hangs: reading goes on');

$replica->cont;
replicas_are(ctl_patient('key', 'revoke', $subject{status}), 1, 1, OK,
             'the replica is back: revoke again');

$keys->cmd('ACL', 'SETUSER', 'nowait', 'reset', 'on', '>pw', '~*', '+@all',
           '-wait');
$res = ctl_json('cache', 'purge', '--workspace', 'acme',
                { redis => $keys->url(user => 'nowait', password => 'pw') });
replicas_are($res, 1, 0, UNACKED, 'WAIT is refused');
like($res->{err}, qr/is not known: .*lacks a permission/, 'WAIT: the reason');

refused(ctl(@$_, { redis => $replica }), FAILED,
        qr/is a replica; name its master, 127\.0\.0\.1:/,
        "writing to a replica: @$_") for @writes;
done_is(ctl('key', 'list', { redis => $replica }), OK,
        'reading from a replica');
is_deeply(ctl_json('key', 'show', $plain->{id}, { redis => $replica }),
          ctl_json('key', 'show', $plain->{id}), 'a replica tells the same');

$fake = $t->fake_redis(behind => $replica);
$fake->script(ROLE => "*3\r\n\$6\r\nmaster\r\n:0\r\n*0\r\n");
refused(ctl('cache', 'purge', '--workspace', 'acme', { redis => $fake->url }),
        FAILED, qr/read-only replica; name its master \(.*READONLY/,
        'READONLY');
$replica->stop;


# Passwords and ACLs.

my $guarded = $t->redis('guarded', 'requirepass s3cret/@:x%');
my $encoded = 's3cret%2f%40%3Ax%25';
my $hostport = '127.0.0.1:' . $guarded->port;
my $file = $t->write_file('password', "s3cret/\@:x%\n");

sub secretless {
    my ($res, $exit, $pattern, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    refused($res, $exit, $pattern, $name);
    unlike($res->{err} . $res->{out}, qr/s3cret|hunter2/,
           "$name: no password is shown");

    return;
}

done_is(ctl('init', { redis => "redis://:$encoded\@$hostport/0" }), OK,
        'a password in the URL');
done_is(ctl('init', { redis => "redis://default:$encoded\@$hostport" }), OK,
        'a user and a password');
done_is(ctl('init', '--password-file', $file,
            { redis => "redis://$hostport" }), OK, 'a password file');
done_is(ctl('init', '--password-file', $file,
            { redis => "redis://default\@$hostport/" }), OK,
        'a user in the URL, a password file');
my $crlf = $t->write_file('crlf', "s3cret/\@:x%\r\n");
done_is(ctl('init', '--password-file', $crlf,
            { redis => 'unix:' . $guarded->socket }), OK,
        'a password file with CRLF, a Unix socket');

secretless(ctl('init', { redis => "redis://$hostport" }), FAILED,
           qr/asks for a password/, 'no password');
secretless(ctl('init', { redis => "redis://:hunter2\@$hostport" }), FAILED,
           qr/refused the user name or the password/, 'a wrong password');
secretless(ctl('init', { redis => "redis://nobody:hunter2\@$hostport" }),
           FAILED, qr{redis://nobody\@\S+: the server refused},
           'an unknown user');
secretless(ctl('init', { redis => "redis://:hunter2\@$address" }), FAILED,
           qr/the server has none/, 'a password that is not asked for');
secretless(ctl('init', '--password-file', $file,
               { redis => "redis://:hunter2\@$hostport" }), USAGE,
           qr/has a password already/, 'two passwords');
secretless(ctl('init', '--password-file', $t->dir . '/none'), FAILED,
           qr/cannot open .*: No such file/, 'no password file');
secretless(ctl('init', '--password-file', $t->write_file('empty', '')),
           FAILED, qr/no password/, 'an empty password file');
secretless(ctl('init', '--password-file', $t->write_file('nl', "\nx\n")),
           FAILED, qr/no password/, 'a password file with an empty line');
secretless(ctl('doctor', '--cache-password-file', $file), USAGE,
           qr/needs --cache-redis/, 'a password for nothing');

$res = ctl_json('doctor', '--cache-redis', "redis://$hostport",
                '--cache-password-file', $file);
checks_are($res, { 'bodies reach' => 'ok', 'bodies eviction' => 'warn' },
           'a password file for bodies');

for my $case (
    [ 'http://x:hunter2@h', qr/neither with redis/ ],
    [ 'rediss://x:hunter2@h', qr/TLS/ ],
    [ 'redis://', qr/host is missing/ ],
    [ 'redis:///0', qr/host is missing/ ],
    [ 'redis://x:hunter2', qr/port is not a number/ ],
    [ 'redis://h:0', qr/port/ ],
    [ 'redis://h:65536', qr/port/ ],
    [ 'redis://h:6379/x', qr/database/ ],
    [ 'redis://h:6379/65536', qr/database/ ],
    [ 'redis://x:hunter2%4@h', qr/percent-encoding/ ],
    [ 'redis://x:hunter2%00@h', qr/percent-encoding/ ],
    [ 'redis://x%zz:hunter2@h', qr/percent-encoding/ ],
    [ 'redis://x:hunter2@y@h', qr/host is malformed/ ],
    [ 'redis://x:hun/ter2@h', qr/port is not a number/ ],
    [ 'redis://[::1', qr/bracket/ ],
    [ 'redis://[::1]x', qr/IPv6/ ],
    [ 'redis://h 1', qr/blank/ ],
    [ 'redis://nobody@h', qr/a user and no password; .* --password-file$/ ],
    [ 'redis://nobody:@h', qr/a user and no password/ ],
    [ 'unix:relative', qr/not absolute/ ],
    [ 'unix:/', qr/not absolute/ ],
    [ 'unix:/x?db=', qr/database/ ],
    [ 'unix:/x?dbase=1', qr/\?db=N/ ],
) {
    my ($url, $pattern) = @$case;

    secretless(ctl('init', { redis => $url }), USAGE, $pattern, "URL $url");
}

secretless(ctl('doctor', '--cache-redis', "redis://nobody\@$hostport"), USAGE,
           qr/^convoticctl: --cache-redis: .* no password; .* with --cache-pas/,
           'a user without a password for bodies');
secretless(ctl('init', { redis => undef, env => { CONVOTIC_REDIS => 'x:/' } }),
           USAGE, qr/^convoticctl: CONVOTIC_REDIS: /,
           'a URL in the environment');

$keys->cmd('ACL', 'SETUSER', 'ro@user', 'reset', 'on', '>p@ss', '~*', '+@read',
           '+role', '+ping', '+select');

my $reader = $keys->url(user => 'ro%40user', password => 'p%40ss');

done_is(ctl('key', 'list', { redis => $reader }), OK, 'a reader may list');
refused(ctl('init', { redis => $reader }), FAILED,
        qr/lacks a permission \(NOPERM.*eval/, 'but not write');
$keys->cmd('ACL', 'SETUSER', 'scripts', 'reset', 'on', '>pw', '~convotic:*',
           '+eval', '+role');
refused(ctl('init', { redis => $keys->url(user => 'scripts',
                                          password => 'pw') }),
        FAILED, qr/lacks a permission/, 'a command inside a script');
$keys->cmd('ACL', 'SETUSER', 'norole', 'reset', 'on', '>pw', '~*', '+@all',
           '-role');
refused(ctl('init', { redis => $keys->url(user => 'norole',
                                          password => 'pw') }),
        FAILED, qr/NOPERM.*role/, 'ROLE');


# The users that docs/redis-keys.md proposes.

my $docs = do {
    open my $fh, '<', $t->top . '/docs/redis-keys.md' or die "redis-keys.md\n";
    local $/;
    <$fh>;
};

my %user;

while ($docs =~ /^(keys|bodies) ACL SETUSER (\w+) ((?:.*\\\n)*.*)$/mg) {
    my ($server, $name, $rules) = ($1, $2, $3);

    $rules =~ s/\\\n/ /g;
    my @rules = Convotic::Redis::acl_rules(map { s/'//gr } split ' ', $rules);
    my ($password) = map { /^>(.*)/ } @rules;

    my $redis = $server eq 'keys' ? $keys : $bodies;
    $redis->cmd('ACL', 'SETUSER', $name, @rules);
    $user{"$server $name"} = $redis->url(user => $name, password => $password);
}

SKIP: {
    skip 'the documentation has no users', 1
        unless 4 == grep { $user{$_} } 'keys gateway', 'bodies gateway',
                                       'keys purger', 'keys issuer';

    $text = checks_are(
        doctor('--cache-redis', $user{'bodies gateway'},
               { redis => $user{'keys gateway'} }),
        { 'keys commands' => 'ok', 'keys leases' => 'ok',
          'keys tracking' => 'ok', 'keys meta' => 'ok', 'bodies commands' => 'ok',
          'bodies locks' => 'ok', 'apart' => 'warn',
          'keys records' => 'warn' }, 'the documented gateway');
    like($text->{'keys meta'}, qr/is there; its schema may not be read/,
         'doctor: the gateway asks whether there is a mark');
    like($text->{'keys records'}, qr/cannot be read: .*NOPERM/,
         'doctor: the gateway cannot list');
    is($text->{'keys gateways'}, undef, 'doctor: nor see other clients');

    $keys->cmd('RENAME', 'convotic:meta', 'saved');
    $text = checks_are(doctor({ redis => $user{'keys gateway'} }),
                       { 'keys meta' => 'fail' },
                       'the documented gateway, no meta');
    like($text->{'keys meta'}, qr/has no schema/, 'doctor: it sees that too');
    $keys->cmd('RENAME', 'saved', 'convotic:meta');

    done_is(ctl('cache', 'purge', '--workspace', 'acme',
                { redis => $user{'keys purger'} }), OK,
            'the documented purger purges');
    refused(ctl('key', 'create', '--workspace', 'acme',
                { redis => $user{'keys purger'} }), FAILED,
            qr/permission/, 'and creates no key');

    my $issuer = { redis => $user{'keys issuer'} };
    my $issued = ctl_json('key', 'create', '--workspace', 'acme', $issuer);
    done_is($issued, OK, 'the documented issuer creates');
    is($issued->{err}, '', 'without a warning');
    done_is(ctl('key', $_, $issued->{json}{id}, $issuer), OK,
            "the documented issuer: $_")
        for qw(show disable enable rotate revoke);
    done_is(ctl('rate', $_, $issued->{json}{id}, $issuer), OK,
            "the documented issuer: rate $_") for qw(reset show);
    refused(ctl('cache', 'purge', '--workspace', 'acme', $issuer), FAILED,
            qr/permission/, 'and purges nothing');
}

for my $case (
    [ 'keys', '-hgetall', 'keys commands', 'fail' ],
    [ 'keys', '-evalsha', 'keys leases', 'warn' ],
    [ 'keys', '-time', 'keys leases', 'warn', 'keys commands' ],
    [ 'keys', 'resetkeys ~convotic:key:* ~convotic:gen:* ~convotic:meta',
      'keys leases', 'warn' ],
    [ 'keys', '-exists', 'keys commands', 'fail' ],
    [ 'keys', '-eval', 'keys commands', 'fail' ],
    [ 'keys', '-time', 'keys commands', 'fail' ],
    [ 'keys', '-role', 'keys role', 'fail' ],
    [ 'keys', '-info', 'keys info', 'fail' ],
    [ 'keys', '-subscribe', 'keys tracking', 'warn' ],
    [ 'keys', '-client +client|id', 'keys tracking', 'warn' ],
    [ 'keys', '-client +client|tracking', 'keys tracking', 'warn' ],
    [ 'keys', 'resetchannels', 'keys tracking', 'warn' ],
    [ 'keys', '-client +client|id +client|tracking', 'keys tracking', 'ok' ],
    [ 'keys', '-config', 'keys persistence', 'ok' ],
    [ 'keys', '-hget', 'keys meta', 'ok' ],
    [ 'keys', '-scan', 'keys rates', 'warn' ],
    [ 'bodies', '-set', 'bodies commands', 'fail' ],
    [ 'bodies', '-get', 'bodies commands', 'fail' ],
    [ 'bodies', '-set', 'bodies locks', 'warn', 'bodies commands' ],
    [ 'bodies', '-get', 'bodies locks', 'warn', 'bodies commands' ],
    [ 'bodies', '-eval', 'bodies locks', 'warn' ],
    [ 'bodies', '-del', 'bodies locks', 'warn' ],
    [ 'bodies', 'resetkeys ~convotic:body:*', 'bodies locks', 'warn' ],
    [ 'bodies', '-info', 'bodies eviction', 'warn' ],
    [ 'bodies', '-role', 'bodies role', 'warn' ],
) {
    my ($side, $rule, $check, $result, $fails) = @$case;

    my $redis = $side eq 'keys' ? $keys : $bodies;
    $redis->cmd('ACL', 'SETUSER', 'less', 'reset', 'on', '>pw', '~*', '&*',
                '+@all', split / /, $rule);
    my $url = $redis->url(user => 'less', password => 'pw');

    $text = checks_are($side eq 'keys' ? doctor({ redis => $url })
                                       : doctor('--cache-redis', $url),
                       { $check => $result, $fails ? ($fails => 'fail') : () },
                       "$side with $rule");
    like($text->{$check}, qr/(?:NOPERM|can't run|ACL).* are needed$/,
         "doctor: $rule: leases: why, and what is needed")
        if $check eq 'keys leases';
    like($text->{$check}, qr/lives one second: .*NOPERM.*needed$/,
         "doctor: $rule: what comes of it, and what is needed")
        if $check eq 'keys tracking' && $result eq 'warn';
}


# Gateways that are connected, as they name their connections.

sub client_line {
    my ($addr, $name) = @_;

    return "id=7 addr=$addr laddr=127.0.0.1:6379 fd=8 name=$name age=1 idle=0"
           . " flags=N db=0 sub=0 cmd=ping user=name=x\n";
}

my @nodes = (client_line('10.0.0.1:5001', 'ngx_convotic-11'),
             client_line('10.0.0.1:5002', 'ngx_convotic-12'),
             client_line('10.0.0.1:5003', 'ngx_convotic-12-tracking'));

$fake = $t->fake_redis(behind => $keys);

for my $case (
    [ 'none', '', undef ],
    [ 'others', client_line('10.0.0.9:1', 'x') . client_line('10.0.0.9:2', '')
                . client_line('10.0.0.9:3', 'ngx_convotic-')
                . client_line('10.0.0.9:4', 'ngx_convotic-5-other'), undef ],
    [ 'one node', join('', @nodes), 'ok', qr/a gateway: 1, each with/ ],
    [ 'one that does not track', join('', @nodes[0, 1]), 'warn',
      qr/^1 of 1 .*lives one second: see the error log of 10\.0\.0\.1$/ ],
    [ 'two nodes, one of which tracks',
      join('', @nodes, client_line('[fd00::1]:5', 'ngx_convotic-9')), 'warn',
      qr/^1 of 2 .*error log of \[fd00::1\]$/ ],
    [ 'a socket', client_line('/run/redis.sock:0', 'ngx_convotic-9')
                  . client_line('/run/redis.sock:0', 'ngx_convotic-9-tracking'),
      'ok', qr/a gateway: 1,/ ],
    [ 'hostile lines', "name=ngx_convotic-1\n"
                       . client_line("\e[31m", 'ngx_convotic-1')
                       . "addr=\e:1 name=ngx_convotic-2", 'warn',
      qr/^2 of 2 .*error log of $/ ],
) {
    my ($name, $lines, $result, $pattern) = @$case;

    $fake->script('CLIENT LIST' => resp_bulk($lines));
    $text = checks_are(doctor({ redis => $fake->url }),
                       { defined $result ? ('keys gateways' => $result) : () },
                       "gateways: $name");

    is($text->{'keys gateways'}, undef, "doctor: gateways: $name: no word")
        unless defined $result;
    like($text->{'keys gateways'}, $pattern, "doctor: gateways: $name: words")
        if defined $result;
}

{
    my $conn = $keys->connect;
    $conn->cmd('CLIENT', 'SETNAME', 'ngx_convotic-1');
    checks_are(doctor(), { 'keys gateways' => 'warn' }, 'a gateway');
    $conn->cmd('CLIENT', 'SETNAME', 'ngx_convotic-1-tracking');
    checks_are(doctor(), { 'keys gateways' => 'ok' }, 'its tracking');
    $conn->close;
}

# What answers, but is no Redis that can track.

for my $case (
    [ 'CLIENT ID', resp_bulk('x') ],
    [ 'CLIENT TRACKING', "-ERR unknown subcommand\r\n" ],
    [ 'SUBSCRIBE', "+OK\r\n" ],
) {
    my ($command, $reply) = @$case;

    my $poor = $t->fake_redis(behind => $keys);
    $poor->script($command => $reply);
    checks_are(doctor({ redis => $poor->url }), { 'keys tracking' => 'warn' },
               "$command answered wrongly");
}


# Connections: databases, sockets, the environment, the prefix.

my $db3 = key_new({ redis => $keys->url(db => 3) });
$keys->cmd('SELECT', 3);
is(record($db3)->{id}, $db3->{id}, 'a database in the URL');
$keys->cmd('SELECT', 0);
is($keys->cmd('EXISTS', key_name($db3)), 0, 'and no other');
is(ctl_json('key', 'show', $db3->{id},
            { redis => 'unix:' . $keys->socket . '?db=3' })->{json}{hash},
   $db3->{hash}, 'the same by a Unix socket');
refused(ctl('key', 'show', $db3->{id}), NOT_FOUND, qr/no record/,
        'not in another database');
refused(ctl('key', 'list', { redis => $keys->url(db => 999) }), FAILED,
        qr/out of range/, 'a database that is not there');

my %env = (CONVOTIC_REDIS => $keys->url, CONVOTIC_CACHE_REDIS => $bodies->url);

done_is(ctl('key', 'list', { redis => undef, env => \%env }), OK,
        'CONVOTIC_REDIS');
done_is(ctl('doctor', { redis => undef, env => \%env }), OK,
        'CONVOTIC_CACHE_REDIS');
done_is(ctl('key', 'list', { env => { CONVOTIC_REDIS => $nowhere } }), OK,
        '--redis comes first');

$made = ctl_json('key', 'create', '--workspace', 'acme', '--prefix',
                 'x*?[a]^-y:');
is($keys->cmd('HGET', "x*?[a]^-y:key:$made->{json}{hash}", 'id'),
   $made->{json}{id}, 'a prefix');
like($made->{err}, qr/warning: .*x\*\?\[a\]\^-y:meta/,
     'a prefix: has its own mark');
is_deeply([ map { $_->{id} } @{ ctl_json('key', 'list', '--prefix',
                                         'x*?[a]^-y:')->{json} } ],
          [ $made->{json}{id} ], 'a prefix is no pattern');
is_deeply(ctl_json('key', 'list', '--prefix', 'x*')->{json}, [],
          'nor part of one');

secretless(ctl('key', 'list', { redis => $nowhere }), FAILED,
           qr/cannot connect: Connection refused/, 'no server');
secretless(ctl('key', 'list', { redis => $nowhere =~ s{//}{//x:hunter2@}r }),
           FAILED, qr{redis://x\@127\.0\.0\.1:\d+/0: cannot connect},
           'no server, a password');
refused(ctl('key', 'list', { redis => 'unix:' . $t->dir . '/none' }), FAILED,
        qr/cannot connect: No such file/, 'no socket');
refused(ctl('key', 'list', { redis => 'redis://host.invalid' }), FAILED,
        qr/cannot connect/, 'no such host');

$guarded->sigstop;
my $start = time();
refused(ctl('init', '--timeout', '1', '--password-file', $file,
            { redis => "redis://$hostport" }), FAILED,
        qr/no answer within 1 seconds/, 'a server that hangs');
ok(time() - $start < 5, 'a server that hangs: is not waited for');
$guarded->cont;


# Servers that answer wrongly: one sentence, exit 1, and no harm.

my $hostile = $t->fake_redis(handler => sub { "-ERR unscripted\r\n" });
my $huge = '*2147483647' . "\r\n";
my $role = "*3\r\n\$6\r\nmaster\r\n:0\r\n*0\r\n";

sub hostile {
    my ($name, $args, %scripts) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;

    $hostile->clear;
    $hostile->script(%scripts);

    my $start = time();
    refused(ctl(@$args, '--timeout', 1, { redis => $hostile->url }), FAILED,
            qr/./, "hostile: $name");
    cmp_ok(time() - $start, '<', 8, "hostile: $name: in time");

    return;
}

my @purge = qw(cache purge --workspace acme);
my @list = qw(key list);
my @show = ('key', 'show', 'f' x 64);
my @rate = ('rate', 'show', 'f' x 64);
my @reset = ('rate', 'reset', 'f' x 64);
my @fields = ('key_f', 'acme', 'active', '5', (undef) x 3);

for my $error ('LOADING Redis is loading', 'MASTERDOWN Link is down',
               'MOVED 1 127.0.0.1:1', 'ERR max number of clients reached',
               "ERR \e[31m\x01\xff", 'NOAUTH x', '', 'OOM x', 'MISCONF x')
{
    hostile("-$error", \@list, SCAN => "-$error\r\n");
    hostile("-$error at a script", \@purge, ROLE => $role,
            EVAL => "-$error\r\n");
}

for my $case (
    [ 'huge', $huge ],
    [ 'nested', "*1\r\n" x 40 . ":1\r\n" ],
    [ 'noise', "\x80\x00\xff\r\n" x 10 ],
    [ 'HTTP', "HTTP/1.1 400 Bad Request\r\n\r\n" ],
    [ 'RESP3', "%1\r\n+a\r\n+b\r\n" ],
    [ 'integer', ":5\r\n" ],
    [ 'nil', "\$-1\r\n" ],
    [ 'nil array', "*-1\r\n" ],
    [ 'empty array', "*0\r\n" ],
    [ 'array of nils', "*3\r\n\$-1\r\n\$-1\r\n\$-1\r\n" ],
    [ 'array of integers', "*2\r\n:1\r\n:2\r\n" ],
    [ 'a negative size', "\$-5\r\n" ],
    [ 'a size of 10 digits', "\$9999999999\r\nx" ],
    [ 'half', "*2\r\n\$1\r\n0" ],
    [ 'nothing, closed', { raw => '', close => 1 } ],
    [ 'reset', { raw => "*2\r\n", rst => 1 } ],
    [ 'silence', { hang => 1 } ],
) {
    my ($name, $reply) = @$case;

    hostile("SCAN: $name", \@list, SCAN => $reply);
    hostile("ROLE: $name", \@purge, ROLE => $reply);
    hostile("EVAL: $name", \@purge, ROLE => $role, EVAL => $reply);
    hostile("HMGET: $name", \@show, HMGET => $reply)
        unless $name =~ /array of|empty array/;

    # who never ends was waited for often enough

    next if $name =~ /^(?:silence|half|a size of|huge)/;

    hostile("GET: $name", \@rate, HMGET => \@fields, GET => $reply)
        unless $name =~ /^nil/;
    hostile("TIME: $name", \@rate, HMGET => \@fields,
            GET => resp_bulk('1 2 3 0 0 -'), TIME => $reply);
    hostile("EVAL of a reset: $name", \@reset, ROLE => $role,
            HMGET => \@fields, EVAL => $reply);
}

$hostile->clear;
$hostile->script(
    SCAN => [ '0', [ 'convotic:key:' . 'e' x 64, 'foreign', '' ] ],
    HMGET => resp_array(resp_bulk("\e"), ":5\r\n", "\$-1\r\n"),
);
$res = ctl_json('key', 'list', { redis => $hostile->url });
is(grep({ $_->{malformed} } @{ $res->{json} || [] }), 3,
   'hostile: records of three fields');

$hostile->script(SCAN => [ '9' x 40, [] ]);
refused(ctl('key', 'list', { redis => $hostile->url }), FAILED,
        qr/unexpected answer to SCAN/, 'hostile: a cursor without an end');

$hostile->script('*' => $huge);
$res = ctl_json('doctor', '--cache-redis', $hostile->url,
                { redis => $hostile->url });
done_is($res, FAILED, 'hostile: doctor');

$hostile->script('*' => "*2\r\n\$1\r\n0\r\n*0\r\n", PING => "+PONG\r\n",
                 INFO => resp_bulk("x\r\nmaxmemory_policy:\e\xff\r\n"
                                   . 'redis_version:' . 'x' x 99 . "\r\n"
                                   . "run_id:1\r\nredis_mode:\e"));
$res = ctl('doctor', '--cache-redis', $hostile->url,
           { redis => $hostile->url });
done_is($res, FAILED, 'hostile: doctor, plausible answers');
unlike($res->{out}, qr/[^\n\x20-\x7e]/, 'hostile: doctor: printable');

$hostile->script(INFO => resp_bulk("maxmemory_policy:allkeys-\e\r\n"
                                   . "maxmemory:5\r\n"));
$res = ctl('doctor', '--cache-redis', $hostile->url,
           { redis => $hostile->url });
like($res->{out}, qr/^ok +bodies eviction +allkeys-\\x1b at 5 bytes$/m,
     'hostile: doctor: a good policy is escaped too');


# No key in clear, anywhere.

my $stored = join '', map { $_->keys_text } $keys, $bodies, $guarded;
$keys->cmd('SELECT', 3);
$stored .= $keys->keys_text;
$keys->cmd('SELECT', 0);

cmp_ok(scalar keys %secrets, '>', 40, 'dozens of keys were shown');
is(grep({ index($stored, $_) >= 0 } keys %secrets), 0,
   'none of them is in Redis');
unlike($stored, qr/cvtk_/, 'nor what looks like one');

is_deeply(\@crashes, [], 'no crash, no sanitizer error');

$t->finish;
