"""What a person sees of a stage while it runs: in a notebook that somebody has open a card that is
updated in place, else lines.

Somebody is there if the front end can be asked for input (`allow_stdin` of Jupyter's messaging
protocol): papermill and nbconvert say that they cannot.
"""

import collections
import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nanolab.notebook import cards
from nanolab.terminal.plain import STATES
from nanolab.tracking.progress import Progress, Watcher
from nanolab.wording import clock

INTERVAL = 0.7  # seconds between two updates
TAIL, LINES = 3, 12  # lines that are shown of a stage that runs, and of one that failed
CURVES = {"train/reward": "mean reward", "train/loss": "training loss, nats a token"}
# request of a cell, and the cards of the stages that it finished
_finished: tuple[str, list[str]] = ("", [])


class Stopped(KeyboardInterrupt):
    """An interrupt while a stage ran, which IPython shows in one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


@contextlib.contextmanager
def view(step: str, folder: Path, resumed: bool = False) -> Iterator[Callable[[str], None]]:
    """Gives the function that is handed each line which the processes of `step` print."""
    request = _request()
    card = Card(step, folder)
    watched = request and request["content"].get("allow_stdin")
    with _updated(card) if watched else _printed(card, resumed) as show:
        yield show
    if request and not watched:
        _tidy(request["header"]["msg_id"], card.html("finished"))


class Card:
    """What a stage's card shows, from its journal and its last lines."""

    def __init__(self, step: str, folder: Path):
        self.step, self.folder, self.started = step, folder, time.time()
        self.lines: collections.deque[str] = collections.deque(maxlen=LINES)
        self._watcher = Watcher(folder)

    def line(self, text: str) -> None:
        """Takes in a line that the stage printed."""
        self.lines.append(text.rstrip())

    def html(self, state: str) -> str:
        """`state` is running, finished, failed or interrupted."""
        now, running = self._watcher.poll(), state == "running"
        curve = _curve(now, small=state == "finished")
        tail = {"running": TAIL, "finished": 0}.get(state, LINES)
        return cards.html("live").card(
            self.step,
            now,
            state,
            colour=cards.COLOURS[STATES[state][1]],
            seconds=time.time() - self.started,
            lines=list(self.lines)[-tail:] if tail else [],
            log=cards.relative(self.folder / "log.txt"),
            curve=curve if running else cards.image(curve),
            last=functools.partial(_last, now),
        )


@contextlib.contextmanager
def _updated(card: Card) -> Iterator[Callable[[str], None]]:
    """A display that a thread keeps up to date; it ends in the state in which the stage ended."""
    from IPython.display import HTML, display

    handle = display(HTML(card.html("running")), display_id=True)
    ended = threading.Event()

    def keep_up() -> None:
        while not ended.wait(INTERVAL):
            handle.update(HTML(card.html("running")))

    thread = threading.Thread(target=keep_up, daemon=True, name=f"view of {card.step}")
    state = "failed"
    thread.start()
    try:
        yield card.line
        state = "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise Stopped(
            f"{card.step} was interrupted; run this cell again and it goes on from what is on disk"
        ) from None
    finally:
        ended.set()
        thread.join()
        handle.update(HTML(card.html(state)))


@contextlib.contextmanager
def _printed(card: Card, resumed: bool) -> Iterator[Callable[[str], None]]:
    begins = "continues" if resumed else "starts"
    print(f"{card.step}: {begins} in {cards.relative(card.folder)}", flush=True)
    yield functools.partial(print, end="", flush=True)
    print(f"{card.step}: finished in {clock(time.time() - card.started)}", flush=True)


def _tidy(cell: str, card: str) -> None:
    """Puts cards in the place of the lines, which whoever executes the notebook has passed on."""
    global _finished
    from IPython.display import HTML, clear_output, display

    _finished = (cell, [*(_finished[1] if _finished[0] == cell else []), card])
    clear_output()
    display(HTML("".join(_finished[1])))


def _request() -> dict[str, Any] | None:
    """The request that this process's kernel is working on; None outside of a kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    return (kernel.get_parent() or None) if kernel else None


def _last(now: Progress, group: str) -> list[tuple[str, float]]:
    """The newest values of a group of curves, by the rest of their names."""
    found = [(key.partition(group), points[-1][1]) for key, points in now.curves.items()]
    return [(name, value) for (before, start, name), value in found if start and not before]


def _curve(now: Progress, small: bool) -> str:
    for key, label in CURVES.items():
        points = now.curves.get(key, [])
        if len(points) > 1:
            end = now.total if now.what == "training" else None
            return cards.curve(points, label, end, key == "train/reward", 80 if small else 110)
    points = now.curves.get(f"accuracy/{now.what}", [])
    if len(points) <= 1 or small:
        return ""
    return cards.curve(points, f"accuracy so far: {now.what}", now.total, shares=True)
