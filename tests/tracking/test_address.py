"""Claims: an address means what it says, wherever the store lies; a refusal is one line; no secret
is shown, and it works.
"""

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nanolab import files
from nanolab.__main__ import main
from nanolab.errors import UserError
from nanolab.pipeline import doctor
from nanolab.tracking import address, run_reader, run_writer
from nanolab.tracking import store as tracking_store
from nanolab.tracking.address import server_address, shown_uri, store_uri
from nanolab.tracking.store import client

SECRET = "s3cretWord"


@pytest.fixture
def named(monkeypatch):
    """Names a store; credentials that are lent to MLflow meanwhile do not outlast the test."""
    for name in (address.USERNAME, address.PASSWORD, address.TOKEN):
        monkeypatch.setenv(name, "")
    return lambda uri: monkeypatch.setenv(address.VARIABLE, uri)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///tmp/x",
        "sqlite:///file:/tmp/x.db?mode=ro&uri=true",
        "./folder",
        "folder",
        "databricks",
        "databricks://profile",
        "foo://x",
        "s3://bucket/x",
        "C:\\runs",
        "http://",
        "http://host:notaport",
        f"http://{SECRET}@host",
        f"https://host/?token={SECRET}",
        f"http://bob:{SECRET}@host#x",
        "sqlite://x/y.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///a?b/x.db",
        "sqlite:///a%00b",
        f"postgresql://bob:{SECRET}@host:99999/db",
        *(f"http://bob:{SECRET}{mark}more@host" for mark in "/?#"),
        f"postgresql://bob:{SECRET}/more@host/db",
        *(f"{start}bob:{SECRET}@host" for start in ("", "//", "http:", "http//")),
        "sqlite:////srv/x.db?timeout=abc",
        "sqlite:////srv/x.db?mode=ro",
    ],
)
def test_an_address_that_no_run_can_be_kept_at_is_one_line_without_its_secret(uri, named, capsys):
    named(uri)
    with pytest.raises(
        UserError, match=r"MLFLOW_TRACKING_URI = .* unset it for the SQLite file in mlruns/"
    ) as refused:
        client()
    assert "\n" not in str(refused.value) and SECRET not in str(refused.value)
    assert main(["compare", "a", "b"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: {refused.value}\n" and doctor.tracking().state == "problem"


@pytest.mark.parametrize(
    "uri, meant",
    [
        ("", "{mlruns}/mlflow.db"),
        ("  ", "{mlruns}/mlflow.db"),
        ("sqlite:///runs/x.db", "{root}/runs/x.db"),
        ("sqlite:////srv/x.db", "/srv/x.db"),
        ("sqlite:///a%3Fb%20c/x.db", "{root}/a?b c/x.db"),
        ("sqlite:////srv/x.db?timeout=5", "/srv/x.db"),
        ("sqlite:///a b#c/x.db", "{root}/a b#c/x.db"),
    ],
)
def test_a_file_is_meant_from_the_repository_root_on(uri, meant, named):
    named(uri)
    path = address.database_path(store_uri())
    assert str(path) == meant.format(mlruns=files.MLRUNS, root=files.ROOT)


def test_a_store_lies_where_its_folder_is_whatever_that_is_called(store, tmp_path, monkeypatch):
    """MLflow read `?` as the begin of options and %20 as a blank, and wrote beside the folder."""
    parent = run_writer.open_execution({"experiment": "tiny"}, "now", "source", {"a.txt": "b"})
    odd = tmp_path / "a?b#c%20d %ü;e"
    shutil.move(store, odd)
    monkeypatch.setattr(files, "MLRUNS", odd)
    before = {path.name for path in tmp_path.iterdir()}
    assert (
        run_reader.artifact(parent, "a.txt").read_text() == "b"
    )  # the moved store finds what it had
    new = run_writer.open_execution({"experiment": "new"}, "now", "source", {"a.txt": "c"})
    assert run_reader.artifact(new, "a.txt").read_text() == "c"
    assert (odd / "artifacts" / "new" / new / "artifacts" / "a.txt").is_file()
    assert doctor.tracking().state == "ok" and str(odd) in doctor.tracking().found
    monkeypatch.setenv(address.VARIABLE, address.database_address(odd / "mlflow.db"))
    assert address.is_own(store_uri()) and run_reader.record(new).name == "now"
    assert {path.name for path in tmp_path.iterdir()} == before


def test_folders_that_differ_where_like_sees_no_difference_are_not_taken_for_each_other(
    store, tmp_path, monkeypatch
):
    parent = run_writer.open_execution({"experiment": "tiny"}, "now", "source", {"a.txt": "b"})
    twin = tmp_path / "mlrun_"  # to LIKE, _ is any character
    shutil.copytree(store, twin)
    monkeypatch.setattr(files, "MLRUNS", twin)
    run_writer.open_execution({"experiment": "tiny"}, "again", "source")
    monkeypatch.setattr(files, "MLRUNS", store)
    tracking_store._client.cache_clear()
    assert client().get_run(parent).info.artifact_uri.startswith(f"{store}/")


@pytest.mark.parametrize(
    "text",
    [
        f"cannot reach http://bob:{SECRET}@host:5000/x",
        f"postgresql+psycopg://bob:{SECRET}@host/db failed",
        f"the password is {SECRET}.",
        f"see https://host/x?a=1&access_token={SECRET}&b=2",
        f"https://{SECRET}@host/path",
    ],
)
def test_no_secret_is_shown(text, named):
    named(f"http://bob:{SECRET}@host")
    assert SECRET not in address.masked(text) and "***" in address.masked(text)
    assert address.masked("http://host/a@b of nanolab") == "http://host/a@b of nanolab"


def test_a_secret_among_odbc_options_is_not_shown(named):
    given = f"mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BUID%3Dbob%3BPWD%3D{SECRET}%3B"
    named(given)
    assert address.has_credentials() and address.as_variable() == ""
    assert shown_uri() == given.replace(SECRET, "***")


def test_models_are_registered_where_runs_are_kept(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "foo://elsewhere")
    assert list(client().search_registered_models()) == []


def test_what_a_plan_and_a_browser_are_told_has_no_password(named, monkeypatch):
    named(f"postgresql://bob:{SECRET}@host/db")
    assert shown_uri() == "postgresql://bob:***@host/db" and address.has_credentials()
    named(f"http://bob:{SECRET}@host:5000/")
    assert shown_uri() == server_address() == store_uri() == "http://host:5000"
    named("http://host:5000")
    assert not address.has_credentials()


class Guarded(BaseHTTPRequestHandler):
    """A tracking server that lets one user in."""

    def answer(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        known = (
            self.headers.get("Authorization")
            == "Basic " + base64.b64encode(b"bob:p@ss/" + SECRET.encode()).decode()
        )
        content = (
            json.dumps({"experiments": []}).encode() if known else b"You are not authenticated"
        )
        self.send_response(200 if known else 401)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer

    def log_message(self, *words):
        pass


def test_a_user_and_a_password_in_the_address_are_used_and_a_wrong_one_is_one_line(named):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for password in (f"p%40ss%2F{SECRET}", f"other{SECRET}"):
            tracking_store._client.cache_clear()
            named(f"http://bob:{password}@127.0.0.1:{server.server_address[1]}")
            if not password.startswith("other"):
                assert list(client().search_experiments()) == []
                continue
            with pytest.raises(
                UserError, match=r"refuses this user .*MLFLOW_TRACKING_USERNAME"
            ) as refused:
                client().search_experiments()
            assert SECRET not in str(refused.value)
    finally:
        server.shutdown()
        server.server_close()


def test_a_database_that_is_away_is_one_line_without_its_password(named):
    named(f"postgresql://bob:{SECRET}@127.0.0.1:9/db")
    with pytest.raises(
        UserError, match=r"database postgresql://bob:\*\*\*@127.0.0.1:9/db does not answer"
    ):
        client()
