"""The code of a registered model (MLflow's models-from-code): `mlflow models serve` and `mlflow.pyfunc.load_model` run this file.

The model's folder holds the weights, the tokenizer and a copy of this package, so a server needs neither the study's store nor the
repository. What the file needs of the package it imports when a model is loaded: logging a model runs the file too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

NEEDS = 'a row needs a prompt (text) or messages (a list of {role, content}), one of the two, for example [{"prompt": "..."}]'
FACTS = "model.json"  # beside checkpoints/ and tokenizer/: the source and the name


class ChatModel(PythonModel):
    """Answers prompts and conversations as `python -m nanolab chat` does; the parameters are those of chat_session.ChatSettings."""

    def load_context(self, context: Any) -> None:
        """Loads the weights, on CUDA where there is a device."""
        # compiled kernels go to the user's cache, not beside the code, which is a part of the stored model
        os.environ.setdefault("NANOLAB_MLRUNS", str(Path.home() / ".cache" / "nanolab"))
        import torch

        from nanolab.data.tokenizer import Tokenizer
        from nanolab.stages.models import trained_subject

        folder = Path(context.artifacts["model"])
        facts = json.loads((folder / FACTS).read_text())
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.subject = trained_subject(
            folder / "checkpoints",
            Tokenizer.load(folder / "tokenizer"),
            facts["source"],
            None,
            device,
        )

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """An answer (Answer.to_dict) for each row of a table with a column `prompt` (text) or `messages` (role and content).

        Raises MlflowException, which a server answers as a bad request with this one line, for a row that has neither or both, a
        malformed conversation and settings out of range.
        """
        from nanolab.chat_session import chat_settings, reply
        from nanolab.schema import UserError

        rows = model_input.to_dict("records") or [
            {}
        ]  # MLflow drops columns that the signature lacks
        try:
            settings = chat_settings(params or {})
            return [reply(self.subject, conversation(row), settings).to_dict() for row in rows]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def conversation(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row; the tool calls of an earlier answer, written as <<call=output>>, become calls again."""
    from nanolab.chat_session import read_message
    from nanolab.schema import UserError

    prompt, messages = (row.get(name) for name in ("prompt", "messages"))
    has_prompt, has_messages = (
        isinstance(prompt, str),
        messages is not None and not isinstance(messages, float),
    )  # NaN: not given
    if has_prompt == has_messages:
        raise UserError(NEEDS)
    return (
        [{"role": "user", "content": prompt}]
        if has_prompt
        else [read_message(message) for message in messages]
    )


set_model(ChatModel())
