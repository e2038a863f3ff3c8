"""The engine of a stage, and what is said of it: refused in one line where it means nothing."""

import pytest

from nanolab.errors import UserError
from nanolab.settings.config import ChatEvalConfig, PowerEvalConfig, RlConfig
from nanolab.settings.schema import build

OUTSIDE = {"source": "hf:NAME", "engine": "vllm"}


@pytest.mark.parametrize(
    "stage, values, words",
    [
        (PowerEvalConfig, {"engine": "vllm"}, "'sft' is a model of a study"),
        (RlConfig, {"engine": "vllm"}, "'sft' is a model of a study"),
        (ChatEvalConfig, {"engine": "vlm"}, "must be one of nanolab, vllm"),
        (ChatEvalConfig, {"vllm": {"max_model_len": 512}}, "with engine: vllm alone"),
        (
            ChatEvalConfig,
            OUTSIDE | {"vllm": {"tensor_parallel": 2}},
            "is vllm.tensor_parallel_size",
        ),
        (ChatEvalConfig, OUTSIDE | {"vllm": {"tensor_parallel_size": 0}}, "must be at least 1"),
        (ChatEvalConfig, OUTSIDE | {"vllm": {"gpu_memory_utilization": 90}}, "at most 1"),
        (ChatEvalConfig, OUTSIDE | {"vllm": {"enforce_eager": 1}}, "must be true or false"),
    ],
)
def test_an_engine_that_means_nothing_is_refused_in_one_line(stage, values, words):
    with pytest.raises(UserError) as caught:
        build(stage, values, "stage")
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_what_vllm_knows_is_passed_on():
    given = {"tensor_parallel_size": 2, "max_model_len": 4096}
    assert build(PowerEvalConfig, OUTSIDE | {"vllm": given}).vllm == given
