"""What a client may ask: OpenAI's fields as far as they can be done exactly, and two of our own,
`top_k` and `power`. A field that would have to be ignored is refused.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nanolab.samplers.power_mh import PowerSettings
from nanolab.settings.kinds import (
    LARGEST,
    Alpha,
    Check,
    Count,
    Natural,
    NotNegative,
    Range,
    Share,
    Temperature,
    written,
)

# fields of OpenAI's that are taken at the one value that changes nothing
NEUTRAL = {
    "top_p": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "tools": [],
    "tool_choice": "none",
    "top_logprobs": 0,
    "best_of": 1,
    "echo": False,
    "suffix": "",
}
IGNORED = ("user", "metadata", "store")  # they change no answer
STOPS = 4  # at most, as OpenAI has it
TOKEN = Annotated[int, Range(minimum=0)]


def _written_in_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"= {text!a:.60} is no text: half a surrogate pair ({error})") from None


def _drawn_or_greedy(value: float) -> None:
    if value:
        Range(above=0.0001).check(value)


Words = Annotated[str, Check(_written_in_utf8)]


class Body(BaseModel):
    """Strict: no unknown field, no text for a number."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Power(Body):
    """Power sampling: the answer is the last state of a Metropolis-Hastings chain on p^alpha."""

    alpha: Alpha = PowerSettings.alpha
    steps: Natural = PowerSettings.num_steps
    temperature: Temperature = PowerSettings.temperature  # of the proposal
    top_k: Count | None = PowerSettings.top_k
    num_blocks: Count = PowerSettings.num_blocks
    restart_prob: Share = PowerSettings.restart_prob

    def settings(self, max_new_tokens: int) -> PowerSettings:
        """For answers of at most `max_new_tokens`; UserError for fewer tokens than blocks."""
        values = self.model_dump()
        return PowerSettings(num_steps=values.pop("steps"), max_new_tokens=max_new_tokens, **values)


class StreamOptions(Body):
    """What comes with a stream."""

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class Asked(Body):
    """What both endpoints take."""

    model: str
    temperature: Annotated[NotNegative, Check(_drawn_or_greedy)] | None = None
    top_k: Count | None = None
    n: Annotated[int, Range(minimum=1, maximum=128)] = 1
    seed: Annotated[int, Range(minimum=-LARGEST, maximum=LARGEST)] | None = None
    max_tokens: Count | None = None
    stop: list[Words] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    power: Power | None = None
    logprobs: bool | Literal[0] | None = None  # each endpoint has its own form

    @model_validator(mode="before")
    @classmethod
    def _without_what_changes_nothing(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        kept = {}
        for name, value in values.items():
            if value is None or name in IGNORED:
                continue
            if name in NEUTRAL and name not in cls.model_fields:
                if value != NEUTRAL[name] or isinstance(value, bool) != (name == "echo"):
                    raise ValueError(
                        f"{name} = {written(value)} is not served: leave it out, or give"
                        f" {written(NEUTRAL[name])}"
                    )
                continue
            kept[name] = [value] if name == "stop" and isinstance(value, str) else value
        return kept

    @model_validator(mode="after")
    def _together(self) -> "Asked":
        if len(self.stop) > STOPS or "" in self.stop:
            raise ValueError(f"stop must be at most {STOPS} texts, none of them empty")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options needs stream: true")
        if self.power and (self.temperature is not None or self.top_k is not None):
            raise ValueError(
                "temperature and top_k of a power request are its proposal's: write them as"
                " power.temperature and power.top_k"
            )
        return self

    @property
    def limit(self) -> int | None:
        """Tokens of an answer at most; None: not said."""
        return self.max_tokens

    @property
    def with_logprobs(self) -> bool:
        """Whether the log p of each token is wanted: true of a chat, a number of a completion."""
        return self.logprobs is not None and self.logprobs is not False


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: Words


class Message(Body):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Words | Annotated[list[TextPart], Field(min_length=1)]

    def plain(self) -> dict[str, str]:
        """Role and text; a developer is what used to be called system."""
        text = self.content
        if not isinstance(text, str):
            text = "\n".join(part.text for part in text)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Asked):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool = False

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if self.max_tokens and self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are one limit: give one")
        return self

    @property
    def limit(self) -> int | None:
        """As `Asked` says."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(Asked):
    """The body of /v1/completions: texts to go on from, or their token ids."""

    prompt: Words | list[Words] | list[TOKEN] | list[list[TOKEN]]
    max_tokens: Count = 16
    logprobs: Literal[0] | None = None  # of the tokens themselves; OpenAI's 1 adds others

    @property
    def prompts(self) -> list[str | list[int]]:
        """One or several."""
        single = isinstance(self.prompt, str) or isinstance(next(iter(self.prompt), 0), int)
        return [self.prompt] if single else self.prompt
