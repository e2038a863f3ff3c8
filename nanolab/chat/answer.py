"""How an answer is drawn, what it is and what it cost."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from nanolab.data.tasks.sets.gsm8k import ANNOTATION
from nanolab.data.tokens import chat
from nanolab.errors import UserError
from nanolab.settings.kinds import Alpha, Count, Natural, Share, Temperature
from nanolab.settings.schema import Settings, build, setting

Part = dict[str, str]  # type: text, python (a tool call) or output; text


@dataclass(frozen=True)
class ChatSettings(Settings):
    """How an answer is drawn. A sampler reads the settings that it has a use for."""

    sampler: Literal["greedy", "sample", "power", "best_of", "majority"] = setting(
        "greedy",
        "greedy; sample: one draw; power: Metropolis-Hastings on p^alpha; best_of: the likeliest of"
        " some samples; majority: the answer that most of them give",
    )
    temperature: Temperature = setting(0.7, "of samples, and of power sampling's proposal")
    top_k: Count | None = setting(50, "tokens kept when drawing; null: all")
    alpha: Alpha = setting(4.0, "exponent of power sampling's target p^alpha")
    num_steps: Natural = setting(10, "Metropolis-Hastings steps")
    restart_prob: Share = setting(0.5, "share of power sampling's cuts at the first token")
    samples: Count = setting(11, "samples of best_of and majority")
    max_new_tokens: Count = setting(128, "tokens of an answer at most, tool output included")
    seed: Natural = setting(0, "of the random numbers")

    tool_timeout = 5.0  # no fields: what an engine is made with
    tool_max_output_tokens = 128
    batch_rows = 64

    @property
    def line(self) -> str:
        """The sampler and its settings."""
        drawing = f"temperature {self.temperature:g}, top_k {self.top_k or 'all'}"
        return {
            "greedy": "greedy",
            "sample": f"sample, {drawing}",
            "power": f"power, alpha {self.alpha:g}, {self.num_steps} steps, proposal at {drawing}",
            "best_of": f"best of {self.samples} by log p, {drawing}",
            "majority": f"majority of {self.samples}, {drawing}",
        }[self.sampler]


def chat_settings(values: dict[str, Any]) -> ChatSettings:
    """Settings from plain values; raises UserError for what they cannot be."""
    return build(ChatSettings, values)


def read_value(word: str, typed: str) -> Any:
    """The value of a setting from the word for it in what was typed."""
    import yaml

    try:
        return yaml.safe_load(word)
    except yaml.YAMLError as error:
        raise UserError(f"{typed}: {' '.join(str(error).split())}") from error


@dataclass(frozen=True)
class Answer:
    """An answer with what it cost."""

    text: str  # tool calls as <<call=output>>
    parts: list[Part]  # as an assistant message's content has them
    log_p: float  # nats, of the model's own tokens
    tokens: int  # of the answer, tool output included
    # token positions forwarded for it, samples and proposals that were not chosen included
    positions: int
    seconds: float
    ended: bool  # False: cut at max_new_tokens, or at the end of the context
    sampler: str  # in words
    dropped: int = 0  # earliest messages that the context had no room for
    accepted: int | None = None  # Metropolis-Hastings steps accepted; None for other samplers
    steps: int | None = None
    votes: int | None = None  # samples that gave this answer, where a majority was asked for

    @property
    def message(self) -> chat.Message:
        """The answer as a message of the conversation."""
        return {"role": "assistant", "content": self.parts}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        calls = [  # one that was cut off has an empty output
            {"call": part["text"], "output": after["text"] if after["type"] == "output" else ""}
            for part, after in itertools.pairwise([*self.parts, {"type": "text"}])
            if part["type"] == "python"
        ]
        values = asdict(self) | {"seconds": round(self.seconds, 4)}
        return {"text": self.text, "parts": self.parts, "tool_calls": calls} | values


def read_message(message: chat.Message) -> chat.Message:
    """A message as a person writes it, the calls in an assistant's text as parts again."""
    if message.get("role") != "assistant" or not isinstance(message.get("content"), str):
        return message
    # text, call, output, text, call, output, ..., text
    pieces = ANNOTATION.split(message["content"])
    parts = [
        {"type": ("text", "python", "output")[i % 3], "text": piece}
        for i, piece in enumerate(pieces)
        if piece or i % 3
    ]
    return {"role": "assistant", "content": parts}


def completion_parts(tokenizer: Any, tokens: Sequence[int]) -> list[Part]:
    """A completion as the parts of an assistant message."""
    kinds = {tokenizer.python_start: "python", tokenizer.output_start: "output"}
    parts: list[Part] = []
    kind, run = "text", []
    for token in [*tokens, tokenizer.assistant_end]:
        if not tokenizer.is_special(token):
            run.append(token)
            continue
        if run or kind != "text":
            parts.append({"type": kind, "text": tokenizer.decode(run)})
        if token in tokenizer.end_tokens:
            break
        kind, run = kinds.get(token, "text"), []
    return parts
