"""The cluster on one machine: a lab of network namespaces with real servers.

    topology   which machines there are, and how they are wired
    space      namespaces that go when whoever made them goes
    lab        the machines brought up, switched off and on, cut off and mended
    services   what each kind of machine runs
    verify     the eight steps by which the cluster shows that it works

`python -m tests.lab` brings it up for people, `python -m tests.lab verify` lets it show itself.
"""
