"""Where files lie and how they are written: the run folder, atomic writes, hashes, and a marker that is written last."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nanolab.config import ROOT
from nanolab.schema import UserError

MLRUNS = Path(
    os.environ.get("NANOLAB_MLRUNS") or ROOT / "mlruns"
).absolute()  # everything a run produces
COMPLETE = "COMPLETE.json"
LOOKS = 5  # at a lock that another has, before it counts as held: whoever only looks has it for a moment
FULL = "no disk space to write to"


def work_folder(experiment: str, step: str, fingerprint: str) -> Path:
    """The folder in which one step of a study keeps its files; its last part is the step's fingerprint."""
    return MLRUNS / "work" / experiment / step / fingerprint


def check_mlruns() -> None:
    """Raises UserError where no folder can be at MLRUNS, because a file is there, or on the way to it."""
    place = next(path for path in (MLRUNS, *MLRUNS.parents) if path.exists())
    if not place.is_dir():
        raise UserError(
            f"results go to {MLRUNS}, but {place} is a file: move it away, or set NANOLAB_MLRUNS to a folder"
        )


def write_atomic(path: Path | str, content: bytes | str) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def is_full(error: BaseException | str) -> bool:
    """Whether an error comes of a disk, a quota or a file that can take no more.

    torch and MLflow raise errors of their own then: looked at are the words of the error and of those that it came of, and whether
    less than a MiB is free.
    """
    words = (
        "No space left on device",
        "File too large",
        "Disk quota exceeded",
        "database or disk is full",
    )
    texts: list[str] = []
    while isinstance(error, BaseException):
        texts.append(str(error))
        following = error.__cause__ or error.__context__
        if following is None and MLRUNS.is_dir() and shutil.disk_usage(MLRUNS).free < 2**20:
            return True
        error = following or ""
    return any(word in text for text in [*texts, error] for word in words)


def full_line() -> str:
    """What a person is told when nothing more can be written."""
    return (
        f"{FULL}: {shutil.disk_usage(MLRUNS).free / 2**30:.2f} GiB are free where {MLRUNS} lies; "
        "`python -m nanolab clean` shows what can go, then the same command goes on"
    )


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The value of a JSON file; raises UserError when it is missing or truncated."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise UserError(f"no file {path}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON (line {error.lineno}): it was truncated or edited; remove it and run its step again"
        ) from error


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def mark_complete(folder: Path | str, files: list[str], **facts: Any) -> None:
    """Writes COMPLETE.json, last of all: the size in bytes and SHA-256 of each of `files`, and `facts`."""
    folder = Path(folder)
    sums = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in files
    }
    write_json(folder / COMPLETE, {"files": sums, **facts})


def is_complete(folder: Path | str) -> bool:
    """Whether `folder` was marked complete. Looks at the marker only; `verify_complete` reads the files."""
    return (Path(folder) / COMPLETE).is_file()


def verify_complete(folder: Path | str) -> dict[str, Any]:
    """The facts of a complete folder; raises UserError naming the first missing, truncated or altered file."""
    folder = Path(folder)
    if not is_complete(folder):
        raise UserError(
            f"{folder} is not complete (no {COMPLETE}): run the step that writes it again"
        )
    marker = read_json(folder / COMPLETE)
    for name, expected in marker["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(
                f"{path} is missing: remove {folder} and run the step that writes it again"
            )
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise UserError(
                f"{path} is truncated: {size} bytes, expected {expected['bytes']}; remove {folder} and run its step again"
            )
        if sha256_file(path) != expected["sha256"]:
            raise UserError(
                f"{path} was altered: its SHA-256 is not the recorded one; remove {folder} and run its step again"
            )
    return {key: value for key, value in marker.items() if key != "files"}


@contextlib.contextmanager
def file_lock(path: Path, wait: bool = True) -> Iterator[Callable[[str], None]]:
    """Holds an exclusive lock on `path`, which the system frees when the process dies.

    Gives a function that writes into the file who holds it. With wait=False raises BlockingIOError when another has it for longer
    than a look at it takes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        for attempt in range(LOOKS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                if attempt == LOOKS - 1:
                    raise
                time.sleep(0.02)

        def announce(content: str) -> None:
            file.truncate(0)
            file.write(content)
            file.flush()

        yield announce


def is_locked(path: Path) -> bool:
    """Whether somebody holds `file_lock(path)`. Looking keeps nobody else from looking; `file_lock` outlasts it."""
    if not path.is_file():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
