"""How does a byte cross?

    stream    stream sockets to protocols: accept, connect, read, write, close
    listen    listening sockets, within maxconn
    wake      bells that other processes ring
    sweep     the coarse clock, and timeouts without a timer per connection
    tcp       a TCP session: connect, relay, half-close
    http      an HTTP client connection: requests, one exchange at a time
    exchange  one request and its response: choose, send, pass on, account
    match     conditions on requests, as functions
    rules     what a frontend's rules make of a request
    forward   who the client is behind other proxies, and what servers are told
    login     passwords, checked beside the traffic
    format    text with variables
    route     which requests go where, and what becomes of them on the way
    origin    a server connection and the pool of idle ones
    upstream  connecting: timeout, retries, redispatch
    replies   the answers pybalancer makes itself
    dns       DNS over UDP, each query on its own
    udp       other datagrams, a flow per client
    mmsg      many datagrams with one system call

One worker process, one event loop, no task and no queue on the path of a byte.
"""
