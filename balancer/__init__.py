"""pybalancer: load balancing with high availability in one daemon."""

__version__ = "0.1.0"
