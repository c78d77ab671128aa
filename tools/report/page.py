"""One self-contained HTML page: no script, no request to anywhere, light and dark by the reader's own setting.

A page is made of parts, each a piece of HTML made by a function here; what is text is escaped by it. Parts of others
(an SVG of `charts.py`) are taken as they are, marked by their type, so that no text can be taken for HTML by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Literal, NamedTuple

Tone = Literal["", "good", "bad", "warn", "dim"]


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


class Cell(NamedTuple):
    """A cell of a table. `share`: 0 to 1, drawn as a bar beneath the text; `note`: small, below it."""

    text: str | Html
    tone: Tone = ""
    share: float | None = None
    note: str = ""


Content = str | Cell | None
"""What a cell may be given as; None is a dash: there is no such figure."""


def html(text: str) -> Html:
    """Escaped, unless it is HTML."""
    return text if isinstance(text, Html) else Html(escape(text))


def page(title: str, *parts: Html, lead: str = "", foot: str = "") -> str:
    """The whole document."""
    style = (files(__package__ or "") / "page.css").read_text()
    head = f"<h1>{html(title)}</h1>" + (f'<p class="lead">{html(lead)}</p>' if lead else "")
    tail = f"<footer>{html(foot)}</footer>" if foot else ""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header>{head}</header>\n{''.join(part + chr(10) for part in parts)}{tail}\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *parts: Html, lead: str = "") -> Html:
    """A heading and what stands under it."""
    words = f'<p class="lead">{html(lead)}</p>' if lead else ""
    return Html(f"<section><h2>{html(title)}</h2>{words}{''.join(parts)}</section>")


def paragraph(text: str) -> Html:
    """Words."""
    return Html(f"<p>{html(text)}</p>")


def note(text: str, tone: Tone = "warn") -> Html:
    """What a reader must not miss."""
    return Html(f'<p class="note {tone}">{html(text)}</p>')


def badge(text: str, tone: Tone = "") -> Html:
    """A word or two, framed."""
    return Html(f'<span class="badge {tone}">{html(text)}</span>')


def listing(items: Iterable[str]) -> Html:
    """A list; nothing for an empty one."""
    rows = "".join(f"<li>{html(one)}</li>" for one in items)
    return Html(f"<ul>{rows}</ul>" if rows else "")


def facts(of: Mapping[str, str]) -> Html:
    """Names and values, one a line."""
    rows = "".join(f"<dt>{html(name)}</dt><dd>{html(value)}</dd>" for name, value in of.items())
    return Html(f'<dl class="facts">{rows}</dl>')


def tiles(of: Iterable[tuple[str, str, Tone]]) -> Html:
    """The few figures that a reader came for: value, what it is, tone."""
    each = [
        f'<div class="tile {tone}"><strong>{html(value)}</strong><span>{html(name)}</span></div>'
        for value, name, tone in of
    ]
    return Html(f'<div class="tiles">{"".join(each)}</div>')


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], words: Iterable[int] = (), caption: str = "") -> Html:
    """A table. Columns are figures (right-aligned) unless they are in `words`; the first is always words."""
    wordy = {0, *words}
    kinds = ["words" if n in wordy else "figure" for n in range(len(head))]
    top = "".join(f'<th class="{kind}" scope="col">{html(one)}</th>' for kind, one in zip(kinds, head, strict=True))
    body = "".join(_row(row, kinds) for row in rows)
    said = f"<caption>{html(caption)}</caption>" if caption else ""
    return Html(f'<div class="scroll"><table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>')


def _row(row: Sequence[Content], kinds: Sequence[str]) -> str:
    cells = [_cell(one, kind, n == 0) for n, (one, kind) in enumerate(zip(row, kinds, strict=True))]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(content: Content, kind: str, first: bool) -> str:
    if content is None:
        content = Cell("–", "dim")
    cell = content if isinstance(content, Cell) else Cell(content)
    drawn = ""
    if cell.share is not None:
        width = 100 * min(1.0, max(0.0, cell.share))
        drawn = f'<span class="bar"><i style="width:{width:.1f}%"></i></span>'
    small = f"<small>{html(cell.note)}</small>" if cell.note else ""
    name = "th" if first else "td"
    scope = ' scope="row"' if first else ""
    return f'<{name} class="{kind} {cell.tone}"{scope}>{html(cell.text)}{small}{drawn}</{name}>'


def figure(svg: Html, caption: str = "") -> Html:
    """A picture with what it shows."""
    said = f"<figcaption>{html(caption)}</figcaption>" if caption else ""
    return Html(f'<figure><div class="scroll">{svg}</div>{said}</figure>')
