"""The embedded world: everything a study needs, generated from a seed, in the schemas of the public sets.

Rows are made when first asked for and kept for the process; the same seed gives the same rows everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from nanolab.data.world.chats import chat_rows
from nanolab.data.world.choices import arc_rows, mmlu_rows
from nanolab.data.world.core import core_tasks
from nanolab.data.world.facts import Facts
from nanolab.data.world.problems import problem_rows
from nanolab.data.world.programs import program_rows
from nanolab.data.world.solutions import WORKED, Solutions
from nanolab.data.world.splits import SPLITS, stream
from nanolab.data.world.text import Writer
from nanolab.schema import UserError

ROWS = {  # task -> rows in each split
    "gsm8k": {"train": 20_000, "validation": 400, "test": 1000},
    "arc_easy": {"train": 6000, "validation": 400, "test": 400},
    "arc_challenge": {"train": 6000, "validation": 400, "test": 400},
    "mmlu": {"train": 12_000, "validation": 400, "test": 400},
    "humaneval": {"train": 4000, "validation": 400, "test": 400},
}
CHATS = {"train": 3000, "validation": 200, "test": 200}
VALIDATION_DOCUMENTS = 400


class EmbeddedWorld:
    """Documents, tasks and chats of the world of a seed; `solutions` says how the training solutions of problems are written."""

    def __init__(self, seed: int = 0, solutions: Solutions = WORKED) -> None:
        self.seed, self.solutions = seed, solutions

    def documents(self, split: str) -> Iterator[str]:
        """Pretraining texts: endless for train, 400 for validation.

        Raises UserError for another split.
        """
        if split not in ("train", "validation"):
            raise UserError(
                f"the embedded world has text for train and validation, not for {split!r}"
            )
        if split == "validation":
            return iter(_validation_documents(self.seed))
        return Writer(Facts(self.seed), stream(self.seed, "text", split), split).documents()

    def task(self, name: str, split: str) -> list[dict]:
        """The rows of a task, in the schema of the public set of that name.

        Raises UserError for an unknown task or split.
        """
        if name not in ROWS:
            raise UserError(f"the embedded world has no task {name!r}; it has {', '.join(ROWS)}")
        if split not in SPLITS:
            raise UserError(
                f"the embedded {name} has no split {split!r}; it has {', '.join(SPLITS)}"
            )
        return list(
            _task(
                self.seed,
                self.solutions if name == "gsm8k" and split == "train" else WORKED,
                name,
                split,
            )
        )

    def chats(self, split: str) -> list[dict]:
        """Conversations {messages}; raises UserError for an unknown split."""
        if split not in CHATS:
            raise UserError(
                f"the embedded chats have no split {split!r}; they have {', '.join(CHATS)}"
            )
        return list(_chats(self.seed, split))

    def core_tasks(self) -> list[dict]:
        """Six tasks in the prompt forms of CORE: {name, kind, num_fewshot, continuation_delimiter, random_baseline, rows}."""
        return list(_core(self.seed))


@lru_cache(maxsize=64)
def _task(seed: int, solutions: Solutions, name: str, split: str) -> tuple[dict, ...]:
    facts, rng = Facts(seed), stream(seed, "task", name, split)
    if name == "gsm8k":
        rows = problem_rows(seed, rng, split, solutions)
    elif name == "humaneval":
        rows = program_rows(seed, rng, split)
    elif name == "mmlu":
        rows = mmlu_rows(facts, rng, split)
    else:
        rows = arc_rows(facts, rng, split, 1 if name == "arc_easy" else 2)
    return _distinct(rows, ROWS[name][split])


def _distinct(rows: Iterator[dict], count: int) -> tuple[dict, ...]:
    """The first `count` rows that differ in what is asked (question and choices, or prompt)."""
    kept: dict[str, dict] = {}
    for tried, row in enumerate(rows):
        assert tried < 50 * count, f"only {len(kept)} of {count} distinct rows after {tried} draws"
        kept.setdefault(f"{row.get('question', row.get('prompt'))} {row.get('choices')}", row)
        if len(kept) == count:
            return tuple(kept.values())
    raise AssertionError("rows are endless")


@lru_cache(maxsize=16)
def _chats(seed: int, split: str) -> tuple[dict, ...]:
    rows = chat_rows(Facts(seed), stream(seed, "chats", split), split)
    return tuple(row for _, row in zip(range(CHATS[split]), rows))


@lru_cache(maxsize=4)
def _core(seed: int) -> tuple[dict, ...]:
    return tuple(core_tasks(Facts(seed)))


@lru_cache(maxsize=4)
def _validation_documents(seed: int) -> tuple[str, ...]:
    texts: dict[str, None] = {}
    for text in Writer(Facts(seed), stream(seed, "text", "validation"), "validation").documents():
        texts[text] = None
        if len(texts) == VALIDATION_DOCUMENTS:
            return tuple(texts)
    raise AssertionError("documents are endless")
