"""The batch of a server: one thread that runs the programs of all requests together, as they
arrive.

Each turn of the thread is a tick of the scheduler: one forward of every active row. Chains of power
sampling hold at most half of the rows, so that an answer token by token always finds one.
"""

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nanolab.inference.protocol import LanguageModel, Program
from nanolab.inference.rows import Task
from nanolab.inference.scheduler import Scheduler
from nanolab.server.faults import Refusal

CLOSING = "the server is shutting down"


@dataclass(eq=False)
class Job:
    """A program of a request, and who is told how it ends (in the thread of the batch)."""

    program: Program
    on_result: Callable[[Any], None]  # gets what the program's kernel returns
    on_fault: Callable[[Refusal], None]
    is_chain: bool = False  # of power sampling: long, and one of many turns
    task: Task | None = None  # once it runs


class Engine:
    """`make_model(rows)` gives the model; at most `max_rows` programs run and `max_queue` wait."""

    def __init__(
        self, make_model: Callable[[int], LanguageModel], max_rows: int, max_queue: int
    ) -> None:
        self.make_model, self.max_rows, self.max_queue = make_model, max_rows, max_queue
        self.ticks = 0
        self.waiting: deque[Job] = deque()
        self.running: list[Job] = []
        self.dropped: list[Job] = []  # nobody waits for them any more
        self.stopped = False
        self._changed = threading.Condition()
        self._restart()
        self._thread = threading.Thread(target=self._work, name="batch", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Take the jobs of a request; Refusal (429) when the queue has no room for all of them."""
        with self._changed:
            if self.stopped:
                raise Refusal(CLOSING, 503, code="stopped")
            there = len(self.waiting) + len(self.running)
            if there + len(jobs) > self.max_rows + self.max_queue:
                raise Refusal(
                    f"{there} answers are being drawn or wait, and {len(jobs)} more do not fit:"
                    f" {self.max_rows} rows and a queue of {self.max_queue}; ask again later",
                    429,
                    code="queue_full",
                )
            self.waiting += jobs
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Forget jobs; those that have ended stay as they are."""
        with self._changed:
            self.dropped += jobs
            self._changed.notify()

    def stop(self) -> None:
        """End the thread after its tick; whoever still waits is told."""
        with self._changed:
            self.stopped = True
            self._changed.notify()
        self._thread.join()

    def _restart(self) -> None:
        """An empty batch on an engine without rows."""
        self.scheduler = Scheduler(self.make_model(self.max_rows), self.max_rows)

    def _work(self) -> None:
        try:
            while self._arrange():
                try:
                    self.scheduler.tick()
                    self.ticks += 1
                except Exception:  # whatever it is, the next requests are to be answered
                    traceback.print_exc()
                    self._fail(
                        self.running, "the batch of this answer failed: see the server's log"
                    )
                    self._restart()
        finally:
            with self._changed:
                self.stopped = True
                left = [*self.running, *self.waiting]
            self._fail(left, CLOSING)

    def _arrange(self) -> bool:
        """Wait for something to do, drop and admit jobs; False once the engine is stopped."""
        with self._changed:
            self._changed.wait_for(
                lambda: self.stopped or self.waiting or self.running or self.dropped
            )
            for job in self.dropped:
                if job in self.waiting:
                    self.waiting.remove(job)
                elif job in self.running:
                    self.running.remove(job)
                    self.scheduler.cancel(job.task)
            self.dropped = []
            for job in list(self.waiting):
                if self._has_room(job):
                    self.waiting.remove(job)
                    self.running.append(job)
                    job.task = self.scheduler.add(job.program, self._finisher(job))
            return not self.stopped

    def _has_room(self, job: Job) -> bool:
        chains = sum(other.is_chain for other in self.running)
        may_start = not job.is_chain or chains < max(1, self.max_rows // 2)
        return may_start and len(self.running) < self.max_rows

    def _finisher(self, job: Job) -> Callable[[Any], None]:
        def finish(result: Any) -> None:
            with self._changed:
                self.running.remove(job)
            job.on_result(result)

        return finish

    def _fail(self, jobs: Sequence[Job], why: str) -> None:
        """Tell whoever waits for these jobs that they do not come."""
        for job in list(jobs):
            job.on_fault(Refusal(why, 503 if why == CLOSING else 500, code="not_answered"))
        with self._changed:
            self.running = [job for job in self.running if job not in jobs]
            self.waiting = deque(job for job in self.waiting if job not in jobs)
