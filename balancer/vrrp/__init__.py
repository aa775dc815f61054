"""Who holds the address?

    machine     what a virtual router does when something happens     pure
    group       what its sync group does then     pure
    address     interfaces and their addresses as the kernel has them; put as leases
    link        the sockets of one interface: advertisements in and out, announcements out
    speaker     the virtual routers on their interfaces
    change      what becomes of them when their configuration is another     pure

The machine decides and hands back actions; the speaker has them carried out, and tells it what it must know.
"""
