"""Which accuracies that stand side by side are of the same problems, in a line that says so."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nanolab.results import Score, answered, read_flat
from nanolab.wording import MISSING

Values = Mapping[str, Any]


class Asked(NamedTuple):
    """The problems of an accuracy: how many, and the digest of their rows ("": none recorded)."""

    n: int
    digest: str


def asked(values: Values, task: str) -> Asked | None:
    """The problems behind a task's accuracy among a step's values; None where they are unknown."""
    return asked_of(answered(read_flat("", values), task), values)


def asked_of(row: Score | None, params: Values) -> Asked | None:
    """The problems of an accuracy, with the parameters of its run."""
    if row is None or row.n is None:
        return None
    split = params.get("split", "test")  # only a power evaluation can ask another
    return Asked(round(float(row.n)), digest(params, row.task, split))


def digest(values: Values, task: str, split: str = "test") -> str:
    """The parameter by which a run names the problems that it was asked ("": none)."""
    return str(values.get(f"problems.{task}.{split}") or "")


def difference(found: Sequence[Asked | None]) -> str:
    """Why accuracies cannot be compared; "" where they are known to be of the same problems."""
    if len(found) < 2 or (len(set(found)) == 1 and found[0] and found[0].digest):
        return ""
    known = all(problems and problems.digest for problems in found)
    return f"not {'' if known else 'known to be '}the same problems"


def notes(
    columns: Mapping[str, Values], tasks: Mapping[str, str], across: str = "column"
) -> list[str]:
    """What is comparable in a table of accuracies: a line for the rows whose columns are of the
    same problems, one for each other row; none for a row in which an accuracy does not know its
    problems. `columns` gives the values behind each heading, `tasks` the task of each row's label.
    """
    alike = [
        f"{label} {next(iter(row.values())).n}"
        for label, row in _known_rows(columns, tasks).items()
        if not difference(list(row.values()))
    ]
    lines = [f"Problems, the same in every {across} of a row: {', '.join(alike)}."] if alike else []
    return lines + differing(columns, tasks)


def differing(columns: Mapping[str, Values], tasks: Mapping[str, str]) -> list[str]:
    """A line for each row of `notes` whose columns are not of the same problems."""
    lines = []
    for label, row in _known_rows(columns, tasks).items():
        if why := difference(list(row.values())):
            groups = defaultdict(list)
            for column, problems in row.items():
                groups[problems].append(column)
            said = ", ".join(f"{' and '.join(names)} of {one.n}" for one, names in groups.items())
            lines.append(f"{label}: {said}, {why}: compare only within these groups")
    return lines


def _known_rows(columns: Mapping[str, Values], tasks: Mapping[str, str]) -> dict[str, Any]:
    """Label -> column -> the problems of its accuracy."""
    rows = {}
    for label, task in tasks.items():
        has = {name: values for name, values in columns.items() if values.get(task) not in MISSING}
        found = {name: asked(values, task) for name, values in has.items()}
        if found and None not in found.values():
            rows[label] = found
    return rows
