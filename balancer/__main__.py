"""`python -m balancer` is the `pybalancer` command."""

from balancer.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
