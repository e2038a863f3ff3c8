"""The packed product equals the plain one, follows its weight, and leaves training alone."""

import copy
import io

import pytest
import torch
from torch.nn import functional

from nanolab.model import linear
from nanolab.model.linear import Linear
from nanolab.model.optim import Muon

pytestmark = pytest.mark.skipif(
    not linear.PACKABLE, reason="this build of torch has no oneDNN operators for packed weights"
)


def layer(inputs=96, outputs=288):
    torch.manual_seed(0)
    return Linear(inputs, outputs)


@pytest.mark.parametrize("activation", ["none", "relu", "tanh"])
@pytest.mark.parametrize("shape", [(1, 96), (40, 96), (3, 7, 96)])
def test_packed_equals_plain(shape, activation):
    module, x = layer(), torch.randn(shape)
    expected = linear.ACTIVATIONS[activation](functional.linear(x, module.weight)).detach()
    with torch.no_grad():
        found = module(x, activation)
    assert module.packed is not None and found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(module(x, activation), expected, atol=1e-6) and module.packed is None


@pytest.mark.parametrize(
    "sizes", [(96, 288), (384, 96), (96, 896), (256, 1024), (1024, 256), (64, 265)]
)
def test_a_row_does_not_depend_on_the_others(sizes):
    module, x = layer(*sizes), torch.randn(512, sizes[0])
    with torch.no_grad():
        whole = module(x)
        for start, count in ((0, 8), (16, 8), (3, 24), (100, 56), (0, 136), (256, 256)):
            assert torch.equal(module(x[start : start + count]), whole[start : start + count])


def update_with_muon(module):
    module.weight.grad = torch.randn_like(module.weight)
    Muon([module.weight], 0.1, 0.0, torch.float32).step()


def load(module):
    module.load_state_dict({"weight": torch.randn_like(module.weight)})


def update_with_fused_adam(module):
    module.weight.grad = torch.randn_like(module.weight)
    torch.optim.AdamW([module.weight], lr=0.1, fused=True).step()


def convert(module):
    module.to(torch.bfloat16)


@pytest.mark.parametrize("change", [update_with_fused_adam, update_with_muon, load, convert])
def test_it_is_packed_anew_when_the_weight_changes(change):
    module, x = layer(), torch.randn(16, 96)
    with torch.no_grad():
        module(x)
        old = module.packed[1]
        module(x)
        assert module.packed[1] is old
    change(module)
    with torch.no_grad():
        found = module(x.to(module.weight.dtype))
        expected = functional.linear(x.to(module.weight.dtype), module.weight)
    if module.weight.dtype in linear.PACKED:
        assert module.packed[1] is not old
    else:  # bfloat16, on a processor that has no instructions for it
        assert module.packed is None
    assert torch.allclose(found, expected, atol=1e-5 if found.dtype == torch.float32 else 0.02)


def test_the_packed_copy_is_neither_saved_nor_copied():
    module = layer()
    with torch.no_grad():
        module(torch.randn(8, 96))
    assert copy.deepcopy(module).packed is None and list(module.state_dict()) == ["weight"]
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False).packed is None


def test_autocast_takes_the_plain_product():
    module = layer()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert module(torch.randn(8, 96)).dtype == torch.bfloat16 and module.packed is None
