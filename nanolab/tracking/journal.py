"""What a stage records while it runs, in journal.jsonl of its work folder.

A stage process imports no mlflow (2 to 3 s); courier.py, in the process that launched it, carries
the lines on.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanolab.errors import UserError

JOURNAL = "journal.jsonl"
PROGRESS_SECONDS = 0.5  # between two records of progress


def status_of(error: BaseException | None) -> str:
    """How a run ended, in MLflow's words."""
    if error is None:
        return "FINISHED"
    return "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"


class Run:
    """The record of one step, or of one grid point of a step."""

    def __init__(self, folder: Path | str, id: str = ""):
        """`id` is that of the MLflow run, where it is known."""
        self.id, self.folder = id, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        drop_damaged_end(self.folder)
        earlier = {
            (record["point"], key, record["step"])
            for record in read_journal(self.folder)
            if record["kind"] == "metrics"
            for key in record["metrics"]
        }
        self._begin(earlier)
        self._file = open(self.folder / JOURNAL, "a", encoding="utf-8")  # noqa: SIM115  (closed by close)

    def _begin(self, earlier: set[tuple[str | None, str, int | None]]) -> None:
        self._point: str | None = None
        self._earlier = earlier  # points of curves that earlier attempts recorded
        self._shown = ("", 0.0)  # part and time of the last record of progress

    def params(self, values: dict[str, Any]) -> None:
        """Records settings, which never change."""
        self._write("params", params={key: _plain(value) for key, value in values.items()})

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Records numbers, at a step of a curve or once; points of earlier attempts are not
        repeated.
        """
        numbers = {
            key: float(value)
            for key, value in values.items()
            if step is None or (self._point, key, step) not in self._earlier
        }
        if numbers:
            self._write("metrics", metrics=numbers, step=step)

    def progress(
        self, what: str, done: int, total: int, unit: str, accuracy: float | None = None
    ) -> None:
        """Records, at most every half second, how far a part of the step is; it goes to no MLflow
        run.
        """
        part, when = self._shown
        now = time.monotonic()
        if done == total or what != part or now - when >= PROGRESS_SECONDS:
            self._shown = (what, now)
            self._write("progress", what=what, done=done, total=total, unit=unit, accuracy=accuracy)

    def tag(self, key: str, value: Any) -> None:
        """Records a label; a later one replaces it."""
        self._write("tag", key=key, value=str(value))

    def dataset(
        self, name: str, source: str, digest: str, context: str, rows: int | None = None
    ) -> None:
        """Records a data set that is read: ("gsm8k", "embedded", digest, "evaluation", 200)."""
        self._write("dataset", name=name, source=source, digest=digest, context=context, rows=rows)

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Copies a file, to be shown in `folder` of the run's artifacts."""
        path = Path(path)

        def write(target: Path) -> None:
            if path.resolve() != target.resolve():
                shutil.copyfile(path, target)

        self._save(str(Path(folder, path.name)), write)

    def text(self, text: str, name: str) -> None:
        """Records a text as the file `name`, e.g. "samples.md"."""
        self._save(name, lambda target: target.write_text(text, encoding="utf-8"))

    def table(self, rows: list[dict[str, Any]], name: str) -> None:
        """Records rows with equal keys as the file `name` (JSON), which MLflow's UI shows as a
        table.
        """
        columns = list(rows[0]) if rows else []
        data = [[_plain(row.get(column)) for column in columns] for row in rows]
        text = json.dumps({"columns": columns, "data": data}, ensure_ascii=False)
        self._save(name, lambda target: target.write_text(text, encoding="utf-8"), table=True)

    def figure(self, figure: Any, name: str, data: Any = None) -> None:
        """Records a matplotlib figure as `name`, and its data (a DataFrame) as .csv beside it."""
        self._save(name, lambda target: figure.savefig(target, dpi=120, bbox_inches="tight"))
        if data is not None:
            table = str(Path(name).with_suffix(".csv"))
            self._save(table, lambda target: data.to_csv(target, index=False))

    def point(self, name: str, params: dict[str, Any]) -> Run:
        """One point of a grid, a run below this one, for a `with` statement."""
        point = copy.copy(self)
        point._point = name
        point._write("point", params={key: _plain(value) for key, value in params.items()})
        return point

    def flush(self) -> None:
        """Has what was recorded written to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the recording; the run's status is set by the process that launched the stage."""
        self.flush()
        self._file.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._point is None:
            self.close()
        else:
            self._write("end", status=status_of(error))

    def _save(self, name: str, write: Callable[[Path], Any], **fields: Any) -> None:
        path = artifact_file(self.folder, name, self._point)
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        self._write("artifact", name=name, **fields)

    def _write(self, kind: str, **fields: Any) -> None:
        record = {"kind": kind, "point": self._point, "time": round(time.time() * 1000), **fields}
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()


class NullRun(Run):
    """Writes no file and keeps what tests ask for; of ranks above 0 too."""

    def __init__(self) -> None:
        self._begin(set())
        self.logged_params: dict[str, Any] = {}
        self.logged_metrics: list[tuple[str, float, int | None]] = []
        self.datasets: list[dict[str, Any]] = []
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.figures: dict[str, tuple[Any, Any]] = {}
        self.points: dict[str, NullRun] = {}

    def table(self, rows: list[dict[str, Any]], name: str) -> None:
        self.tables[name] = rows

    def figure(self, figure: Any, name: str, data: Any = None) -> None:
        self.figures[name] = (figure, data)

    def point(self, name: str, params: dict[str, Any]) -> NullRun:
        self.points[name] = NullRun()
        self.points[name].params(params)
        return self.points[name]

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _save(self, name: str, write: Callable[[Path], Any], **fields: Any) -> None:
        pass

    def _write(self, kind: str, **fields: Any) -> None:
        if kind == "params":
            self.logged_params |= fields["params"]
        elif kind == "metrics":
            numbers = fields["metrics"].items()
            self.logged_metrics += [(key, value, fields["step"]) for key, value in numbers]
        elif kind == "dataset":
            self.datasets.append(fields)


def read_journal(folder: Path | str) -> list[dict[str, Any]]:
    """The records of a work folder's journal; a last line cut by a crash is left out."""
    return read_journal_from(folder, 0)[0]


def read_journal_from(folder: Path | str, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole records from byte `offset` on, and the offset after them."""
    path = Path(folder) / JOURNAL
    if not path.is_file():
        return [], offset
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    try:
        return [json.loads(line) for line in whole.splitlines()], offset + len(whole)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged (a line from byte {offset} on is no JSON): remove {path.parent} and"
            " run its step again"
        ) from error


def drop_damaged_end(folder: Path | str) -> None:
    """Removes the first line that a kill or a power cut damaged, and what follows it."""
    path = Path(folder) / JOURNAL
    if path.is_file():
        content = path.read_bytes()
        lines = itertools.takewhile(_is_record, content.splitlines(keepends=True))
        whole = sum(map(len, lines))
        if whole < len(content):
            os.truncate(path, whole)


def _is_record(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def artifact_file(folder: Path | str, name: str, point: str | None = None) -> Path:
    """Where the file behind an artifact record lies."""
    return Path(folder) / "artifacts" / re.sub(r"[^A-Za-z0-9.=_-]+", "_", point or "") / name


def _plain(value: Any) -> Any:
    """`value` as JSON has it: paths as text, numpy scalars as numbers."""
    if isinstance(value, (str, int, float, bool, list, dict)) or value is None:
        return value
    return value.item() if hasattr(value, "item") else str(value)
