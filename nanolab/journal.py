"""What a stage records while it runs: the `Run` handed to stages, and a `NullRun` that keeps everything in memory.

A run appends lines to journal.jsonl in its work folder. `courier.Courier`, in the process that launched the stage,
carries them to MLflow while the stage works. So a stage process does not import mlflow (2 to 3 s of processor time), a
slow server never holds up training, and a killed process loses nothing: the next attempt replays the journal.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

JOURNAL = "journal.jsonl"
PROGRESS_SECONDS = 0.5  # between two records of progress


class Run:
    """The record of one step, or of one grid point of a step (a grandchild run)."""

    def __init__(self, folder: Path | str, id: str = ""):
        self.id = id
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._point: str | None = None
        self._shown = ("", 0.0)  # part and time of the last record of progress
        _drop_cut_line(self.folder / JOURNAL)
        self._last: dict[
            tuple[str | None, str], int
        ] = {}  # (point, key) -> last step, earlier attempts included
        for record in read_journal(self.folder):
            if record["kind"] == "metrics" and record["step"] is not None:
                self._remember(record["point"], record["metrics"], record["step"])
        self._earlier = dict(self._last)
        self._file = open(self.folder / JOURNAL, "a", encoding="utf-8")  # noqa: SIM115  (closed by close)

    def params(self, values: dict[str, Any]) -> None:
        """Records settings; a setting that was recorded before must keep its value."""
        self._write("params", params={key: _plain(value) for key, value in values.items()})

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Records numbers, at a step of a curve or once. A point that an earlier attempt recorded is not repeated."""
        if step is not None:
            values = {
                key: value
                for key, value in values.items()
                if self._earlier.get((self._point, key), step - 1) < step
            }
            self._remember(self._point, values, step)
        if values:
            self._write(
                "metrics", metrics={key: float(value) for key, value in values.items()}, step=step
            )

    def progress(
        self, what: str, done: int, total: int, unit: str, accuracy: float | None = None
    ) -> None:
        """Records how far the part `what` of the step is, at most every half second; it goes to no run, only to who watches."""
        if (
            done == total
            or what != self._shown[0]
            or time.monotonic() - self._shown[1] >= PROGRESS_SECONDS
        ):
            self._shown = (what, time.monotonic())
            self._write("progress", what=what, done=done, total=total, unit=unit, accuracy=accuracy)

    def last_step(self, key: str) -> int | None:
        """The last step recorded for `key`, in this attempt or an earlier one."""
        return self._last.get((self._point, key))

    def tag(self, key: str, value: Any) -> None:
        """Records a label; a later value replaces an earlier one."""
        self._write("tag", key=key, value=str(value))

    def dataset(
        self, name: str, source: str, digest: str, context: str, rows: int | None = None
    ) -> None:
        """Records a data set that this run reads, e.g. ("gsm8k", "embedded", digest, "evaluation", 200 rows)."""
        self._write("dataset", name=name, source=source, digest=digest, context=context, rows=rows)

    def artifact(self, path: Path | str, folder: str = "") -> None:
        """Records a file, to be shown in `folder` of the run's artifacts. The file is copied at once."""
        name = f"{folder}/{Path(path).name}" if folder else Path(path).name
        target = self._target(name)
        if Path(path).resolve() != target.resolve():
            shutil.copyfile(path, target)
        self._write("artifact", name=name)

    def text(self, text: str, name: str) -> None:
        """Records a text as the file `name`, e.g. "samples.md"."""
        self._target(name).write_text(text, encoding="utf-8")
        self._write("artifact", name=name)

    def table(self, rows: list[dict[str, Any]], name: str) -> None:
        """Records rows with equal keys as a table `name`, e.g. "samples.json", which the MLflow UI shows as one."""
        columns = list(rows[0]) if rows else []
        content = {
            "columns": columns,
            "data": [[_plain(row.get(column)) for column in columns] for row in rows],
        }
        self._target(name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        self._write("artifact", name=name, table=True)

    def figure(self, figure: Any, name: str, data: Any = None) -> None:
        """Records a matplotlib figure as `name`, e.g. "plots/loss.png", and its data (a DataFrame) as .csv beside it."""
        figure.savefig(self._target(name), dpi=120, bbox_inches="tight")
        self._write("artifact", name=name)
        if data is not None:
            table = str(Path(name).with_suffix(".csv"))
            data.to_csv(self._target(table), index=False)
            self._write("artifact", name=table)

    def point(self, name: str, params: dict[str, Any]) -> Run:
        """One point of a grid, a run below this one: `with run.point("alpha=4 T=0.7", {"alpha": 4.0}) as point: ...`."""
        point = object.__new__(type(self))
        point.__dict__.update(self.__dict__)
        point._point = name
        point._write("point", params={key: _plain(value) for key, value in params.items()})
        return point

    def flush(self) -> None:
        """Hands what was recorded to the operating system (each record already is)."""
        self._file.flush()

    def close(self) -> None:
        """Ends the recording; the status of the run is set by the process that launched it."""
        self._file.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._point is not None:
            self._write("end", status="FINISHED" if kind is None else "FAILED")
        else:
            self.close()

    def _remember(self, point: str | None, values: dict[str, float], step: int) -> None:
        for key in values:
            self._last[point, key] = max(step, self._last.get((point, key), step))

    def _target(self, name: str) -> Path:
        path = self.folder / "artifacts" / (_slug(self._point) if self._point else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write(self, kind: str, **fields: Any) -> None:
        record = {"kind": kind, "point": self._point, "time": round(time.time() * 1000), **fields}
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()


class NullRun(Run):
    """A run that writes nothing to disk and keeps all records in memory, for tests and for ranks above 0."""

    def __init__(self, id: str = "null"):
        self.id = id
        self.logged_params: dict[str, Any] = {}
        self.logged_metrics: list[tuple[str, float, int | None]] = []
        self.tags: dict[str, str] = {}
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.texts: dict[str, str] = {}
        self.figures: dict[str, tuple[Any, Any]] = {}
        self.artifacts: list[tuple[str, str]] = []
        self.datasets: list[dict[str, str]] = []
        self.points: dict[str, NullRun] = {}
        self.shown: list[tuple[str, int, int, str]] = []

    def params(self, values: dict[str, Any]) -> None:
        self.logged_params.update(values)

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.logged_metrics += [(key, float(value), step) for key, value in values.items()]

    def progress(
        self, what: str, done: int, total: int, unit: str, accuracy: float | None = None
    ) -> None:
        self.shown.append((what, done, total, unit))

    def last_step(self, key: str) -> int | None:
        return max(
            (step for name, _, step in self.logged_metrics if name == key and step is not None),
            default=None,
        )

    def tag(self, key: str, value: Any) -> None:
        self.tags[key] = str(value)

    def dataset(
        self, name: str, source: str, digest: str, context: str, rows: int | None = None
    ) -> None:
        self.datasets.append(
            {"name": name, "source": source, "digest": digest, "context": context, "rows": rows}
        )

    def artifact(self, path: Path | str, folder: str = "") -> None:
        self.artifacts.append((str(path), folder))

    def text(self, text: str, name: str) -> None:
        self.texts[name] = text

    def table(self, rows: list[dict[str, Any]], name: str) -> None:
        self.tables[name] = rows

    def figure(self, figure: Any, name: str, data: Any = None) -> None:
        self.figures[name] = (figure, data)

    def point(self, name: str, params: dict[str, Any]) -> NullRun:
        point = NullRun(f"{self.id}/{name}")
        point.logged_params.update(params)
        self.points[name] = point
        return point

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        """Nothing is open."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Nothing to end."""


def read_journal(folder: Path | str, offset: int = 0) -> list[dict[str, Any]]:
    """The records of a work folder's journal from byte `offset`; a last line cut by a crash is left out."""
    return read_journal_from(folder, offset)[0]


def read_journal_from(folder: Path | str, offset: int) -> tuple[list[dict[str, Any]], int]:
    """The whole records from byte `offset` on, and the offset after them."""
    path = Path(folder) / JOURNAL
    if not path.is_file():
        return [], offset
    with open(path, "rb") as file:
        file.seek(offset)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], offset + len(whole)


def _drop_cut_line(path: Path) -> None:
    """Removes the unfinished last line that a killed attempt may have left."""
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            path.write_bytes(content[: content.rfind(b"\n") + 1])


def artifact_file(folder: Path | str, name: str, point: str | None = None) -> Path:
    """Where the file behind an artifact record lies."""
    return Path(folder) / "artifacts" / (_slug(point) if point else "") / name


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=_-]+", "_", name)


def _plain(value: Any) -> Any:
    """`value` as JSON has it: paths as text, numpy scalars as numbers."""
    if isinstance(value, (str, int, float, bool, list, dict)) or value is None:
        return value
    return value.item() if hasattr(value, "item") else str(value)
