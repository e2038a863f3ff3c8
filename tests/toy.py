"""A language model small enough to enumerate: four tokens, a tool, and every completion's exact
probability.

Token 0 ends a completion; token 1 calls a tool whose output of two tokens is forced in (and cut by
the length limit); tokens 2 and 3 are ordinary. The tabulated logits come from weights over whole
completions: a few of every length, with and without the tool, carry most of the mass and are nearly
equal, so that p^alpha stays spread over them for every alpha.
"""

from __future__ import annotations

import numpy
import torch

from nanolab import seeds

END, TOOL = 0, 1
VOCAB_SIZE = 4
Tokens = tuple[int, ...]


def tool_output(prefix: Tokens) -> Tokens:
    """The forced tokens after a prefix that closes with the tool token: a function of the prefix
    alone.
    """
    return (2 + len(prefix) % 2, 3)


class ToyModel:
    """The `LanguageModel` protocol over a table of float64 logits; completions have at most
    `max_new_tokens` tokens.

    `main` completions of each length (with and without the tool) get a weight near 1, all others a
    weight near `rest`.
    """

    vocab_size, end_tokens = VOCAB_SIZE, frozenset((END,))
    prompt = [2]  # every row starts with it; it carries no information

    def __init__(
        self, max_new_tokens: int = 4, seed: int = 17, main: int = 6, rest: float = 0.15
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self.max_length = max_new_tokens + 1
        self.rows: dict[int, Tokens] = {}
        self.next_row = 0
        weights = self._weights(seed, main, rest)
        mass: dict[Tokens, float] = {}  # of all completions that start with a prefix
        for completion, weight in weights.items():
            for prefix in {completion[:i] for i in range(len(completion) + 1)}:
                mass[prefix] = mass.get(prefix, 0.0) + weight
        choices = sorted({x[:i] for x in weights for i in self.model_positions(x)})
        self.number = {prefix: i for i, prefix in enumerate(choices)}
        table = [[mass[(*prefix, token)] for token in range(VOCAB_SIZE)] for prefix in choices]
        # (prefixes, vocab): unnormalised log-probabilities
        self.table = torch.tensor(table, dtype=torch.float64).log()

    def _weights(self, seed: int, main: int, rest: float) -> dict[Tokens, float]:
        random = seeds.generator(seed, "toy")
        kinds: dict[tuple[int, bool], list[Tokens]] = {}
        for completion in self.completions(self.max_new_tokens):
            kinds.setdefault((len(completion), self.uses_tool(completion)), []).append(completion)
        weights = {}
        for members in kinds.values():
            chosen = set(random.permutation(len(members))[:main].tolist())
            for i, completion in enumerate(members):
                spread = float(numpy.exp(0.1 * random.normal()))
                weights[completion] = (1.0 if i in chosen else rest) * spread
        return weights

    def forced_after(self, prefix: Tokens, token: int) -> Tokens:
        """The forced tokens after prefix + token, cut at `max_new_tokens`."""
        if token != TOOL:
            return ()
        return tool_output((*prefix, token))[: self.max_new_tokens - len(prefix) - 1]

    def completions(
        self, limit: int, top_k: int | None = None, prefix: Tokens = ()
    ) -> list[Tokens]:
        """Every completion that q can reach from `prefix` when drawing stops at `limit` tokens."""
        tokens = list(range(VOCAB_SIZE))
        if top_k is not None:
            logits = self.table[self.number[prefix]]
            tokens = torch.topk(logits, top_k).indices.sort().values.tolist()
        found = []
        for token in tokens:
            longer = (*prefix, token, *self.forced_after(prefix, token))
            ended = token == END or len(longer) >= limit
            found += [longer] if ended else self.completions(limit, top_k, longer)
        return found

    def model_positions(self, completion: Tokens) -> list[int]:
        """M(x): the positions that the model chose."""
        positions, i = [], 0
        while i < len(completion):
            positions.append(i)
            i += 1 + len(self.forced_after(completion[:i], completion[i]))
        return positions

    def uses_tool(self, completion: Tokens) -> bool:
        """Whether the model called the tool."""
        return any(completion[i] == TOOL for i in self.model_positions(completion))

    def log_p(self, completion: Tokens) -> float:
        """log p (nats): the sum over the model's positions."""
        table = torch.log_softmax(self.table, -1)
        chosen = self.model_positions(completion)
        return float(sum(table[self.number[completion[:i]], completion[i]] for i in chosen))

    def law(self, alpha: float, limit: int, top_k: int | None = None) -> dict[Tokens, float]:
        """pi, proportional to p^alpha over the completions that q can reach within `limit`."""
        reachable = self.completions(limit, top_k)
        powers = numpy.exp([alpha * self.log_p(x) for x in reachable])
        return dict(zip(reachable, (powers / powers.sum()).tolist(), strict=True))

    def prefill(self, prompts: list[list[int]]) -> list[int]:
        """New rows holding nothing: a prompt is one token, and `decode` takes the last one."""
        assert all(prompt == self.prompt for prompt in prompts), f"the prompt is {self.prompt}"
        rows = list(range(self.next_row, self.next_row + len(prompts)))
        self.next_row += len(prompts)
        self.rows.update((row, ()) for row in rows)
        return rows

    def decode(self, rows: list[int], tokens: list[list[int]]) -> torch.Tensor:
        """Logits (rows, vocab) float64 after `tokens` were appended."""
        assert len(set(rows)) == len(rows)
        for row, more in zip(rows, tokens, strict=True):
            self.rows[row] += tuple(more)
        return self.table[[self.number[self.rows[row][1:]] for row in rows]]

    def fork(self, rows: list[int], parents: list[int], lengths: list[int]) -> list[int]:
        """As the protocol says."""
        new = []
        for row, parent, length in zip(rows, parents, lengths, strict=True):
            if parent == -1:
                del self.rows[row]
                new.append(-1)
                continue
            if row == -1:
                row, self.next_row = self.next_row, self.next_row + 1
            assert length <= len(self.rows[parent])
            self.rows[row] = self.rows[parent][:length]
            new.append(row)
        return new

    def forced(self, row: int, token: int) -> list[int]:
        """The tool's output after `token`, uncut: the scheduler cuts it at the limit."""
        return list(tool_output((*self.rows[row][1:], token))) if token == TOOL else []
