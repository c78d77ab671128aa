"""Items that are drawn from a seed: mathematics, structured output, tools, stories. Equal seed, equal items."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from understudy.tools.tiny.make import LOOKS, SHAPES, WAYS, WORLD

Item = dict[str, Any]
NAMES = (
    "Ada",
    "Bela",
    "Cyrus",
    "Dina",
    "Emil",
    "Farah",
    "Goran",
    "Hanna",
    "Ivo",
    "Jamila",
    "Kofi",
    "Lena",
    "Milo",
    "Nura",
)
GOODS = ("apples", "candles", "books", "coins", "eggs", "ropes", "maps", "bottles", "keys", "stones")
CITIES = ("Bergen", "Porto", "Osaka", "Lima", "Tunis", "Quebec", "Riga", "Turin")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _number(name: str, n: int, prompt: str, value: float, **more: Any) -> Item:
    return {"id": f"math-{name}-{n:02}", "prompt": prompt, "score": {"kind": "number", "value": value, **more}}


def mathematics(r: Random) -> Iterator[Item]:
    """Sums, products, fractions, word problems, sequences, clocks; a few where a near miss counts in part."""
    for n in range(20):
        a, b = r.randrange(2, 10 ** (1 + n // 7)), r.randrange(2, 10 ** (1 + n // 7))
        yield _number("add", n, f"What is {a} + {b}?", a + b)
    for n in range(16):
        a, b = r.randrange(10, 200), r.randrange(2, 150)
        yield _number("subtract", n, f"What is {a} - {b}?", a - b)
    for n in range(16):
        a, b = r.randrange(2, 13 + 6 * (n // 6)), r.randrange(2, 13)
        yield _number("multiply", n, f"What is {a} times {b}?", a * b)
    for n in range(12):
        b, q = r.randrange(2, 13), r.randrange(2, 13)
        yield _number("divide", n, f"What is {b * q} divided by {b}?", q)
    for n in range(14):
        who, other = r.sample(NAMES, 2)
        what, a, b, c = r.choice(GOODS), r.randrange(10, 60), r.randrange(2, 9), r.randrange(2, 20)
        text = f"{who} has {a} {what}, gives {b} to {other}, finds {c} more. How many has {who} now?"
        yield _number("story", n, text, a - b + c)
    for n in range(12):
        who, what, a, price = r.choice(NAMES), r.choice(GOODS), r.randrange(2, 12), r.randrange(2, 15)
        paid = a * price + r.randrange(1, 20)
        text = f"{who} buys {a} {what} for {price} coins each and pays with {paid} coins. How many come back?"
        yield _number("shop", n, text, paid - a * price)
    for n in range(10):
        first, by = r.randrange(1, 20), r.randrange(2, 12)
        shown = ", ".join(str(first + by * k) for k in range(4))
        yield _number("sequence", n, f"Which number comes next: {shown}?", first + 4 * by)
    for n in range(8):
        hour, more = r.randrange(1, 12), r.randrange(3, 11)
        text = f"A train leaves at {hour} in the morning and takes {more} hours. At what hour (0 to 23) is it there?"
        yield _number("clock", n, text, hour + more)
    for n in range(8):
        whole, share = 20 * r.randrange(2, 25), 5 * r.randrange(1, 20)
        yield _number("percent", n, f"What is {share} percent of {whole}?", whole * share / 100)
    for n in range(6):
        a = r.randrange(12, 400)
        text = f"What is the square root of {a}, to two decimal places?"
        yield _number("root", n, text, round(a**0.5, 4), tolerance=0.006, zero_at=1.0)


def _json(name: str, n: int, prompt: str, schema: dict[str, Any], equals: Any) -> Item:
    shown = json.dumps(schema, separators=(",", ":"))
    return {
        "id": f"json-{name}-{n:02}",
        "prompt": f"{prompt} Answer with JSON alone, by this schema: {shown}",
        "format": {"type": "json_schema", "schema": schema},
        "score": {"kind": "json", "schema": schema, "equals": equals},
    }


def _object(**properties: Any) -> dict[str, Any]:
    found = {"type": "object", "properties": properties, "required": [*properties]}
    return {**found, "additionalProperties": False}


THINGS = ("lantern", "rope", "crystal", "sword", "compass", "candle", "ring", "spade", "key", "flute")
STRING, WHOLE = {"type": "string"}, {"type": "integer"}


def structured(r: Random) -> Iterator[Item]:
    """Facts of a sentence, as an object, a list, nested, or one word of a few."""
    for n in range(18):
        who, city, age = r.choice(NAMES), r.choice(CITIES), r.randrange(8, 90)
        text = f"{who} is {age} years old and lives in {city}."
        yield _json("person", n, f"Text: {text} Take out name, age and city.",
                    _object(name=STRING, age=WHOLE, city=STRING), {"name": who, "age": age, "city": city})  # fmt: skip
    for n in range(14):
        things = r.sample(GOODS, 3)
        text = f"In the bag there are {things[0]}, {things[1]} and {things[2]}."
        schema = _object(items={"type": "array", "items": STRING})
        yield _json("list", n, f"Text: {text} List the things, in order.", schema, {"items": things})
    for n in range(12):
        who, what, count, price = r.choice(NAMES), r.choice(GOODS), r.randrange(2, 20), r.randrange(1, 30)
        text = f"{who} orders {count} {what} at {price} coins each."
        schema = _object(buyer=STRING, order=_object(thing=STRING, count=WHOLE, price=WHOLE))
        right = {"buyer": who, "order": {"thing": what, "count": count, "price": price}}
        yield _json("order", n, f"Text: {text} Take out the order.", schema, right)
    for n in range(10):
        mood, text = r.choice(
            (("happy", "laughs and dances"), ("sad", "weeps on a bench"), ("angry", "slams the door"))
        )
        schema = _object(mood={"enum": ["happy", "sad", "angry"]})
        yield _json("word", n, f"Text: {r.choice(NAMES)} {text}. How does this person feel?", schema, {"mood": mood})
    for n in range(6):
        day, taken = r.choice(DAYS), r.random() < 0.5
        text = f"The room is {'taken' if taken else 'free'} on {day}."
        schema = _object(day={"enum": [*DAYS]}, free={"type": "boolean"})
        yield _json("flag", n, f"Text: {text} Take out the day and whether it is free.", schema,
                    {"day": day, "free": not taken})  # fmt: skip


def _tool(name: str, about: str, **parameters: Any) -> Item:
    return {"name": name, "description": about, "parameters": _object(**parameters)}


TOOLS: dict[str, Item] = {
    one["name"]: one
    for one in (
        _tool("weather", "The weather in a city on a day of the week.", city=STRING, day={"enum": [*DAYS]}),
        _tool("roll_dice", "Roll so many dice with so many sides.", count=WHOLE, sides=WHOLE),
        _tool("move", "Walk in a direction.", direction={"enum": [*WAYS]}),
        _tool("take", "Take a thing that lies here.", thing=STRING),
        _tool("say", "Say something to somebody.", to=STRING, text=STRING),
        _tool("note", "Write a line into the journal.", line=STRING),
        _tool("timer", "Set a timer.", minutes=WHOLE),
    )
}


def _call(name: str, n: int, r: Random, prompt: str, *calls: tuple[str, dict[str, Any]]) -> Item:
    right = [one for one, _ in calls]
    others = r.sample([one for one in TOOLS if one not in right], 3)
    offered = [*dict.fromkeys(right), *others]
    r.shuffle(offered)
    wanted = [{"name": one, "arguments": arguments} for one, arguments in calls]
    return {
        "id": f"tools-{name}-{n:02}",
        "prompt": prompt,
        "tools": [TOOLS[one] for one in offered],
        "score": {"kind": "tools", "calls": wanted},
    }


def tools(r: Random) -> Iterator[Item]:
    """The one right tool among four, two at once, and questions that need none."""
    for n in range(12):
        city, day = r.choice(CITIES), r.choice(DAYS)
        yield _call("weather", n, r, f"What will the weather be in {city} on {day}?",
                    ("weather", {"city": city, "day": day}))  # fmt: skip
    for n in range(10):
        count, sides = r.randrange(1, 6), r.choice((4, 6, 8, 12, 20))
        yield _call(
            "dice", n, r, f"Roll {count} dice with {sides} sides.", ("roll_dice", {"count": count, "sides": sides})
        )
    for n in range(8):
        way = r.choice(WAYS)
        yield _call("move", n, r, f"Walk {way}.", ("move", {"direction": way}))
    for n in range(8):
        thing = r.choice(THINGS)
        yield _call("take", n, r, f"Pick up the {thing}.", ("take", {"thing": thing}))
    for n in range(8):
        minutes = r.randrange(1, 90)
        yield _call("timer", n, r, f"Remind me in {minutes} minutes.", ("timer", {"minutes": minutes}))
    for n in range(6):
        way, thing = r.choice(WAYS), r.choice(("lantern", "rope", "crystal", "compass"))
        yield _call("both", n, r, f"Take the {thing}, then walk {way}. Call both tools at once.",
                    ("take", {"thing": thing}), ("move", {"direction": way}))  # fmt: skip
    for n in range(8):
        one = _call("none", n, r, f"Thank you, {r.choice(NAMES)}. That was all. Say goodbye in one sentence.")
        some = r.sample([*TOOLS], 3)
        if "say" in some:  # to say goodbye by it would be right as well
            some[some.index("say")] = next(name for name in TOOLS if name not in some)
        yield {**one, "tools": [TOOLS[name] for name in sorted(some)]}


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def narrative(r: Random) -> Iterator[Item]:
    """A scene to go on with: length, person, named things kept, none of another place, no phrases again and again."""
    places = [*WORLD]
    for n in range(48):
        place, other = r.sample(places, 2)
        seen, smell, who, found, _ = WORLD[place].split("|")
        thing, being, item = (r.choice(one.split(",")) for one in (seen, who, found))
        strangers = [one for one in WORLD[other].split("|")[2].split(",") if one not in WORLD[place]]
        scene = (
            f"You stand in {_a(r.choice(LOOKS))} {place}. It smells of {smell}. Before you is {_a(thing)}. "
            f"{_a(being).capitalize()} waits beside it and holds {_a(r.choice(SHAPES))} {item}."
        )
        asked = r.choice((f"I talk to the {being}.", f"I ask for the {item}.", f"I look at the {thing}."))
        checks: list[Item] = [
            {"kind": "length", "min_words": 30, "max_words": 120},
            {"kind": "person"},
            {"kind": "continuity", "entities": [thing, being, item], "strangers": strangers},
            {"kind": "repetition"},
        ]
        how = "Go on with the story in 3 to 7 sentences, in the second person. Keep to the scene."
        if n % 3 == 0:
            checks.append({"kind": "sentences", "least": 3, "most": 7})
        if n % 3 == 1:
            checks.append({"kind": "ending", "question": True})
            how += " End with a question."
        if n % 3 == 2:
            word = r.choice(("suddenly", "dark", "strange", "old"))
            checks.append({"kind": "avoid", "words": [word]})
            how += f" Do not use the word {word}."
        score: Item = {"kind": "checks", "checks": checks}
        if n % 8 == 7:
            criteria = (
                "The answer goes on with the scene as a good narrator would: concrete, coherent, alive, no clichés."
            )
            score = {"kind": "judged", "criteria": criteria, "otherwise": score}
        yield {"id": f"story-{n:02}", "prompt": f"{scene} {asked}\n\n{how}", "score": score}


def speed() -> Iterator[Item]:
    """Long enough to tell pace from delay, alone and four together."""
    for n, place in enumerate(WORLD):
        for at_once in (1, 4):
            yield {
                "id": f"speed-{n:02}-at-{at_once}",
                "prompt": f"Describe a {place} at night, at length.",
                "score": {"kind": "speed", "at_once": at_once},
            }
