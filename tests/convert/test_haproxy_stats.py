from __future__ import annotations

import subprocess

import pytest

PAGE = """listen stats
 bind 127.0.0.1:7000{ssl}
 mode http
 stats enable
 stats uri /s
 stats realm Mine
 stats auth admin:secret
 stats refresh 5s
 stats admin if TRUE
frontend f
 bind 127.0.0.1:80
 default_backend b
backend b
 server s 10.0.0.1:80
"""


@pytest.fixture
def certificate(tmp_path):
    """A certificate and its key in one file, as HAProxy has them."""
    key, crt = tmp_path / "key.pem", tmp_path / "crt.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-days", "30", "-subj", "/CN=x", "-keyout", key, "-out", crt],
        check=True, capture_output=True,
    )  # fmt: skip
    both = tmp_path / "both.pem"
    both.write_bytes(crt.read_bytes() + key.read_bytes())
    return both


def test_the_page_is_as_it_was(convert):
    page = convert(PAGE.format(ssl="")).made["stats"]
    assert (page["bind"], page["uri"], page["realm"], page["refresh"]) == ("127.0.0.1:7000", "/s", "Mine", "5s")
    assert page["admin"] is True and "admin" in page["users"] and "tls" not in page


def test_a_page_with_tls_stays_so(convert, certificate):
    result = convert(PAGE.format(ssl=f" ssl crt {certificate} ssl-min-ver TLSv1.3"))
    assert result.made["stats"]["tls"] == {"crt": str(certificate), "ssl_min_ver": "TLSv1.3"}


@pytest.mark.parametrize("ssl", [" ssl crt /nonexistent.pem", " ssl"])
def test_a_password_never_goes_out_in_the_clear_instead(convert, ssl):
    result = convert(PAGE.format(ssl=ssl))
    assert "stats" not in result.made
    assert any(told.startswith("2:") for told in result.told)
