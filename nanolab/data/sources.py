"""Where documents, tasks, chats and CORE rows come from: the embedded world, a local folder, or the hub.

All three give rows in the public schemas; who reads them cannot tell them apart, and `describe` says which it was.
Libraries (pyarrow, tqdm) are imported when a source first needs them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Protocol

from nanolab import files
from nanolab.config import ROOT, DataConfig
from nanolab.data.blocks import Blocks, GeneratedBlocks, documents_of
from nanolab.data.hub import HubSource
from nanolab.data.local import LocalSource
from nanolab.data.published import CoreTask, Document, published_task
from nanolab.data.world.world import EmbeddedWorld, Solutions
from nanolab.schema import UserError


class DataSource(Protocol):
    """Documents, tasks, chats and CORE rows from one place."""

    exchangeable: (
        bool  # whether a task's rows come in no order, so that its first rows are a fair sample
    )

    def blocks(self, split: str) -> Blocks:
        """Texts of "train" or "validation" in numbered blocks; embedded training text is endless."""

    def documents(self, split: str) -> Iterator[Document]:
        """The same texts one by one."""

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        """Rows of a task in its public schema; UserError for a task, subset or split that is not there."""

    def task_splits(self, name: str) -> tuple[str, ...]:
        """The splits this source has for a task, so that a mixture can be planned (HumanEval has no public training split)."""

    def has(self, what: str, split: str) -> bool:
        """Whether there is such a split of a task, "text", "chat" or "core" (which has one), as far as can be told without a network."""

    def chats(self, split: str) -> list[dict]:
        """Conversations {messages: [{role, content}]} of "train" or "test"."""

    def core(self) -> list[CoreTask]:
        """The CORE-style tasks, those whose data is absent among them, without rows."""

    def identity(self) -> str:
        """A text that changes when the data changes; part of every fingerprint."""

    def describe(self, what: str) -> str:
        """Where `what` (a task, "text", "chat" or "core") comes from: "embedded", "local" or "hub owner/name@revision"."""


def open_source(data: DataConfig) -> DataSource:
    """The source that a study names; nothing is read or reached yet.

    Raises UserError when the local source has no folder.
    """
    if data.source == "embedded":
        return EmbeddedSource(data)
    if data.source == "hub":  # NANOLAB_DATA may be a folder of other rows under the same names
        return HubSource(ROOT / data.root if data.root else files.MLRUNS / "hub")
    root = data.root or os.environ.get("NANOLAB_DATA")
    if not root:
        raise UserError(
            "data.source = local needs a folder: set data.root, or the variable NANOLAB_DATA, to it"
        )
    folder = ROOT / root  # an absolute root stays itself
    if not folder.is_dir():
        raise UserError(
            f"data.root = {folder} is not a folder; give the folder that holds text/, chat/, core/ and the task sets"
        )
    return LocalSource(folder)


class EmbeddedSource:
    """The procedural world."""

    exchangeable = True

    def __init__(self, data: DataConfig) -> None:
        self.world = EmbeddedWorld(
            data.seed, Solutions(data.short_guesses, data.rambling_guesses, data.wordy_steps)
        )

    def blocks(self, split: str) -> Blocks:
        """Endless for train, 400 documents for validation."""
        self.world.documents(split)  # refuses an unknown split here
        return GeneratedBlocks(
            lambda: (
                Document(f"embedded/{split}/{i}", text)
                for i, text in enumerate(self.world.documents(split))
            )
        )

    def documents(self, split: str) -> Iterator[Document]:
        """Endless for train, 400 documents for validation."""
        return documents_of(self.blocks(split))

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        """Rows of a task; `subset` may only be the public config's own name."""
        published_task(name, subset)
        return self.world.task(name, split)

    def task_splits(self, name: str) -> tuple[str, ...]:
        """Every task has train, validation and test."""
        published_task(name)
        return ("train", "validation", "test")

    def has(self, what: str, split: str) -> bool:
        """Everything has train, validation and test; text has no test."""
        return what == "core" or split in (
            ("train", "validation") if what == "text" else ("train", "validation", "test")
        )

    def chats(self, split: str) -> list[dict]:
        """Conversations of train, validation or test."""
        return self.world.chats(split)

    def core(self) -> list[CoreTask]:
        """The world's six tasks."""
        return [CoreTask(**task) for task in self.world.core_tasks()]

    def identity(self) -> str:
        """The seed and how solutions are written; the code of the world is part of every fingerprint already."""
        return f"embedded seed={self.world.seed} {self.world.solutions}"

    def describe(self, what: str) -> str:
        """Always "embedded"."""
        return "embedded"
