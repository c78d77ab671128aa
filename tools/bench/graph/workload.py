"""A log to fold: outcomes of twelve models in eight tasks, with all that can happen to them. Seeded.

Runs fail over, are hedged, refused, cancelled and charged; models fall ill and recover, a provider's quota runs out
every day, some answers are rated, suites are run. The payloads have the form and the size of real ones (an outcome
holds its decision); they are written here as plain JSON, so that what reads them is tested against the wire format.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from understudy.actors.host.clock import ulid
from understudy.bus.port import Outgoing

HOUR = 3_600_000
DAY = 24 * HOUR
TASKS = ("narrative", "dialogue", "character", "therapeutic_response", "world", "choice", "consequence", "general")
PROVIDERS = {"openrouter": "openrouter", "home": "ollama", "bench": "openai", "anthropic": "anthropic"}


class Spec(NamedTuple):
    """A model: its provider, usual time (ms), quality, USD per million tokens, share of failures."""

    provider: str
    ms: float
    quality: float
    usd: float
    fails: float


MODELS: dict[str, Spec] = {
    "openrouter/meta-llama/llama-3.3-8b-instruct:free": Spec("openrouter", 880, 0.71, 0.0, 0.03),
    "openrouter/deepseek/deepseek-chat": Spec("openrouter", 4500, 0.80, 0.9, 0.01),
    "openrouter/qwen/qwen3-coder:free": Spec("openrouter", 7300, 0.69, 0.0, 0.30),
    "openrouter/google/gemma-2-9b-it:free": Spec("openrouter", 3100, 0.68, 0.0, 0.06),
    "openrouter/mistralai/mistral-small:free": Spec("openrouter", 2340, 0.73, 0.0, 0.10),
    "ollama/llama3.2:3b": Spec("home", 1500, 0.62, 0.0, 0.01),
    "ollama/llama3.1:8b": Spec("home", 3900, 0.70, 0.0, 0.02),
    "ollama/qwen2.5:7b": Spec("home", 3600, 0.70, 0.0, 0.02),
    "bench/phi-3-mini": Spec("bench", 5200, 0.64, 0.0, 0.04),
    "bench/mistral-nemo": Spec("bench", 4100, 0.72, 0.0, 0.02),
    "anthropic/claude-haiku": Spec("anthropic", 1400, 0.85, 2.0, 0.005),
    "anthropic/claude-small": Spec("anthropic", 1200, 0.81, 0.6, 0.005),
}
WHY = ("rate_limited", "first_token_timeout", "server_error", "invalid_output", "context_too_long", "busy", "hedged")


def topology() -> dict[str, Any]:
    """As `topology.applied` has it."""
    providers: dict[str, Any] = {
        name: {"kind": kind, "url": "http://127.0.0.1:9/v1", "location": "local" if name == "home" else "external"}
        for name, kind in PROVIDERS.items()
    }
    models = {
        name: {"provider": one.provider, "usd_per_mtok_in": one.usd, "usd_per_mtok_out": one.usd}
        for name, one in MODELS.items()
    }
    return {"version": 1, "providers": providers, "models": models, "tasks": {name: {} for name in TASKS}}


class Log:
    """`outcomes` runs over `days` that end with today's first hour (retention goes by the events' own times); iterate
    for `Outgoing` events, in order."""

    def __init__(self, outcomes: int, days: float = 7.0, seed: int = 7, app: str = "tta") -> None:
        self.outcomes, self._span, self._app = outcomes, days * DAY, app
        self.until = int(time.time() * 1000) // DAY * DAY
        self.since = self.until - int(self._span) // HOUR * HOUR
        self._luck = random.Random(seed)
        self._padding = {f"feature_{n}": n * 0.125 for n in range(24)}
        self._ill: dict[str, int] = {}

    def __iter__(self) -> Iterator[Outgoing]:
        yield self._event("topology.applied", "", self.since, {"hash": "0" * 16, "body": topology()})
        hour = 0
        for n in range(self.outcomes):
            at = self.since + int(self._span * n / self.outcomes)
            if at // HOUR != hour:
                hour = at // HOUR
                yield from self._hourly(at)
            yield from self._run(at)

    def _event(self, name: str, key: str, at: int, fields: dict[str, Any]) -> Outgoing:
        msg_id = ulid(at, self._luck.getrandbits(80))
        payload = msgspec.json.encode({"type": f"{name}.v1", "at_ms": at, "id": msg_id, **fields})
        return Outgoing(f"{self._app}.evt.{name}{'.' + key if key else ''}", payload, msg_id)

    # --- one run ---------------------------------------------------------------------------------------------------

    def _run(self, at: int) -> Iterator[Outgoing]:
        luck = self._luck
        run_id, task = ulid(at, luck.getrandbits(80)), luck.choices(TASKS, (20, 18, 4, 22, 6, 14, 6, 10))[0]
        order = luck.sample(sorted(MODELS), 3)
        attempts: list[dict[str, Any]] = []
        ok = False
        for model in order:
            ok = luck.random() >= MODELS[model].fails
            attempts.append(self._attempt(model, at, ok))
            if ok:
                break
        outcome = "finished" if ok else luck.choice(("all_failed", "cancelled", "deadline_exceeded"))
        usage = {"prompt_tokens": luck.randint(80, 1800), "completion_tokens": luck.randint(20, 600)} if ok else {}
        yield self._event("request.ended", "", at, {
            "run_id": run_id, "instance": "selector-1", "outcome": outcome, "task": task, "as_of_seq": 1,
            "topology": "0" * 16, "digest": f"{luck.getrandbits(128):032x}",
            **({"model": attempts[-1]["model"]} if ok or luck.random() < 0.5 else {}),
            "attempts": attempts, "usage": usage, "charges": self._charges(attempts, usage),
            "total_ms": round(sum(one["total_ms"] for one in attempts), 3),
            "labels": ["benchmark"] if luck.random() < 0.01 else [],
            "decision": {
                "type": "selection.made.v1", "at_ms": at, "run_id": run_id, "instance": "selector-1", "as_of_seq": 1,
                "topology": "0" * 16, "seed": luck.getrandbits(48), "task": task, "features": self._padding,
                "local_view": {}, "chain": order, "scores": {model: luck.random() for model in order}, "rejected": {},
                "not_loaded": [], "digest": "0" * 32,
            },
            "seal": f"{luck.getrandbits(128):032x}",
        })  # fmt: skip
        if len(attempts) > 1 and luck.random() < 0.4:
            fields = {"model": attempts[1]["model"], "from_model": attempts[0]["model"], "run_id": run_id}
            fields |= {"mode": "continue", "reason": attempts[0]["outcome"], "task": task}
            yield self._event("model.switched", "", at, fields)
        if ok and luck.random() < 0.03:
            quality = min(1.0, max(0.0, luck.gauss(MODELS[attempts[-1]["model"]].quality, 0.2)))
            fields = {"run_id": run_id, "rating": quality, "model": attempts[-1]["model"], "task": task}
            yield self._event("feedback.given", "", at + luck.randint(1000, 600_000), fields)

    def _attempt(self, model: str, at: int, ok: bool) -> dict[str, Any]:
        luck = self._luck
        load = 1.0 + 0.35 * math.sin((at % DAY / DAY - 0.25) * 2 * math.pi)
        ms = luck.lognormvariate(math.log(MODELS[model].ms * load), 0.35)
        found: dict[str, Any] = {
            "model": model,
            "outcome": "ok" if ok else luck.choices(WHY, (40, 20, 15, 5, 5, 10, 5))[0],
        }
        if ok or luck.random() < 0.3:
            found["first_token_ms"] = round(ms / 4, 3)
        return found | {"total_ms": round(ms, 3), "tokens": luck.randint(0, 600), "location": "external"}

    def _charges(self, attempts: list[dict[str, Any]], usage: dict[str, int]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for number, one in enumerate(attempts):
            usd = MODELS[one["model"]].usd
            if usd:
                pico = int(usd * 1_000_000) * sum(usage.values()) if one["outcome"] == "ok" else 123
                text = f"{pico // 10**12}.{pico % 10**12:012d}"
                found.append({"attempt": number, "model": one["model"], "cost_usd": text, "by": "usage"})
        return found

    # --- what happens to models ------------------------------------------------------------------------------------

    def _hourly(self, at: int) -> Iterator[Outgoing]:
        luck = self._luck
        for model in sorted(MODELS):
            if model in self._ill and luck.random() < 0.5:
                del self._ill[model]
                yield self._event("model.recovered", "", at, {"model": model, "was": "unavailable", "by": "probe"})
            elif luck.random() < MODELS[model].fails:
                self._ill[model] = at
                kind = luck.choice(("model.degraded", "model.unavailable"))
                more = {} if kind == "model.degraded" else {"retry_at_ms": at + 30_000}
                yield self._event(kind, "", at, {"model": model, "reason": "server_error", "was": "healthy", **more})
        if at // HOUR % 24 == 20:
            fields = {"provider": "openrouter", "quota": "free"}
            yield self._event("provider.exhausted", "", at, {**fields, "until_ms": at + 4 * HOUR})
        if at // HOUR % 24 == 0:
            yield self._event("provider.restored", "", at, {"provider": "openrouter", "quota": "free"})
        if at // HOUR % 12 == 3:
            model, scored = luck.choice(sorted(MODELS)), luck.randint(5, 20)
            score = round(sum(min(1.0, max(0.0, luck.gauss(MODELS[model].quality, 0.1))) for _ in range(scored)) * 1e6)
            tasks = [{"task": luck.choice(TASKS), "items": 20, "scored": scored, "score_u": score}]
            fields = {"bench_id": "b", "model": model, "suite": "standard", "suite_hash": "h", "seed": 1}
            yield self._event("benchmark.measured", "", at, {**fields, "tasks": tasks})
