"""Who runs where?

supervisor  parent: binds the sockets, starts and replaces the children, ends them
worker      the proxy data plane, one process per core
control     health checks, server states, statistics page
plan        what all processes derive from the configuration: rows, indexes, addresses
memory      what they share: counters, states, doorbells
sockets     binding, also what this host does not hold yet
privileges  user, group, limits, death with the parent
"""
