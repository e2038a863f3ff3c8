"""Claims: a damaged value of a task, a chat or CORE is one line with file, row and value,
everywhere.
"""

import gzip
import json
import re

import pyarrow
import pyarrow.parquet
import pytest

from nanolab.data.checks.overlap import overlap
from nanolab.data.checks.text_kinds import text_kinds
from nanolab.data.sources import source as sources
from nanolab.data.tasks.catalogue import TASKS
from nanolab.errors import UserError
from nanolab.settings.config import DataConfig

GOOD = {
    "gsm8k": {"question": "How many?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    "arc_easy": {
        "question": "Hot?",
        "choices": {"text": ["ice", "fire"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "mmlu": {"question": "1+1?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 1},
    "humaneval": {
        "task_id": "T/0",
        "prompt": "def f(x):\n",
        "canonical_solution": "    return x\n",
        "test": "def check(f):\n    assert f(1) == 1\n",
        "entry_point": "f",
    },
    "math500": {
        "problem": "1+1?",
        "solution": None,
        "answer": "2",
        "subject": "Algebra",
        "level": 1,
    },
    "aime_2025": {"problem": "1+1?", "answer": "2"},
    "gpqa_diamond": {
        "Question": "Hot?",
        "Correct Answer": "fire",
        **{f"Incorrect Answer {i}": str(i) for i in (1, 2, 3)},
    },
    "mbpp": {
        "prompt": "Write f.",
        "code": "def f(x):\n    return x\n",
        "test_imports": [],
        "test_list": ["assert f(1) == 1"],
    },
    "chat": {
        "messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "a"}]
    },
}
PLACES = {
    "gsm8k": "openai/gsm8k/main",
    "arc_easy": "allenai/ai2_arc/ARC-Easy",
    "mmlu": "cais/mmlu/all",
    "humaneval": "openai/openai_humaneval/openai_humaneval",
    "math500": "HuggingFaceH4/MATH-500",
    "aime_2025": "math-ai/aime25",
    "gpqa_diamond": "Idavidrein/gpqa/gpqa_diamond",
    "mbpp": "google-research-datasets/mbpp/sanitized",
    "chat": "chat/own",
}
BROKEN = pyarrow.Array.from_buffers(
    pyarrow.string(),
    2,
    [
        None,
        pyarrow.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0])),
        pyarrow.py_buffer(b"ab\xff\xfe"),
    ],
)


def choices(texts, labels):
    return {"choices": {"text": texts, "label": labels}}


def said(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


# task, what replaces values of a good second row, and what the line says behind the file's name
DAMAGED = [
    (
        "gsm8k",
        {"answer": "So it is 2."},
        "row 2: answer ends in 'So it is 2.' without a number after ####",
    ),
    ("gsm8k", {"answer": "#### two"}, "row 2: answer ends in '#### two' without"),
    ("gsm8k", {"answer": None}, "row 2: answer is null, it must be text"),
    (
        "gsm8k",
        {"question": "  "},
        "row 2: question = '  ' (str), it must be text that is not blank",
    ),
    ("arc_easy", choices(["ice", None], ["A", "B"]), "row 2: choices.text[1] is null"),
    ("arc_easy", choices(["ice", ""], ["A", "B"]), "row 2: choices.text[1] = '' (str)"),
    (
        "arc_easy",
        choices(["ice", "fire"], ["B", "B"]),
        "row 2: choices.label = ['B', 'B'] (list), it must be different labels",
    ),
    (
        "arc_easy",
        choices(["ice", "fire", "snow"], ["A", "B"]),
        "row 2: choices has 3 texts and 2 labels ['A', 'B']",
    ),
    (
        "arc_easy",
        choices(list("abcdefghijk"), list("ABCDEFGHIJK")),
        "has 11 entries, it must have 2 to 10",
    ),
    ("arc_easy", choices(["ice"], ["A"]), "row 2: choices.text = ['ice'] has 1 entries"),
    (
        "arc_easy",
        {"choices": None},
        "row 2: choices is null, it must be a mapping of text and label",
    ),
    (
        "arc_easy",
        {"answerKey": "C"},
        "row 2: answerKey = 'C' (str), it must be one of the labels ['A', 'B']",
    ),
    ("arc_easy", {"answerKey": None}, "row 2: answerKey is null"),
    ("mmlu", {"answer": -1}, "row 2: answer = -1 (int), it must be a whole number from 0 to 3"),
    ("mmlu", {"answer": 4}, "row 2: answer = 4 (int), it must be a whole number from 0 to 3"),
    ("mmlu", {"answer": None}, "row 2: answer is null, it must be a whole number"),
    ("mmlu", {"choices": ["1", "2", None, "4"]}, "row 2: choices[2] is null"),
    ("mmlu", {"choices": []}, "row 2: choices = [] has 0 entries"),
    ("mmlu", {"subject": None}, "row 2: subject is null"),
    ("humaneval", {"entry_point": None}, "row 2: entry_point is null"),
    (
        "humaneval",
        {"entry_point": "g"},
        r"row 2: entry_point = 'g' (str), it must be the name of the function in the prompt 'def f",
    ),
    (
        "humaneval",
        {"entry_point": "x"},
        r"row 2: entry_point = 'x' (str), it must be the name of the function in the prompt 'def f",
    ),
    ("humaneval", {"test": ""}, "row 2: test = '' (str)"),
    (
        "humaneval",
        {"test": "assert f(1)"},
        "row 2: test = 'assert f(1)' (str), it must be a program that defines check",
    ),
    ("humaneval", {"prompt": ""}, "row 2: prompt = '' (str)"),
    ("math500", {"answer": "{2"}, "row 2: answer = '{2' (str), it must be LaTeX whose braces"),
    ("math500", {"answer": " "}, "row 2: answer = ' ' (str)"),
    ("math500", {"problem": None}, "row 2: problem is null"),
    ("math500", {"level": 6}, "row 2: level = 6 (int), it must be a whole number from 1 to 5"),
    ("math500", {"subject": ""}, "row 2: subject = '' (str)"),
    ("aime_2025", {"answer": "1000"}, "row 2: answer = '1000' (str), it must be a whole number"),
    ("aime_2025", {"answer": "two"}, "row 2: answer = 'two' (str)"),
    ("aime_2025", {"answer": None}, "row 2: answer is null"),
    ("gpqa_diamond", {"Correct Answer": ""}, "row 2: Correct Answer = '' (str)"),
    ("gpqa_diamond", {"Incorrect Answer 3": None}, "row 2: Incorrect Answer 3 is null"),
    ("mbpp", {"test_list": ["assert g(1)"]}, "it must be tests that call a function of code"),
    ("mbpp", {"test_list": ["assert f(1"]}, "row 2: code or test_list is no Python"),
    ("mbpp", {"test_list": []}, "row 2: test_list = [] (list)"),
    ("mbpp", {"code": None}, "row 2: code is null"),
    ("chat", said(), "row 2: messages = [] has 0 entries"),
    (
        "chat",
        said(("user", "A?")),
        "row 2: messages = [{'role': 'user', 'content': 'A?'}] has 1 entries",
    ),
    ("chat", said(("user", None), ("assistant", "a")), "row 2: messages[0].content is null"),
    (
        "chat",
        said(("human", "A?"), ("gpt", "a")),
        "row 2: messages[0].role = 'human' (str), it must be 'user'",
    ),
    (
        "chat",
        said(("user", "A?"), ("user", "B?")),
        "row 2: messages[1].role = 'user' (str), it must be 'assistant'",
    ),
    (
        "chat",
        said(("user", "A?"), ("system", "B"), ("assistant", "a")),
        "row 2: messages[1].role = 'system' (str)",
    ),
    ("chat", said(("user", "A?"), (None, "a")), "row 2: messages[1].role is null"),
    ("chat", {"messages": None}, "row 2: messages is null, it must be a list"),
]
# a whole column of another type, in one row
TYPES = [
    ("mmlu", {"answer": ["B"]}, "row 1: answer = 'B' (str), it must be a whole number from 0 to 3"),
    ("mmlu", {"answer": [True]}, "row 1: answer = True (bool)"),
    ("mmlu", {"answer": [1.0]}, "row 1: answer = 1.0 (float)"),
    ("mmlu", {"answer": [float("nan")]}, "row 1: answer = nan (float)"),
    ("mmlu", {"choices": ["1234"]}, "row 1: choices = '1234' (str), it must be a list"),
    ("mmlu", {"choices": [[1, 2, 3, 4]]}, "row 1: choices[0] = 1 (int), it must be text"),
    (
        "arc_easy",
        {"choices": [["ice", "fire"]]},
        "row 1: choices = ['ice', 'fire'] (list), it must be a mapping",
    ),
    ("arc_easy", {"answerKey": [1]}, "row 1: answerKey = 1 (int)"),
    ("gsm8k", {"answer": [2]}, "row 1: answer = 2 (int), it must be text"),
    ("gsm8k", {"question": [b"How?"]}, "row 1: question = b'How?' (bytes), it must be text"),
    (
        "gsm8k",
        {"question": [{"text": "How?"}]},
        "row 1: question = {'text': 'How?'} (dict), it must be text",
    ),
    ("gsm8k", {"question": BROKEN, "answer": ["#### 1"] * 2}, "row 2: question is no valid UTF-8"),
    ("chat", {"messages": ["A? a"]}, "row 1: messages = 'A? a' (str), it must be a list"),
    (
        "chat",
        {"messages": [[{"role": "user", "content": 1}, {"role": "assistant", "content": 2}]]},
        "messages[0].content = 1 (int)",
    ),
    (
        "chat",
        {"messages": [[None]]},
        "row 1: messages[0] is null, it must be a mapping of role and content",
    ),
]


def read(source, task):
    return source.chats("test") if task == "chat" else source.task(task, "test")


def refusal(source, task):
    with pytest.raises(UserError) as caught:
        read(source, task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def local(tmp_path):
    return sources.open_source(DataConfig(source="local", root=str(tmp_path)))


@pytest.mark.parametrize(("task", "change", "line"), DAMAGED)
def test_a_damaged_row_is_refused_with_file_row_and_value(local, to_parquet, task, change, line):
    split = TASKS[task].split_names.get("test", "test") if task in TASKS else "test"
    path = local.root / PLACES[task] / f"{split}.parquet"
    to_parquet(path, [GOOD[task]] * 2)
    assert read(local, task) == [GOOD[task]] * 2
    to_parquet(path, [GOOD[task], GOOD[task] | change])
    assert f"{path}, row 2: " in (told := refusal(local, task)) and line in told, told
    assert told.endswith("correct it or take the row out")


@pytest.mark.parametrize(("task", "columns", "line"), TYPES)
def test_a_column_of_another_type_is_refused_with_its_first_value(local, task, columns, line):
    path = local.root / PLACES[task] / "test.parquet"
    path.parent.mkdir(parents=True)
    whole = {name: [value] for name, value in GOOD[task].items()} | columns
    pyarrow.parquet.write_table(pyarrow.table(whole), path)
    assert line in (told := refusal(local, task)) and str(path) in told, told


def test_the_row_is_counted_in_its_own_part_and_an_empty_part_is_let_pass(local, to_parquet):
    folder = local.root / PLACES["mmlu"]
    to_parquet(folder / "test-00000-of-00003.parquet", [GOOD["mmlu"]] * 3)
    to_parquet(folder / "test-00002-of-00003.parquet", [GOOD["mmlu"], GOOD["mmlu"] | {"answer": 9}])
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([GOOD["mmlu"]]).slice(0, 0),
        folder / "test-00001-of-00003.parquet",
    )
    assert "test-00002-of-00003.parquet, row 2: answer = 9" in refusal(local, "mmlu")
    for number in (0, 2):
        (folder / f"test-0000{number}-of-00003.parquet").unlink()
    assert "test-00001-of-00003.parquet lacks rows" in refusal(local, "mmlu")


def test_training_rows_of_mmlu_may_have_a_blank_choice_and_no_other_fault(local, to_parquet):
    path = local.root / PLACES["mmlu"] / "auxiliary_train.parquet"
    to_parquet(path, [rows := GOOD["mmlu"] | {"choices": ["", "2", "3", "4"], "subject": ""}])
    assert local.task("mmlu", "train") == [rows]
    to_parquet(path, [rows | {"answer": -1}])
    with pytest.raises(UserError, match="row 1: answer = -1"):
        local.task("mmlu", "train")


def test_the_embedded_rows_and_a_chat_with_tool_calls_pass_the_same_checks(monkeypatch):
    source = sources.open_source(DataConfig())
    assert any(
        isinstance(message["content"], list)
        for row in source.chats("test")
        for message in row["messages"]
    )
    monkeypatch.setattr(
        source.world, "task", lambda name, split: [GOOD[name], GOOD[name] | {"answer": -1}]
    )
    assert "embedded mmlu test, row 2: answer = -1" in refusal(source, "mmlu")
    turns = [
        {"role": "user", "content": "A?"},
        {"role": "assistant", "content": [{"type": "pyhton", "text": "1+1"}]},
    ]
    monkeypatch.setattr(source.world, "chats", lambda split: [{"messages": turns}])
    assert "row 1: messages[1].content[0] = {'type': 'pyhton', 'text': '1+1'}" in refusal(
        source, "chat"
    )
    task = {
        "name": "own",
        "kind": "schema",
        "num_fewshot": 0,
        "continuation_delimiter": " ",
        "random_baseline": 0.5,
        "rows": [{"context_options": ["a", "b"], "continuation": "c", "gold": 2}],
    }
    monkeypatch.setattr(source.world, "core_tasks", lambda: [task])
    with pytest.raises(UserError, match="embedded CORE task own, row 1: gold = 2"):
        source.core()


def test_a_damaged_benchmark_is_not_taken_for_one_that_is_absent(local, to_parquet):
    to_parquet(
        local.root / PLACES["humaneval"] / "test.parquet", [GOOD["humaneval"] | {"prompt": None}]
    )
    for ask in (lambda: text_kinds(local, ["prose"]), lambda: overlap(local, ["humaneval"], 100)):
        with pytest.raises(UserError, match=r"test.parquet, row 1: prompt is null"):
            ask()


# ---- CORE

ENTRY = {
    "name": "pick",
    "file": "data/pick.jsonl.gz",
    "icl_task_type": "multiple_choice",
    "num_fewshot": 1,
    "random_baseline": 50,
}
CHOICE = {"query": "Fire is", "choices": ["hot", "cold"], "gold": 0}


def core_refusal(source, entries, *lines):
    (source.root / "core" / "data").mkdir(parents=True, exist_ok=True)
    (source.root / "core" / "tasks.json").write_text(
        entries if isinstance(entries, str) else json.dumps(entries)
    )
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (source.root / "core" / "data" / "pick.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    with pytest.raises(UserError) as caught:
        source.core()
    assert "\n" not in str(caught.value) and str(source.root) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"gold": -1}, "gold = -1 (int), it must be a whole number from 0 to 1"),
        ({"gold": 2}, "gold = 2 (int)"),
        ({"gold": True}, "gold = True (bool)"),
        ({"gold": 0.0}, "gold = 0.0 (float)"),
        ({"gold": "A"}, "gold = 'A' (str)"),
        ({"gold": None}, "gold is null"),
        ({"choices": ["hot", None]}, "choices[1] is null"),
        ({"choices": "hot"}, "choices = 'hot' (str), it must be a list"),
        ({"query": float("nan")}, "query = nan (float)"),
        ({"choices": ["hot", "\ud800"]}, r"choices[1] = '\ud800' (str), it must be valid Unicode"),
    ],
)
def test_a_damaged_row_of_core_is_refused_with_its_line(local, change, line):
    assert f"pick.jsonl.gz of CORE task pick, row 3: {line}" in core_refusal(
        local, [ENTRY], CHOICE, "", CHOICE | change
    )


def test_a_line_of_core_that_is_no_row_is_refused(local):
    for bad, line in (
        ("{", "row 2: '{' is not JSON"),
        ("[1]", "row 2: [1] must be a mapping"),
        ("null", "row 2: None must be a mapping"),
        ({"query": "?", "gold": 0}, "row 2: choices is missing"),
    ):
        assert f"pick.jsonl.gz of CORE task pick, {line}" in core_refusal(
            local, [ENTRY], CHOICE, bad
        )
    schema, completion = (
        ENTRY | {"icl_task_type": "schema"},
        ENTRY | {"icl_task_type": "language_modeling"},
    )
    assert "row 1: context_options[1] = 3" in core_refusal(
        local, [schema], {"context_options": ["a", 3], "continuation": "c", "gold": 0}
    )
    assert "row 1: continuation = ''" in core_refusal(
        local, [completion], {"context": "c", "continuation": ""}
    )
    assert "lacks rows" in core_refusal(local, [ENTRY])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"name": "a/b"}, "name = 'a/b'"),
        ({"name": None}, "name is null"),
        ({"icl_task_type": "essay"}, "icl_task_type = 'essay'"),
        ({"icl_task_type": ["schema"]}, "icl_task_type = ['schema']"),
        ({"num_fewshot": -1}, "num_fewshot = -1"),
        ({"num_fewshot": "1"}, "num_fewshot = '1'"),
        ({"random_baseline": 100}, "random_baseline = 100"),
        ({"random_baseline": float("nan")}, "random_baseline = nan"),
        ({"file": "../pick.jsonl.gz"}, "file = '../pick.jsonl.gz'"),
        ({"continuation_delimiter": 1}, "continuation_delimiter = 1"),
    ],
)
def test_a_damaged_entry_of_the_index_is_refused_with_its_task(local, change, line):
    assert f"tasks.json, task 2: {line}" in core_refusal(
        local, [ENTRY | {"name": "other"}, ENTRY | change], CHOICE
    )


def test_an_index_that_is_no_list_of_tasks_is_refused(local):
    for bad, line in (
        ("[{", "is not readable JSON"),
        ("{}", "must hold a list of tasks, it has {}"),
        ([ENTRY, ENTRY], "task 2: name = 'pick'"),
        ([3], "task 1: 3 must be a mapping"),
        ([{"name": "x"}], "task 1: icl_task_type is missing"),
    ):
        assert re.search(f"tasks.json,? {re.escape(line)}", core_refusal(local, bad, CHOICE))
