"""Values of a study -> report.html: one file with its figures inside, for the screen (light and
dark) and for paper.

It is made of the blocks that the Markdown is made of, each value linked to the MLflow run that it
stands in, below an overview with intervals, paired tests, and the plan beside the actual cost.
Nothing in it is loaded from elsewhere.
"""

import base64
import re
from pathlib import Path
from typing import Any, NamedTuple

from nanolab.report import document, html_overview
from nanolab.report.blocks import Block, Grid, Part, Picture, Text
from nanolab.report.environment_section import EXECUTION
from nanolab.report.templates import HERE, Links, environment, macros

LONG = 40  # characters of a label and its value that no longer fit a column
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?( \(|$| to | of )|-$")  # how a cell of one begins


class Chapter(NamedTuple):
    """A section of the page; its content is HTML."""

    heading: str
    content: str

    @property
    def anchor(self) -> str:
        """The id of the section."""
        return re.sub(r"[^a-z0-9]+", "-", self.heading.lower()).strip("-")


def render(values: dict[str, Any], folder: Path, server: str) -> str:
    """The page of `document.render`'s values, and of origins, costs and task_results where they are
    there (nanolab/report/store_values.py).

    `folder` holds the figures, `server` is the address at which a browser reaches MLflow.
    """
    from markupsafe import Markup

    links = Links(values.get("origins", {}), server)
    chapters = [
        *html_overview.chapters(values, links),
        *_chapters(document.contents(values)[2:], folder, links),
        *html_overview.provenance(values, links),
    ]
    page = environment().get_template("report.html.j2")
    return page.render(
        title=values["title"],
        facts=_facts(values, links),
        chapters=[Chapter(*chapter) for chapter in chapters],
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
    )


def _facts(values: dict[str, Any], links: Links) -> list[str]:
    """Where and when the study ran, and on what data."""
    git, hardware = values["environment"]["git"], values["environment"]["hardware"]
    origins = values.get("origins", {})
    facts = [f"Generated: {values['generated']}"]
    if EXECUTION in origins:
        name = links.of(EXECUTION, origins[EXECUTION]["name"])
        facts.append(macros("blocks").execution(name))
    if git.get("commit"):
        facts.append(f"commit {git['commit'][:7]}{' (dirty)' if git['dirty'] else ''}")
    gpus = hardware.get("gpu_count")
    cores = f"{hardware['cores'] or '-'} CPU cores"
    facts.append(f"{gpus}x {hardware['gpu_name']}" if gpus else cores)
    data = {origin["data"] for origin in origins.values() if origin.get("data")}
    return facts + ([f"data: {'; '.join(sorted(data))}"] if data else [])


def _chapters(blocks: list[Block], folder: Path, links: Links) -> list[tuple[str, str]]:
    """(heading, content) of every part of level 2 with what follows it."""
    chapters: list[tuple[str, list[Block]]] = []
    for block in blocks:
        if isinstance(block, Part) and block.level == 2:
            chapters.append((block.heading, []))
        chapters[-1][1].append(block)
    return [(heading, _chapter(parts, folder, links)) for heading, parts in chapters]


def _chapter(blocks: list[Block], folder: Path, links: Links) -> str:
    """The content of a section; its figures share a row, and one alone stands beside its list."""
    html = macros("blocks")
    pictures = [block for block in blocks if isinstance(block, Picture)]
    content = []
    for block in blocks:
        if isinstance(block, Part):
            listed = _items(block, links)
            content.append(listed if block.level == 2 else html.part(block.heading, listed))
        elif isinstance(block, Grid):
            content.append(_grid(block, links))
        elif isinstance(block, Text):
            content.append(html.paragraph(block.text))
        elif block is pictures[0]:
            content.append(html.figures([_picture(picture, folder) for picture in pictures]))
    return html.section(content, beside=len(pictures) == 1 and len(blocks) == 2)


def _items(part: Part, links: Links) -> str:
    return macros("blocks").items(
        [
            (
                item.label,
                links.of(item.step or part.step, item.text, item.key),
                len(item.label) + len(item.text) > LONG,
            )
            for item in part.items
        ]
    )


def _grid(block: Grid, links: Links) -> str:
    """A table, its numbers aligned and linked."""
    columns = list(zip(*block.rows))
    numeric = [all(map(NUMBER.match, column)) for column in columns]
    steps = block.columns or [block.step] * len(columns)

    def cell(place: int, column: int) -> str:
        text = block.rows[place][column]
        if not numeric[column]:
            return text
        return links.to(block.runs[place], text) if block.runs else links.of(steps[column], text)

    return macros("elements").table(
        block.header,
        [
            [cell(place, column) for column in range(len(columns))]
            for place in range(len(block.rows))
        ],
        [{"class": "number"} if number else {} for number in numeric],
        long=LONG,
    )


def _picture(picture: Picture, folder: Path) -> tuple[str, str, dict[str, int]]:
    """Caption, content in base64 and, of a PNG, width and height."""
    content = (folder / picture.path).read_bytes()
    size = {}
    if content[:4] == b"\x89PNG":
        size["width"] = int.from_bytes(content[16:20])
        size["height"] = int.from_bytes(content[20:24])
    return picture.caption, base64.b64encode(content).decode(), size
