"""Claims: who watches sees one card that is kept up to date and ends in the stage's end; in batch
lines go on and cards stay.
"""

import json
import os
import queue
import re
import threading
import time
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from nanolab.notebook import live
from nanolab.tracking import run_reader
from nanolab.tracking.journal import Run


@pytest.fixture
def folder(tmp_path):
    """The work folder of a training step that is half done."""
    with Run(tmp_path / "base_train") as run:
        for step in range(1, 51):
            run.metrics({"train/loss": 5 / step, "train/tokens_per_second": 20_000.0}, step=step)
    return tmp_path / "base_train"


@pytest.fixture
def displayed(monkeypatch):
    """What is displayed, in order: (kind, HTML)."""
    import IPython.display

    shown = []

    class Handle:
        def update(self, content):
            shown.append(("update", content.data))

    def display(content, display_id=False):
        shown.append(("display", content.data))
        return Handle() if display_id else None

    monkeypatch.setattr(IPython.display, "display", display)
    monkeypatch.setattr(IPython.display, "clear_output", lambda: shown.append(("clear", "")))
    monkeypatch.setattr(live, "INTERVAL", 0.01)
    return shown


def asked(monkeypatch, allow_stdin, cell="cell"):
    monkeypatch.setattr(
        live,
        "_request",
        lambda: {"header": {"msg_id": cell}, "content": {"allow_stdin": allow_stdin}},
    )


def test_outside_of_a_kernel_lines_are_printed(folder, capsys):
    with live.view("base_train", folder) as show:
        show("step 1/100: loss 5.0\n")
    first, line, last = capsys.readouterr().out.splitlines()
    assert first == f"base_train: starts in {folder}" and line == "step 1/100: loss 5.0"
    assert re.fullmatch(r"base_train: finished in \d\.\d s", last)
    with live.view("base_train", folder, resumed=True):
        assert capsys.readouterr().out == f"base_train: continues in {folder}\n"


def test_who_watches_sees_one_card_that_is_kept_up_to_date(folder, displayed, monkeypatch, capsys):
    asked(monkeypatch, True)
    with live.view("base_train", folder) as show, Run(folder) as run:
        run.progress("training", 60, 100, "steps")
        show("step 60/100: <b>\n")
        until = time.time() + 5
        while (
            not any("training: 60 of 100 steps" in html for _, html in displayed)
            and time.time() < until
        ):
            time.sleep(0.01)
    kinds = [kind for kind, _ in displayed]
    assert kinds[0] == "display" and set(kinds[1:]) == {"update"} and capsys.readouterr().out == ""
    running = displayed[-2][1]
    for words in (
        "running",
        "width:60.0%",
        "20,000 tokens/s",
        "<polyline",
        "step 60/100: &lt;b&gt;",
    ):
        assert words in running, words
    finished = displayed[-1][1]
    assert (
        "finished" in finished
        and "data:image/svg+xml" in finished
        and f"log: {folder}/log.txt" in finished
    )
    assert "&lt;b&gt;" not in finished  # no wall of lines


@pytest.mark.parametrize(
    ("error", "word"), [(RuntimeError, "failed"), (KeyboardInterrupt, "interrupted")]
)
def test_the_card_says_how_the_stage_ended_and_no_thread_is_left(
    folder, displayed, monkeypatch, error, word
):
    asked(monkeypatch, True)
    with pytest.raises(error), live.view("base_train", folder) as show:
        show("the last line\n")
        raise error
    assert word in displayed[-1][1] and "the last line" in displayed[-1][1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("view of")]


def test_in_batch_the_lines_of_a_cell_give_place_to_its_cards(
    folder, displayed, monkeypatch, capsys
):
    asked(monkeypatch, False)
    for step in ("tok_train", "tok_eval"):
        with live.view(step, folder) as show:
            show("a line\n")
    assert (
        capsys.readouterr().out.count("a line") == 2
        and [kind for kind, _ in displayed] == ["clear", "display"] * 2
    )
    assert "tok_train" in displayed[-1][1] and "tok_eval" in displayed[-1][1]
    asked(monkeypatch, False, "another cell")
    with live.view("base_train", folder):
        pass
    assert "tok_train" not in displayed[-1][1]


def test_an_evaluation_shows_the_accuracy_so_far_of_every_part(tmp_path):
    card = live.Card("power_eval", tmp_path)
    assert "the process starts" in card.html("running")
    with Run(tmp_path) as run:
        run.progress("samples", 4, 4, "problems", 0.25)
        for done in (1, 2):
            run.progress("power", done, 4, "problems", 0.5)
            run._shown = ("", 0.0)  # as if half a second had passed
    text = card.html("running")
    for words in (
        "power: 2 of 4 problems",
        "samples <b>25.0%</b>",
        "power <b>50.0%</b>",
        "accuracy so far: power",
    ):
        assert words in text, words
    assert "of 4 problems" not in card.html("finished") and "<svg" not in card.html("finished")


# ---- with real kernels

RUN = (
    "from nanolab.pipeline.execution import run_stage; "
    "result = run_stage('tokenizer', experiment='tiny')"
)


def test_interrupting_a_kernel_ends_the_stage_and_the_card(lab):
    lab.behave("wait")
    manager = KernelManager(kernel_name="python3", transport="ipc", ip=str(lab.root / "kernel"))
    manager.start_kernel(cwd=str(lab.root), env=lab.environment)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        client.execute(RUN, allow_stdin=True)
        cards, interrupted, until = [], False, time.time() + 60
        while time.time() < until:
            try:
                message = client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            if "text/html" in message["content"].get("data", {}):
                cards.append((message["msg_type"], message["content"]["data"]["text/html"]))
            if cards and "waiting" in cards[-1][1] and not interrupted:
                manager.interrupt_kernel()
                interrupted = True
            if (
                message["msg_type"] == "status"
                and message["content"]["execution_state"] == "idle"
                and interrupted
            ):
                break
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert interrupted and [kind for kind, _ in cards[:2]] == [
        "display_data",
        "update_display_data",
    ]
    assert "interrupted" in cards[-1][1] and "data:image/svg+xml" in cards[-1][1]
    assert not stages_of(lab)
    (execution,) = run_reader.executions("tiny")
    (step,) = run_reader.children(execution.id)
    assert (execution.status, step.status, step.tags["step"]) == ("KILLED", "KILLED", "tok_train")


def stages_of(lab):
    """The stage processes that work in this lab."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        found += [pid] if str(lab.root) in command and "stage" in command.split("\0") else []
    return found


def test_papermill_leaves_cards_in_the_notebook_and_lines_in_the_terminal(lab):
    program = (
        "from pathlib import Path; from nanolab.pipeline import notebooks; "
        "from nanolab.plan import notebook_files; "
        "from nanolab.settings.config import STAGES; "
        "config = STAGES['tokenizer'](vocab_size=275); "
        "values = notebook_files.parameters(config, 'tiny'); "
        "notebooks.execute(Path('notebooks/01_tokenizer.ipynb'), Path('out.ipynb'),"
        " values)"
    )
    other = (
        lab.root.parent / "other"
    )  # has the package that PYTHONPATH and the kernel that Jupyter finds first
    (other / "nanolab").mkdir(parents=True)
    (other / "nanolab" / "__init__.py").write_text("raise SystemExit('the other package')")
    (other / "kernels" / "python3").mkdir(parents=True)
    spec = {"argv": ["/bin/false"], "display_name": "x", "language": "python"}
    (other / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    lab.environment |= {"PYTHONPATH": f"{other}:{lab.root}", "JUPYTER_PATH": str(other)}
    printed = lab.python(program)
    assert "counting from 1 to 10" in printed and "tok_eval: finished in" in printed
    outputs = [
        output
        for cell in json.loads((lab.root / "out.ipynb").read_text())["cells"]
        for output in cell.get("outputs", [])
    ]
    shown, *printed = outputs  # a kernel may send one print in parts
    assert all(step in "".join(shown["data"]["text/html"]) for step in ("tok_train", "tok_eval"))
    assert "".join("".join(part["text"]) for part in printed).startswith("metrics {")
