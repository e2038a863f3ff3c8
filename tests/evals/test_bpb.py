"""Bits per byte against its definition."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from nanolab.dist import World
from nanolab.evals import bpb
from nanolab.evals.bpb import batches_of_rank, evaluate, of_documents, windows
from nanolab.inference.protocol import SpanScore
from nanolab.model.gpt import GPT
from nanolab.model.scaling import GPTConfig
from nanolab.results import flat

WORLD = World(0, 1, torch.device("cpu"), torch.float32)


class SomeRows:
    length = 12

    def rows(self, first, count):
        torch.manual_seed(100)
        ids = torch.randint(0, 30, (20, 13))[first : first + count]
        targets = ids[:, 1:].clone()
        targets[:, :2] = -1
        return ids[:, :-1], targets


SIZES = [1 + token % 4 for token in range(27)] + [0, 0, 0]


def some_model():
    torch.manual_seed(0)
    model = GPT(GPTConfig(30, 12, 1, 16, 2, 2))
    torch.nn.init.normal_(model.head.weight)
    return model


def bits_and_bytes(model, first, count):
    """Token by token: the bits, bytes and tokens that count, of each row."""
    ids, targets = SomeRows().rows(first, count)
    found = []
    for row, wanted in zip(ids, targets):
        losses = functional.cross_entropy(
            model.logits(model.trunk(row[None]))[0], wanted.clamp(min=0), reduction="none"
        )
        pairs = [
            (loss / math.log(2), SIZES[t])
            for loss, t in zip(losses.tolist(), wanted.tolist())
            if t >= 0 and SIZES[t] > 0
        ]
        found.append((sum(bits for bits, _ in pairs), sum(size for _, size in pairs), len(pairs)))
    return found


def test_bits_per_byte_is_bits_over_bytes_of_ordinary_supervised_tokens():
    model = some_model()
    found = evaluate(model, batches_of_rank(SomeRows(), 10, 4, WORLD), SIZES, WORLD)
    bits, total, tokens = map(sum, zip(*bits_and_bytes(model, 0, 10)))
    assert found.value == pytest.approx(bits / total, rel=1e-5)
    assert (found.tokens, found.rows) == (tokens, 10)


def test_the_standard_error_is_that_of_a_ratio_over_rows():
    """Against the jackknife over rows, which it approximates, and against the formula row by
    row.
    """
    model = some_model()
    found = evaluate(model, batches_of_rank(SomeRows(), 20, 4, WORLD), SIZES, WORLD)
    rows = bits_and_bytes(model, 0, 20)
    bits, total = sum(row[0] for row in rows), sum(row[1] for row in rows)
    squares = sum((own - bits / total * size) ** 2 for own, size, _ in rows)
    assert found.standard_error == pytest.approx(math.sqrt(squares * 20 / 19) / total, rel=1e-4)
    left_out = [(bits - own) / (total - size) for own, size, _ in rows]
    mean = sum(left_out) / 20
    jackknife = math.sqrt(19 / 20 * sum((value - mean) ** 2 for value in left_out))
    assert found.standard_error == pytest.approx(jackknife, rel=0.1)
    named = flat([found.score("validation")])
    assert named == {
        "validation_bits_per_byte": found.value,
        "validation_bits_per_byte_se": found.standard_error,
        "validation_tokens": found.tokens,
        "validation_rows": 20,
    }


def test_a_single_row_has_no_standard_error():
    found = evaluate(some_model(), batches_of_rank(SomeRows(), 1, 4, WORLD), SIZES, WORLD)
    assert found.standard_error is None and "validation_bits_per_byte_se" not in flat(
        [found.score("validation")]
    )
    assert "±" not in str(found)


def test_a_model_that_knows_nothing_needs_log_vocabulary_bits_a_token():
    model = GPT(GPTConfig(32, 12, 1, 16, 2, 2))
    found = evaluate(model, batches_of_rank(SomeRows(), 3, 2, WORLD), [2] * 32, WORLD)
    assert found.value == pytest.approx(5 / 2) and found.standard_error == pytest.approx(
        0, abs=1e-6
    )


def test_ranks_share_out_the_rows():
    alone = batches_of_rank(SomeRows(), 10, 3, WORLD)
    shares = [
        batches_of_rank(SomeRows(), 10, 3, World(rank, 3, torch.device("cpu"), torch.float32))
        for rank in range(3)
    ]
    assert (
        sum(len(ids) for share in shares for ids, _ in share)
        == sum(len(ids) for ids, _ in alone)
        == 10
    )
    assert torch.equal(shares[1][0][0], alone[1][0]) and len(shares[0]) == 2


@pytest.mark.parametrize("count, length", [(0, 4), (1, 4), (3, 4), (4, 4), (7, 4), (8, 4), (9, 2)])
def test_windows_score_every_token_of_a_document_once(count, length):
    ids = list(range(100, 100 + count))
    rows = list(windows(ids, 7, length))
    assert [token for row in rows for token in row[1:]] == ids
    assert all(2 <= len(row) <= length for row in rows)
    assert [row[0] for row in rows] == [7, *ids[length - 2 :: length - 1]][: len(rows)]


class Bytes:
    """A tokenizer of bytes, whose documents start with 256."""

    document_start = 256

    def encode(self, text):
        return list(text.encode())


class Twos:
    """A model of three tokens that gives each half of the mass after an even one, else a
    quarter.
    """

    def score(self, ids, spans):
        scores = []
        for row, (start, end) in zip(ids, spans):
            bits = [1 if row[i - 1] % 2 == 0 else 2 for i in range(start, end)]
            each = [-bit * math.log(2) for bit in bits]
            scores.append(SpanScore(sum(each), each, False))
        return scores


def subject(context=100):
    return SimpleNamespace(scorer=Twos(), tokenizer=Bytes(), context=context)


TEXTS = ["bad", "häß", "c", "never read"]


def test_bits_per_byte_of_documents_count_bytes_of_the_text(monkeypatch):
    """b, a, d, ...: 98, 97, 100; two documents have the seven tokens that are asked for."""
    found = of_documents(subject(context=3), iter(TEXTS), 8, WORLD)
    monkeypatch.setattr(bpb, "WINDOW", 3)
    assert of_documents(subject(), iter(TEXTS), 8, WORLD) == found
    bits = []
    for text in TEXTS[:2]:
        before = [256, *text.encode()[:-1]]
        bits.append(sum(1 if token % 2 == 0 else 2 for token in before))
    assert found.value == pytest.approx(sum(bits) / 8)
    assert (found.tokens, found.rows, found.unit) == (8, 2, "documents")
    assert "(8 tokens of 2 documents)" in str(found)


def test_documents_are_shared_by_ranks(monkeypatch):
    """The sums of two ranks are those of one."""
    whole = []
    monkeypatch.setattr(bpb, "sum_over_ranks", lambda world, sums: whole.append(sums) or sums)
    for world in (WORLD, *(World(r, 2, torch.device("cpu"), torch.float32) for r in range(2))):
        of_documents(subject(), iter(TEXTS), 100, world)
    assert torch.allclose(whole[0], whole[1] + whole[2])
