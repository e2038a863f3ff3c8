"""Claims: ten mistakes, each really made, end in one clear line that names the fix, with status 2
and no traceback.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nanolab import files

RUN = ("scripts/run_all.py", "experiments/tiny.yaml")


def one_line(status, output, *words):
    """The error is one line, the last one; it has the words."""
    errors = [line for line in output.splitlines() if "error: " in line]
    assert status == 2 and "Traceback" not in output, output
    assert (
        len(errors) == 1
        and errors[0] == output.splitlines()[-1]
        and errors[0].startswith("error: ")
    ), output
    for word in words:
        assert word in errors[0], errors[0]


def start_waiting(lab):
    """A run whose first step waits for ten minutes, once it does."""
    lab.behave("wait")
    process = lab.start(*RUN)
    end = time.time() + 60
    while "waiting" not in "".join(
        path.read_text() for path in lab.root.glob("mlruns/work/tiny/tok_train/*/log.txt")
    ):
        assert process.poll() is None and time.time() < end
        time.sleep(0.1)
    return process


def test_a_wrong_key(lab):
    (lab.root / "experiments" / "tiny.yaml").write_text(
        "base_train: {steps: 1}\ntokenizer: {vocab_sise: 275}\n"
    )
    one_line(*lab.call(*RUN), "unknown key tokenizer.vocab_sise", "tokenizer.vocab_size")


def test_a_key_that_stands_twice(lab):
    (lab.root / "experiments" / "tiny.yaml").write_text(
        "base_train: {steps: 1}\ntokenizer: {vocab_size: 275}\nbase_train: {steps: 2}\n"
    )
    one_line(
        *lab.call(*RUN),
        "tiny.yaml: 'base_train' stands twice, again in line 3",
        "leave one of them out",
    )


def test_a_wrong_path(lab):
    one_line(
        *lab.call("scripts/run_all.py", "experiments/tyni.yaml"),
        "no experiment file 'experiments/tyni.yaml'",
        "has: tiny",
    )


def test_a_tracking_server_that_is_not_there(lab):
    lab.environment["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"
    for words in (RUN, ("-m", "nanolab", "compare", "tiny", "tiny")):
        one_line(
            *lab.call(*words),
            "the tracking server http://127.0.0.1:9 does not answer",
            "unset MLFLOW_TRACKING_URI",
        )


def test_a_port_in_use(lab):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, output = lab.call("-m", "nanolab", "ui", "--port", str(port))
    one_line(
        status,
        output,
        f"port {port} of 127.0.0.1",
        f"is taken by process {os.getpid()}",
        f"make ui PORT={port + 1}",
    )


@pytest.mark.slow
def test_no_disk_space_and_a_killed_kernel_and_two_studies_at_once_and_a_stale_lock(lab):
    """One study meets each of them in turn; that it goes on each time is shown in
    test_pipeline.py.
    """
    lock = lab.root / "mlruns" / "work" / "tiny" / ".lock"
    lock.parent.mkdir(parents=True)
    lock.write_text(
        "0123456789abcdef process 999999999"
    )  # of a process that is dead: the system has freed it
    lab.behave("full")
    one_line(
        *lab.call(*RUN),
        "tok_train: no disk space to write to",
        "GiB are free",
        "python -m nanolab clean",
    )

    first = start_waiting(lab)
    one_line(
        *lab.call(*RUN),
        f"study 'tiny' is being run by process {first.pid}",
        "wait for it, stop it, or give this study another name",
    )
    kernel = next(
        child
        for child in psutil.Process(first.pid).children()
        if "ipykernel_launcher" in " ".join(child.cmdline())
    )
    kernel.send_signal(signal.SIGKILL)
    output, _ = first.communicate(timeout=60)
    one_line(
        first.returncode,
        output,
        "the kernel of 01_tokenizer.ipynb was killed",
        "run the same command again, it goes on from there",
    )


def test_missing_data(tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text("base_train: {steps: 1}\ndata: {source: local}\n")
    environment = {
        "NANOLAB_MLRUNS": str(tmp_path / "mlruns"),
        "NANOLAB_DATA": str(tmp_path / "data"),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [sys.executable, RUN[0], str(study)],
        env=environment,
        cwd=files.ROOT,
        capture_output=True,
        text=True,
    )
    one_line(
        done.returncode,
        done.stderr,
        f"{tmp_path}/data is not a folder",
        "give the folder that holds text/, chat/, core/",
    )


def old_python(tmp_path) -> str:
    """A Python of before 3.11: one of this machine, else this one that says that it is 3.9."""
    for name in ("python3.9", "python3.10"):
        found = shutil.which(name)
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "sitecustomize.py").write_text(
        "import sys\nsys.version_info = (3, 9, 18, 'final', 0)\n"
    )
    shim = tmp_path / "python3.9"
    shim.write_text(
        f'#!/bin/sh\nPYTHONPATH={tmp_path}/old:$PYTHONPATH exec {sys.executable} "$@"\n'
    )
    shim.chmod(0o755)
    return str(shim)


def test_an_old_python(tmp_path):
    python = old_python(tmp_path)
    for command in (("-m", "nanolab", "plan", "micro"), ("scripts/run_all.py", "micro")):
        done = subprocess.run([python, *command], cwd=files.ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert (
            done.stderr.startswith("error: nanolab needs Python 3.11 or newer, this is 3.")
            and "make setup PYTHON=" in done.stderr
        )
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(files.ROOT / name, tmp_path)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (
        done.returncode == 2
        and "error: nanolab needs Python 3.11 or newer" in done.stderr
        and "make PYTHON=python3.11" in done.stderr
    )
    assert not (tmp_path / ".venv").exists()


def test_an_interrupted_install(lab, tmp_path):
    """A package that is not there is named with the fix; `make setup` makes a half environment
    whole again.
    """
    (lab.root / "mlflow.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'mlflow'\", name='mlflow')"
    )
    one_line(*lab.call(*RUN), "the package mlflow is not installed for", "run `make setup`")
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(files.ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)  # an environment without pip: python -m venv was interrupted
    (tmp_path / ".venv" / "pyvenv.cfg").write_text(
        f"home = {Path(sys.base_prefix) / 'bin'}\ninclude-system-site-packages = false\n"
    )
    (tmp_path / ".venv" / "ready").touch()
    fake = (
        tmp_path / "python3"
    )  # stands for the system's Python: makes an environment whose pip installs nothing
    fake.write_text(
        '#!/bin/sh\nif [ "$1" = -m ]; then rm -rf .venv; mkdir -p .venv/bin; printf'
        " '#!/bin/sh\\necho installed \"$@\"\\n' > .venv/bin/python; chmod +x .venv/bin/python;"
        " fi\n"
    )
    fake.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={fake}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PIP_NO_INDEX": "1"},
    )  # should it ever meet a real pip
    assert (
        done.returncode == 0
        and "installed -m pip install" in done.stdout
        and (tmp_path / ".venv" / "ready").is_file()
    ), done.stderr
