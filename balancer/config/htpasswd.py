"""A file of users and hashed passwords, as htpasswd(1) of Apache makes it: `name:hash`, a line each."""

from __future__ import annotations

import re

__all__ = ["is_hash", "parse", "unusable"]

# What one check of a password may cost: a second of a core, about.
_HIGHEST_BCRYPT_COST = 14
_MOST_SHA_ROUNDS = 500_000

_MODULAR = re.compile(r"\$(?:[1567]|y|gy|2[abxy]?|apr1|sha1|argon2[a-z]*)\$.{8}")
_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")
_APR1 = re.compile(r"\$apr1\$[./A-Za-z0-9]{1,8}\$[./A-Za-z0-9]{22}")
_SHA = re.compile(r"\$(?:5|6)\$(?:rounds=([0-9]{1,9})\$)?[./A-Za-z0-9]{1,16}\$(?:[./A-Za-z0-9]{43}|[./A-Za-z0-9]{86})")


def parse(octets: bytes) -> dict[str, str]:
    """User to hash. ValueError with the line's number and what is wrong; no text repeats a hash, or a name, which
    may be a password in the wrong place."""
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    users: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, colon, hashed = line.rstrip().partition(":")
        # Some tools write more after a second colon.
        hashed = hashed.partition(":")[0]
        if not user or not colon:
            raise ValueError(f"line {number} is not NAME:HASH")
        if user in users:
            raise ValueError(f"line {number}: this user stands there already")
        why = unusable(hashed)
        if why:
            raise ValueError(f"line {number}: the password {why}; make it with htpasswd -B")
        users[user] = hashed
    if not users:
        raise ValueError("has no users")
    return users


def is_hash(password: str) -> bool:
    """Whether it is a hash, usable or not, and no password as it is: crypt(5) begins each with its method."""
    return _MODULAR.match(password) is not None


def unusable(hashed: str) -> str:
    """Why a hash cannot be used; empty where it can."""
    if match := _BCRYPT.fullmatch(hashed):
        is_fit = 4 <= int(match[1]) <= _HIGHEST_BCRYPT_COST
        return "" if is_fit else f"has a bcrypt cost outside 4 to {_HIGHEST_BCRYPT_COST}"
    if match := _SHA.fullmatch(hashed):
        return f"has more than {_MOST_SHA_ROUNDS} rounds" if int(match[1] or 0) > _MOST_SHA_ROUNDS else ""
    if _APR1.fullmatch(hashed):
        return ""
    return "is not hashed by bcrypt, SHA-crypt ($5$, $6$) or apr1"
