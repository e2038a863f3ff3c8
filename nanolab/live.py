"""What a person sees of a stage while it runs: in a notebook that somebody has open a card that is updated in place, else lines.

Whether somebody is there is read from the request that the kernel is working on: Jupyter's front ends can be asked for input
(`allow_stdin` of the messaging protocol), papermill and nbconvert say that they cannot.
"""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.progress import Progress, Watcher
from nanolab.report import cards
from nanolab.terminal import STATES

INTERVAL = 0.7  # seconds between two updates
TAIL = 3  # lines of a running stage that are shown
CURVES = {"train/reward": "mean reward", "train/loss": "training loss, nats a token"}
_shown: tuple[str, list[str]] = (
    "",
    [],
)  # request of a cell, and the cards of the stages that it finished


class Stopped(KeyboardInterrupt):
    """An interrupt while a stage ran, which IPython shows in one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


@contextlib.contextmanager
def view(step: str, folder: Path, resumed: bool = False) -> Iterator[Callable[[str], None]]:
    """Gives the function that is handed each line which the processes of `step` print; `folder` is the step's work folder."""
    request = _request()
    card = Card(step, folder)
    with (
        _updated(card)
        if request and request["content"].get("allow_stdin")
        else _printed(card, resumed) as show
    ):
        yield show
    if request and not request["content"].get("allow_stdin"):
        _tidy(request["header"]["msg_id"], card.html("finished"))


class Card:
    """What a stage's card shows, from its journal and its last lines."""

    def __init__(self, step: str, folder: Path):
        self.step, self.folder, self.started = step, folder, time.time()
        self.lines: collections.deque[str] = collections.deque(maxlen=12)
        self._watcher = Watcher(folder)

    def line(self, text: str) -> None:
        """Takes in a line that the stage printed."""
        self.lines.append(text.rstrip())

    def html(self, state: str) -> str:
        """The card as it is now; `state` is running, finished, failed or interrupted."""
        now, seconds = self._watcher.poll(), cards.duration(time.time() - self.started)
        colour = cards.COLOURS[STATES[state][1]]
        when = {"running": f"for {seconds}", "finished": f"in {seconds}"}.get(
            state, f"after {seconds}"
        )
        head = (
            f'<div style="display:flex;gap:10px;align-items:baseline"><b style="font-size:15px">{cards.escape(self.step)}</b>'
            f'{cards.pill(state, colour)}<span style="font-size:13px">{when}</span></div>'
        )
        parts = (
            [_bar(now, colour), _facts(now)] if state != "finished" else [_facts(now, ended=True)]
        )
        if state == "running" and now.total is None and not self.lines:
            parts.append(
                f'<div style="font-size:12px">{cards.muted("the process starts; its first words take some seconds")}</div>'
            )
        drawn = _curve(now, small=state == "finished")
        parts.append(drawn if state == "running" else cards.image(drawn))
        if state != "finished" and self.lines:
            text = "\n".join(list(self.lines)[-TAIL if state == "running" else 0 :])
            parts.append(
                f'<pre style="font-size:12px;color:{cards.GREY};margin:4px 0;white-space:pre-wrap">{cards.escape(text)}</pre>'
            )
        if state != "running":
            parts.append(
                f'<div style="font-size:12px">{cards.muted("log: " + _short(self.folder / "log.txt"))}</div>'
            )
        return f'<div style="{cards.FONT};border-left:3px solid {colour};padding:2px 12px;margin:6px 0">{head}{"".join(parts)}</div>'


# ---- somebody is there


@contextlib.contextmanager
def _updated(card: Card) -> Iterator[Callable[[str], None]]:
    """One display that a thread keeps up to date; it ends in the state in which the stage ended."""
    from IPython.display import HTML, display

    handle = display(HTML(card.html("running")), display_id=True)
    ended = threading.Event()

    def keep_up() -> None:
        while not ended.wait(INTERVAL):
            handle.update(HTML(card.html("running")))

    thread, state = (
        threading.Thread(target=keep_up, daemon=True, name=f"view of {card.step}"),
        "failed",
    )
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


# ---- nobody is there


@contextlib.contextmanager
def _printed(card: Card, resumed: bool) -> Iterator[Callable[[str], None]]:
    print(
        f"{card.step}: {'continues' if resumed else 'starts'} in {_short(card.folder)}", flush=True
    )

    def show(line: str) -> None:
        print(line, end="", flush=True)

    yield show
    print(f"{card.step}: finished in {time.time() - card.started:.1f} s", flush=True)


def _tidy(cell: str, card: str) -> None:
    """Puts cards in the place of the lines of a notebook that is executed in batch: whoever executes it has passed the lines on."""
    global _shown
    from IPython.display import HTML, clear_output, display

    _shown = (cell, [*(_shown[1] if _shown[0] == cell else []), card])
    clear_output()
    display(HTML("".join(_shown[1])))


def _request() -> dict[str, Any] | None:
    """The request that this process's kernel is working on; None outside of a kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    return (kernel.get_parent() or None) if kernel else None


# ---- the parts of a card


def _bar(now: Progress, colour: str) -> str:
    return cards.bar(now.done / now.total, colour) if now.total else ""


def _facts(now: Progress, ended: bool = False) -> str:
    """How far, how fast, how long still; of an evaluation every part with its accuracy so far."""
    facts = []
    if now.total:
        facts.append(
            f"{now.what}: {now.done:,} of {now.total:,} {now.unit}"
            if not ended or now.unit != "problems"
            else ""
        )
    if now.tokens_per_second:
        facts.append(f"{now.tokens_per_second:,.0f} tokens/s")
    for key, points in now.curves.items():
        if key.startswith("validation/"):
            facts.append(f"{key.replace('/', ' ').replace('_', ' ')} {cards.number(points[-1][1])}")
    if now.seconds_left and not ended:
        facts.append(f"about {cards.duration(now.seconds_left)} left")
    scores = [
        f"{cards.escape(key.removeprefix('accuracy/'))} <b>{cards.percent(points[-1][1])}</b>"
        for key, points in now.curves.items()
        if key.startswith("accuracy/")
    ]
    shown = [
        "&ensp;·&ensp;".join(cards.escape(fact) for fact in facts if fact),
        "&ensp;·&ensp;".join(scores),
    ]
    return "".join(
        f'<div style="font-size:13px;margin:3px 0;max-width:{cards.WIDTH}px">{line}</div>'
        for line in shown
        if line
    )


def _curve(now: Progress, small: bool) -> str:
    """The curve of the stage: reward, loss, or the accuracy so far of the part under way."""
    size = {"height": 80} if small else {}
    for key, label in CURVES.items():
        if len(now.curves.get(key, [])) > 1:
            return cards.curve(
                now.curves[key],
                label,
                now.total if now.what == "training" else None,
                key == "train/reward",
                **size,
            )
    points = now.curves.get(f"accuracy/{now.what}", [])
    return (
        cards.curve(points, f"accuracy so far: {now.what}", now.total, shares=True)
        if len(points) > 1 and not small
        else ""
    )


def _short(path: Path) -> str:
    return os.path.relpath(path, files.ROOT) if path.is_relative_to(files.ROOT) else str(path)
