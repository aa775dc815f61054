from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balancer.config import read
from balancer.config.model import Config
from balancer.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def examples() -> Path:
    """The folder of the configurations that come with the project."""
    return ROOT / "config"


@pytest.fixture
def complaints() -> Callable[..., list[str]]:
    """Read a text that is wrong somewhere; its complaints without the file's name."""

    def complain(text: str, *, node: str = "this", **environ: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read.loads(text, file="b.yaml", node=node, environ=environ)
        return [str(problem).removeprefix("b.yaml:") for problem in caught.value.problems]

    return complain


@pytest.fixture
def config() -> Callable[..., Config]:
    """Read a text that is right."""

    def load(text: str, *, node: str = "this", **environ: Any) -> Config:
        return read.loads(text, file="b.yaml", node=node, environ=environ)

    return load
