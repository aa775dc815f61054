from __future__ import annotations

import asyncio
import base64

import pytest
from passlib.hash import sha256_crypt

from balancer.config import model
from balancer.observe.users import ANYBODY, User, Users

HASHED = sha256_crypt.using(rounds=1000).hash("hashed")
CONFIG = {
    "bind": "127.0.0.1:7000",
    "users": {"plain": "123", "hashed": HASHED, "guest": {"password": HASHED, "admin": False}, "z\u00fcrich": HASHED},
}


def users(secret: bytes = b"secret", **more: object) -> Users:
    return Users(model.Stats.model_validate(CONFIG | more), secret)


def of(who: Users, credentials: str) -> User | None:
    return asyncio.run(who.of("Basic " + base64.b64encode(credentials.encode()).decode()))


@pytest.mark.parametrize("is_admin", [False, True])
def test_plain_and_hashed_passwords(is_admin: bool) -> None:
    who = users(admin=is_admin)
    assert of(who, "plain:123") == User("plain", is_admin)
    assert of(who, "hashed:hashed") == User("hashed", is_admin)
    assert of(who, "guest:hashed") == User("guest", False)
    assert of(who, "z\u00fcrich:hashed") == User("z\u00fcrich", is_admin)
    for wrong in ("plain:hashed", f"hashed:{HASHED}", "hashed:123", "nobody:hashed", "hashed", ":", "guest:hashed\0"):
        assert of(who, wrong) is None, wrong


def test_where_there_are_no_users_anybody_may_look() -> None:
    assert asyncio.run(users(users={}).of("")) == ANYBODY


def test_a_token_is_good_for_its_user_and_secret_alone() -> None:
    one, two = User("one", True), User("two", True)
    token = users().token(one)
    assert users().is_token(one, token)
    assert not users().is_token(two, token)
    assert not users(b"another").is_token(one, token)
