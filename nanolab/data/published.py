"""The public data sets by their published names at pinned revisions, their columns and splits, and what a source hands out."""

from __future__ import annotations

from dataclasses import dataclass

from nanolab.schema import UserError


@dataclass(frozen=True)
class Document:
    """A pretraining text and an id that is unique in its source."""

    id: str
    text: str


@dataclass(frozen=True)
class CoreTask:
    """A CORE-style task; `kind` is multiple_choice, schema or language_modeling, `random_baseline` lies between 0 and 1."""

    name: str
    kind: str
    num_fewshot: int
    continuation_delimiter: str
    random_baseline: float
    rows: list[dict]  # empty: its data is absent
    published_rows: int | None = None  # None: not known
    status: str = "exact"  # how the rows stand to the published ones


@dataclass(frozen=True)
class Published:
    """A public data set: its repository, its config, the revision this lab reads, and the folder of its parquet files there."""

    repository: str
    config: str | None
    revision: str
    folder: str


TASKS = {
    "gsm8k": Published("openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866", "main"),
    "arc_easy": Published(
        "allenai/ai2_arc", "ARC-Easy", "210d026faf9955653af8916fad021475a3f00453", "ARC-Easy"
    ),
    "arc_challenge": Published(
        "allenai/ai2_arc",
        "ARC-Challenge",
        "210d026faf9955653af8916fad021475a3f00453",
        "ARC-Challenge",
    ),
    "mmlu": Published("cais/mmlu", "all", "c30699e8356da336a370243923dbaf21066bb9fe", "all"),
    "humaneval": Published(
        "openai/openai_humaneval",
        "openai_humaneval",
        "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
        "openai_humaneval",
    ),
}
TEXT = Published(
    "HuggingFaceFW/fineweb-edu",
    "sample-100BT",
    "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
    "sample/100BT",
)
CHAT = Published(
    "HuggingFaceTB/smol-smoltalk", None, "f73fe857d519ff6ac5af2ea67c4d3834da7b8bcc", "data"
)

TASK_SPLITS = {
    "gsm8k": ("train", "test"),
    "arc_easy": ("train", "validation", "test"),
    "arc_challenge": ("train", "validation", "test"),
    "mmlu": ("train", "validation", "dev", "test"),
    "humaneval": ("test",),
}  # of the public sets
SPLIT_NAMES = {("mmlu", "train"): "auxiliary_train"}  # what a public set calls it
ARC = {"question", "choices", "answerKey"}
SCHEMAS = {
    "gsm8k": {"question", "answer"},
    "arc_easy": ARC,
    "arc_challenge": ARC,
    "mmlu": {"question", "subject", "choices", "answer"},
    "humaneval": {"task_id", "prompt", "canonical_solution", "test", "entry_point"},
}


def published_task(name: str, subset: str | None = None) -> Published:
    """The public set of a task; UserError for an unknown task, or a subset that is not the config this lab reads."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}")
    if subset not in (None, TASKS[name].config):
        raise UserError(f"{name} has no subset {subset!r}; it has {TASKS[name].config}")
    return TASKS[name]


def split_name(task: str, split: str) -> str:
    """What the public set calls a split: MMLU's training rows are auxiliary_train."""
    return SPLIT_NAMES.get((task, split), split)


def checked(rows: list[dict], columns: set[str], where: str) -> list[dict]:
    """The rows; UserError naming `where` when there are none or a column is missing."""
    missing = columns - set(rows[0]) if rows else columns
    if missing:
        lacking = f"column {', '.join(sorted(missing))}" if rows else "rows"
        raise UserError(f"{where} lacks {lacking}; its rows must have {', '.join(sorted(columns))}")
    return rows
