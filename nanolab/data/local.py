"""The local source: a folder of parquet files in the public schemas, and the CORE bundle beside them."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from nanolab.data.blocks import Blocks, ParquetBlocks, documents_of
from nanolab.data.published import SCHEMAS, CoreTask, Document, checked, published_task, split_name
from nanolab.schema import UserError


class LocalSource:
    """A folder of parquet files: owner/name/config/split.parquet, text/, chat/NAME/, core/.

    A split may also lie in parts, split-00000-of-00002.parquet and so on.
    """

    exchangeable = False  # the public sets are ordered

    def __init__(self, root: Path) -> None:
        self.root = root

    def blocks(self, split: str) -> Blocks:
        """The documents of text/SPLIT-*.parquet in the order of their names."""
        files = sorted((self.root / "text").glob(f"{split}-*.parquet"))
        if not files:
            raise UserError(
                f"no file {self.root}/text/{split}-*.parquet; put parquet files with a column text there"
            )
        return ParquetBlocks([(path.name, lambda path=path: path) for path in files], "local")

    def documents(self, split: str) -> Iterator[Document]:
        """One pass over text/SPLIT-*.parquet."""
        return documents_of(self.blocks(split))

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        """Rows of owner/name/config/split.parquet."""
        published_task(name, subset)
        folder, files = self._folder(name), self._files(name, split)
        if not files:
            have = (
                ", ".join(sorted({path.stem.split("-")[0] for path in folder.glob("*.parquet")}))
                or "no split"
            )
            raise UserError(
                f"no file {folder / split_name(name, split)}.parquet for {name} {split} (that folder has {have}); add it, or "
                "choose a split or task that is there"
            )
        return checked(
            [row for path in files for row in read_parquet(path)], SCHEMAS[name], str(files[0])
        )

    def task_splits(self, name: str) -> tuple[str, ...]:
        """The splits of which there is a file."""
        published_task(name)
        return tuple(
            split for split in ("train", "validation", "dev", "test") if self._files(name, split)
        )

    def has(self, what: str, split: str) -> bool:
        """Whether there is a file of the split; of CORE, tasks.json."""
        if what == "text":
            return any((self.root / "text").glob(f"{split}-*.parquet"))
        if what == "chat":
            return bool(self._chat_files(split))
        return (
            (self.root / "core" / "tasks.json").is_file()
            if what == "core"
            else split in self.task_splits(what)
        )

    def chats(self, split: str) -> list[dict]:
        """Conversations of every chat/NAME/SPLIT.parquet, NAME in order."""
        files = self._chat_files(split)
        if not files:
            raise UserError(
                f"no file {self.root}/chat/NAME/{split}.parquet; put one with a column messages there"
            )
        return [
            row
            for path in files
            for row in checked(read_parquet(path, ["messages"]), {"messages"}, str(path))
        ]

    def core(self) -> list[CoreTask]:
        """The tasks of core/tasks.json; those without a file there have no rows."""
        return read_core(self.root / "core")

    def identity(self) -> str:
        """A hash of every data file's path, size and time of change."""
        return f"local {folder_digest(self.root)}"

    def describe(self, what: str) -> str:
        """Always "local"."""
        return "local"

    def _folder(self, name: str) -> Path:
        published = published_task(name)
        return self.root / published.repository / (published.config or "")

    def _files(self, name: str, split: str) -> list[Path]:
        return split_files(self._folder(name), split_name(name, split))

    def _chat_files(self, split: str) -> list[Path]:
        return [
            path
            for folder in sorted((self.root / "chat").glob("*"))
            for path in split_files(folder, split)
        ]


def split_files(folder: Path, split: str) -> list[Path]:
    """split.parquet, or the parts split-*.parquet in order; empty when neither is there."""
    whole = folder / f"{split}.parquet"
    return [whole] if whole.is_file() else sorted(folder.glob(f"{split}-*.parquet"))


def folder_digest(root: Path) -> str:
    """16 hex digits over the path, size and time of change of every data file below `root`."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name.endswith((".parquet", ".jsonl.gz", ".json")):
            facts = path.stat()
            digest.update(
                f"{path.relative_to(root)} {facts.st_size} {facts.st_mtime_ns}\n".encode()
            )
    return digest.hexdigest()[:16]


def read_parquet(path: Path, columns: list[str] | None = None) -> list[dict]:
    """Every row of a parquet file; UserError when it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is not a readable parquet file ({str(error).splitlines()[0]})"
        ) from error


def read_core(folder: Path) -> list[CoreTask]:
    """The CORE bundle: tasks.json and one jsonl.gz for each task; a task without a file name there has no rows."""
    index = folder / "tasks.json"
    if not index.is_file():
        raise UserError(
            f"no file {index}; put the CORE bundle's tasks.json and data/*.jsonl.gz there"
        )
    tasks = []
    for entry in json.loads(index.read_text()):
        path = folder / (file := entry.get("file") or "")
        try:
            rows = (
                [
                    json.loads(line)
                    for line in gzip.decompress(path.read_bytes()).splitlines()
                    if line.strip()
                ]
                if file
                else []
            )
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UserError(
                f"{path} of CORE task {entry['name']} cannot be read ({error}); restore it or set its file to null"
            ) from error
        tasks.append(
            CoreTask(
                entry["name"],
                entry["icl_task_type"],
                entry["num_fewshot"],
                entry.get("continuation_delimiter", " "),
                entry["random_baseline"] / 100,
                rows,
                entry.get("published_rows"),
                entry.get("status", "exact"),
            )
        )
    return tasks
