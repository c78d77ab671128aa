"""Make the server's streams, the claims bucket and the durable consumers what the topology says. Run at start-up.

Running it again changes nothing. A stream that differs is updated; a consumer that differs is an error that names the
difference, because updating it would change a running worker's deliveries behind its back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from understudy.bus.guarded import GuardedClient
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import ApiRefused, api
from understudy.bus.port import BusError
from understudy.bus.subjects import cache_bucket, claims_bucket, dead_stream, evt_stream, trace_stream

_NO_STREAM = 10059
_NO_CONSUMER = 10014
_DAY_S = 86_400.0


class ConsumerDiffers(BusError):
    """A durable consumer exists with another configuration; the text names what differs."""

    code = "consumer_differs"


class ConsumerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A durable pull consumer with explicit acks. Times in seconds; `backoff_s` replaces `ack_wait_s` for silence."""

    stream: str
    name: str
    subjects: tuple[str, ...]
    ack_wait_s: float = 30.0
    max_deliver: int = 5
    max_ack_pending: int = 1000
    backoff_s: tuple[float, ...] = ()
    from_now: bool = False


class BusSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What must exist on the server for one app. Ages in seconds, sizes in bytes; age 0 means no limit.

    `claims_storage` memory would lose the bucket itself when a single server restarts; file, written behind, loses its
    last moments.
    """

    app: str = "tta"
    replicas: int = 1
    evt_max_bytes: int = 4 << 30
    evt_max_age_s: float = 30 * _DAY_S
    duplicate_window_s: float = 600.0
    trace_max_bytes: int = 1 << 30
    trace_max_age_s: float = 7 * _DAY_S
    dead_max_bytes: int = 64 << 20
    dead_max_age_s: float = 90 * _DAY_S
    claims_max_bytes: int = 64 << 20
    claims_storage: str = "file"
    claims_marker_ttl_s: float = 60.0
    cache_max_bytes: int = 64 << 20
    cache_ttl_s: float = _DAY_S
    consumers: tuple[ConsumerSpec, ...] = ()


async def provision(bus: NatsBus | GuardedClient, spec: BusSpec) -> list[str]:
    """Create or check everything; returns what was done, e.g. `created TTA_EVT`, nothing when all was right.

    Raises ConsumerDiffers, ApiRefused (the server refuses, e.g. a change of storage), BusDown.
    """
    client = bus.client if isinstance(bus, NatsBus) else bus
    done = [await _stream(client, config) for config in stream_configs(spec)]
    done += [await _consumer(client, consumer) for consumer in spec.consumers]
    return [line for line in done if line]


def stream_configs(spec: BusSpec) -> list[dict[str, Any]]:
    """The streams' configurations as JetStream spells them."""
    app = spec.app
    common = {"storage": "file", "retention": "limits", "num_replicas": spec.replicas, "allow_direct": True}
    evt = common | {
        "name": evt_stream(app),
        "subjects": [f"{app}.evt.>"],
        "max_bytes": spec.evt_max_bytes,
        "max_age": _ns(spec.evt_max_age_s),
        "discard": "new",  # losing the oldest facts silently would be worse than refusing new ones
        "duplicate_window": _window(spec.duplicate_window_s, spec.evt_max_age_s),
        "republish": {"src": f"{app}.evt.>", "dest": f"{app}.live.>"},
        "allow_atomic": True,
    }
    trace = common | {
        "name": trace_stream(app),
        "subjects": [f"{app}.trace.>"],
        "max_bytes": spec.trace_max_bytes,
        "max_age": _ns(spec.trace_max_age_s),
        "discard": "old",
        "duplicate_window": _window(spec.duplicate_window_s, spec.trace_max_age_s),
        "persist_mode": "async",  # may lose its last moments, and costs no fsync per message
    }
    dead = common | {
        "name": dead_stream(app),
        "subjects": [f"{app}.dead.>"],
        "max_bytes": spec.dead_max_bytes,
        "max_age": _ns(spec.dead_max_age_s),
        "discard": "old",
        "duplicate_window": _window(spec.duplicate_window_s, spec.dead_max_age_s),
    }
    return [evt, trace, dead, _claims(spec), _cache(spec)]


def _claims(spec: BusSpec) -> dict[str, Any]:
    """The stream below a key-value bucket, with a time to live per key."""
    bucket = claims_bucket(spec.app)
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "storage": spec.claims_storage,
        "persist_mode": "async" if spec.claims_storage == "file" else "",  # a claim is worth no fsync
        "retention": "limits",
        "num_replicas": spec.replicas,
        "max_msgs_per_subject": 1,
        "max_bytes": spec.claims_max_bytes,
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_msg_ttl": True,
        "subject_delete_marker_ttl": _ns(spec.claims_marker_ttl_s),
    }


def _cache(spec: BusSpec) -> dict[str, Any]:
    """The stream below the bucket of kept answers: each lives so long at most, and the oldest make room."""
    bucket = cache_bucket(spec.app)
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "storage": "file",
        "persist_mode": "async",  # a lost one is a miss
        "retention": "limits",
        "num_replicas": spec.replicas,
        "max_msgs_per_subject": 1,
        "max_bytes": spec.cache_max_bytes,
        "max_age": _ns(spec.cache_ttl_s),
        "discard": "old",
        "duplicate_window": _window(120.0, spec.cache_ttl_s),
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }


def consumer_config(spec: ConsumerSpec) -> dict[str, Any]:
    """A consumer's configuration as JetStream spells it."""
    config: dict[str, Any] = {
        "durable_name": spec.name,
        "name": spec.name,
        "ack_policy": "explicit",
        "ack_wait": _ns(spec.backoff_s[0] if spec.backoff_s else spec.ack_wait_s),
        "max_deliver": spec.max_deliver,
        "max_ack_pending": spec.max_ack_pending,
        "deliver_policy": "new" if spec.from_now else "all",
    }
    if spec.backoff_s:
        config["backoff"] = [_ns(s) for s in spec.backoff_s]
    if len(spec.subjects) == 1:
        config["filter_subject"] = spec.subjects[0]
    else:
        config["filter_subjects"] = list(spec.subjects)
    return config


async def _stream(client: GuardedClient, wanted: dict[str, Any]) -> str:
    name = wanted["name"]
    try:
        found: dict[str, Any] = (await api(client, f"STREAM.INFO.{name}"))["config"]
    except ApiRefused as error:
        if error.err_code != _NO_STREAM:
            raise
        await api(client, f"STREAM.CREATE.{name}", wanted, timeout_s=10.0)
        return f"created {name}"
    differs = differences(wanted, found)
    if not differs:
        return ""
    kept = {key: value for key, value in found.items() if key != "metadata"}
    await api(client, f"STREAM.UPDATE.{name}", kept | wanted, timeout_s=10.0)
    return f"updated {name}: {'; '.join(differs)}"


async def _consumer(client: GuardedClient, spec: ConsumerSpec) -> str:
    wanted, label = consumer_config(spec), f"{spec.stream}/{spec.name}"
    try:
        found: dict[str, Any] = (await api(client, f"CONSUMER.INFO.{spec.stream}.{spec.name}"))["config"]
    except ApiRefused as error:
        if error.err_code != _NO_CONSUMER:
            raise
        body = {"stream_name": spec.stream, "action": "create", "config": wanted}  # never update one that appeared
        await api(client, f"CONSUMER.CREATE.{spec.stream}.{spec.name}", body)
        return f"created {label}"
    others = {k: found[k] for k in ("filter_subject", "filter_subjects", "backoff") if found.get(k) and k not in wanted}
    differs = differences(wanted | dict.fromkeys(others), found)
    if differs:
        raise ConsumerDiffers(f"consumer {label} exists and differs: {'; '.join(differs)}; delete it to have it anew")
    return ""


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """`key: found -> wanted` for every wanted key that differs; the server leaves out what is empty or zero."""
    return [
        f"{key}: {found.get(key)!r} -> {value!r}"
        for key, value in wanted.items()
        if (found.get(key) or None) != (value or None)
    ]


def _window(wanted_s: float, max_age_s: float) -> int:
    """The server refuses a window of duplicates longer than messages live."""
    return _ns(min(wanted_s, max_age_s) if max_age_s else wanted_s)


def _ns(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
