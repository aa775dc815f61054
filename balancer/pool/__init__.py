"""What is true of a server?

    facts    counters: each worker writes its own block of shared memory, readers add the blocks up
    orders   states: control alone writes each server's row, workers read them
    server   one server as a worker sees it
    backend  servers behind one algorithm: `pick`, `take`, `release`
    sticky   persistence by cookie
    passwords  who is who, off the loop
    records  what a finished connection was, for the log

No socket and no clock here: `now` is an argument.
"""
