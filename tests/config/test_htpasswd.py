from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.config.htpasswd import parse

BCRYPT = "$2y$05$" + "a" * 53
APR1 = "$apr1$wjXoxNEB$0WQT9urCVaDf21LOEwDs4/"
SHA256 = "$5$rounds=5000$salt$" + "b" * 43
SHA512 = "$6$salt$" + "c" * 86


def test_users_and_hashes() -> None:
    text = f"# staff\n\nann:{BCRYPT}\nb\u00f6b:{APR1}\r\ncy:{SHA256}:Cy, of sales\ndee:{SHA512}\n"
    assert parse(text.encode()) == {"ann": BCRYPT, "b\u00f6b": APR1, "cy": SHA256, "dee": SHA512}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no users"),
        ("ann", "line 1 is not NAME:HASH"),
        (f":{BCRYPT}", "line 1 is not NAME:HASH"),
        (f"ann:{BCRYPT}\n\nann:{APR1}", "line 3: this user stands there already"),
        ("ann:secret", "line 1: the password is not hashed by bcrypt, SHA-crypt ($5$, $6$) or apr1; "
         "make it with htpasswd -B"),
        ("ann:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "is not hashed"),
        ("ann:" + BCRYPT.replace("05", "31"), "has a bcrypt cost outside 4 to 14"),
        ("ann:" + SHA256.replace("5000", "999999999"), "has more than 500000 rounds"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_told_without_the_hash(text: str, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text.encode())
    assert why in str(caught.value)
    assert not any(word in str(caught.value) for word in ("secret", "aaa", "ann"))


def test_other_encodings() -> None:
    with pytest.raises(ValueError, match="is not UTF-8"):
        parse(b"\xff")


@given(st.text("a:$2y056\n\r#", max_size=20))
def test_nothing_else_is_raised(text: str) -> None:
    try:
        assert parse(text.encode())
    except ValueError as error:
        assert str(error)
