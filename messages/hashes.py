"""Ids of people's as they may be stored. Pure."""

from __future__ import annotations

import hashlib
import hmac


def keyed_hash(key: str, value: str | None) -> str:
    """Conversation and user ids as the log may hold them ('' for none): HMAC-SHA256, 128 bits."""
    if not value:
        return ""
    return hmac.new(key.encode(), value.encode(), hashlib.sha256).hexdigest()[:32]
