"""A result is a typed row: what was measured, on what, and how sure it is. No torch, no MLflow.

Stages hand over rows, and whoever shows a result reads rows. The charts of MLflow need flat names
("greedy/p_value"): `flat` makes them, and `read_flat` reads the stores of versions that kept
nothing else. A flat name is put together or taken apart in this file alone.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from nanolab.data.tasks.catalogue import TASKS
from nanolab.settings.config import STEPS
from nanolab.settings.model_source import is_outside

FILE = "scores.json"  # artifact of a step's run: its rows
FINAL = "final/"  # how the names of a step's final values begin in MLflow
TRAINED = {
    "base_train": "base",
    "base_loss": "base",
    "base_eval": "base",
    "mid_train": "mid",
    "sft": "sft",
    "rl": "rl",
}
SETTINGS = (
    "alpha",
    "temperature",
    "num_steps",
    "n",
)  # of a chosen point that are numbers in MLflow


@dataclass(frozen=True)
class Score:
    """One measured number; what does not apply is left empty."""

    metric: str  # accuracy, pass_at_k, loss, bits_per_byte, acceptance, ...
    value: float
    task: str = ""  # gsm8k, ...; hellaswag, ... of CORE
    suite: str = ""  # core: asked as CORE asks, where arc_easy is not the chat task of that name
    part: str = ""  # a subject of MMLU, a kind of text
    model: str = ""  # base, mid, sft, rl, or one from outside
    method: str = ""  # how answers were drawn: power, greedy, ...; "" where a model is just asked
    moment: str = ""  # before or after learning
    chosen: str = ""  # best: the best point of a grid; baseline: the best that costs no more
    split: str = ""  # of the text: train, validation
    k: int = 0  # of pass@k
    settings: dict[str, float] = field(default_factory=dict)  # of a chosen point
    n: float | None = None  # problems, rows of text, or steps that the value is a mean of
    passed: float | None = None
    low: float | None = None  # 95% interval
    high: float | None = None
    chance: float | None = None  # accuracy of guessing
    standard_error: float | None = None
    tokens: float | None = None  # that a loss is a mean of
    positions: float | None = None  # token positions forwarded a problem
    p_value: float | None = None  # McNemar's exact test, of the same problems ...
    against: str = ""  # ... passed by this method, or before learning

    @property
    def name(self) -> str:
        """Its flat name."""
        return _names(self)[0]


@dataclass(frozen=True)
class StepResult:
    """What a step ends with: rows, and facts that are no measurements (data, status, ...)."""

    rows: list[Score] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Everything under flat names."""
        return flat(self.rows) | self.facts


def scalars(**values: float) -> list[Score]:
    """Rows of numbers that their metric alone describes."""
    return [Score(metric, value) for metric, value in values.items()]


def select(rows: Iterable[Score], **wanted: Any) -> list[Score]:
    """The rows with these fields."""
    return [row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())]


def first(rows: Iterable[Score], **wanted: Any) -> Score | None:
    """The first row with these fields."""
    return next(iter(select(rows, **wanted)), None)


def answered(rows: Iterable[Score], task: str) -> Score | None:
    """How the model of a step did on a chat task: simply asked, or with power sampling."""
    found = select(rows, metric="accuracy", task=task, suite="", part="", moment="", chosen="")
    return next((row for row in found if row.method in ("", "power")), None)


def accuracies(rows: Iterable[Score]) -> dict[str, Score]:
    """Method -> its accuracy, of a power evaluation."""
    found = select(rows, metric="accuracy", moment="", chosen="")
    return {row.method: row for row in found if row.method}


def pass_at_k(rows: Iterable[Score], **wanted: Any) -> list[Score]:
    """The rows of pass@k with these fields, by k."""
    return sorted(select(rows, metric="pass_at_k", **wanted), key=lambda row: row.k)


def model_of(step: str, source: str = "") -> str:
    """The model that a step trains, evaluates or samples; `source` as the step's settings name
    it.
    """
    if is_outside(source):
        return source
    if step in TRAINED or step not in STEPS:
        return TRAINED.get(step, "")
    return source or STEPS[step].fixed.get("source", "")


def of_model(rows: Iterable[Score], model: str) -> list[Score]:
    """The rows with their model."""
    return [replace(row, model=model) for row in rows]


# ---- JSON


def to_json(rows: Iterable[Score]) -> list[dict[str, Any]]:
    """Rows as plain values; what is empty is left out."""
    empty = asdict(Score("", float("nan")))
    return [
        {key: value for key, value in asdict(row).items() if value != empty[key]} for row in rows
    ]


def from_json(values: Iterable[Mapping[str, Any]]) -> list[Score]:
    """The rows that `to_json` wrote, their numbers as floats, as MLflow gives metrics; a field of a
    later version is left out.
    """
    known = {one.name for one in fields(Score)}
    return [
        Score(
            **{
                key: float(value) if isinstance(value, int) and key != "k" else value
                for key, value in row.items()
                if key in known
            }
        )
        for row in values
    ]


# ---- flat names


def flat(rows: Iterable[Score]) -> dict[str, Any]:
    """Rows under flat names, for MLflow's charts: {"greedy/accuracy": 0.5, "greedy/low": ...}."""
    values: dict[str, Any] = {}
    for row in rows:
        key, details = _names(row)
        values[key] = row.value
        for detail, name in details.items():
            value = getattr(row, detail)
            if value is not None:
                values[name] = value if row.method or row.metric != "accuracy" else float(value)
        if row.chosen:
            values |= {f"{row.chosen}_{key}": row.settings[key] for key in row.settings}
    return values


def plain(row: Score) -> dict[str, float]:
    """An accuracy as a point of a grid has it in MLflow, where its run says what it is of."""
    names = {"accuracy": "value", **{name: detail for detail, name in SAMPLED.items()}}
    found = {name: getattr(row, detail) for name, detail in names.items()}
    return {name: value for name, value in found.items() if value is not None}


def read_plain(values: Mapping[str, float]) -> list[Score]:
    """The accuracy that `plain` wrote among a grid point's values, if there is one."""
    if "accuracy" not in values:
        return []
    known = {detail: values[name] for detail, name in SAMPLED.items() if name in values}
    return [Score("accuracy", values["accuracy"], **known)]


ASKED = {name: name for name in ("n", "passed", "low", "high", "chance")}
SAMPLED = {
    "passed": "passed",
    "n": "total",
    "low": "low",
    "high": "high",
    "positions": "positions_per_problem",
    "p_value": "p_value",
}
CHOSEN = ("low", "high", "positions", "p_value", "method")


def _names(row: Score) -> tuple[str, dict[str, str]]:
    """The flat name of a row's value, and those of what it has besides, by field."""
    if row.chosen:
        start = f"{row.chosen}_"
        return f"{start}accuracy", {one: start + SAMPLED.get(one, one) for one in CHOSEN}
    if row.moment:
        key = f"{row.method}/{row.moment}"
        details = {one: f"{key}_{one}" for one in ("passed", "low", "high")}
        details |= {one: f"{row.method}/{one}" for one in ("n", "p_value")}
        return key, details
    if row.metric == "pass_at_k":
        key = f"{row.method or row.task}/pass_at_{row.k}"
        return key, {one: f"{key}_{one}" for one in ("low", "high")}
    if row.metric == "accuracy" and row.part:
        part = re.sub(r"[^\w.\- :]", "_", row.part.replace("&", "and"))  # what MLflow takes
        return f"{row.task}/subject/{part}", {}
    if row.metric == "accuracy" and row.method:
        start = "" if row.method == "power" else f"{row.method}/"
        details = {one: start + name for one, name in SAMPLED.items()}
        return row.task if row.method == "power" else f"{start}accuracy", details
    if row.metric == "accuracy":
        key = f"core/{row.task}" if row.suite else row.task
        return key, {one: f"{key}/{name}" for one, name in ASKED.items()}
    if row.metric.startswith("accuracy_"):
        key = f"{'core/' if row.suite else ''}{row.task}/{row.metric}"
        return key, {one: f"{key}/{name}" for one, name in ASKED.items()}
    if row.split:
        key, start = f"{row.split}_{row.metric}", f"{row.split}_"
        return key, {"standard_error": f"{key}_se", "tokens": f"{start}tokens", "n": f"{start}rows"}
    if row.metric == "loss":
        return "loss", {"standard_error": "loss_se", "tokens": "loss_tokens", "n": "loss_steps"}
    if row.part:
        return f"{row.metric}/{row.part}", {}
    of_task = row.metric in OF_TASKS and not row.method
    of = row.task if of_task else row.method.removeprefix("power")
    key = f"{of}/{row.metric}" if of else row.metric
    return key, {"standard_error": f"{key}_se"}


# metrics of a task that is just asked, whose name stands before them
OF_TASKS = ("macro", "micro", "cut_share", "no_answer_share", "commonest_choice_share")
NAMES = "|".join(TASKS)
SHARES = "no_tool_share|cut_share|no_answer_share"  # of a method
PATTERNS = (  # of flat names -> the fields that their parts are
    (r"core/(?P<task>[^/]+)", {"metric": "accuracy", "suite": "core"}),
    (r"(?P<chosen>best|baseline)_accuracy", {"metric": "accuracy"}),
    (r"(?P<method>\w+)/(?P<moment>before|after)", {"metric": "accuracy", "task": "gsm8k"}),
    (r"(?P<task>\w+)/subject/(?P<part>.+)", {"metric": "accuracy"}),
    (r"core/(?P<task>[^/]+)/(?P<metric>accuracy_(norm|sum))", {"suite": "core"}),
    (rf"(?P<task>{NAMES})/(?P<metric>{'|'.join(OF_TASKS)}|accuracy_norm)", {}),
    (rf"(?P<method>\w+)/(?P<metric>accuracy|{SHARES})", {}),
    (rf"(?P<metric>{SHARES})", {"method": "power"}),
    (r"(?P<metric>bytes_per_token)/(?P<part>.+)", {}),
    (r"(?P<split>train|validation)_(?P<metric>bits_per_byte)", {}),
)


def read_flat(step: str, values: Mapping[str, Any], model: str = "") -> list[Score]:
    """The rows behind a step's flat numbers, as versions before this file recorded them."""
    sampling = step.startswith("power_eval") or "total" in values
    task = next((task for task in TASKS if task in values), "") if sampling else ""
    numbers = {
        key: value
        for key, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    rows = {key: _row_of(key, value, task) for key, value in numbers.items()}
    details = {name for row in rows.values() for name in _names(row)[1].values()}
    details |= {f"{row.chosen}_{key}" for row in rows.values() if row.chosen for key in SETTINGS}
    return [
        replace(_detailed(row, values), model=model)
        for key, row in rows.items()
        if key not in details
    ]


def _row_of(key: str, value: float, task: str) -> Score:
    """The row of a flat name without its details; `task` is that of a power evaluation."""
    if key in TASKS:
        return Score("accuracy", value, task=key, method="power" if task else "")
    if match := re.fullmatch(r"(\w+)/pass_at_(\d+)", key):
        of = {"task": task, "method": match[1]} if task else {"task": match[1]}
        return Score("pass_at_k", value, k=int(match[2]), **of)
    for pattern, more in PATTERNS:
        if match := re.fullmatch(pattern, key):
            found = {"task": task} | more | match.groupdict()
            return Score(value=value, **found)
    return Score(key, value)


def _detailed(row: Score, values: Mapping[str, Any]) -> Score:
    """The row, completed from the flat values."""
    found = {one: values[name] for one, name in _names(row)[1].items() if name in values}
    if row.moment == "before":
        found.pop("p_value", None)
    if row.chosen:
        names = {key: f"{row.chosen}_{key}" for key in SETTINGS}
        found["settings"] = {key: values[name] for key, name in names.items() if name in values}
    against = {"moment": "before"} if row.moment else {}
    if "p_value" in found and not row.chosen:
        found["against"] = "before" if against else "power"
    return replace(row, **found)
