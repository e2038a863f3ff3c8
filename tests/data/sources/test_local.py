"""The local folder: rows in the public schemas, odd cases included, through the code that loads the
real sets; what is missing is named.
"""

import gzip
import itertools
import json
import os
import resource
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from nanolab.data.sources.choice import chosen_rows, repeated_rows
from nanolab.data.sources.source import open_source
from nanolab.data.tasks.answers import final_number
from nanolab.data.tasks.catalogue import TASKS
from nanolab.data.tasks.programs import check_of
from nanolab.data.tokens.batches import chat_conversations, mixture_notes
from nanolab.errors import UserError
from nanolab.sandbox import programs
from nanolab.settings.config import DataConfig

ROWS = {
    "openai/gsm8k/main/train": [
        {
            "question": "Rina has 3 plums and eats 1. How many are left?",
            "answer": "3-1=<<3-1=2>>2\n#### 2",
        }
    ],
    "openai/gsm8k/main/test": (
        [{"question": "Odo has 2 mats and buys 2. How many?", "answer": "2+2=<<2+2=4>>4\n#### 4"}]
        * 2
    ),
    "allenai/ai2_arc/ARC-Easy/test": [
        {
            "id": "x_1",
            "question": "Which is hot?",
            "answerKey": "2",
            "choices": {"text": ["ice", "fire", "snow"], "label": ["1", "2", "3"]},
        }
    ],
    "cais/mmlu/all/auxiliary_train": [
        {"question": "1+1?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 1}
    ],
    "cais/mmlu/all/test": [
        {"question": "2+1?", "subject": "sums", "choices": ["1", "2", "3", "4"], "answer": 2}
    ],
    "openai/openai_humaneval/openai_humaneval/test": [
        {
            "task_id": "T/0",
            "prompt": "def f(x):\n",
            "canonical_solution": "    return x\n",
            "test": "def check(f):\n    assert f(1) == 1\n",
            "entry_point": "f",
        }
    ],
    "text/train-00000-of-00002": [{"text": "First."}, {"text": "Second."}],
    "text/train-00001-of-00002": [{"text": "Third."}],
    "text/validation-00000-of-00001": [{"text": "Held out."}],
    "chat/two/train": [
        {"messages": [{"role": "user", "content": "B?"}, {"role": "assistant", "content": "b"}]}
    ],
    "chat/one/train": [
        {
            "messages": [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "a"}],
            "source": "own",
        }
    ],
}
CORE = [
    {
        "name": "pick",
        "file": "data/pick.jsonl.gz",
        "icl_task_type": "multiple_choice",
        "num_fewshot": 1,
        "continuation_delimiter": " ",
        "random_baseline": 50.0,
    },
    {
        "name": "gone",
        "file": None,
        "icl_task_type": "schema",
        "num_fewshot": 0,
        "random_baseline": 50.0,
    },
]


@pytest.fixture
def folder(tmp_path):
    for name, rows in ROWS.items():
        path = tmp_path / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (tmp_path / "core" / "data").mkdir(parents=True)
    (tmp_path / "core" / "tasks.json").write_text(json.dumps(CORE))
    with gzip.open(tmp_path / "core" / "data" / "pick.jsonl.gz", "wt") as file:
        file.write(json.dumps({"query": "Fire is", "choices": ["hot", "cold"], "gold": 0}) + "\n")
    return tmp_path


@pytest.fixture
def local(folder):
    return open_source(DataConfig(source="local", root=str(folder)))


def test_local_tasks_give_the_rows_of_their_files(local):
    assert local.task("gsm8k", "train") == ROWS["openai/gsm8k/main/train"]
    assert local.task("gsm8k", "test", "main") == ROWS["openai/gsm8k/main/test"]
    assert local.task("arc_easy", "test") == ROWS["allenai/ai2_arc/ARC-Easy/test"]
    assert local.task("mmlu", "train") == ROWS["cais/mmlu/all/auxiliary_train"]
    assert local.task("humaneval", "test")[0]["entry_point"] == "f"
    assert local.splits("mmlu") == ("train", "test") and local.splits("humaneval") == ("test",)
    assert local.describe("gsm8k") == "local"


def test_local_text_is_one_pass_in_the_order_of_the_files_with_distinct_ids(local):
    documents = list(local.documents("train"))
    assert [d.text for d in documents] == ["First.", "Second.", "Third."]
    assert len({d.id for d in documents}) == 3
    assert [d.text for d in local.documents("validation")] == ["Held out."]


def test_local_chats_join_the_folders_in_order_and_keep_only_messages(local):
    assert [row["messages"][0]["content"] for row in local.chats("train")] == ["A?", "B?"]
    assert all(set(row) == {"messages"} for row in local.chats("train"))


def test_local_core_gives_tasks_without_a_file_no_rows_and_baselines_as_shares(local):
    task, absent = local.core()
    assert (absent.name, absent.rows) == ("gone", [])
    assert (task.name, task.kind, task.num_fewshot, task.random_baseline) == (
        "pick",
        "multiple_choice",
        1,
        0.5,
    )
    assert task.rows == [{"query": "Fire is", "choices": ["hot", "cold"], "gold": 0}]


def test_local_identity_changes_with_a_file(local, folder):
    before = local.identity()
    assert before == local.identity()
    other = pyarrow.Table.from_pylist([{"text": "Another, longer text."}])
    pyarrow.parquet.write_table(other, folder / "text" / "train-00001-of-00002.parquet")
    assert local.identity() != before


@pytest.mark.parametrize(
    "ask, names",
    [
        (
            lambda s: s.task("gsm8k", "validation"),
            "openai/gsm8k/main/validation.parquet.*has test, train",
        ),
        (lambda s: s.task("humaneval", "train"), "openai_humaneval/train.parquet"),
        (lambda s: s.task("arc_challenge", "test"), "ARC-Challenge/test.parquet.*no split"),
        (lambda s: s.task("gsm8k", "test", "socratic"), "no subset 'socratic'"),
        (lambda s: s.task("gsm9k", "test"), "unknown task 'gsm9k'"),
        (lambda s: s.documents("test"), "text/test-"),
        (lambda s: s.chats("test"), "chat/NAME/test.parquet"),
    ],
)
def test_what_is_missing_is_named_with_its_file(local, ask, names):
    with pytest.raises(UserError, match=names) as caught:
        ask(local)
    assert "\n" not in str(caught.value)


def test_broken_files_are_named(local, folder):
    (folder / "openai" / "gsm8k" / "main" / "test.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(UserError, match=r"test\.parquet is not a readable parquet"):
        local.task("gsm8k", "test")
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"words": "x"}]),
        folder / "text" / "validation-00000-of-00001.parquet",
    )
    with pytest.raises(UserError, match="column text"):
        list(local.documents("validation"))
    twice = pyarrow.table([["x"], ["y"]], names=["text", "text"])
    pyarrow.parquet.write_table(twice, folder / "text" / "validation-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"00001\.parquet must be a parquet file with one column"):
        list(local.documents("validation"))
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{"question": "x"}]),
        folder / "openai" / "gsm8k" / "main" / "train.parquet",
    )
    with pytest.raises(UserError, match="lacks column answer"):
        local.task("gsm8k", "train")
    (folder / "core" / "data" / "pick.jsonl.gz").unlink()
    with pytest.raises(UserError, match=r"pick.jsonl.gz of CORE task pick"):
        local.core()


# ---- the rows of tests/data/rows, with the odd cases of the public sets


@pytest.fixture
def own(own_folder):
    return open_source(DataConfig(source="local", root=str(own_folder)))


def test_every_answer_of_the_word_problems_is_a_plain_number_and_every_call_computes_what_it_claims(
    own,
):
    answers = [
        final_number(row["answer"])
        for split in ("train", "test")
        for row in own.task("gsm8k", split)
    ]
    assert answers == ["29", "1200", "3.75", "-5", "0", "10", "6400", "-18", "2.25", "20", "10"]
    tools = programs.Tools("calculator", 5.0)
    calls = 0
    for row in own.task("gsm8k", "train"):
        parts = TASKS["gsm8k"].messages(row)[1]["content"]
        for call, output in itertools.pairwise(parts):
            if call["type"] == "python":
                assert output["type"] == "output" and float(tools.output(call["text"])) == float(
                    output["text"]
                )
                calls += 1
    assert calls == 6


@pytest.mark.parametrize("task", ["arc_easy", "arc_challenge"])
def test_arc_labels_of_letters_or_numbers_and_three_to_five_choices_become_letters(own, task):
    splits = own.splits(task)
    assert splits == ("train", "validation", "test")
    seen = set()
    for split in splits:
        for row in own.task(task, split):
            question = TASKS["arc_easy"].form.read(row)
            right = question.choices[question.letters.index(question.answer)]
            assert right == row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])]
            seen.add((len(question.letters), row["answerKey"].isdigit()))
    assert {count for count, _ in seen} >= {3, 4} and {digit for _, digit in seen} == {True, False}


def test_programs_of_every_form_pass_with_their_own_solution_and_fail_without(own):
    rows = own.task("humaneval", "test")
    assert own.splits("humaneval") == ("test",)
    right = programs.run_many([check_of(row, row["canonical_solution"]) for row in rows], 20.0)
    wrong = programs.run_many([check_of(row, "    return None\n") for row in rows], 20.0)
    assert [result.passed for result in right] == [True] * 3 and not any(
        result.passed for result in wrong
    )


def test_a_choice_of_rows_covers_the_subjects_where_the_first_rows_would_not(own):
    rows = own.task("mmlu", "test")
    assert len({row["subject"] for row in rows[:6]}) == 1 and repeated_rows(rows) == 1
    few, more = (chosen_rows(own, rows, "mmlu", "test", count) for count in (12, 18))
    assert len({row["subject"] for row in few}) == 4 and more[:12] == few and len(more) == 18
    assert (
        chosen_rows(own, rows, "mmlu", "test", None)
        == chosen_rows(own, rows, "mmlu", "test", 1000)
        == rows
    )
    counts = Counter(map(repr, rows))
    assert not Counter(map(repr, more)) - counts  # each row at most as often as the source has it


def test_a_mixture_takes_the_training_splits_that_are_there_and_says_which_are_not(own):
    training, held_out = chat_conversations(own, ["chats", "problems", "choices"])
    assert {kind: len(found) for kind, found in training.items()} == {
        "chats": 3,
        "problems": 5,
        "choices": 5,
    }
    assert mixture_notes(own, ["chats", "problems", "choices"]) == [
        "choices: mmlu has no training split in the data (local), so they come from arc_easy,"
        " arc_challenge"
    ]
    parts = training["problems"][0][1]["content"]
    assert [part["type"] for part in parts[:3]] == ["text", "python", "output"] and parts[1][
        "text"
    ] == "48/2"
    asked = {messages[0]["content"] for messages in training["choices"]}
    assert all(messages[0]["content"] not in asked for messages in held_out["choices"])


def test_a_split_may_lie_in_parts(own, own_folder, rows_of, to_parquet):
    folder, rows = own_folder / "openai" / "gsm8k" / "main", rows_of("openai/gsm8k/main/train")
    (folder / "train.parquet").unlink()
    to_parquet(folder / "train-00000-of-00002.parquet", rows[:4])
    to_parquet(folder / "train-00001-of-00002.parquet", rows[4:])
    assert own.task("gsm8k", "train") == rows and own.splits("gsm8k") == ("train", "test")


def test_rows_may_lie_in_json_lines_and_a_bad_line_is_named(own, own_folder, rows_of):
    folder = own_folder / "openai" / "gsm8k" / "main"
    for split in ("train", "test"):
        (folder / f"{split}.parquet").unlink()
    rows = rows_of("openai/gsm8k/main/train")
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "train.jsonl").write_text("".join(lines))
    assert own.task("gsm8k", "train") == rows and own.splits("gsm8k") == ("train",)
    for number, line, words in (
        (2, '{"question": "1+1?", "answer": 2}', r"row 2: answer = .*2.* must be text"),
        (3, "so it is", r"row 3: b?'so it is' is not JSON"),
        (2, "[1]", r"row 2: \[1\] must be a mapping"),
        (2, '{"question": "a \\ud800", "answer": "#### 2"}', r"row 2: question = 'a .*ud800"),
    ):
        bad = [*lines[: number - 1], line + "\n", *lines[number:]]
        (folder / "train.jsonl").write_text("".join(bad))
        with pytest.raises(UserError, match=rf"train.jsonl, {words}"):
            own.task("gsm8k", "train")
    dates = [{"question": f"2020-01-0{day}", "answer": "#### 1"} for day in (1, 2)]
    (folder / "train.jsonl").write_text("\n\n".join(map(json.dumps, dates)))
    assert own.task("gsm8k", "train") == dates  # which pyarrow takes for days
    (folder / "test-00000-of-00001.jsonl").write_text("")
    with pytest.raises(UserError, match=r"test-00000-of-00001.jsonl lacks rows"):
        own.task("gsm8k", "test")


def test_text_in_small_and_large_row_groups_is_the_same_text(tmp_path, to_parquet):
    texts = [{"text": f"Text {number}."} for number in range(1500)]
    for name, size in (("small", 7), ("large", 1500)):
        to_parquet(tmp_path / name / "text" / "train-0.parquet", texts, row_group_size=size)
        source = open_source(DataConfig(source="local", root=str(tmp_path / name)))
        assert [document.text for document in source.documents("train")] == [
            row["text"] for row in texts
        ]
        blocks = source.blocks("train")
        last = len(texts) // size if size == 7 else 2
        assert blocks.block(last)[-1].text == "Text 1499." and blocks.block(last + 1) is None
        assert blocks.block(0)[0].text == "Text 0."  # in any order


BROKEN_TEXT = pyarrow.Array.from_buffers(
    pyarrow.string(),
    2,
    [
        None,
        pyarrow.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0])),
        pyarrow.py_buffer(b"ab\xff\xfe"),
    ],
)


@pytest.mark.parametrize(
    ("column", "line"),
    [
        (["x", None], "row 2: text is null"),
        ([7, 8], "row 1: text = 7 is of type int64"),
        ([None, None], "row 1: text = None is of type null"),
        ([b"x", b"y"], "row 1: text = b'x' is of type binary"),
        ([["x"], ["y"]], r"row 1: text = \['x'\] is of type list"),
        ([{"a": "x"}, {"a": "y"}], "row 1: text = {'a': 'x'} is of type struct"),
        ([1.5, None], "row 1: text = 1.5 is of type double"),
        (BROKEN_TEXT, "row 2: text is no valid UTF-8"),
    ],
)
def test_a_value_that_is_no_text_is_named_before_any_is_used(tmp_path, to_parquet, column, line):
    """It lies in the last file, behind the first block; what the footers tell stops any reader."""
    to_parquet(
        tmp_path / "text" / "train-0.parquet",
        [{"text": f"Text {number}."} for number in range(20)],
        row_group_size=5,
    )
    bad = tmp_path / "text" / "train-1.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"id": [1, 2], "text": column}), bad)
    source = open_source(DataConfig(source="local", root=str(tmp_path)))
    with pytest.raises(
        UserError, match=f"{bad}, {line}.*it must be text.*; correct it or take the row out"
    ) as caught:
        source.documents("train")
    assert "\n" not in str(caught.value)
    blocks = source.blocks("train")
    with pytest.raises(UserError, match=f"{bad}, {line}"):
        [blocks.block(number) for number in (range(5) if column is BROKEN_TEXT else [0])]


def test_the_row_of_a_text_is_counted_over_its_file_and_a_footer_without_counts_hides_none(
    tmp_path, to_parquet
):
    rows = [{"text": f"Text {number}."} for number in range(17)]
    rows[13]["text"] = None
    to_parquet(
        tmp_path / "text" / "train-0.parquet", rows, row_group_size=5, write_statistics=False
    )
    source = open_source(DataConfig(source="local", root=str(tmp_path)))
    assert source.blocks("train").block(1)[0].text == "Text 5."
    for ask in (lambda: source.documents("train"), lambda: source.blocks("train").block(2)):
        with pytest.raises(UserError, match=r"train-0.parquet, row 14: text is null"):
            ask()


def test_text_in_a_dictionary_is_text_and_files_without_rows_are_named(tmp_path):
    (tmp_path / "text").mkdir()
    for name, column in (
        ("train-0", pyarrow.array(["a", "b", "a"]).dictionary_encode()),
        ("validation-0", pyarrow.array([], pyarrow.string())),
    ):
        pyarrow.parquet.write_table(
            pyarrow.table({"text": column}), tmp_path / "text" / f"{name}.parquet"
        )
    source = open_source(DataConfig(source="local", root=str(tmp_path)))
    assert [document.text for document in source.documents("train")] == ["a", "b", "a"]
    with pytest.raises(
        UserError, match=r"validation-0.parquet has no rows; put documents in its column text"
    ):
        source.documents("validation")


def test_a_text_of_more_files_than_a_process_may_open_is_read(tmp_path, to_parquet):
    for number in range(300):
        to_parquet(tmp_path / "text" / f"train-{number:05d}.parquet", [{"text": f"Text {number}."}])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    numbers = max(map(int, os.listdir("/proc/self/fd")))  # other tests' files are open
    resource.setrlimit(resource.RLIMIT_NOFILE, (numbers + 100, limits[1]))
    try:
        texts = [
            document.text
            for document in open_source(DataConfig(source="local", root=str(tmp_path))).documents(
                "train"
            )
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert texts == [f"Text {number}." for number in range(300)]


@pytest.mark.skipif(
    "NANOLAB_DATA" not in os.environ, reason="NANOLAB_DATA names no folder with the real sets"
)
def test_the_real_sets_load_whole_with_their_published_counts_and_known_faults():
    real = open_source(DataConfig(source="local"))
    counts = {
        (task, split): len(real.task(task, split))
        for task in ("gsm8k", "arc_easy", "arc_challenge", "mmlu", "humaneval")
        for split in ("train", "test")
        if real.has(task, split)
    }
    assert counts == {
        ("gsm8k", "train"): 7473,
        ("gsm8k", "test"): 1319,
        ("arc_easy", "train"): 2251,
        ("arc_easy", "test"): 2376,
        ("arc_challenge", "train"): 1119,
        ("arc_challenge", "test"): 1172,
        ("mmlu", "test"): 14042,
        ("humaneval", "test"): 164,
    } | ({("mmlu", "train"): 99842} if real.has("mmlu", "train") else {})
    mmlu = real.task("mmlu", "test")
    assert repeated_rows(mmlu) == 27
    assert len({row["subject"] for row in chosen_rows(real, mmlu, "mmlu", "test", 400)}) == 57
    for task in ("arc_easy", "arc_challenge"):
        assert all(TASKS["arc_easy"].form.read(row).answer for row in real.task(task, "test"))
    assert all(final_number(row["answer"]) is not None for row in real.task("gsm8k", "train"))
