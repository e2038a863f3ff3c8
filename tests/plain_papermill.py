"""Papermill as a person runs it, from any number of tests at once."""

import subprocess
import sys
from typing import Any

ATTEMPTS = 3


def execute(*arguments: str, **options: Any) -> subprocess.CompletedProcess:
    """Runs `python -m papermill ARGUMENTS`; `options` are those of `subprocess.run`.

    Jupyter looks for free ports before the kernel takes them, so that a kernel of another test may
    come first. This alone is tried again; `run_all` opens no ports.
    """
    for _ in range(ATTEMPTS):
        done = subprocess.run(
            [sys.executable, "-m", "papermill", *arguments],
            capture_output=True,
            text=True,
            **options,
        )
        if "Address already in use" not in done.stderr:
            break
    return done
