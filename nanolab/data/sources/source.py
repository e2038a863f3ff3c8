"""Where documents, tasks, chats and CORE rows come from: the embedded world, a local folder, or the
hub, told apart by `describe` alone.
"""

import os

from nanolab import files
from nanolab.data.sources.blocks import Blocks, DataSource, GeneratedBlocks
from nanolab.data.sources.hub import HubSource
from nanolab.data.sources.local import LocalSource
from nanolab.data.sources.published import CoreTask, Document, published_task
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.rows import checked_rows
from nanolab.data.world.splits import SPLITS
from nanolab.data.world.world import ROWS, EmbeddedWorld, Solutions
from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.settings.config import DataConfig


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
            f"data.root = {folder} is not a folder; give the folder that holds text/, chat/, core/"
            " and the task sets"
        )
    return LocalSource(folder)


class EmbeddedSource(DataSource):
    """The procedural world."""

    exchangeable = True

    def __init__(self, data: DataConfig) -> None:
        self.world = EmbeddedWorld(
            data.seed, Solutions(data.short_guesses, data.rambling_guesses, data.wordy_steps)
        )

    def blocks(self, split: str) -> Blocks:
        self.world.documents(split)  # refuses an unknown split here
        return GeneratedBlocks(
            lambda: (
                Document(f"embedded/{split}/{i}", text)
                for i, text in enumerate(self.world.documents(split))
            )
        )

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        published_task(name, subset)
        return checked_rows(self.world.task(name, split), name, f"embedded {name} {split}", split)

    def splits(self, what: str) -> tuple[str, ...]:
        if what in TASKS and what not in ROWS:
            return ()
        return {"text": SPLITS[:2], "core": SPLITS[2:]}.get(what, SPLITS)

    def chats(self, split: str) -> list[dict]:
        return checked_rows(self.world.chats(split), "chat", f"embedded chats {split}", split)

    def core(self) -> list[CoreTask]:
        tasks = [CoreTask(**task) for task in self.world.core_tasks()]
        for task in tasks:
            checked_rows(task.rows, task.kind, f"embedded CORE task {task.name}")
        return tasks

    def identity(self) -> str:
        # the code of the world is part of every fingerprint already
        return f"embedded seed={self.world.seed} {self.world.solutions}"

    def describe(self, what: str) -> str:
        return "embedded"
