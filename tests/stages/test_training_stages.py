"""base_train, base_loss, mid_train and sft after one another on a tiny model: keys, records,
checkpoints, resumption, bad input.
"""

import itertools
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from nanolab import artefacts
from nanolab.data.sources.source import open_source
from nanolab.data.tokens.batches import PackedText
from nanolab.data.tokens.token_files import TokenBlocks
from nanolab.data.tokens.tokenizer import Tokenizer, train_tokenizer
from nanolab.dist import World
from nanolab.errors import UserError
from nanolab.model import checkpoint
from nanolab.settings.config import (
    BaseEvalConfig,
    BaseTrainConfig,
    Job,
    MidTrainConfig,
    SftConfig,
    StudyConfig,
)
from nanolab.stages import base_loss, rl, training
from nanolab.tracking.journal import NullRun

WORLD = World(0, 1, torch.device("cpu"), torch.float32)
SHORT = {
    "device_batch_size": 4,
    "eval_every": 4,
    "eval_tokens": 512,
    "checkpoint_every": 4,
    "dtype": "float32",
}
STUDY = StudyConfig(
    base_train=BaseTrainConfig(
        depth=2, width=32, heads=2, sequence_length=128, steps=10, batch_size=4, **SHORT
    )
)
KEYS = {
    "steps",
    "batch_size",
    "loss",
    "validation_bits_per_byte",
    "tokens",
    "tokens_per_second",
    "data",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    texts = (
        document.text
        for document in itertools.islice(open_source(STUDY.data).documents("train"), 2000)
    )
    train_tokenizer(texts, 400).save(folder / "tok_train" / "tokenizer")
    artefacts.write_result(folder / "tok_train", "tok_train", {}, 0.0)
    return folder


def run(stage, step, config, folders, name=None):
    record, inputs = (
        NullRun(),
        {step: folders / step for step in ("tok_train", "base_train", "mid_train")},
    )
    folder = folders / (name or step)
    folder.mkdir(exist_ok=True)
    metrics = stage.run(Job(step, STUDY, config, folder, inputs), WORLD, record).flat()
    artefacts.write_result(folder, step, metrics, 0.0)
    return metrics, record


@pytest.fixture(scope="module")
def trained(folders):
    """The three trainings in their order: step -> (metrics, record)."""
    found = {"base_train": run(training, "base_train", STUDY.base_train, folders)}
    found["mid_train"] = run(
        training, "mid_train", MidTrainConfig(steps=6, share_text=0.5, **SHORT), folders
    )
    found["sft"] = run(training, "sft", SftConfig(steps=6, **SHORT), folders)
    return found


def test_each_training_has_its_keys_curve_data_and_checkpoint(folders, trained):
    for step, (metrics, record) in trained.items():
        assert (
            set(metrics) >= KEYS
            and json.loads(json.dumps(metrics)) == metrics
            and metrics["data"] == "embedded"
        )
        logged = {key for key, _, _ in record.logged_metrics}
        assert logged == {
            "train/loss",
            "train/learning_rate_multiplier",
            "train/tokens_per_second",
            "validation/bits_per_byte",
            "validation/bits_per_byte_se",
        }
        assert (
            record.datasets
            and checkpoint.latest(folders / step / "checkpoints") == metrics["steps"]
        )
        assert checkpoint.load_model(folders / step / "checkpoints")[1]["made_by"] == step
    assert trained["base_train"][1].logged_params["derived.width"] == 32


def test_each_training_starts_from_the_one_before(trained):
    first = {step: record.logged_metrics[0][1] for step, (_, record) in trained.items()}
    assert first["base_train"] == pytest.approx(torch.tensor(400.0).log().item(), abs=1e-3)
    assert first["mid_train"] < first["base_train"] and first["sft"] < first["base_train"]


def test_training_again_in_another_folder_gives_the_same_losses(folders, trained):
    _, again = run(training, "base_train", STUDY.base_train, folders, "again")
    losses = [
        [value for key, value, _ in record.logged_metrics if key == "train/loss"]
        for record in (again, trained["base_train"][1])
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 10


def test_a_chat_training_resumes_exactly(folders, trained):
    shutil.copytree(
        folders / "mid_train" / "checkpoints" / "step-000004",
        folders / "resumed" / "checkpoints" / "step-000004",
    )
    _, record = run(
        training, "mid_train", MidTrainConfig(steps=6, share_text=0.5, **SHORT), folders, "resumed"
    )
    whole = [entry for entry in trained["mid_train"][1].logged_metrics if entry[0] == "train/loss"]
    losses = [entry for entry in record.logged_metrics if entry[0] == "train/loss"]
    assert losses == whole  # the first four from the checkpoint


def record_tokens(folders):
    """Predicted tokens of the first 15 validation rows that stand for bytes."""
    tokenizer = Tokenizer.load(folders / "tok_train" / "tokenizer")
    text = PackedText(
        TokenBlocks(
            open_source(STUDY.data).blocks("validation"), tokenizer, folders / "counted", 0, 1
        ),
        128,
    )
    _, targets = text.rows(0, 15)
    return sum(
        tokenizer.token_bytes()[target] > 0 for target in targets.flatten().tolist() if target >= 0
    )


def test_base_loss_gives_both_splits(folders, trained):
    metrics, record = run(base_loss, "base_loss", BaseEvalConfig(loss_tokens=2000), folders)
    assert (
        1 < metrics["train_bits_per_byte"] < 8
        and 1 < metrics["validation_bits_per_byte"] < 8
        and metrics["step"] == 10
    )
    assert (metrics["validation_rows"], metrics["validation_tokens"]) == (
        15,
        record_tokens(folders),
    )
    assert record.datasets[0]["name"] == "text" and metrics["data"] == "embedded"


def test_mistakes_are_one_line(folders, trained):
    with pytest.raises(UserError, match=r"no complete checkpoint of step 3 .*there are: 4, 8, 10"):
        run(base_loss, "base_loss", BaseEvalConfig(step=3), folders)
    other = folders / "other"
    shutil.copytree(folders / "base_train", other / "base_train")
    shutil.copytree(folders / "base_train", other / "mid_train")
    train_tokenizer(iter(["some other text, with other words and numbers 1 2 3 " * 50]), 270).save(
        other / "tok_train" / "tokenizer"
    )
    artefacts.write_result(other / "tok_train", "tok_train", {}, 0.0)
    for stage, step, config in (
        (base_loss, "base_loss", BaseEvalConfig()),
        (training, "sft", SftConfig(steps=2, **SHORT)),
    ):
        with pytest.raises(UserError, match="was trained with tokenizer"):
            run(stage, step, config, other)


def test_weights_that_an_update_of_rl_ruined_are_not_saved(tmp_path, monkeypatch):
    """The loss of the update is finite; the step after it is not."""
    model, saved = torch.nn.Linear(2, 2), []
    ruinous = SimpleNamespace(
        step=lambda scale: model.weight.data.fill_(float("inf")),
        zero_grad=lambda: None,
        state_dict=dict,
    )
    learned = {"loss": 0.1, "tokens": 5.0, "useful": 1.0}
    monkeypatch.setattr(rl.optim, "build_optimizers", lambda *given: ruinous)
    monkeypatch.setattr(rl.grpo, "policy_gradient", lambda *given, **settings: learned)
    monkeypatch.setattr(rl, "collect", lambda *given: ([], 0.5))
    monkeypatch.setattr(rl.Training, "save", lambda *given, **state: saved.append(given))
    config = SimpleNamespace(
        temperature=1.0, device_batch_size=1, learning_rate_scale=1.0, steps=2, checkpoint_every=1
    )
    job = SimpleNamespace(config=config, folder=tmp_path, study=STUDY, step="rl")
    tokenizer = SimpleNamespace(vocab_size=400, digest="of the test")
    subject = SimpleNamespace(model=model, tokenizer=tokenizer, source="sft")
    with pytest.raises(UserError, match="weights are not finite after step 1: training diverged"):
        rl.policy(job, WORLD, NullRun(), subject).train([])
    assert saved == []


def test_a_consumer_takes_the_checkpoint_that_the_result_names_and_a_lost_one_is_trained_again(
    folders, trained, tmp_path, capsys
):
    """Base training of 10 steps keeps checkpoints of steps 4, 8 and 10: without the last one
    nobody goes on from 8.
    """
    work = tmp_path / "base_train"
    for name in ("tok_train", "base_train"):
        shutil.copytree(folders / name, tmp_path / name)
    final = work / "checkpoints" / "step-000010"
    weights = (final / checkpoint.WEIGHTS).read_bytes()
    shutil.rmtree(final)
    for stage, step, config in (
        (training, "mid_train", MidTrainConfig(steps=1, **SHORT)),
        (base_loss, "base_loss", BaseEvalConfig()),
    ):
        with pytest.raises(
            UserError,
            match="step-000010 is missing or damaged, the checkpoint that base_train ended with",
        ):
            run(stage, step, config, tmp_path)
    assert (
        artefacts.why_again(work)
        == "its checkpoint step-000010 is missing: trained again from step 8"
    )
    metrics, _ = run(training, "base_train", STUDY.base_train, tmp_path)
    assert "resuming after step 8" in capsys.readouterr().out
    first = trained["base_train"][0]
    assert {key: value for key, value in metrics.items() if "per_second" not in key} == {
        key: value for key, value in first.items() if "per_second" not in key
    }
    assert (final / checkpoint.WEIGHTS).read_bytes() == weights
    # another complete checkpoint under that number, and one damaged bit, are not taken for it
    # either
    shutil.rmtree(final)
    shutil.copytree(work / "checkpoints" / "step-000008", final)
    with pytest.raises(
        UserError,
        match=r"is not the checkpoint that base_train ended with .*remove it, then run the same "
        "command again",
    ):
        run(base_loss, "base_loss", BaseEvalConfig(), tmp_path)
    assert (
        run(base_loss, "base_loss", BaseEvalConfig(step=8, loss_tokens=2000), tmp_path)[0]["step"]
        == 8
    )


def test_a_tokenizer_other_than_the_one_that_the_result_names_is_refused(
    folders, trained, tmp_path
):
    shutil.copytree(folders / "tok_train", tmp_path / "tok_train")
    train_tokenizer(iter(["some other text, with other words and numbers 1 2 3 " * 50]), 270).save(
        tmp_path / "tok_train" / "tokenizer"
    )
    with pytest.raises(
        UserError, match=r"tokenizer.json was altered: .*remove it, then run the same command again"
    ):
        run(training, "base_train", STUDY.base_train, tmp_path)
    assert artefacts.why_again(tmp_path / "tok_train").startswith(
        "its tokenizer/vocabulary.txt (and 1 more) is damaged"
    )
