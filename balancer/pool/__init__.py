"""What is true of a server?

    facts    counters: each worker writes its own block of shared memory, readers add the blocks up
    orders   states: control alone writes each server's row, workers read them
    server   one server as a worker sees it
    backend  servers behind one algorithm: `pick`, `take`, `release`
    waiting  those who wait for a place at a server with a limit
    places   limits that processes share: what is free, who holds what, who waits
    share    what one process has of a limit on connections
    sticky   persistence by cookie
    passwords  who is who, off the loop
    records  what a finished connection was, for the log

No socket and no clock here: `now` is an argument.
"""
