"""Constrained types, each explained once. The unit stands in the name of the field, the range in the type.

Constraints are checked when a message is decoded (msgspec), not in the constructor.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

ModelId = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f\x7f-\x9f]+$(?![\s\S])")]
"""A model's true id as its provider writes it: may hold `/ : .`, never spaces or control characters."""

Word = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+$(?![\s\S])")]
"""A name an operator chose: task, alias, actor, provider."""

Key = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$(?![\s\S])")]
"""A caller's own identifier (conversation, user, request): opaque to us, without control characters."""

Milliseconds = Annotated[int, Meta(ge=0)]
PositiveMs = Annotated[int, Meta(ge=1, le=86_400_000)]
"""A duration of at least one millisecond and at most a day."""

Tokens = Annotated[int, Meta(ge=0)]
MOST_TOKENS = 10_000_000
PositiveTokens = Annotated[int, Meta(ge=1, le=MOST_TOKENS)]
Ratio = Annotated[float, Meta(ge=0.0, le=1.0)]
"""A share or a score: 0 is nothing or worst, 1 is all or best."""

Usd = Annotated[float, Meta(ge=0.0)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
