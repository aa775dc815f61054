from __future__ import annotations

import re

import pytest
import yaml

from balancer.convert.importer import import_files


class Imported:
    """What was made of texts: the mapping, and what was told, without the file's name."""

    def __init__(self, result):
        self.made = yaml.safe_load(result.text)
        self.text = result.text
        self.told = [re.sub(r"^\S*?(?=:\d+: )", "", str(note))[1:] for note in result.report.told]
        self.files = result.files


@pytest.fixture
def convert(tmp_path):
    """Import texts, each in a file of its own."""

    def convert(*texts, environ=None, **options):
        paths = []
        for i, text in enumerate(texts):
            path = tmp_path / f"{i}.conf"
            path.write_text(text)
            paths.append(str(path))
        return Imported(import_files(paths, environ=environ or {}, may_write_files=True, **options))

    return convert


@pytest.fixture
def web(convert):
    """Import a haproxy.cfg of a frontend `f` (lines 5 on), and a backend `b` with further lines behind it."""

    def web(front="", back="    server s 10.0.0.1:80\n", mode="http", **options):
        head = f"defaults\n mode {mode}\n log stdout local0\nfrontend f\n"
        return convert(f"{head}{front}\n bind 127.0.0.1:80\n default_backend b\nbackend b\n{back}", **options)

    return web
