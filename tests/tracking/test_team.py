"""A team's tracking server: a real PostgreSQL and an artifact folder, two researchers with stores
of their own, as docs/team.md has it.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

from nanolab.export import registry
from nanolab.tracking import run_reader, run_writer
from nanolab.tracking.store import client

BIN = next(
    (
        folder
        for folder in [
            *sorted(Path("/usr/lib/postgresql").glob("*/bin"))[::-1],
            *map(Path, os.environ["PATH"].split(":")),
        ]
        if (folder / "initdb").is_file() and (folder / "postgres").is_file()
    ),
    None,
)
STUDY = """
from nanolab.pipeline import execution as pipeline
result = pipeline.run_stage("tokenizer", experiment="tiny")
print("REUSED", sorted(result.reused))
report = pipeline.run_stage("report", experiment="tiny").metrics["report"]
print(report["summary"])
"""


@pytest.fixture(scope="module")
def server():
    """The address of an MLflow server on a PostgreSQL of its own, and its artifact folder."""
    if BIN is None:
        pytest.skip(
            "PostgreSQL is not installed (no initdb in /usr/lib/postgresql/*/bin or on the PATH):"
            " apt-get install postgresql"
        )
    pytest.importorskip("psycopg", reason="pip install -e '.[team]' brings the PostgreSQL driver")
    with (
        tempfile.TemporaryDirectory(prefix="nanolab-team-") as temporary,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(temporary)
        database = stack.enter_context(postgres(folder / "postgres"))
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            database,
            "--artifacts-destination",
            str(folder / "artifacts"),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        stack.enter_context(
            running(command, environment, f"http://127.0.0.1:{port}/health", folder / "server.log")
        )
        yield f"http://127.0.0.1:{port}", folder / "artifacts"


@contextlib.contextmanager
def postgres(data):
    """A PostgreSQL in a new folder; it refuses to run as root, so root starts it as the user
    postgres, or nobody.
    """
    data.mkdir()
    data.parent.chmod(0o755)
    prefix, user = [], getpass.getuser()
    if os.geteuid() == 0:
        import pwd

        user = (
            "postgres" if any(entry.pw_name == "postgres" for entry in pwd.getpwall()) else "nobody"
        )
        prefix = [
            "setpriv",
            f"--reuid={user}",
            f"--regid={pwd.getpwnam(user).pw_gid}",
            "--clear-groups",
        ]
        shutil.chown(data, user)
    made = subprocess.run(
        [
            *prefix,
            str(BIN / "initdb"),
            "-D",
            str(data / "db"),
            "-A",
            "trust",
            "-U",
            "lab",
            "--no-sync",
            "-E",
            "UTF8",
        ],
        capture_output=True,
        text=True,
        cwd=data,
    )
    assert made.returncode == 0, made.stderr
    port = free_port()
    command = [
        *prefix,
        str(BIN / "postgres"),
        "-D",
        str(data / "db"),
        "-p",
        str(port),
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"unix_socket_directories={data}",
        "-c",
        "fsync=off",
    ]
    with open(data.parent / "postgres.log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=data)
    try:
        for _ in range(120):
            assert process.poll() is None, (data.parent / "postgres.log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.25)
        yield f"postgresql://lab@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(30)


@contextlib.contextmanager
def running(command, environment, address, log):
    """A server until the end of the block, from its first answer on."""
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent
        )
    try:
        for _ in range(360):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except OSError:
                time.sleep(0.25)
        yield
    finally:
        process.terminate()
        process.wait(30)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_researchers_share_a_server_and_keep_their_checkpoints(server, lab, monkeypatch):
    address, artifacts = server
    for name in ("ann", "ben"):
        lab.environment |= {
            "MLFLOW_TRACKING_URI": address,
            "NANOLAB_MLRUNS": str(lab.root / name),
            "LOGNAME": name,
        }
        output = lab.python(STUDY)
        assert (
            "REUSED []" in output and "SUMMARY report tok_eval tok_train" in output
        )  # another's work folder is not this machine's
    assert (
        not (lab.root / "ann" / "mlflow.db").exists()
        and (lab.root / "ann" / "work" / "tiny" / "tok_train").is_dir()
    )

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    executions = run_reader.executions("tiny")
    assert [client().get_run(run.id).data.tags["mlflow.user"] for run in executions] == [
        "ben",
        "ann",
    ]
    (train,) = [
        run for run in run_reader.children(executions[1].id) if run.tags["step"] == "tok_train"
    ]
    assert train.status == "FINISHED" and run_reader.history(train.id, "train/loss")[-1] == (
        10,
        0.1,
    )
    assert (
        run_reader.artifact(train.id, "samples.json").read_text().startswith('{"columns"')
    )  # through the server, not a path
    assert list(artifacts.rglob("samples.json")) and run_reader.children(train.id)[0].metrics == {
        "accuracy": 0.5
    }


@pytest.mark.slow
def test_a_model_is_registered_with_the_server_and_loads_from_it(
    server, trained_study, monkeypatch, tmp_path
):
    address, artifacts = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    parent = run_writer.open_execution({"experiment": "shared"}, "shared now", "scripts/run_all.py")
    run_id = run_writer.open_step(
        parent, "sft", "0123456789ab", {}, {"work_folder": "work/tiny/sft/b"}
    )
    run_writer.close_run(run_id, "FINISHED")
    assert " is version 1: " in registry.register("shared")
    program = (
        "import mlflow; model ="
        " mlflow.pyfunc.load_model('models:/shared@best')\nprint(len(model.predict([{'prompt':"
        " 'Hello'}], params={'max_new_tokens': 16})[0]['parts']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 1 and list(artifacts.rglob("model.safetensors"))
