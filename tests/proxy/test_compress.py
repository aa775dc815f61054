"""Compressors, and what they may cost."""

from __future__ import annotations

import gzip
import importlib
import sys
import time
import zlib

import brotli
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balancer.config.model import Compression as Config
from balancer.proxy.compress import PIECE, Budget, Compression, make_encoder
from balancer.wire.http1 import Limits, parse_request

TEXT = b"".join(b"line %d of something that shrinks\n" % i for i in range(20_000))


def decoder(coding):
    """Decodes piece by piece what has come by then."""
    if coding == "gzip":
        return zlib.decompressobj(31).decompress
    if coding == "br":
        process = brotli.Decompressor().process
        # It gives no more than it has room for at a time.
        return lambda data: process(data) + b"".join(iter(lambda: process(b""), b""))
    return zstandard.ZstdDecompressor().decompressobj().decompress


@pytest.fixture(params=[False, True], ids=["all", "no isal"])
def modules(request, monkeypatch):
    """With all modules, and without the one that gzip can do without."""
    if request.param:
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("level", [1, 3, 9])
def test_what_comes_out_is_what_went_in(coding, level):
    encoder = make_encoder(coding, level)
    decode = decoder(coding)
    for at in range(0, len(TEXT), 50_000):
        piece = TEXT[at : at + 50_000]
        # After a flush nothing is held back.
        assert decode(encoder.feed(piece) + encoder.flush()) == piece
    end = encoder.finish()
    assert end
    assert decode(end) == b""


@pytest.mark.usefixtures("modules")
@given(st.lists(st.one_of(st.binary(max_size=300), st.integers(1, 70_000).map(lambda size: TEXT[-size:])), max_size=5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@pytest.mark.parametrize("level", [1, 2, 3])
def test_gzip_holds_nothing_back(level, pieces):
    encoder = make_encoder("gzip", level)
    decode = zlib.decompressobj(31)
    for piece in filter(None, pieces):
        assert decode.decompress(encoder.feed(piece) + encoder.flush()) == piece
    assert decode.decompress(encoder.finish()) == b""
    assert decode.eof


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_nothing_at_all_is_something_compressed(coding):
    octets = make_encoder(coding, 1).finish()
    assert {"gzip": gzip.decompress, "br": brotli.decompress, "zstd": _unzstd}[coding](octets) == b""


def _unzstd(octets):
    return zstandard.ZstdDecompressor().decompressobj().decompress(octets)


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
def test_a_piece_does_not_hold_up_the_loop(coding):
    """Of the levels that are the default; the bound is far off, for a busy machine."""
    level = Config().level.of(coding)
    best = min(_time_of(make_encoder(coding, level)) for _ in range(5))
    assert best < 0.02


def _time_of(encoder):
    began = time.perf_counter()
    encoder.feed(TEXT[:PIECE])
    encoder.flush()
    return time.perf_counter() - began


def request(*lines, method="GET", version=1):
    head = "".join(f"{line}\r\n" for line in (f"{method} / HTTP/1.{version}", "Host: t", *lines, ""))
    return parse_request(head.encode(), Limits(65536, 65536, 200))


def compression(budget=None, **config):
    config = Config.model_validate({"algorithms": ("br", "gzip"), **config})
    return Compression(config, budget or Budget(memory=1 << 30, share=1.0))


@pytest.mark.parametrize(
    ("lines", "more", "coding"),
    [
        (["Accept-Encoding: gzip"], {}, b"gzip"),
        (["Accept-Encoding: gzip", "Accept-Encoding: br"], {}, b"br"),
        (["Accept-Encoding: gzip;q=0", "accept-encoding: gzip"], {}, None),
        (["Accept-Encoding:"], {}, None),
        ([], {}, None),
        (["Accept-Encoding: gzip"], {"method": "POST"}, b"gzip"),
        (["Accept-Encoding: gzip"], {"method": "HEAD"}, None),
        (["Accept-Encoding: gzip"], {"version": 0}, None),
        (["Accept-Encoding: gzip", "Range: bytes=1-"], {}, None),
        (["Accept-Encoding: gzip", "X-Range: bytes=1-"], {}, b"gzip"),
        (["Accept-Encoding: gzip", "Cache-Control: no-transform"], {}, None),
    ],
)
def test_who_gets_it(lines, more, coding):
    assert compression().choose(request(*lines, **more)) == coding


def test_memory_is_bounded():
    budget = Budget(memory=1024 * 1024, share=1.0)
    made = compression(budget)
    taken = []
    while (one := made.encoder(b"gzip")) is not None:
        taken.append(one)
    assert len(taken) == 2
    assert budget.used <= 1024 * 1024
    budget.used -= taken.pop()[1]
    assert made.encoder(b"br") is None
    assert made.encoder(b"gzip") is not None


def test_a_share_of_the_time_is_bounded():
    budget = Budget(memory=1 << 30, share=0.25)
    assert budget.admits(1, 100.0)
    budget.spend(0.2)
    assert budget.admits(1, 100.0)
    budget.spend(0.2)
    assert not budget.admits(1, 100.0)
    # 0.4 s were spent, 0.25 s may be owed, and a second pays off 0.25 s.
    assert not budget.admits(1, 100.5)
    assert budget.admits(1, 100.7)
    budget.spend(5.0)
    assert not budget.admits(1, 110.0)
    assert budget.admits(1, 130.0)


def test_without_a_limit_nothing_is_too_much():
    budget = Budget(memory=1 << 30, share=1.0)
    budget.spend(1e9)
    assert budget.admits(1, 1.0)


def test_modules_are_loaded_where_they_are_wanted_only(monkeypatch):
    asked = []
    monkeypatch.setattr(importlib, "import_module", lambda name: asked.append(name) or sys.modules[name])
    compression(algorithms=("gzip",))
    assert asked == ["isal.isal_zlib"]
    compression(algorithms=("gzip", "zstd"))
    assert asked == ["isal.isal_zlib", "isal.isal_zlib", "zstandard"]
    compression(algorithms=("gzip",), level={"gzip": 4})
    assert len(asked) == 3
