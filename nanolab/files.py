"""Where files lie and how they are written: atomic writes, hashes, a marker written last, locks."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nanolab.errors import UserError

# the repository root: every relative path starts here
ROOT = Path(__file__).resolve().parent.parent
# everything a run produces
MLRUNS = Path(os.environ.get("NANOLAB_MLRUNS") or ROOT / "mlruns").absolute()
COMPLETE = "COMPLETE.json"
GLANCE_SECONDS = 0.1  # whoever only looks at a lock has it for less
FULL = "no disk space to write to"
FULL_WORDS = (
    "No space left on device",
    "File too large",
    "Disk quota exceeded",
    "database or disk is full",
)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
AGAIN = "then run the same command again"


def work_folder(experiment: str, step: str, fingerprint: str) -> Path:
    """The folder in which one step of a study keeps its files."""
    return MLRUNS / "work" / experiment / step / fingerprint


def check_mlruns() -> None:
    """Raises UserError where no folder can be at MLRUNS."""
    place = next(path for path in (MLRUNS, *MLRUNS.parents) if os.path.lexists(path))
    if place.is_dir():
        return
    fault, fix = ("a file", "move it away") if place.exists() else ("a link to nothing", "mend it")
    raise UserError(
        f"results go to {MLRUNS}, but {place} is {fault}: {fix}, or set NANOLAB_MLRUNS to a folder"
    )


# ---- writing and reading


def write_atomic(path: Path | str, content: bytes | str) -> None:
    """Writes a file so that a reader, or a crash at any moment, sees the old content or the new."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path | str) -> None:
    """Has a file, or the entries of a folder, written to the disk, to survive a power cut."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_json(path: Path | str, value: Any) -> None:
    """Writes `value` as JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The value of a JSON file; raises UserError when it is missing or truncated."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no file {path}") from error
    except json.JSONDecodeError as error:
        raise _damaged(f"{path} is not valid JSON (line {error.lineno})") from error


def read_json_lines(path: Path | str) -> list[Any]:
    """The values of a file with JSON in each line; raises UserError for a line that is none."""
    found = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:  # bytes that are no text too
                raise _damaged(f"{path}, line {number} is not valid JSON") from error
    return found


def _damaged(fault: str) -> UserError:
    return UserError(f"{fault}: it was truncated or edited; remove it, {AGAIN}")


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


# ---- what errors say


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, those that it came of, and those in a group: each once, even in a circle."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [one.__context__, one.__cause__]
        waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()


def is_full(error: BaseException | str) -> bool:
    """Whether an error comes of a disk, a quota or a file that can take no more: torch and MLflow
    raise errors of their own then, so their words count, and whether less than a MiB is free.
    """
    is_error = isinstance(error, BaseException)
    texts = [words(one) for one in causes(error)] if is_error else [error]
    if any(sign in text for text in texts for sign in FULL_WORDS):
        return True
    return is_error and MLRUNS.is_dir() and shutil.disk_usage(MLRUNS).free < 2**20


def last_line(error: BaseException) -> str:
    """An error's kind and words in one line; of a group the first error that is no group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    said = " ".join(words(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def words(error: BaseException) -> str:
    """What an error says, also where it cannot."""
    try:
        return str(error)
    except Exception as broken:
        return f"(its words cannot be read: {type(broken).__name__})"


def full_line() -> str:
    """What a person is told when nothing more can be written."""
    return (
        f"{FULL}: {shutil.disk_usage(MLRUNS).free / 2**30:.2f} GiB are free where {MLRUNS} lies; "
        "`python -m nanolab clean` shows what can go, then the same command goes on"
    )


def mistake_of(error: BaseException) -> UserError | None:
    """What a person can mend where the system refused (no room, no permission)."""
    if is_full(error):
        return UserError(full_line())
    for one in causes(error):
        if isinstance(one, OSError) and one.errno in DENIED and one.filename:
            read_only = one.errno == errno.EROFS
            fix = "its disk is mounted for reading" if read_only else "change its owner or mode"
            return UserError(
                f"{one.filename} may not be used ({one.strerror}): {fix}; results go to {MLRUNS},"
                " or where NANOLAB_MLRUNS says"
            )
    return None


# ---- folders that are marked complete


def file_sum(path: Path) -> dict[str, Any]:
    """A file's size in bytes and SHA-256, as a marker or a result states them."""
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def is_sum(entry: Any) -> bool:
    """Whether an entry of a marker or a result is of the form of `file_sum`."""
    known = isinstance(entry, dict) and type(entry.get("bytes")) is int
    return known and isinstance(entry.get("sha256"), str)


def mark_complete(folder: Path | str, files: list[str], **facts: Any) -> None:
    """Writes COMPLETE.json, last of all: the `file_sum` of each of `files`, and `facts`."""
    folder = Path(folder)
    sums = {name: file_sum(folder / name) for name in files}
    write_json(folder / COMPLETE, {"files": sums, **facts})


def is_complete(folder: Path | str) -> bool:
    """Whether `folder` has its marker."""
    return (Path(folder) / COMPLETE).is_file()


def read_marker(folder: Path | str) -> dict[str, Any]:
    """What COMPLETE.json of a folder says: under "files" the `file_sum` of each part."""
    path = Path(folder) / COMPLETE
    marker = read_json(path)
    parts = marker.get("files") if isinstance(marker, dict) else None
    if not isinstance(parts, dict) or not all(map(is_sum, parts.values())):
        raise UserError(f"{path} does not say what lies beside it: remove {folder}, {AGAIN}")
    return marker


def verify_complete(folder: Path | str) -> dict[str, Any]:
    """The facts of a complete folder; raises UserError where a file of it is not as marked."""
    folder = Path(folder)
    if not is_complete(folder):
        raise UserError(f"{folder} is not complete (no {COMPLETE}): remove it, {AGAIN}")
    marker = read_marker(folder)
    for name, expected in marker["files"].items():
        path, fault = folder / name, ""
        if not path.is_file():
            fault = "is missing"
        elif (size := path.stat().st_size) != expected["bytes"]:
            fault = f"is truncated: {size} bytes, expected {expected['bytes']}"
        elif sha256_file(path) != expected["sha256"]:
            fault = "was altered: its SHA-256 is not the recorded one"
        if fault:
            raise UserError(f"{path} {fault}; remove {folder}, {AGAIN}")
    return {key: value for key, value in marker.items() if key != "files"}


# ---- locks


@contextlib.contextmanager
def file_lock(path: Path, wait: float = -1) -> Iterator[Callable[[str], int]]:
    """Holds an exclusive lock on `path`; gives a function that writes into the file who holds it.

    Raises BlockingIOError when another has it for longer than `wait` seconds (-1: for ever) and
    than a look takes.
    """
    from filelock import FileLock, Timeout  # most commands lock nothing

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=max(wait, GLANCE_SECONDS) if wait >= 0 else -1)
    except Timeout as error:
        raise BlockingIOError(errno.EAGAIN, "held by another", str(path)) from error
    try:
        yield path.write_text
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether somebody holds `file_lock(path)`.

    filelock can only take a lock: two who look would see each other, and another user may not.
    """
    if not path.is_file():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
