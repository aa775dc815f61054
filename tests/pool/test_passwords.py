"""Passwords against hashes, and that finding out keeps nobody waiting."""

from __future__ import annotations

import asyncio
import shutil
import subprocess

import pytest
from passlib.hash import apr_md5_crypt, sha256_crypt, sha512_crypt

from balancer.pool.passwords import Passwords, TooManyLoginsError, verify
from tests.proxy.rig import run, until


def hashed(*options: str, password: str = "secret") -> str:
    """As htpasswd makes it."""
    found = shutil.which("htpasswd")
    if found is None:
        pytest.skip("htpasswd is not installed (apache2-utils)")
    command = [found, "-nb", *options, "ann", password]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().partition(":")[2]


@pytest.mark.parametrize("options", [("-B", "-C", "4"), ("-m",), ("-2",), ("-5",)])
def test_what_htpasswd_makes(options):
    for password in ("secret", "gr\u00fcn", "x" * 71):
        try:
            one = hashed(*options, password=password)
        except subprocess.CalledProcessError:
            pytest.skip("this htpasswd knows no SHA-crypt")
        assert verify(one, password.encode()) and not verify(one, b"x" + password.encode())


@pytest.mark.parametrize("scheme", [apr_md5_crypt, sha256_crypt.using(rounds=1000), sha512_crypt.using(rounds=1000)])
def test_every_scheme(scheme):
    assert verify(scheme.hash("secret"), b"secret") and not verify(scheme.hash("secret"), b"Secret")


def passwords() -> Passwords:
    return Passwords({"ann": sha256_crypt.using(rounds=1000).hash("secret")})


def test_what_was_found_is_remembered():
    async def main():
        of = passwords()
        for credentials in (b"ann:secret", b"ann:x", b"bob:secret", b"ann:"):
            is_right = credentials == b"ann:secret"
            assert of.known(credentials) is None
            assert await of.check(credentials) is is_right
            assert of.known(credentials) is is_right
        assert await of.check(b"ann:" + b"x" * 100_000) is False

    run(main)


def test_the_same_question_is_answered_once(slowly):
    async def main():
        gate, calls = slowly
        of = passwords()
        checks = [asyncio.ensure_future(of.check(b"ann:secret")) for _ in range(5)]
        await until(lambda: calls, "the first check")
        checks[0].cancel()
        gate.set()
        assert await asyncio.gather(*checks[1:]) == [True] * 4
        assert len(calls) == 1

    run(main)


def test_no_more_wait_than_can_be_answered(slowly):
    async def main():
        gate, _ = slowly
        of = passwords()
        checks = [asyncio.ensure_future(of.check(b"ann:%d" % i)) for i in range(64)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyLoginsError):
            await of.check(b"ann:secret")
        gate.set()
        assert not any(await asyncio.gather(*checks))
        assert await of.check(b"ann:secret") is True

    run(main)
