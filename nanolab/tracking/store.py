"""Where runs are kept: the SQLite file of mlruns/, or the server that MLFLOW_TRACKING_URI names;
opened when it is first needed.
"""

import contextlib
import getpass
import logging
import os
import sqlite3
import tempfile
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.errors import UserError
from nanolab.tracking import address, faults
from nanolab.tracking.faults import GuardedClient, guarded

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # faults.py tries on
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # seconds without an answer
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# a server's address for each run that ends: --json prints nothing but JSON
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
try:
    getpass.getuser()
except (KeyError, OSError, ImportError):  # a number without a name: `docker run -u 12345`
    os.environ["LOGNAME"] = f"uid-{os.getuid()}"  # MLflow and torch ask too
try:
    Path.home()
except RuntimeError:  # nor has it a home, which MLflow and Jupyter ask for when they are imported
    os.environ["HOME"] = tempfile.gettempdir()
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}  # of databases whose address names none
URI_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def client() -> Any:
    """The MlflowClient of the store, which is made or moved when needed; each call is `guarded`."""
    return _client(address.store_uri(), files.MLRUNS)


@lru_cache(maxsize=4)
def _client(uri: str, mlruns: Path) -> Any:
    # progress bars of a library that we do not show
    warnings.filterwarnings("ignore", message="IProgress not found")
    if reason := unreachable(uri):  # MLflow itself would try for minutes without a word
        raise UserError(faults.away_line(uri, reason))
    address.lend_credentials()
    import mlflow.tracking  # noqa: F401  here: its seconds are not the store's

    return GuardedClient(guarded(uri, lambda: _opened(uri, mlruns)), uri)


def _opened(uri: str, mlruns: Path) -> Any:
    path = address.database_path(uri)
    if path is not None:
        _make_place(path)
        if _is_empty(path) or (address.is_own(uri) and _moved_from(path, mlruns)):
            _make_or_move(path, mlruns, address.is_own(uri))
    from mlflow.store.db import utils
    from mlflow.tracking import MlflowClient

    logging.getLogger(utils.__name__).setLevel(logging.CRITICAL)  # it logs what it raises, too
    utils.MAX_RETRY_COUNT = 1  # it would try a damaged file for two minutes
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _make_or_move(database: Path, mlruns: Path, is_own: bool) -> None:
    try:
        # two at once break it
        with files.file_lock(database.parent / ".store.lock", faults.WAIT_SECONDS):
            if _is_empty(database):
                _create_store(database, mlruns)
            if is_own:
                _relocate(database, mlruns)
    except BlockingIOError as error:
        raise UserError(faults.locked_line(error.filename)) from error


def _make_place(database: Path) -> None:
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists() or database.is_file():
            return
        why = "that is no file"
    except OSError as error:
        if files.mistake_of(error):
            raise
        why = f"{error.strerror}: {error.filename}"
    raise UserError(
        f"no store can be at {database} ({why}): name another file in MLFLOW_TRACKING_URI, or "
        "another folder with NANOLAB_MLRUNS"
    )


def _is_empty(database: Path) -> bool:
    return not database.exists() or (database.is_file() and database.stat().st_size == 0)


def unreachable(uri: str) -> str:
    """Why a server or database does not answer at all; empty when it does, or refuses."""
    import http.client
    import socket
    import ssl
    import urllib.error
    import urllib.request
    from urllib.parse import urlsplit

    parts = urlsplit(uri)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    try:
        if address.is_server(uri):
            # whose certificate it has is MLflow's matter
            trusting = ssl.create_default_context()
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            urllib.request.urlopen(f"{uri}/health", timeout=10, context=trusting).close()
        elif parts.hostname and port:
            socket.create_connection((parts.hostname, port), timeout=10).close()
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    return ""


def _create_store(database: Path, mlruns: Path) -> None:
    """Makes the tables in a temporary file, with write-ahead logging, and renames it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    if database.exists():
        faults.notify(
            f"the store {database} was empty (0 bytes): a new one is made; finished steps of"
            f" {mlruns / 'work'} are recorded again, earlier executions not"
        )
    temporary = database.with_name(f".mlflow.{os.getpid()}.db")
    place = address.folder_address(mlruns / "artifacts" / "Default")
    SqlAlchemyStore(address.database_address(temporary), place)._dispose_engine()
    with contextlib.closing(sqlite3.connect(temporary, timeout=30)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.execute("pragma journal_mode=wal")
    for rest in ("-wal", "-shm"):  # of a database that is no more
        database.with_name(database.name + rest).unlink(missing_ok=True)
    os.replace(temporary, database)


def _moved_from(database: Path, mlruns: Path) -> set[str]:
    """The folders other than `mlruns` in which the store says that its artifacts are."""
    own = {address.folder_address(mlruns)}
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        rows = connection.execute(
            "select artifact_location, '/artifacts/' || name from experiments"
        )
        return {place.removesuffix(end) for place, end in rows if place.endswith(end)} - own


def _relocate(database: Path, mlruns: Path) -> None:
    """Rewrites the absolute paths that MLflow records, for a repository that was moved."""
    new = address.folder_address(mlruns)
    moved = _moved_from(database, mlruns)
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        for old in moved:
            for table, column in URI_COLUMNS:
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) "
                    f"where substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1, f"{old}/"),
                )
        connection.commit()
