"""The code of this clone runs, whatever PYTHONPATH names; a kernel of another clone says so."""

import sys

import pytest

from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.pipeline import launch
from nanolab.plan import interpreter


@pytest.fixture
def other(tmp_path, monkeypatch):
    """A folder in PYTHONPATH, and the working one, with another package of the name."""
    (tmp_path / "other" / "nanolab").mkdir(parents=True)
    (tmp_path / "other" / "nanolab" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    monkeypatch.chdir(tmp_path / "other")
    return tmp_path / "other"


def test_a_launched_stage_runs_the_code_of_this_clone(other, tmp_path):
    said = []
    program = "import nanolab, os; print(nanolab.__file__, os.environ['PYTHONPATH'])"
    launch.Stage([sys.executable, "-c", program], tmp_path / "log.txt", 1).wait(said.append)
    assert said == [f"{ROOT / 'nanolab' / '__init__.py'} {ROOT}:{other}\n"], (
        "what else stands in PYTHONPATH stays"
    )


def test_a_kernel_that_runs_another_clones_code_says_so(tmp_path, monkeypatch):
    clone = tmp_path / "clone"
    for folder in ("nanolab", "notebooks"):
        (clone / folder).mkdir(parents=True)
    (clone / "nanolab" / "__main__.py").touch()
    monkeypatch.chdir(clone / "notebooks")
    interpreter.check_clone()  # outside of a kernel: a command may be called from anywhere
    monkeypatch.setattr(interpreter, "shell", object)
    with pytest.raises(
        UserError,
        match=f"this notebook is one of {clone}, but its kernel .* runs the code of {ROOT}",
    ) as caught:
        interpreter.check_clone()
    assert "\n" not in str(caught.value) and f"`make lab` in {clone}" in str(caught.value)
    monkeypatch.chdir(ROOT / "notebooks")
    interpreter.check_clone()
    monkeypatch.chdir(tmp_path)
    interpreter.check_clone()
