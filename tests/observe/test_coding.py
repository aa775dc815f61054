from __future__ import annotations

import gzip

import pytest

from balancer.observe import coding


def pieces(closed: list[bool]):
    try:
        yield from ("haproxy_up 1\n", "z\u00fcrich\n", "\udcff\n")
    finally:
        closed.append(True)


def test_pieces_are_octets_one_by_one() -> None:
    assert list(coding.encoded(pieces([]))) == [b"haproxy_up 1\n", b"z\xc3\xbcrich\n", b"?\n"]


def test_what_is_zipped_is_the_same() -> None:
    assert gzip.decompress(b"".join(coding.zipped(pieces([])))) == b"".join(coding.encoded(pieces([])))


@pytest.mark.parametrize("coded", [coding.encoded, coding.zipped])
def test_who_leaves_early_ends_the_making(coded) -> None:
    closed: list[bool] = []
    made = coded(pieces(closed))
    next(made)
    made.close()
    assert closed


@pytest.mark.parametrize(
    ("field", "takes"),
    [
        ("gzip", True), ("x-gzip", True), ("deflate, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.000", False),
        ("gzip;q=0.001", True), ("", False), ("*", False), ("identity", False), ("br, zstd", False), ("gzipped", False),
    ],
)  # fmt: skip
def test_gzip_is_for_who_names_it(field: str, takes: bool) -> None:
    assert coding.takes_gzip(field) is takes
