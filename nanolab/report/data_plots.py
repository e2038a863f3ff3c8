"""The figure of the tokenizer's evaluation: bytes per token by kind of text, beside public tokenizers."""

from __future__ import annotations

from collections.abc import Iterable

import pandas
from matplotlib.figure import Figure

from nanolab.report.canvas import BLUE, COLOURS, Row, new_figure, no_data, set_title

OURS = "this study"


def bytes_per_token(rows: Iterable[Row]) -> tuple[Figure, pandas.DataFrame]:
    """Bars of UTF-8 bytes a token (more is better), the study's tokenizer first. Rows: kind, encoding, bytes_per_token, and what else."""
    frame = pandas.DataFrame(list(rows))
    figure, (axis,) = new_figure(height=2.9)
    set_title(axis, "Bytes per token by kind of text")
    if not len(frame):
        no_data(axis)
        return figure, frame
    kinds, encodings = list(dict.fromkeys(frame["kind"])), list(dict.fromkeys(frame["encoding"]))
    colours = [BLUE, *(colour for colour in COLOURS if colour != BLUE)]
    width = 0.82 / len(encodings)
    for i, encoding in enumerate(encodings):
        values = (
            frame[frame["encoding"] == encoding].set_index("kind")["bytes_per_token"].reindex(kinds)
        )
        places = [j - 0.41 + width * (i + 0.5) for j in range(len(kinds))]
        bars = axis.bar(
            places,
            values,
            width * 0.92,
            color=colours[i % len(colours)],
            label=encoding,
            hatch=(None, "//", "..")[i % 3],
            edgecolor="white",
            linewidth=0,
        )
        axis.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    axis.set_xticks(range(len(kinds)), kinds)
    axis.tick_params(axis="x", length=0)
    axis.set_ylabel("UTF-8 bytes per token")
    axis.margins(y=0.12)
    if len(encodings) > 1:
        axis.legend(fontsize=8, frameon=False, ncol=len(encodings), loc="upper right")
    return figure, frame
