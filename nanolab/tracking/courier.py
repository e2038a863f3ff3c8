"""Carries a stage's journal to MLflow, from the process that launched the stage."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.results import FINAL
from nanolab.tracking import notes, run_reader, run_writer, system_metrics, traces
from nanolab.tracking.journal import artifact_file, read_journal_from

POLL_SECONDS = 2.0


class Courier:
    """Carries the journal of a work folder to one MLflow run while the stage still writes it.
    `open_run` gives its id, in a thread, so that MLflow's slow import overlaps with the stage's
    start; `on_failure` is called when it fails.
    """

    def __init__(
        self,
        folder: Path,
        open_run: Callable[[], str],
        on_failure: Callable[[], None] | None = None,
    ):
        self.folder = folder
        self.run_id = ""
        self.error: Exception | None = None
        self._open_run = open_run
        self._on_failure = on_failure
        self._offset = 0  # bytes of the journal that were carried
        self._points: dict[str, str] = {}  # grid point -> run id
        self._last_start = 0  # of a grid point: the UI orders points by it, so no two are equal
        self._datasets: list[dict[str, Any]] = []  # that the step reads; so do its grid points
        self._tables: dict[str, dict[str, None]] = defaultdict(dict)  # run id -> names, in order
        self._sums: dict[str, dict[str, str]] = defaultdict(dict)  # run id -> artifact -> SHA-256
        self._samples = system_metrics.samples(folder)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def finish(
        self, status: str, result: dict[str, Any] | None = None, ended: float | None = None
    ) -> str:
        """Delivers what is left, ends the run (`ended`: seconds since 1970), and returns its id;
        raises what the thread met. A number of `result` becomes the metric final/<key>, a text the
        tag.
        """
        self._stop.set()
        self._thread.join()
        if not self.run_id:
            raise self.error or RuntimeError("the run was not opened")
        self._deliver()
        given = {f"{FINAL}{key}": value for key, value in (result or {}).items()}
        numbers = {key: value for key, value in given.items() if isinstance(value, (int, float))}
        run_writer.log_metrics(self.run_id, numbers)
        for key, value in given.items():
            if key not in numbers and value is not None:
                text = value if isinstance(value, str) else json.dumps(value)
                run_writer.set_tag(self.run_id, key, text)
        finished = status == "FINISHED"
        if finished:
            traces.deliver(self.folder, self.run_id)
        for run_id, sums in self._sums.items():
            run_writer.log_sums(run_id, sums)
        step = run_reader.record(self.run_id)
        for point in map(run_reader.record, self._points.values()):
            if point.status == "RUNNING":
                run_writer.close_run(point.id, "FAILED" if finished else status)
            else:
                notes.describe_point(point, step)
        run_writer.close_run(self.run_id, status, None if ended is None else round(ended * 1000))
        if finished:
            notes.describe_step(run_reader.record(self.run_id))
        return self.run_id

    def _work(self) -> None:
        try:
            self.run_id = self._open_run()
        except Exception as error:  # raised again by finish, in the thread that waits for it
            self.error = error
            if self._on_failure:
                self._on_failure()
            return
        self._sample()  # starts measuring, in the thread that will sample
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._deliver()
                run_writer.log_curves(self.run_id, self._sample())
            # a busy database or a server away: tried again, and finish raises if it stays so
            except Exception as error:
                self.error = error

    def _sample(self) -> list[run_writer.Point]:
        try:
            return next(self._samples, [])
        # nvidia-smi that hangs, a process that may not be read: no reason to end a training
        except Exception as error:
            print(f"system metrics end here: {files.last_line(error)}", flush=True)
            return []

    def _deliver(self) -> None:
        records, offset = read_journal_from(self.folder, self._offset)
        curves: dict[str, list[run_writer.Point]] = defaultdict(list)
        for item in records:
            if item["kind"] == "metrics":
                curves[self._run_of(item)] += [
                    (key, value, item["time"], item["step"] or 0)
                    for key, value in item["metrics"].items()
                ]
            elif item["kind"] != "progress":
                self._deliver_other(self._run_of(item), item)
        for run_id, points in curves.items():
            run_writer.log_curves(run_id, points)
        self._offset = offset

    def _run_of(self, item: dict[str, Any]) -> str:
        point = item["point"]
        if point is None:
            return self.run_id
        if point not in self._points:
            self._last_start = max(self._last_start + 1, item["time"])
            self._points[point] = run_writer.open_point(self.run_id, point, self._last_start)
            for dataset in self._datasets:
                run_writer.log_dataset(self._points[point], dataset)
        return self._points[point]

    def _deliver_other(self, run_id: str, item: dict[str, Any]) -> None:
        match item["kind"]:
            case "params" | "point":
                run_writer.log_params(run_id, item["params"])
            case "tag":
                run_writer.set_tag(run_id, item["key"], item["value"])
            case "end":
                run_writer.close_run(run_id, item["status"], max(item["time"], self._last_start))
            case "dataset":
                if item["point"] is None:
                    self._datasets.append(item)
                run_writer.log_dataset(run_id, item)
            case "artifact":
                name = item["name"]
                path = artifact_file(self.folder, name, item["point"])
                run_writer.log_file(run_id, path, name.rpartition("/")[0])
                self._sums[run_id][name] = files.sha256_file(path)
                if item.get("table"):  # the UI shows these files as tables
                    self._tables[run_id][name] = None
                    tables = [{"path": table, "type": "table"} for table in self._tables[run_id]]
                    run_writer.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(tables))
            case kind:
                raise AssertionError(f"unknown journal record {kind!r}")
