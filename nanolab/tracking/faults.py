"""What a tracking store may do instead of answering: each fault is one line with the way out."""

import importlib.util
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nanolab import files
from nanolab.errors import UserError
from nanolab.tracking.address import database_path, is_server, masked
from nanolab.wording import duration

Result = TypeVar("Result")

TOLD_SECONDS = 10.0  # without an answer, before it is said
WAIT_SECONDS = 600.0  # at most, for a store that is locked or away
NOTE = "note: "  # how such a line begins where several programs print
PAUSE_SECONDS = 1.0  # between two tries
LIBRARIES = (
    "sqlite3", "sqlalchemy", "alembic", "mlflow", "requests", "urllib3", "psycopg", "psycopg2",
    "pymysql", "MySQLdb", "pyodbc", "google",
)  # fmt: skip
LOCKED = r"database (table |schema )?is locked"
AWAY = (
    r"Connection (refused|reset|aborted)|Max retries exceeded|RemoteDisconnected|[Tt]imed out|"
    r"Name or service|name resolution|could not connect|server closed the connection|"
    r"terminating connection|error code 50[234]"
)
LASTING = r"too many 500 error responses"  # an error of the server's own: it is there, and stays so
REFUSED = (
    r"error code 40[13]\b|authentication failed|Access denied|no password supplied|"
    r"not authenticated|no pg_hba"
)
# an answer that is none of MLflow's
STRANGER = r"valid JSON format|error code \d+ != 200|INTERNAL_ERROR: Response: \{|Failed to parse"
CLOSED = r"readonly database|unable to open database file|[Rr]ead-only file system"
SCHEMA = r"out-of-date database schema|Can't locate revision"
DAMAGED = (
    r"malformed|not a database|file is encrypted|no such (table|column)|"
    r"table \S+ already exists|disk I/O error"
)


def print_note(line: str) -> None:
    """Tells whoever runs this process; a study puts its screen in the place of it."""
    print(f"{NOTE}{line}", file=sys.stderr, flush=True)


notify: Callable[[str], None] = print_note


class GuardedClient:
    """A client of MLflow whose every call is `guarded`."""

    def __init__(self, client: Any, uri: str):
        self._client, self._uri = client, uri

    def __getattr__(self, name: str) -> Any:
        what = getattr(self._client, name)
        if not callable(what):
            return what
        return lambda *given, **named: guarded(self._uri, lambda: what(*given, **named))


def guarded(uri: str, call: Callable[[], Result]) -> Result:
    """What `call` gives, tried again for WAIT_SECONDS while the store is locked or away, which is
    told. Raises UserError for a fault of the store, else what `call` raised.
    """
    started = time.monotonic()
    told = threading.Event()

    def tell_waiting() -> None:
        told.set()
        is_file = database_path(uri) is not None
        why = "another process holds it, or its disk is slow" if is_file else "away or overloaded"
        notify(
            f"the store {masked(uri)} has not answered for {duration(TOLD_SECONDS)} ({why}): it is "
            f"waited for, {duration(WAIT_SECONDS)} at most; a training goes on, and what it records"
            " is carried later"
        )

    timer = threading.Timer(TOLD_SECONDS, tell_waiting)
    timer.daemon = True
    timer.start()
    try:
        while True:
            try:
                result = call()
                break
            except UserError:
                raise
            except Exception as error:
                words = _words(error)
                passes = re.search(f"{LOCKED}|{AWAY}", words)
                stays = re.search(f"{REFUSED}|{LASTING}", words)
                if not passes or stays or time.monotonic() - started > WAIT_SECONDS:
                    line = fault(error, uri)
                    if line is None:
                        raise
                    raise UserError(line) from error
            time.sleep(PAUSE_SECONDS)
    finally:
        timer.cancel()
    if told.is_set():
        waited = duration(time.monotonic() - started)
        notify(f"the store {masked(uri)} answers again, after {waited}")
    return result


def fault(error: BaseException, uri: str) -> str | None:
    """The line for a fault of the store; None for an error that is none."""
    if mistake := files.mistake_of(error):
        return str(mistake)
    words, why, path = _words(error), masked(_reason(error)), database_path(uri)
    where = masked(str(path or uri))
    causes = list(files.causes(error))
    missing = [one.name or "" for one in causes if isinstance(one, ModuleNotFoundError)]
    if path is None and missing and missing[0].split(".")[0] not in ("nanolab", "mlflow"):
        return (
            f"the store {where} needs the package {missing[0]}, which is not installed: "
            "pip install -e '.[team]' brings PostgreSQL's, MLflow's documentation names the others"
        )
    if re.search(SCHEMA, words):
        return schema_line(where, uri, words)
    if re.search(CLOSED, words):
        return (
            f"the store {where} cannot be written ({why}): change its owner or mode, or copy its "
            "folder to where you may write, and name that in NANOLAB_MLRUNS"
        )
    if path is not None and re.search(LOCKED, words):
        return locked_line(where)
    if path is not None and re.search(DAMAGED, words):
        return damaged_line(where, why)
    if re.search(REFUSED, words):
        return (
            f"the store {where} refuses this user ({why}): name user and password in "
            "MLFLOW_TRACKING_URI, or for a server in MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    if re.search(AWAY, words):
        return away_line(uri, why)
    if is_server(uri) and re.search(STRANGER, words):
        return (
            f"the tracking server {where} answers, but not as MLflow does ({why}): give its own "
            "address, without what belongs to another program, or unset MLFLOW_TRACKING_URI"
        )
    if any(_library(one) in ("sqlalchemy", "sqlite3", "alembic") for one in causes):
        page = "docs/troubleshooting.md, The tracking store"
        return f"the store {where} cannot serve ({why}): see {page}"
    return None


def away_line(uri: str, why: str) -> str:
    """The line for a server or a database that does not answer."""
    what = "tracking server" if is_server(uri) else "database"
    return (
        f"the {what} {masked(uri)} does not answer ({masked(why)}): start it, then the same command"
        " goes on; or unset MLFLOW_TRACKING_URI"
    )


def locked_line(where: str) -> str:
    """The line for a file that another process does not let go of."""
    return (
        f"the store {where} has been locked by another process for {duration(WAIT_SECONDS)}: "
        f"stop that (`fuser {shlex.quote(where)}` names it), then the same command goes on"
    )


def damaged_line(where: str, why: str) -> str:
    """The line for a damaged SQLite file."""
    move = shlex.join(["mv", where, f"{where}.damaged"])
    return (
        f"the store {where} is damaged ({why}): move it away (`{move}`, and what is named so with"
        " -wal and -shm at its end); the next run makes a new one and records the finished steps"
        f" of {files.MLRUNS / 'work'} again; lost are earlier executions, failed runs, what was"
        " written in the UI, and registered models"
    )


def schema_line(where: str, uri: str, words: str) -> str:
    """The line for a database that another version of MLflow made."""
    found = re.search(r"(?:found version |revision identified by ')(\w+)", words)
    version = found[1] if found else "unknown"
    if version in schema_versions():
        shown = shlex.quote(uri) if masked(uri) == uri else '"$MLFLOW_TRACKING_URI"'
        return (
            f"the store {where} has the schema {version} of an older MLflow: copy the file or "
            f"dump the database, then run `{sys.executable} -m mlflow db upgrade {shown}`"
        )
    return (
        f"the store {where} has the schema {version}, which this MLflow does not know: a newer one "
        "made it; run the version of nanolab that wrote it, or name another store with "
        "NANOLAB_MLRUNS or MLFLOW_TRACKING_URI"
    )


def schema_versions() -> dict[str, bool]:
    """The schema versions that the installed MLflow knows, True for the newest; no import."""
    (package,) = importlib.util.find_spec("mlflow").submodule_search_locations
    folder = Path(package) / "store/db_migrations/versions"
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    known = re.findall(r"^revision\s*=\s*[\"'](\w+)", text, re.MULTILINE)
    followed = re.findall(r"^down_revision\s*=\s*(.+)$", text, re.MULTILINE)
    older = set(re.findall(r"\w+", " ".join(followed)))
    return {version: version not in older for version in sorted(known)}


def _words(error: BaseException) -> str:
    causes = files.causes(error)
    return "\n".join(
        files.words(one) for one in causes if isinstance(one, OSError) or _library(one) in LIBRARIES
    )


def _library(error: BaseException) -> str:
    return type(error).__module__.split(".")[0]


def _reason(error: BaseException) -> str:
    """The shortest words that tell the fault, at most a line of them."""
    said = (" ".join(files.words(one).split()) for one in files.causes(error))
    texts = [text for text in said if text]
    kinds = f"{LOCKED}|{AWAY}|{REFUSED}|{STRANGER}|{CLOSED}|{SCHEMA}|{DAMAGED}"
    known = [text for text in texts if re.search(kinds, text)]
    text = min(known or texts or [type(error).__name__], key=len)
    return text if len(text) <= 200 else f"{text[:197]}..."
