"""What on this host breaks what the configuration wants? Looks, listens and asks; changes nothing.

finding · case · settings · cards · processes · units     what is said, what is asked for, how the host is looked at
interfaces · routing · resolving · capacity · ports · machine         checks: each says what it found, and what to type
ear · wire · adverts · neighbours · servers               what others on the wire say
programs                                                  what other programs say
packets · nftables · iptables · firewall · openings       what the rules let pass, and how to let more pass
examine · report · command                                all of it, and how it is told
"""
