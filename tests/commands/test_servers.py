"""`make lab`: JupyterLab as root too, its kernels this interpreter's with the code of this
clone.
"""

import json
import os
import subprocess
import sys

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from nanolab.__main__ import main
from nanolab.files import ROOT


@pytest.mark.parametrize("user", [0, 1000])
def test_root_may_open_it_for_this_machine_alone_and_kernels_are_this_environments(
    user, tmp_path, monkeypatch, capsys
):
    other = tmp_path / "kernels" / "python3" / "kernel.json"
    other.parent.mkdir(parents=True)
    other.write_text(
        json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given) or sys.exit(0))
    with pytest.raises(SystemExit):
        main(["lab", "--port", "8901"])
    ((program, command, environment),) = started
    assert [program, *command[1:4]] == [
        sys.executable,
        "-m",
        "jupyterlab",
        str(ROOT / "notebooks" / "00_start_here.ipynb"),
    ]
    assert "--port=8901" in command and ("--allow-root" in command) == (
        "--ip=127.0.0.1" in command
    ) == (user == 0)
    assert ("runs as root: it is open to this machine only" in capsys.readouterr().out) == (
        user == 0
    )
    assert environment["PYTHONPATH"] == f"{ROOT}:{tmp_path}"
    monkeypatch.setenv("JUPYTER_PATH", environment["JUPYTER_PATH"])
    assert KernelSpecManager().get_kernel_spec("python3").resource_dir.startswith(sys.prefix)


def test_a_user_without_a_home_folder_is_given_one(tmp_path, monkeypatch, capsys):
    """A number without a name, as containers give it: Jupyter would write to / or end."""
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    started = []
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given) or sys.exit(0))
    with pytest.raises(SystemExit):
        main(["lab", "--no-browser"])
    ((_, _, environment),) = started
    assert os.access(environment["HOME"], os.W_OK)
    assert f"keeps its settings in {environment['HOME']}" in capsys.readouterr().out
    os.rmdir(environment["HOME"])


def test_make_lab_is_this_command():
    # as from a shell: within `make test` it would tell of its folder as well
    own = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))
    }
    done = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, env=own)
    assert done.stdout.splitlines()[-1] == ".venv/bin/python -m nanolab lab"


def test_without_jupyterlab_one_line_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["lab"]) == 2
    assert (
        capsys.readouterr().err
        == f"error: JupyterLab is not installed for {sys.executable}: run `make setup`\n"
    )
