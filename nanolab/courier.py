"""Carries what a stage records in its journal to MLflow, from the process that launched the stage."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanolab import traces, tracking, tracking_notes
from nanolab.journal import artifact_file, read_journal_from
from nanolab.system_metrics import Sampler

POLL_SECONDS = 2.0


class Courier:
    """Carries the journal of a work folder to one MLflow run, from its first record, while the stage still writes it.

    `open_run` is called in a thread and gives the run's id, so that MLflow's slow import overlaps with the stage's start;
    `on_failure` is called when it fails.
    """

    def __init__(
        self,
        folder: Path,
        open_run: Callable[[], str],
        on_failure: Callable[[], None] | None = None,
    ):
        self.folder, self.run_id = folder, ""
        self.error: Exception | None = None
        self._open_run, self._on_failure, self._offset = open_run, on_failure, 0
        self._points: dict[str, str] = {}  # grid point -> run id
        self._last_start = 0  # of a grid point, in milliseconds: no two are equal, since the UI orders the points by it
        self._datasets: list[dict[str, Any]] = []  # that the step reads; so do its grid points
        self._tables: dict[
            str, dict[str, Any]
        ] = {}  # run id -> file name -> its entry in the tag that makes the UI show tables
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def finish(
        self, status: str, result: dict[str, Any] | None = None, ended: float | None = None
    ) -> str:
        """Delivers what is left and the final values, ends the run, and returns its id. Raises what the thread met.

        A number of `result` becomes the metric final/<key>, a text the tag final/<key>; `ended` is in seconds since 1970.
        """
        self._stop.set()
        self._thread.join()
        if not self.run_id:
            raise self.error or RuntimeError("the run was not opened")
        self._deliver()
        numbers = {
            f"final/{key}": value
            for key, value in (result or {}).items()
            if isinstance(value, (int, float))
        }
        tracking.log_metrics(self.run_id, numbers)
        for key, value in (result or {}).items():
            if value is not None and f"final/{key}" not in numbers:
                tracking.set_tag(
                    self.run_id,
                    f"final/{key}",
                    value if isinstance(value, str) else json.dumps(value),
                )
        if status == "FINISHED":
            traces.deliver(self.folder, self.run_id)
        step = tracking.record(self.run_id)
        for point in self._points.values():
            made = tracking.record(point)
            if made.status == "RUNNING":
                tracking.close_run(point, "FAILED")
            else:
                tracking_notes.describe_point(made, step)
        tracking.close_run(self.run_id, status, None if ended is None else round(ended * 1000))
        if status == "FINISHED":
            tracking_notes.describe_step(tracking.record(self.run_id))
        return self.run_id

    def _work(self) -> None:
        try:
            self.run_id = self._open_run()
        except Exception as error:  # raised again by finish, in the thread that waits for it
            self.error = error
            if self._on_failure:
                self._on_failure()
            return
        sampler: Sampler | None = Sampler(
            self.folder
        )  # here: processor time is counted since the last call of the same thread
        while not self._stop.wait(POLL_SECONDS):
            try:
                self._deliver()
                if sampler and sampler.due():
                    now, number = round(time.time() * 1000), sampler.count
                    sampler, values = self._sampled(sampler)
                    tracking.log_curves(
                        self.run_id, [(key, value, now, number) for key, value in values.items()]
                    )
            except Exception as error:  # a busy database or a server away: tried again, and finish raises if it stays so
                self.error = error

    def _sampled(self, sampler: Sampler) -> tuple[Sampler | None, dict[str, float]]:
        """A sample; none and no sampler any more after a failure, which is printed."""
        try:
            return sampler, sampler.sample()
        except Exception as error:  # nvidia-smi that hangs, a process that may not be read: no reason to end a training
            print(
                f"system metrics end here: {type(error).__name__}: {' '.join(str(error).split())}",
                flush=True,
            )
            return None, {}

    def _deliver(self) -> None:
        records, offset = read_journal_from(self.folder, self._offset)
        curves: dict[str, list[tuple[str, float, int, int]]] = {}
        for item in records:
            if item["kind"] == "progress":
                continue
            run_id = self._run_of(item)
            if item["kind"] == "metrics":
                step = item["step"] or 0
                curves.setdefault(run_id, []).extend(
                    (key, value, item["time"], step) for key, value in item["metrics"].items()
                )
            else:
                self._deliver_other(run_id, item)
        for run_id, points in curves.items():
            tracking.log_curves(run_id, points)
        self._offset = offset

    def _run_of(self, item: dict[str, Any]) -> str:
        point = item["point"]
        if point is None:
            return self.run_id
        if point not in self._points:
            self._last_start = max(self._last_start + 1, item["time"])
            self._points[point] = tracking.open_point(self.run_id, point, self._last_start)
            for dataset in self._datasets:
                self._deliver_other(self._points[point], dataset)
        return self._points[point]

    def _deliver_other(self, run_id: str, item: dict[str, Any]) -> None:
        kind = item["kind"]
        if kind in ("params", "point"):
            tracking.log_params(run_id, item["params"])
        elif kind == "tag":
            tracking.set_tag(run_id, item["key"], item["value"])
        elif kind == "end":
            tracking.close_run(run_id, item["status"], max(item["time"], self._last_start))
        elif kind == "dataset":
            if run_id == self.run_id:
                self._datasets.append(item)
            tracking.log_dataset(
                run_id,
                item["name"],
                item["source"],
                item["digest"],
                item["context"],
                item.get("rows"),
            )
        elif kind == "artifact":
            folder = str(Path(item["name"]).parent)
            tracking.log_file(
                run_id,
                artifact_file(self.folder, item["name"], item["point"]),
                "" if folder == "." else folder,
            )
            if item.get("table"):
                names = self._tables.setdefault(run_id, {})
                names[item["name"]] = {"path": item["name"], "type": "table"}
                tracking.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps(list(names.values())))
        else:
            raise AssertionError(f"unknown journal record {kind!r}")
