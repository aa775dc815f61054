from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.certificate import LARGEST, PageTls, expiry, troubles
from balancer.config.model import Config
from balancer.config.warn import warnings
from tests.certificates import make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    crt, key = make(folder)
    make(folder, "other")
    make(folder, "locked", options=("-passout", "pass:secret"))
    (folder / "both.pem").write_bytes(crt.read_bytes() + key.read_bytes())
    (folder / "empty.pem").touch()
    (folder / "binary.pem").write_bytes(bytes(range(256)) * 20)
    (folder / "large.pem").write_bytes(bytes(LARGEST + 1))
    cut = crt.read_text().splitlines()
    (folder / "cut.pem").write_text("\n".join([cut[0], cut[1][:20] + "A" * 44, *cut[2:], ""]))
    return folder


def told(folder: Path, crt: str, key: str | None = None) -> list[tuple[str, str]]:
    tls = PageTls(crt=str(folder / crt), key=str(folder / key) if key is not None else None)
    return [(at, text.replace(f"{folder}/", "")) for at, text in troubles(tls)]


def test_what_can_be_used(folder: Path) -> None:
    assert told(folder, "page.pem", "page.key") == told(folder, "both.pem") == []


@pytest.mark.parametrize(
    ("crt", "key", "at", "says"),
    [
        ("none.pem", "none.key", "crt", "none.pem cannot be read: No such file or directory"),
        (".", "page.key", "crt", "is no regular file"),
        ("large.pem", "page.key", "crt", f"large.pem has {LARGEST + 1} octets; {LARGEST} are allowed"),
        ("empty.pem", "page.key", "crt", "empty.pem holds no certificate in PEM"),
        ("binary.pem", "page.key", "crt", "binary.pem holds no certificate in PEM"),
        ("page.key", "page.pem", "crt", "page.key holds no certificate in PEM"),
        ("page.pem", None, "crt", "page.pem holds no private key in PEM (-----BEGIN PRIVATE KEY-----); give its file"),
        ("page.pem", "empty.pem", "key", "empty.pem holds no private key"),
        ("page.pem", "other.key", "key", "the key in other.key is not the one of the certificate in page.pem"),
        ("locked.pem", "locked.key", "key", "the key in locked.key has a password; take it off with openssl pkey"),
        ("cut.pem", "page.key", "crt", "cut.pem cannot be used: "),
    ],
)
def test_what_cannot_and_why(folder: Path, crt: str, key: str | None, at: str, says: str) -> None:
    found = told(folder, crt, key)
    assert found[0][0] == at
    assert says in found[0][1]


def test_it_is_known_how_long_one_is_valid(folder: Path) -> None:
    until = expiry((folder / "page.pem").read_bytes())
    assert until is not None
    assert until == pytest.approx(time.time() + 30 * 86400, abs=120)
    said = subprocess.run(["openssl", "x509", "-in", folder / "page.pem", "-noout", "-enddate"], capture_output=True)
    assert time.strftime("%b %e %H:%M:%S %Y GMT", time.gmtime(until)) in said.stdout.decode()
    assert expiry(b"") is None


@given(st.binary(max_size=200), st.integers(0, 300))
def test_nonsense_has_no_end(octets: bytes, at: int) -> None:
    import ssl

    pem = ssl.DER_cert_to_PEM_cert(octets).encode()
    expiry(pem)
    expiry(pem[:at])


@pytest.mark.parametrize(("days", "word"), [(3, "expires"), (30, None)])
def test_one_that_expires_soon_deserves_a_line(tmp_path: Path, days: int, word: str | None) -> None:
    crt, key = make(tmp_path, days=days)
    config = Config.model_validate({"stats": {"bind": ":7000", "tls": {"crt": str(crt), "key": str(key)}}})
    assert [word for line in warnings(config) if f"stats.tls.crt: {crt} {word} on 20" in line] == [word] * bool(word)
