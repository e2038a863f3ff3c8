"""What a person sees of a stage while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def view(step: str, folder: Path) -> Iterator[Callable[[str], None]]:
    """Gives the function that is handed each line which the processes of `step` print; `folder` is the step's work folder."""
    yield lambda line: print(line, end="", flush=True)
