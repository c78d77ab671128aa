"""`bench canaries`: its quick form holds every bar, its search finds every form, its rules let nothing else through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.tools.bench.canaries import planted
from understudy.tools.bench.canaries.forms import ENCODINGS, FORMS, Found, Search, make
from understudy.tools.bench.canaries.record import family
from understudy.tools.bench.canaries.rules import Hit, allowed
from understudy.tools.bench.canaries.watch import Watch

CORE, WORDS = make(("text", "key-lab", "planted-form"))
VALUE = f"user-{WORDS['text']}"
SEARCH = Search(CORE, WORDS, {"text": (VALUE,), "planted-form": (WORDS["planted-form"],)})


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.skipif(sys.platform != "linux", reason="processes are searched through /proc")
def test_nothing_stands_where_it_must_not_and_the_search_finds_what_is_planted(root: Path) -> None:
    code = "from understudy.tools.cli import main; main(['bench', 'canaries', '--quick', '--json'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False, timeout=230
    )
    report = json.loads(done.stdout or "null")
    assert report is not None, done.stderr
    values, detail = {one["id"]: one["value"] for one in report["bars"]}, report["detail"]
    assert (values["text_hits"], values["key_hits"]) == (0, 0), detail["hits"]
    assert values["planted_found"] == planted.total(), detail["missed"]
    assert detail["said"]["finished"] > 10 and detail["messages"] > 1_000
    assert {"supervisor", "nats-server", "key_keeper", "selector-1", "planted"} <= set(detail["searched"])
    if os.geteuid() == 0:
        assert "mem runner-openai: key-openai (plain)" in detail["by_design"], "a key where it has to be is seen"
        assert done.returncode == 0


# --- forms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", planted.variants("x"))
def test_every_form_is_found_and_named(name: str) -> None:
    form, content = planted.variants(WORDS["planted-form"])[name]
    assert SEARCH.all(b"\x00{" + content + b"}\xff") == {Found("planted-form", form)}


def test_every_form_has_a_control() -> None:
    assert {form for form, _ in planted.variants("x").values()} == set(FORMS)


@given(before=st.binary(max_size=40), after=st.binary(max_size=40), name=st.sampled_from(sorted(WORDS)))
def test_it_is_found_between_any_bytes(before: bytes, after: bytes, name: str) -> None:
    import base64

    inner = before + WORDS[name].encode() + after
    assert Found(name, "plain") in SEARCH.encodings(inner)
    assert Found(name, "base64") in SEARCH.encodings(base64.b64encode(inner))
    assert Found(name, "hex") in SEARCH.encodings(inner.hex().encode())


@given(st.binary(max_size=2_000))
def test_nothing_is_found_where_nothing_is(data: bytes) -> None:
    assert SEARCH.all(data) == set()


def test_a_core_without_a_name_is_told_apart() -> None:
    assert SEARCH.encodings(CORE.encode() + b"zzzzzz") == {Found("unknown", "plain")}


@pytest.mark.parametrize("name", sorted(WORDS))
@pytest.mark.parametrize("cut", [0, 1, 5, 6])
def test_what_is_left_of_one_is_known_by_either_side(name: str, cut: int) -> None:
    word = WORDS[name]
    for left in (word[cut:], word[: len(word) - cut]):
        for form, content in planted.variants(left).values():
            if form in ENCODINGS:
                assert SEARCH.encodings(b"\x00" + content + b"\x00") == {Found(name, form)}


def test_the_plain_hash_of_a_whole_value_is_found_and_of_no_other() -> None:
    import hashlib

    assert SEARCH.all(hashlib.sha256(VALUE.encode()).hexdigest()[:16].encode()) == {Found("text", "sha256")}
    assert SEARCH.all(hashlib.sha256(f"{VALUE}.".encode()).hexdigest().encode()) == set()


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("hit", "good"), [
    (Hit("bus", "tta.ask.model.generate", "text", "plain"), True),
    (Hit("bus", "tta.ask.model.generate", "key-lab", "plain"), False),
    (Hit("bus", "tta.ask.runner.run", "text", "plain"), True),
    (Hit("bus", "tta.ask.runner.run", "id", "plain"), False),
    (Hit("bus", "tta.evt.request.ended", "text", "plain"), False),
    (Hit("bus", "tta.live.request.ended", "id", "plain"), False),
    (Hit("bus", "_INBOX", "id", "plain"), True),
    (Hit("bus", "_INBOX_A", "text", "json"), True),
    (Hit("bus", "_INBOX_A", "id", "plain"), False),
    (Hit("bus", "tta.obs.runner.beat", "text", "plain"), False),
    (Hit("bus", "tta.obs.runner.beat", "junk", "plain"), True),
    (Hit("file", "state/actors.log", "junk", "plain"), False),
    (Hit("file", "state/actors.log", "stored", "plain"), True),
    (Hit("mem", "runner-lab", "key-lab", "plain"), True),
    (Hit("mem", "runner-other", "key-lab", "plain"), False),
    (Hit("mem", "runner-lab", "passphrase", "plain"), False),
    (Hit("environ", "runner-lab", "key-lab", "plain"), False),
    (Hit("output", "status", "id", "sha256"), False),
    (Hit("file", "x", "unknown", "plain"), False),
])  # fmt: skip
def test_what_may_be_where(hit: Hit, good: bool) -> None:
    assert allowed(hit) is good


@pytest.mark.parametrize(("subject", "name"), [
    ("_INBOX.abc.def", "_INBOX"),
    ("_INBOX_A.selector-1.x.run.y", "_INBOX_A"),
    ("tta.ask.runner.run.lab.ok", "tta.ask.runner.run"),
    ("$JS.API.DIRECT.GET.TTA_EVT", "$JS.API.DIRECT.GET"),
])  # fmt: skip
def test_what_differs_with_every_message_is_left_out_of_the_subject(subject: str, name: str) -> None:
    assert family(subject) == name


# --- watching --------------------------------------------------------------------------------------------------------


def test_what_is_added_to_a_large_file_is_read_across_the_old_end(tmp_path: Path) -> None:
    watch, file, word = Watch(SEARCH, tmp_path), tmp_path / "1.blk", WORDS["text"].encode()
    file.write_bytes(bytes(2**21) + word[:10])
    watch.look()
    assert watch.hits == set()
    with file.open("ab") as more:
        more.write(word[10:])
    watch.look()
    assert watch.hits == {Hit("file", "1.blk", "text", "plain")}


def test_a_file_that_is_replaced_is_read_anew_and_one_that_is_gone_stays_a_hit(tmp_path: Path) -> None:
    watch, file = Watch(SEARCH, tmp_path), tmp_path / "run.json"
    file.write_text("x" * 100)
    watch.look()
    (tmp_path / "new").write_text(WORDS["key-lab"])
    (tmp_path / "new").replace(file)
    watch.look()
    file.unlink()
    watch.look()
    assert watch.hits == {Hit("file", "run.json", "key-lab", "plain")}


def test_only_new_files_of_folders_that_are_ours_are_read(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(WORDS["text"])
    watch = Watch(SEARCH, tmp_path, 0.0, frozenset({str(tmp_path / "old")}))
    watch.read_all()
    assert {hit.who for hit in watch.hits} == {"new/file"}
    late = Watch(SEARCH, tmp_path, (tmp_path / "new" / "file").stat().st_ctime + 10)
    late.read_all()
    assert late.hits == set()
