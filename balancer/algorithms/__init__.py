"""Which one? One file an algorithm, all behind `base.Algorithm`; randomness is injected.

roundrobin  in turn, spread evenly by weight
leastconn   the least loaded
draw        the less loaded of two drawn at random (`balance: random`)
first       the first, the others are spares
source uri  by a hash of the client's address or the requested path, through a `table`
maglev      the table for consistent hashing
registry    `create`: from the configuration's name to an algorithm
"""
