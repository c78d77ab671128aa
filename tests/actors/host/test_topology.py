"""The operator's file: right as committed, and every fault reported at once, with its path and what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from understudy.actors.host.seats import runner_settings, seats_of
from understudy.actors.host.topology import Problem, TopologyError, hash_of, parse, read
from understudy.actors.runner.core import Settings

RIGHT: dict[str, Any] = {
    "version": 1,
    "providers": {"lab": {"kind": "openai", "url": "http://127.0.0.1:8000/v1"}},
    "models": {"m": {"provider": "lab"}},
}


def problems(raw: Any, folder: Path) -> list[Problem]:
    text = raw if isinstance(raw, str) else yaml.safe_dump(raw, sort_keys=False)
    with pytest.raises(TopologyError) as caught:
        parse(text, folder)
    assert str(caught.value).count("\n") + 1 == len(caught.value.problems)
    return caught.value.problems


def test_the_committed_topology_is_right(root: Path) -> None:
    topology = read(root / "topology.yaml")
    assert len(topology.models) >= 2 and {"selector", "runner", "health_tracker"} <= set(topology.actors)


def test_the_smallest_topology(tmp_path: Path) -> None:
    topology = parse(yaml.safe_dump(RIGHT), tmp_path)
    assert (topology.app, topology.bus.port, list(topology.tasks)) == ("tta", 4222, ["general"])


TEN_SHAPES = """
version: 2
appp: tta
bus: {port: 70000, prot: 1}
log: {warn_ratio: 1.5}
providers:
  lab: {kind: telnet}
  "b d": {kind: local}
models:
  m: {provider: nobody, slots: 0, fallbacks: [ghost]}
  n: {context_tokens: many}
  n: {provider: lab}
aliases: {nick: ghost}
tasks: 5
"""


def test_many_faults_of_form_are_reported_at_once(tmp_path: Path) -> None:
    found = problems(TEN_SHAPES, tmp_path)
    paths = {p.path for p in found}
    assert paths >= {
        "$.version",
        "$.appp",
        "$.bus.port",
        "$.bus.prot",
        "$.log.warn_ratio",
        "$.providers.lab.kind",
        "$.providers key 'b d'",
        "$.models.m.provider",
        "$.models.m.slots",
        "$.models.m.fallbacks",
        "line 12",
        "$.aliases.nick",
        "$.tasks",
    }
    assert len(found) == len(set(found)) and all(p.found and p.right for p in found)


def test_ten_faults_of_meaning_are_reported_at_once(tmp_path: Path) -> None:
    raw = {
        "version": 1,
        "providers": {
            "lab": {"kind": "openai", "url": "http://api.example.com/v1", "location": "local"},
            "blank": {"kind": "openai"},
            "keyed": {"kind": "openai", "url": "http://localhost:1", "key": {"env": "A", "file": "b"}},
            "here": {"kind": "local", "location": "external"},
            "there": {"kind": "local", "key": {"vault": "x"}},
        },
        "consent": {"providers": {"nobody": "Yes?", "here": "Yes?"}},
        "models": {
            "a/b": {"provider": "nobody", "fallbacks": ["ghost"]},
            "a:b": {"provider": "here"},
            "c": {"provider": "lab", "path": "x", "quality": {"poetry": 1.0}},
            "d": {"provider": "here", "path": "nowhere"},
        },
        "aliases": {"nick": "ghost", "c": "d"},
        "tasks": {"general": {"latency": "soon", "fallbacks": ["ghost"], "cache": True}},
        "policy": {"weights": {"quality": 0, "speed": 0, "cost": 0, "fit": 0}},
        "actors": {"juggler": {}, "runner": {"asks": ["x"], "settings": {"beat_ms": "often", "nope": 1}}},
    }
    paths = [p.path for p in problems(raw, tmp_path)]
    assert sorted(set(paths)) == sorted(
        {
            "$.providers.lab.url",
            "$.providers.lab.location",
            "$.providers.here.location",
            "$.consent.providers.lab",
            "$.consent.providers.nobody",
            "$.consent.providers.here",
            "$.providers.blank.url",
            "$.providers.keyed.key",
            "$.providers.there.key",
            "$.models.a/b.provider",
            "$.models.a/b.fallbacks",
            "$.models.a:b",
            "$.models.a:b.path",
            "$.models.c.path",
            "$.models.c.quality.poetry",
            "$.models.d.path",
            "$.aliases.nick",
            "$.aliases.c",
            "$.tasks.general.latency",
            "$.tasks.general.fallbacks",
            "$.tasks.general.cache",
            "$.policy.weights",
            "$.actors.juggler",
            "$.actors.runner.asks",
            "$.actors.runner.emits",
            "$.actors.runner.observes",
            "$.actors.runner.consults",
            "$.actors.runner.sends",
            "$.actors.runner.settings.beat_ms",
            "$.actors.runner.settings.nope",
        }
    )


BUDGET = {"scope": "user", "window": "day", "limit_usd": "0.5"}
BUDGETS: list[tuple[dict[str, Any], str | None]] = [
    (BUDGET, None),
    (BUDGET | {"window": "month"}, "$.log.max_age_days"),
    (BUDGET | {"window": "conversation"}, "$.budgets.b.window"),
    (BUDGET | {"window": "week"}, "$.budgets.b.window"),
    (BUDGET | {"scope": "conversation", "window": "conversation"}, None),
    (BUDGET | {"scope": "all", "match": ["x"]}, "$.budgets.b.match"),
    (BUDGET | {"scope": "model", "match": ["x"]}, "$.budgets.b.match"),
    (BUDGET | {"scope": "model", "match": ["m"]}, None),
    (BUDGET | {"scope": "provider", "match": ["lab"]}, None),
    (BUDGET | {"match": ["anna"]}, "$.budgets.b.match"),
    (BUDGET | {"match": ["0123456789abcdef" * 2]}, None),
    (BUDGET | {"limit_usd": 0.5}, "$.budgets.b.limit_usd"),
    (BUDGET | {"limit_usd": "-1"}, "$.budgets.b.limit_usd"),
    (BUDGET | {"limit_usd": "1e3"}, "$.budgets.b.limit_usd"),
    (BUDGET | {"limt": "1"}, "$.budgets.b.limt"),
]


@pytest.mark.parametrize(("budget", "path"), BUDGETS)
def test_budgets(tmp_path: Path, budget: dict[str, Any], path: str | None) -> None:
    lab = {"lab": {"kind": "openai", "url": "http://localhost:1/v1"}}
    raw = {"version": 1, "providers": lab, "models": {"m": {"provider": "lab"}}, "budgets": {"b": budget}}
    if path is None:
        assert parse(yaml.safe_dump(raw), tmp_path).budgets
    else:
        assert [p.path for p in problems(raw, tmp_path)] == [path]


def test_somebody_has_to_keep_the_books(tmp_path: Path, root: Path) -> None:
    raw = yaml.safe_load((root / "topology.yaml").read_text())
    raw["providers"]["lab"] = {"kind": "openai", "url": "http://localhost:1/v1"}
    raw["models"] = {"m": {"provider": "lab", "usd_per_mtok_out": 1.0}}
    raw |= {"aliases": {}, "tasks": {"general": {}}}
    assert parse(yaml.safe_dump(raw), tmp_path).models
    del raw["actors"]["cost_ledger"]
    assert [p.path for p in problems(raw, tmp_path)] == ["$.models.m"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "$"),
        ("[]", "$"),
        ("hello", "$"),
        ("a: [", "$"),
        ("version: 1\nmodels: {}\nproviders: []\n", "$.providers"),
        ("version: 1\nmodels: {}\n", "$.providers"),
        ("version: '1'\nmodels: {}\nproviders: {}\n", "$.version"),
        ("version: 1\nmodels: {}\nproviders: {}\nversion: 1\n", "line 4"),
        ("version: 1\nmodels: {}\nproviders: {}\ntasks: {}\n", "$.tasks"),
        ("version: 1\nmodels: {}\nproviders: {}\napp: Up\n", "$.app"),
        ("version: 1\nmodels: {}\nproviders: {}\npolicy: {weights: {quality: -1}}\n", "$.policy.weights.quality"),
        ("version: 1\nmodels: {}\nproviders: {}\nthresholds: {min_quality: 70}\n", "$.thresholds.min_quality"),
        ("version: 1\nmodels: {}\nproviders: {}\nthresholds: {max_response_s: 5}\n", "$.thresholds.max_response_s"),
        ("version: 1\nmodels: {'a b': {provider: x}}\nproviders: {}\n", "$.models key 'a b'"),
    ],
)
def test_one_fault(tmp_path: Path, text: str, path: str) -> None:
    assert path in {p.path for p in problems(text, tmp_path)}


ADDRESSES = {
    "http://me:secret@127.0.0.1:8000/v1": "credentials",
    "http://secret@127.0.0.1:8000/v1": "credentials",
    "http://127.0.0.1:8000/v1?key=secret": "query",
    "http://127.0.0.1:8000/v1#secret": "fragment",
    "http://127.0.0.1:8000/sécret": "printable ASCII",
    "http://127.0.0.1:8000/sec ret": "spaces",
    "http://127.0.0.1:8000/v1\nX: secret": "printable ASCII",
    "http://127.0.0.1:secret/v1": "no http or https address",
    "ftp://127.0.0.1/secret": "no http or https address",
    "http://127.0.0.1:0/secret": "no http or https address",
    "secret": "no http or https address",
    "": "nothing",
    "http://secret.example.com/v1/secret": "no https, to another machine",
}


@pytest.mark.parametrize(("url", "why"), ADDRESSES.items())
def test_a_url_that_no_runner_would_take_is_refused_and_not_repeated(tmp_path: Path, url: str, why: str) -> None:
    consent = {"text": "Yes?"}
    (problem,) = problems({**RIGHT, "consent": consent, "providers": {"lab": {"kind": "openai", "url": url}}}, tmp_path)
    assert problem.path == "$.providers.lab.url" and why in problem.found
    assert ("give https://" if why.startswith("no https") else "http://host:port/v1") in problem.right
    assert "sec" not in repr(problem) and "ret" not in repr(problem)


def test_ollamas_own_paths_have_no_version(tmp_path: Path) -> None:
    url = "http://127.0.0.1:11434"
    parse(yaml.safe_dump({**RIGHT, "providers": {"lab": {"kind": "ollama", "url": url}}}), tmp_path)
    (problem,) = problems({**RIGHT, "providers": {"lab": {"kind": "ollama", "url": f"{url}/v1"}}}, tmp_path)
    assert problem.path == "$.providers.lab.url" and "leave it out" in problem.right


SECRET = "http://me:hunter2@127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (f"version: 1\nmodels: {{}}\nproviders: {SECRET}\n", "$.providers"),
        (f"version: 1\nmodels: {{}}\nproviders: [{{url: '{SECRET}'}}]\n", "$.providers"),
        (f"version: 1\nmodels: {{}}\nproviders: {{lab: '{SECRET}'}}\n", "$.providers.lab"),
        (f"version: 1\nmodels: {{}}\nproviders: {{lab: {{kind: openai, url: ['{SECRET}']}}}}\n", "$.providers.lab.url"),
        (f"providers:\n  lab:\n    url: {SECRET}: [\n", "$"),
    ],
)
def test_a_url_in_the_wrong_place_is_not_repeated_either(tmp_path: Path, text: str, path: str) -> None:
    found = problems(text, tmp_path)
    assert path in {p.path for p in found} and "hunter2" not in repr(found)


ACTORS = {"runner": yaml.safe_load((Path(__file__).parents[3] / "topology.yaml").read_text())["actors"]["runner"]}


@pytest.mark.parametrize(
    ("first", "second"),
    [("my.lab", "my_lab"), ("demo_story-lead", "demo/story-lead"), ("demo.story-lead", "demo:story-lead")],
)
def test_two_processes_of_one_name_are_refused(tmp_path: Path, first: str, second: str) -> None:
    """The second is a local model where its name could not be a provider's."""
    (tmp_path / "config.json").write_text("{}")
    lab, local = RIGHT["providers"]["lab"], second not in ("my_lab",)
    providers = {first: lab, "here": {"kind": "local"}} if local else {first: lab, second: lab}
    models = {"m": {"provider": first}, second: {"provider": "here", "path": "."} if local else {"provider": second}}
    (problem,) = problems({"version": 1, "providers": providers, "models": models, "actors": ACTORS}, tmp_path)
    assert problem.path == (f"$.models.{second}" if local else f"$.providers.{second}")
    assert "runner-" in problem.found and f"$.providers.{first}" in problem.found


def test_the_name_of_a_process_is_one_token_of_a_subject(tmp_path: Path) -> None:
    raw = {**RIGHT, "providers": {"my.lab": RIGHT["providers"]["lab"]}, "models": {"m": {"provider": "my.lab"}}}
    (process,) = seats_of(parse(yaml.safe_dump({**raw, "actors": ACTORS}), tmp_path))
    assert (process.seat.instance, process.provider) == ("runner-my_lab", "my.lab")


@pytest.mark.parametrize(
    ("bus", "path"),
    [
        ({"max_payload_bytes": 10}, "$.bus.max_payload_bytes"),
        ({"max_payload_bytes": 66_559, "max_request_bytes": 1_024}, "$.bus.max_payload_bytes"),
        ({"max_payload_bytes": 4_000_000}, "$.bus.max_request_bytes"),
        ({"max_request_bytes": 100_000_000}, "$.bus.max_request_bytes"),
        ({"max_request_bytes": 1_023}, "$.bus.max_request_bytes"),
    ],
)
def test_sizes_that_cannot_work_together(tmp_path: Path, bus: dict[str, int], path: str) -> None:
    (problem,) = problems({**RIGHT, "bus": bus}, tmp_path)
    assert problem.path == path


def test_the_smallest_sizes(tmp_path: Path) -> None:
    parse(yaml.safe_dump({**RIGHT, "bus": {"max_payload_bytes": 66_560, "max_request_bytes": 1_024}}), tmp_path)


def test_a_file_that_is_no_yaml_is_refused_with_the_place(tmp_path: Path) -> None:
    (problem,) = problems("version: 1\nproviders: [\n", tmp_path)
    assert problem.right.startswith("line 3, column 1: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TopologyError) as caught:
        read(tmp_path / "none.yaml")
    assert caught.value.problems[0].path.endswith("none.yaml")


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['true']", "!!python/name:os.system"])
def test_yaml_that_would_run_code_is_refused(tmp_path: Path, tag: str) -> None:
    assert problems(f"version: {tag}", tmp_path)


def test_the_hash_names_the_content(tmp_path: Path) -> None:
    one = parse(yaml.safe_dump(RIGHT), tmp_path)
    other_order = parse(yaml.safe_dump(dict(reversed(RIGHT.items())), sort_keys=False), tmp_path)
    changed = parse(yaml.safe_dump({**RIGHT, "app": "abc"}), tmp_path)
    assert hash_of(one) == hash_of(other_order) != hash_of(changed) and len(hash_of(one)) == 16


def test_the_value_never_holds_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_KEY", "hunter2")
    raw = {**RIGHT, "providers": {"lab": {**RIGHT["providers"]["lab"], "key": {"env": "LAB_KEY"}}}}
    assert "hunter2" not in repr(parse(yaml.safe_dump(raw), tmp_path))


LANES = """
version: 1
providers:
  lab:
    kind: openai
    url: "http://127.0.0.1:8000/v1"
    limits: {concurrent: 200, buffer_ratio: 1.0, requests_per_hour: 3}
    lanes: {low: {share: 0, at_once: 2}, urgent: {}}
    queue: 9999
    queue_bytes: 0
models:
  m: {provider: lab}
"""


def test_limits_and_lanes_are_strict(tmp_path: Path) -> None:
    paths = {p.path for p in problems(LANES, tmp_path)}
    at = "$.providers.lab"
    wrong = (
        "limits.buffer_ratio",
        "limits.requests_per_hour",
        "lanes.low.share",
        "lanes.urgent",
        "queue",
        "queue_bytes",
    )
    assert paths == {f"{at}.{one}" for one in wrong}


def test_limits_must_be_within_reach(tmp_path: Path) -> None:
    provider = {**RIGHT["providers"]["lab"], "limits": {"concurrent": 101}}
    found = problems(
        {**RIGHT, "providers": {"lab": provider, "here": {"kind": "local", "limits": {"concurrent": 1}}}}, tmp_path
    )
    assert [(p.path, p.found) for p in found] == [
        ("$.providers.lab.limits.concurrent", "101"),
        ("$.providers.here.limits", "limits of local models"),
    ]


def test_a_runner_is_told_its_providers_limits_and_lanes(root: Path, tmp_path: Path) -> None:
    runner = yaml.safe_load((root / "topology.yaml").read_text())["actors"]["runner"]
    provider = {**RIGHT["providers"]["lab"], "limits": {"concurrent": 9}, "lanes": {"low": {"at_once": 2}}, "queue": 7}
    provider |= {"queue_bytes": 8}
    topology = parse(yaml.safe_dump({**RIGHT, "providers": {"lab": provider}, "actors": {"runner": runner}}), tmp_path)
    (process,) = seats_of(topology)
    told = msgspec.convert(runner_settings(topology, process), Settings)
    assert (told.models, told.limits.concurrent, told.lanes.low.at_once) == ({"m": 8}, 9, 2)
    assert (told.queue, told.queue_bytes) == (7, 8)
