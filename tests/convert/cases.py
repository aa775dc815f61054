"""Files as they are found on directors, and what is made of them. `python -m tests.convert.cases` writes it anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from balancer.convert.importer import Result, import_files

HERE = Path(__file__).parent / "corpus"
ENVIRON = {"WEB": "10.0.0.7"}
CASES = {path.stem: [path.name] for path in sorted(HERE.iterdir()) if path.suffix in (".cfg", ".conf", ".save")} | {
    "thesis": ["thesis.cfg", "thesis.conf"]
}


def imported(name: str) -> Result:
    """A case of the corpus, as the command makes it with -o."""
    with contextlib.chdir(HERE):
        return import_files(CASES[name], environ=ENVIRON, hosts=Path("hosts").read_text(), may_write_files=True)


def golden(name: str) -> Path:
    return HERE / f"{name}.yaml"


def directives(name: str) -> Iterator[tuple[str, str]]:
    """Place and text of every line that says something."""
    for file in CASES[name]:
        for count, row in enumerate((HERE / file).read_text().splitlines(), 1):
            text = row.strip()
            if text and text[0] not in "#!{}":
                yield f"{file}:{count}", text


if __name__ == "__main__":
    for case in CASES:
        golden(case).write_text(imported(case).text)
