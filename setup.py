"""The optional build: with PYBALANCER_COMPILE=1 in the environment, what traffic passes is compiled (mypyc).

Everything else is in pyproject.toml. Without it nothing is compiled, and neither mypy nor a compiler is asked for.
"""

import os
import sys
from importlib.util import find_spec

from setuptools import setup

# Each must be able to run as it is, too: one source, two ways to run it. balancer/proxy/HOTPATH.md says more.
COMPILED = """
    algorithms/base algorithms/draw algorithms/first algorithms/leastconn algorithms/maglev algorithms/roundrobin
    algorithms/source algorithms/table algorithms/uri
    pool/backend pool/facts pool/records pool/server pool/share pool/sticky pool/waiting
    proxy/exchange proxy/filters proxy/http proxy/listen proxy/origin proxy/replies proxy/route proxy/sources
    proxy/stream proxy/sweep proxy/tcp proxy/upstream
    wire/fields wire/framing wire/http1 wire/proxyproto wire/recall wire/rewrite
"""
# What the compiler has to know the types of.
REQUIRED = ["mypy>=2.0", "pydantic>=2.7"]


WANTED = os.environ.get("PYBALANCER_COMPILE", "0") not in ("", "0")


def extensions() -> list:
    if not WANTED:
        return []
    if find_spec("mypyc") is None:
        if "egg_info" in sys.argv:
            return []  # pip asks what it has to install first
        raise SystemExit("PYBALANCER_COMPILE is set, and mypy is missing: pip install mypy")
    from mypyc.build import mypycify

    files = [f"balancer/{module}.py" for module in COMPILED.split()]
    return mypycify(files, opt_level="2", debug_level="0", group_name="pybalancer")


setup(ext_modules=extensions(), setup_requires=REQUIRED if WANTED else [])
