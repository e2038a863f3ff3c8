"""Claims about nanolab/data/tokens/tokenizer.py."""

import json
import pickle
import random
import subprocess
import sys
import time

import pytest

from nanolab.data.tokens import tokenizer as tokenizer_module
from nanolab.data.tokens.tokenizer import (
    LONGEST_BLANKS,
    SPECIAL_TOKENS,
    Tokenizer,
    pieces,
    train_tokenizer,
)
from nanolab.errors import UserError

TEXTS = [
    f"The {animal} number {i * 37} eats {food}, says Ann.\n- {food}=A\nnaïve 東京 <|bos|>\n"
    for i, (animal, food) in enumerate(
        [("cat", "fish"), ("dog", "meat"), ("goose", "grass"), ("mouse", "cheese")] * 10
    )
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 330)


def test_specials_take_the_last_nine_ids_and_the_vocabulary_has_the_size_asked_for(tokenizer):
    assert tokenizer.vocab_size == 330
    assert [tokenizer.special(name) for name in SPECIAL_TOKENS] == list(range(321, 330))
    assert (tokenizer.bos, tokenizer.output_end) == (321, 329)


def test_decoding_gives_back_any_text(tokenizer):
    draw = random.Random(0)
    alphabet = "abc XYZ 0123456789 .,=+-*/<>|\n\t'é東🙂" + "".join(SPECIAL_TOKENS)
    texts = [
        "",
        *TEXTS,
        *("".join(draw.choices(alphabet, k=draw.randrange(60))) for _ in range(300)),
    ]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_special_tokens_inside_text_are_plain_text(tokenizer):
    for name in SPECIAL_TOKENS:
        assert max(tokenizer.encode(f"a {name} b")) < tokenizer.bos


@pytest.mark.parametrize("blank", [" ", "\u3000"])
def test_a_run_of_blanks_of_any_length_round_trips_in_training_and_encoding(blank):
    """Two libraries' regex engine panics at a million blanks in a row."""
    text = "cat" + blank * 1_010_000 + "dog\n"
    tokenizer = train_tokenizer([*TEXTS, text], 320)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.encode_batch(["a", text]) == [
        tokenizer.encode("a"),
        ids,
    ]
    assert tokenizer.decode(tokenizer.encode(text[3:-4])) == text[3:-4]


def test_only_text_with_a_longer_run_of_blanks_is_cut_and_only_there():
    lines = "word  word\n" * 30_000 + "word"
    for text in (
        "",
        lines,
        " " * LONGEST_BLANKS,
        "a" + " " * LONGEST_BLANKS + "b" + "\n" * LONGEST_BLANKS,
    ):
        assert pieces(text) == [text]
    longest = " " * LONGEST_BLANKS
    assert pieces(f"{lines}{longest} b{longest}") == [f"{lines}{longest}", f" b{longest}"]
    assert pieces(f"a{longest * 2}b") == [
        f"a{longest}",
        f"{longest}b",
    ]  # a blank is left for the word after them


@pytest.mark.parametrize(
    "unit", ["a", "7", ".", "\n", "\r\n", "=", "🙂", "東", "'s", "e\u0301", " \n"]
)
def test_other_long_runs_take_time_in_proportion(tokenizer, unit):
    text = (unit * 400_000)[:400_000]
    start = time.process_time()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.process_time() - start < 3  # 0.1 s; a quadratic search would take minutes


def test_a_panic_of_a_library_is_one_line_and_an_interruption_passes(tokenizer, monkeypatch):
    monkeypatch.setattr(
        tokenizer_module, "LONGEST_BLANKS", 10**7
    )  # as if the libraries took less than they are given
    text = "start" + " " * 1_100_000
    for ask in (lambda: tokenizer.encode(text), lambda: tokenizer.encode_batch(["a", text])):
        with pytest.raises(
            UserError,
            match=r"a text of 1,100,005 characters that starts 'start .*shorten it or take it out",
        ) as caught:
            ask()
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="the training text cannot be tokenised"):
        train_tokenizer([text], 300)
    with pytest.raises(KeyboardInterrupt), tokenizer_module.panics_refused("a text"):
        raise KeyboardInterrupt


def test_digits_come_in_groups_of_at_most_two():
    numbers = train_tokenizer(["1234567 1234567 12345\n"] * 50, 268)
    assert [numbers.decode([token]) for token in numbers.encode("12345671")] == [
        "12",
        "34",
        "56",
        "7",
        "1",
    ]


def test_the_letter_after_a_choice_is_the_token_of_the_answer():
    greedy = train_tokenizer(["- fish=A\n- meat=A\n- cheese=A\n"] * 50, 275)
    assert greedy.encode("- fish=A")[-1] == greedy.encode("A")[0]


def test_token_bytes_add_up_to_the_text(tokenizer):
    size = tokenizer.token_bytes()
    assert len(size) == tokenizer.vocab_size and size[-9:] == [0] * 9
    for text in TEXTS[:4]:
        ids = tokenizer.encode(text)
        assert sum(size[token] for token in ids) == len(text.encode())
        assert b"".join(map(tokenizer.piece, ids)) == text.encode()


def test_too_little_text_names_the_size_asked_for_and_the_largest_possible():
    with pytest.raises(UserError, match=r"vocab_size = 900 .*at most (\d+)") as caught:
        train_tokenizer(["one two one two"], 900)
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    assert train_tokenizer(["one two one two"], largest).vocab_size == largest
    with pytest.raises(UserError, match="need 265"):
        train_tokenizer(TEXTS, 264)


def test_training_is_the_same_in_every_process(tokenizer):
    program = (
        "import sys, json; from nanolab.data.tokens.tokenizer import train_tokenizer; "
        "print(train_tokenizer(json.load(sys.stdin), 330).digest)"
    )
    for _ in range(3):
        again = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(TEXTS),
            capture_output=True,
            text=True,
            check=True,
        )
        assert again.stdout.strip() == tokenizer.digest


def test_saving_and_loading_changes_nothing(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "deep" / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "deep" / "tokenizer")
    assert loaded.digest == tokenizer.digest and loaded.vocab_size == tokenizer.vocab_size
    assert pickle.loads(pickle.dumps(tokenizer)).digest == tokenizer.digest
    assert all(loaded.encode(text) == tokenizer.encode(text) for text in TEXTS)
    assert train_tokenizer(TEXTS, 331).digest != tokenizer.digest


def test_a_missing_or_damaged_file_is_a_clear_line(tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    vocabulary, facts = tmp_path / "vocabulary.txt", tmp_path / "tokenizer.json"
    whole = vocabulary.read_bytes()
    vocabulary.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(tmp_path)
    vocabulary.write_bytes(whole)
    text = facts.read_text()
    facts.write_text(text[:50])
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(tmp_path)
    facts.write_text(text.replace("<|bos|>", "<|start|>"))
    with pytest.raises(UserError, match="special tokens"):
        Tokenizer.load(tmp_path)
    facts.write_text(text)
    vocabulary.unlink()
    with pytest.raises(UserError, match=r"vocabulary\.txt is missing"):
        Tokenizer.load(tmp_path)
