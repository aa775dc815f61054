"""pybalancer: load balancing with high availability in one daemon."""

__version__ = "0.1.0"
RELEASED = "2026-11-23"
"""The day of that version (ISO 8601)."""
