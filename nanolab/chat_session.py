"""A conversation with a model: what `python -m nanolab chat` and the served model answer with.

An answer is a function of the model, the messages, the settings and the turn: its uniforms are addressed (seed, "chat", turn), so the
same question at the same place of a conversation gets the same answer from the command, from the served model and in a test.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from nanolab.data import chat
from nanolab.generation import Completion
from nanolab.model_source import is_outside
from nanolab.samplers import baselines, power_mh
from nanolab.samplers.batch import sample_each
from nanolab.schema import UserError, build, setting
from nanolab.stages.models import Subject

STAGE = "chat"  # of the random numbers' addresses
LEAST_ROOM = 16  # tokens: a context that leaves an answer fewer is too short for the question


@dataclass(frozen=True)
class ChatSettings:
    """How an answer is drawn. A sampler reads the settings that it has a use for."""

    sampler: Literal["greedy", "sample", "power", "best_of", "majority"] = setting(
        "greedy",
        "greedy; sample: one draw; power: Metropolis-Hastings on p^alpha; best_of: the likeliest of some samples; majority: "
        "the answer that most of them give",
    )
    temperature: float = setting(0.7, "of samples, and of power sampling's proposal", above=0)
    top_k: int | None = setting(50, "tokens kept when drawing; null: all", minimum=1)
    alpha: float = setting(4.0, "exponent of power sampling's target p^alpha", minimum=1)
    num_steps: int = setting(10, "Metropolis-Hastings steps", minimum=0)
    restart_prob: float = setting(
        0.5, "share of power sampling's cuts at the first token", minimum=0, maximum=1
    )
    samples: int = setting(11, "samples of best_of and majority", minimum=1)
    max_new_tokens: int = setting(
        128, "tokens of an answer at most, tool output included", minimum=1
    )
    seed: int = setting(0, "of the random numbers", minimum=0)

    tool_timeout = 5.0  # no fields: what an engine is made with
    tool_max_output_tokens = 128
    batch_rows = 64

    @property
    def line(self) -> str:
        """The sampler and the settings that it reads, in a few words."""
        drawing = f"temperature {self.temperature:g}, top_k {self.top_k or 'all'}"
        return {
            "greedy": "greedy",
            "sample": f"sample, {drawing}",
            "power": f"power, alpha {self.alpha:g}, {self.num_steps} steps, proposal at {drawing}",
            "best_of": f"best of {self.samples} by log p, {drawing}",
            "majority": f"majority of {self.samples}, {drawing}",
        }[self.sampler]


class Moment(NamedTuple):
    """What there is to see while an answer is drawn."""

    parts: list[
        dict[str, str]
    ]  # of the text so far; while a proposal is drawn, of the state that it may replace
    step: int = 0  # Metropolis-Hastings steps done
    accepted: bool | None = None  # of that step; None: nothing was decided just now
    moved: bool = False  # accepted, and another text than before
    log_ratio: float | None = None  # of that step
    log_p: float | None = None  # nats, of the text


Watch = Callable[[Moment], None]


@dataclass(frozen=True)
class Answer:
    """An answer with what it cost."""

    text: str  # tool calls as <<call=output>>
    parts: list[
        dict[str, str]
    ]  # as an assistant message's content has them: text, python (a tool call), output
    log_p: float  # nats, of the model's own tokens
    tokens: int  # of the answer, tool output included
    positions: (
        int  # token positions forwarded for it, samples and proposals that were not chosen included
    )
    seconds: float
    ended: bool  # False: cut at max_new_tokens, or at the end of the context
    sampler: str  # in words
    dropped: int = 0  # earliest messages that the context had no room for
    accepted: int | None = None  # Metropolis-Hastings steps accepted; None for other samplers
    steps: int | None = None
    votes: int | None = None  # samples that gave this answer, where a majority was asked for

    @property
    def tool_calls(self) -> list[dict[str, str]]:
        """The calls with their outputs, in order; a call that was cut off has an empty output."""
        calls = []
        for i, part in enumerate(self.parts):
            if part["type"] == "python":
                after = self.parts[i + 1] if i + 1 < len(self.parts) else {"type": "text"}
                calls.append(
                    {
                        "call": part["text"],
                        "output": after["text"] if after["type"] == "output" else "",
                    }
                )
        return calls

    @property
    def message(self) -> chat.Message:
        """The answer as a message of the conversation."""
        return {"role": "assistant", "content": self.parts}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "text": self.text,
            "parts": self.parts,
            "tool_calls": self.tool_calls,
            "log_p": self.log_p,
            "tokens": self.tokens,
            "positions": self.positions,
            "seconds": round(self.seconds, 4),
            "ended": self.ended,
            "sampler": self.sampler,
            "dropped": self.dropped,
            "accepted": self.accepted,
            "steps": self.steps,
            "votes": self.votes,
        }


@dataclass
class Session:
    """A model and a conversation with it. A question that was not answered to its end leaves the conversation as it was."""

    subject: Subject
    name: str  # of the model, as a person knows it
    messages: list[chat.Message] = field(default_factory=list)

    def answer(self, prompt: str, settings: ChatSettings, watch: Watch | None = None) -> Answer:
        """The answer to `prompt`, both added to the conversation; `watch` is called as it comes. Raises what `reply` does."""
        asked = [*self.messages, {"role": "user", "content": prompt}]
        found = reply(self.subject, asked, settings, watch)
        self.messages = [*asked, found.message]
        return found

    def clear(self) -> None:
        """A new conversation."""
        self.messages = []


def chat_settings(values: dict[str, Any]) -> ChatSettings:
    """Settings from plain values; raises UserError for an unknown name or a value out of range."""
    return build(ChatSettings, values)


def read_message(message: chat.Message) -> chat.Message:
    """A message as a person writes it: the calls in an assistant's text, <<call=output>>, become its parts again."""
    if message.get("role") != "assistant" or not isinstance(message.get("content"), str):
        return message
    pieces = chat.ANNOTATION.split(
        message["content"]
    )  # text, call, output, text, call, output, ..., text
    parts = [
        {"type": ("text", "python", "output")[i % 3], "text": piece}
        for i, piece in enumerate(pieces)
        if piece or i % 3
    ]
    return {"role": "assistant", "content": parts}


def reply(
    subject: Subject,
    messages: Sequence[chat.Message],
    settings: ChatSettings,
    watch: Watch | None = None,
) -> Answer:
    """The model's answer to a conversation that ends with a user message.

    A conversation that does not fit into the context loses its earliest turns (`dropped`), and an answer is cut where the context ends.
    Raises UserError for a malformed conversation, a question that leaves no room for an answer, and settings that do not go together.
    """
    if not messages or messages[-1].get("role") != "user":
        raise UserError("a conversation to answer must end with a user message")
    turn = sum(message.get("role") == "user" for message in messages) - 1
    prompt, dropped = _prompt(subject, messages, settings.max_new_tokens)
    settings = replace(
        settings, max_new_tokens=min(settings.max_new_tokens, subject.context - len(prompt))
    )
    drawing = _Drawing(subject, prompt, settings, turn, watch)
    started = time.perf_counter()
    chosen, positions, facts = drawing.run()
    return Answer(
        drawing.text(chosen.tokens),
        drawing.parts(chosen.tokens),
        chosen.sum_log_p,
        len(chosen.tokens),
        positions,
        time.perf_counter() - started,
        chosen.ended,
        settings.line,
        dropped,
        **facts,
    )


def _prompt(
    subject: Subject, messages: Sequence[chat.Message], max_new_tokens: int
) -> tuple[list[int], int]:
    """The ids to go on from, and how many messages were left out at the start to make room for `max_new_tokens`."""
    if subject.plain:  # no turns: the last question alone
        kept = list(messages[-1:])
    elif messages[0]["role"] == "system":
        kept = [
            {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"},
            *messages[2:],
        ]
    else:
        kept = list(messages)
    shown = len(kept)
    while True:
        prompt = _render(subject, kept)
        room = subject.context - len(prompt)
        if len(kept) < 3 or room >= max_new_tokens:
            break
        kept = kept[2:]
    if room < min(LEAST_ROOM, max_new_tokens):
        raise UserError(
            f"the question takes {len(prompt)} tokens of the {subject.context} that the model was trained on, which leaves no "
            f"room for an answer: ask in at most {subject.context - LEAST_ROOM} tokens"
        )
    return prompt, shown - len(kept)


def _render(subject: Subject, messages: Sequence[chat.Message]) -> list[int]:
    if is_outside(subject.source):  # its own template knows texts alone
        return subject.render(
            [
                {
                    **message,
                    "content": message["content"]
                    if isinstance(message["content"], str)
                    else chat.plain_text(message),
                }
                for message in messages
            ]
        )
    if subject.plain:
        return [subject.tokenizer.bos, *subject.tokenizer.encode(chat.plain_prompt(messages))]
    return subject.render(messages)


class _Drawing:
    """One answer while it is drawn."""

    def __init__(
        self,
        subject: Subject,
        prompt: list[int],
        settings: ChatSettings,
        turn: int,
        watch: Watch | None,
    ) -> None:
        self.subject, self.prompt, self.settings, self.turn, self.watch = (
            subject,
            prompt,
            settings,
            turn,
            watch,
        )
        # an engine for each answer: one that was interrupted would keep rows that nobody gives back
        self.engine = subject.language_model(settings, subject.context)

    def run(self) -> tuple[Completion, int, dict[str, Any]]:
        """The completion, the positions forwarded, and what else its sampler says of it."""
        sampler = self.settings.sampler
        if sampler == "power":
            return self._power()
        if sampler in ("best_of", "majority"):
            return self._of_several()
        temperature = 0.0 if sampler == "greedy" else self.settings.temperature
        ((found,),) = self._generate(
            _Watched(self.engine, self._growing) if self.watch else self.engine, temperature, 1
        )
        return found, found.positions, {}

    def parts(self, tokens: Sequence[int]) -> list[dict[str, str]]:
        """A completion as the parts of an assistant message. Of a plain answer the first paragraph counts, as in its evaluation."""
        parts = completion_parts(self.subject.tokenizer, tokens)
        return [{"type": "text", "text": self.text(tokens)}] if self.subject.plain else parts

    def text(self, tokens: Sequence[int]) -> str:
        """A completion as a person reads it."""
        text = chat.completion_text(self.subject.tokenizer, tokens)
        return text.strip("\n").split("\n\n")[0] if self.subject.plain else text

    def _generate(self, engine: Any, temperature: float, samples: int) -> list[list[Completion]]:
        settings = self.settings
        return baselines.generate(
            engine,
            [self.prompt],
            temperature=temperature,
            top_k=settings.top_k if temperature else None,
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            stage=STAGE,
            samples_per_prompt=samples,
            batch_rows=settings.batch_rows,
            examples=[self.turn],
        )

    def _growing(self, tokens: list[int]) -> None:
        self.watch(Moment(self.parts(tokens)))

    def _power(self) -> tuple[Completion, int, dict[str, Any]]:
        settings = self.settings
        power = power_mh.PowerSettings(
            settings.alpha,
            settings.num_steps,
            settings.temperature,
            settings.top_k,
            settings.max_new_tokens,
            settings.restart_prob,
        )
        engine = _Watched(self.engine, self._growing) if self.watch else self.engine
        steps = 0

        def stepped(state: power_mh.State, info: power_mh.Info | None) -> None:
            nonlocal steps
            if self.watch is None:
                return
            engine.tell = None  # proposals are shown once they are accepted
            log_p, parts = sum(state.log_p), self.parts(state.tokens)
            if info is None:
                self.watch(Moment(parts, log_p=log_p))
                return
            steps += 1
            self.watch(Moment(parts, steps, info.accepted, info.moved, info.log_ratio, log_p))

        (chain,) = sample_each(
            engine,
            [self.prompt],
            lambda noise, i, c: power_mh.run_chain(power, noise, i, c, watch=stepped),
            copies=1,
            called="chains",
            max_new_tokens=settings.max_new_tokens,
            seed=settings.seed,
            stage=STAGE,
            batch_rows=settings.batch_rows,
            on_done=None,
            examples=[self.turn],
        )
        return (
            chain.final,
            chain.positions,
            {"accepted": sum(info.accepted for info in chain.infos), "steps": len(chain.infos)},
        )

    def _of_several(self) -> tuple[Completion, int, dict[str, Any]]:
        (found,) = self._generate(self.engine, self.settings.temperature, self.settings.samples)
        positions = sum(completion.positions for completion in found)
        if self.settings.sampler == "best_of":
            return baselines.best_of(found), positions, {}
        answers = [chat.extract_gsm8k_answer(self.text(completion.tokens)) for completion in found]
        chosen = baselines.majority(answers)
        if chosen is None:
            raise UserError(
                f"none of the {len(found)} samples gives a number after ####, so they cannot vote: majority is for word "
                "problems; take sample or best_of"
            )
        return found[answers.index(chosen)], positions, {"votes": answers.count(chosen)}


class _Watched:
    """A language model that tells the tokens of its one growing row, each time it is asked for the next."""

    def __init__(self, model: Any, tell: Callable[[list[int]], None]) -> None:
        self._model, self.tell = model, tell
        self._start = 0  # tokens of the prompt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def prefill(self, prompts: list[list[int]]) -> list[int]:
        """As the protocol says."""
        self._start = len(prompts[0])
        return self._model.prefill(prompts)

    def decode(self, rows: list[int], tokens: list[list[int]]) -> Any:
        """As the protocol says."""
        logits = self._model.decode(rows, tokens)
        drawn = self._model.tokens[rows[0]][self._start :]
        if self.tell and drawn:
            self.tell(drawn)
        return logits


def completion_parts(tokenizer: Any, tokens: Sequence[int]) -> list[dict[str, str]]:
    """A completion as the parts of an assistant message, up to its end token: text, python (a tool call) and output."""
    kinds = {tokenizer.python_start: "python", tokenizer.output_start: "output"}
    parts: list[dict[str, str]] = []
    kind, run = "text", []
    for token in [*tokens, tokenizer.assistant_end]:
        if not tokenizer.is_special(token):
            run.append(token)
            continue
        if run or kind != "text":
            parts.append({"type": kind, "text": tokenizer.decode(run)})
        if token == tokenizer.assistant_end:
            break
        kind, run = kinds.get(token, "text"), []
    return parts
