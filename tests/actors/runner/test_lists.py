"""Readers of providers' lists: pages in, neutral rows out, exact prices, and what makes a list no list."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.runner.lists import BY_KIND
from understudy.actors.runner.lists.lister import REST_ROWS, Answer, BadList, Fetch, Memory, usd
from understudy.messages.known import rates_of
from understudy.messages.listing import ListedPrice, PriceOverride, Resident, Row
from understudy.tools.fake.lists import entry


def read(kind: str, *pages: Any, memory: Memory | None = None) -> tuple[tuple[Row, ...], list[Fetch]]:
    """Feed a reader one page after the other; its rows, and what it asked for."""
    reader, asked = BY_KIND[kind](Memory() if memory is None else memory), list[Fetch]()
    step = next(reader)
    for page in pages:
        assert step is not None
        asked.append(step)
        answer = page if isinstance(page, Answer) else Answer(200, json.dumps(page).encode())
        try:
            step = reader.send(answer)
            while step is None:
                step = next(reader)
        except StopIteration as done:
            return done.value, asked
    raise AssertionError(f"it wants more: {step}")


def one(**fields: Any) -> Row:
    (row,), _ = read("openrouter", {"data": [{**entry("a/b"), **fields}]})
    return row


def test_an_entry_in_full() -> None:
    shape = {"input_modalities": ["text", "image"], "output_modalities": ["text"]}
    row = one(
        architecture=shape,
        top_provider={"context_length": 4_000, "max_completion_tokens": 1_000},
        supported_parameters=["tools", "response_format"],
        expiration_date="2026-12-31",
        new_field={"any": 1},
        hugging_face_id=None,
    )
    assert row == Row(
        name="a/b",
        context_tokens=4_000,
        max_output_tokens=1_000,
        capabilities=("chat", "json", "tools", "vision"),
        input_modalities=("text", "image"),
        output_modalities=("text",),
        parameters=("tools", "response_format"),
        expires="2026-12-31",
        price=ListedPrice(units={"prompt": "0", "completion": "0"}),
    )


def test_windows_and_capabilities_that_are_not_said_are_not_guessed() -> None:
    row = one(context_length=None, top_provider=None, architecture=None, supported_parameters=None)
    assert (row.context_tokens, row.max_output_tokens, row.capabilities) == (None, None, ())
    assert one(architecture={"input_modalities": ["text"], "output_modalities": ["image"]}).capabilities == ()


@pytest.mark.parametrize(
    ("pricing", "units", "free"),
    [
        ({"prompt": "0", "completion": "0"}, {"prompt": "0", "completion": "0"}, True),
        ({"prompt": "0.0", "completion": "0e-9"}, {"prompt": "0", "completion": "0"}, True),
        ({"prompt": "0", "completion": "0", "request": "0.01"}, {"request": "0.01"}, False),
        ({"prompt": "0", "completion": "0", "new_cost": "1"}, {"new_cost": "1"}, False),
        ({"prompt": "0", "completion": "0", "currency": "USD", "discount": 0.5}, {}, True),
        ({"prompt": "0", "completion": "0", "image": None}, {}, True),
        ({"prompt": "2.5e-6", "completion": "0.00001000"}, {"prompt": "0.0000025", "completion": "0.00001"}, False),
    ],
)
def test_prices(pricing: dict[str, Any], units: dict[str, str], free: bool) -> None:
    price = one(pricing=pricing).price
    assert price is not None and price.is_free() is free
    assert price.units == {"prompt": "0", "completion": "0", **units}


@pytest.mark.parametrize("key", ["prompt", "completion", "request"])
def test_a_router_s_price_is_unknown(key: str) -> None:
    assert one(pricing={"prompt": "0", "completion": "0", key: "-1"}).price is None


def test_overrides_count_in_what_is_free_and_what_is_dearest() -> None:
    over = {"min_prompt_tokens": 200_000, "prompt": "0.000002"}
    night = {"utc_start": "2300", "utc_end": "0500", "prompt": "0"}
    price = one(pricing={"prompt": "0", "completion": "0", "overrides": [over, night]}).price
    assert price is not None and not price.is_free()
    assert price.overrides == (
        PriceOverride(units={"prompt": "0.000002"}, min_prompt_tokens=200_000),
        PriceOverride(units={"prompt": "0"}, utc_start="2300", utc_end="0500"),
    )
    rates = rates_of(price)
    assert (rates.usd_per_mtok_in, rates.usd_per_mtok_out) == (2.0, 0.0)


def test_a_long_list_lets_others_run_while_it_is_read() -> None:
    reader = BY_KIND["openrouter"](Memory())
    assert next(reader) is not None
    page = {"data": [entry(f"a/m{n}") for n in range(3 * REST_ROWS)]}
    rests, step = 0, reader.send(Answer(200, json.dumps(page).encode()))
    with pytest.raises(StopIteration) as done:
        while step is None:
            rests += 1
            step = next(reader)
    assert rests == 3 and len(done.value.value) == 3 * REST_ROWS


@pytest.mark.parametrize("value", ["0." + "0" * 80 + "1", "1" * 1_000_000])
def test_a_price_of_any_length_is_refused_and_not_remembered(value: str) -> None:
    with pytest.raises(BadList, match="decimal number"):
        one(pricing={"prompt": value, "completion": "0"})


BAD: list[tuple[dict[str, Any], str]] = [
    ({"id": None}, "$.data[0].id"),
    ({"id": "with space"}, "$.data[0].id"),
    ({"pricing": None}, "$.data[0].pricing"),
    ({"pricing": {"prompt": "0"}}, "$.data[0].pricing.completion"),
    ({"pricing": {"prompt": None, "completion": "0"}}, "$.data[0].pricing.prompt"),
    ({"pricing": {"prompt": 0.5, "completion": "0"}}, "$.data[0].pricing.prompt"),
    ({"pricing": {"prompt": "free", "completion": "0"}}, "$.data[0].pricing.prompt"),
    ({"pricing": {"prompt": "NaN", "completion": "0"}}, "$.data[0].pricing.prompt"),
    ({"pricing": {"prompt": "-2", "completion": "0"}}, "$.data[0].pricing.prompt"),
    ({"pricing": {"prompt": "0", "completion": "0", "image": "x"}}, "$.data[0].pricing.image"),
    ({"pricing": {"prompt": "0", "completion": "0", "overrides": 1}}, "$.data[0].pricing.overrides"),
    ({"pricing": {"prompt": "0", "completion": "0", "overrides": [1]}}, "$.data[0].pricing.overrides[0]"),
    (
        {"pricing": {"prompt": "0", "completion": "0", "overrides": [{"utc_start": "25"}]}},
        "$.data[0].pricing.overrides[0].utc_start",
    ),
    (
        {"pricing": {"prompt": "0", "completion": "0", "overrides": [{"min_prompt_tokens": "9"}]}},
        "$.data[0].pricing.overrides[0].min_prompt_tokens",
    ),
    ({"expiration_date": "soon"}, "$.data[0].expiration_date"),
    ({"supported_parameters": ["top p"]}, "$.data[0].supported_parameters[0]"),
]


@pytest.mark.parametrize(("fields", "path"), BAD)
def test_one_odd_entry_is_a_list_that_we_do_not_understand(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(BadList) as found:
        one(**fields)
    assert (found.value.code, found.value.path) == ("malformed", path)


def test_an_entry_without_id_or_price() -> None:
    for name in ("id", "pricing"):
        with pytest.raises(BadList, match=name):
            read("openrouter", {"data": [{k: v for k, v in entry("a").items() if k != name}]})


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"data": 1}', b"\xff", b'{"data": [1]}'])
@pytest.mark.parametrize("kind", ["openrouter", "openai", "anthropic"])
def test_what_is_no_page(kind: str, body: bytes) -> None:
    with pytest.raises(BadList) as found:
        read(kind, Answer(200, body))
    assert found.value.code == "malformed" and found.value.path.startswith("$")


@pytest.mark.parametrize("kind", BY_KIND)
def test_an_http_error(kind: str) -> None:
    with pytest.raises(BadList) as found:
        read(kind, Answer(500, b"the vendor's words"))
    assert found.value.code == "status" and "vendor" not in found.value.text


def test_pages_are_read_to_the_total() -> None:
    pages = [{"data": [entry(f"m{n}") for n in part], "total_count": 5} for part in (range(2), range(2, 4), (4,))]
    rows, asked = read("openrouter", *pages)
    assert [row.name for row in rows] == ["m0", "m1", "m2", "m3", "m4"]
    assert [fetch.path for fetch in asked] == [f"/models?offset={n}&limit=1000" for n in (0, 2, 4)]
    rows, _ = read("openrouter", {"data": [entry("a")], "links": {"next": "https://x"}}, {"data": [entry("b")]})
    assert [row.name for row in rows] == ["a", "b"]


def test_a_list_that_changes_under_the_reader_is_none() -> None:
    with pytest.raises(BadList, match="again"):
        read("openrouter", {"data": [entry("a")], "total_count": 2}, {"data": [entry("a")], "total_count": 2})
    with pytest.raises(BadList, match="ends after 1"):
        read("openrouter", {"data": [entry("a")], "total_count": 2}, {"data": [], "total_count": 2})


def test_a_model_that_leaves_between_two_pages_hides_no_other() -> None:
    names = [f"m{n}" for n in range(5)]
    first = {"data": [entry(n) for n in names[:3]], "total_count": 5}
    rest = {"data": [entry(n) for n in names[4:]], "total_count": 4}  # m0 has left, so m3 is on no page
    with pytest.raises(BadList) as found:
        read("openrouter", first, rest)
    assert found.value.path == "$.total_count"


@pytest.mark.parametrize(
    ("said", "held"), [(10_485_760, 10_000_000), (8_000, 8_000), (0, None), (-1, None), ("8k", None), (None, None)]
)
def test_no_list_is_refused_for_a_count_of_tokens(said: Any, held: int | None) -> None:
    row = one(context_length=said, top_provider={"context_length": said, "max_completion_tokens": said})
    assert (row.context_tokens, row.max_output_tokens) == (held, held)
    (row,), _ = read("openai", {"data": [{"id": "a", "max_model_len": said}]})
    assert row.context_tokens == held
    (row,), _ = read("anthropic", {"data": [{"id": "a", "max_input_tokens": said, "max_tokens": said}]})
    assert (row.context_tokens, row.max_output_tokens) == (held, held)
    show = {**SHOW, "model_info": {"general.architecture": "x\x1b[31m", "x\x1b[31m.context_length": said}}
    (row,), _ = read("ollama", {"models": [{"name": "a"}]}, show, {"models": []})
    assert row.context_tokens == held


@given(st.decimals(0, 999_999_999, allow_nan=False, allow_infinity=False, places=12))
def test_a_price_is_kept_exactly(value: Decimal) -> None:
    found = usd(str(value), "")
    assert found is not None and Decimal(found) == value
    assert usd(found, "") == found == usd(format(value, "f"), ""), "one spelling for one price"


def test_openai_says_hardly_more_than_names() -> None:
    rows, _ = read("openai", {"object": "list", "data": [{"id": "a"}, {"id": "b", "max_model_len": 8_192}]})
    assert rows == (Row(name="a"), Row(name="b", context_tokens=8_192))


def test_anthropic_pages() -> None:
    first = {"data": [{"id": "c 1".replace(" ", "-"), "type": "model"}], "has_more": True, "last_id": "c-1"}
    rows, asked = read("anthropic", first, {"data": [{"id": "c-2", "max_input_tokens": 200_000}], "has_more": False})
    assert [(row.name, row.context_tokens, row.capabilities) for row in rows] == [
        ("c-1", None, ("chat",)),
        ("c-2", 200_000, ("chat",)),
    ]
    assert asked[1].path == "/models?limit=1000&after_id=c-1"
    with pytest.raises(BadList, match="last id"):
        read("anthropic", {"data": [], "has_more": True})


TAGS = {"models": [{"name": "a:1b", "digest": "d1"}, {"name": "b:x-cloud"}, {"name": "c", "remote_host": "https://x"}]}
SHOW = {
    "model_info": {"general.architecture": "llama", "llama.context_length": 512, "other.context_length": 9},
    "capabilities": ["completion", "tools", "thinking"],
    "license": "  Apache License\n   Version 2.0 ",
}
PS = {"models": [{"name": "a:1b", "size": 9, "size_vram": 4, "context_length": 256}]}


def test_ollama_s_own_words() -> None:
    memory = Memory()
    (a, b, c), asked = read("ollama", TAGS, SHOW, SHOW, SHOW, PS, memory=memory)
    assert (a.location, b.location, c.location) == ("local", "external", "external")
    assert (a.context_tokens, a.capabilities, a.licence) == (512, ("chat", "tools"), "Apache License Version 2.0")
    assert a.price is not None and a.price.is_free() and b.price is None
    assert a.resident == Resident(bytes=9, vram_bytes=4, context_tokens=256) and b.resident is None
    assert [f.path for f in asked] == ["/api/tags", *["/api/show"] * 3, "/api/ps"]
    again, asked = read("ollama", TAGS, SHOW, SHOW, {"models": []}, memory=memory)
    assert [f.body for f in asked[1:3]] == [b'{"model":"b:x-cloud"}', b'{"model":"c"}'], "weights that are the same"
    assert again[0].resident is None and again[0].context_tokens == 512
    other = {"models": [{"name": "a:1b", "digest": "d2"}]}
    (a,), _ = read("ollama", other, {**SHOW, "model_info": {}, "capabilities": ["embedding"]}, PS, memory=memory)
    assert (a.context_tokens, a.capabilities, a.output_modalities) == (None, (), ("embeddings",))


def tags(*names: str, **fields: Any) -> dict[str, Any]:
    return {"models": [{"name": name, **fields} for name in names]}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(404, b"{}"), "the details were answered with HTTP 404"),
        (Answer(500, b"<html>"), "the details were answered with HTTP 500"),
        ({"capabilities": 1}, "the details are in no form that we know: Expected `array | null`, got `int` at "
                              "$.capabilities"),
    ],
)  # fmt: skip
def test_one_model_that_cannot_be_shown_takes_no_other_along(answer: Any, problem: str) -> None:
    memory = Memory()
    (a, b), asked = read("ollama", tags("a", "b", digest="d"), SHOW, answer, tags("b"), memory=memory)
    assert (a.context_tokens, a.problem) == (512, "")
    assert b == Row(name="b", location="local", problem=problem, resident=Resident(bytes=0, vram_bytes=0))
    (_, b), asked = read("ollama", tags("a", "b", digest="d"), SHOW, PS, memory=memory)
    assert [f.body for f in asked[1:-1]] == [b'{"model":"b"}'], "it alone is asked for again"
    assert (b.context_tokens, b.problem) == (512, "")


@pytest.mark.parametrize(("broken", "of"), [(1, 1), (2, 3), (3, 4)])
def test_where_most_models_cannot_be_shown_there_is_no_list(broken: int, of: int) -> None:
    shows = [SHOW] * (of - broken) + [Answer(500, b"")] * broken
    with pytest.raises(BadList, match=f"{broken} of {of} models cannot be shown; of the first .* HTTP 500") as found:
        read("ollama", tags(*"abcd"[:of]), *shows, {"models": []})
    assert (found.value.code, found.value.path) == ("status", f"$.models[{of - broken}]")


@pytest.mark.parametrize(
    ("name", "more"), [("b:cloud", {}), ("b", {"remote_host": "https://ollama.com"}), ("b", {"remote_model": "m"})]
)
def test_one_that_cannot_be_shown_is_not_local_where_its_tag_says_otherwise(name: str, more: dict[str, str]) -> None:
    listed = {"models": [*tags("a")["models"], {"name": name, **more}]}
    (_, b), _ = read("ollama", listed, SHOW, Answer(500, b""), PS)
    assert b.problem and b.location == "external"


def test_nothing_has_shown_other_weights_to_be_local() -> None:
    memory = Memory()
    read("ollama", tags("a", "b", digest="d1"), SHOW, SHOW, PS, memory=memory)
    for _ in range(2):
        (_, b), _ = read("ollama", {"models": [*tags("a", digest="d1")["models"], *tags("b", digest="d2")["models"]]},
                         Answer(500, b""), PS, memory=memory)  # fmt: skip
        assert b.problem and b.location == "external"
