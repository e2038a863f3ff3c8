"""Values of a study -> report.html: one file with its figures inside, for the screen (light and dark) and for paper.

It is made of the blocks that the Markdown is made of, each value linked to the MLflow run that it stands in, below an overview with
intervals, paired tests, and the plan beside the actual cost. Nothing in it is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path
from typing import Any

from nanolab.report import html_overview, markdown
from nanolab.report.blocks import Block, Grid, Item, Part, Picture, Text
from nanolab.report.html_links import Links, tag

LONG = 40  # characters of a label and its value that no longer fit a column
STYLE, SCRIPT = Path(__file__).with_name("report.css"), Path(__file__).with_name("report.js")


def render(values: dict[str, Any], folder: Path, server: str) -> str:
    """The page of `markdown.render`'s values, and of origins, costs and task_results where they are there (nanolab/report/collect.py).

    `folder` holds the figures, `server` is the address at which a browser reaches MLflow.
    """
    links = Links(values.get("origins", {}), server)
    chapters = [
        *html_overview.chapters(values, links),
        *_chapters(markdown.contents(values)[2:], folder, links),
        *html_overview.provenance(values, links),
    ]
    entries = "".join(
        tag("li", tag("a", escape(name), href=f"#{anchor(name)}")) for name, _ in chapters
    )
    body = tag(
        "nav",
        tag("details", tag("summary", "Contents") + tag("ol", entries), open=""),
        aria_label="Contents",
    )
    body += tag(
        "main",
        _head(values, links)
        + "".join(
            tag("section", tag("h2", escape(name)) + content, id=anchor(name))
            for name, content in chapters
        ),
    )
    return (
        "<!doctype html>\n"
        + tag(
            "html",
            tag(
                "head",
                '<meta charset="utf-8">'
                '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
                + tag("title", escape(values["title"]))
                + tag("style", STYLE.read_text(encoding="utf-8")),
            )
            + tag(
                "body",
                body
                + '<div id="where" role="status" hidden></div>'
                + tag("script", SCRIPT.read_text(encoding="utf-8")),
            ),
            lang="en",
        )
        + "\n"
    )


def anchor(heading: str) -> str:
    """The id of a section."""
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def _head(values: dict[str, Any], links: Links) -> str:
    """Title, where and when, and four figures that say what this was."""
    git, hardware = values["environment"]["git"], values["environment"]["hardware"]
    execution = values.get("origins", {}).get(markdown.EXECUTION, {})
    facts = [f"Generated: {values['generated']}"]
    if execution:
        facts.append("execution " + links.of(markdown.EXECUTION, execution["name"]))
    if git.get("commit"):
        facts.append(f"commit {git['commit'][:7]}{' (dirty)' if git['dirty'] else ''}")
    device = (
        f"{hardware['gpu_count']}x {hardware['gpu_name']}"
        if hardware.get("gpu_count")
        else f"{hardware['cores'] or '-'} CPU cores"
    )
    facts.append(escape(device))
    data = sorted(
        {origin["data"] for origin in values.get("origins", {}).values() if origin.get("data")}
    )
    if data:
        facts.append("data: " + escape("; ".join(data)))
    return tag(
        "header", tag("h1", escape(values["title"])) + tag("p", " · ".join(facts), class_="facts")
    )


def _chapters(blocks: list[Block], folder: Path, links: Links) -> list[tuple[str, str]]:
    """(heading, content) of every part of level 2 with what follows it."""
    chapters: list[tuple[str, list[Block]]] = []
    for block in blocks:
        if isinstance(block, Part) and block.level == 2:
            chapters.append((block.heading, []))
        chapters[-1][1].append(block)
    return [(heading, _chapter(parts, folder, links)) for heading, parts in chapters]


def _chapter(blocks: list[Block], folder: Path, links: Links) -> str:
    """The content of a section; figures that follow each other share a row, and one alone stands beside its list."""
    pictures = [block for block in blocks if isinstance(block, Picture)]
    content = ""
    for block in blocks:
        if isinstance(block, Part) and block.level == 2:
            content += _items(block, links)
        elif isinstance(block, Part):
            content += tag(
                "div", tag("h3", escape(block.heading)) + _items(block, links), class_="part"
            )
        elif isinstance(block, Grid):
            content += _grid(block, links)
        elif isinstance(block, Text):
            content += tag("p", escape(block.text))
        elif block is pictures[0]:
            content += tag(
                "div", "".join(_picture(picture, folder) for picture in pictures), class_="figures"
            )
    return (
        tag("div", content, class_="beside") if len(pictures) == 1 and len(blocks) == 2 else content
    )


def _items(part: Part, links: Links) -> str:
    """The list of a part: labels and values."""
    if not part.items:
        return ""
    return tag(
        "dl",
        "".join(
            tag(
                "div",
                tag("dt", escape(item.label)) + tag("dd", _value(item, part, links)),
                class_="wide" if len(item.label) + len(item.text) > LONG else None,
            )
            for item in part.items
        ),
    )


def _value(item: Item, part: Part, links: Links) -> str:
    if item.text == "-":
        return tag("span", "-", class_="none")
    return links.of(item.step or part.step, item.text, item.key)


def _grid(block: Grid, links: Links) -> str:
    """A table, its numbers aligned and linked."""
    numeric = [
        all(_is_number(row[place]) for row in block.rows) for place in range(len(block.header))
    ]
    head = "".join(
        tag("th", escape(name), class_="number" if number else None)
        for name, number in zip(block.header, numeric)
    )
    body = ""
    for place, row in enumerate(block.rows):
        run = block.runs[place] if block.runs else ""
        cells = ""
        for column, (cell, number) in enumerate(zip(row, numeric)):
            step = block.columns[column] if block.columns else block.step
            text = (
                links.to(run, cell)
                if run and number
                else links.of(step, cell)
                if number
                else escape(cell)
            )
            cells += tag(
                "td", text, class_="number" if number else "long" if len(cell) > LONG else None
            )
        body += tag("tr", cells)
    return tag(
        "div", tag("table", tag("thead", tag("tr", head)) + tag("tbody", body)), class_="scroll"
    )


def _is_number(cell: str) -> bool:
    return cell == "-" or bool(re.match(r"[-+]?[\d.,]+(e[-+]?\d+)?( \(|$| to | of )", cell))


def _picture(picture: Picture, folder: Path) -> str:
    content = (folder / picture.path).read_bytes()
    size = {}
    if content[:4] == b"\x89PNG":
        size = {
            "width": str(int.from_bytes(content[16:20])),
            "height": str(int.from_bytes(content[20:24])),
        }
    source = "data:image/png;base64," + base64.b64encode(content).decode()
    return tag(
        "figure",
        f'<img src="{source}" alt="{escape(picture.caption, quote=True)}"'
        + "".join(f' {key}="{value}"' for key, value in size.items())
        + ">"
        + tag("figcaption", escape(picture.caption)),
    )
