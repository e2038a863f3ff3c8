"""The ways of showing a run: live (live.py), plain lines, quiet, or JSON for programs."""

import json
import sys
import time

from nanolab.terminal.events import Ended, Event, Failed, Printed, Screen
from nanolab.terminal.plain import is_live


def open_screen(mode: str = "", verbose: bool = False) -> Screen:
    """`mode`: "quiet", "json", or "" for what fits where standard output goes."""
    if mode:
        return {"json": JsonScreen, "quiet": QuietScreen}[mode]()
    if is_live(sys.stdout):
        from nanolab.terminal.live import LiveScreen

        return LiveScreen(verbose)
    return PlainScreen(verbose)


class QuietScreen(Screen):
    """Errors, and the path of the report."""

    def show(self, event: Event) -> None:
        if isinstance(event, Failed) and not event.mistake:
            print(event.text(), file=sys.stderr, flush=True)
        elif isinstance(event, Ended):
            if event.status == "interrupted":
                print(event.line(), file=sys.stderr, flush=True)
            if event.report:
                print(event.report, flush=True)


class PlainScreen(Screen):
    """The text of each event."""

    def __init__(self, verbose: bool):
        self._verbose = verbose

    def show(self, event: Event) -> None:
        if isinstance(event, Printed) and self._verbose:
            sys.stdout.write(event.output)
            sys.stdout.flush()
        elif text := event.text():
            failed = isinstance(event, Failed)
            print(text, file=sys.stderr if failed else sys.stdout, flush=True)


class JsonScreen(Screen):
    """One JSON object an event; nothing else goes to standard output."""

    def show(self, event: Event) -> None:
        if facts := event.facts():
            found = {"event": event.kind, "time": round(time.time(), 3), **facts}
            print(json.dumps(found, ensure_ascii=False, default=str), flush=True)
