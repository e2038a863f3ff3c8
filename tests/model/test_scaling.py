"""The one dial: what depth gives, that every derived value can be overridden, and the counts
against a real model.
"""

import subprocess
import sys

import pytest
import torch

from nanolab.errors import UserError
from nanolab.model.gpt import GPT
from nanolab.model.scaling import derive, flops_per_token, memory_bytes, parameters, peak_flops
from nanolab.settings.config import BaseTrainConfig

DERIVED = dict.fromkeys(
    ["width", "heads", "kv_heads", "batch_size", "matrix_lr", "embedding_lr", "head_lr"]
)  # all left to depth
TABLE = [  # depth, tokens a row -> width, heads, tokens a batch, embedding and head learning rates
    (4, 256, 96, 3, 4096, 0.1, 0.03),
    (8, 512, 512, 4, 32768, 0.0433, 0.013),
    (12, 1024, 768, 6, 131072, 0.0354, 0.0106),
    (20, 2048, 1280, 10, 1048576, 0.0274, 0.00822),
]


@pytest.mark.parametrize("depth, length, width, heads, tokens, embedding_lr, head_lr", TABLE)
def test_depth_gives_the_table(depth, length, width, heads, tokens, embedding_lr, head_lr):
    scale = derive(BaseTrainConfig(depth=depth, sequence_length=length, steps=10, **DERIVED), 1024)
    assert (scale.model.width, scale.model.heads, scale.model.kv_heads) == (width, heads, heads)
    assert scale.batch_size * length == tokens and scale.steps == 10 and scale.matrix_lr == 0.03
    assert (scale.embedding_lr, scale.head_lr) == (
        pytest.approx(embedding_lr, rel=0.01),
        pytest.approx(head_lr, rel=0.01),
    )


def test_depth_20_is_the_reference_study():
    scale = derive(BaseTrainConfig(depth=20, sequence_length=2048, steps=6000, **DERIVED), 65536)
    assert (scale.model.width, scale.model.width // scale.model.heads, scale.batch_size) == (
        1280,
        128,
        512,
    )
    assert parameters(scale.model) == 560_988_160


def test_every_derived_value_can_be_overridden_by_its_name():
    values = {
        "width": 64,
        "heads": 4,
        "kv_heads": 2,
        "batch_size": 3,
        "steps": 7,
        "matrix_lr": 0.5,
        "embedding_lr": 0.6,
        "head_lr": 0.7,
    }
    scale = derive(BaseTrainConfig(**values), 300)
    assert {
        name: getattr(scale, name, None) or getattr(scale.model, name, None) for name in values
    } == values


def test_tokens_per_parameter_set_the_horizon():
    config = BaseTrainConfig(
        tokens_per_parameter=20.0, **{**DERIVED, "batch_size": 16, "steps": None}
    )
    matrices = 4 * 12 * 96**2 + 1024 * 96
    assert derive(config, 1024).steps == round(20 * matrices / 4096)


@pytest.mark.parametrize(
    "values, words",
    [
        ({"width": 100, "heads": 3}, "width 100"),
        ({"heads": 3, "kv_heads": 2}, "kv_heads = 2"),
        ({"width": 90, "heads": 6}, "even"),
    ],
)
def test_shapes_that_cannot_be_are_refused(values, words):
    with pytest.raises(UserError, match=words):
        derive(BaseTrainConfig(steps=1, **values), 1024)


def test_parameters_are_those_of_the_model_and_estimates_grow_with_it():
    small, large = (
        derive(BaseTrainConfig(depth=depth, width=64, heads=4, kv_heads=2, steps=1), 300).model
        for depth in (2, 4)
    )
    assert parameters(small) == sum(p.numel() for p in GPT(small).parameters())
    assert flops_per_token(large) > flops_per_token(small) > 6 * (parameters(small) - 300 * 64)
    assert memory_bytes(large, 16) > memory_bytes(small, 16) > memory_bytes(small, 1)


def test_peaks_are_known_for_known_devices_only():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("Some CPU") is None


def test_scaling_imports_no_torch():
    assert torch  # imported here, so that only another process can tell
    program = "import nanolab.model.scaling, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
