"""What clients take, in the layout of HAProxy's `show table` (management manual, section 9.3).

# table: web, type: ipv6, size:102400, used:1
0x1f40: key=192.0.2.7 use=2 exp=19800 shard=0 conn_cur=2 conn_rate(10000)=3 http_req_rate(10000)=41
"""

from __future__ import annotations

import asyncio
import ipaddress
import operator
import re
import time
from collections.abc import Callable, Sequence

from balancer.pool.sources import CONNECTIONS, ERRORS, REQUESTS, Block, Found, Row, forget, rows

__all__ = ["Wanted", "clear", "table", "wanted"]

Wanted = Callable[[Row], bool]

_RATES = {CONNECTIONS: "conn_rate", REQUESTS: "http_req_rate", ERRORS: "http_err_rate"}
_DATA: dict[str, Callable[[Row], int]] = {
    "conn_cur": lambda row: row.connections,
    "conn_rate": lambda row: row.rates[CONNECTIONS],
    "http_req_rate": lambda row: row.rates[REQUESTS],
    "http_err_rate": lambda row: row.rates[ERRORS],
}
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "le": operator.le,
    "ge": operator.ge,
    "lt": operator.lt,
    "gt": operator.gt,
}
_NUMBER = re.compile(r"[0-9]{1,12}")
# A worker that was just counting may have written back what was forgotten: after so many seconds it has done so.
_AGAIN = 0.01
_PORTION = 10_000


def wanted(words: Sequence[str]) -> Wanted:
    """The rows that a filter lets through: `key ADDRESS`, `data.TYPE OPERATOR NUMBER`, or nothing. ValueError."""
    match list(words):
        case []:
            return lambda _: True
        case ["key", address]:
            try:
                key = ipaddress.ip_address(address)
            except ValueError:
                raise ValueError(f"'{address}' is no address.") from None
            return lambda row: key in ipaddress.ip_network(row.source)
        case [data, how, number] if data.startswith("data."):
            value, compare = _DATA.get(data.removeprefix("data.")), _OPERATORS.get(how)
            if value is not None and compare is not None and _NUMBER.fullmatch(number):
                return lambda row: compare(value(row), int(number))
    raise ValueError(
        f"A filter is 'key ADDRESS', or 'data.TYPE OPERATOR NUMBER' with one of {', '.join(_DATA)} and one of "
        f"{', '.join(_OPERATORS)}."
    )


async def table(name: str, blocks: Sequence[Block], wanted: Wanted, *, with_rows: bool) -> str:
    """A table in whole lines. Others have their turn while it is read."""
    geometry, used, lines = blocks[0].geometry, 0, []
    now = time.monotonic()
    for found in rows(blocks, now):
        if found is None:
            await asyncio.sleep(0)
            continue
        row, _ = found
        used += 1
        if with_rows and wanted(row):
            lines.append(_line(row, geometry.periods, geometry.horizon))
    return f"# table: {name}, type: ipv6, size:{geometry.size}, used:{used}\n{''.join(lines)}"


async def clear(blocks: Sequence[Block], wanted: Wanted) -> int:
    """Forget what these clients have lately done; how many there were. Others have their turn meanwhile."""
    count = 0
    portion: list[Found] = []
    for found in rows(blocks, time.monotonic()):
        if found is not None:
            row, entries = found
            if wanted(row):
                count += 1
                forget(entries)
                portion.append(entries)
            continue
        if len(portion) >= _PORTION:
            await _forget_again(portion)
        else:
            await asyncio.sleep(0)
    await _forget_again(portion)
    return count


async def _forget_again(portion: list[Found]) -> None:
    await asyncio.sleep(_AGAIN)
    for entries in portion:
        forget(entries)
    portion.clear()


def _line(row: Row, periods: Sequence[float], horizon: float) -> str:
    left = horizon if row.connections else max(horizon - row.idle, 0.0)
    rates = "".join(
        f" {word}({periods[which] * 1000:.0f})={row.rates[which]}" for which, word in _RATES.items() if periods[which]
    )
    use, expires = row.connections, int(left * 1000)
    return f"{row.entry:#x}: key={row.source} use={use} exp={expires} shard=0 conn_cur={use}{rates}\n"
