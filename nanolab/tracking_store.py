"""Where runs are kept: the SQLite file of mlruns/, or the server that MLFLOW_TRACKING_URI names; opened when it is first needed."""

from __future__ import annotations

import logging
import os
import sqlite3
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.schema import UserError

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
URI_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)


def store_uri() -> str:
    """Address of the store: MLFLOW_TRACKING_URI, or the SQLite file in mlruns/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{files.MLRUNS}/mlflow.db"


def server_address() -> str:
    """Where a browser finds the runs: the tracking server of store_uri, else the address of `make ui`."""
    return store_uri().rstrip("/") if store_uri().startswith("http") else "http://127.0.0.1:5000"


def client() -> Any:
    """The MlflowClient of the store, which is created, or moved along with its folder, when needed."""
    return _client(store_uri(), files.MLRUNS)


@lru_cache(maxsize=4)
def _client(uri: str, mlruns: Path) -> Any:
    warnings.filterwarnings(
        "ignore", message="IProgress not found"
    )  # progress bars of a library that we do not show
    own = uri == f"sqlite:///{mlruns}/mlflow.db"
    if uri.startswith("http") and (
        reason := unreachable(uri)
    ):  # MLflow itself would try for minutes without a word
        raise UserError(
            f"the tracking server {uri} does not answer ({reason}): start it, or unset MLFLOW_TRACKING_URI"
        )
    if own:
        database = mlruns / "mlflow.db"
        with files.file_lock(
            mlruns / ".store.lock"
        ):  # two processes that create a store at once break it for good
            if not database.exists() or database.stat().st_size == 0:
                _create_store(database)
            _relocate(database, mlruns)
    from mlflow.tracking import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # it logs what it raises too, with the traceback
    return MlflowClient(tracking_uri=uri)


def unreachable(uri: str) -> str:
    """Why the tracking server at an address does not answer at all; empty when it does, be it with a refusal."""
    import ssl
    import urllib.error
    import urllib.request

    trusting = ssl.create_default_context()  # whose certificate it has is MLflow's matter
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=10, context=trusting).close()
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def _create_store(database: Path) -> None:
    """Makes the tables in a temporary file, switches it to write-ahead logging, and renames it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    temporary = database.with_name(f".mlflow.{os.getpid()}.db")
    store = SqlAlchemyStore(
        f"sqlite:///{temporary}", str(database.parent / "artifacts" / "Default")
    )
    store._dispose_engine()
    connection = sqlite3.connect(temporary, timeout=30)
    connection.execute("pragma wal_checkpoint(truncate)")
    connection.execute("pragma journal_mode=wal")
    connection.close()
    os.replace(temporary, database)


def _relocate(database: Path, mlruns: Path) -> None:
    """Rewrites the absolute paths that MLflow records, for a repository that was moved or copied."""
    connection = sqlite3.connect(database, timeout=30)
    try:
        rows = connection.execute("select name, artifact_location from experiments").fetchall()
        olds = {
            location.removesuffix(f"/artifacts/{name}")
            for name, location in rows
            if location.endswith(f"/artifacts/{name}")
        }
        for old in olds - {str(mlruns)}:
            for table, column in URI_COLUMNS:
                connection.execute(
                    f"update {table} set {column} = ? || substr({column}, ?) where {column} like ? || '/%'",
                    (str(mlruns), len(old) + 1, old),
                )
        connection.commit()
    finally:
        connection.close()
