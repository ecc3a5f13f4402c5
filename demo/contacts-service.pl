#!/usr/bin/perl
#
# The contacts service of the demo: what stands behind the gateway in
# production, made small.  It keeps a few hundred invented contacts in memory
# and answers
#
#     GET /v1/contacts?platform=P&limit=N      as the gateway asks it
#     POST /demo/rename?workspace=W&id=I&name=N    a change, to show a purge
#
# It believes X-Convotic-Workspace, so only the gateway may reach it: it
# listens on 127.0.0.1 alone.  One process, one select() loop, HTTP/1.1 with
# keep-alive and pipelining, core modules only.
#
# The contacts are the same at each start: they come from a fixed seed.

use strict;
use warnings;

use Errno qw(EAGAIN EINTR EWOULDBLOCK);
use Getopt::Long qw(GetOptions);
use IO::Socket::INET;
use POSIX qw(strftime);
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time);

use constant {
    MAX_HEAD    => 16384,         # bytes of one request's head
    MAX_CLIENTS => 512,
    NEWEST      => 1774880520,    # 2026-03-30T14:22:00Z: the latest message
};

my %opt = (port => 0, delay => 25);

GetOptions(\%opt, 'port=i', 'port-file=s', 'log=s', 'delay=i')
    or die "usage: $0 [--port N] [--port-file F] [--log F] [--delay MS]\n";

my @PLATFORMS = qw(instagram line facebook whatsapp);

# How many contacts a workspace has on each platform.

my %WORKSPACES = (
    'acme'             => [142, 118, 61, 39],
    'chiangmai-coffee' => [34, 87, 22, 15],
);

my @THAI_FIRST = qw(
    สมชาย สมหญิง ณัฐพงศ์ กัญญารัตน์ ธนวัฒน์ พิมพ์ชนก วรัญญา ศิริพร อนุชา
    ปิยะดา กิตติพงษ์ สุภาพร ชลธิชา ภาณุพงศ์ รัตนา วิชัย อรอนงค์ จิราภรณ์
);

my @THAI_LAST = qw(
    ประเสริฐ ใจดี ศรีสุข วงศ์ไทย แสงทอง บุญมา ทองคำ รักษ์ไทย พงษ์พานิช
    สุวรรณ เจริญสุข มณีวงศ์ จันทร์เพ็ญ อินทร์แก้ว
);

my @ROMAN_FIRST = qw(
    Somchai Nattapong Kanyarat Thanawat Pimchanok Siriporn Anucha Piyada
    Kittipong Suphaporn Chonticha Panupong Rattana Wichai Orn-anong Jiraporn
    Malee Prasit Arthit Busaba Daniel Emma Yuki Wei Priya José Zoë Søren
);

my @ROMAN_LAST = qw(
    Prasert Jaidee Srisuk Wongthai Saengthong Boonma Thongkham Suwan
    Charoensuk Maneewong Chanphen Inkaew Phongphanit Tan Nguyen Sato Müller
    O'Brien García Lindqvist
);

my @SHOPS = (
    'ร้านกาแฟดอยช้าง', 'ครัวคุณยาย', 'บ้านขนมปัง', 'Lanna Silk & Co.',
    'Chang "Big" Motors', 'Night Bazaar Stall 42',
);

my $seed;                        # of the generator below, 31 bits

my (%contacts, %clients);        # by workspace; by file descriptor
my $log;


sub pick {
    my ($n) = @_;

    $seed = ($seed * 1103515245 + 12345) & 0x7fffffff;

    return ($seed >> 8) % $n;
}


sub one_of {
    return $_[pick(scalar @_)];
}


sub digits {
    my ($n) = @_;

    return join '', 1 + pick(9), map { pick(10) } 2 .. $n;
}


sub name {
    my ($platform) = @_;
    my $kind = pick(20);

    return one_of(@SHOPS) if $kind == 0;

    # LINE is where Thai names are written in Thai.

    return one_of(@THAI_FIRST) . ' ' . one_of(@THAI_LAST)
        if $kind < ($platform eq 'line' ? 15 : 6);

    return one_of(@ROMAN_FIRST) . ' ' . one_of(@ROMAN_LAST);
}


sub platform_user_id {
    my ($platform) = @_;

    return 'ig_' . digits(8) if $platform eq 'instagram';
    return 'fb_' . digits(15) if $platform eq 'facebook';
    return 'wa_668' . digits(8) if $platform eq 'whatsapp';
    return 'U' . join '', map { sprintf '%04x', pick(65536) } 1 .. 8;
}


sub generate {
    my ($workspace) = @_;
    my ($counts, %seen, @list) = ($WORKSPACES{$workspace});

    $seed = 20260330;
    $seed = ($seed * 31 + ord) & 0x7fffffff for split //, $workspace;

    for my $p (0 .. $#PLATFORMS) {
        for (1 .. $counts->[$p]) {
            my $id;

            do {
                $id = 'ct_' . join '', map { (0 .. 9, 'a' .. 'z')[pick(36)] }
                                       1 .. 6;
            } while $seen{$id}++;

            my $last = NEWEST - 60 - pick(60 * 86400);

            push @list, {
                id      => $id,
                name    => name($PLATFORMS[$p]),
                platform => $PLATFORMS[$p],
                user    => platform_user_id($PLATFORMS[$p]),
                avatar  => pick(4) != 0,
                last    => $last,
                created => $last - pick(300 * 86400),
            };
        }
    }

    if ($workspace eq 'acme') {

        # the contact that the API documentation shows

        @{$list[0]}{qw(id name user avatar last created)} =
            ('ct_abc123', 'Somchai Prasert', 'ig_44821937', 1,
             NEWEST, 1768467600);
    }

    return [sort { $b->{last} <=> $a->{last} || $a->{id} cmp $b->{id} } @list];
}


sub json_string {
    my ($s) = @_;

    $s =~ s/(["\\])/\\$1/g;
    $s =~ s/([\x00-\x1f])/sprintf '\\u%04x', ord $1/ge;

    return qq("$s");
}


sub iso_time {
    return strftime('%Y-%m-%dT%H:%M:%SZ', gmtime $_[0]);
}


sub json_contact {
    my ($c) = @_;

    my $avatar = $c->{avatar}
        ? json_string("https://cdn.convotic.com/avatars/$c->{id}.jpg")
        : 'null';

    return '{"id":' . json_string($c->{id})
         . ',"name":' . json_string($c->{name})
         . ',"platform":' . json_string($c->{platform})
         . ',"platformUserId":' . json_string($c->{user})
         . ',"avatarUrl":' . $avatar
         . ',"lastMessageAt":"' . iso_time($c->{last}) . '"'
         . ',"createdAt":"' . iso_time($c->{created}) . '"}';
}


sub error {
    my ($status, $code, $message) = @_;

    return ($status, '{"error":{"code":' . json_string($code)
                     . ',"message":' . json_string($message) . '}}');
}


# GET /v1/contacts.  The gateway has checked the parameters; the checks here
# are for those who call the service directly.

sub list_contacts {
    my ($args, $headers) = @_;

    my $workspace = $headers->{'x-convotic-workspace'};
    my ($limit, $platform) = ($args->{limit}, $args->{platform});

    return error(400, 'INVALID_REQUEST',
                 'Header X-Convotic-Workspace is required')
        unless defined $workspace;

    $limit = 20 unless defined $limit;

    return error(400, 'INVALID_REQUEST',
                 "Parameter 'limit' must be between 1 and 100")
        unless $limit =~ /\A[0-9]{1,9}\z/ && $limit >= 1 && $limit <= 100;

    return error(400, 'INVALID_REQUEST',
                 "Parameter 'platform' must be one of: "
                 . join(', ', @PLATFORMS))
        if defined $platform && !grep { $_ eq $platform } @PLATFORMS;

    my @found = grep { !defined $platform || $_->{platform} eq $platform }
                     @{$contacts{$workspace} || []};

    my $total = @found;

    splice @found, $limit if $total > $limit;

    return (200, '{"contacts":[' . join(',', map { json_contact($_) } @found)
                 . qq(],"total":$total,"limit":) . ($limit + 0) . '}');
}


# POST /demo/rename: the change that a purge makes visible.

sub rename_contact {
    my ($args) = @_;

    my ($found) = grep { $_->{id} eq ($args->{id} // '') }
                       @{$contacts{$args->{workspace} // ''} || []};

    return error(404, 'NOT_FOUND', 'No such contact') unless $found;

    my $name = $args->{name} // '';

    return error(400, 'INVALID_REQUEST', 'A name is 1 to 200 bytes of UTF-8')
        unless length $name && length $name <= 200
               && utf8::decode(my $copy = $name);

    $found->{name} = $name;

    return (200, json_contact($found));
}


sub respond {
    my ($client, $method, $target, $headers, $close) = @_;
    my ($path, $query) = split /\?/, $target, 2;
    my ($status, $body, %args);

    for (split /&/, $query // '') {
        my ($name, $value) = split /=/, $_, 2;

        for ($name, $value) {
            $_ //= '';
            tr/+/ /;
            s/%([0-9A-Fa-f]{2})/chr hex $1/ge;
        }

        $args{$name} = $value;
    }

    if (($headers->{'content-length'} || '0') !~ /\A0+\z/
        || exists $headers->{'transfer-encoding'})
    {
        # the body is not read: what follows cannot be trusted

        ($status, $body) = error(400, 'INVALID_REQUEST', 'No body, please');
        $close = 1;

    } elsif ($path eq '/v1/contacts' && $method =~ /\A(?:GET|HEAD)\z/) {
        ($status, $body) = list_contacts(\%args, $headers);

    } elsif ($path eq '/demo/rename' && $method eq 'POST') {
        ($status, $body) = rename_contact(\%args);

    } else {
        ($status, $body) = error(404, 'NOT_FOUND', 'No such resource');
    }

    my %reason = (200 => 'OK', 400 => 'Bad Request', 404 => 'Not Found');

    my $head = "HTTP/1.1 $status $reason{$status}\r\n"
             . 'Date: ' . strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime)
             . "\r\nContent-Type: application/json\r\n"
             . 'Content-Length: ' . length($body) . "\r\n";

    # A service that names the workspace of its answer lets the gateway
    # notice a mix-up and refuse it.

    $head .= "X-Convotic-Workspace: $headers->{'x-convotic-workspace'}\r\n"
        if $status == 200 && exists $headers->{'x-convotic-workspace'};

    $head .= 'Connection: ' . ($close ? 'close' : 'keep-alive') . "\r\n\r\n";

    push @{$client->{answers}}, {
        due  => time() + $opt{delay} / 1000,
        data => $method eq 'HEAD' ? $head : $head . $body,
        last => $close,
    };

    if ($log) {
        printf {$log} "%s %s %s workspace=%s key=%s %d\n", iso_time(time),
                      $method, $target =~ s/[^\x21-\x7e]/?/gr,
                      map({ ($headers->{$_} // '-') =~ s/[^\x21-\x7e]/?/gr }
                          'x-convotic-workspace', 'x-convotic-key-id'),
                      $status;
    }
}


# Takes every complete request out of the client's input.

sub parse {
    my ($client) = @_;

    while (!$client->{closing} && $client->{in} =~ s/\A(.*?)\r?\n\r?\n//s) {
        my ($line, @fields) = split /\r?\n/, $1;
        my %headers;

        for (@fields) {
            $headers{lc $1} = $2 if /\A([^\s:]+):[ \t]*(.*?)[ \t]*\z/;
        }

        if (($line // '') !~ m{\A([A-Z]+) (/\S*) HTTP/1\.([01])\z}) {
            $client->{closing} = 1;
            push @{$client->{answers}}, {
                due => 0, last => 1,
                data => "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n"
                        . "Connection: close\r\n\r\n",
            };
            return;
        }

        my ($method, $target, $minor) = ($1, $2, $3);
        my $connection = lc($headers{connection} // '');

        my $close = $connection =~ /\bclose\b/
                    || $minor == 0 && $connection !~ /\bkeep-alive\b/;

        $client->{closing} = 1 if $close;

        respond($client, $method, $target, \%headers, $close);
    }

    $client->{in} = '' if $client->{closing};
}


sub client_close {
    my ($client) = @_;

    delete $clients{fileno $client->{socket}};
    close $client->{socket};
}


sub client_read {
    my ($client) = @_;

    my $n = sysread $client->{socket}, $client->{in}, 8192,
                    length $client->{in};

    return if !defined $n && ($! == EAGAIN || $! == EWOULDBLOCK
                              || $! == EINTR);

    if (!$n || length $client->{in} > MAX_HEAD) {
        client_close($client);
        return;
    }

    parse($client);
}


# Sends what is due; answers keep the order of their requests.

sub client_write {
    my ($client, $now) = @_;

    while (length $client->{out}
           || @{$client->{answers}} && $client->{answers}[0]{due} <= $now)
    {
        if (!length $client->{out}) {
            my $answer = shift @{$client->{answers}};

            $client->{out} = $answer->{data};
            $client->{last} = $answer->{last};
        }

        my $n = syswrite $client->{socket}, $client->{out};

        if (!defined $n) {
            return if $! == EAGAIN || $! == EWOULDBLOCK || $! == EINTR;

            client_close($client);
            return;
        }

        substr $client->{out}, 0, $n, '';

        if (!length $client->{out} && $client->{last}) {
            client_close($client);
            return;
        }
    }
}


sub serve {
    my ($listener) = @_;

    while (1) {
        my ($read, $write, $now, $timeout) = ('', '', time(), 60);

        vec($read, fileno $listener, 1) = 1 if keys %clients < MAX_CLIENTS;

        for my $client (values %clients) {
            my $fd = fileno $client->{socket};

            vec($read, $fd, 1) = 1;

            if (length $client->{out}) {
                vec($write, $fd, 1) = 1;

            } elsif (@{$client->{answers}}) {
                my $wait = $client->{answers}[0]{due} - $now;

                $wait = 0 if $wait < 0;
                $timeout = $wait if $wait < $timeout;
            }
        }

        my $n = select $read, $write, undef, $timeout;

        if ($n < 0) {
            next if $! == EINTR;
            die "select: $!\n";
        }

        if ($n > 0) {
            if (vec($read, fileno $listener, 1)
                && (my $socket = $listener->accept))
            {
                $socket->blocking(0);
                setsockopt $socket, IPPROTO_TCP, TCP_NODELAY, 1;

                $clients{fileno $socket} = {
                    socket => $socket, in => '', out => '', answers => [],
                    closing => 0, last => 0,
                };
                vec($read, fileno $socket, 1) = 0;
            }

            for my $client (values %clients) {
                client_read($client) if vec $read, fileno $client->{socket}, 1;
            }
        }

        client_write($_, time()) for values %clients;
    }
}


$SIG{PIPE} = 'IGNORE';
$SIG{TERM} = $SIG{INT} = sub { exit 0 };

$contacts{$_} = generate($_) for keys %WORKSPACES;

if (defined $opt{log}) {
    open $log, '>>', $opt{log} or die "cannot open $opt{log}: $!\n";
    $log->autoflush(1);
}

my $listener = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1', LocalPort => $opt{port}, Proto => 'tcp',
    Listen => 128, ReuseAddr => 1, Blocking => 0,
) or die "cannot listen on 127.0.0.1:$opt{port}: $!\n";

# The port is told by a rename, so that a reader never sees half a number.

if (defined $opt{'port-file'}) {
    open my $file, '>', "$opt{'port-file'}.new"
        or die "cannot write $opt{'port-file'}: $!\n";

    print {$file} $listener->sockport, "\n";
    close $file or die "cannot write $opt{'port-file'}: $!\n";

    rename "$opt{'port-file'}.new", $opt{'port-file'}
        or die "cannot write $opt{'port-file'}: $!\n";
}

serve($listener);
