"""The scanners on whole texts: where findings point, what redaction leaves, what hostile ones cost, how errors show."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.safety_validator import Finding, ScanError, Scanner, redact, scanner
from understudy.actors.safety_validator.examples import example
from understudy.actors.safety_validator.rules import load
from understudy.actors.safety_validator.scan import MAX_FINDINGS
from understudy.actors.safety_validator.views import everything

MANY = settings(max_examples=100, deadline=None)
SECRETS, PII = scanner("secrets"), scanner("pii")
KEYS = st.builds(
    example, st.sampled_from([one.rule.hits[0] for one in load("secrets") if one.rule.joined]), st.integers(0, 99)
)
WORDS = st.sampled_from(("look ", "the door\n", "under the lamp. ", "(", "été ", "🂡 ", "'", "key: ", "100% ", "\u200b"))
FILL = st.lists(WORDS, max_size=4).map("".join)


def spaced(text: str) -> str:
    return " ".join(text[at : at + 9] for at in range(0, len(text), 9))


def base64ed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def unbase64ed(text: str) -> str:
    return base64.b64decode(text + "=" * (-len(text) % 4)).decode()


DISGUISES: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "none": (str, str),
    "zero width": (lambda t: "\u200d".join(t), lambda t: t.replace("\u200d", "")),
    "spaced": (spaced, lambda t: "".join(t.split())),
    "broken": (lambda t: t[:11] + "\n" + t[11:], lambda t: "".join(t.split())),
    "quoted": (lambda t: "".join(f"%{ord(c):02x}" if c in "-_." else quote(c) for c in t), unquote),
    "base64": (base64ed, unbase64ed),
    "hex": (lambda t: t.encode().hex(), lambda t: bytes.fromhex(t).decode()),
}


@MANY
@given(FILL, KEYS, st.sampled_from(sorted(DISGUISES)), FILL)
def test_what_is_found_points_at_it_in_the_raw_text(before: str, key: str, disguise: str, after: str):
    hide, show = DISGUISES[disguise]
    text = f"{before}\n\n{hide(key)}\n\n{after}"
    start = len(before) + 2
    over = [one for one in SECRETS.scan(text) if one.start < start + len(hide(key)) and one.end > start]
    assert over, "not found"
    inside = text[max(over[0].start, start) : over[0].end]
    if over[0].view in ("base64", "hex") or disguise in ("base64", "hex"):
        assert over[-1].end <= start + len(hide(key)) + 1 + len(after)
    else:
        assert "".join(show(inside).split())[:12] in "".join(key.split())


FRAGMENTS = st.one_of(
    WORDS,
    KEYS,
    st.builds(lambda key, how: DISGUISES[how][0](key), KEYS, st.sampled_from(sorted(DISGUISES))),
    st.sampled_from([example(hit) for one in load("secrets") for hit in one.rule.hits]),
    st.sampled_from([example(hit) for one in load("pii") for hit in one.rule.hits]),
    st.text(max_size=20),
)


@pytest.mark.parametrize("made", [SECRETS, PII], ids=["secrets", "pii"])
@MANY
@given(parts=st.lists(FRAGMENTS, max_size=6))
def test_redaction_leaves_nothing_and_changes_nothing_twice(made: Scanner, parts: list[str]):
    text = "".join(parts)
    findings = made.scan(text)
    assert findings == sorted(findings) and all(0 <= one.start < one.end <= len(text) for one in findings)
    clean = redact(text, findings, made.scan)
    assert made.scan(clean) == []
    assert redact(clean, [], made.scan) == clean
    if not findings:
        assert clean == text


def seen(key: str, text: str) -> bool:
    return any("".join(key.split()).encode() in b"".join(data.split()) for data in everything(text))


@MANY
@given(KEYS, st.sampled_from(sorted(DISGUISES)))
def test_after_redaction_no_view_of_the_text_holds_the_key(key: str, disguise: str):
    text = f"here: {DISGUISES[disguise][0](key)} !"
    assert seen(key, text), "the search itself finds nothing"
    clean = redact(text, SECRETS.scan(text), SECRETS.scan)
    assert not seen(key, clean)
    assert "[secret]" in clean


def test_text_around_a_parted_key_stays():
    key = example("sk-ant-api03-{url:90}AA9")
    text = f"my key is {spaced(key)} please keep it"
    assert redact(text, SECRETS.scan(text), SECRETS.scan) == "my key is [secret] please keep it"


@pytest.mark.parametrize(
    "text",
    [
        "Nobody was told: a secret is a key that opens one door.",
        "A password is something I never tell, and its manager is fine.",
        "Write GROQ_API_KEY=<YOUR_KEY> or api_key = 'your-api-key-here', or gsk_... there.",
        "The token is a brass coin: token: brass-and-silver-coin-of-the-old-kingdom",
        "commit {hex:40} has the digest {hex:64} and the id {uuid:1}",
        "its public key: U{b32:55}, and ssh-rsa AAAAB3NzaC1yc2E{b64:200} ana@desk",
        "![a map](data:image/webp;base64,{b64:200})",
        "tta.live.model.{lowernum:8} e = 2.71828182845904523536028747135266249",
        "password: -------- token={x:40} key=[secret] AKIA{b32:9}EXAMPLE",
    ],
)
def test_harmless_text_is_left_alone(text: str):
    assert SECRETS.scan(example(text)) == []


LOOKALIKES = [
    ("ghp_{alnum:36}", "p", "\u0440"),
    ("AKIA{b32:16}", "KIA", "\u041a\u0406\u0410"),
    ("glpat-{url:20}", "a", "\u03b1"),
    ("sk-proj-{alnum:120}", "-", "\u2013"),
    ("npm_{alnum:36}", "m", "\uff4d"),
]


@pytest.mark.parametrize(("template", "letters", "seen"), LOOKALIKES)
def test_letters_and_dashes_that_look_alike_are_read_alike(template: str, letters: str, seen: str):
    head, tail = template.split("{")
    key = example(head.translate(str.maketrans(letters, seen)) + "{" + tail)
    assert not key.isascii()
    (found,) = SECRETS.scan(f"\u042d\u0442\u043e {key} \u0442\u0443\u0442")
    assert (found.view, found.start, found.end) == ("clean", 4, 4 + len(key))


def test_quotes_that_a_phone_types_are_quotes():
    assert SECRETS.scan(example("my password: \u201c{alnum:12}\u201d"))
    assert (
        SECRETS.scan(
            "\u041e\u043d\u0430: \u00ab\u041f\u0430\u0440\u043e\u043b\u044c \u2014 \u0441\u043b\u043e\u0432\u043e\u00bb"
        )
        == []
    )


def test_base64_before_the_next_word_of_the_text_is_read_without_it():
    key = example("setenv DEEPGRAM_TOKEN {hex:40}")
    for word in ("thanks", "ok", "Yours"):
        assert SECRETS.scan(f"look: ab{base64ed(key).rstrip('=')}\n{word} a lot")


def test_a_word_like_example_inside_a_key_makes_it_no_placeholder():
    for key in (
        "ghp_{alnum:14}EXAMPLE{alnum:15}",
        "sk-ant-api03-your-api-key-here{url:80}AA",
        "gsk_xxxxxxxx{alnum:44}",
    ):
        assert SECRETS.scan(example(key))


def test_a_finding_says_nothing_of_what_was_found():
    key = example("ghp_{alnum:36}")
    (found,) = SECRETS.scan(f"it is {key}")
    assert found == Finding(6, 46, "github-token", "secret", "raw")
    assert key[4:10] not in repr(found) + repr(SECRETS) + str(found)


def test_a_scanner_that_breaks_is_heard_and_says_nothing_of_the_text(monkeypatch: pytest.MonkeyPatch):
    key = example("ghp_{alnum:36}")

    def broken(data: bytes) -> list[int]:
        raise ValueError(data)

    made = Scanner(load("secrets"))
    monkeypatch.setattr(made._prefilter, "rules", broken)
    with pytest.raises(ScanError) as raised:
        made.scan(key)
    assert raised.value.code == "scan_failed" and str(raised.value) == "ValueError while scanning"
    assert raised.value.__cause__ is None and raised.value.__suppress_context__


def test_a_prefilter_that_gives_up_is_no_empty_answer(monkeypatch: pytest.MonkeyPatch):
    class Tired:
        def Match(self, data: bytes) -> None:  # noqa: N802 - the name is RE2's
            return None

    made = Scanner(load("pii"))
    monkeypatch.setattr(made._prefilter, "_set", Tired())
    with pytest.raises(ScanError, match="could not read"):
        made.scan("nothing here")


def test_too_many_findings_are_refused():
    key = example("ghp_{alnum:36} ")
    assert len(SECRETS.scan(key * 100)) == 100
    with pytest.raises(ScanError) as raised:
        SECRETS.scan(key * (MAX_FINDINGS + 1))
    assert raised.value.code == "too_many_findings"


def test_a_redaction_that_does_not_end_is_refused():
    again = [Finding(0, 1, "a", "secret", "raw")]
    with pytest.raises(ScanError) as raised:
        redact("text", again, lambda text: again)
    assert raised.value.code == "redaction_unfinished"


HOSTILE = [
    "a", " ", "\n", "ghp_", "eyJ", "eyJaaaaaaaaaaaa.ey", "-----BEGIN PRIVATE KEY-----\n", "key is ",
    "key=apikeyapikeyapikey ", "password=aB3dE6 ", "sk-", "s k - a n t - ", "%41", "%2541", "a\u200b",
    "\uff47\uff48\uff50\uff3f", "67 68 ", "6768676867686768676867686768zz ", "Z2hwX2FCY0RlRmdIaUps ",
    "Z2hwX2FCY0RlRmdIaUps", "curl -u ", 'curl -H "X', "a://b:", "http://ab:cd", "a@", "1234 ", "4111111111111112 ",
    "AKIA", "1.2.3.4.", "DE89", "My name is A", "a.b-c_", "\"'", "mnemonic abc def ", "kind: secret ",
    "PuTTY-User-Key-File-3:", "passphrase: ab-cd-", "heroku ", "\\u0067", "&#103;", "\U000e0067",
    "sv=2024-01-01&sig=",
]  # fmt: skip


@pytest.mark.parametrize("made", [SECRETS, PII], ids=["secrets", "pii"])
@pytest.mark.parametrize("piece", HOSTILE)
def test_four_times_the_text_takes_four_times_the_steps(made: Scanner, piece: str):
    def steps(chars: int) -> int:
        text, count = piece * (chars // len(piece)), 0

        def one(frame: object, event: str, arg: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(one)
        try:
            made.scan(text)
        except ScanError as error:
            assert error.code == "too_many_findings"
        finally:
            sys.setprofile(None)
        return count

    assert steps(40_000) <= 4.5 * steps(10_000) + 200


UNBOUNDED = [
    "-----BEGIN PRIVATE KEY-----" + "A" * 30 + " -", "eyJaaaaaaaaaaaaaa.eyJaaaaaaaaa.", "curl x -u a:",
    "curl x -H 'token: ", "kind: Secret data: ", "PuTTY-User-Key-File-3: Private-Lines: 1 ", "authorization: bearer ",
    "ZXlK", "x ghp_aaaaaaaaaaaaaaaaa ", "heroku_token = ", "twitter: string = aB3", "curl -H 'x-key: ",
    "kind: secret data: a: '' ", "data: a: aaaaaaaaaaaa kind: ", "token = \"!1", "eyJaaaaaaaaaaaaaa..", "v4.local.",
    "sumo sumo sumo ",
]  # fmt: skip


@pytest.mark.parametrize("piece", UNBOUNDED)
def test_patterns_without_an_upper_bound_stay_linear(piece: str):
    """Steps inside RE2 cannot be counted: the processor time of two sizes is compared, the quickest of three each."""

    def cost(chars: int) -> float:
        text, times = piece * (chars // len(piece)), list[float]()
        for _ in range(3):
            began = time.thread_time()
            with suppress(ScanError):  # too many findings
                SECRETS.scan(text)
            times.append(time.thread_time() - began)
        return min(times)

    assert cost(200_000) <= 12 * cost(50_000) + 0.01, "four times the text: four times, and far from sixteen"


def test_the_pack_is_made_once_and_warm_up_repeats():
    assert scanner("secrets") is SECRETS
    SECRETS.warm_up()
    PII.warm_up()
