"""Ctrl-C for processes that tests start."""

from __future__ import annotations

import signal


def heed() -> None:
    """For `preexec_fn`: a shell starts its background jobs deaf to SIGINT, and what they start inherits that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
