"""base_train, base_loss, mid_train and sft after one another on a tiny model: keys, records, checkpoints, resumption, bad input."""

import itertools
import json
import shutil

import pytest
import torch

from nanolab import checkpoint
from nanolab.config import (
    BaseEvalConfig,
    BaseTrainConfig,
    Job,
    MidTrainConfig,
    SftConfig,
    StudyConfig,
)
from nanolab.data.sources import open_source
from nanolab.data.tokenizer import train_tokenizer
from nanolab.dist import World
from nanolab.journal import NullRun
from nanolab.schema import UserError
from nanolab.stages import base_loss, base_train, mid_train, sft

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
    return folder


def run(stage, step, config, folders, name=None):
    record, inputs = (
        NullRun(),
        {step: folders / step for step in ("tok_train", "base_train", "mid_train")},
    )
    folder = folders / (name or step)
    folder.mkdir(exist_ok=True)
    return stage.run(Job(step, STUDY, config, folder, inputs), WORLD, record), record


@pytest.fixture(scope="module")
def trained(folders):
    """The three trainings in their order: step -> (metrics, record)."""
    found = {"base_train": run(base_train, "base_train", STUDY.base_train, folders)}
    found["mid_train"] = run(
        mid_train, "mid_train", MidTrainConfig(steps=6, share_text=0.5, **SHORT), folders
    )
    found["sft"] = run(sft, "sft", SftConfig(steps=6, **SHORT), folders)
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
    _, again = run(base_train, "base_train", STUDY.base_train, folders, "again")
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
        mid_train, "mid_train", MidTrainConfig(steps=6, share_text=0.5, **SHORT), folders, "resumed"
    )
    whole = [entry for entry in trained["mid_train"][1].logged_metrics if entry[0] == "train/loss"]
    assert [entry for entry in record.logged_metrics if entry[0] == "train/loss"] == whole[4:]


def test_base_loss_gives_both_splits(folders, trained):
    metrics, record = run(base_loss, "base_loss", BaseEvalConfig(loss_tokens=2000), folders)
    assert (
        1 < metrics["train_bits_per_byte"] < 8
        and 1 < metrics["validation_bits_per_byte"] < 8
        and metrics["step"] == 10
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
    for stage, step, config in (
        (base_loss, "base_loss", BaseEvalConfig()),
        (sft, "sft", SftConfig(steps=2, **SHORT)),
    ):
        with pytest.raises(UserError, match="was trained with tokenizer"):
            run(stage, step, config, other)
