"""What is going on?

    snapshot  one picture of everybody at one moment, and the memory it needs: rates, averages, outages      pure
    page      the picture as HAProxy's statistics page
    trends    the last minutes: rates second by second, and how draining servers empty                        pure
    live      what changed on the page, second by second
    metrics   the picture as Prometheus metrics or OpenMetrics: which of them, written how
    families  what they are called, and what they are made of: the names of HAProxy's exporter
    keepalived  those of virtual routers: the names of keepalived's exporter
    coding    answers as octets, with gzip where wanted
    reloading  what a reload changes, and what came of it: a line, a text, JSON
    form      what the page's form asks for, in HAProxy's words                                              pure
    users     who may look, who may change
    web       all of it over HTTP, for users with a password and against clients without manners
    tls       https for it: a certificate from memory, handshakes that hold nobody up
    lines     a record as a log line, or as JSON
    logformat  a line as `log_format` has it
    sinks     where lines go: syslog, journald, files; never waiting
    log       records gathered for each target, events at once, what could not be said counted

A view takes a `Snapshot` and knows nothing of where it came from; a new one is a new module beside `page`.
"""
