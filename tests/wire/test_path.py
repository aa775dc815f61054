from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from balancer.wire.path import canonical, encoded, readings


@pytest.mark.parametrize(
    ("path", "meaning"),
    [
        (b"/", b"/"),
        (b"/admin", b"/admin"),
        (b"//admin", b"/admin"),
        (b"/./admin", b"/admin"),
        (b"/x/../admin", b"/admin"),
        (b"/../../admin", b"/admin"),
        (b"/x/..//.//admin", b"/admin"),
        (b"/%61dmin", b"/admin"),
        (b"/%2e%2E/admin", b"/admin"),
        (b"/admin/.", b"/admin/"),
        (b"/admin/x/..", b"/admin/"),
        (b"/...", b"/..."),
        (b"/.a/b.", b"/.a/b."),
        (b"/a%2fb", b"/a%2Fb"),
        (b"/a;b", b"/a;b"),
        (b"/a%3bb", b"/a%3Bb"),
        (b'/"\\|', b"/%22%5C%7C"),
        (b"/%22%5c%7c", b"/%22%5C%7C"),
        (b"/%", b"/%25"),
        (b"/%2561", b"/%2561"),
        (b"/%zz%7E", b"/%25zz~"),
        (b"*", b"*"),
        (b"/!$&'()*+,=:@-._~", b"/!$&'()*+,=:@-._~"),
    ],
)
def test_the_usual_reading(path, meaning):
    assert canonical(path) == meaning
    assert readings(path)[0] == meaning


@pytest.mark.parametrize(
    "path",
    [
        b"/admin", b"//admin", b"/%61dmin", b"/./admin", b"/x/../admin", b"/%2fadmin", b"/\\admin", b"/%5Cadmin",
        b"/admin;x", b"/admin;x=1;y=2", b"/;x/admin", b"/admin%3bx", b"/x/..;/admin", b"/x/..;y=z/admin",
        b"/x%2f..%2fadmin", b"/x%2F%2e%2e%2Fadmin", b"/x/..%5cadmin", b"/.;/admin", b"/admin%00.png", b"/%2e/admin",
        b"/x/%2e%2e;/admin", b"///;a/%2f./admin;b",
    ],
)  # fmt: skip
def test_no_way_to_write_it_is_missed(path):
    assert b"/admin" in readings(path)


@pytest.mark.parametrize(
    "path", [b"/admin/../x", b"/admin/..;/x", b"/admin/..%2fx", b"/admin/%2e%2e/x", b"/admin//../x"]
)
def test_it_is_seen_by_those_who_resolve_nothing_too(path):
    assert any(reading.startswith(b"/admin") for reading in readings(path))
    assert any(reading.startswith(b"/x") for reading in readings(path))


@pytest.mark.parametrize("path", [b"/", b"/index.html", b"/a/b/c/", b"/~user/a:b@c,d=e!", b"/a%20b", b"/.well-known/x"])
def test_an_ordinary_path_has_one_reading(path):
    assert readings(path) == (path,)


PATHS = st.one_of(
    st.binary(max_size=20).map(lambda rest: b"/" + bytes(octet for octet in rest if 0x20 < octet < 0x7F)),
    st.lists(
        st.sampled_from(
            [b"/", b".", b"..", b"a", b";x", b"%2f", b"%2F", b"\\", b"%5c", b"%2e", b"%61", b"%", b"%00", b"%3B", b"//"]
        ),
        max_size=12,
    ).map(lambda parts: b"/" + b"".join(parts)),
)


def slow_canonical(path: bytes) -> bytes:
    """RFC 3986 section 5.2.4 letter by letter, behind the same encoding."""
    rest = encoded(path)
    while b"//" in rest:
        rest = rest.replace(b"//", b"/")
    out = b""
    while rest:
        if rest.startswith(b"/./"):
            rest = rest[2:]
        elif rest == b"/.":
            rest = b"/"
        elif rest.startswith(b"/../") or rest == b"/..":
            rest = b"/" + rest[4:]
            out = out[: max(out.rfind(b"/"), 0)]
        else:
            end = rest.find(b"/", 1)
            end = len(rest) if end < 0 else end
            out, rest = out + rest[:end], rest[end:]
    return out


@given(PATHS)
@example(b"/.")
@example(b"/..")
@example(b"/a/..")
def test_it_agrees_with_the_letter_of_the_rfc(path):
    assert canonical(path) == slow_canonical(path)


@given(PATHS)
def test_what_was_read_reads_the_same(path):
    usual = canonical(path)
    assert encoded(usual) == canonical(usual) == usual
    every = readings(path)
    assert every[0] == usual
    assert len(set(every)) == len(every) <= 25
    assert all(reading.startswith(b"/") for reading in every)
