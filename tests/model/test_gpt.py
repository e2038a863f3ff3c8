"""The model against slow obvious references: attention, the loss and the whole network, forward and
backward.
"""

import math

import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nanolab.model.attention import causal_attention
from nanolab.model.gpt import GPT, norm, rotate
from nanolab.model.loss import softcapped_cross_entropy
from nanolab.model.scaling import GPTConfig

CONFIG = GPTConfig(vocab_size=50, sequence_length=32, depth=2, width=32, heads=4, kv_heads=2)


def randomised(config=CONFIG, seed=0):
    """A model without its zero-initialised matrices, which would hide most mistakes."""
    torch.manual_seed(seed)
    model = GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def reference_loss(model, ids, targets):
    """The definition: torch's own attention, powers and cross-entropy, every position computed."""
    cos, sin = model.rotary(torch.arange(ids.shape[1]))
    x = norm(model.embedding(ids))
    for block in model.blocks:
        q, k, v = block.attention.queries_keys_values(norm(x), cos, sin)
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
        x = x + block.attention.project(
            functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        )
        x = x + block.feed_forward.down(block.feed_forward.up(norm(x)).clamp(min=0) ** 2)
    logits = 15 * torch.tanh(model.head(norm(x)) / 15)
    return functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
    )


@pytest.mark.parametrize("length", [1, 5, 128, 129, 300])
@pytest.mark.parametrize("heads, kv_heads", [(3, 3), (4, 2), (4, 1)])
def test_blocked_attention_equals_torchs(length, heads, kv_heads):
    torch.manual_seed(length)
    q, k, v = (
        torch.randn(2, n, length, 8, requires_grad=True) for n in (heads, kv_heads, kv_heads)
    )
    weight = torch.randn(2, heads, length, 8)
    wide = [t.repeat_interleave(heads // kv_heads, 1) for t in (k, v)]
    expected = functional.scaled_dot_product_attention(q, *wide, is_causal=True)
    got = causal_attention(q, k, v)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    gradients = (torch.autograd.grad((y * weight).sum(), (q, k, v)) for y in (got, expected))
    for mine, theirs in zip(*gradients):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [0, 1, 1024, 1500])
def test_chunked_cross_entropy_equals_the_definition(count):
    torch.manual_seed(count)
    hidden, weight = (
        torch.randn(count, 16, requires_grad=True),
        (3 * torch.randn(40, 16)).requires_grad_(),
    )
    targets = torch.randint(0, 40, (count,))
    expected = functional.cross_entropy(
        15 * torch.tanh(hidden @ weight.T / 15), targets, reduction="sum"
    )
    got = softcapped_cross_entropy(hidden, weight, targets, 15.0)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(
        torch.autograd.grad(got / max(1, count), (hidden, weight)),
        torch.autograd.grad(expected / max(1, count), (hidden, weight)),
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_the_model_equals_the_reference_forward_and_backward():
    model = randomised()
    ids, targets = torch.randint(0, 50, (3, 20)), torch.randint(-1, 50, (3, 20))
    targets[0, :12] = -1
    expected = reference_loss(model, ids, targets)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    loss, count = model(ids, targets)
    assert count == int((targets >= 0).sum())
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(torch.autograd.grad(loss, list(model.parameters())), gradients):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5 * float(theirs.abs().max()))


def test_bfloat16_is_near_float32():
    model = randomised()
    ids, targets = torch.randint(0, 50, (3, 20)), torch.randint(0, 50, (3, 20))
    exact, count = model(ids, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = model(ids, targets)
    assert (exact - rounded).item() / count == pytest.approx(
        0, abs=0.05
    ) and rounded.dtype == torch.float32


def test_later_tokens_do_not_reach_back():
    model = randomised()
    ids = torch.randint(0, 50, (1, 20))
    other = ids.clone()
    other[0, 10:] = (other[0, 10:] + 1) % 50
    before, after = model.trunk(ids), model.trunk(other)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_rotary_products_depend_on_the_distance_only():
    model = randomised()
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def product(i, j):
        rotated = [
            rotate(x, *model.rotary(torch.tensor([position]))) for x, position in ((q, i), (k, j))
        ]
        return float((rotated[0] * rotated[1]).sum())

    assert product(9, 4) == pytest.approx(product(25, 20), abs=1e-5) and product(
        9, 4
    ) != pytest.approx(product(9, 3), abs=1e-3)


def test_a_fresh_model_knows_nothing_and_its_logits_are_capped():
    torch.manual_seed(0)
    model = GPT(CONFIG)
    ids, targets = torch.randint(0, 50, (2, 20)), torch.randint(0, 50, (2, 20))
    loss, count = model(ids, targets)
    assert loss.item() / count == pytest.approx(math.log(50), abs=1e-5)
    assert float(randomised().logits(1000 * torch.ones(32)).detach().abs().max()) <= 15


def test_the_same_seed_gives_the_same_weights():
    assert all(
        torch.equal(a, b) for a, b in zip(randomised().parameters(), randomised().parameters())
    )


def test_no_norm_leaves_its_epsilon_to_the_device():
    """float32's in every dtype: torch documents the input dtype's where none is given, 0.0078 in
    bfloat16.
    """
    given = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), named=None):
            if function is functional.rms_norm:
                given.append({"eps": None, **(named or {})}["eps"])
            return function(*arguments, **named or {})

    with Watch(), torch.no_grad():
        model = randomised().to(torch.bfloat16)
        model.logits(model.trunk(torch.arange(6)[None]))
    assert len(given) == 1 + 3 * CONFIG.depth + 1 and set(given) == {torch.finfo(torch.float32).eps}
