"""What the catalogue says of a task is all that others need."""

from nanolab import wording
from nanolab.costs import work
from nanolab.data.sources.requirements import KINDS
from nanolab.data.tasks.catalogue import TASKS
from nanolab.settings.config import ChatEvalConfig

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
