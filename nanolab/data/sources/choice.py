"""Which rows of a task are asked when a setting asks for fewer than there are."""

from nanolab import seeds
from nanolab.data.sources.source import DataSource


def chosen_rows(
    source: DataSource, rows: list[dict], name: str, split: str, count: int | None
) -> list[dict]:
    """`count` of the rows of a task's split (None: all), for every stage, seed and world the same.

    Public sets are ordered (MMLU by subject), so these are the first of one fixed permutation,
    drawn at the address (0, "rows", name, split): fewer rows are a part of more.
    """
    if count is None or count >= len(rows):
        return rows
    if source.exchangeable:
        return rows[:count]
    order = seeds.generator(0, "rows", name, split).permutation(len(rows))
    return [rows[place] for place in order[:count].tolist()]


def repeated_rows(rows: list[dict]) -> int:
    """How many rows are an exact repeat of an earlier one."""
    return len(rows) - len({repr(row) for row in rows})
