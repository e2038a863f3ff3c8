"""Which source a study names, and the embedded one. The local folder and the hub have files of
their own.
"""

import itertools
import subprocess
import sys

import pytest

from nanolab import files
from nanolab.data.sources.choice import chosen_rows
from nanolab.data.sources.source import open_source
from nanolab.data.tasks.catalogue import TASKS
from nanolab.errors import UserError
from nanolab.settings.config import DataConfig


def test_local_needs_a_folder_and_the_variable_supplies_only_a_missing_one(tmp_path, monkeypatch):
    monkeypatch.delenv("NANOLAB_DATA", raising=False)
    with pytest.raises(UserError, match=r"set data.root, or the variable NANOLAB_DATA"):
        open_source(DataConfig(source="local"))
    with pytest.raises(UserError, match="is not a folder"):
        open_source(DataConfig(source="local", root=str(tmp_path / "nowhere")))
    monkeypatch.setenv("NANOLAB_DATA", str(tmp_path))
    assert open_source(DataConfig(source="local")).root == tmp_path
    monkeypatch.setenv("NANOLAB_DATA", "/nowhere")
    assert open_source(DataConfig(source="local", root=str(tmp_path))).root == tmp_path


def test_embedded_gives_every_task_in_the_public_schema():
    source = open_source(DataConfig())
    for name in TASKS:
        for split in source.splits(name):
            assert set(source.task(name, split)[0]) >= set(TASKS[name].form.columns)
    documents = list(itertools.islice(source.documents("train"), 3000))
    assert len({d.id for d in documents}) == 3000
    assert len(source.core()) == 6 and source.chats("train")
    assert source.describe("text") == "embedded"
    assert (
        source.identity()
        != open_source(DataConfig(seed=1)).identity()
        != open_source(DataConfig(short_guesses=0.5)).identity()
    )
    with pytest.raises(UserError, match="no subset"):
        source.task("gsm8k", "test", "socratic")


def test_embedded_rows_are_drawn_independently_so_the_first_ones_are_taken():
    source = open_source(DataConfig())
    rows = source.task("mmlu", "test")
    assert chosen_rows(source, rows, "mmlu", "test", 20) == rows[:20]


def test_the_hub_has_a_folder_of_its_own_that_the_variable_does_not_name(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "NANOLAB_DATA", str(tmp_path)
    )  # rows there under the published names may be other rows
    assert open_source(DataConfig(source="hub")).root == files.MLRUNS / "hub"
    assert (
        open_source(DataConfig(source="hub", root=str(tmp_path / "kept"))).root == tmp_path / "kept"
    )


def test_the_embedded_world_and_a_plan_import_neither_torch_nor_the_data_libraries():
    code = (
        "import sys; from nanolab.settings.config import DataConfig; "
        "from nanolab.data.sources.source import open_source; "
        "open_source(DataConfig()).task('gsm8k', 'test'); "
        "from nanolab.__main__ import main; import contextlib, io; "
        "out = io.StringIO(); redirect = contextlib.redirect_stdout(out); redirect.__enter__(); "
        "assert main(['plan', 'smoke']) == 0; redirect.__exit__(None, None, None); "
        "names = ('torch', 'datasets', 'huggingface_hub', 'pyarrow', 'fsspec'); "
        "print([name for name in names if name in sys.modules])"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
