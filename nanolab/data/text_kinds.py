"""Texts of several kinds for measuring a tokenizer, and the public tokenizers it is measured against.

Prose is the study's held-out text and code comes from its tasks and chats. Numbers and other scripts are short texts of our own below:
no source has them apart, so they are probes, not samples of a language, and are labelled so.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import tiktoken

from nanolab.data.sources import DataSource
from nanolab.schema import UserError

CODE_CHARACTERS = 200_000
CODE_MARKS = (
    "```",
    "def ",
    "import ",
    "function ",
    "#include",
    "public ",
)  # an answer with one of them is a program, or holds one

NUMBERS = """\
In 1998 the bridge cost $4,350,000; by 2021 its repair was put at 12.75 million. Call 555-0142 or 555-0199 before 17:30 on 03/11/2024.
1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765, 10946, 17711, 28657, 46368, 75025
3.14159265358979 2.71828182845905 1.41421356237310 0.57721566490153 -273.15 6.02214076e23 1.602176634e-19 9.80665
48/2=24 24*7=168 168-19=149 149+1001=1150 1150/25=46 99.5%*200=199 (12+30)*8=336 2^10=1024 7!=5040
id,mass_kg,height_cm,score
00017,71.4,182,0.8831
00018,64.9,169,0.7520
00019,88.0,191,0.9047
192.168.0.1 10:42:07.318 +44 20 7946 0958 ISBN 978-0-13-468599-1 0xDEADBEEF 0b101101 #FF8800 59\u00b054'12" N
"""

SCRIPTS = """\
Το πρωί η Μαρία πηγαίνει στην αγορά και αγοράζει ψωμί, τυρί και τρία κόκκινα μήλα.
Утром Мария идёт на рынок и покупает хлеб, сыр и три красных яблока для своих детей.
في الصباح تذهب مريم إلى السوق وتشتري الخبز والجبن وثلاث تفاحات حمراء لأطفالها.
בבוקר מרים הולכת לשוק וקונה לחם, גבינה ושלושה תפוחים אדומים לילדיה.
सुबह मारिया बाज़ार जाती है और अपने बच्चों के लिए रोटी, पनीर और तीन लाल सेब खरीदती है।
早上玛丽亚去市场，给孩子们买了面包、奶酪和三个红苹果。
朝、マリアは市場へ行き、子どもたちのためにパンとチーズと赤いりんごを三つ買います。
아침에 마리아는 시장에 가서 아이들을 위해 빵과 치즈와 빨간 사과 세 개를 삽니다.
ตอนเช้ามาเรียไปตลาดและซื้อขนมปัง ชีส และแอปเปิลสีแดงสามลูกให้ลูกๆ
"""


class Kind(NamedTuple):
    """Texts of one kind and where they come from."""

    name: str
    origin: str
    texts: list[str]


def text_kinds(source: DataSource, held_out: list[str]) -> list[Kind]:
    """Prose, code, numbers and other scripts; code is left out where the source has neither programs nor chats with programs."""
    programs = _programs(source)
    kinds = [Kind("prose", f"{source.describe('text')}, held out", held_out)]
    if programs:
        kinds.append(
            Kind(
                "code",
                f"{source.describe('humaneval')}, HumanEval and chats with programs",
                programs,
            )
        )
    return [
        *kinds,
        Kind("numbers", "built-in probe", [NUMBERS]),
        Kind("other scripts", "built-in probe", [SCRIPTS]),
    ]


def _programs(source: DataSource) -> list[str]:
    """HumanEval's prompts with their solutions, then the answers in test chats that hold a program, `CODE_CHARACTERS` at most."""
    found: list[str] = []
    try:
        found += [
            row["prompt"] + row["canonical_solution"] for row in source.task("humaneval", "test")
        ]
    except UserError as error:
        print(f"tokenizer: no HumanEval rows to measure code on ({error})", flush=True)
    try:
        answers = [
            message["content"]
            for row in source.chats("test")
            for message in row["messages"]
            if message["role"] == "assistant"
        ]
        found += [
            text
            for text in answers
            if isinstance(text, str) and any(mark in text for mark in CODE_MARKS)
        ]
    except UserError as error:
        print(f"tokenizer: no chats to measure code on ({error})", flush=True)
    kept, characters = [], 0
    for text in found:
        if characters < CODE_CHARACTERS:
            kept.append(text)
            characters += len(text)
    return kept


# ---- public tokenizers

# name -> files in tiktoken's cache (named by the SHA-1 of their address) and their SHA-256, as tiktoken 0.14 has them
PUBLIC = {
    "gpt2": {
        "6d1cbeee0f20b3d9449abfede4726ed8212e3aee": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    },
    "cl100k_base": {
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
    },
}


def cache_folder() -> Path | None:
    """Where tiktoken keeps its files; None where its cache is switched off."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if variable in os.environ:
            return Path(os.environ[variable]) if os.environ[variable] else None
    return Path(tempfile.gettempdir()) / "data-gym-cache"


def public_encodings() -> tuple[dict[str, tiktoken.Encoding], list[str]]:
    """The public tokenizers whose files lie whole in tiktoken's cache, and the names of the others. The network is never tried:
    tiktoken, which would, is asked only once its files were found to be what it wants."""
    folder, found, missing = cache_folder(), {}, []
    for name, files in PUBLIC.items():
        if folder is not None and all(_is(folder / file, sha256) for file, sha256 in files.items()):
            found[name] = tiktoken.get_encoding(name)
        else:
            missing.append(name)
    return found, missing


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
