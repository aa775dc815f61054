"""Basic authentication (RFC 7617): what a request says of who sends it."""

from __future__ import annotations

import binascii
from base64 import b64decode

from balancer.pool.passwords import Passwords
from balancer.wire.fields import field_values
from balancer.wire.http1 import Section

__all__ = ["Login", "credentials_of"]


def credentials_of(section: Section) -> bytes | None:
    """`user:password` of a request; None where there is no such thing."""
    values = field_values(section.fields, section.lower, b"authorization")
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        credentials = b64decode(token.strip(b" "), validate=True)
    except binascii.Error:
        return None
    return credentials if b":" in credentials and b"\0" not in credentials else None


class Login:
    """What a request needs in order to pass. The same one is the same object."""

    __slots__ = ("challenge", "passwords")

    def __init__(self, passwords: Passwords, realm: str) -> None:
        self.passwords = passwords
        self.challenge = b'www-authenticate: Basic realm="%b", charset="UTF-8"\r\n' % realm.encode()
        """The field line of a 401."""
