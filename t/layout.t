#!/usr/bin/perl

# The rooms of the house: which file may include which, what the build and the
# documentation must know of, and how lines look.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";

use Convotic::Test;

use File::Basename qw(basename);

use constant COLUMNS => 80;

my $t = Convotic::Test->new(direct => 1);
my $top = $t->top;

my @module = glob "$top/ngx_convotic_module/*.[ch]";
my @tools = (glob("$top/tools/*.[ch]"), glob("$top/tools/*/*.[ch]"));
my @tests = glob "$top/t/*.t";


sub slurp {
    my ($file) = @_;

    open my $fh, '<', $file or die "$file: $!\n";
    local $/;

    return scalar <$fh>;
}


sub none_ok {
    my ($name, @found) = @_;

    my $more = @found > 10 ? @found - 10 : 0;

    splice @found, 10 if $more;
    ok(!@found, $name) or diag(map { "    $_\n" } @found,
                               $more ? "and $more more" : ());

    return;
}


sub short { return $_[0] =~ s{^\Q$top\E/}{}r }


cmp_ok(scalar @module, '>', 20, 'the module has sources');
cmp_ok(scalar @tests, '>', 20, 'and tests');


# Ranks.

sub lint {
    my ($where) = @_;

    return $t->run([ "$where/tools/lint", '--ranks' ]);
}

my $lint = lint($top);
is($lint->{exit}, 0, 'includes go down the ranks only')
    or diag($lint->{out}, $lint->{err});
is($lint->{out}, '', 'and nothing is said of them');


# What would be wrong is found: in a copy, with a line added to one file.

my $copy = $t->dir . '/copy';

mkdir "$copy$_" for '', '/tools', '/ngx_convotic_module';
$t->write_file('copy/tools/lint', slurp("$top/tools/lint"));
chmod 0755, "$copy/tools/lint";

sub copy_module {
    for my $file (@module) {
        $t->write_file('copy/ngx_convotic_module/' . basename($file),
                       slurp($file));
    }

    return;
}

copy_module();
is(lint($copy)->{exit}, 0, 'the copy is in order');

for my $case (
    [ 'auth.c',   '"ngx_convotic_gate.h"',   qr/auth, of rank \d+, includes gate/ ],
    [ 'auth.c',   '"ngx_convotic_cache.h"',  qr/auth, of rank \d+, includes cache/ ],
    [ 'params.c', '"ngx_convotic_auth.h"',   qr/params, .* includes auth/ ],
    [ 'redis.c',  '"ngx_convotic_module.h"', qr/includes module/ ],
    [ 'resp.h',   '"ngx_convotic_redis.h"',  qr/resp, of rank \d+, includes redis/ ],
    [ 'conf.h',   '"ngx_convotic_url.h"',    qr/conf, of rank \d+, includes url/ ],
    [ 'redis.c',  '<hiredis/hiredis.h>',     qr/hiredis is for resp\.c alone/ ],
    [ 'resp.h',   '<hiredis/read.h>',        qr/hiredis is for resp\.c alone/ ],
    [ 'fill.c',   '<jansson.h>',             qr/jansson is for json\.c alone/ ],
    [ 'send.c',   '"../tools/secret.h"',     qr/no header of the module's/ ],
    [ 'util.c',   '"ngx_convotic_conf.h"',   qr/"util" has no rank/ ],
) {
    my ($file, $include, $message) = @$case;
    my $path = "ngx_convotic_module/ngx_convotic_$file";
    my $text = -f "$copy/$path" ? slurp("$copy/$path") : '';

    $t->write_file("copy/$path", "#include $include\n$text");
    $lint = lint($copy);
    is($lint->{exit}, 1, "$file with $include: refused");
    like($lint->{out}, $message, "$file with $include: a sentence");
    $text eq '' ? unlink "$copy/$path" : $t->write_file("copy/$path", $text);
}

unlink "$copy/ngx_convotic_module/ngx_convotic_url.h";
is(lint($copy)->{exit}, 1, 'a header that is gone');


# The build knows every source, and no other.

{
    my $config = slurp("$top/config");
    my %named = map { $_ => 1 } map { split ' ', s/\\\n//gr }
        $config =~ /^for ngx_convotic_noun in (.*?)\s*(?:;|\n)\s*do\b/ms;
    my @nouns = map { /ngx_convotic_(\w+)\.c\z/ } @module;

    none_ok('config names every source',
            grep { !$named{$_} && $config !~ /ngx_convotic_$_\.c\b/ } @nouns);
    none_ok('and no source that is not there',
            grep { my $noun = $_; !grep { $_ eq $noun } @nouns } sort keys %named);
}


# The documentation knows every directive and variable, and no other.

my %context = (
    NGX_HTTP_MAIN_CONF => 'http',
    NGX_HTTP_SRV_CONF  => 'server',
    NGX_HTTP_LOC_CONF  => 'location',
);

{
    my $source = slurp("$top/ngx_convotic_module/ngx_convotic_module.c");
    my $docs = slurp("$top/docs/directives.md");
    my ($any) = $source =~ /#define NGX_CONVOTIC_ANY_CONF\s[\s\\]*\(([^)]+)\)/;

    $source =~ s/NGX_CONVOTIC_ANY_CONF/$any/g if $any;

    my %flags = $source =~ /\{ ngx_string\("(convotic\w*)"\),\s*([A-Z0-9_|\s()]+),/g;
    my %text = $docs =~ /^## (\w+)\n(.*?)(?=^## |\z)/msg;

    cmp_ok(scalar keys %flags, '>', 10, 'directives in module.c');
    is_deeply([ sort keys %text ], [ sort keys %flags ],
              'docs/directives.md has a heading for each directive');

    for my $name (sort keys %flags) {
        my $about = $text{$name} or next;
        my ($syntax) = $about =~ /^\*\*Syntax:\*\* `([^`]+)/m;
        my ($where) = $about =~ /^\*\*Context:\*\* (.*?)(?:<br>)?$/m;
        my $contexts = join ', ', map { $context{$_} }
            grep { $flags{$name} =~ /\b$_\b/ } sort { $context{$a} cmp $context{$b} }
            keys %context;

        like($syntax || '', qr/^$name .*;$/, "$name: its syntax");
        like($about, qr/^\*\*Default:\*\* /m, "$name: its default");
        is(join(', ', sort split /, */, $where || ''), $contexts,
           "$name: its context");
    }
}

{
    my $source = slurp("$top/ngx_convotic_module/ngx_convotic_variables.c");
    my $docs = slurp("$top/docs/variables.md");
    my %told = map { $_ => 1 } $docs =~ /\$(convotic_\w+)/g;
    my %made = map { $_ => 1 } $source =~ /ngx_string\("(convotic_\w+)"\)/g;

    cmp_ok(scalar keys %made, '>', 5, 'variables in variables.c');
    is_deeply([ sort keys %told ], [ sort keys %made ],
              'docs/variables.md has each of them, and no other');
}


# Lines.

{
    my (@long, @tab, @blank, @end, @open);

    for my $file (@module, @tools) {
        my $text = slurp($file);
        my $line = 0;

        for (split /\n/, $text, -1) {
            my $at = short($file) . ':' . ++$line;

            push @long, $at if length > COLUMNS;
            push @tab, $at if /\t/;
            push @blank, $at if /[ \r]$/;
        }

        push @end, short($file) if $text !~ /[^\n]\n\z/;
        push @open, short($file) if $text !~ m{\A\n?/\*};
    }

    none_ok('C: no line is longer than ' . COLUMNS . ' columns', @long);
    none_ok('C: no tab', @tab);
    none_ok('C: no blank at the end of a line', @blank);
    none_ok('C: a newline at the end', @end);
    none_ok('C: files open with what they own', @open);
}


# Tests.

none_ok('every test calls finish',
        map { short($_) } grep { slurp($_) !~ /^\$t->finish;$/m } @tests);
none_ok('every test says what it is about',
        map { short($_) } grep { slurp($_) !~ /\A#!.*\n\n# \S/ } @tests);
none_ok('no test sleeps for seconds',
        map { short($_) } grep { slurp($_) =~ /\bsleep\(?\s*[1-9]/ } @tests);

$t->finish;
