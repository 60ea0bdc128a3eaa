# Serves /srv/images on 127.0.0.1:8000, with ranges. /srv/break: the next whole answer
# breaks off in its middle. A name that ends in .html is a page, as a portal sends it.
# Every request is a line of /srv/requests: path, range, status.
use strict;
use IO::Socket::INET;
my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1:8000', Listen => 5, ReuseAddr => 1) or die;
while (my $client = $server->accept) {
  my ($path, $range) = ('', '');
  while (my $line = <$client>) {
    $path = $1 if $line =~ m{^GET /(\S+)};
    $range = $1 if $line =~ /^range: bytes=(\d+)-/i;
    last if $line =~ /^\r?\n$/;
  }
  my $body = '';
  if ($path =~ /\.html$/) {
    $body = "<!DOCTYPE html><title>Sign in</title>\n";
  } elsif (open my $file, '<:raw', "/srv/images/$path") {
    local $/;
    $body = <$file>;
  }
  my ($size, $from) = (length $body, $range eq '' ? 0 : $range);
  my $status = $range eq '' ? '200 OK' : '206 Partial Content';
  my $head = "HTTP/1.1 $status\r\nETag: \"$path\"\r\nConnection: close\r\nContent-Length: " . ($size - $from) . "\r\n";
  $head .= "Content-Range: bytes $from-" . ($size - 1) . "/$size\r\n" if $range ne '';
  my $part = substr $body, $from;
  $part = substr $part, 0, $size / 2 if $range eq '' && unlink '/srv/break';
  open my $log, '>>', '/srv/requests';
  print $log "$path ", $range eq '' ? '-' : $range, " $status\n";
  close $log;
  print $client $head, "\r\n", $part;
  close $client;
}
