"""Debian systems under systemd, started on this machine, in which pybalancer is installed as users do it."""
