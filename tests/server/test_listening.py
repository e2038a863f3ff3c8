"""Whom the server lets in, and what it says where it cannot start."""

import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from nanolab import files
from nanolab.__main__ import main
from nanolab.errors import UserError
from nanolab.server.listening import VARIABLE, chosen_key, hosts_of


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def test_other_machines_need_a_key(monkeypatch):
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        assert chosen_key(host, None) is None and "localhost" in hosts_of(host)
    for host in ("0.0.0.0", "::", "192.168.0.7", "localhost.example"):
        with pytest.raises(UserError, match=f"--host {host} opens the server to other machines"):
            chosen_key(host, None)
        assert chosen_key(host, "k") == "k" and hosts_of(host) is None
    monkeypatch.setenv(VARIABLE, "from the variable")
    assert chosen_key("0.0.0.0", None) == "from the variable"


@pytest.mark.parametrize("key", ["", " k", "k\n", "schl\u00fcssel"])
def test_a_key_that_no_header_can_carry_is_refused(key):
    with pytest.raises(UserError, match="the key must be ASCII text"):
        chosen_key("127.0.0.1", key)


def test_a_mistake_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MLRUNS", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, line in (
            (["--port", port], f"port {port} of 127.0.0.1 cannot be opened"),
            (["--host", "0.0.0.0"], "give a key, --key KEY or the variable NANOLAB_API_KEY"),
            (["--host", "no.such.host.invalid", "--key", "k"], "cannot be opened"),
            (["no_such_study"], "no_such_study"),
            (["hf:./nowhere"], "there is no folder"),
            (["hf:./nowhere", "--source", "sft"], "--source and --step choose a model of a study"),
        ):
            if "--port" not in words:
                words = [*words, "--port", _free()]
            assert main(["serve", *words]) == 2
            error = capsys.readouterr().err
            assert line in error and error.count("\n") == 1


def _free():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


SERVER = """
import asyncio, socket, sys
from nanolab.server.listening import listen, run


async def app(scope, receive, send):  # answers with a line, and never ends
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun\\n", "more_body": True})
        await asyncio.sleep(600)


with listen("127.0.0.1", 0, str) as listener:
    print(listener.getsockname()[1], flush=True)
    run(app, listener)
print("ended", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order_whatever_is_in_progress(number):
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert answer.readline() == b"begun\n"
            process.send_signal(number)
            output, error = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "ended\n"), error
