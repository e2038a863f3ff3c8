"""The local source: a folder of files in the public schemas, and the CORE bundle beside them."""

import csv
import gzip
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from nanolab.data.sources.blocks import Blocks, DataSource, ParquetBlocks, first_unreadable
from nanolab.data.sources.published import CoreTask, published_task, split_name
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.rows import (
    MEND,
    DamagedData,
    checked_rows,
    checked_tasks,
    fields_of,
    quoted,
)
from nanolab.errors import UserError

FORMATS = (".parquet", ".jsonl", ".csv")  # endings of files of rows


class LocalSource(DataSource):
    """A folder with owner/name/config/split.parquet, text/, chat/NAME/ and core/.

    A split of rows may also lie in parts, split-00000-of-00002.parquet and so on, and in JSON lines
    (.jsonl) or CSV with a header (.csv); text is parquet.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def blocks(self, split: str) -> Blocks:
        files = sorted((self.root / "text").glob(f"{split}-*.parquet"))
        if not files:
            raise UserError(
                f"no file {self.root}/text/{split}-*.parquet; put parquet files with one column"
                " text there"
            )
        return ParquetBlocks([(path.name, path) for path in files], "local")

    def task(self, name: str, split: str, subset: str | None = None) -> list[dict]:
        folder = self.root / published_task(name, subset).local_folder
        if files := split_files(folder, split_name(name, split)):
            return read_rows(files, name, split)
        present = {path.stem.split("-")[0] for path in _row_files(folder, "*")}
        raise UserError(
            f"no file {folder / split_name(name, split)}.parquet for {name} {split} (that folder"
            f" has {', '.join(sorted(present)) or 'no split'}); add it, or choose a split or task"
            " that is there"
        )

    def splits(self, what: str) -> tuple[str, ...]:
        if what == "core":
            return ("test",) if (self.root / "core" / "tasks.json").is_file() else ()
        renamed = TASKS[what].split_names if what in TASKS else {}
        known = [  # but not the public name of what is another split here
            split
            for split in ("train", "validation", "dev", "test")
            if split in renamed or split not in renamed.values()
        ]
        return tuple(split for split in known if self._files(what, split))

    def _files(self, what: str, split: str) -> list:
        if what == "text":
            return list((self.root / "text").glob(f"{split}-*.parquet"))
        if what == "chat":
            return self._chat_sets(split)
        return split_files(self.root / published_task(what).local_folder, split_name(what, split))

    def chats(self, split: str) -> list[dict]:
        if sets := self._chat_sets(split):
            return [row for files in sets for row in read_rows(files, "chat", split)]
        raise UserError(
            f"no file {self.root}/chat/NAME/{split}.parquet; put one with a column messages there"
        )

    def core(self) -> list[CoreTask]:
        return read_core(self.root / "core")

    def identity(self) -> str:
        return f"local {folder_digest(self.root)}"

    def describe(self, what: str) -> str:
        return "local"

    def _chat_sets(self, split: str) -> list[list[Path]]:
        """The files of the split of each chat/NAME that has any."""
        return list(
            filter(None, (split_files(path, split) for path in sorted(self.root.glob("chat/*"))))
        )


def split_files(folder: Path, split: str) -> list[Path]:
    """split.parquet, or the parts split-*.parquet in order, or either as .jsonl; else empty."""
    return _row_files(folder, split) or _row_files(folder, f"{split}-*")


def _row_files(folder: Path, name: str) -> list[Path]:
    for ending in FORMATS:
        if found := sorted(folder.glob(name + ending)):
            return found
    return []


def folder_digest(root: Path) -> str:
    """Of the path, size and time of change of every data file below `root`."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name.endswith((*FORMATS, ".jsonl.gz", ".json")):
            facts = path.stat()
            line = f"{path.relative_to(root)} {facts.st_size} {facts.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()[:16]


def read_rows(paths: list[Path], kind: str, split: str, mend: str = MEND) -> list[dict]:
    """The checked rows (tasks/rows.py) of the files of a split; of chats messages alone.

    A part without rows is let pass beside others.
    """
    rows: list[dict] = []
    for path in paths:
        if path.suffix == ".jsonl":
            lines = _read_lines(path.read_bytes(), str(path))
            found, numbers = list(lines.values()), lines
        elif path.suffix == ".csv":
            found, numbers = _read_csv(path, kind), None
        else:
            found, numbers = _read_parquet(path, kind), None
        if found:
            found = checked_rows(found, kind, str(path), split, mend, numbers)
            rows += [{"messages": row["messages"]} for row in found] if kind == "chat" else found
    return rows or checked_rows(rows, kind, str(paths[0]), split, mend)  # the last refuses none


def _read_parquet(path: Path, kind: str) -> list[dict]:
    import datasets
    import pyarrow

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what it logs is raised below
    try:
        # a stream that is read to its end: nothing is copied into the cache of datasets
        options = {"data_files": str(path), "split": "train", "streaming": True}
        options["batch_size"] = 1000  # else a row group's, perhaps 0
        table = datasets.load_dataset("parquet", **options)
        fields = fields_of(kind)
        if lacking := [name for name in fields if name not in (table.column_names or fields)]:
            raise _lacking(path, lacking, fields)
        return list(table.select_columns(["messages"]) if kind == "chat" else table)
    except UnicodeDecodeError:
        raise _unreadable_value(path) from None
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        said = "holds a value that cannot be read"  # say a date out of range
        if isinstance(error, (pyarrow.ArrowException, OSError)):
            said = "is not a readable parquet file"
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} {said} ({reason}); {MEND}") from error


def _read_csv(path: Path, kind: str) -> list[dict]:
    """By hand, since readers of tables take an answer "NA" for a missing value."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, strict=True)
            names, rows = table.fieldnames or (), list(table)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path} is not a readable CSV file ({error}); {MEND}") from error
    fields = fields_of(kind)
    if lacking := [name for name in fields if name not in names]:
        raise _lacking(path, lacking, fields)
    return rows


def _lacking(path: Path, columns: list[str], fields: tuple[str, ...]) -> UserError:
    return UserError(
        f"{path} lacks column {', '.join(columns)}; its rows must have {', '.join(fields)}"
    )


def _unreadable_value(path: Path) -> DamagedData:
    """The first value of a parquet file that is no valid UTF-8."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    places = [(first_unreadable(table[name]), name) for name in table.column_names]
    row, name = min(place for place in places if place[0] is not None)
    return DamagedData(f"{path}, row {row + 1}: {name} is no valid UTF-8; {MEND}")


def read_core(folder: Path) -> list[CoreTask]:
    """The CORE bundle: tasks.json and a jsonl.gz for each task, except those without rows."""
    index = folder / "tasks.json"
    if not index.is_file():
        raise UserError(
            f"no file {index}; put the CORE bundle's tasks.json and data/*.jsonl.gz there"
        )
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{index} is not readable JSON ({error}); restore it") from error
    return [_core_task(entry, folder) for entry in checked_tasks(entries, str(index))]


def _core_task(entry: dict, folder: Path) -> CoreTask:
    name, kind = entry["name"], entry["icl_task_type"]
    rows = []
    if file := entry.get("file"):
        where = f"{folder / file} of CORE task {name}"
        try:
            content = gzip.decompress((folder / file).read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(
                f"{where} cannot be read ({error}); restore it or set its file to null"
            ) from error
        lines = _read_lines(content, where)
        rows = checked_rows(list(lines.values()), kind, where, numbers=lines)
    delimiter, baseline = entry.get("continuation_delimiter", " "), entry["random_baseline"] / 100
    published, status = entry.get("published_rows"), entry.get("status", "exact")
    return CoreTask(name, kind, entry["num_fewshot"], delimiter, baseline, rows, published, status)


def _read_lines(content: bytes, where: str) -> dict[int, Any]:
    """The JSON values of a file by their lines, from 1 on; blank lines are left out.

    By hand, since a message names the line and its value: pyarrow makes whole columns of one type,
    or dates of text, and a CORE task's rows are of no common schema.
    """
    values = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values[number] = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DamagedData(
                f"{where}, row {number}: {quoted(line.decode(errors='replace'))} is not JSON "
                f"({error}); {MEND}"
            ) from error
    return values
