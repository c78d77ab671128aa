"""What makes two asks the same request: keyed hashes of its `request_id` and of its body. Pure."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from understudy.messages.embed import Embed
from understudy.messages.generate import Generate
from understudy.messages.hashes import keyed_hash
from understudy.messages.wire import encode


class Mark(msgspec.Struct, frozen=True):
    """The claim's key and a hash of the body; both empty for an ask without `request_id`."""

    key: str = ""
    body: str = ""


def mark_of(ask: Generate | Embed, hash_key: str) -> Mark:
    """A `request_id` belongs to the user it is sent for; how long the caller still waits is no part of the body."""
    key = keyed_hash(hash_key, f"{ask.user_id or ''}\0{ask.request_id}")
    body = encode(replace(ask, request_id=None, deadline_ms=None)).decode()
    return Mark(key, keyed_hash(hash_key, body))
