"""What is going on?

    snapshot  one picture of everybody at one moment, and the memory it needs: rates, averages, outages      pure
    page      the picture as HAProxy's statistics page
    trends    the last minutes: rates second by second, and how draining servers empty                        pure
    live      what changed on the page, second by second
    metrics   the picture as Prometheus metrics, under the names of HAProxy's exporter
    form      what the page's form asks for, in HAProxy's words                                              pure
    users     who may look, who may change
    web       all of it over HTTP, for users with a password and against clients without manners
    lines     a record as a log line, or as JSON
    sinks     where lines go: syslog, standard output; never waiting
    log       records gathered, events at once, what could not be said counted

A view takes a `Snapshot` and knows nothing of where it came from; a new one is a new module beside `page`.
"""
