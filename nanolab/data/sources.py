"""Where documents, tasks, chats and CORE rows come from: the embedded world, a local folder, or the hub.

All three give rows in the public schemas; who reads them cannot tell them apart, and `describe` says which it was.
Libraries (datasets, pyarrow) are imported when a source first needs them.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from nanolab.config import ROOT, DataConfig
from nanolab.data.world.world import EmbeddedWorld, Solutions
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
    """A public data set: its repository, its config and the revision this lab reads."""

    repository: str
    config: str | None
    revision: str


TASKS = {
    "gsm8k": Published("openai/gsm8k", "main", "740312add88f781978c0658806c59bc2815b9866"),
    "arc_easy": Published("allenai/ai2_arc", "ARC-Easy", "210d026faf9955653af8916fad021475a3f00453"),
    "arc_challenge": Published("allenai/ai2_arc", "ARC-Challenge", "210d026faf9955653af8916fad021475a3f00453"),
    "mmlu": Published("cais/mmlu", "all", "c30699e8356da336a370243923dbaf21066bb9fe"),
    "humaneval": Published("openai/openai_humaneval", "openai_humaneval", "7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544"),
}
TEXT = Published("HuggingFaceFW/fineweb-edu", "sample-100BT", "87f09149ef4734204d70ed1d046ddc9ca3f2b8f9")
CHAT = Published("HuggingFaceTB/smol-smoltalk", None, "f73fe857d519ff6ac5af2ea67c4d3834da7b8bcc")

TASK_SPLITS = {"gsm8k": ("train", "test"), "arc_easy": ("train", "validation", "test"), "arc_challenge": ("train", "validation", "test"),
               "mmlu": ("train", "validation", "dev", "test"), "humaneval": ("test",)}  # of the public sets
SPLIT_NAMES = {("mmlu", "train"): "auxiliary_train"}  # what a public set calls it
ARC = {"question", "choices", "answerKey"}
SCHEMAS = {"gsm8k": {"question", "answer"}, "arc_easy": ARC, "arc_challenge": ARC, "mmlu": {"question", "subject", "choices", "answer"},
           "humaneval": {"task_id", "prompt", "canonical_solution", "test", "entry_point"}}
HUB_VALIDATION_DOCUMENTS = 1000  # the first documents of the text stream, never trained on
PROBE_SECONDS = 3.0


class DataSource(Protocol):
    """Documents, tasks, chats and CORE rows from one place."""

    def documents(self, split: str) -> Iterator[Document]:
        """Texts of "train" or "validation"; embedded training text is endless, the others are one pass."""

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        """Rows of a task in its public schema; UserError for a task, subset or split that is not there."""

    def task_splits(self, name: str) -> tuple[str, ...]:
        """The splits this source has for a task, so that a mixture can be planned (HumanEval has no public training split)."""

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
    root = data.root or os.environ.get("NANOLAB_DATA")
    if data.source == "hub":
        return HubSource(ROOT / root if root else None)
    if not root:
        raise UserError("data.source = local needs a folder: set data.root, or the variable NANOLAB_DATA, to it")
    folder = ROOT / root  # an absolute root stays itself
    if not folder.is_dir():
        raise UserError(f"data.root = {folder} is not a folder; give the folder that holds text/, chat/, core/ and the task sets")
    return LocalSource(folder)


class EmbeddedSource:
    """The procedural world."""

    def __init__(self, data: DataConfig) -> None:
        self.world = EmbeddedWorld(data.seed, Solutions(data.short_guesses, data.rambling_guesses, data.wordy_steps))

    def documents(self, split: str) -> Iterator[Document]:
        """Endless for train, 400 documents for validation."""
        return (Document(f"embedded/{split}/{i}", text) for i, text in enumerate(self.world.documents(split)))

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        """Rows of a task; `subset` may only be the public config's own name."""
        _published(name, subset)
        return self.world.task(name, split)

    def task_splits(self, name: str) -> tuple[str, ...]:
        """Every task has train, validation and test."""
        return ("train", "validation", "test")

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


class LocalSource:
    """A folder of parquet files: owner/name/config/split.parquet, text/, chat/NAME/, core/."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def documents(self, split: str) -> Iterator[Document]:
        """One pass over text/SPLIT-*.parquet in the order of their names."""
        files = sorted((self.root / "text").glob(f"{split}-*.parquet"))
        if not files:
            raise UserError(f"no file {self.root}/text/{split}-*.parquet; put parquet files with a column text there")
        return _parquet_documents(files)

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        """Rows of owner/name/config/split.parquet."""
        published = _published(name, subset)
        path = self.root / published.repository / published.config / f"{SPLIT_NAMES.get((name, split), split)}.parquet"
        if not path.is_file():
            have = ", ".join(sorted(p.stem for p in path.parent.glob("*.parquet"))) or "no split"
            raise UserError(f"no file {path} for {name} {split} (that folder has {have}); add it, or choose a split or task that is there")
        return _checked(read_parquet(path), SCHEMAS[name], str(path))

    def task_splits(self, name: str) -> tuple[str, ...]:
        """The splits of which there is a file."""
        published = _published(name, None)
        folder = self.root / published.repository / published.config
        return tuple(s for s in ("train", "validation", "dev", "test") if (folder / f"{SPLIT_NAMES.get((name, s), s)}.parquet").is_file())

    def chats(self, split: str) -> list[dict]:
        """Conversations of every chat/NAME/SPLIT.parquet, NAME in order."""
        files = sorted((self.root / "chat").glob(f"*/{split}.parquet"))
        if not files:
            raise UserError(f"no file {self.root}/chat/NAME/{split}.parquet; put one with a column messages there")
        return [row for path in files for row in _checked(read_parquet(path, ["messages"]), {"messages"}, str(path))]

    def core(self) -> list[CoreTask]:
        """The tasks of core/tasks.json; those without a file there have no rows."""
        return read_core(self.root / "core")

    def identity(self) -> str:
        """A hash of every data file's path, size and time of change."""
        digest = hashlib.sha256()
        for path in sorted(self.root.rglob("*")):
            if path.is_file() and path.name.endswith((".parquet", ".jsonl.gz", ".json")):
                facts = path.stat()
                digest.update(f"{path.relative_to(self.root)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        return f"local {digest.hexdigest()[:16]}"

    def describe(self, what: str) -> str:
        """Always "local"."""
        return "local"


class HubSource:
    """The published sets at pinned revisions, through `datasets`; CORE, which has no hub set, from `root`/core."""

    def __init__(self, root: Path | None) -> None:
        self.root = root

    def documents(self, split: str) -> Iterator[Document]:
        """Streamed; the first thousand documents are validation, the rest train."""
        if split not in ("train", "validation"):
            raise UserError(f"the hub text has train and validation, not {split!r}")
        rows = self._load(TEXT, "train", streaming=True)
        rows = rows.take(HUB_VALIDATION_DOCUMENTS) if split == "validation" else rows.skip(HUB_VALIDATION_DOCUMENTS)
        return (Document(f"{TEXT.repository}/{split}/{i}", row["text"]) for i, row in enumerate(rows))

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        """Rows of the public set."""
        published = _published(name, subset)
        if split not in TASK_SPLITS[name]:
            raise UserError(f"hub {published.repository} has no split {split!r}; it has {', '.join(TASK_SPLITS[name])}")
        return _checked(list(self._load(published, SPLIT_NAMES.get((name, split), split))), SCHEMAS[name], f"hub {published.repository}")

    def task_splits(self, name: str) -> tuple[str, ...]:
        """The splits of the public set."""
        _published(name, None)
        return TASK_SPLITS[name]

    def chats(self, split: str) -> list[dict]:
        """Conversations of train or test."""
        if split not in ("train", "test"):
            raise UserError(f"hub {CHAT.repository} has no split {split!r}; it has train, test")
        return [{"messages": row["messages"]} for row in self._load(CHAT, split)]

    def core(self) -> list[CoreTask]:
        """The CORE bundle of a local folder; UserError when there is none."""
        if self.root is None:
            raise UserError("the CORE tasks have no hub set: set data.root, or the variable NANOLAB_DATA, to a folder with core/tasks.json")
        return read_core(self.root / "core")

    def identity(self) -> str:
        """The pinned revisions, and the local folder of CORE."""
        return f"hub {self.root} " + " ".join(f"{p.repository}@{p.revision[:12]}" for p in (TEXT, CHAT, *TASKS.values()))

    def describe(self, what: str) -> str:
        """Repository and revision; "local" for CORE."""
        if what == "core":
            return "local"
        published = {"text": TEXT, "chat": CHAT}.get(what) or _published(what, None)
        return f"hub {published.repository}@{published.revision[:12]}"

    def _load(self, published: Published, split: str, streaming: bool = False) -> Any:
        """The split as `datasets` gives it; UserError of one line within 10 seconds when the hub cannot be reached."""
        require_hub(advice := "use data.source: local (a folder) or embedded (generated), neither needs a network")
        from datasets import load_dataset  # costs seconds, so only here
        try:
            return load_dataset(published.repository, published.config, split=split, revision=published.revision, streaming=streaming)
        except (ConnectionError, OSError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(f"hub {published.repository} could not be read ({reason}); {advice}") from error


def require_hub(advice: str) -> None:
    """Raises UserError within seconds when the hub cannot be reached, where its client would retry for half a minute.

    Not probed: behind a proxy (a socket says nothing there) and with HF_HUB_OFFLINE=1 (the cache is asked at once).
    """
    if os.environ.get("HF_HUB_OFFLINE") in ("1", "true", "True") or any(os.environ.get(n) for n in ("HTTPS_PROXY", "https_proxy")):
        return
    address = urlparse(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    host, port = address.hostname or "huggingface.co", address.port or (80 if address.scheme == "http" else 443)
    if not _within(PROBE_SECONDS, lambda: socket.create_connection((host, port), PROBE_SECONDS).close()):
        raise UserError(f"the hub ({host}) cannot be reached; {advice}")


def _within(seconds: float, connect: Callable[[], None]) -> bool:
    """Whether `connect` succeeds in time; its own thread, since a name lookup knows no time limit."""
    reached = []

    def attempt() -> None:
        with contextlib.suppress(OSError):  # said by `reached` staying empty
            connect()
            reached.append(True)

    (thread := threading.Thread(target=attempt, daemon=True)).start()
    thread.join(seconds + 1)
    return bool(reached)


def read_parquet(path: Path, columns: list[str] | None = None) -> list[dict]:
    """Every row of a parquet file; UserError when it cannot be read."""
    import pyarrow
    import pyarrow.parquet
    try:
        return pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file ({str(error).splitlines()[0]})") from error


def _parquet_documents(files: list[Path]) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet
    for path in files:
        try:
            batches = pyarrow.parquet.ParquetFile(path).iter_batches(columns=["text"])
            for number, text in enumerate(text for batch in batches for text in batch.column("text").to_pylist()):
                yield Document(f"{path.name}:{number}", text)
        except (pyarrow.ArrowException, OSError, KeyError) as error:
            raise UserError(f"{path} must be a parquet file with a column text ({str(error).splitlines()[0]})") from error


def read_core(folder: Path) -> list[CoreTask]:
    """The CORE bundle: tasks.json and one jsonl.gz for each task; a task without a file name there has no rows."""
    index = folder / "tasks.json"
    if not index.is_file():
        raise UserError(f"no file {index}; put the CORE bundle's tasks.json and data/*.jsonl.gz there")
    tasks = []
    for entry in json.loads(index.read_text()):
        path = folder / (file := entry.get("file") or "")
        try:
            rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines() if line.strip()] if file else []
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UserError(f"{path} of CORE task {entry['name']} cannot be read ({error}); restore it or set its file to null") from error
        tasks.append(CoreTask(entry["name"], entry["icl_task_type"], entry["num_fewshot"], entry.get("continuation_delimiter", " "),
                              entry["random_baseline"] / 100, rows, entry.get("published_rows"), entry.get("status", "exact")))
    return tasks


def _published(name: str, subset: str | None) -> Published:
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; the tasks are {', '.join(TASKS)}")
    if subset not in (None, TASKS[name].config):
        raise UserError(f"{name} has no subset {subset!r}; it has {TASKS[name].config}")
    return TASKS[name]


def _checked(rows: list[dict], columns: set[str], where: str) -> list[dict]:
    missing = columns - set(rows[0]) if rows else columns
    if missing:
        lacking = f"column {', '.join(sorted(missing))}" if rows else "rows"
        raise UserError(f"{where} lacks {lacking}; its rows must have {', '.join(sorted(columns))}")
    return rows
