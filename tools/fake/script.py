"""What the fake provider says and how it misbehaves: pure functions over data, no clock and no sockets.

`Fault` is one record of faults.json; `script` is the text every model answers with; `reply` puts the two
together with one request. Lengths called tokens count words with the white space before them.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from understudy.tools.fake.calls import Call, Fragment, fragments

REPEAT = "Repeat exactly:"
CONTINUE = "Continue exactly from where this text stops"
PREAMBLE = "Sure, here is the continuation: "
REPEATED_CHARS = 20
LATE_CHARS = 200
IGNORED_TOKENS = 30
BUILT_IN = Path(__file__).with_name("faults.json")

Ms = Annotated[float, Meta(ge=0, le=86_400_000)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
HeaderName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]+\Z")]
HeaderValue = Annotated[str, Meta(pattern=r"^[\t -~]*\Z")]
Continues = Literal["native", "restart", "ignore", "preamble", "repeat", "eat_space", "late"]


Decimals = Annotated[str, Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,12})?\Z")]


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model's answers cost: USD per token, and per answer, as decimal strings."""

    prompt: Decimals = "0"
    completion: Decimals = "0"
    request: Decimals = "0"


class Says(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is answered to one prompt: a text (JSON too), and tool calls where tools were offered."""

    text: str = ""
    calls: tuple[Call, ...] = ()


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one model name behaves. The defaults are a healthy, instant model.

    A field named *_after counts content chunks sent before the fault strikes; 0 strikes before the first
    event, and a number beyond the answer's end strikes just before the finish chunk.
    """

    docs: str = ""
    status: Annotated[int, Meta(ge=200, le=599)] = 200
    headers: dict[HeaderName, HeaderValue] = {}
    retry_after_date_s: Annotated[float, Meta(ge=0)] | None = None  # Retry-After as an HTTP-date so far ahead
    body: dict[str, Any] | str | None = None  # error body; a string is sent as text/html
    delay_ms: Ms = 0  # before the status line
    first_token_delay_ms: Ms = 0  # between the role chunk and the first content chunk
    slow_ms: Ms = 0  # before the first content chunk too, but only where the fault strikes
    gap_ms: Ms = 0  # between content chunks
    chunks: Count = 48  # length of the whole script, tokens
    hang: bool = False  # never a first byte
    silent: bool = False  # headers and nothing more
    stall_after: Count | None = None
    reset_after: Count | None = None  # TCP RST
    cut_after: Count | None = None  # clean end of the body, no finish chunk, no [DONE]
    malformed_after: Count | None = None  # one data line is broken JSON, then the stream goes on
    error_event_after: Count | None = None  # error object inside the 200 stream, then the end
    error_shape: Literal["openrouter", "openai"] = "openrouter"
    empty: bool = False
    no_usage: bool = False
    counted: tuple[Count, Count] | None = None  # prompt and completion tokens that usage says, whatever was sent
    split_utf8: bool = False
    split_words: bool = False  # content chunks end inside of words, as real tokens do
    comments: bool = False
    echo_model: str | None = None
    refusal: str | None = None
    reasoning: str = ""  # thought aloud before the answer's first word (OpenAI's chat dialect, OpenRouter)
    finish_reason: str | None = None
    native_reason: str | None = None  # OpenRouter's native_finish_reason, where it is not the other
    unfinished: bool = False  # the end lacks what proves it: [DONE] of OpenAI, done_reason of Ollama
    says: dict[str, Says] = {}  # answers by the last user message, word for word; all others get the story
    say_json: str | None = None  # the answer where JSON was asked for
    preface: str = ""  # the text before tool calls
    calls: tuple[Call, ...] = ()  # made where tools were offered
    interleave: bool = False  # pieces of several calls come in turn
    repeat_ids: bool = False  # every piece of a call names its id and tool again
    vectors: Literal["few", "null", "empty"] | None = None  # what is wrong with embeddings
    fail_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0  # share of requests the fault strikes
    seed: int = 0  # of fail_ratio
    price: Price | None = None
    quota_reset: Literal["day", "minute"] | None = (
        None  # X-RateLimit-* of a used up quota, until 00:00 UTC or 60 s ahead
    )
    fail_first: Count | None = None  # only the first so many requests of a model id; null: all
    fail_every: Annotated[int, Meta(ge=1)] = 1  # strikes the first of every so many requests of a model id
    continues: Continues = "native"  # what it does with a last assistant message (prefill)
    instructed: bool = False  # also takes <<<...>>> after the CONTINUE marker as a prefill
    instructed_continues: Continues = "native"  # what it does with that one


# What a record keeps while its fault does not strike (fail_ratio, fail_first, fail_every): its pace and its manners.
KEPT = (
    *("docs", "price", "says", "delay_ms", "first_token_delay_ms", "gap_ms", "chunks", "split_utf8", "comments"),
    *("continues", "instructed", "instructed_continues"),
)


class Part(Struct):
    """One part of a message given as a list; only text counts."""

    type: str
    text: str = ""


class Message(Struct):
    """One message of the conversation, as far as the fake reads it."""

    role: str
    content: str | list[Part] | None = None

    def text(self) -> str:
        """Return the message's text, parts joined."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content if part.type == "text")
        return self.content or ""


class StreamOptions(Struct):
    """The request's stream_options."""

    include_usage: bool = False


class ChatRequest(Struct, kw_only=True):
    """The part of a chat-completions body that the fake obeys; other fields are accepted and ignored."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = False
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    stop: str | list[str] | None = None
    stream_options: StreamOptions | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None


class Reply(Struct, frozen=True):
    """What a request is answered with when nothing breaks: tokens in order and why they end."""

    tokens: tuple[str, ...]
    finish: str
    prompt_tokens: int
    prefill: str
    stopped_by: str | None = None  # the stop string that ended it
    calls: tuple[Fragment, ...] = ()  # tool calls, after the text
    counted: int | None = None

    @property
    def completion_tokens(self) -> int:
        """Return what usage says: every content chunk is a token, unless the record says another number."""
        return len(self.tokens) + len(self.calls) if self.counted is None else self.counted


class BadFaultsError(ValueError):
    """A faults file is not usable; `problems` names every fault found, each with the file's path."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def parse_faults(data: bytes, path: str) -> dict[str, Fault]:
    """Read {name: record} from JSON; raise BadFaultsError with all problems, `path` in front of each."""
    try:
        table = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise BadFaultsError([f"{path}: {error}"]) from None
    if not isinstance(table, dict):
        raise BadFaultsError([f"{path}: expected one object {{name: record}}"])
    problems: list[str] = []
    faults: dict[str, Fault] = {}
    for name, record in table.items():
        found = _record_problems(name, record)
        problems += [f"{path}: {problem}" for problem in found]
        if not found:
            faults[name] = msgspec.convert(record, Fault)
    if problems:
        raise BadFaultsError(problems)
    return faults


def _record_problems(name: str, record: object) -> list[str]:
    """Check every field of a record by itself, so that one mistake does not hide the next."""
    if not name.strip():
        return ["a model name is empty"]
    if not isinstance(record, dict):
        return [f"{name}: expected an object, got {type(record).__name__}"]
    problems: list[str] = []
    for field, value in record.items():
        try:
            msgspec.convert({field: value}, Fault)
        except msgspec.ValidationError as error:
            problems.append(f"{name}.{field}: {error}")
    return problems


def built_in_faults() -> dict[str, Fault]:
    """Return the table of faults.json, freshly read."""
    return parse_faults(BUILT_IN.read_bytes(), str(BUILT_IN))


def fault_for(faults: Mapping[str, Fault], model: str) -> Fault | None:
    """Find a model id's record: the exact id first, then NAME of NAME@anything."""
    return faults.get(model) or faults.get(model.partition("@")[0])


def struck(fault: Fault, model: str, nth: int) -> Fault:
    """Return the record to apply to the nth request (from 0) of a model id: the fault, or its healthy twin."""
    digest = sha256(f"{fault.seed}:{model}:{nth}".encode()).digest()
    drawn = int.from_bytes(digest[:8], "big") / 2**64 < fault.fail_ratio
    if drawn and nth % fault.fail_every == 0 and (fault.fail_first is None or nth < fault.fail_first):
        return fault
    return Fault(**{field: getattr(fault, field) for field in KEPT})


WORDS: Mapping[str, tuple[str, ...]] = {
    "name": ("Zoë", "Åsa", "José", "Łukasz", "小春", "Noémie", "Søren", "Δάφνη", "Жанна", "Renée 🦊"),
    "thing": ("lantern", "kettle", "map", "ladder", "letter", "bicycle", "violin", "basket", "compass"),
    "place": ("harbour", "orchard", "old mill", "market", "café", "bridge", "library", "north tower"),
    "adj": ("quiet", "crooked", "borrowed", "blue", "patient", "forgotten", "small", "bright"),
    "verb": ("carried", "mended", "painted", "found", "hid", "polished", "traded", "remembered"),
}
SENTENCES = (
    "In the {place}, {name} {verb} a {adj} {thing}.",
    "{name} {verb} the {thing} that nobody at the {place} wanted.",
    "Nobody saw how {name} left the {place} with a {adj} {thing} and {verb} another.",
    "Before the rain came, {name} {verb} every {adj} {thing} near the {place}.",
    "“Is this your {thing}?” asked {name}, who had {verb} it beside the {adj} {place}.",
)


def split_tokens(text: str) -> tuple[str, ...]:
    """Cut a text into words with the white space before each; joined they are the text again."""
    return tuple(re.findall(r"\s*\S+|\s+\Z", text))


@lru_cache(maxsize=512)
def story(key: str, n_tokens: int) -> tuple[str, ...]:
    """Tell n_tokens of the story that belongs to a key; a shorter telling is a prefix of a longer one."""
    tokens: list[str] = []
    sentence = 0
    while len(tokens) < n_tokens:
        draw = sha256(f"{sentence}:{key}".encode()).digest()
        words = {kind: bank[draw[i + 1] % len(bank)] for i, (kind, bank) in enumerate(WORDS.items())}
        line = SENTENCES[draw[0] % len(SENTENCES)].format(**words)
        tokens += split_tokens(line if not sentence else " " + line)
        sentence += 1
    return tuple(tokens[:n_tokens])


def last_user(messages: Sequence[Message]) -> str:
    """The last user message; '' where there is none."""
    return next((message.text() for message in reversed(messages) if message.role == "user"), "")


def script(messages: Sequence[Message], n_tokens: int = 48) -> tuple[str, ...]:
    """Return the whole answer to a conversation (without prefill), the same from every model.

    It depends on the last user message alone. `Repeat exactly: TEXT` is answered with all of TEXT.
    """
    user = last_user(messages)
    if user.lstrip().startswith(REPEAT):
        return split_tokens(user.lstrip()[len(REPEAT) :].lstrip())
    return story(user, n_tokens)


def split_prefill(fault: Fault, messages: Sequence[Message]) -> tuple[Sequence[Message], str, Continues]:
    """Part a conversation from what is to be continued: (conversation, prefill or "", how it is continued)."""
    last = messages[-1]
    if last.role == "assistant":
        return messages[:-1], last.text(), fault.continues
    text = last.text()
    before, marker, rest = text.partition(CONTINUE)
    quoted = re.search(r"<<<(.*)>>>", rest, re.DOTALL)
    if not (fault.instructed and last.role == "user" and marker and quoted):
        return messages, "", fault.continues
    if before.strip():
        asked: Sequence[Message] = [*messages[:-1], Message("user", before.strip())]
    else:
        asked = messages[:-1]
    return asked, quoted[1], fault.instructed_continues


def continuation(full: str, prefill: str, how: Continues) -> str:
    """Return what a model says after a prefill of the script `full`, exactly or in one of the wrong ways."""
    if not prefill or how == "restart" or (how == "late" and len(prefill) > LATE_CHARS):
        return full
    rest = full[_resume_at(full, prefill) :]
    if how == "ignore":
        return "".join(story(prefill, IGNORED_TOKENS))
    if how == "preamble":
        return PREAMBLE + rest
    if how == "repeat":
        return prefill[-REPEATED_CHARS:] + rest
    return rest.lstrip() if how == "eat_space" else rest


def _resume_at(full: str, prefill: str) -> int:
    """Find where the script goes on (characters): after the prefill, or after its longest tail found; else 0."""
    if full.startswith(prefill):
        return len(prefill)
    for size in range(min(len(prefill), LATE_CHARS), 7, -1):
        at = full.find(prefill[-size:])
        if at >= 0:
            return at + size
    return 0


def reply(fault: Fault, request: ChatRequest) -> Reply:
    """Plan the answer to a request: the script continued, then limited by max_tokens and stop strings."""
    asked, prefill, how = split_prefill(fault, request.messages)
    said = fault.says.get(last_user(asked))
    calls = fragments(said.calls if said is not None else fault.calls, fault.interleave) if request.tools else ()
    full = "".join(script(asked, fault.chunks))
    if said is not None:
        full = said.text
    elif request.response_format is not None and fault.say_json is not None:
        full = fault.say_json
    elif calls:
        full = fault.preface
    tokens = split_tokens(continuation(full, prefill, how))
    if fault.empty or fault.refusal is not None:
        tokens = split_tokens(fault.refusal or "")
    if fault.split_words:
        tokens = tuple(
            half for token in tokens for half in (token[: len(token) // 2], token[len(token) // 2 :]) if half
        )
    finish = ("tool_calls" if calls else "stop") if fault.refusal is None else "content_filter"
    limit = request.max_completion_tokens or request.max_tokens
    if limit is not None and len(tokens) > limit:
        tokens, finish = tokens[:limit], "length"
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    text = "".join(tokens)
    ends = [(at, stop) for stop in stops if stop and (at := text.find(stop)) >= 0]
    if ends:
        tokens, finish = split_tokens(text[: min(ends)[0]]), "stop"
    prompt = sum(len(split_tokens(message.text())) for message in request.messages)
    prompt, counted = fault.counted or (prompt, None)
    stopped_by = min(ends)[1] if ends else None
    return Reply(tokens, fault.finish_reason or finish, prompt, prefill, stopped_by, calls, counted)
