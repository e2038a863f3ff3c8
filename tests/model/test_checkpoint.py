"""Checkpoints: what is saved comes back, and every way of being broken is one clear line."""

import shutil

import pytest
import torch

from nanolab import artefacts
from nanolab.errors import UserError
from nanolab.files import COMPLETE
from nanolab.model import checkpoint
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig

CONFIG = GPTConfig(vocab_size=20, sequence_length=8, depth=1, width=16, heads=2, kv_heads=1)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = GPT(CONFIG)
    for step in (5, 10):
        checkpoint.save(
            tmp_path,
            step,
            model,
            {"losses": [1.0], "momentum": torch.ones(3)},
            {"tokenizer_digest": "a" * 64},
        )
    return tmp_path, model


def test_what_is_saved_comes_back(saved):
    folder, model = saved
    loaded, facts = checkpoint.load_model(folder, tokenizer_digest="a" * 64)
    assert loaded.config == CONFIG and facts["step"] == 10 and facts["tokenizer_digest"] == "a" * 64
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters()))
    state = checkpoint.load_state(folder, 5)
    assert state["losses"] == [1.0] and torch.equal(state["momentum"], torch.ones(3))


def test_loading_leaves_the_random_numbers_alone(saved):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    checkpoint.load_model(saved[0])
    assert torch.equal(torch.rand(1), expected)


def test_the_newest_complete_one_counts(saved):
    folder, model = saved
    (folder / "step-000020").mkdir()
    (folder / "step-000010" / COMPLETE).unlink()
    (folder / "step-000030.writing").mkdir()
    assert (
        artefacts.checkpoint_steps(folder) == [5]
        and checkpoint.latest(folder) == 5
        and checkpoint.load_model(folder)[1]["step"] == 5
    )
    checkpoint.save(folder, 20, model, {}, {})
    assert checkpoint.latest(folder) == 20
    assert checkpoint.latest(folder / "nothing") is None


def test_a_crash_while_writing_leaves_the_old_one(saved, monkeypatch):
    folder, model = saved
    monkeypatch.setattr(
        torch, "save", lambda *_: (_ for _ in ()).throw(OSError("no space left on device"))
    )
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(folder, 10, model, {}, {})
    assert checkpoint.latest(folder) == 10 and checkpoint.load_state(folder, 10)["losses"] == [1.0]


def broken(words):
    return pytest.raises(UserError, match=words)


def test_mistakes_are_named(saved, tmp_path):
    folder, _ = saved
    with broken("no complete checkpoint in .*nowhere.*run the step"):
        checkpoint.load_model(tmp_path / "nowhere")
    with broken(r"no complete checkpoint of step 7 .*there are: 5, 10"):
        checkpoint.load_model(folder, 7)
    with broken("tokenizer aaaaaaaaaaaa, .*bbbbbbbbbbbb"):
        checkpoint.load_model(folder, tokenizer_digest="b" * 64)
    weights = folder / "step-000010" / checkpoint.WEIGHTS
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    with broken("model.safetensors is truncated"):
        checkpoint.load_model(folder, 10)
    weights.write_bytes(content[:-4] + b"1234")
    with broken("altered"):
        checkpoint.load_model(folder)
    weights.write_bytes(content)
    (folder / "step-000010" / checkpoint.STATE).unlink()
    with broken("state.pt is missing"):
        checkpoint.load_state(folder, 10)
    assert checkpoint.latest(folder) == 5  # one that lost a part is none to go on from
    shutil.copytree(folder / "step-000005", folder / "step-000007")
    with broken("step-000007 holds the checkpoint of step 5"):
        checkpoint.load_model(folder, 7)
    assert checkpoint.load_model(folder, 5)[1]["step"] == 5
