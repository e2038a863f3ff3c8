"""The figure of the tokenizer's evaluation: bytes per token by kind of text, beside public
tokenizers.
"""

from collections.abc import Iterable

import pandas

from nanolab.figures import style
from nanolab.figures.style import BLUE, COLOURS, Drawn, Row

OURS = "this study"
HATCHES = (None, "//", "..")


def bytes_per_token(rows: Iterable[Row]) -> Drawn:
    """Bars of UTF-8 bytes a token (more is better), the study's tokenizer first. Rows: kind,
    encoding, bytes_per_token, and what else.
    """
    frame = pandas.DataFrame(list(rows))
    figure, (axis,) = style.new_figure(height=2.9)
    style.set_title(axis, "Bytes per token by kind of text")
    if frame.empty:
        style.no_data(axis)
        return figure, frame
    kinds, encodings = list(dict.fromkeys(frame["kind"])), list(dict.fromkeys(frame["encoding"]))
    colours = [BLUE, *(colour for colour in COLOURS if colour != BLUE)]
    width, places = style.bar_places(len(encodings), len(kinds), 0.82)
    for i, encoding in enumerate(encodings):
        own = frame[frame["encoding"] == encoding].set_index("kind").reindex(kinds)
        look = {"hatch": HATCHES[i % len(HATCHES)], "edgecolor": "white", "linewidth": 0}
        bars = axis.bar(
            places[i],
            own["bytes_per_token"],
            width * 0.92,
            color=colours[i % len(colours)],
            label=encoding,
            **look,
        )
        axis.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    style.named_groups(axis, kinds)
    axis.set_ylabel("UTF-8 bytes per token")
    axis.margins(y=0.12)
    if len(encodings) > 1:
        axis.legend(fontsize=8, frameon=False, ncol=len(encodings), loc="upper right")
    return figure, frame
