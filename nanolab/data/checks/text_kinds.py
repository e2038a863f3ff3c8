"""Texts of several kinds for measuring a tokenizer, and the public tokenizers it is measured
against.

Numbers and other scripts are short texts of our own: probes, not samples of a language.
"""

import hashlib
import itertools
import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import tiktoken

from nanolab.data.checks.overlap import noted
from nanolab.data.sources.source import DataSource

CODE_CHARACTERS = 200_000
# an answer with one of them is a program, or holds one
CODE_MARKS = ("```", "def ", "import ", "function ", "#include", "public ")

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
    """Prose, code (where the source has any), numbers and other scripts."""
    kinds = [Kind("prose", f"{source.describe('text')}, held out", held_out)]
    if programs := _programs(source):
        origin = f"{source.describe('humaneval')}, HumanEval and chats with programs"
        kinds.append(Kind("code", origin, programs))
    probes = {"numbers": NUMBERS, "other scripts": SCRIPTS}
    return [*kinds, *(Kind(name, "built-in probe", [text]) for name, text in probes.items())]


def _programs(source: DataSource) -> list[str]:
    """HumanEval's prompts with their solutions, then the answers in test chats that hold a program,
    `CODE_CHARACTERS` at most.
    """
    found: list[str] = []
    missing: dict[str, str] = {}
    with noted(missing, "HumanEval rows"):
        rows = source.task("humaneval", "test")
        found += [row["prompt"] + row["canonical_solution"] for row in rows]
    with noted(missing, "chats"):
        for message in (message for row in source.chats("test") for message in row["messages"]):
            text = message["content"]
            if message["role"] == "assistant" and isinstance(text, str):
                found += [text] if any(mark in text for mark in CODE_MARKS) else []
    for what, reason in missing.items():
        print(f"tokenizer: no {what} to measure code on ({reason})", flush=True)
    before = itertools.accumulate(map(len, found), initial=0)
    return [text for text, characters in zip(found, before) if characters < CODE_CHARACTERS]


# ---- public tokenizers

# name -> files in tiktoken's cache (named by the SHA-1 of their address) and their SHA-256, as
# tiktoken 0.14 has them
PUBLIC = {
    "gpt2": {
        "6d1cbeee0f20b3d9449abfede4726ed8212e3aee": (
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
        ),
        "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6": (
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
        ),
    },
    "cl100k_base": {
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4": (
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
        )
    },
}


def cache_folder() -> Path | None:
    """Where tiktoken keeps its files; None where its cache is switched off."""
    default = os.environ.get("DATA_GYM_CACHE_DIR", f"{tempfile.gettempdir()}/data-gym-cache")
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", default)
    return Path(folder) if folder else None


def public_encodings() -> tuple[dict[str, tiktoken.Encoding], list[str]]:
    """The public tokenizers whose files lie whole in tiktoken's cache, and the names of the others.
    The network is never tried: tiktoken, which would, is asked only once its files were found to be
    what it wants.
    """
    folder, found, missing = cache_folder(), {}, []
    for name, files in PUBLIC.items():
        if folder is not None and all(_is(folder / file, sha256) for file, sha256 in files.items()):
            found[name] = tiktoken.get_encoding(name)
        else:
            missing.append(name)
    return found, missing


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
