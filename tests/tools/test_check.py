"""`understudy check`: what it notes in a topology that can be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from understudy.tools.cli import main

HERE = "http://127.0.0.1:11434"
OLLAMAS: list[tuple[dict[str, Any], bool]] = [
    ({"kind": "ollama", "url": HERE}, True),
    ({"kind": "ollama", "url": HERE, "location": "local"}, False),
    ({"kind": "ollama", "url": HERE, "location": "external"}, False),
    ({"kind": "ollama", "url": HERE, "catalogue": {}}, False),
    ({"kind": "ollama", "url": "https://far.example"}, False),
    ({"kind": "openai", "url": f"{HERE}/v1"}, False),
]


@pytest.mark.parametrize(("provider", "noted"), OLLAMAS)
def test_an_ollama_that_is_local_by_the_operators_word_is_noted(
    provider: dict[str, Any], noted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "topology.yaml"
    raw = {
        "version": 1,
        "providers": {"home": provider},
        "models": {"m": {"provider": "home"}},
        "consent": {"text": "?"},
    }
    path.write_text(yaml.safe_dump(raw))

    said: list[str] = []
    for more in ((), ("--json",)):
        with pytest.raises(SystemExit) as end:
            main(["check", "--topology", str(path), *more])
        assert end.value.code == 0
        said.append(capsys.readouterr().out)

    assert ("note: $.providers.home: " in said[0]) is noted
    assert bool(json.loads(said[1])["notes"]) is noted
