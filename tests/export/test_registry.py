"""Claims about nanolab/export/registry.py: the best chat model is registered once, and chats
wherever MLflow loads it as the session does.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from nanolab import artefacts, files
from nanolab.chat.answer import chat_settings
from nanolab.chat.session import Session
from nanolab.chat.trained import load_for_chat
from nanolab.errors import UserError
from nanolab.export import registry
from nanolab.tracking import run_reader, run_writer
from nanolab.tracking.store import client

POWER = {"sampler": "power", "alpha": 4.0, "num_steps": 3, "max_new_tokens": 16, "seed": 2}
LOAD = """
import json, sys
import mlflow
import pandas
model = mlflow.pyfunc.load_model("models:/tiny@best")
import nanolab
given = json.load(sys.stdin)
answers = model.predict(pandas.DataFrame(given["rows"]), params=given["params"])
print(json.dumps([nanolab.__file__, answers]))
"""


def finished(parent, step, metrics, **tags):
    run_id = run_writer.open_step(parent, step, "0123456789ab", {"step": None}, dict(tags))
    run_writer.log_metrics(run_id, metrics)
    run_writer.close_run(run_id, "FINISHED")
    return run_id


@pytest.fixture
def execution(trained_study):
    """An execution of the tiny study whose sft model was trained and evaluated."""
    parent = run_writer.open_execution({"experiment": "tiny"}, "tiny now", "scripts/run_all.py")
    finished(parent, "sft", {}, work_folder="work/tiny/sft/b")
    finished(parent, "chat_eval_sft", {"final/chat_core": 0.25}, **{"input.sft": "work/tiny/sft/b"})
    return parent


def test_the_best_is_the_highest_chatcore_then_the_later_model(store):
    parent = run_writer.open_execution({"experiment": "tiny"}, "tiny now", "scripts/run_all.py")
    assert registry.best(parent) is None and registry.register_at_end("tiny", [parent]) == ""
    finished(parent, "mid_train", {}, work_folder="work/tiny/mid_train/m")
    assert (registry.best(parent).source, registry.best(parent).reason) == (
        "mid",
        "the last one trained, none evaluated",
    )
    for source, score in (("mid", 0.5), ("sft", 0.5), ("rl", 0.1)):
        step = {"mid": "mid_train"}.get(source, source)
        finished(
            parent,
            f"chat_eval_{source}",
            {"final/chat_core": score},
            **{f"input.{step}": f"work/tiny/{step}/x"},
        )
    best = registry.best(parent)
    assert (
        best.source == "sft"
        and best.reason == "highest ChatCORE (0.5000) of mid, sft, rl"
        and best.folder.parts[-2:] == ("sft", "x")
    )


def test_a_checkpoint_is_registered_once_and_takes_its_weights_and_the_code(execution, store):
    first, again = registry.register("tiny"), registry.register("tiny")
    assert " is version 1: the sft model, " in first and first.endswith(" MiB)")
    assert " is version 1: " in again and again.endswith("(registered before)")
    version = client().get_model_version_by_alias("tiny", "best")
    assert (
        version.tags["source"] == "sft"
        and version.tags["step"] == "7"
        and "0.2500" in version.description
    )
    folder = Path(version.source)
    weights = (store / "work/tiny/sft/b/checkpoints/step-000007/model.safetensors").stat().st_size
    code = sum(
        path.stat().st_size
        for path in (files.ROOT / "nanolab").rglob("*")
        if path.suffix in (".py", ".c")
    )
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert weights + code < size < weights + code + 60_000
    assert not list(folder.rglob("state.pt")) + list(folder.rglob("__pycache__"))
    pinned = (folder / "requirements.txt").read_text().split()
    assert set(pinned) <= set((files.ROOT / "requirements.lock").read_text().split()) and len(
        pinned
    ) == len(registry.REQUIREMENTS)


def test_a_run_that_evaluated_no_model_does_not_take_the_alias_from_one_that_was(execution, store):
    registry.register("tiny")
    part = run_writer.open_execution(
        {"experiment": "tiny", "seed": 7}, "tiny later", "scripts/run_all.py"
    )
    finished(part, "sft", {}, work_folder="work/tiny/sft/b")
    line = registry.register_at_end("tiny", [part])
    assert (
        "is version 1: the sft model, highest ChatCORE (0.2500) of sft; this execution evaluated"
        " none" in line
    )
    assert client().get_model_version_by_alias("tiny", "best").version in (1, "1")


def test_a_model_trained_anew_in_the_same_folder_is_another_version(execution, store):
    """run --fresh has the same fingerprint; other threads or devices give other weights."""
    registry.register("tiny")
    checkpoint = store / "work/tiny/sft/b/checkpoints/step-000007"
    facts, weights = files.read_json(checkpoint / files.COMPLETE), checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    files.mark_complete(checkpoint, list(facts.pop("files")), **facts)
    with pytest.raises(UserError, match="is not the checkpoint that sft ended with"):
        registry.register("tiny")
    artefacts.write_result(checkpoint.parents[1], "sft", {}, 0.0)
    anew, again = registry.register("tiny"), registry.register("tiny")
    assert " is version 2: " in anew and anew.endswith(" MiB)")
    assert " is version 2: " in again and again.endswith("(registered before)")
    version = client().get_model_version_by_alias("tiny", "best")
    assert next(Path(version.source).rglob("model.safetensors")).read_bytes() == bytes(content)


def of_seeds(scores, seeds, name="tiny"):
    """Executions of a study, one for each seed, whose sft models have these scores; None: no chat
    model.
    """
    made = []
    for seed, score in zip(seeds, scores):
        made.append(
            run_writer.open_execution(
                {"experiment": name, "seed": seed, "seeds": seeds},
                f"seed {seed}",
                "scripts/run_all.py",
            )
        )
        if score is not None:
            finished(
                made[-1],
                "chat_eval_sft",
                {"final/chat_core": score},
                **{"input.sft": f"work/tiny/sft/{seed}"},
            )
    return made


def test_of_several_seeds_the_best_is_that_of_all_of_them(store):
    made = of_seeds([0.1, 0.3, 0.3, -0.2], [5, 1, 2, 3])
    chosen = registry.best_of(made)
    assert chosen.folder.name == "1"  # not the last seed's
    assert (
        chosen.reason == "highest ChatCORE (0.3000) of sft, of seed 1, the best of seeds 5, 1, 2, 3"
    )
    assert (
        registry.best_of(made[-1:]).reason == "highest ChatCORE (-0.2000) of sft"
        and registry.best_of([]) is None
    )
    assert registry.newest("tiny") == made  # what `register` takes, later, is what the run took
    later = of_seeds([None, 0.2], [1, 2])
    assert registry.newest("tiny") == later[1:]
    again = of_seeds([0.4], [1], "other") + of_seeds([0.1], [1], "other")
    assert registry.newest("other") == again[1:] and registry.newest("nothing") == []


def test_a_finished_study_stays_finished_and_says_what_went_wrong(execution, store):
    shutil.rmtree(store / "work/tiny/sft/b/checkpoints")
    lost = (
        "step sft of study 'tiny' is no longer finished, its checkpoint step-000007 is missing: "
        "trained again from the start; run "
    )
    with pytest.raises(UserError, match=lost):
        registry.register("tiny")
    line = registry.register_at_end("tiny", [execution])
    assert line.startswith(f"not registered ({lost}") and line.endswith(
        "python -m nanolab register tiny"
    )
    assert run_reader.record(execution).tags["registered"] == line


@pytest.mark.slow
def test_mlflow_loads_and_serves_it_from_a_moved_store_and_it_answers_as_the_session_does(
    execution, store, tmp_path, monkeypatch
):
    subject, _ = load_for_chat("tiny", None)
    own = Session(subject, "tiny").answer("Hello", chat_settings(POWER))
    later = Session(subject, "tiny", [{"role": "user", "content": "Hello"}, own.message]).answer(
        "And?", chat_settings(POWER)
    )
    registry.register("tiny")
    moved = tmp_path / "elsewhere"
    store.rename(moved)
    monkeypatch.setattr(files, "MLRUNS", moved)
    client()  # relocates
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{moved}/mlflow.db",
        "NANOLAB_MLRUNS": str(tmp_path / "native"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }
    environment.pop("PYTHONPATH", None)
    rows = [{"prompt": "Hello", "messages": None}]
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        input=json.dumps({"rows": rows, "params": POWER}),
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    code, (answer,) = json.loads(done.stdout.splitlines()[-1])
    assert code.startswith(str(moved)) and same(answer, own)

    port = free_port()
    command = [
        "mlflow",
        "models",
        "serve",
        "-m",
        "models:/tiny@best",
        "--env-manager",
        "local",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    server = subprocess.Popen(
        command,
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server)
        status, found = post(port, {"dataframe_records": [{"prompt": "Hello"}], "params": POWER})
        assert status == 200 and same(found["predictions"][0], own)
        messages = [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": own.text},
            {"role": "user", "content": "And?"},
        ]
        status, found = post(port, {"dataframe_records": [{"messages": messages}], "params": POWER})
        assert status == 200 and found["predictions"][0]["text"] == later.text
        status, found = post(
            port, {"inputs": ["Hello"]}
        )  # a bare text has no column, and MLflow drops what has none
        assert status == 400 and '[{"prompt": "..."}]' in found["message"]
        status, found = post(
            port, {"dataframe_records": [{"prompt": "Hello"}], "params": {"alpha": 0.5}}
        )
        assert (
            status == 400
            and "alpha = 0.5 is out of range" in found["message"]
            and "stack_trace" not in found
        )
    finally:
        server.terminate()
        server.communicate(timeout=30)


def same(answer, own):
    return {**answer, "seconds": 0} == {**own.to_dict(), "seconds": 0}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address, process):
    for _ in range(240):
        assert process.poll() is None, process.communicate()[0]
        try:
            return urllib.request.urlopen(address, timeout=5).read()
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"no answer at {address}")


def post(port, body):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations", json.dumps(body).encode(), headers
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
