"""Claims about nanolab/data/tokenizer.py."""

import json
import pickle
import random
import subprocess
import sys

import pytest

from nanolab.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from nanolab.schema import UserError

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
        "import sys, json; from nanolab.data.tokenizer import train_tokenizer; "
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
