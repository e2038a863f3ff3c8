"""What all tests share: an own store (never the user's), and a small copy of the package whose
stages do nothing slow.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true", NANOLAB_MLRUNS=tempfile.mkdtemp(prefix="nanolab-test-")
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("MLFLOW_TRACKING_URI", None)

import plain_papermill
import pytest

from nanolab import files
from nanolab.plan import notebook_files
from nanolab.settings.config import STAGES
from nanolab.settings.schema import to_dict

ROOT = Path(__file__).resolve().parent.parent

FAKE_DIST = """
from dataclasses import dataclass


class Device:
    type = "cpu"


@dataclass(frozen=True)
class World:
    rank: int = 0
    size: int = 1
    device: Device = Device()


def open_world(device, dtype, threads):
    return World()


def barrier(world):
    pass


def close_world(world):
    pass
"""

FAKE_SOURCES = """
class open_source:
    def __init__(self, data):
        self.data = data

    def identity(self):
        return f"{self.data.source} {self.data.seed}"

    def splits(self, what):
        return "train", "validation", "dev", "test"

    def has(self, what, split):
        return True


DataSource = open_source
"""

FAKE_TRAIN = '''
import time
from pathlib import Path

from nanolab.errors import UserError
from nanolab.results import StepResult, scalars
from nanolab.tracking.journal import read_journal


def run(job, world, run):
    """Counts to vocab_size - 265, and stops, fails or waits where the file `behave` says so."""
    total = job.config.vocab_size - 265
    curve = [one["step"] for one in read_journal(job.folder) if one["kind"] == "metrics"]
    start = max((step for step in curve if step), default=0) + 1
    print(f"counting from {start} to {total}", flush=True)
    for step in range(start, total + 1):
        run.metrics({"train/loss": 1 / step}, step=step)
        behaviour = Path(__file__).with_name("behave")
        behave = behaviour.read_text() if behaviour.is_file() else ""
        if step % 3 == 0 and behave == "fail":
            raise RuntimeError(f"the stage broke at step {step}")
        if step % 3 == 0 and behave == "mistake":
            raise UserError(f"checkpoint step-{step} is truncated")
        if step % 3 == 0 and behave == "full":
            run._file = open("/dev/full", "a")  # every write there meets a full disk
        if step % 3 == 0 and behave == "wait":
            print("waiting", flush=True)
            time.sleep(600)
    run.table([{"prompt": "1+1", "answer": "2"}], "samples.json")
    with run.point("half", {"share": 0.5}) as point:
        point.metrics({"accuracy": 0.5})
    return StepResult(scalars(steps=total, started_at=start), {"data": "embedded"})
'''

FAKE_EVAL = """
from nanolab import files; from nanolab.pipeline import notebooks
from nanolab.settings.config import STAGES
from nanolab.results import StepResult, scalars
from nanolab.settings.schema import to_dict


def run(job, world, run):
    trained = files.read_json(job.inputs["tok_train"] / "result.json")["metrics"]
    return StepResult(scalars(coverage=trained["steps"] / 10))
"""

FAKE_REPORT = """
from nanolab.tracking import run_reader
from nanolab.tracking.store import client


def run(job, run):
    parent = run_reader.record(run.id).tags["mlflow.parentRunId"]
    steps = [child.tags.get("step") for child in run_reader.children(parent)]
    (job.folder / "report.md").write_text("the report")
    return {"summary": "SUMMARY " + " ".join(sorted(steps))}
"""


KERNEL = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}


def fake_notebook(stage: str) -> str:
    """A notebook with the parameters of a stage that runs it."""
    names = {**to_dict(STAGES[stage]()), **notebook_files.RUN_PARAMETERS}
    cell = {"cell_type": "code", "execution_count": None, "outputs": []}
    parameters = "\n".join(f"{name} = {value!r}" for name, value in names.items())
    run = (
        "from nanolab.pipeline.execution import run_stage\n"
        "from nanolab.plan.parameters import parameters\n"
        f"result = run_stage(**parameters({stage!r}, globals()))\n"
        "print('metrics', result.metrics)"
    )
    cells = [
        {**cell, "id": "parameters", "metadata": {"tags": ["parameters"]}, "source": parameters},
        {**cell, "id": "run", "metadata": {}, "source": run},
    ]
    return json.dumps({"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture(scope="session")
def template_store(tmp_path_factory):
    """A store with its tables made: making them takes seconds, copying them nothing."""
    folder = tmp_path_factory.mktemp("template")
    program = "from nanolab.tracking.store import client; client()"
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NANOLAB_MLRUNS": str(folder)},
        check=True,
        cwd=ROOT,
    )
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path, monkeypatch, template_store):
    """An empty mlruns folder of this test alone, with a store."""
    folder = tmp_path / "mlruns"
    folder.mkdir()
    shutil.copy(template_store, folder / "mlflow.db")
    monkeypatch.setattr(files, "MLRUNS", folder)
    monkeypatch.setenv("NANOLAB_MLRUNS", str(folder))
    return folder


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory) -> tuple[Path, str]:
    """A finished micro study, run once for all tests and workers: its store, to be read or copied,
    and what run_all printed.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # which the workers share
    store, printed = folder / "finished_study", folder / "finished_study.txt"
    with files.file_lock(folder / "finished_study.lock"):
        if not printed.is_file():
            done = subprocess.run(
                [sys.executable, "scripts/run_all.py", "experiments/micro.yaml"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=900,
                env={**os.environ, "NANOLAB_MLRUNS": str(store)},
            )
            assert done.returncode == 0, (
                "run_all ended with"
                f" {done.returncode}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )
            printed.write_text(done.stdout)
    return store, printed.read_text()


class Lab:
    """A repository of its own with the real package, where the tokenizer's two steps are fakes that
    take no time.
    """

    def __init__(self, root: Path):
        self.root = root
        self.environment = {
            **os.environ,
            "NANOLAB_MLRUNS": str(root / "mlruns"),
            "PYTHONPATH": str(root),
        }

    def behave(self, how: str) -> None:
        (self.root / "nanolab" / "stages" / "behave").write_text(how)

    def start(self, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def call(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of a Python command in this repository."""
        if arguments[:2] == ("-m", "papermill"):
            options = {"cwd": self.root, "env": self.environment, "timeout": 120}
            done = plain_papermill.execute(*arguments[2:], **options)
            return done.returncode, done.stdout + done.stderr
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def python(self, program: str) -> str:
        """Output of a Python program; it must succeed."""
        status, output = self.call("-c", program)
        assert status == 0, output
        return output


@pytest.fixture
def lab(tmp_path, template_store, monkeypatch):
    root = tmp_path / "lab"
    monkeypatch.setattr(
        files, "MLRUNS", root / "mlruns"
    )  # so that a test reads the lab's store in its own process
    shutil.copytree(
        ROOT / "nanolab", root / "nanolab"
    )  # with its compiled modules, which each of its processes would compile anew
    stages = root / "nanolab" / "stages"
    (root / "nanolab" / "dist.py").write_text(FAKE_DIST)
    (root / "nanolab" / "data" / "sources" / "source.py").write_text(FAKE_SOURCES)
    (stages / "tok_train.py").write_text(FAKE_TRAIN)
    (stages / "tok_eval.py").write_text(FAKE_EVAL)
    (stages / "report.py").write_text(FAKE_REPORT)
    (root / "experiments").mkdir()
    (root / "experiments" / "tiny.yaml").write_text(
        "steps: [tok_train, tok_eval, report]\nbase_train: {steps: 1}\n"
        "tokenizer: {vocab_size: 275}\n"
    )
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "notebooks").mkdir()
    (root / "notebooks" / "01_tokenizer.ipynb").write_text(fake_notebook("tokenizer"))
    (root / "notebooks" / "10_report.ipynb").write_text(fake_notebook("report"))
    (root / "mlruns").mkdir()
    shutil.copy(template_store, root / "mlruns" / "mlflow.db")
    return Lab(root)


@pytest.fixture
def trained_study(store):
    """The name of a study in the store with a finished chat model of random weights, whose answers
    are long enough to compare.
    """
    import torch

    from nanolab import artefacts
    from nanolab.data.tokens.tokenizer import train_tokenizer
    from nanolab.model import checkpoint
    from nanolab.model.gpt import GPT
    from nanolab.model.scaling import GPTConfig
    from nanolab.plan.steps import write_job
    from nanolab.settings.config import Job, SftConfig, StudyConfig, TokenizerConfig

    work = store / "work" / "tiny"
    tokenizer = train_tokenizer(
        [
            f"The cat number {i * 37} eats fish, says Ann. 48/2 is 24.\n#### {i}\n"
            for i in range(40)
        ],
        300,
    )
    tokenizer.save(work / "tok_train" / "a" / "tokenizer")
    write_job(
        Job(
            "tok_train",
            StudyConfig(experiment="tiny"),
            TokenizerConfig(),
            work / "tok_train" / "a",
            {},
        )
    )
    artefacts.write_result(work / "tok_train" / "a", "tok_train", {}, 0.0)
    torch.manual_seed(0)
    model = GPT(GPTConfig(tokenizer.vocab_size, 96, 2, 64, 2, 2)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = work / "sft" / "b"
    write_job(
        Job(
            "sft",
            StudyConfig(experiment="tiny"),
            SftConfig(),
            folder,
            {"tok_train": work / "tok_train" / "a"},
        )
    )
    checkpoint.save(folder / "checkpoints", 7, model, {}, {"tokenizer_digest": tokenizer.digest})
    artefacts.write_result(folder, "sft", {}, 0.0)
    return "tiny"
