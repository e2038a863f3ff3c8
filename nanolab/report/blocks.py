"""What a report is made of: parts with their lines, tables, figures and paragraphs, each with the
step and key it comes from.

nanolab/report/document.py makes them of the values of a study and writes them as Markdown,
nanolab/report/html_page.py as a page: the two say the same because they are made of the same
blocks.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A line of a part: "label: text". `key` is the metric or parameter that it shows, where it is
    one, of `step` if not the part's.
    """

    label: str
    text: str
    key: str = ""
    step: str = ""


@dataclass(frozen=True)
class Part:
    """A heading with the list that follows it; `step` is the step whose run its values stand in."""

    heading: str
    items: tuple[Item, ...] = ()
    level: int = 2
    step: str = ""


@dataclass(frozen=True)
class Grid:
    """A table. `runs` names the MLflow run behind each row, `columns` the step behind each column,
    where it is not `step`.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    step: str = ""
    runs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    widths: tuple[
        int, ...
    ] = ()  # of the columns in Markdown, padded; without them cells are as wide as they are


@dataclass(frozen=True)
class Picture:
    """A figure by its path beside the report."""

    caption: str
    path: str
    step: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


Block = Part | Grid | Picture | Text


def grid(
    header: list[str], rows: list[list[str]], step: str = "", runs: list[str] | None = None
) -> Grid:
    """A table of lists."""
    return Grid(tuple(header), tuple(map(tuple, rows)), step, tuple(runs or ()))


def to_markdown(block: Block) -> str:
    """A block in Markdown, without a newline at its end."""
    if isinstance(block, Part):
        return "\n".join(
            [
                f"{'#' * block.level} {block.heading}",
                *(f"- {item.label}: {item.text}" for item in block.items),
            ]
        )
    if isinstance(block, Picture):
        return f"![{block.caption}]({block.path})"
    if isinstance(block, Text):
        return block.text
    if not block.widths:
        rule = ["---"] * len(block.header)
        return "\n".join("| " + " | ".join(row) + " |" for row in (block.header, rule, *block.rows))
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, block.widths)) + " |"
        for row in (block.header, *block.rows)
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in block.widths) + "|")
    return "\n".join(lines)
