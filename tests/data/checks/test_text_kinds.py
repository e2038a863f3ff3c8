"""Claims about nanolab/data/checks/text_kinds.py: kinds are what they are called, and public
tokenizers never cost a network.
"""

import hashlib
import unicodedata

import pytest

from nanolab.data.checks import text_kinds
from nanolab.errors import UserError


class OwnSource:
    """HumanEval rows and chats, of which some are missing where the test says so."""

    def __init__(self, missing=()):
        self.missing = missing

    def describe(self, what):
        return "own"

    def task(self, name, split, subset=None):
        if name in self.missing:
            raise UserError(f"no {name}")
        return [{"prompt": "def half(x):\n", "canonical_solution": "    return x / 2\n"}] * 3

    def chats(self, split):
        if "chats" in self.missing:
            raise UserError("no chats")
        return [
            {
                "messages": [
                    {"role": "user", "content": "import nothing"},
                    {"role": "assistant", "content": text},
                ]
            }
            for text in ("Hello.", "```python\nprint(1)\n```", "import os")
        ]


def named(kinds):
    return {kind.name: kind for kind in kinds}


def test_code_is_humaneval_and_the_answers_with_programs():
    kinds = named(text_kinds.text_kinds(OwnSource(), ["Once upon a time."]))
    assert list(kinds) == ["prose", "code", "numbers", "other scripts"]
    assert kinds["code"].texts == ["def half(x):\n    return x / 2\n"] * 3 + [
        "```python\nprint(1)\n```",
        "import os",
    ]
    assert kinds["prose"].texts == ["Once upon a time."]
    assert all(kinds[name].origin == "built-in probe" for name in ("numbers", "other scripts"))


def test_what_a_source_lacks_is_said_and_code_is_limited(monkeypatch, capsys):
    assert len(named(text_kinds.text_kinds(OwnSource(["humaneval"]), []))["code"].texts) == 2
    assert "no HumanEval rows to measure code on (no humaneval)" in capsys.readouterr().out
    assert "code" not in named(text_kinds.text_kinds(OwnSource(["humaneval", "chats"]), []))
    assert "no chats to measure code on (no chats)" in capsys.readouterr().out
    monkeypatch.setattr(text_kinds, "CODE_CHARACTERS", 40)
    assert len(named(text_kinds.text_kinds(OwnSource(), []))["code"].texts) == 2


def test_the_probes_are_what_they_are_called():
    digits = sum(character.isdigit() for character in text_kinds.NUMBERS)
    assert digits > 0.5 * len(text_kinds.NUMBERS)
    letters = [
        character
        for character in text_kinds.SCRIPTS
        if unicodedata.category(character).startswith("L")
    ]
    scripts = {unicodedata.name(character).split()[0] for character in letters}
    assert "LATIN" not in scripts
    assert {
        "GREEK",
        "CYRILLIC",
        "ARABIC",
        "HEBREW",
        "DEVANAGARI",
        "CJK",
        "HIRAGANA",
        "HANGUL",
        "THAI",
    } <= scripts


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An own cache with one public tokenizer of two files; tiktoken gives its name back."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(
        text_kinds,
        "PUBLIC",
        {"own": {name: hashlib.sha256(name.encode()).hexdigest() for name in ("merges", "words")}},
    )
    monkeypatch.setattr(text_kinds.tiktoken, "get_encoding", lambda name: f"encoding {name}")
    for name in ("merges", "words"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_a_public_tokenizer_is_used_where_its_files_are_whole(cache):
    assert text_kinds.public_encodings() == ({"own": "encoding own"}, [])


def test_tiktoken_is_not_asked_for_what_it_would_download(cache, monkeypatch):
    """It would delete a damaged file and reach for the network."""
    (cache / "words").write_text("damaged")
    assert text_kinds.public_encodings() == ({}, ["own"]) and (cache / "words").exists()
    (cache / "words").unlink()
    assert text_kinds.public_encodings() == ({}, ["own"])
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")  # its cache is switched off
    assert text_kinds.cache_folder() is None and text_kinds.public_encodings() == ({}, ["own"])
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(cache))
    assert text_kinds.cache_folder() == cache
