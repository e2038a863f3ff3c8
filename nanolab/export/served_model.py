"""The code of a registered model, which `mlflow models serve` and `mlflow.pyfunc.load_model` run.

The model's folder holds weights, tokenizer and a copy of this package, so a server needs neither
the study's store nor the repository. Logging a model runs this file too, so it imports late.
"""

import json
import os
from pathlib import Path
from typing import Any

import pandas
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

NEEDS = (
    "a row needs a prompt (text) or messages (a list of {role, content}), one of the two, for"
    ' example [{"prompt": "..."}]'
)


class ChatModel(PythonModel):
    """Answers prompts and conversations as `python -m nanolab chat` does; the parameters are those
    of `nanolab.chat.answer.ChatSettings`.
    """

    def load_context(self, context: Any) -> None:
        # compiled kernels go to the user's cache: the code is a part of the stored model
        os.environ.setdefault("NANOLAB_MLRUNS", str(Path.home() / ".cache" / "nanolab"))
        import torch

        from nanolab.data.tokens.tokenizer import Tokenizer
        from nanolab.dist import device_kind
        from nanolab.evals.subject import trained_subject

        folder = Path(context.artifacts["model"])
        facts = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        tokenizer = Tokenizer.load(folder / "tokenizer")
        device = torch.device(device_kind())
        checkpoints = folder / "checkpoints"
        self.subject = trained_subject(
            checkpoints, tokenizer, facts["source"], facts["step"], device
        )

    def predict(
        self, context: Any, model_input: pandas.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """An answer (Answer.to_dict) for each row of a table with a column `prompt` (text) or
        `messages` (role and content). What is wrong with a row or a setting is an MlflowException,
        which a server answers as a bad request.
        """
        from nanolab.chat.answer import chat_settings
        from nanolab.chat.session import reply
        from nanolab.errors import UserError

        # MLflow drops columns that the signature lacks
        rows = model_input.to_dict("records") or [{}]
        try:
            settings = chat_settings(params or {})
            return [reply(self.subject, _conversation(row), settings).to_dict() for row in rows]
        except UserError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error


def _conversation(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row's messages; an earlier answer's tool calls, <<call=output>>, become calls again."""
    from nanolab.chat.answer import read_message
    from nanolab.errors import UserError

    prompt, messages = (row.get(name) for name in ("prompt", "messages"))
    has_prompt = isinstance(prompt, str)
    has_messages = messages is not None and not isinstance(messages, float)  # NaN: not given
    if has_prompt == has_messages:
        raise UserError(NEEDS)
    if has_prompt:
        return [{"role": "user", "content": prompt}]
    return [read_message(message) for message in messages]


set_model(ChatModel())
