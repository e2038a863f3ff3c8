"""The public data sets at pinned revisions, and what a source hands out."""

from dataclasses import dataclass

from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.task import Published
from nanolab.errors import UserError


@dataclass(frozen=True)
class Document:
    """A pretraining text and an id that is unique in its source."""

    id: str
    text: str


@dataclass(frozen=True)
class CoreTask:
    """A CORE-style task; `kind` is multiple_choice, schema or language_modeling, `random_baseline`
    lies between 0 and 1.
    """

    name: str
    kind: str
    num_fewshot: int
    continuation_delimiter: str
    random_baseline: float
    rows: list[dict]  # empty: its data is absent
    published_rows: int | None = None  # None: not known
    status: str = "exact"  # how the rows stand to the published ones


TEXT = Published(
    "HuggingFaceFW/fineweb-edu",
    "sample-100BT",
    "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9",
    "sample/100BT",
)
CHAT = Published(
    "HuggingFaceTB/smol-smoltalk", None, "f73fe857d519ff6ac5af2ea67c4d3834da7b8bcc", "data"
)
PUBLISHED = {"text": TEXT, "chat": CHAT} | {name: task.published for name, task in TASKS.items()}


def published_task(name: str, subset: str | None = None) -> Published:
    """The public set of a task; its `subset` may only be the config that this lab reads."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}")
    published = TASKS[name].published
    if subset not in (None, published.config):
        raise UserError(f"{name} has no subset {subset!r}; it has {published.config}")
    return published


def split_name(task: str, split: str) -> str:
    """What the public set calls a split: MMLU's training rows are auxiliary_train."""
    return TASKS[task].split_names.get(split, split) if task in TASKS else split


def mlflow_source(what: str, description: str) -> tuple[str, dict[str, str | None]]:
    """MLflow's kind of source, and what it stores of one, for a source that `description` says.

    Of the hub it is what `mlflow.data.get_source(...).load()` gives to `datasets.load_dataset`.
    """
    published = PUBLISHED.get(what)
    if published is None or description != f"hub {published}":
        return "local", {"uri": description}
    names = {"path": published.repository, "config_name": published.config}
    return "hugging_face", names | {"revision": published.revision}
