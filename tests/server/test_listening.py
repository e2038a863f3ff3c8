"""Whom the server lets in, and what it says where it cannot start."""

import socket

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
