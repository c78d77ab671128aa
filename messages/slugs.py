"""Model ids as one token of a subject: ids hold `/ : .`, which mean something there. The payload has the true id."""

from __future__ import annotations

import re

_NOT_TOKEN = re.compile(r"[^A-Za-z0-9_-]")


def slug(model_id: str) -> str:
    """Letters, digits, dash, underscore; the rest becomes an underscore. The topology refuses two ids with one slug."""
    return _NOT_TOKEN.sub("_", model_id)
