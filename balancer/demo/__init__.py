"""What does it look like when it runs?

    show        `pybalancer demo`: servers, a balancer in front of them, what to try
    demo.yaml   its configuration, read like any other
    ports       which of them are free?
    process     a child that never outlives us
    webserver   says who it is, over HTTP
    nameserver  says who it is, over DNS

All on loopback and without root.
"""
