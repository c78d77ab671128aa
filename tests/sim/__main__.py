"""Play histories by hand: `python tests/sim --help`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / ".src"), str(ROOT / "tests")]

from sim.play import main  # noqa: E402 - the path comes first

sys.exit(main())
