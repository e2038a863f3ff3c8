"""The fused kernels of decoding: the numbers of torch's operators and of a float64 reference, for
any batch; their absence is said.
"""

import os
import shutil
import stat
import sys

import pytest
import torch

from nanolab.inference import decode, kernels
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig

ROOM, SLOTS = 50, 12
needs_kernel = pytest.mark.skipif(kernels.library()[0] is None, reason=kernels.status())


def setting(heads, kv_heads, width, tokens, seed=0):
    """Rotary tables, a cache of one layer in noise, and (mixed, slots, positions) of `tokens`
    tokens, the last four of them earlier ones of slots 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)
    model = GPT(GPTConfig(16, 64, 1, heads * width, heads, kv_heads))
    store = torch.randn(2, 1, SLOTS, kv_heads, ROOM, width, generator=generator)
    slots = torch.cat([torch.arange(tokens - 4), torch.tensor([0, 0, 1, 1])])
    positions = torch.randint(4, 40, (tokens,), generator=generator)
    positions[-4:] = torch.stack(
        [positions[0] - 2, positions[0] - 1, positions[1] - 2, positions[1] - 1]
    )
    mixed = 3 * torch.randn(tokens, (heads + 2 * kv_heads) * width, generator=generator)
    return decode.rotary_tables(model, ROOM), store, mixed, slots, positions


def tokens(tables, store, slots, positions, rows=SLOTS):
    return decode.Tokens(store, tables, slots, slots, positions, rows, 48)


def by_hand(tables, store, mixed, slots, positions, heads):
    """Token by token in float64: every key and value into the cache first, then softmax over what
    each token sees.
    """
    _, _, _, kv_heads, _, width = store.shape
    store = store.double()
    parts = mixed.double().view(len(mixed), -1, width)

    def turned(x, position):
        cos, sin = tables.cos[position, 0].double(), tables.sin[position, 0].double()
        x = x * cos + torch.cat([x[width // 2 :], x[: width // 2]]) * sin
        return x / (x.square().mean() + torch.finfo(torch.float32).eps).sqrt()

    for part, slot, position in zip(parts, slots, positions):
        for k in range(kv_heads):
            store[0, 0, slot, k, position] = turned(part[heads + k], position)
            store[1, 0, slot, k, position] = part[heads + kv_heads + k]
    out = torch.empty(len(mixed), heads, width, dtype=torch.float64)
    for n, (part, slot, position) in enumerate(zip(parts, slots, positions)):
        for h in range(heads):
            keys, values = store[:, 0, slot, h * kv_heads // heads, : position + 1]
            out[n, h] = torch.softmax(keys @ turned(part[h], position) / width**0.5, 0) @ values
    return out.flatten(1), store


@needs_kernel
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width"), [(4, 4, 64), (4, 2, 32), (3, 1, 24), (2, 2, 8)]
)
def test_the_kernel_gives_the_numbers_of_the_definition(heads, kv_heads, width):
    tables, store, mixed, slots, positions = setting(heads, kv_heads, width, SLOTS + 4)
    expected, cache = by_hand(tables, store, mixed, slots, positions, heads)
    for attention in (decode.fused_attention, decode.torch_attention):
        written = store.clone()
        found = attention(tokens(tables, written, slots, positions))(0, mixed)
        assert (found - expected).abs().max() < 1e-5
        assert (written - cache).abs().max() < 1e-5


@needs_kernel
def test_a_row_does_not_depend_on_its_batch():
    """Bitwise, on any number of threads."""
    tables, store, mixed, slots, positions = setting(4, 2, 32, SLOTS + 4)
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(
                decode.fused_attention(tokens(tables, store.clone(), slots, positions))(0, mixed)
            )
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found)
    for n in (2, 7, 11):
        alone = decode.fused_attention(
            tokens(tables, store.clone(), slots[[n]], positions[[n]], 1)
        )(0, mixed[[n]].contiguous())
        assert torch.equal(alone[0], found[0][n])


@needs_kernel
def test_a_token_that_only_pads_the_batch_gives_zeros_and_harms_no_row():
    tables, store, mixed, slots, positions = setting(4, 2, 32, SLOTS + 4)
    usual = decode.fused_attention(tokens(tables, store.clone(), slots, positions))(0, mixed)
    positions[5] = ROOM - 1  # beyond the length of 48
    padded = decode.fused_attention(tokens(tables, store.clone(), slots, positions))(0, mixed)
    others = torch.arange(len(slots)) != 5
    assert torch.equal(padded[others], usual[others]) and not padded[5].any()


@needs_kernel
def test_not_a_number_is_not_hidden():
    tables, store, mixed, slots, positions = setting(4, 2, 32, SLOTS + 4)
    mixed[3, 0] = float("nan")
    found = decode.fused_attention(tokens(tables, store, slots, positions))(0, mixed)
    assert found[3].isnan().any() and not found[4:].isnan().any()


def by_sorting(logits, top_k):
    """The k largest of each row, of equal ones the lowest ids, and their log-softmax in float64."""
    ids = torch.argsort(logits, dim=-1, descending=True, stable=True)[:, :top_k].sort(-1).values
    return ids, torch.log_softmax(logits.double(), -1).gather(-1, ids)


@needs_kernel
@pytest.mark.parametrize("top_k", [1, 2, 7, 50, 300])
def test_candidates_are_the_largest_logits_in_the_order_of_their_ids(top_k):
    generator = torch.Generator().manual_seed(0)
    random = 5 * torch.randn(9, 300, generator=generator)
    tied = torch.randint(
        0, 4, (9, 300), generator=generator
    ).float()  # nearly all are equal to others
    peaked = torch.cat(
        [torch.full((9, 1), 60.0), tied[:, 1:]], -1
    )  # all but one have probabilities near e^-60
    for logits in (random, tied, peaked, random.sort(-1).values, -random.sort(-1).values):
        ids, log_p, bad = kernels.top_candidates(logits, top_k)
        expected, values = by_sorting(logits, top_k)
        assert bad == 0 and (ids == expected.numpy()).all()
        assert abs(log_p - values.numpy()).max() < 1e-5 and log_p.max() <= 0


@needs_kernel
def test_candidates_count_rows_that_are_not_finite():
    logits = torch.zeros(5, 40)
    logits[1, 3], logits[4, 0] = float("nan"), float("inf")
    logits[2, 5:] = -float("inf")  # a forbidden token is no fault
    ids, log_p, bad = kernels.top_candidates(logits, 3)
    assert (
        bad == 2
        and (ids[2] == [0, 1, 2]).all()
        and abs(log_p[2] + torch.tensor(5.0).log().item()).max() < 1e-6
    )


def test_without_a_compiler_torchs_operators_serve_and_it_is_said(monkeypatch):
    fresh = kernels.library.__wrapped__
    monkeypatch.setenv("CC", "no-such-compiler")
    function, sentence = fresh()
    assert function is None and "no C compiler" in sentence
    monkeypatch.setenv("NANOLAB_NATIVE", "0")
    assert fresh() == (None, "torch's operators, as NANOLAB_NATIVE=0 asks")
    monkeypatch.setattr(kernels, "library", fresh)
    assert not kernels.usable(torch.float32, torch.device("cpu"), 8)


NEEDY = """for last; do :; done
program='int elsewhere(void); int f(void) { return elsewhere(); }'
echo "$program" | exec cc -xc -shared -fPIC - -o "$last"
"""


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a compiler"
)
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'no such option: -march=native' >&2; exit 1", "no such option: -march=native"),
        (NEEDY, "undefined symbol: elsewhere"),
    ],
)
def test_kernels_that_cannot_be_built_or_loaded_are_done_without_and_it_is_said_why(
    monkeypatch, tmp_path, script, reason
):
    """A compiler that refuses the source, and a library that needs what torch has not loaded, as
    another OpenMP would be.
    """
    compiler = tmp_path / "broken-cc"
    compiler.write_text(f"#!/bin/sh\n{script}\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", f"{compiler} --some-option")
    monkeypatch.delenv("NANOLAB_NATIVE", raising=False)
    function, sentence = kernels.library.__wrapped__()
    assert function is None and reason in sentence and "broken-cc --some-option" in sentence


@pytest.mark.skipif(
    sys.platform != "linux"
    or not shutil.which("cc")
    or "CC" in os.environ
    or "NANOLAB_NATIVE" in os.environ,
    reason="a Linux machine with a compiler of its own",
)
def test_where_there_is_a_compiler_there_are_kernels():
    assert kernels.status() == "fused kernels"


@needs_kernel
def test_the_kernels_serve_float32_on_a_processor_and_rows_that_fit_its_stack():
    assert kernels.usable(torch.float32, torch.device("cpu"), kernels.STACK)
    assert not kernels.usable(torch.bfloat16, torch.device("cpu"), 8)
    assert not kernels.usable(torch.float32, torch.device("cuda"), 8)
    assert not kernels.usable(torch.float32, torch.device("cpu"), kernels.STACK + 1)
