"""Who may see the statistics and who may change servers: Basic authentication (RFC 7617), and tokens for forms."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import NamedTuple

from balancer.config import model
from balancer.config.htpasswd import is_hash
from balancer.pool.passwords import Passwords

__all__ = ["ANYBODY", "User", "Users"]


class User(NamedTuple):
    """One who was let in."""

    name: str
    is_admin: bool
    """May change servers?"""


ANYBODY = User("", is_admin=False)
"""Where there are no users."""


class Users:
    """Those of the configuration. `secret` is what tokens are made with: they are good as long as it is the same.

    Every comparison of a password as it is takes the same time, whoever it is and whatever matches; hashes are checked
    by `Passwords`, in a thread.
    """

    def __init__(self, config: model.Stats, secret: bytes) -> None:
        self._token_key = hashlib.blake2b(b"stats page", key=secret).digest()
        # Digests under a key of this process: equal lengths to compare, and nothing to learn from their order.
        self._key = secrets.token_bytes(32)
        users: Mapping[str, model.User] = config.users
        self._users = {name: User(name, config.admin and user.admin) for name, user in users.items()}
        hashes = {name: user.password for name, user in users.items() if is_hash(user.password)}
        self._known = [
            (self._digest(f"{name}:{user.password}".encode()), self._users[name])
            for name, user in users.items()
            if name not in hashes
        ]
        self._hashed = Passwords(hashes) if hashes else None

    async def of(self, authorization: str) -> User | None:
        """Whom an Authorization header's value names; None where that is nobody, ANYBODY where nobody has to be named.
        TooManyLoginsError where so many passwords are being checked that this one is not."""
        if not self._users:
            return ANYBODY
        scheme, _, encoded = authorization.partition(" ")
        try:
            credentials = base64.b64decode(encoded.strip(" "), validate=True)
        except (binascii.Error, ValueError):
            return None
        if scheme.lower() != "basic":
            return None
        given = self._digest(credentials)
        found = [user for known, user in self._known if hmac.compare_digest(given, known)]
        if found or self._hashed is None:
            return found[0] if found else None
        if b":" not in credentials or b"\0" in credentials or not await self._hashed.check(credentials):
            return None
        return self._users[credentials.partition(b":")[0].decode()]

    def token(self, user: User) -> str:
        """What a form of this user's has to bring along: who does not see the page cannot know it."""
        return hmac.digest(self._token_key, user.name.encode(), "sha256").hex()

    def is_token(self, user: User, token: str) -> bool:
        """Whether it is this user's."""
        return hmac.compare_digest(self.token(user).encode(), token.encode("utf-8", "replace"))

    def _digest(self, credentials: bytes) -> bytes:
        return hashlib.blake2b(credentials, key=self._key).digest()
