"""The fake provider: wire shape, every fault, continuation, faults files, and noticing a client that left."""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from tests.waiting import until
from understudy.tools.fake import __main__ as command
from understudy.tools.fake import script as fakes
from understudy.tools.fake.script import ChatRequest, Fault, Message, Reply, reply, script, split_tokens, struck
from understudy.tools.fake.server import FakeProvider

BUILT_IN = fakes.built_in_faults()
STATUS = {name: fault for name, fault in BUILT_IN.items() if fault.status != 200 and name != "flaky"}
STORY = [Message("user", "Tell me a story.")]
ASK, FULL = [{"role": "user", "content": "Tell me a story."}], "".join(fakes.script(STORY))
CUT, REST, LONG = FULL[:57], FULL[57:], FULL[:210]
USAGE: Any = {"stream_options": {"include_usage": True}}


class Wire:
    """A running fake provider and an HTTP client."""

    def __init__(self, fake: FakeProvider, http: aiohttp.ClientSession) -> None:
        self.fake, self.http, self.chat = fake, http, fake.url + "/chat/completions"

    async def whole(self, model: str, **more: Any) -> Any:
        async with self.http.post(self.chat, json=body(model, **more)) as answer:
            return await answer.json()

    async def choice(self, model: str, **more: Any) -> tuple[str, str]:
        choice = (await self.whole(model, **more))["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]

    async def lines(self, model: str, **more: Any) -> list[str]:
        async with self.http.post(self.chat, json=body(model, stream=True, **more)) as answer:
            assert (answer.status, answer.content_type) == (200, "text/event-stream")
            text = (await answer.read()).decode()
        return text.split("\n\n")[:-1]

    async def raw(self, model: str, stream: bool = True) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.fake.port)
        data = json.dumps(body(model, stream=stream)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        await until(lambda: bool(self.fake.log))
        return reader, writer


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    slow = {"drip": Fault(gap_ms=20, chunks=2000), "paced": Fault(delay_ms=50, first_token_delay_ms=200, chunks=3)}
    async with FakeProvider(slow) as fake, aiohttp.ClientSession() as http:
        yield Wire(fake, http)


def body(model: str, prefill: str = "", **more: Any) -> dict[str, Any]:
    last = [{"role": "assistant", "content": prefill}] if prefill else []
    return {"model": model, "messages": ASK + last, **more}


def events(found: list[str]) -> list[Any]:
    return [json.loads(line[6:]) for line in found if line.startswith("data: {")]


def said(found: list[Any], key: str = "content") -> str:
    return "".join(c["delta"].get(key) or "" for event in found for c in event.get("choices", []))


@pytest.mark.parametrize(("tokens", "status"), [(15, 400), (16, 200)])
async def test_responses_refuses_a_limit_below_its_least(wire: Wire, tokens: int, status: int) -> None:
    asked = {"model": "ok", "input": [{"role": "user", "content": "Hi"}], "max_output_tokens": tokens}
    async with wire.http.post(f"{wire.fake.url}/responses", json=asked) as answer:
        assert answer.status == status


async def test_answers_have_the_shape_of_openai_and_keep_the_limits(wire: Wire) -> None:
    found = await wire.lines("ok@a", **USAGE)
    first, *tokens, finish, usage = events(found)
    assert found[-1] == "data: [DONE]"
    same = (first["id"], "chat.completion.chunk", "ok@a")
    assert {(e["id"], e["object"], e["model"]) for e in events(found)} == {same}
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert (len(tokens), said(tokens)) == (48, FULL)
    assert {e["choices"][0]["finish_reason"] for e in [first, *tokens]} == {None}
    assert finish["choices"][0] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    assert all(e["usage"] is None for e in [first, *tokens, finish])
    assert (usage["choices"], list(usage["usage"].values())) == ([], [4, 48, 52])
    assert not any("usage" in e for e in events(await wire.lines("ok")))
    answer = await wire.whole("ok")
    message = {"role": "assistant", "content": FULL, "refusal": None}
    assert answer["choices"] == [{"index": 0, "logprobs": None, "finish_reason": "stop", "message": message}]
    assert (answer["object"], answer["usage"]["completion_tokens"]) == ("chat.completion", 48)
    assert await wire.choice("ok", max_tokens=5) == ("".join(split_tokens(FULL)[:5]), "length")
    assert await wire.choice("ok", stop=["nowhere", FULL[30:36]]) == (FULL[:30], "stop")
    assert await wire.choice("length") == ("".join(split_tokens(FULL)[:12]), "length")


async def test_models_keys_and_bad_bodies(wire: Wire) -> None:
    assert (await wire.whole("nobody"))["error"]["code"] == "model_not_found"
    wire.fake.accepted = {"mine": "k"}
    assert (await wire.whole("ok"))["error"]["code"] == "invalid_api_key"
    wire.http.headers["Authorization"] = "Bearer k"
    async with wire.http.get(wire.fake.url + "/models") as answer:
        assert {row["id"] for row in (await answer.json())["data"]} == {*BUILT_IN, "drip", "paced"}
    for data in (b"{", b'{"model": "ok"}', b'{"model": "ok", "messages": []}', json.dumps(body("ok", **USAGE))):
        async with wire.http.post(wire.chat, data=data) as answer:
            assert (answer.status, (await answer.json())["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", STATUS)
async def test_status_faults(wire: Wire, name: str, stream: bool) -> None:
    async with wire.http.post(wire.chat, json=body(name, stream=stream)) as answer:
        assert answer.status == (int(name[:3]) if name[:3].isdigit() else STATUS[name].status)
        assert (answer.content_type == "text/html") == (name == "502")
        assert name == "502" or (await answer.json())["error"]["message"]
        waits = {"429": "2", "503": "1", "429-date": answer.headers.get("Retry-After")}
        assert answer.headers.get("Retry-After") == waits.get(name)
        if name == "429-date":
            assert 1 < parsedate_to_datetime(answer.headers["Retry-After"]).timestamp() - time.time() <= 3
        assert answer.headers.get("retry-after-ms") == ("1500" if name == "429-ms" else None)
    assert wire.fake.log[-1].ended == "fault"


async def test_answers_that_break(wire: Wire) -> None:
    ten = "".join(split_tokens(FULL)[:10])
    cut = await wire.lines("cut")
    assert (len(cut), said(events(cut))) == (11, ten)
    words = split_tokens(FULL)
    inside = "".join(words[:10]) + words[10][: len(words[10]) // 2]
    assert said(events(await wire.lines("cut-word"))) == inside
    middle = events(await wire.lines("error-mid"))
    assert (said(middle), middle[-1]["error"]["code"], middle[-1]["choices"][0]["finish_reason"]) == (ten, 502, "error")
    assert [list(e) for e in events(await wire.lines("error-first"))] == [["error"]]
    malformed = await wire.lines("malformed")
    with pytest.raises(json.JSONDecodeError):
        json.loads(malformed.pop(11)[6:])
    assert (len(events(malformed)), malformed[-1]) == (49, "data: [DONE]")
    assert list(await wire.whole("error-first")) == ["error"]
    assert (await wire.choice("error-mid"))[1] == "error"
    broken = {"cut": json.JSONDecodeError, "malformed": json.JSONDecodeError, "reset": aiohttp.ClientError}
    for name, error in broken.items():
        with pytest.raises(error):
            await wire.whole(name)
    assert {seen.ended for seen in wire.fake.log} == {"fault"}


async def test_answers_that_are_odd(wire: Wire) -> None:
    empty = events(await wire.lines("empty", **USAGE))
    assert (said(empty), len(empty), empty[-1]["usage"]["completion_tokens"]) == ("", 3, 0)
    assert not any("usage" in e for e in events(await wire.lines("no-usage", **USAGE)))
    assert "usage" not in await wire.whole("no-usage")
    comments = await wire.lines("comments")
    assert comments[::2] == [": OPENROUTER PROCESSING"] * 51
    assert said(events(comments)) == FULL
    assert {e["model"] for e in events(await wire.lines("wrong-model"))} == {"some-other-model"}
    refusal = events(await wire.lines("refusal"))
    assert (said(refusal), said(refusal, "refusal")) == ("", BUILT_IN["refusal"].refusal)
    assert refusal[-1]["choices"][0]["finish_reason"] == (await wire.choice("refusal"))[1] == "content_filter"
    assert {seen.ended for seen in wire.fake.log} == {"done"}


async def test_multibyte_characters_are_cut_across_packets(wire: Wire) -> None:
    reader, writer = await wire.raw("split-utf8")
    await reader.readuntil(b"\r\n\r\n")
    parts = [b""]
    while b"[DONE]" not in parts[-1]:
        size = int((await reader.readline()).strip(), 16)
        parts.append((await reader.readexactly(size + 2))[:-2])
    writer.close()
    assert sum(part[-1] >= 0xC0 for part in parts[1:]) >= 3
    assert said(events(b"".join(parts).decode().split("\n\n"))) == FULL


async def test_reset_is_a_tcp_reset_and_stopping_does_not_wait_for_hanging_requests(wire: Wire) -> None:
    reader, writer = await wire.raw("reset")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    await until(lambda: wire.fake.log[-1].ended_ms is not None)
    assert (wire.fake.log[-1].ended, wire.fake.log[-1].tokens_sent, wire.fake.connections_closed) == ("fault", 10, 0)
    reader, writer = await wire.raw("hang")
    await until(lambda: wire.fake.log[-1].model == "hang")
    began = time.monotonic()
    await wire.fake.__aexit__()
    assert time.monotonic() - began < 3
    assert (wire.fake.log[-1].ended, wire.fake.connections_closed) == ("stopped", 0)
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("name", "tokens"), [("hang", 0), ("silent", 0), ("stall", 10), ("drip", 3)])
async def test_a_client_that_leaves_is_noticed(wire: Wire, name: str, tokens: int, stream: bool) -> None:
    reader, writer = await wire.raw(name, stream)
    seen = wire.fake.log[-1]
    await until(lambda: seen.tokens_sent >= (tokens if stream else 0))
    if name == "silent" or (stream and tokens):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    if not tokens:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reader.read(1)
    left_ms, before = time.time() * 1000, seen.ended
    writer.close()
    await until(lambda: seen.ended_ms is not None)
    assert (before, seen.ended, wire.fake.connections_closed) == ("open", "client_closed", 1)
    assert 0 <= (seen.ended_ms or 0) - left_ms < 1000
    assert seen.tokens_sent < 1000


async def test_slow_models_keep_their_pace_and_the_log_is_served(wire: Wire) -> None:
    for ask in (wire.lines, wire.whole):
        began = time.monotonic()
        await ask("paced")
        assert 0.25 <= time.monotonic() - began < 2
    async with wire.http.get(wire.fake.root + "/control/log") as answer:
        row = (await answer.json())["requests"][0]
    assert 0 < row.pop("started_ms") + 250 <= row.pop("ended_ms") + 1 <= time.time() * 1000
    expected = {"model": "paced", "stream": True, "prefill_chars": 0, "ended": "done", "status": 200, "key": ""}
    assert row == {**expected, "tokens_sent": 3}


CONTINUED = {
    "ok": [(CUT, REST), (FULL[:60], FULL[60:]), ("Sure: " + CUT, REST), (FULL, ""), (LONG, FULL[210:])],
    "restart": [(CUT, FULL), (LONG, FULL)],
    "preamble": [(CUT, "Sure, here is the continuation: " + REST)],
    "repeat": [(CUT, CUT[-20:] + REST)],
    "eat-space": [(FULL[:6], FULL[7:])],
    "late": [(CUT, REST), (LONG, FULL)],
}


async def test_continuation(wire: Wire) -> None:
    for model, prefill, expected in [(model, *case) for model, cases in CONTINUED.items() for case in cases]:
        assert (await wire.choice(model + "@x", prefill=prefill))[0] == expected
        assert said(events(await wire.lines(model, prefill=prefill))) == expected
        assert wire.fake.log[-1].prefill_chars == len(prefill)
    text = "one two  three\nfour"
    probe = [{"role": "user", "content": [{"type": "text", "text": f"Repeat exactly: {text}"}]}]
    assert (await wire.choice("ok", messages=probe))[0] == text
    asked = [*probe, {"role": "assistant", "content": "one tw"}]
    assert (await wire.choice("ok", messages=asked))[0] == "o  three\nfour"
    order = [*ASK, {"role": "user", "content": f"{fakes.CONTINUE}: <<<{CUT}>>>"}]
    joined = [{"role": "user", "content": f"Tell me a story.\n\n{fakes.CONTINUE}: <<<{CUT}>>>"}]
    for asked in (order, joined):
        assert (await wire.choice("instructed", messages=asked))[0] == REST
    assert (await wire.choice("instructed", prefill=CUT))[0] == FULL
    assert REST not in (await wire.choice("ok", messages=order))[0]


async def test_script_and_luck_are_fixed_and_fail_first_counts_by_model_id(wire: Wire) -> None:
    assert fakes.script(STORY, 12) == fakes.script(STORY, 200)[:12]
    assert len(FULL) > 220 and not FULL.isascii()
    first, again = ([struck(BUILT_IN["flaky"], "flaky@a", nth).status for nth in range(2000)] for _ in "ab")
    assert first == again and 500 < first.count(500) < 700
    assert struck(Fault(gap_ms=5, cut_after=1, fail_first=0), "m", 0) == Fault(gap_ms=5)
    found = [next(iter(await wire.whole(model))) for model in ["recovers@a"] * 4 + ["recovers@b"]]
    assert found == ["error"] * 3 + ["id", "error"]


def test_help_teaches_and_every_problem_of_a_faults_file_is_told(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"a":{"status":"x","nope":1,"fail_ratio":2},"b":3," ":{},"c":{"headers":{"X":"a\\nb"}},"d":{}}')
    assert command.main(["--faults", str(path)]) == 2
    found = [line.removeprefix(f"{path}: ").split(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert found == ["a.status", "a.nope", "a.fail_ratio", "b", "a model name is empty", "c.headers"]
    for text in (b"{", b"[]"):
        with pytest.raises(fakes.BadFaultsError, match=re.escape("p.json: ")):
            fakes.parse_faults(text, "p.json")
    assert command.main(["--faults", str(tmp_path / "none.json")]) == 2
    assert "No such file" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main(["--help"])
    told = capsys.readouterr().out
    assert all(len(fault.docs) > 10 and f"  {name} " in told for name, fault in BUILT_IN.items())


async def test_the_command_serves_merged_faults_until_told_to_stop(wire: Wire, tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('{"mine": {"status": 418}, "ok": {"chunks": 3}}')
    args = ("-m", "understudy.tools.fake", "--port", "0", "--faults", str(path))
    process = await asyncio.create_subprocess_exec(sys.executable, *args, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        wire.chat = re.findall(r"http://\S+", (await process.stdout.readline()).decode())[0] + "/chat/completions"
        assert "418" in (await wire.whole("mine"))["error"]["message"]
        assert (await wire.whole("ok"))["usage"]["completion_tokens"] == 3
        assert await asyncio.to_thread(command.main, ["--port", str(wire.fake.port)]) == 1
    finally:
        process.terminate()
    assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_a_script_has_an_answer_for_each_prompt_and_the_story_for_others() -> None:
    says = {"one": {"text": '{"n": 1}'}, "two": {"calls": [{"name": "go", "arguments": '{"to":"north"}'}]}}
    record = msgspec.convert({"says": says}, Fault)

    def planned(prompt: str, **more: Any) -> Reply:
        request = {"model": "m", "messages": [{"role": "user", "content": prompt}], **more}
        return reply(record, msgspec.convert(request, ChatRequest))

    assert "".join(planned("one", response_format={"type": "json_object"}).tokens) == '{"n": 1}'
    two = planned("two", tools=[{}])
    assert two.tokens == () and two.finish == "tool_calls" and two.calls[0].name == "go"
    assert planned("two").calls == ()
    assert "".join(planned("three").tokens) == "".join(script([Message("user", "three")]))
