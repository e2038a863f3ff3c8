"""A table in the terminal: with colours on a terminal, plain columns elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from nanolab.terminal import is_live


def show_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    last: Sequence[str] = (),
    left: int = 1,
) -> None:
    """Prints a table with a title above and, if given, a last row of sums; the first `left` columns are aligned to the left."""
    if is_live(sys.stdout):
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=title,
            title_justify="left",
            show_footer=bool(last),
            header_style="bold",
            box=None,
            pad_edge=False,
        )
        for place, name in enumerate(header):
            table.add_column(
                name,
                last[place] if last else "",
                justify="left" if place < left else "right",
                footer_style="bold",
                no_wrap=place >= left,
            )
        for row in rows:
            table.add_row(*map(Text, row))  # brackets of a path are no markup
        Console().print(table)
        return
    lines = [list(header), *map(list, rows), *([list(last)] if last else [])]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    print(title)
    for line in lines:
        print(
            "  ".join(
                cell.ljust(width) if place < left else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(line, widths))
            ).rstrip()
        )
