"""What the bench of the statistics makes of the times it measures."""

from __future__ import annotations

from pathlib import Path

import page
import pytest

from balancer.config import read


@pytest.mark.parametrize("grid", [0.0, 0.0371, 0.0995])
def test_the_grid_is_where_the_earliest_lie(grid: float) -> None:
    jitter = [0.004, 0.0, 0.012, 0.001, 0.03]
    times = [100 + i * 0.1 + grid + jitter[i % 5] for i in range(60)]
    found = page.grid_of(times, 0.1)
    assert min((found - grid) % 0.1, (grid - found) % 0.1) < 1e-6
    behind = page.late(times, found, 0.1)
    assert max(behind) == pytest.approx(0.03, abs=1e-6)
    assert page.percentile(behind, 0.5) == pytest.approx(0.004, abs=1e-6)


def test_what_was_left_out_makes_the_next_late() -> None:
    times = [10.0, 10.1, 10.2, 10.5, 10.6]
    assert page.late(times, 0.0, 0.1)[3] == pytest.approx(0.2)


def test_bars() -> None:
    def result(seconds: float, busy: float) -> dict[str, object]:
        calm = page.Figures(100, 0.5, 2.0, 3.0)._asdict()
        each = {"quiet": calm, "busy": calm | {"most_of_them": busy}}
        return {"answers": {"page": {"seconds": seconds}}, "advertisements": each, "checks": each}

    assert page.failures(result(0.9, 21.0)) == []
    assert page.failures(result(1.1, 23.0)) == [
        "page takes 1.1 s", "advertisements are 21 ms later", "checks are 21 ms later",
    ]  # fmt: skip


def test_what_it_starts_is_a_configuration(tmp_path: Path) -> None:
    config = read.load(Path(page.config(tmp_path, 500)), node="any", environ={})
    assert sum(len(backend.servers) for backend in config.backends.values()) == 501
    assert config.backends["watched"].check.interval == page.CHECKS  # type: ignore[union-attr]
