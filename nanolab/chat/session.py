"""A conversation with a trained model: the same in the terminal and where a model is served."""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from nanolab.chat.answer import Answer, ChatSettings, Part, completion_parts
from nanolab.data.tasks.answers import final_number
from nanolab.data.tokens import chat
from nanolab.errors import UserError
from nanolab.evals.subject import Subject
from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import Draws
from nanolab.samplers import baselines
from nanolab.samplers.batch import Batch, sample
from nanolab.samplers.power_mh import Info, PowerSettings, State
from nanolab.settings.model_source import is_outside

STAGE = "chat"  # of the random numbers' addresses
LEAST_ROOM = 16  # tokens: a context that leaves an answer fewer is too short for the question


class Moment(NamedTuple):
    """What there is to see while an answer is drawn."""

    parts: list[Part]  # so far; while a proposal is drawn, of the state that it may replace
    step: int = 0  # Metropolis-Hastings steps done
    accepted: bool | None = None  # of that step; None: nothing was decided just now
    moved: bool = False  # accepted, and another text than before
    log_p: float | None = None  # nats, of the text


Watch = Callable[[Moment], None]
Drawn = tuple[Draws, int, dict[str, Any]]  # positions forwarded; what else its sampler says


@dataclass
class Session:
    """A model and a conversation with it, which a question that was not answered to its end leaves
    as it was.
    """

    subject: Subject
    name: str  # of the model, as a person knows it
    messages: list[chat.Message] = field(default_factory=list)

    def answer(self, prompt: str, settings: ChatSettings, watch: Watch | None = None) -> Answer:
        """The answer to `prompt`, both added to the conversation; `watch` is called as it comes."""
        asked = [*self.messages, {"role": "user", "content": prompt}]
        found = reply(self.subject, asked, settings, watch)
        self.messages = [*asked, found.message]
        return found


def reply(
    subject: Subject,
    messages: Sequence[chat.Message],
    settings: ChatSettings,
    watch: Watch | None = None,
) -> Answer:
    """The model's answer to a conversation. One that does not fit into the context loses its
    earliest turns (`dropped`); an answer is cut where the context ends. Raises UserError for a
    malformed conversation and a question that leaves no room for an answer.
    """
    if not messages or messages[-1].get("role") != "user":
        raise UserError("a conversation to answer must end with a user message")
    turn = sum(message.get("role") == "user" for message in messages) - 1
    prompt, dropped = _prompt(subject, messages, settings.max_new_tokens)
    room = subject.context - len(prompt)
    settings = replace(settings, max_new_tokens=min(settings.max_new_tokens, room))
    batch = Batch([prompt], settings.seed, STAGE, 1, settings.batch_rows, [turn])
    drawing = _Drawing(subject, batch, settings, watch)
    started = time.perf_counter()
    chosen, positions, facts = DRAWN.get(settings.sampler, _Drawing.single)(drawing)
    return Answer(
        text=drawing.text(chosen.tokens),
        parts=drawing.parts(chosen.tokens),
        log_p=chosen.sum_log_p,
        tokens=len(chosen.tokens),
        positions=positions,
        seconds=time.perf_counter() - started,
        ended=chosen.ended,
        sampler=settings.line,
        dropped=dropped,
        **facts,
    )


def _prompt(
    subject: Subject, messages: Sequence[chat.Message], max_new_tokens: int
) -> tuple[list[int], int]:
    """The ids to go on from, and how many of the first messages were left out for room."""
    if subject.plain and messages[0]["role"] == "system":
        raise UserError("this model is asked in plain text, which has no system message")
    kept = list(messages[-1:] if subject.plain else messages)  # plain: no turns
    system = [kept.pop(0)] if kept[0]["role"] == "system" else []
    if system and not is_outside(subject.source):  # our chat format has no system turn
        first = f"{system.pop()['content']}\n\n{kept[0]['content']}"
        kept[0] = {"role": "user", "content": first}
    count = len(kept)
    prompt = _render(subject, [*system, *kept])
    while len(kept) >= 3 and subject.context - len(prompt) < max_new_tokens:
        kept = kept[2:]
        prompt = _render(subject, [*system, *kept])
    if subject.context - len(prompt) < min(LEAST_ROOM, max_new_tokens):
        raise UserError(
            f"the question takes {len(prompt)} tokens of the {subject.reach}, which leaves no room"
            f" for an answer: ask in at most {subject.context - LEAST_ROOM} tokens"
        )
    return prompt, count - len(kept)


def _render(subject: Subject, messages: Sequence[chat.Message]) -> list[int]:
    if subject.plain and not is_outside(subject.source):
        return [subject.tokenizer.bos, *subject.tokenizer.encode(chat.plain_prompt(messages))]
    return subject.render(messages)


class _Drawing:
    """One answer while it is drawn."""

    def __init__(
        self, subject: Subject, batch: Batch, settings: ChatSettings, watch: Watch | None
    ) -> None:
        self.subject, self.batch, self.settings, self.watch = subject, batch, settings, watch
        # an engine for each answer: one that was interrupted would keep rows that nobody gives back
        self.engine = subject.language_model(settings, subject.context)
        if watch and settings.sampler not in ("best_of", "majority"):
            self.engine = _WatchedModel(
                self.engine, lambda tokens: watch(Moment(self.parts(tokens)))
            )

    def parts(self, tokens: Sequence[int]) -> list[Part]:
        if self.subject.plain:
            return [{"type": "text", "text": self.text(tokens)}]
        return completion_parts(self.subject.tokenizer, tokens)

    def text(self, tokens: Sequence[int]) -> str:
        """As a person reads it; of a plain answer the first paragraph, as evaluated."""
        text = chat.completion_text(self.subject.tokenizer, tokens)
        return text.strip("\n").split("\n\n")[0] if self.subject.plain else text

    def single(self) -> Drawn:
        """One completion, greedy or sampled."""
        (found,) = self._generate(0.0 if self.settings.sampler == "greedy" else None)
        return found, found.positions, {}

    def power(self) -> Drawn:
        """The last state of one chain; proposals are shown once they are accepted."""
        names = ("alpha", "num_steps", "temperature", "top_k", "max_new_tokens", "restart_prob")
        power = PowerSettings(**{name: getattr(self.settings, name) for name in names})
        steps = itertools.count()

        def stepped(state: State, info: Info | None) -> None:
            if self.watch is None:
                return
            self.engine.tell = None
            decided = (info.accepted, info.moved) if info else (None, False)
            parts, log_p = self.parts(state.draws.tokens), sum(state.draws.log_p)
            self.watch(Moment(parts, next(steps), *decided, log_p))

        (chain,) = sample(
            self.engine,
            self.batch,
            power,
            kernel=lambda noise, i, c: power.kernel(noise, i, c, stepped),
        )
        accepted = sum(info.accepted for info in chain.infos)
        return chain.final, chain.positions, {"accepted": accepted, "steps": len(chain.infos)}

    def best_of(self) -> Drawn:
        """The likeliest of several samples."""
        found = self._generate(copies=self.settings.samples)
        return baselines.best_of(found), sum(one.positions for one in found), {}

    def majority(self) -> Drawn:
        """The first sample that has the answer of most."""
        found = self._generate(copies=self.settings.samples)
        answers = [final_number(self.text(one.tokens)) for one in found]
        chosen = baselines.majority(answers)
        if chosen is None:
            raise UserError(
                f"none of the {len(found)} samples gives a number after ####, so they cannot vote:"
                " majority is for word problems; take sample or best_of"
            )
        positions, votes = sum(one.positions for one in found), answers.count(chosen)
        return found[answers.index(chosen)], positions, {"votes": votes}

    def _generate(self, temperature: float | None = None, copies: int = 1) -> list[Draws]:
        settings = self.settings
        sampling = Sampling(
            temperature=settings.temperature if temperature is None else temperature,
            top_k=None if temperature == 0 else settings.top_k,
            max_new_tokens=settings.max_new_tokens,
        )
        batch = replace(self.batch, copies=copies)
        return baselines.generate(self.engine, batch, sampling)[0]


DRAWN = {"power": _Drawing.power, "best_of": _Drawing.best_of, "majority": _Drawing.majority}


class _WatchedModel:
    """A language model that tells the tokens of its one growing row before each step."""

    def __init__(self, model: Any, tell: Callable[[list[int]], None]) -> None:
        self._model, self.tell = model, tell
        self._start = 0  # tokens of the prompt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def prefill(self, prompts: list[list[int]]) -> list[int]:
        self._start = len(prompts[0])
        return self._model.prefill(prompts)

    def decode(self, rows: list[int], tokens: list[list[int]]) -> Any:
        logits = self._model.decode(rows, tokens)
        drawn = self._model.tokens[rows[0]][self._start :]
        if self.tell and drawn:
            self.tell(drawn)
        return logits
