"""What an error message advises is done, word for word, and the trouble is gone: the same numbers,
under the same fingerprint.
"""

import argparse
import re
import shlex
import shutil
from functools import partial
from pathlib import Path

import pytest

from nanolab import artefacts, commands, files
from nanolab.chat.trained import load_trained
from nanolab.commands import run as run_command
from nanolab.errors import UserError
from nanolab.pipeline import execution, worker
from nanolab.plan import preparation, steps
from nanolab.plan.steps import JOB, RESULT, job_of, write_job
from nanolab.settings.study_file import load_study

SMALL = """
steps: [tok_train, base_train]
tokenizer: {vocab_size: 300, max_chars: 20000, eval_chars: 2000}
base_train: {depth: 1, width: 16, heads: 1, sequence_length: 64, steps: 4, batch_size: 2,
device_batch_size: 2, eval_every: 4,
             eval_tokens: 128, checkpoint_every: 2, dtype: float32}
launch: {device: cpu, threads: 1}
"""


def run(*words: str) -> None:
    """`python scripts/run_all.py WORDS` without kernels and MLflow: the same plan, and the stages
    in this process.
    """
    parser = argparse.ArgumentParser()
    run_command.run_arguments(parser)
    given = parser.parse_args(words)
    prepared = preparation.prepare(load_study(given.study, given.set), given.only, given.start)
    if given.fresh:
        for step in prepared.asked:
            execution.set_aside(prepared.planned[step].folder)
    for step in prepared.planned.values():
        if not step.finished and step.name not in (
            "tok_eval",
            "base_eval",
        ):  # which the same notebooks fill too, and nobody reads
            (step.folder / RESULT).unlink(missing_ok=True)
            worker.work(write_job(job_of(prepared.study, step)))


def numbers(store: Path) -> dict[str, dict]:
    """The metrics of every finished step of a store by its work folder, speeds left out."""
    found = {}
    for path in (store / "work").glob("*/*/*/result.json"):
        if "." not in path.parent.name:
            assert artefacts.is_finished(path.parent)
            metrics = files.read_json(path)["metrics"]
            found[str(path.parent.relative_to(store))] = {
                key: value for key, value in metrics.items() if "per_second" not in key
            }
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a small study, run with a setting that its file does not have."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small.yaml").write_text(SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "MLRUNS", folder / "mlruns")
        run(str(folder / "small.yaml"), "--set", "base_train.steps=6")
    return folder


@pytest.fixture
def own(made, tmp_path, monkeypatch):
    """A copy of that store, and what the study is called by a person."""
    shutil.copytree(made / "mlruns", tmp_path / "mlruns")
    shutil.copy(made / "small.yaml", tmp_path)
    monkeypatch.setattr(files, "MLRUNS", tmp_path / "mlruns")
    return tmp_path


def follow(trouble, rounds: int = 4) -> list[str]:
    """Does what the messages of `trouble` say until there is none; returns the messages."""
    said = []
    for _ in range(rounds):
        try:
            trouble()
            return said
        except UserError as error:
            message = str(error)
        said.append(message)
        place = re.search(r"remove (\S+?)[,;:]", message)
        command = re.search(r"python scripts/run_all\.py (.+)$", message)
        assert place or command or "run the same command again" in message, message
        if place:
            path = Path(
                re.match(r"\S+?(?= (?:is|was|names|holds) )", message)[0]
                if place[1] == "it"
                else place[1]
            )
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if command:
            words = shlex.split(command[1])
            said += follow(partial(run, *words))
    raise AssertionError(f"still in trouble after: {said}")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def folders(own: Path) -> tuple[Path, Path]:
    (tokenizer,), (base,) = (
        [path for path in (own / "mlruns/work/small" / step).iterdir()]
        for step in ("tok_train", "base_train")
    )
    return tokenizer, base


FINAL = "checkpoints/step-000006"
DAMAGES = {
    "the last checkpoint is lost": lambda tokenizer, base: shutil.rmtree(base / FINAL),
    "every checkpoint is lost": lambda tokenizer, base: shutil.rmtree(base / "checkpoints"),
    "a bit of the weights": lambda tokenizer, base: flip(base / FINAL / "model.safetensors"),
    "a bit of the last state and the one to go on from": lambda tokenizer, base: (
        flip(base / FINAL / "state.pt"),
        flip(base / "checkpoints/step-000004/state.pt"),
    ),
    "the weights are cut": lambda tokenizer, base: cut(base / FINAL / "model.safetensors"),
    "the marker is cut": lambda tokenizer, base: cut(base / FINAL / "COMPLETE.json"),
    "the marker names no parts": lambda tokenizer, base: (
        base / FINAL / "COMPLETE.json"
    ).write_text("{}"),
    "an older checkpoint's marker names no parts": lambda tokenizer, base: (
        base / "checkpoints/step-000004/COMPLETE.json"
    ).write_text("[]"),
    "the result names artefacts without sizes": lambda tokenizer, base: files.write_json(
        base / RESULT, files.read_json(base / RESULT) | {"artefacts": {"log.txt": 3}}
    ),
    "an older checkpoint in its place": lambda tokenizer, base: (
        shutil.rmtree(base / FINAL),
        shutil.copytree(base / "checkpoints/step-000004", base / FINAL),
    ),
    "the result is cut": lambda tokenizer, base: cut(base / RESULT),
    "the job is cut": lambda tokenizer, base: cut(base / JOB),
    "the job is another file": lambda tokenizer, base: (base / JOB).write_text("{}"),
    "the vocabulary is lost": (
        lambda tokenizer, base: (tokenizer / "tokenizer/vocabulary.txt").unlink()
    ),
    "a bit of the vocabulary": lambda tokenizer, base: flip(tokenizer / "tokenizer/vocabulary.txt"),
    "the tokenizer's facts are cut": lambda tokenizer, base: cut(
        tokenizer / "tokenizer/tokenizer.json"
    ),
    "the tokenizer's result is lost": lambda tokenizer, base: (tokenizer / RESULT).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_a_message_advises_leads_to_the_right_numbers(own, damage):
    """For who only reads a model (chat, export, registration), which trains nothing itself."""
    before = numbers(own / "mlruns")
    weights = artefacts.artefacts_in(folders(own)[1])[f"{FINAL}/model.safetensors"]
    DAMAGES[damage](*folders(own))
    said = follow(lambda: load_trained("small", "base"))
    assert said and numbers(own / "mlruns") == before
    assert artefacts.artefacts_in(folders(own)[1])[f"{FINAL}/model.safetensors"] == weights


@pytest.mark.parametrize(
    "damage", ["the last checkpoint is lost", "a bit of the weights", "a bit of the vocabulary"]
)
def test_a_run_that_reads_a_damaged_step_mends_it_as_it_says(own, damage):
    """The same command, again and again, after doing what it says; never another checkpoint's
    numbers.
    """
    command = [
        str(own / "small.yaml"),
        "--set",
        "base_train.steps=6",
        "--set",
        "steps=[base_loss]",
        "--set",
        "base_eval.loss_tokens=128",
    ]
    undamaged = own / "undamaged"
    shutil.copytree(own / "mlruns", undamaged)
    DAMAGES[damage](*folders(own))
    said = follow(lambda: run(*command))
    assert bool(said) == damage.startswith("a bit")
    loss = next(value for key, value in numbers(own / "mlruns").items() if "base_loss" in key)
    files.MLRUNS = undamaged
    run(*command)
    assert loss["step"] == 6 and loss == next(
        value for key, value in numbers(undamaged).items() if "base_loss" in key
    )


def test_the_plan_says_what_is_lost_and_from_where_it_goes_on(own):
    _, base = folders(own)
    planned = steps.plan(load_study(str(own / "small.yaml"), ["base_train.steps=6"]))["base_train"]
    assert planned.finished and planned.why_again == ""
    shutil.rmtree(base / FINAL)
    assert (
        not planned.finished
        and planned.why_again == "its checkpoint step-000006 is missing: trained again from step 4"
    )
    shutil.rmtree(base / "checkpoints")
    assert (
        planned.why_again == "its checkpoint step-000006 is missing: trained again from the start"
    )


def test_an_unfinished_newest_result_is_never_passed_over_for_an_older_one(own):
    """Chat and model_tag take the newest result of a step; without its checkpoint they say so."""
    _, base = folders(own)
    older = base.with_name("0123456789ab")
    shutil.copytree(base, older)
    (base / RESULT).touch()
    shutil.rmtree(base / FINAL)
    with pytest.raises(
        UserError,
        match=r"base_train of study 'small' is no longer finished, its checkpoint step-000006 is "
        "missing",
    ):
        load_trained("small", "base")
    other = load_study(
        str(own / "small.yaml"),
        ["experiment=other", "base_eval.model_tag=small", "steps=[base_loss]"],
    )
    with pytest.raises(
        UserError,
        match=(
            r"base_train of study 'small' is no longer finished, .*run_all\.py .*job\.json --only "
            "base_train"
        ),
    ):
        steps.plan(other)


def test_a_result_of_an_older_version_requires_the_checkpoint_of_its_last_step(own):
    _, base = folders(own)
    result = files.read_json(base / RESULT)
    files.write_json(
        base / RESULT, {key: value for key, value in result.items() if key != "artefacts"}
    )
    assert artefacts.is_finished(base) and load_trained("small", "base").facts["step"] == 6
    shutil.rmtree(base / FINAL)
    assert not artefacts.is_finished(base)
    assert (
        artefacts.why_again(base)
        == "its checkpoint step-000006 is missing: trained again from step 4"
    )


@pytest.mark.parametrize(
    ("study_name", "step"), [("STUDY", "base_train"), ("small", "base_train"), ("STUDY", "sft")]
)
def test_a_command_for_a_step_that_was_never_run_runs_it(own, study_name, step):
    """A study's file, a name that only the store knows, and a step that the study does not have."""
    words = shlex.split(
        steps.first_command(study_name.replace("STUDY", str(own / "small.yaml")), step)
    )
    assert words[:2] == ["python", "scripts/run_all.py"]
    parser = argparse.ArgumentParser()
    commands.run.run_arguments(parser)
    given = parser.parse_args(words[2:])
    assert step in preparation.prepare(load_study(given.study, given.set), given.only, None).asked
