"""How does the kernel cross it? No packet passes through us: the kernel translates addresses by rules that we write.

    slots       which slot of a table is whose: the kernel picks by turns, at random or by a hash     pure
    plan        which addresses clients come to, and which servers each is spread over now            pure
    render      that as text for nftables: all of it, or what a change comes to                       pure
    adopt       what an earlier process has left, made what is wanted without a break
    nft         hands text to the kernel, a transaction each time
    counters    flows, packets and octets of each server, as the rules count them
    networks    the networks that this host is on
    tables      which tables there are, and what is in one
    ctnetlink   what the kernel's table of connections says and is told, octet by octet               pure
    conntrack   the flows that the kernel remembers: counted, listed, deleted
    events      flows that begin and end, as the kernel tells of them
    segments    heads of TCP segments, made, sent and read
    reset       tells clients at once that their connection is gone
    strays      makes known connections that began with another director
    sysctl      what the kernel must be told besides, put back as found
    firewall    rules of others that stand in the way

Everything is in one table of our own, `inet pybalancer`. Other tables are never changed.
"""
