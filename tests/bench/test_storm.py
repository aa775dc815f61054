"""What the storm takes for wrong, and what its clients do."""

from __future__ import annotations

import asyncio

import pytest
import rogues
import storm
from steady import MIX, Doors, Steady
from storm import Report


def well() -> Report:
    return Report(reloads=[0.1, 0.2], done=dict.fromkeys(MIX, 1), status=0)


def test_all_is_well() -> None:
    assert storm.problems(well(), 2) == []
    assert "shortest 100, half 200, longest 200" in storm.table(well())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"wrong": ["a request failed"]}, "a request failed"),
        ({"reloads": [0.1]}, "1 of 2 reloads were in place"),
        ({"done": dict.fromkeys(MIX.keys() - {"flow"}, 1)}, "nothing came of flow"),
        ({"status": 1}, "it ended with status 1"),
    ],
)
def test_what_must_not_be(change: dict[str, object], what: str) -> None:
    report = well()
    for name, value in change.items():
        setattr(report, name, value)
    assert storm.problems(report, 2) == [what]


def test_there_are_sixty_four() -> None:
    assert sum(many for _, many in MIX.values()) == 64


@pytest.mark.parametrize("is_cut", [False, True], ids=["served", "cut"])
def test_whoever_loses_something_says_so(is_cut: bool) -> None:
    async def scene() -> Steady:
        tasks = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            tasks.add(asyncio.current_task())
            if is_cut:
                writer.close()
            else:
                await rogues.serve(reader, writer)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        steady = Steady(Doors(port, port, port, port, port), seed=1)
        steady.begin({"tcp": 2, "stream": 1})
        assert await steady.until_all_have_begun(0.3 if is_cut else 10) is not is_cut
        await steady.stop()
        server.close()
        await asyncio.gather(*tasks)
        return steady

    told = asyncio.run(scene()).told
    if is_cut:
        assert {line.partition(",")[0] for line in told.lost} == {"tcp", "stream"}
        assert not told.done
    else:
        assert told.lost == []
        assert told.counts["tcp requests"] == told.counts["tcp answers"] + told.counts["tcp switched"]
        assert told.done["stream"] and told.done["tcp"]
