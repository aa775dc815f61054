"""Who runs where?

supervisor     parent: binds the sockets, starts and replaces the children, ends them; reloads
signals        what it is told by
generation     what runs under one configuration: processes, memory, sockets
lineage        all that there are: one takes clients, those before it finish what they have, one may be coming
roles          what a child is after its fork
children       forked when due, and started again
wishes         what the supervisor is asked for, and what is answered
changeover     from one generation to the next, or back
softstop       the end
claim          to the kernel's rules, of which none outlive us
eventlog       what the supervisor says, and where
reload         a configuration read again: may it follow, and what does it change?
changes        that, object by object, and what becomes of connections
reloads        who asks for one, and is answered over the heads of control processes
handover       datagram flows from the workers before a reload to those after it
worker         the proxy data plane, one process per core
kerneld        the rules in the kernel
kernelnumbers  what it counts
kernelanswers  what is told of it
kernelleft     what stays there when nobody is left
flowlog        a line for each connection that the kernel carries
control        health checks, server states, statistics page
plan           what all processes derive from the configuration: rows, indexes, addresses, descriptors
memory         what they share: counters, states, doorbells
limits         those that workers share, over deaths and reloads
sockets        binding, also what this host does not hold yet
resolve        names to addresses at start, in bounded time
lock           only one daemon has the rules of a network namespace
systemd        what the service manager is told
privileges     user, group, capabilities, limits, death with the parent
faults         what nobody expected, as lines in the log
"""
