"""Older versions of messages, lifted one step at a time: `tag of version n -> function to the body of version n + 1`.

Empty until the first break. Each function is pure, takes the decoded JSON object and returns one with the next tag.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

UPCASTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {}
