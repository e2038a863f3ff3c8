"""The address of the tracking store: what MLFLOW_TRACKING_URI may say, and what is shown of it.

It is escaped: in `sqlite:///my%3Fruns/mlflow.db` the folder is named `my?runs`.
"""

import os
import re
import shlex
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from nanolab import files
from nanolab.errors import UserError

VARIABLE = "MLFLOW_TRACKING_URI"
USERNAME, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
TOKEN = "MLFLOW_TRACKING_TOKEN"
SERVERS = ("http", "https")
DATABASES = ("postgresql", "mysql", "mssql")
ACCEPTED = (
    "give http://HOST:PORT or https://HOST (a server), sqlite:///PATH (a file) or "
    "postgresql://, mysql:// or mssql:// (a database), or unset it for the SQLite file in mlruns/"
)
SECRET_OPTIONS = r"[\w.-]*(?:password|passwd|pwd|token|secret|key)[\w.-]*"


def store_uri() -> str:
    """The address as MLflow is given it: no user and no password, a file's path from the repository
    root. Raises UserError for one that runs cannot be kept at.
    """
    given = _given()
    if not given:
        return database_address(files.MLRUNS / "mlflow.db")
    scheme, _, rest = given.partition("://")
    scheme = scheme.lower()
    if why := _fault(given, scheme, rest):
        raise UserError(f"{VARIABLE} = {masked(given)!r} {why}: {ACCEPTED}")
    if scheme == "sqlite":
        name, mark, options = rest.partition("?")
        return database_address(files.ROOT / unquote(name)[1:]) + mark + options
    if scheme in SERVERS:
        parts = urlsplit(given)
        return f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}".rstrip("/")
    return f"{scheme}://{rest}"


def _given() -> str:
    return (os.environ.get(VARIABLE) or "").strip()


def _fault(given: str, scheme: str, rest: str) -> str:
    """Why runs cannot be kept at an address; "" where they can."""
    if scheme == "sqlite" and given.isprintable():
        name, mark, options = rest.partition("?")
        name = unquote(name)
        if not name.startswith("/") or name == "/":
            return (
                "needs three slashes before a path that starts at the repository root, four before "
                "an absolute one"
            )
        if "\0" in name or (mark and not re.fullmatch(r"timeout=\d+(\.\d+)?", options)):
            return (
                "has another option than timeout=SECONDS: of a file or folder with ? in its name "
                "write %3F"
            )
        if name == "/:memory:" or name.startswith("/file:"):
            return "is no file that several processes can share"
        return ""
    known = scheme in SERVERS or scheme.partition("+")[0] in DATABASES
    if not (known and rest and given.isprintable()):
        return "is no store that runs are kept in"
    try:
        parts = urlsplit(given)
        parts.port  # noqa: B018  (read here, it is checked)
    except ValueError:  # its words may hold a part of the password
        return (
            "is no address: its port is no number up to 65535, or its user or password has one of "
            "/ ? # @ that is not escaped (%2F %3F %23 %40)"
        )
    if scheme not in SERVERS:
        return ""
    if not parts.hostname:
        return "names no host"
    if parts.query or parts.fragment or given.endswith(("?", "#")):
        return f"has more than a host and a path: leave that out (a token goes into {TOKEN})"
    user, mark, _ = parts.netloc.rpartition("@")
    if mark and not re.fullmatch("[^:]+:.+", user):
        return f"needs USER:PASSWORD before the @ (a token goes into {TOKEN})"
    return ""


def database_address(path: Path) -> str:
    """The address of a SQLite file. Where it is escaped, slashes are too: MLflow makes the folders
    of the text without unescaping it.
    """
    text = str(path)
    return f"sqlite:///{text if quote(text) == text else quote(text, safe='')}"


def database_path(uri: str) -> Path | None:
    """The SQLite file of an address of `store_uri`; None for a server and for other databases."""
    name = uri.partition("?")[0].removeprefix("sqlite:///")
    return Path(unquote(name)) if uri.startswith("sqlite:///") else None


def folder_address(path: Path) -> str:
    """A folder as MLflow records it for artifacts."""
    return str(path) if quote(str(path)) == str(path) else path.as_uri()


def is_server(uri: str) -> bool:
    """Whether a tracking server is meant."""
    return uri.startswith(("http://", "https://"))


def is_own(uri: str) -> bool:
    """Whether it is the store of mlruns/."""
    return uri == database_address(files.MLRUNS / "mlflow.db")


def shown_uri() -> str:
    """The address of the store as people may read it."""
    return masked(store_uri())


def server_address() -> str:
    """Where a browser finds the runs: the server, else the address of `make ui`."""
    uri = store_uri()
    return uri if is_server(uri) else "http://127.0.0.1:5000"


def has_credentials() -> bool:
    """Whether MLFLOW_TRACKING_URI names a user or a password: no command may show it."""
    given = _given()
    return masked(given) != given or (is_server(given.lower()) and "@" in urlsplit(given).netloc)


def as_variable() -> str:
    """The variable that names the store, to stand before a command of MLflow; "" where that would
    show a password: it is set already.
    """
    return "" if has_credentials() else f"{VARIABLE}={shlex.quote(store_uri())} "


def lend_credentials() -> None:
    """Hands user and password of a server's address to MLflow's variables."""
    given = _given()
    if is_server(given.lower()):
        user, _, password = urlsplit(given).netloc.rpartition("@")[0].partition(":")
        if password:
            os.environ[USERNAME], os.environ[PASSWORD] = unquote(user), unquote(password)


def masked(text: str) -> str:
    """`text` without the passwords and tokens of the store, and of any address in it."""
    for secret in sorted(_secrets(), key=len, reverse=True):
        begin = r"(?:(?<!\w)|(?<=%[0-9A-Fa-f]{2}))"
        text = re.sub(rf"{begin}{re.escape(secret)}(?!\w)", "***", text)
    text = re.sub(r"(://[^\s/:@]*):[^\s/]*@", r"\1:***@", text)
    text = re.sub(r"(https?://)[^\s/:@]+@", r"\1***@", text, flags=re.IGNORECASE)
    return re.sub(rf"([?&;]{SECRET_OPTIONS}=)[^&;\s'\"]+", r"\1***", text, flags=re.IGNORECASE)


def _secrets() -> set[str]:
    given = _given()
    location, _, query = (given.partition("://")[2] or given).partition("?")
    user = location.rpartition("@")[0]
    options = parse_qsl(query)
    # ODBC's own options stand in the value of one: PWD=...;
    options += [pair for _, text in options for pair in parse_qsl(text, separator=";")]
    found = {
        os.environ.get(PASSWORD, ""),
        os.environ.get(TOKEN, ""),
        user.partition(":")[2],
        *(one for key, one in options if re.fullmatch(SECRET_OPTIONS, key, re.IGNORECASE)),
    }
    found |= {form for secret in found for form in (unquote(secret), quote(secret, safe=""))}
    # a shorter one is a part of many a word: in addresses it is masked
    return {secret for secret in found if len(secret) > 3}
