"""What do these bytes say?

    http1       the head of an HTTP/1 message: strict, one expression over all of it
    framing     where a chunked body ends
    rewrite     the head as it goes on: hop-by-hop fields out, ours in; cookies; cacheability
    path        all that a server may make of a request's path
    fields      every value under a name
    proxyproto  who the client is, as the proxy before us says
    dns         the header and the first question of a DNS message

Octets in, facts out. No socket, no loop, no clock; what breaks a protocol is a ProtocolError and nothing else.
"""
