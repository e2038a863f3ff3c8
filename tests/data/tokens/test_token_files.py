"""The shared token files: each block made once whoever comes first, the rows of a world the rows of
one process, kills survived.
"""

import threading

import numpy as np
import pytest
import torch

from nanolab.data.sources.blocks import GeneratedBlocks
from nanolab.data.sources.published import Document
from nanolab.data.tokens import tokenizer as tokenizer_module
from nanolab.data.tokens.batches import PackedText
from nanolab.data.tokens.token_files import TokenBlocks
from nanolab.data.tokens.tokenizer import train_tokenizer
from nanolab.errors import UserError
from nanolab.files import file_lock

TEXTS = [
    f"Document {number} of many, " + "and on it goes " * (number % 9) for number in range(3000)
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS[:200], 300)


class Counted:
    """Blocks of documents that remember which were read."""

    def __init__(self):
        self.blocks, self.read = (
            GeneratedBlocks(lambda: (Document(str(i), text) for i, text in enumerate(TEXTS))),
            [],
        )
        self.layout = self.blocks.layout

    def block(self, number):
        self.read.append(number)
        return self.blocks.block(number)


def test_ranks_share_the_blocks_and_get_the_rows_of_one_process(tokenizer, tmp_path):
    size, share, steps = 3, 40, 12
    expected = PackedText(TokenBlocks(Counted(), tokenizer), 32).rows(0, size * share * steps)[0]
    sources = [Counted() for _ in range(size)]
    readers = [
        PackedText(TokenBlocks(sources[rank], tokenizer, tmp_path, rank, size), 32)
        for rank in range(size)
    ]
    got = {}

    def work(rank):
        for step in range(steps):
            first = (step * size + rank) * share
            got[first] = readers[rank].rows(first, share)[0]

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.cat([got[first] for first in sorted(got)]), expected)
    made = sorted(number for source in sources for number in source.read)
    assert made == sorted(set(made))  # no block was tokenised twice
    assert max(len(source.read) for source in sources) < len(made)


def test_a_rank_that_asks_for_nothing_holds_up_nobody(tokenizer, tmp_path):
    rows = PackedText(TokenBlocks(Counted(), tokenizer, tmp_path, rank=1, size=4), 32)
    assert torch.equal(
        rows.rows(0, 900)[0], PackedText(TokenBlocks(Counted(), tokenizer), 32).rows(0, 900)[0]
    )


def test_the_block_of_a_killed_process_is_made_by_another(tokenizer, tmp_path):
    with file_lock(tmp_path / "0000000.lock"):
        pass  # a lock file that a killed process left
    (tmp_path / ".0000000.npy.1.tmp").write_bytes(b"half of it")
    blocks = TokenBlocks(Counted(), tokenizer, tmp_path)
    assert (
        np.array_equal(blocks.tokens(0), TokenBlocks(Counted(), tokenizer).tokens(0))
        and blocks.tokens(0).dtype == np.uint16
    )


def test_a_second_reader_tokenises_nothing(tokenizer, tmp_path):
    PackedText(TokenBlocks(Counted(), tokenizer, tmp_path), 32).rows(0, 500)
    again = Counted()
    PackedText(TokenBlocks(again, tokenizer, tmp_path), 32).rows(0, 500)
    assert again.read == []


def test_a_cursor_of_a_text_cut_elsewhere_finds_its_row_by_number(tokenizer):
    rows = PackedText(TokenBlocks(Counted(), tokenizer), 32)
    rows.rows(0, 700)
    state = rows.state() | {"layout": "streamed", "place": [5, 5]}
    other = PackedText(TokenBlocks(Counted(), tokenizer), 32)
    other.restore(state)
    assert torch.equal(other.rows(700, 9)[0], rows.rows(700, 9)[0])


def test_a_document_of_a_source_of_ones_own_that_is_no_text_is_named():
    for bad, line in (
        (None, "text is null"),
        (b"x", r"text = b'x' \(bytes\)"),
        ("\ud800", ".*half a surrogate pair"),
    ):
        blocks = GeneratedBlocks(
            lambda bad=bad: iter([Document("own/0", "good"), Document("own/1", bad)])
        )
        with pytest.raises(UserError, match=f"document own/1: {line}"):
            blocks.block(0)


def test_long_runs_of_blanks_are_said_and_a_panic_of_the_library_names_the_document(
    tokenizer, monkeypatch, capfd
):
    texts = ["short", "a" + " " * 1_100_000 + "b", "short"]
    blocks = TokenBlocks(
        GeneratedBlocks(lambda: (Document(f"own/{i}", text) for i, text in enumerate(texts))),
        tokenizer,
    )
    ids = blocks.tokens(0).tolist()
    documents = "".join(
        "\n" if token == tokenizer.bos else tokenizer.decode([token]) for token in ids
    )
    assert documents == "".join(f"\n{text}" for text in texts)
    assert "document own/1 has over 100,000 blanks in a row" in capfd.readouterr().out
    monkeypatch.setattr(
        tokenizer_module, "LONGEST_BLANKS", 10**7
    )  # as if the library took less than it is given
    with pytest.raises(
        UserError,
        match=r"document own/1: a text of 1,100,002 characters that starts 'a +' cannot be tokeni",
    ) as caught:
        blocks.tokens(0)
    assert "\n" not in str(caught.value)
