"""vLLM behind our samplers: it owns the batch, the paged cache and the reuse of prefixes; kernels,
draws and records stay ours.

A request of a kernel becomes a request of vLLM: prompt and kept tokens in, a suffix out, each token
drawn by `vllm_draws` in the worker with the uniform of its address. So in float32 the draws are
those of our other engines, up to rounding, which depends here on the batch: "exact" means exact for
the recorded values. A tool's output is appended, and the longer text sent again.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from nanolab.data.tokens.hf_tokenizer import HFTokenizer
from nanolab.errors import UserError
from nanolab.inference.engine import check_rows, tool_output
from nanolab.inference.protocol import Choices, Done, Program, SpanScore
from nanolab.inference.rows import Branch, State, Task
from nanolab.inference.scheduler import Scheduler
from nanolab.inference.vllm_draws import KEY, NAME, Drawing, Drawn
from nanolab.sandbox.programs import Tools
from nanolab.seeds import noise

NUMBERS = itertools.count()  # of requests: engines of one process share their workers' table


class VLLMLanguageModel:
    """The `Server` protocol over a vLLM engine (`vllm_loading.load_engine`).

    A tokenizer without the tool tokens runs no tool. `max_length` None: the engine's, which is also
    the most; UserError above it.
    """

    engine = "vllm"
    name = NAME

    def __init__(
        self,
        llm: Any,
        tokenizer: HFTokenizer,
        tools: Tools | None = None,
        max_length: int | None = None,
        tool_max_output_tokens: int = 128,
    ) -> None:
        self.llm, self.tokenizer = llm, tokenizer
        self.tools = tools if tokenizer.has_tools else None
        self.tool_max_output_tokens = tool_max_output_tokens
        self.vocab_size = llm.model_config.get_vocab_size()
        self.end_tokens = tokenizer.end_tokens
        most = llm.model_config.max_model_len
        self.max_length = max_length or most
        if self.max_length > most:
            raise UserError(
                f"rows of {self.max_length} tokens (prompt and max_new_tokens) are asked of vLLM,"
                f" which serves at most {most}; lower max_new_tokens, or raise vllm.max_model_len"
            )

    @property
    def ends(self) -> list[int]:
        """The tokens that end a completion."""
        return sorted(self.end_tokens)

    def serve(
        self, programs: Sequence[Program], batch_rows: int, on_done: Done | None = None
    ) -> list[Any]:
        """As `scheduler.serve` says. vLLM's cache is emptied before: what programs are charged does
        not depend on what was served earlier.
        """
        self.llm.reset_prefix_cache()
        scheduler = _Requests(self, batch_rows, _Texts())
        try:
            return scheduler.serve(programs, on_done)
        finally:
            scheduler.abandon()


class _Texts:
    """The place of `rows.Rows`: states are texts, whose cache vLLM finds by itself."""

    def expect(self, task: Task) -> None:
        """Nothing is kept for a program that has not started."""

    def claim(self, task: Task) -> None:
        """Count the branches of a task's new requests."""
        for branch in task.branches:
            assert (branch.request.parent is None) != task.started, "no parent: a first request"
        task.started = True
        task.open = len(task.branches)

    def branch(self, begun: Sequence[tuple[Branch, State]]) -> list[Choices | None]:
        """Let each branch begin where its parent stands; what its first token is drawn from, None
        where vLLM must forward the text before.
        """
        firsts = []
        for branch, parent in begun:
            cut = branch.request.cut
            firsts.append(branch.first_choices(parent))
            branch.state = State(parent.tokens[:cut], parent.choices[:cut], -1, 0)
            branch.pending = [*branch.task.program.prompt, *branch.state.tokens]
        return firsts

    def finish(self, task: Task) -> None:
        """Nothing is owned."""


class _Requests(Scheduler):
    """Programs whose branches are vLLM's requests; those in `active` with pending tokens have not
    been sent.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.sent: dict[str, Branch] = {}  # by vLLM's name of the request

    def _prepare(self, task: Task) -> None:
        """vLLM prefills a prompt with the first request that has it."""

    def _bare_prompt(self, branch: Branch) -> State:
        """The state that a program's first request branches from."""
        return State([], [], -1, 0)

    def _forced(self, branch: Branch, token: int) -> list[int]:
        model = self.model
        if model.tools is None or token != model.tokenizer.python_end:
            return []
        text = [*branch.task.program.prompt, *branch.state.tokens]
        return tool_output(model.tokenizer, model.tools, text, model.tool_max_output_tokens)

    def _forward(self) -> None:
        """Send what is new, let vLLM forward its batch once, and record what has stopped."""
        for branch in self.active:
            if branch.pending:
                self._send(branch)
        stopped = [output for output in self.model.llm.step() if output.finished]
        records = take_draws(self.model.llm, [output.request_id for output in stopped])
        for output, record in zip(stopped, records, strict=True):
            branch = self.sent.pop(output.request_id)
            self.active.remove(branch)
            self._record(branch, output, record)

    def _send(self, branch: Branch) -> None:
        """Ask vLLM for a branch's tokens, up to an end, its limit, or a tool's call."""
        request, state = branch.request, branch.state
        drawing = Drawing(
            number=next(NUMBERS),
            law=branch.law,
            noise=branch.task.program.noise,
            address=request.address,
            start=len(state.tokens),
            ends=self.model.ends,
            first=None if branch.drawn else request.first,
            keep=request.revisit,
            floor=request.floor,
            drawn=branch.drawn,
            total=branch.total,
        )
        stops = [self.model.tokenizer.python_end] if self.model.tools else []
        text = [*branch.task.program.prompt, *state.tokens]
        tokens = request.limit - len(state.tokens)
        self.sent[ask(self.model.llm, text, drawing, tokens, stops)] = branch
        branch.pending = []

    def _record(self, branch: Branch, output: Any, record: Drawn) -> None:
        """What vLLM drew for a branch, which goes on where a tool answered its call."""
        # the last token was drawn and not forwarded
        found = len(output.prompt_token_ids) - (output.num_cached_tokens or 0)
        branch.suffix.positions += found + len(record.numbers) - 1
        goes_on = False
        for numbers, choices in zip(*record, strict=True):
            branch.state.choices.append(choices)
            goes_on = self._append(branch, *numbers)
        if goes_on:
            self.active.append(branch)
        else:
            self._end(branch)

    def abandon(self) -> None:
        """Let vLLM forget what was sent and not answered: an interruption leaves nothing behind."""
        if self.sent:
            self.model.llm.abort_request([*self.sent])
            take_draws(self.model.llm, [*self.sent])


class VLLMScorer:
    """The `Scorer` protocol over vLLM's prompt_logprobs; `next_logits` are log-probabilities, which
    are logits up to a constant.
    """

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.most = llm.model_config.max_model_len - 1  # vLLM wants room for a token behind

    def score(
        self, ids: list[list[int]], spans: list[tuple[int, int]], sizes: Sequence[int] | None = None
    ) -> list[SpanScore]:
        """As the protocol says; vLLM finds shared beginnings by itself, whatever `sizes` says."""
        check_rows(ids, spans)
        wanted = {}
        for i, (row, (start, end)) in enumerate(zip(ids, spans)):
            wanted[self._ask(i, row, None)] = i, range(start, end)
        scores = {}
        for output in answers(self.llm, wanted):
            i, places = wanted[output.request_id]
            found = [output.prompt_logprobs[place][ids[i][place]] for place in places]
            log_p, best = [one.logprob for one in found], [one.rank == 1 for one in found]
            scores[i] = SpanScore(float(sum(log_p)), log_p, all(best))
        return [scores[i] for i in range(len(ids))]

    def next_logits(self, ids: list[list[int]]) -> torch.Tensor:
        """log p after the last token of each row: (rows, vocab) float32 on the CPU."""
        check_rows(ids)
        uniform = noise(0, "next_logits", 0)  # of draws that nobody reads
        asked = []
        for i, row in enumerate(ids):
            whole = {"law": (1.0, None, 1.0), "start": 0, "ends": [0]}
            drawing = Drawing(number=next(NUMBERS), noise=uniform, address=(i,), **whole)
            asked.append(self._ask(i, row, drawing))
        for _ in answers(self.llm, asked):
            pass
        found = [record.choices[0].log_p for record in take_draws(self.llm, asked)]
        return torch.stack([torch.from_numpy(log_p) for log_p in found])

    def _ask(self, i: int, row: list[int], drawing: Drawing | None) -> str:
        if len(row) > self.most:
            raise UserError(
                f"row {i} to score has {len(row)} tokens, more than the {self.most} that vLLM"
                " scores; raise vllm.max_model_len"
            )
        return ask(self.llm, row, drawing, 1)


def ask(
    llm: Any, text: list[int], drawing: Drawing | None, tokens: int, stops: Sequence[int] = ()
) -> str:
    """Send a request for at most so many tokens after `text`, drawn as `drawing` says (None: scores
    of `text` itself); vLLM's name of it.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    params = SamplingParams(
        temperature=0.0,  # the drawn token is made the most likely one
        max_tokens=tokens,
        stop_token_ids=[*(drawing.ends if drawing else ()), *stops],
        ignore_eos=True,  # those are the ends
        prompt_logprobs=None if drawing else 0,  # 0: of the given tokens alone
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args={KEY: drawing} if drawing else None,
        skip_clone=True,
    )
    name = str(drawing.number if drawing else next(NUMBERS))
    llm.add_request(name, {"prompt_token_ids": text}, params)
    return name


def answers(llm: Any, names: Sequence[str] | dict[str, Any]) -> Iterator[Any]:
    """The finished outputs of requests that were sent, in the order in which they come."""
    waiting = set(names)
    try:
        while waiting:
            for output in llm.step():
                if output.finished:
                    waiting.remove(output.request_id)
                    yield output
    finally:
        if waiting:
            llm.abort_request([*waiting])


def take_draws(llm: Any, names: Sequence[str]) -> list[Drawn | None]:
    """The records of finished requests, from the first worker that has them: those that hold the
    logits draw alike.
    """
    if not names:
        return []
    found = llm.collective_rpc("take_draws", args=([int(name) for name in names],))
    return [next(filter(None, records), None) for records in zip(*found, strict=True)]
