"""The simulation's own modules are imported as `sim.*`, here and in `python tests/sim`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
