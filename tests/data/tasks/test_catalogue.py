"""What the catalogue says of a task is all that others need."""

from pathlib import Path

import pytest

from nanolab import wording
from nanolab.costs import work
from nanolab.data.sources.requirements import KINDS
from nanolab.data.tasks import sets
from nanolab.data.tasks.catalogue import TASKS, usual
from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.plan.fingerprint import source_files
from nanolab.settings.config import ChatEvalConfig, PowerEvalConfig
from nanolab.settings.study_file import load_study

PROGRAM = {
    "task_id": "own/0",
    "entry_point": "double",
    "prompt": 'import math\n\n\ndef double(x):\n    """Twice x."""\n',
    "canonical_solution": "    y = x + x\n    return y\n",
    "test": "def check(f):\n    assert f(3) == 6\n    assert f(0) == 0\n",
}


def test_choices_have_their_letter_last_and_the_answer_is_the_letter_alone():
    row = {
        "id": "own",
        "question": "Which swims?",
        "choices": {"text": ["cat", "trout"], "label": ["1", "2"]},
        "answerKey": "2",
    }
    user, assistant = TASKS["arc_easy"].messages(row)
    assert user["content"] == "Which swims?\n- cat=A\n- trout=B" and assistant["content"] == "B"
    assert TASKS["arc_easy"].form.read(row) == ("Which swims?", ["cat", "trout"], ["A", "B"], "B")
    mmlu = {"question": "2+2?", "subject": "sums", "choices": ["3", "4", "5", "6"], "answer": 1}
    assert (
        TASKS["mmlu"].messages(mmlu)[1]["content"] == "B"
        and "- 6=D" in TASKS["mmlu"].messages(mmlu)[0]["content"]
    )


def test_a_program_is_asked_for_by_its_prompt_and_answered_by_its_body():
    user, assistant = TASKS["humaneval"].messages(PROGRAM)
    assert user["content"] == PROGRAM["prompt"].rstrip("\n")
    assert assistant["content"] == PROGRAM["canonical_solution"].strip("\n")


def test_every_usual_task_is_asked_labelled_mixed_and_costed():
    usual = [name for name, task in TASKS.items() if task.usual]
    assert ChatEvalConfig().tasks == usual
    assert sorted(task for tasks in KINDS.values() for task in tasks) == sorted(usual)
    for name, task in TASKS.items():
        assert name == task.name and wording.TASKS[name] == task.label
        assert work.TASKS[name].problems > 0
        assert len(task.published.revision) == 40 and int(task.published.revision, 16) >= 0
        assert task.published.folder or set(task.published.files) == {
            task.split_names.get(split, split) for split in task.splits
        }


def test_a_task_that_generates_is_one_for_power_sampling_and_no_other_is():
    for name, task in TASKS.items():
        if task.generates:
            assert PowerEvalConfig(task=name).task == name
        else:
            with pytest.raises(UserError, match="task"):
                load_study("smoke", [f"power_eval.task={name}"])


def test_the_tasks_are_found_as_files_and_belong_to_the_fingerprint_of_what_reads_them():
    files = sorted(Path(sets.__path__[0]).glob("*.py"))
    names = {"aime", "arc", "gpqa_diamond", "gsm8k", "humaneval", "math500", "mbpp", "mmlu"}
    assert {path.stem for path in files} >= names
    assert set(files) <= set(source_files(ROOT / "nanolab" / "stages" / "chat_eval.py"))


def test_usual_tasks_come_first_and_stay_the_five():
    assert list(TASKS)[:5] == ["arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval"]
    assert usual() == tuple(list(TASKS)[:5]) and usual("program") == ("humaneval",)
    assert not any(task.usual for task in list(TASKS.values())[5:])
