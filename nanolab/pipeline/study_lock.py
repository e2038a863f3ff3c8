"""One execution of a study at a time."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from nanolab import files
from nanolab.errors import UserError


def _lock_file(experiment: str) -> Path:
    return files.MLRUNS / "work" / experiment / ".lock"


@contextlib.contextmanager
def study_lock(experiment: str, owner: str = "") -> Iterator[Callable[[str], None]]:
    """Holds a study, and gives a function that tells others the execution it is held for.

    Raises UserError when somebody else has the study, unless `owner` is the holder's execution.
    """
    path = _lock_file(experiment)
    with contextlib.ExitStack() as stack:
        try:
            announce = stack.enter_context(files.file_lock(path, wait=0))
            announce(f"{owner or '-'} process {os.getpid()}")
        except BlockingIOError as error:
            holder, _, who = path.read_text().partition(" ")
            if not owner or holder != owner:
                raise UserError(
                    f"study {experiment!r} is being run by {who or 'another process'}: wait for it,"
                    " stop it, or give this study another name (experiment: NAME in its file,"
                    " --set experiment=NAME)"
                ) from error
        yield lambda run_id: announce(f"{run_id} process {os.getpid()}")


def is_running(experiment: str) -> bool:
    """Whether a live process holds a study."""
    return files.is_locked(_lock_file(experiment))


def studies_held() -> str:
    """Which studies are being run, in words; a lock that a dead process left is free."""
    studies = sorted(path.parent.name for path in (files.MLRUNS / "work").glob("*/.lock"))
    held = [study for study in studies if is_running(study)]
    if held:
        return f"being run: {', '.join(held)}"
    return f"none held; {len(studies)} left by ended runs, which are free"
