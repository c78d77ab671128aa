"""Every rule of the packs against its own examples, and what a pack may not say."""

from __future__ import annotations

import base64
import re
from importlib.resources import files

import pytest

from understudy.actors.safety_validator import PackError, Scanner, redact, scanner
from understudy.actors.safety_validator.checks import drawn
from understudy.actors.safety_validator.examples import example
from understudy.actors.safety_validator.rules import PACKS, compiled, load, read
from understudy.actors.safety_validator.shapes import form_of, pattern_of, words_of

LOADED = {pack: {one.rule.id: one for one in load(pack)} for pack in PACKS}
RULES = [(pack, one.rule) for pack in PACKS for one in LOADED[pack].values()]
CASES = [(pack, rule.id, hit) for pack, rule in RULES for hit in rule.hits]
NEAR = [(pack, rule.id, miss) for pack, rule in RULES for miss in rule.misses]


def packed(file: str) -> bytes:
    """A file of a pack."""
    return (files("understudy.actors.safety_validator") / "packs" / f"{file}.toml").read_bytes()


VENDORS = read(packed("vendors"), "vendors")


def alone(pack: str, rule: str) -> Scanner:
    """The scanner with this rule only."""
    return Scanner([LOADED[pack][rule]])


@pytest.mark.parametrize(("pack", "rule", "template"), CASES, ids=lambda value: str(value)[:40])
def test_hits(pack: str, rule: str, template: str):
    for seed in range(5):
        text = example(template, seed)
        found = alone(pack, rule).scan(text)
        assert [one.rule for one in found if one.view == "raw"], "the example is not found in the open"
        assert not alone(pack, rule).scan(redact(text, found, alone(pack, rule).scan))
        wrapped = f"Look, ({text}) is it.\nGo on"
        assert scanner(pack).scan(wrapped), "not found within other text"


@pytest.mark.parametrize(("pack", "rule", "template"), NEAR, ids=lambda value: str(value)[:40])
def test_misses(pack: str, rule: str, template: str):
    for seed in range(5):
        assert alone(pack, rule).scan(example(template, seed)) == []


@pytest.mark.parametrize(("rule", "template"), [(r.id, r.hits[0]) for p, r in RULES if p == "secrets"])
def test_secrets_are_found_behind_each_disguise(rule: str, template: str):
    text = example(template, 1)
    percent = "".join(f"%{ord(one):02X}" if not one.isalnum() else one for one in text)
    views = {
        "base64": base64.b64encode(text.encode()).decode(),
        "base64url": "ab" + base64.urlsafe_b64encode(text.encode()).decode().rstrip("="),
        "hex": text.encode().hex(" "),
        "escapes": percent,
        "clean": "\u200b".join(text),
        "wide": "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text),
    }
    for name, hidden in views.items():
        assert scanner("secrets").scan(f"it is\n{hidden}\nthere"), f"{rule} is not found as {name}"


@pytest.mark.parametrize("template", [r.hits[0] for p, r in RULES if r.joined])
def test_joined_rules_find_what_was_parted(template: str):
    text = example(template, 2)
    middle = len(text) // 2
    assert scanner("secrets").scan(f"key {text[:middle]}\n{text[middle:]} then")
    assert scanner("secrets").scan("key " + " ".join(text[at : at + 7] for at in range(0, len(text), 7)))


def test_no_pack_holds_a_key():
    """What stands in the files is no secret to our own scanner, so to no other; tests make theirs when they run."""
    text = "".join(packed(file).decode() for file in PACKS["secrets"])
    examples = "\n".join(line for line in text.splitlines() if line.startswith(("hits", "misses")))
    plain = re.sub(r"deadbeef|wJalrXUtn\S*", "", examples)
    assert [one for one in scanner("secrets").scan(plain) if one.rule not in ASSIGNMENTS] == []


ASSIGNMENTS = (
    "url-credentials",
    "curl-user",
    "curl-header",
    "password-assignment",
    "passphrase-assignment",
    "secret-key-quoted",
    "flag-value",
)
"""Templates of these look like passwords, whatever they are filled with."""

GOOD = 'kind = "k"\n[[rule]]\nid = "a"\nkeywords = ["a"]\nregex = "abc"\nhits = ["abc"]\nmisses = ["ab"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace('"abc"', '"a(b"', 1), "rule a: not a pattern for RE2: a(b"),
        (GOOD.replace('"abc"', '"(a)(b)"', 1), "at most one group"),
        (GOOD + 'check = "luck"', "no check 'luck'; there are: address"),
        (GOOD + 'colour = "red"', "colour"),
        (GOOD + "joined = 1", "bool"),
        (GOOD.replace('kind = "k"\n', ""), "must not be empty"),
        (GOOD.replace('["ab"]', "[]"), "must not be empty"),
        (GOOD + GOOD.split("\n", 1)[1], "rule a: the id is given twice"),
        ("rule = 3", "array"),
        ("[[rule", "mine.toml"),
    ],
)
def test_a_bad_pack_is_refused_with_the_fault(text: str, words: str):
    with pytest.raises(PackError, match=re.escape(words)):
        compiled(text.encode(), "mine")


def test_all_faults_of_a_pack_are_told_at_once():
    text = GOOD.replace('"abc"', '"a(b"', 1) + GOOD.split("\n", 1)[1].replace('id = "a"', 'id = "b"\ncheck = "luck"')
    with pytest.raises(PackError) as refused:
        compiled(text.encode(), "mine")
    assert "rule a" in str(refused.value) and "rule b" in str(refused.value)


def test_a_bad_keyword_and_an_unknown_pack_are_refused():
    with pytest.raises(PackError, match="rule a: not a pattern for RE2"):
        Scanner(compiled(GOOD.replace('["a"]', '["a("]').encode(), "mine"))
    with pytest.raises(PackError, match="there are: secrets, pii"):
        load("other")


def test_no_rule_has_the_id_of_another():
    for pack in PACKS:
        assert len(LOADED[pack]) == len(load(pack))


@pytest.mark.parametrize("vendor", VENDORS.near)
def test_a_vendors_value_is_found_in_every_notation(vendor: str):
    near, made = VENDORS.near[vendor], alone("secrets", f"{vendor}-assigned")
    judged = 0
    for shape in near.shapes:
        for word in words_of(vendor, near):
            for seed, form in enumerate(VENDORS.forms):
                value = example(shape, seed)
                if drawn(value.encode()):
                    judged += 1
                    assert made.scan(form_of(form, word, value)), f"{shape} as {form} of {word}"
    assert judged > len(VENDORS.forms) / 2


def test_a_vendors_name_in_the_middle_of_words_is_none():
    value = example("{alnum:14}", 1)
    assert alone("secrets", "sumologic-assigned").scan(f"sumo = 'su{value[2:]}'")
    assert not alone("secrets", "sumologic-assigned").scan(f"sumOf = 'su{value[2:]}'")


SHAPES = 'kind = "k"\nframe = "{words}={value}"\nforms = ["{i}={s}"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SHAPES + "[token]\na = ['abcdef{luck:3}']", "unknown one: 'luck'"),
        (SHAPES + "[token]\na = ['abcdef']", "abcdef: no hole"),
        (SHAPES + "[token]\na = ['{hex:8}-{hex:8}']", "nothing in it tells it from other text"),
        (SHAPES + "[token]\na = []", "vendors a: no shape"),
        (SHAPES + "[near]\na = { shapes = ['{hex}'] }", "no hole"),
        (SHAPES + "[near]\na = { shapes = [] }", "vendors a: no shape"),
        (SHAPES + "[near]\na = { shapes = ['{hex:8}'], colour = 'red' }", "colour"),
        (SHAPES.replace("{words}", "") + "[near]\na = { shapes = ['{hex:8}'] }", "a frame with {words} and {value}"),
        (SHAPES.replace('["{i}={s}"]', "[]") + "[near]\na = { shapes = ['{hex:8}'] }", "needs forms"),
    ],
)
def test_a_bad_shape_is_refused_with_the_fault(text: str, words: str):
    with pytest.raises(PackError, match=re.escape(words)):
        compiled(text.encode(), "mine")


def test_a_shape_is_pattern_and_template():
    assert pattern_of("a.{hex:3}-{alnum:4-9}") == r"a\.[0-9a-fA-F]{3}\-[A-Za-z0-9]{4,9}"
    for seed in range(9):
        assert re.fullmatch(
            pattern_of("a.{hex:3}-{alnum:4-9}:{uuid:1}"), example("a.{hex:3}-{alnum:4-9}:{uuid:1}", seed)
        )
