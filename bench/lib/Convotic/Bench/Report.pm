package Convotic::Bench::Report;

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(table write_section picture);


# A table in Markdown, which is one in plain text too.  The files are UTF-8,
# the strings bytes.

sub table {
    my ($head, @rows) = @_;

    my @width;

    for my $row ($head, @rows) {
        for my $i (0 .. $#$row) {
            my $width = _width($row->[$i]);
            $width[$i] = $width if !defined $width[$i] || $width > $width[$i];
        }
    }

    return _row($head, \@width) . _row([ map { '-' x ($_ || 1) } @width ], \@width)
        . join '', map { _row($_, \@width) } @rows;
}


sub _row {
    my ($row, $width) = @_;

    return '|' . join('', map {
        ' ' . $row->[$_] . ' ' x ($width->[$_] - _width($row->[$_])) . ' |'
    } 0 .. $#$row) . "\n";
}


sub _width {
    my ($bytes) = @_;

    return length($bytes) - ($bytes =~ tr/\x80-\xbf//);
}


# What stands between the section's two marks is replaced.

sub write_section {
    my ($file, $name, $text) = @_;

    open my $fh, '<', $file or die "$file: $!\n";
    my $all = join '', <$fh>;
    close $fh;

    $all =~ s/(<!-- $name -->\n).*?(<!-- end -->)/$1\n$text\n$2/s
        or die "$file has no section \"$name\"\n";

    open $fh, '>', $file or die "$file: $!\n";
    print {$fh} $all;
    close $fh or die "$file: $!\n";

    return;
}


# picture(FILE, DIR, [title, S, M, L]...): bars, by gnuplot.

sub picture {
    my ($file, $dir, @rows) = @_;

    my $data = "$dir/picture.data";

    open my $fh, '>', $data or die "$data: $!\n";

    for my $row (@rows) {
        my ($title, @values) = @$row;
        print {$fh} qq("$title"), (map { sprintf ' %.3f', $_ } @values), "\n";
    }

    close $fh;

    open my $gnuplot, '|-', 'gnuplot' or die "gnuplot: $!\n";
    print {$gnuplot} <<"EOG";
set encoding utf8
set terminal svg noenhanced size 960,500 font "sans-serif,12" background "#ffffff"
set output "$file"
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.9 noborder
set boxwidth 0.9
set yrange [0:*]
set ylabel "CPU time of a request / return 200"
set grid y linecolor "#dddddd"
set xtics nomirror scale 0 rotate by -20
set ytics nomirror
set border 3
set key top left horizontal
set rmargin 18
plot "$data" using 2:xtic(1) title "3 contacts (0.7 KB)" linecolor "#9ecae1", \\
     "" using 3 title "20 (4.8 KB)" linecolor "#4292c6", \\
     "" using 4 title "100 (24 KB)" linecolor "#08519c"
EOG
    close $gnuplot or die "gnuplot failed\n";

    return;
}


1;

__END__

=head1 NAME

Convotic::Bench::Report - tables and the picture

=cut
