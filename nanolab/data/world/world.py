"""The embedded world: everything a study needs, generated from a seed, in the schemas of the public
sets. Rows are made when first asked for and kept for the process.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from operator import itemgetter

from nanolab.data.world.chats import chat_rows
from nanolab.data.world.choices import arc_rows, mmlu_rows
from nanolab.data.world.core import core_tasks
from nanolab.data.world.facts import Facts
from nanolab.data.world.problems import problem_rows
from nanolab.data.world.programs import program_rows
from nanolab.data.world.solutions import WORKED, Solutions
from nanolab.data.world.splits import SPLITS, distinct, stream
from nanolab.data.world.text import Writer
from nanolab.errors import UserError

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
    """The world of a seed; `solutions` says how training solutions of problems are written."""

    def __init__(self, seed: int = 0, solutions: Solutions = WORKED) -> None:
        self.seed, self.solutions = seed, solutions

    def documents(self, split: str) -> Iterator[str]:
        """Pretraining texts: endless for train, 400 for validation."""
        if split not in ("train", "validation"):
            raise UserError(
                f"the embedded world has text for train and validation, not for {split!r}"
            )
        if split == "validation":
            return iter(_validation_documents(self.seed))
        return Writer(Facts(self.seed), stream(self.seed, "text", split), split).documents()

    def task(self, name: str, split: str) -> list[dict]:
        """The rows of a task, in the schema of the public set of that name."""
        if name not in ROWS:
            raise UserError(f"the embedded world has no task {name!r}; it has {', '.join(ROWS)}")
        if split not in SPLITS:
            raise UserError(
                f"the embedded {name} has no split {split!r}; it has {', '.join(SPLITS)}"
            )
        solutions = self.solutions if (name, split) == ("gsm8k", "train") else WORKED
        return list(_task(self.seed, solutions, name, split))

    def chats(self, split: str) -> list[dict]:
        """Conversations {messages: [{role, content}]}."""
        if split not in CHATS:
            raise UserError(
                f"the embedded chats have no split {split!r}; they have {', '.join(CHATS)}"
            )
        return list(_chats(self.seed, split))

    def core_tasks(self) -> list[dict]:
        """Six tasks in the prompt forms of CORE."""
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
    return tuple(distinct(rows, _asked, ROWS[name][split]))


def _asked(row: dict) -> str:
    """What a row asks: question and choices, or prompt."""
    return f"{row.get('question', row.get('prompt'))} {row.get('choices')}"


@lru_cache(maxsize=16)
def _chats(seed: int, split: str) -> tuple[dict, ...]:
    rows = chat_rows(Facts(seed), stream(seed, "chats", split), split)
    return tuple(islice(rows, CHATS[split]))


@lru_cache(maxsize=4)
def _core(seed: int) -> tuple[dict, ...]:
    return tuple(core_tasks(Facts(seed)))


@lru_cache(maxsize=4)
def _validation_documents(seed: int) -> tuple[str, ...]:
    writer = Writer(Facts(seed), stream(seed, "text", "validation"), "validation")
    rows = ({"text": text} for text in writer.documents())
    return tuple(row["text"] for row in distinct(rows, itemgetter("text"), VALIDATION_DOCUMENTS))
