"""How does a byte cross?

    listen    listening sockets to protocols; maxconn
    sweep     the coarse clock, and timeouts without a timer per connection
    tcp       a TCP session: connect, relay, half-close
    http      an HTTP client connection and its exchanges
    upstream  connections to servers: dialling, retries, pooling
    replies   the answers pybalancer makes itself
    dns, udp  datagrams: a query at a time, or a flow per client

One worker process, one event loop, no task and no queue on the path of a byte.
"""
