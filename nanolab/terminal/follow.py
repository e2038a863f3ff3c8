"""Follows the steps of one notebook while it runs, from their work folders, in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from nanolab import files
from nanolab.errors import UserError
from nanolab.plan import durations
from nanolab.plan.steps import RESULT, Step
from nanolab.terminal.events import Advanced, Finished, Note, Screen, Started
from nanolab.tracking.progress import Progress, Silence, Watcher

POLL_SECONDS = 0.5


class Follower:
    """Tells a screen when each of `steps` starts, how far it is, and when it is finished.

    `place` gives a step's "3/15"; `after` is the seconds of the study after them (None: unknown).
    """

    def __init__(
        self, steps: list[Step], screen: Screen, place: Callable[[str], str], after: float | None
    ):
        self.steps, self.screen = steps, screen
        self.finished: list[str] = []
        self._place, self._after = place, after
        self._earlier = {step.name: durations.earlier(step) for step in steps}
        self._began = time.time()
        self._watcher: Watcher | None = None  # of the step under way
        self._silence: Silence | None = None
        self._started = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="follower")
        self.error: Exception | None = None

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stop.set()
        self._thread.join()
        if self.error and kind is None:
            raise self.error

    @property
    def under_way(self) -> Step | None:
        """The first step that is not finished."""
        return self.steps[len(self.finished)] if len(self.finished) < len(self.steps) else None

    def _work(self) -> None:
        try:
            while not self._stop.wait(POLL_SECONDS):
                self.look()
            self.look()
        except Exception as error:  # raised again at the end, in the thread that runs the study
            self.error = error

    def look(self) -> None:
        """Tells what is new."""
        while (step := self.under_way) is not None:
            attempts = step.folder / durations.ATTEMPTS
            if self._watcher is None:
                try:
                    self._started = files.read_json(attempts)[-1]["started"]
                except UserError:  # not there yet, or its folder is just being set aside
                    return
                if self._started < self._began:  # an earlier attempt's
                    return
                self._watcher, self._silence = Watcher(step.folder), Silence(step.folder)
                self.screen.tell(Started(step.name, step.folder, self._place(step.name)))
            now, name = self._watcher.poll(), step.name
            if not (step.folder / RESULT).is_file():
                self.screen.tell(Advanced(name, now, *self._left(name, now)))
                if silent := self._silence.line():
                    self.screen.tell(Note(f"{name}: {silent}", "silence", {"step": name}))
                return
            took, metrics = durations.took(step.folder), step.result()
            self.screen.tell(Finished(name, took, metrics, reused=False))
            self.finished.append(name)
            self._watcher = None

    def _left(self, step: str, now: Progress) -> tuple[float | None, float | None]:
        """Seconds left of step and study: by training's own pace, else by an earlier run."""
        left, before = None, self._earlier[step]
        if now.what == "training" and now.seconds_left is not None:
            left = now.seconds_left
        elif before is not None:
            left = max(before - (time.time() - self._started), now.seconds_left or 0.0)
        rest = [self._earlier[other.name] for other in self.steps[len(self.finished) + 1 :]]
        known = left is not None and self._after is not None and None not in rest
        return left, left + sum(rest) + self._after if known else None
