"""`bench.py gpu`: it runs with six packages alone, says what breaks and goes on, and its checks can
fail.
"""

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from fake_graphs import captured_graphs, graphed  # noqa: F401  (a fixture)

from nanolab.files import ROOT
from nanolab.inference.gpt_engine import GPTLanguageModel

sys.path.insert(0, str(ROOT / "scripts"))
import bench_gpu
import bench_gpu_decoding
import bench_gpu_draws
from bench_gpu import SECTIONS, Bench, Section

# what is installed, as far as it looks: six packages, and what these need
OTHERS_ABSENT = """
import sys

PRESENT = {"torch", "numpy", "safetensors", "tiktoken", "yaml", "pyarrow",
           "torchgen", "functorch", "triton", "sympy", "mpmath", "networkx", "jinja2", "markupsafe",
           "fsspec", "filelock", "typing_extensions", "setuptools", "pkg_resources",
           "_distutils_hack", "tiktoken_ext", "regex", "_yaml", "nanolab"}


class Only:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in sys.stdlib_module_names | PRESENT or top.startswith(("bench", "_sysconfigdata")):
            return self.finder.find_spec(name, path, target)


sys.meta_path = [Only(finder) for finder in sys.meta_path]
"""


def lines(text):
    """The lines of a run; each must be JSON as the standard has it."""
    return [
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        for line in text.splitlines()
    ]


def test_every_section_runs_on_a_cpu_without_any_other_package(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(OTHERS_ABSENT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    assert (
        subprocess.run(
            [sys.executable, "-c", "import psutil"], env=environment, stderr=subprocess.DEVNULL
        ).returncode
        == 1
    )
    out = tmp_path / "new" / "lines.jsonl"
    done = subprocess.run(
        [sys.executable, "scripts/bench.py", "gpu", "--tiny", "--out", str(out)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = lines(done.stdout)
    assert out.read_text() == done.stdout
    assert list(dict.fromkeys(line["section"] for line in found)) == [*SECTIONS, "summary"]
    assert {(line["benchmark"], line["device"], line["tiny"]) for line in found} == {
        ("gpu", "cpu", True)
    }
    checked = [line for line in found[:-1] if "ok" in line]
    assert len(checked) == 9 and all(line["ok"] for line in checked)
    by = {section: [line for line in found if line["section"] == section] for section in SECTIONS}
    assert by["facts"][0]["torch"] == torch.__version__ and "CPU" in by["facts"][1]["note"]
    for depth in (12, 20):
        eager, compiled = by[f"speed-training-{depth}"]
        assert (
            eager["tokens_per_second"] > 0
            and not eager["compiled"]
            and compiled["compiled"]
            and compiled["left_out"]
        )
    assert [(line["depth"], line["batch"]) for line in by["speed-decoding"]] == [
        (12, 1),
        (12, 3),
        (20, 1),
        (20, 3),
    ]
    assert all(
        line["seconds_a_problem"] > 0 and line["mfu"] is None if "mfu" in line else True
        for line in by["speed-power"]
    )
    assert found[-1]["not_ok"] == [] and found[-1]["sections"] == len(SECTIONS)


def scripted(monkeypatch, **functions):
    """Sections of this module's functions in place of the real ones."""
    monkeypatch.setattr(
        bench_gpu, "SECTIONS", {name: Section(__name__, name, 30) for name in functions}
    )
    for name, function in functions.items():
        monkeypatch.setattr(sys.modules[__name__], name, function, raising=False)


def arguments(**changes):
    return Namespace(**{"only": None, "limit": None, "out": None, "tiny": True, **changes})


def test_a_section_that_breaks_says_so_and_the_next_one_runs(monkeypatch, capfd, tmp_path):
    """An error with its line, a signal, an exit, and one that hangs, with the process that it
    started.
    """
    other = tmp_path / "pid"

    def raises(bench):
        raise RuntimeError("device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")

    def hangs(bench):
        other.write_text(str(subprocess.Popen(["sleep", "60"]).pid))
        time.sleep(60)

    scripted(
        monkeypatch,
        raises=raises,
        dies=lambda bench: os.kill(os.getpid(), 9),
        leaves=lambda bench: os._exit(7),
        hangs=hangs,
        nan=lambda bench: bench.check("losses", float("nan"), 1.0),
        works=lambda bench: bench.check("losses", 0.5, 1.0),
    )
    begun = time.perf_counter()
    assert bench_gpu.main(arguments(limit=1.5)) == 1
    assert time.perf_counter() - begun < 20
    found = {line["section"]: line for line in lines(capfd.readouterr().out)}
    assert found["raises"]["error"] == "RuntimeError: device-side assert triggered"
    assert found["raises"]["at"].startswith("tests/scripts/test_bench_gpu.py:")
    assert found["dies"]["error"] == "its process ended by signal SIGKILL" and found["leaves"][
        "error"
    ].endswith("exit status 7")
    assert (
        found["hangs"]["error"]
        == "passed its limit of 1.5 s and was ended; --limit SECONDS sets another"
    )
    assert (found["nan"]["found"], found["nan"]["ok"], found["works"]["ok"]) == ("nan", False, True)
    assert found["summary"]["not_ok"] == ["raises", "dies", "leaves", "hangs", "nan"]
    status = Path(f"/proc/{other.read_text()}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"
    assert bench_gpu.main(arguments(only=["works"])) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_section_for_a_device_starts_in_a_fresh_process(capfd):
    """As on a machine with CUDA; here the device cannot be asked, which is said."""
    assert not bench_gpu.run(Bench("facts", "cuda", tiny=False), 60)
    found = lines(capfd.readouterr().out)
    assert found[0]["what"] == "run" and found[0]["device"] == "cuda"
    assert not found[-1]["ok"] and found[-1]["at"].startswith("scripts/bench_gpu_facts.py:")


def test_captured_steps_are_checked_too(graphs, monkeypatch, capsys):
    """On graphs that a CPU can replay."""
    for module in (bench_gpu_decoding, bench_gpu_draws):
        monkeypatch.setattr(module, "ways", lambda bench: {"captured": True, "eager": False})
    monkeypatch.setattr(
        bench_gpu_decoding,
        "GPTLanguageModel",
        lambda *given, **named: graphed(GPTLanguageModel(*given, **named)),
    )
    for check in (bench_gpu_decoding.check, bench_gpu_draws.check):
        check(Bench("check", "cpu", tiny=True))
    checked = [line for line in lines(capsys.readouterr().out) if "ok" in line]
    assert len(checked) == 6 + 14 and all(line["ok"] for line in checked)
    assert sum(line.get("way") == "captured" for line in checked) == 7
    assert len(graphs) >= 8


def test_the_checks_fail_where_decoding_is_wrong(monkeypatch, capsys):
    """Logits too large by a hundredth: not what a full forward gives, nor what a rescoring does."""
    step = bench_gpu_decoding.decode.step
    monkeypatch.setattr(bench_gpu_decoding.decode, "step", lambda *given: 1.01 * step(*given))
    for check, wrong in ((bench_gpu_decoding.check, 1), (bench_gpu_draws.check, 2)):
        bench = Bench("check", "cpu", tiny=True)
        check(bench)
        assert bench.failed >= wrong
    failed = [line for line in lines(capsys.readouterr().out) if line.get("ok") is False]
    assert all(line["found"] > line["at_most"] for line in failed)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"out": "there"}, "is there already: give another name, or move it away"),
        (
            {"out": "there/below.jsonl"},
            "cannot be written (File exists): give a file in a folder of yours",
        ),
        ({"limit": 0.0}, "--limit 0 must be a number of seconds above 0"),
        ({"limit": float("nan")}, "--limit nan must be a number of seconds above 0"),
    ],
)
def test_mistakes_are_one_line(changes, message, tmp_path, capsys):
    (tmp_path / "there").write_text("kept")
    if "out" in changes:
        changes = {"out": tmp_path / changes["out"]}
    assert bench_gpu.main(arguments(**changes)) == 2
    printed = capsys.readouterr()
    assert (
        printed.out == ""
        and printed.err.startswith("error: ")
        and message in printed.err
        and printed.err.count("\n") == 1
    )
    assert (tmp_path / "there").read_text() == "kept"
