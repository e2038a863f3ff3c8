"""Follows the steps of one notebook while it runs, from their work folders, in a thread of the process that runs the study."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from nanolab import durations, files
from nanolab.plan import RESULT, Step
from nanolab.progress import Progress, Watcher
from nanolab.schema import UserError
from nanolab.terminal import Screen

POLL_SECONDS = 0.5


class Follower:
    """Tells a screen when each of `steps` starts, how far it is, and when it is finished.

    `place` gives a step's "3/15"; `after` the seconds that the rest of the study takes after these steps, None where unknown.
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
                self._watcher = Watcher(step.folder)
                self.screen.started(step.name, step.folder, self._place(step.name))
            now = self._watcher.poll()
            result = step.folder / RESULT
            if not result.is_file():
                self.screen.progress(step.name, now, *self._left(step, now))
                return
            self.screen.finished(
                step.name, durations.took(step.folder), files.read_json(result)["metrics"], False
            )
            self.finished.append(step.name)
            self._watcher = None

    def _left(self, step: Step, now: Progress) -> tuple[float | None, float | None]:
        """Seconds left of the step and of the study: training's own pace, else an earlier run's duration."""
        passed = time.time() - self._started
        if now.what == "training" and now.seconds_left is not None:
            left: float | None = now.seconds_left
        elif self._earlier[step.name] is not None:
            left = max(self._earlier[step.name] - passed, now.seconds_left or 0.0)
        else:
            left = None
        rest = [self._earlier[other.name] for other in self.steps[len(self.finished) + 1 :]]
        known = left is not None and self._after is not None and None not in rest
        return left, left + sum(rest) + self._after if known else None
