# For the server's probes: perl asked.pl PATH. Status 0 where the server's answer is 200. The server's
# https asks everybody for a certificate, and netspacectl takes a hundred times as long to start.
use strict;
use warnings;
use IO::Socket::UNIX;

my $server = IO::Socket::UNIX->new('/run/netspace/federation.sock') or exit 1;
print $server "GET $ARGV[0] HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
exit((<$server> // '') =~ m{^HTTP/1\.1 200 } ? 0 : 1);
