from __future__ import annotations

import asyncio
import logging

import pytest

from balancer.addr import parse_address
from balancer.config.model import Log
from balancer.daemon.faults import described, report_to
from balancer.observe.log import AccessLog


@pytest.fixture
def said(tmp_path):
    """The lines of a log to which all faults of this process go."""
    handlers = logging.getLogger().handlers[:]
    file = tmp_path / "log"
    with file.open("wb") as out:
        log = AccessLog([Log()], stdout=out.fileno())
        loop = asyncio.new_event_loop()
        report_to(log, loop)
        yield loop, lambda: [line.split("] ", 1)[1] for line in file.read_text().splitlines()]
        log.close()
        loop.close()
    logging.getLogger().handlers[:] = handlers


def fail(text: str = "nowhere") -> None:
    parse_address(text)


def test_an_error_is_told_with_the_innermost_place_of_ours():
    with pytest.raises(ValueError) as caught:
        fail()
    text = described(caught.value)
    assert text.startswith("ValueError: 'nowhere' is no address")
    assert text.rpartition(" (")[2].startswith("addr.py:")
    assert text.endswith(" in parse_address)")


def test_an_error_from_elsewhere_is_told_with_its_own_place():
    with pytest.raises(ValueError) as caught:
        int("x")
    assert described(caught.value).endswith(f"({__file__.rpartition('/')[2]}:{caught.traceback[0].lineno + 1} in "
                                            "test_an_error_from_elsewhere_is_told_with_its_own_place)")  # fmt: skip


def test_an_error_never_raised_has_no_place():
    assert described(KeyError("x")) == "KeyError: 'x'"


def test_what_a_callback_raises_is_one_line(said):
    loop, lines = said
    loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run_forever()
    (line,) = lines()
    assert line.startswith("ERR: Exception in callback")
    assert "ValueError: 'nowhere' is no address" in line
    assert "Traceback" not in line


def test_the_same_fault_again_and_again_does_not_fill_the_log(said):
    loop, lines = said
    for _ in range(1000):
        loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert len(lines()) == 5


def test_libraries_warnings_are_lines_too(said, capsys):
    _, lines = said
    log = logging.getLogger("aiohttp.server")
    log.warning("odd: %s", "a\nb")
    try:
        fail()
    except ValueError:
        log.exception("failed")
    log.info("not worth a line")
    odd, failed = lines()
    assert odd.startswith("WARNING: odd: a") and "\n" not in odd
    assert failed.startswith("ERR: failed: ValueError: 'nowhere'")
    assert capsys.readouterr() == ("", "")
