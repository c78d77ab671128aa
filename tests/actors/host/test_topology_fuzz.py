"""Whatever an operator writes, the reader answers with a topology or with problems, never with anything else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.host.key_opener import Job, Wanted, read_key
from understudy.actors.host.keys import KeyMissing
from understudy.actors.host.strict_yaml import NotYaml, load
from understudy.actors.host.topology import TopologyError, hash_of, parse, read

ROOT = Path(__file__).resolve().parents[3]
COMMITTED: dict[str, Any] = yaml.safe_load((ROOT / "topology.yaml").read_text())

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.binary(max_size=4)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3), max_leaves=6
)


def readable(text: str) -> None:
    """Raises anything but the one error that stands for every fault."""
    try:
        topology = parse(text, ROOT)
    except TopologyError as error:
        assert error.problems and str(error).encode()
    else:
        assert len(hash_of(topology)) == 16


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of the committed file and a key in it."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@settings(max_examples=300, deadline=None)
@given(st.data(), VALUES)
def test_any_value_in_any_place_is_a_topology_or_problems(data: st.DataObject, value: Any) -> None:
    raw = copy.deepcopy(COMMITTED)
    container, key = data.draw(st.sampled_from(places(raw)), label="place")
    container[key] = value
    readable(yaml.safe_dump(raw))


@settings(max_examples=200, deadline=None)
@given(st.data(), st.text(alphabet="[]{}:,?!&*<>|-'\"\\ux0_#\n a1~.", max_size=6))
def test_any_scribble_in_the_file_is_a_topology_or_problems(data: st.DataObject, scribble: str) -> None:
    text = (ROOT / "topology.yaml").read_text()
    at = data.draw(st.integers(0, len(text)), label="at")
    readable(text[:at] + scribble + text[at:])


HEAD = "version: 1\nproviders: {lab: {kind: openai, url: 'http://127.0.0.1:9/v1'}}\n"


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "models: {m: {provider: lab, fallbacks: 5}}\n",
        HEAD + "models: {m: {provider: lab, fallbacks: [[m]]}}\n",
        HEAD + "models: {m: {provider: lab}}\naliases: {a: [x]}\n",
        HEAD + "models: {m: {provider: lab}}\ntasks: {general: 5}\naliases: 5\n",
        HEAD + "? [a, b]\n: 3\n",
        HEAD + "? {a: b}\n: 3\n",
        "version: 2020-99-99\n",
        "version: 0b_\n",
        "version: !!int ''\n",
        "version: !!bool perhaps\n",
        "version: !!timestamp soon\n",
        f"version: 0x{'f' * 9000}\n",
        f"version: {'9' * 9000}\n",
        f"version: {'[' * 9000}\n",
        "version: &a [*a]\n",
        'version: 1\napp: "\\ud800"\n',
        HEAD + f"models: {{m: {{provider: here, path: {'x' * 300}}}}}\nproviders: {{here: {{kind: local}}}}\n",
        "version: 1\nproviders: {here: {kind: local}}\nmodels: {m: {provider: here, path: {'x' * 9000}}}\n",
        f"version: 1\nproviders: {{here: {{kind: local}}}}\nmodels: {{m: {{provider: here, path: {'x' * 9000}}}}}\n",
        'version: 1\nproviders: {here: {kind: local}}\nmodels: {m: {provider: here, path: "a\\0b"}}\n',
        HEAD + "models: {m: {provider: lab, tokens_per_s: .nan}}\n",
        HEAD + "models: {m: {provider: lab, usd_per_mtok_in: .inf}}\n",
    ],
)
def test_a_fault_that_once_came_out_as_another_error(text: str) -> None:
    with pytest.raises(TopologyError) as caught:
        parse(text, ROOT)
    assert all(len(problem.found) < 200 for problem in caught.value.problems)


def test_a_number_too_long_to_print_is_refused_with_its_place() -> None:
    with pytest.raises(NotYaml, match="line 2, column 9: a number of more than 63 bits"):
        load(f"a: 1\nport:   0x{'f' * 9000}\n")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    file.write_bytes(b"version: 1\napp: \xff\n")
    with pytest.raises(TopologyError) as caught:
        read(file)
    assert "UTF-8" in str(caught.value)
    (tmp_path / "key").write_bytes(b"\xff\xfe")
    keyed = {"kind": "openai", "url": "http://127.0.0.1:9/v1", "key": {"file": "key"}}
    topology = parse(yaml.safe_dump({"version": 1, "providers": {"lab": keyed}, "models": {}}), tmp_path)
    with pytest.raises(KeyMissing, match="as text"):
        read_key(Wanted("lab", topology.providers["lab"].key), Job((), str(tmp_path), str(tmp_path), ""))
