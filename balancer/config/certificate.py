"""TLS for the statistics page (`stats.tls`), and whether a certificate and its key can be used."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path as File
from typing import Literal

from balancer.config.files import unreadable
from balancer.config.kinds import Path
from balancer.config.values import Model

__all__ = ["LARGEST", "PageTls", "expiry", "troubles"]

LARGEST = 256 << 10
"""A chain of three certificates has some 6 KiB."""
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(rb"-----BEGIN ([A-Z]+ )*PRIVATE KEY-----")
_ENCRYPTED = re.compile(rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: 4,ENCRYPTED")
# X.690: the tags of what is passed by on the way to a certificate's validity (RFC 5280 section 4.1).
_SEQUENCE, _VERSION, _UTC_TIME, _TIME = 0x30, 0xA0, 0x17, 0x18


class PageTls(Model):
    """The page over TLS, at its TCP addresses: https."""

    crt: Path
    """The certificate in PEM, with those between it and its root behind it."""
    key: Path | None = None
    """Its private key, in PEM and without a password. Default: `crt` has it too."""
    ssl_min_ver: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"
    """The oldest version that is spoken."""


def troubles(tls: PageTls) -> list[tuple[str, str]]:
    """What is wrong with its files: key, and what to say of it."""
    files = {"crt": tls.crt} | ({"key": tls.key} if tls.key is not None else {})
    found = [(key, why) for key, path in files.items() if (why := unreadable(path, largest=LARGEST))]
    if found:
        return found
    contents = {key: File(path).read_bytes() for key, path in files.items()}
    at = "key" if tls.key is not None else "crt"
    if not _CERTIFICATE.search(contents["crt"]):
        return [("crt", f"{tls.crt} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")]
    if _ENCRYPTED.search(contents[at]):
        return [(at, f"the key in {files[at]} has a password; take it off with openssl pkey -in … -out …")]
    if not _KEY.search(contents[at]):
        more = "" if tls.key is not None else "; give its file as `key`"
        return [(at, f"{files[at]} holds no private key in PEM (-----BEGIN PRIVATE KEY-----){more}")]
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.crt, tls.key, password=lambda: "")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            return [(at, f"the key in {files[at]} is not the one of the certificate in {tls.crt}")]
        return [("crt", f"{tls.crt} cannot be used: {(error.reason or str(error)).replace('_', ' ').lower()}")]
    except OSError as error:
        return [("crt", f"{tls.crt} cannot be used: {error.strerror}")]
    return []


def expiry(pem: bytes) -> float | None:
    """When the first certificate is valid no more, in Unix time; None where that cannot be told."""
    found = _CERTIFICATE.search(pem)
    if found is None:
        return None
    try:
        whole = _inside(ssl.PEM_cert_to_DER_cert(found[0].decode("ascii")), 0, _SEQUENCE)[0]
        body = _inside(whole, 0, _SEQUENCE)[0]
        at = _inside(body, 0, _VERSION)[1] if body[0] == _VERSION else 0
        # Serial number, algorithm, issuer.
        for _ in range(3):
            at = _inside(body, at)[1]
        validity = _inside(body, at, _SEQUENCE)[0]
        until = _inside(validity, 0)[1]
        text = _inside(validity, until)[0].decode("ascii")
        form = {_UTC_TIME: "%y%m%d%H%M%SZ", _TIME: "%Y%m%d%H%M%SZ"}[validity[until]]
        return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    except (ValueError, IndexError, KeyError):
        return None


def _inside(der: bytes, at: int, tag: int | None = None) -> tuple[bytes, int]:
    """What is in the element at a place, and where the next begins. ValueError, IndexError."""
    if tag is not None and der[at] != tag:
        raise ValueError("another tag")
    length, start = der[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length = int.from_bytes(der[start : start + octets], "big")
        start += octets
    if start + length > len(der):
        raise ValueError("it ends too early")
    return der[start : start + length], start + length
