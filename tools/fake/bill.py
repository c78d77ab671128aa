"""What a vendor would bill for what the fake has sent, in exact arithmetic of its own: nothing of ours is used here.

`records` holds each answer that is over, by its id, as OpenRouter tells of it later.

The prompt and the request's fee are billed once an answer has begun, completion tokens as they were sent: also those of
streams that broke or that nobody read to their end.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from typing import Any

from understudy.tools.fake.exchange import Seen
from understudy.tools.fake.script import Fault

_exact = Context(prec=60)
UNSAID: dict[str, None] = dict.fromkeys(
    (
        *("upstream_id", "cache_discount", "app_id", "cancelled", "latency", "moderation_latency", "generation_time"),
        *("finish_reason", "native_finish_reason", "service_tier", "tokens_prompt", "tokens_completion"),
        *("native_tokens_completion_images", "native_tokens_reasoning", "native_tokens_cached", "num_media_prompt"),
        *("num_input_audio_prompt", "num_media_completion", "num_search_results", "num_fetches", "web_search_engine"),
        *("external_user", "preset_id", "router", "provider_responses", "user_agent", "http_referer", "workspace_id"),
    )
)
"""What a record has to name and may leave open."""


def cost(fault: Fault, prompt_tokens: int, completion_tokens: int) -> Decimal:
    """USD of one answer."""
    price = fault.price
    if price is None:
        return Decimal(0)
    each = ((price.prompt, prompt_tokens), (price.completion, completion_tokens), (price.request, 1))
    total = Decimal(0)
    for usd, count in each:
        total = _exact.add(total, _exact.multiply(Decimal(usd), Decimal(count)))
    return total


class Bill:
    """All answers so far, per model."""

    def __init__(self) -> None:
        self._usd: dict[str, Decimal] = {}
        self._answers: dict[str, int] = {}
        self.records: dict[str, dict[str, Any]] = {}

    def add(self, seen: Seen, fault: Fault, prompt_tokens: int, answer_id: str) -> None:
        """One answer is over, however it ended."""
        if seen.status == 200:
            usd = cost(fault, prompt_tokens, seen.tokens_sent)
            self.records[answer_id] = {
                **UNSAID, "created_at": "2026-01-01T00:00:00Z", "origin": "", "data_region": "global",
                "api_type": "completions", "provider_name": "FakeProvider",
                "id": answer_id, "model": seen.model, "total_cost": float(usd), "usage": float(usd), "is_byok": False,
                "upstream_inference_cost": None, "streamed": seen.stream,
                "native_tokens_prompt": prompt_tokens, "native_tokens_completion": seen.tokens_sent,
            }  # fmt: skip
            self._usd[seen.model] = _exact.add(self._usd.get(seen.model, Decimal(0)), usd)
            self._answers[seen.model] = self._answers.get(seen.model, 0) + 1

    def public(self, log: Iterable[Seen]) -> dict[str, Any]:
        """What /control/bill shows. `open`: answers under way, which are not in it yet."""
        total = Decimal(0)
        for usd in self._usd.values():
            total = _exact.add(total, usd)
        models = {m: {"usd": f"{usd:f}", "answers": self._answers[m]} for m, usd in self._usd.items()}
        return {"total_usd": f"{total:f}", "models": models, "open": sum(seen.ended == "open" for seen in log)}
