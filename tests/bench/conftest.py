"""bench/ is a folder of scripts and no package: its modules import each other by plain name, and so do its tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "bench"))
