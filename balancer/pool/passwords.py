"""Passwords against their hashes (config.htpasswd), found out without keeping the loop from its work.

Checking a password takes milliseconds to a second by design. It is done in a thread, one at a time, and what was found
is remembered, by a keyed digest; the same question asked twice at one time is answered once.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping

import bcrypt
from passlib.hash import apr_md5_crypt, sha256_crypt, sha512_crypt

__all__ = ["Passwords", "TooManyLoginsError", "verify"]

# Passwords that wait to be checked; more are not taken on.
_MOST_WAITING = 64
_MOST_KNOWN = 4096
# bcrypt looks at no more octets (htpasswd cuts them off too).
_LONGEST_BCRYPT = 72
# More than any password has; SHA-crypt takes quadratic time.
_LONGEST_PASSWORD = 256
_SCHEMES = {"$apr1$": apr_md5_crypt, "$5$": sha256_crypt, "$6$": sha512_crypt}


class TooManyLoginsError(Exception):
    """So many passwords wait to be checked that one more is not taken on."""


def verify(hashed: str, password: bytes) -> bool:
    """Whether it is the password; takes its time."""
    if hashed.startswith("$2"):
        return bcrypt.checkpw(password[:_LONGEST_BCRYPT], hashed.encode())
    scheme = next(scheme for prefix, scheme in _SCHEMES.items() if hashed.startswith(prefix))
    return bool(scheme.verify(password, hashed))


class Passwords:
    """The users of one file, by name, with hashes of their passwords (config.htpasswd)."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = {user.encode(): hashed for user, hashed in hashes.items()}
        # Who is nobody costs as much time as somebody.
        self._any = next(iter(hashes.values()))
        self._secret = os.urandom(32)
        self._good: dict[bytes, None] = {}
        self._bad: dict[bytes, None] = {}
        self._checks: dict[bytes, asyncio.Task[bool]] = {}
        self._turn = asyncio.Semaphore(1)

    def known(self, credentials: bytes) -> bool | None:
        """Whether they are right; None where that has to be checked."""
        digest = self._digest(credentials)
        return True if digest in self._good else False if digest in self._bad else None

    async def check(self, credentials: bytes) -> bool:
        """Whether they are right. TooManyLoginsError where nobody has time to find out."""
        is_right = self.known(credentials)
        if is_right is not None:
            return is_right
        digest = self._digest(credentials)
        check = self._checks.get(digest)
        if check is None:
            if len(self._checks) >= _MOST_WAITING:
                raise TooManyLoginsError
            check = self._checks[digest] = asyncio.get_running_loop().create_task(self._check(digest, credentials))
        # Whoever asked first may leave before the answer.
        return await asyncio.shield(check)

    async def _check(self, digest: bytes, credentials: bytes) -> bool:
        user, _, password = credentials.partition(b":")
        try:
            async with self._turn:
                hashed = self._hashes.get(user, self._any)
                loop = asyncio.get_running_loop()
                is_right = len(password) <= _LONGEST_PASSWORD and (
                    await loop.run_in_executor(None, verify, hashed, password)
                )
            is_right = is_right and user in self._hashes
            # Apart, so that guesses drive nobody out who has logged in.
            known = self._good if is_right else self._bad
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[digest] = None
            return is_right
        finally:
            del self._checks[digest]

    def _digest(self, credentials: bytes) -> bytes:
        return hashlib.blake2b(credentials, key=self._secret, digest_size=16).digest()
