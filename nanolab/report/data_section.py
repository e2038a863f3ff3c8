"""What the report says of tokenizer and data: bytes per token by kind of text, and the overlap of
training text with the benchmarks.

Both are tables that step tok_eval records. A study without them has none of these lines.
"""

from typing import Any

from nanolab.report.blocks import Block, Grid, Item, Part, Text, grid

Rows = list[dict[str, Any]]

CORPORA = {"text": "text", "chats": "chats", "tasks": "task rows"}  # key in the records -> label
EXAMPLE_CHARACTERS = 110


def kinds_table(rows: Rows) -> Grid:
    """Bytes per token: a row for each kind of text, a column for each tokenizer."""
    encodings = list(dict.fromkeys(row["encoding"] for row in rows))
    kinds = {row["kind"]: row for row in rows}
    found = {(row["kind"], row["encoding"]): f"{float(row['bytes_per_token']):.2f}" for row in rows}
    return grid(
        ["bytes per token", "from", "bytes", *encodings],
        [
            [
                kind,
                row["origin"],
                f"{int(row['bytes']):,}",
                *(found.get((kind, name), "-") for name in encodings),
            ]
            for kind, row in kinds.items()
        ],
        "tok_eval",
    )


def overlap_section(found: dict[str, Any]) -> list[Block]:
    """The section "Data" of tok_eval's values: what was compared, then the benchmarks with an item
    that shares a run of words with it.

    Benchmarks without any shared run are named in a line, so that the table shows what there is to
    look at. Nothing without "overlap", the recorded rows.
    """
    rows: Rows = found.get("overlap", [])
    if not rows:
        return []
    sizes = sorted(
        {int(key.rpartition("_")[2]) for key in rows[0] if key.startswith("long_")}, reverse=True
    )
    columns = [
        (f"{corpus}_{n}", f"{label}, {n} words") for corpus, label in CORPORA.items() for n in sizes
    ]
    items = [
        Item(
            f"training {label} compared with the benchmarks",
            found[f"overlap/{corpus}"],
            f"overlap/{corpus}",
        )
        for corpus, label in CORPORA.items()
        if f"overlap/{corpus}" in found
    ]
    clean = [row["benchmark"] for row in rows if not any(row[key] for key, _ in columns)]
    if clean:
        items.append(Item(f"no shared run of {min(sizes)} words or more", ", ".join(clean)))
    if found.get("overlap/missing"):
        items.append(Item("not compared", found["overlap/missing"], "overlap/missing"))
    blocks: list[Block] = [
        Part("Data: overlap of training text with the benchmarks", tuple(items), step="tok_eval")
    ]
    dirty = [row for row in rows if row["benchmark"] not in clean]
    if dirty:
        blocks.append(
            Text(
                "Test items of which a run of words stands in the training data, and an example, of"
                " the longer run:"
            )
        )
        blocks.append(
            grid(
                ["benchmark", "items", *(label for _, label in columns), "example"],
                [
                    [
                        row["benchmark"],
                        str(int(row["items"])),
                        *(share_of(row[key], row["items"]) for key, _ in columns),
                        _cell(row["example"]),
                    ]
                    for row in dirty
                ],
                "tok_eval",
            )
        )
    return blocks


def share_of(count: Any, items: Any) -> str:
    """A count with its share of `items` in percent; "-" for what was not compared."""
    if count is None:
        return "-"
    share = 100 * int(count) / int(items)
    if not int(count):
        return "0"
    return f"{int(count)} ({share:.0f}%)" if share >= 10 else f"{int(count)} ({share:.2g}%)"


def _cell(text: str) -> str:
    text = text.replace("|", " ")
    return text if len(text) <= EXAMPLE_CHARACTERS else text[:EXAMPLE_CHARACTERS] + "..."
