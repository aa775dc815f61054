"""Is it alive?

    verdict     what a check's outcome makes of a server: HAProxy's counter, states, intervals     pure
    result      what one check found, in HAProxy's codes and words                                 pure
    report      the log lines of checks and state changes, in HAProxy's words                      pure
    schedule    when each check is due: spread, on its grid, never too many at once                pure
    stream      a non-blocking socket with awaitable steps, TLS included
    probe_tcp   the server accepts a connection
    probe_http  the server answers a request as expected
    probe_dns   the server answers a query
    runner      probes by schedule, results to verdicts, verdicts to control

The runner reads states and hands back new ones; control alone writes the board.
"""
