"""Packed rows: complete, the same whatever the order and the world, exact after a restore;
conversations whole, masked, by their shares.
"""

import itertools
import json
from collections import Counter

import pytest
import torch

from nanolab.data.sources.blocks import GeneratedBlocks
from nanolab.data.sources.published import Document
from nanolab.data.sources.source import open_source
from nanolab.data.tokens import chat
from nanolab.data.tokens.batches import ChatMixture, Mix, PackedText, chat_conversations
from nanolab.data.tokens.token_files import TokenBlocks
from nanolab.data.tokens.tokenizer import train_tokenizer
from nanolab.errors import UserError
from nanolab.settings.config import DataConfig

SHARES = {"chats": 0.1, "problems": 0.4, "choices": 0.3, "programs": 0.2}


@pytest.fixture(scope="module")
def source():
    return open_source(DataConfig())


@pytest.fixture(scope="module")
def tokenizer(source):
    return train_tokenizer(
        (document.text for document in itertools.islice(source.documents("train"), 2000)), 500
    )


@pytest.fixture(scope="module")
def conversations(source):
    return chat_conversations(source, list(SHARES))


def packed(tokenizer, texts, length=16, **sharing):
    blocks = GeneratedBlocks(lambda: (Document(str(i), text) for i, text in enumerate(texts)))
    return PackedText(TokenBlocks(blocks, tokenizer, **sharing), length)


TEXTS = [f"Document {i} says " + "so " * (i % 11) + "and ends." for i in range(700)]


def test_rows_hold_every_token_in_order_and_repeat(tokenizer):
    stream = [token for text in TEXTS for token in (tokenizer.bos, *tokenizer.encode(text))]
    inputs, targets = packed(tokenizer, TEXTS).rows(0, 2 * len(stream) // 16)
    flat = inputs.flatten().tolist()
    assert flat == (stream + stream)[: len(flat)]
    assert targets.flatten().tolist() == (stream + stream + stream)[1 : len(flat) + 1]


def test_text_rows_do_not_depend_on_how_they_are_asked_for(tokenizer):
    whole = packed(tokenizer, TEXTS).rows(0, 60)
    for size in (2, 4):  # ranks of a world: each skips the rows of the others
        rank_rows = [packed(tokenizer, TEXTS) for _ in range(size)]
        parts = [
            rows.rows(step * 12 + rank * 12 // size, 12 // size)
            for step in range(5)
            for rank, rows in enumerate(rank_rows)
        ]
        assert torch.equal(torch.cat([x for x, _ in parts]), whole[0]) and torch.equal(
            torch.cat([y for _, y in parts]), whole[1]
        )
    rows = packed(tokenizer, TEXTS)
    assert torch.equal(rows.rows(40, 5)[0], whole[0][40:45]) and torch.equal(
        rows.rows(3, 2)[0], whole[0][3:5]
    )


def test_a_restored_text_cursor_goes_on_without_encoding_the_past(tokenizer, monkeypatch):
    rows = packed(tokenizer, TEXTS)
    rows.rows(0, 900)  # into the second pass
    state = json.loads(json.dumps(rows.state()))
    expected = rows.rows(901, 7)
    other, encoded = packed(tokenizer, TEXTS), []
    encode = tokenizer.encode_batch
    monkeypatch.setattr(
        tokenizer, "encode_batch", lambda texts: encoded.extend(texts) or encode(texts)
    )
    other.restore(state)
    assert (
        all(torch.equal(a, b) for a, b in zip(other.rows(901, 7), expected)) and len(encoded) <= 512
    )


def test_a_source_without_documents_is_refused(tokenizer):
    with pytest.raises(UserError, match="no documents"):
        packed(tokenizer, []).rows(0, 1)


def mixture(tokenizer, conversations, **changes):
    made = {"sequence_length": 200, "address": (0, "sft"), "text": None}
    own = {key: changes.pop(key) for key in made if key in changes}
    mix = Mix(**{"shares": SHARES} | changes)
    return ChatMixture(conversations[0], mix, tokenizer, **made | own)


def split(row, bos):
    """The conversations of a row of inputs, without padding."""
    starts = [i for i, token in enumerate(row) if token == bos]
    return [row[a:b] for a, b in zip(starts, [*starts[1:], len(row)]) if b > a + 1]


def test_conversations_stand_whole_in_rows_with_little_padding_and_by_their_shares(
    tokenizer, conversations
):
    length = 400  # longer than any conversation
    inputs, targets = mixture(tokenizer, conversations, sequence_length=length).rows(0, 100)
    found = [tuple(part) for row in inputs.tolist() for part in split(row, tokenizer.bos)]
    kinds = {}
    for kind, messages in conversations[0].items():
        for message in messages:
            ids = tuple(chat.render(tokenizer, message)[0])
            assert len(ids) <= length + 1
            kinds[ids], kinds[ids[:-1]] = kind, kind  # a row's very last token is a target only
    counts = Counter(kinds[ids] for ids in found)  # KeyError for a conversation that was torn
    assert all(abs(counts[kind] / len(found) - share) < 0.07 for kind, share in SHARES.items()), (
        counts
    )
    assert (
        float(((inputs == tokenizer.bos) & (targets < 0)).float().mean())
        - len(found) / inputs.numel()
        < 0.05
    )


def test_rows_as_packed_start_with_short_conversations_and_shuffled_rows_do_not(tokenizer):
    messages = [
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b" * (10 + i % 100)}]
        for i in range(400)
    ]
    short_first, rows = {}, {}
    for shuffled in (False, True):
        made = mixture(tokenizer, [{"chats": messages}], shares={"chats": 1.0}, shuffled=shuffled)
        inputs = made.rows(0, 300)[0].tolist()
        rows[shuffled] = [split(row, tokenizer.bos) for row in inputs]
        short_first[shuffled] = sum(len(row[0]) < 60 for row in rows[shuffled]) / len(inputs)
    every = [part for row in rows[True] for part in row]
    share = sum(len(part) < 60 for part in every) / len(every)
    assert short_first[False] > share + 0.2 and abs(short_first[True] - share) < 0.1, (
        short_first,
        share,
    )
    assert all(
        sum(map(len, one)) == sum(map(len, other)) for one, other in zip(*rows.values())
    )  # the same ones, in another order


def test_shuffled_rows_are_the_same_after_a_restore(tokenizer, conversations):
    straight, resumed = (mixture(tokenizer, conversations, shuffled=True) for _ in range(2))
    straight.rows(0, 40)
    resumed.restore(json.loads(json.dumps(straight.state())))
    assert all(torch.equal(a, b) for a, b in zip(resumed.rows(40, 20), straight.rows(40, 20)))
    assert not torch.equal(
        straight.rows(0, 40)[0], mixture(tokenizer, conversations).rows(0, 40)[0]
    )


def test_targets_are_the_supervised_next_tokens(tokenizer, conversations):
    inputs, targets = mixture(tokenizer, conversations, sequence_length=400).rows(0, 20)
    shifted = inputs[:, 1:]
    chosen = targets[:, :-1] >= 0
    assert torch.equal(targets[:, :-1][chosen], shifted[chosen])
    for row, wanted in zip(inputs.tolist(), targets.tolist()):
        ids, mask = [], []
        for part in split(row, tokenizer.bos):
            inside = supervised(tokenizer, part)
            ids, mask = ids + part, mask + inside
        assert [target >= 0 for target in wanted[: len(ids) - 1]] == mask[1:]


def supervised(tokenizer, ids):
    """The mask by the grammar alone: inside an assistant turn, but for tool output."""
    mask, on, output = [], False, False
    for token in ids:
        output = output or token == tokenizer.output_start
        mask.append(on and not output)
        on = (on or token == tokenizer.assistant_start) and token != tokenizer.assistant_end
        output = output and token != tokenizer.output_end
    return mask


def test_mixture_rows_do_not_depend_on_the_world_and_go_on_exactly(tokenizer, conversations):
    text = TEXTS

    def make():
        rows = packed(tokenizer, text, 200)
        return mixture(tokenizer, conversations, text=rows, text_share=0.3)

    whole = make().rows(0, 40)
    assert int((whole[1] >= 0).all(1).sum()) == 12  # rows of text have a loss everywhere
    ranks = [make(), make()]
    parts = [
        rows.rows(step * 8 + rank * 4, 4) for step in range(5) for rank, rows in enumerate(ranks)
    ]
    assert torch.equal(torch.cat([x for x, _ in parts]), whole[0]) and torch.equal(
        torch.cat([y for _, y in parts]), whole[1]
    )
    rows, other = make(), make()
    rows.rows(0, 17)
    other.restore(json.loads(json.dumps(rows.state())))
    got = other.rows(17, 23)
    assert torch.equal(got[0], whole[0][17:]) and torch.equal(got[1], whole[1][17:])


def test_a_pass_over_a_kind_shows_every_conversation_once(tokenizer, conversations):
    few = ({"problems": conversations[0]["problems"][:30]}, {})
    rows = mixture(tokenizer, few, shares={"problems": 1.0})
    drawn = Counter(rows._draw()[0].index for _ in range(60))
    assert set(drawn.values()) == {2} and len(drawn) == 30


def test_a_conversation_longer_than_a_row_goes_on_in_another_and_nothing_is_thrown_away(
    tokenizer, conversations
):
    rows = mixture(tokenizer, conversations, shares={"problems": 1.0}, sequence_length=24)
    inputs, targets = rows.rows(0, 300)
    assert inputs.shape == targets.shape == (300, 24)
    order = rows._orders["problems"][1][: rows._drawn["problems"]]
    drawn = [chat.render(tokenizer, conversations[0]["problems"][index]) for index in order]
    assert min(len(ids) for ids, _ in drawn) > 25  # so each is in pieces
    expected = Counter(token for ids, mask in drawn for token, learn in zip(ids, mask) if learn)
    waiting = Counter(token for piece in rows._waiting for token in piece.targets[1:] if token >= 0)
    assert Counter(targets[targets >= 0].tolist()) + waiting == expected
    assert torch.equal(inputs[:, 1:][targets[:, :-1] >= 0], targets[:, :-1][targets[:, :-1] >= 0])
    state, other = (
        json.loads(json.dumps(rows.state())),
        mixture(tokenizer, conversations, shares={"problems": 1.0}, sequence_length=24),
    )
    other.restore(state)  # between two pieces of a conversation
    assert any(piece.piece for piece in rows._waiting)
    assert all(torch.equal(a, b) for a, b in zip(other.rows(300, 20), rows.rows(300, 20)))


@pytest.mark.parametrize("words", [1, 40, 400])
def test_packed_text_throws_nothing_away_at_any_document_length(tokenizer, words):
    texts = ["word " * (1 + number % words) for number in range(60)]
    stream = [token for text in texts for token in (tokenizer.bos, *tokenizer.encode(text))]
    count = len(stream) // 16
    assert packed(tokenizer, texts).rows(0, count)[0].flatten().tolist() == stream[: 16 * count]


def test_a_share_without_data_is_refused_and_another_seed_gives_other_rows(
    tokenizer, conversations
):
    with pytest.raises(UserError, match="share_programs"):
        mixture(tokenizer, ({**conversations[0], "programs": []}, {}))
    assert not torch.equal(
        mixture(tokenizer, conversations).rows(0, 2)[0],
        mixture(tokenizer, conversations, address=(1, "sft")).rows(0, 2)[0],
    )


def test_held_out_conversations_are_not_trained_on(conversations):
    training, held_out = conversations
    for kind in SHARES:
        seen = {json.dumps(messages) for messages in training[kind]}
        others = [json.dumps(messages) for messages in held_out[kind]]
        assert others and not any(other in seen for other in others), kind
