"""Which one? One file an algorithm, all behind `base.Algorithm`; randomness is injected.

roundrobin leastconn source uri random first maglev: HAProxy's `balance`, and Maglev's table
for consistent hashing.
"""
