"""The answers to one request: their programs in the batch, and what is heard of them.

An answer depends on its prompt, the settings and the seed, not on who else asks: its random numbers
are addressed (seed, "serve", digest of the prompt, choice, step, position).
"""

import asyncio
import copy
import hashlib
import itertools
import secrets
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from nanolab.evals.subject import Subject
from nanolab.inference.proposal import Sampling
from nanolab.inference.protocol import Decode, Draws, Kernel, Program, Watch
from nanolab.samplers.power_mh import ChainResult, Info, PowerSettings, State
from nanolab.seeds import Noise, noise
from nanolab.server.engine import Engine, Job
from nanolab.server.faults import Refusal
from nanolab.server.requests import Asked
from nanolab.server.transcript import Transcript

STAGE = "serve"  # of the random numbers' addresses


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is made with."""

    batch_rows: int
    tool_timeout: float = 5.0  # seconds
    tool_max_output_tokens: int = 128


class Served:
    """A model under its name, with the batch that answers for it."""

    def __init__(self, subject: Subject, name: str, max_rows: int, max_queue: int) -> None:
        self.subject, self.name = subject, name
        self.engine = Engine(
            lambda rows: subject.language_model(EngineSettings(rows), subject.context),
            max_rows,
            max_queue,
        )
        # tokenizers of Hugging Face are for one thread at a time: the batch has the model's own,
        # prompts are written by another in a thread of theirs
        self.writing = replace(subject, tokenizer=copy.deepcopy(subject.tokenizer))
        self._writer = ThreadPoolExecutor(1, "prompts")

    async def write(self, function: Any, *given: Any) -> Any:
        """What function(subject, *given) returns, called where prompts are written."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._writer, function, self.writing, *given)

    def close(self) -> None:
        """End both threads."""
        self.engine.stop()
        self._writer.shutdown()


class Token(NamedTuple):
    """A token of an answer as logprobs show it."""

    text: str
    log_p: float  # nats of the model at temperature 1; 0 where a tool inserted it


class Piece(NamedTuple):
    """An answer has grown."""

    choice: int
    text: str  # all that is settled of it
    tokens: list[Token]  # all of them; empty where nobody asked


class Step(NamedTuple):
    """A chain of power sampling has gone on."""

    choice: int
    step: int
    accepted: int  # steps so far


class Finished(NamedTuple):
    """An answer is there."""

    choice: int
    text: str
    draws: Draws
    tokens: list[Token]
    positions: int  # forwarded for it
    power: dict[str, Any] | None  # what its chain did


Event = Piece | Step | Finished


class Answers:
    """All choices of a request, `asked.n` for each prompt; `limits` are their tokens at most. Used
    as a context: leaving it drops what is not finished.
    """

    def __init__(
        self,
        served: Served,
        asked: Asked,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        paragraph: bool = False,
    ) -> None:
        self.served, self.asked, self.prompts = served, asked, prompts
        self.seed = secrets.randbits(31) if asked.seed is None else asked.seed
        self.tokenizer = served.subject.tokenizer
        self.transcript = Transcript(self.tokenizer, asked.stop, paragraph)
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Event | Refusal] = asyncio.Queue()
        numbers = itertools.count()
        self.jobs = [
            self._job(prompt, self._sampling(limit), chain, next(numbers))
            for prompt, limit in zip(prompts, limits, strict=True)
            for chain in range(asked.n)
        ]

    def __enter__(self) -> "Answers":
        self.served.engine.submit(self.jobs)
        return self

    def __exit__(self, *error: object) -> None:
        self.served.engine.cancel(self.jobs)

    async def events(self, patience: float | None = None) -> AsyncIterator[Event | None]:
        """What is heard, until every answer is there; None after `patience` seconds of silence.
        Raises the Refusal of a batch that failed.
        """
        left = len(self.jobs)
        while left:
            try:
                event = await asyncio.wait_for(self._events.get(), patience)
            except TimeoutError:
                event = None
            if isinstance(event, Refusal):
                raise event
            left -= isinstance(event, Finished)
            yield event

    async def all(self) -> list[Finished]:
        """Every answer, by its number."""
        found = [event async for event in self.events() if isinstance(event, Finished)]
        return sorted(found, key=lambda answer: answer.choice)

    def _tell(self, event: Event | Refusal) -> None:
        """From the thread of the batch."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def _sampling(self, limit: int) -> Sampling:
        if self.asked.power:
            return self.asked.power.settings(limit)
        temperature = 1.0 if self.asked.temperature is None else self.asked.temperature
        top_k = self.asked.top_k
        return Sampling(temperature=temperature, top_k=top_k, max_new_tokens=limit)

    def _job(self, prompt: list[int], sampling: Sampling, chain: int, choice: int) -> Job:
        uniforms = noise(self.seed, STAGE, hashlib.sha256(repr(prompt).encode()).hexdigest())
        is_chain = isinstance(sampling, PowerSettings)
        kernel = self._chain if is_chain else _completion
        begun = kernel(sampling, uniforms, chain, choice)
        program = Program(prompt, begun, uniforms, self._watch(choice))

        def finished(found: tuple[Draws, dict[str, Any] | None]) -> None:
            draws, power = found
            text, tokens = self.transcript.final(draws.tokens), self._tokens(draws)
            self._tell(Finished(choice, text, draws, tokens, draws.positions, power))

        return Job(program, finished, self._tell, is_chain)

    def _watch(self, choice: int) -> Watch | None:
        """Finds the stop texts, and tells what a stream may show; None where nobody asks."""
        streams = self.asked.stream and not self.asked.power
        if not streams and not self.transcript.stops:
            return None

        def watch(tokens: list[int], suffix: Draws) -> bool:
            if streams:
                settled = self.transcript.settled(tokens)
                self._tell(Piece(choice, settled, self._tokens(suffix)))
            return bool(self.transcript.stops) and self.transcript.read(tokens)[1]

        return watch

    def _tokens(self, draws: Draws) -> list[Token]:
        if not self.asked.with_logprobs:
            return []
        texts = [self.tokenizer.decode([token]) for token in draws.tokens]
        return [Token(*pair) for pair in zip(texts, draws.log_p)]

    def _chain(self, settings: PowerSettings, noise: Noise, number: int, choice: int) -> Kernel:
        """One chain, whose last state is the answer."""
        counts = {"steps": 0, "accepted": 0}

        def stepped(_: State, info: Info | None) -> None:
            if info is not None:
                counts["steps"] += 1
                counts["accepted"] += int(info.accepted)
                self._tell(Step(choice, counts["steps"], counts["accepted"]))

        chain: ChainResult = yield from settings.kernel(noise, 0, number, stepped)
        facts = {
            **counts,
            "moved": sum(bool(info.moved) for info in chain.infos),
            "early_rejected": sum(bool(info.early_rejected) for info in chain.infos),
        }
        return chain.final, facts


def _completion(sampling: Sampling, noise: Noise, number: int, choice: int) -> Kernel:
    """One completion, token by token: the first state of the chain of this number."""
    limit = sampling.max_new_tokens
    suffix = yield Decode(sampling=sampling, address=(number, 0), limit=limit, revisit=False)
    return suffix[:], None
