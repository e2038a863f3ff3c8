"""A transformers model behind the `Scorer` protocol."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from nanolab.errors import UserError
from nanolab.inference import engine
from nanolab.inference.hf_forward import (
    Cached,
    KeysValues,
    cached_logits,
    causal_logits,
    context_length,
)
from nanolab.inference.protocol import SpanScore
from nanolab.inference.trees import Tree, example_trees

SCORE_LOGITS = 1 << 27  # logits of one scoring forward at most
SEEN = 8  # cached positions that a forward of branches reads, for one token that it may have


class _Run(NamedTuple):
    """Tokens of a tree that follow each other, and those of them whose logits are wanted."""

    ids: list[int]
    asked: list[tuple[int, int]]  # place in `ids`, number among the wanted tokens of all trees


Found = Iterator[tuple[list[int], torch.Tensor]]  # numbers of wanted tokens, logits (n, vocab)


class HFScorer:
    """What the rows of an example share is forwarded once, and what follows in each over its keys
    and values; examples of similar length go together. `positions` counts the token positions
    forwarded, padding aside.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.device = model.eval(), model.device
        self.vocab_size = len(model.get_output_embeddings().weight)
        self.tokens = max(1, SCORE_LOGITS // self.vocab_size)  # of one forward at most, padded
        self.positions = 0

    def score(
        self, ids: list[list[int]], spans: list[tuple[int, int]], sizes: Sequence[int] | None = None
    ) -> list[SpanScore]:
        """As the protocol says."""
        engine.check_rows(ids, spans)
        self._check_lengths(ids)
        wanted = [token for row, (start, end) in zip(ids, spans) for token in row[start:end]]
        log_p, best = [0.0] * len(wanted), [False] * len(wanted)
        for numbers, logits in self._logits(example_trees(ids, spans, sizes)):
            some = engine.token_scores(logits, [wanted[number] for number in numbers])
            for number, own, is_best in zip(numbers, *some):
                log_p[number], best[number] = own, is_best
        return engine.span_scores(spans, log_p, best)

    def next_logits(self, ids: list[list[int]]) -> torch.Tensor:
        """Logits after the last token of each row: (rows, vocab) float32 on the CPU."""
        engine.check_rows(ids)
        self._check_lengths(ids)
        found = torch.empty(len(ids), self.vocab_size)
        for numbers, logits in self._logits([Tree(row, [], [(0, len(row) - 1)]) for row in ids]):
            found[numbers] = logits.cpu()
        return found

    def _check_lengths(self, ids: list[list[int]]) -> None:
        context = context_length(self.model)
        for i, row in enumerate(ids):
            if len(row) > context:
                raise UserError(
                    f"row {i} to score has {len(row)} tokens, more than the {context} that the"
                    " model serves"
                )

    @torch.no_grad()
    def _logits(self, trees: list[Tree]) -> Found:
        """Those of all wanted tokens, part by part."""
        runs = _runs(trees)
        lengths = [len(trunk.ids) for trunk, _ in runs]
        order = sorted(range(len(runs)), key=lengths.__getitem__)
        for batch in engine.length_batches(order, lengths, self.tokens):
            trunks = [runs[i][0] for i in batch]
            branches = [(place, run) for place, i in enumerate(batch) for run in runs[i][1]]
            self.positions += sum(lengths[i] for i in batch)
            self.positions += sum(len(run.ids) for _, run in branches)
            kept: list[KeysValues] = []

            def update(_: int, *new: torch.Tensor, kept: list[KeysValues] = kept) -> KeysValues:
                kept.append(new)
                return new

            ids = engine.padded_ids([trunk.ids for trunk in trunks], self.device)
            ids = ids[:, : context_length(self.model)]
            keep = _places(trunks)
            logits = causal_logits(self.model, ids, keep, update if branches else None)
            yield from _asked(trunks, keep, logits)
            yield from self._branches(branches, kept, torch.tensor([lengths[i] for i in batch]))

    def _branches(
        self, branches: list[tuple[int, _Run]], kept: list[KeysValues], lengths: torch.Tensor
    ) -> Found:
        """Those of branches, each with the row of its trunk in what a forward of trunks kept, by
        layer; `lengths` (trunks,) are the trunks' own.
        """
        order = sorted(range(len(branches)), key=lambda i: len(branches[i][1].ids))
        sizes = [len(run.ids) for _, run in branches]
        for alike in engine.length_batches(order, sizes, self.tokens):
            longest = kept[0][0].shape[2] + sizes[alike[-1]]
            most = max(1, SEEN * self.tokens // longest)
            for first in range(0, len(alike), most):
                places, runs = zip(*(branches[i] for i in alike[first : first + most]))
                rows = torch.tensor(places)
                keep = _places(runs)
                cached = self._behind(kept, rows, lengths[rows], len(runs[-1].ids))
                ids = [[*run.ids, *[0] * (len(runs[-1].ids) - len(run.ids))] for run in runs]
                ids = torch.tensor(ids, device=self.device)
                yield from _asked(runs, keep, cached_logits(self.model, ids, keep, cached))

    def _behind(
        self, kept: list[KeysValues], rows: torch.Tensor, lengths: torch.Tensor, count: int
    ) -> Cached:
        """`count` tokens a row, which follow the `lengths` (n,) first positions of `rows` (n,) of
        what is kept.
        """
        rows, lengths = rows.to(self.device), lengths.to(self.device)
        own = torch.arange(count, device=self.device)
        trunk = torch.arange(kept[0][0].shape[2], device=self.device) < lengths[:, None]
        trunk = trunk[:, None].expand(-1, count, -1)
        seen = torch.cat([trunk, (own <= own[:, None]).expand(len(rows), -1, -1)], -1)

        def update(layer: int, *new: torch.Tensor) -> KeysValues:
            keys, values = (
                torch.cat([old[rows], added], 2) for old, added in zip(kept[layer], new)
            )
            return keys, values

        # padding may lie beyond the context
        places = (lengths[:, None] + own).clamp(max=context_length(self.model) - 1)
        return Cached(places, seen, update)


def _runs(trees: list[Tree]) -> list[tuple[_Run, list[_Run]]]:
    """Each tree's trunk and branches; branches without a trunk are trunks of their own."""
    found, number = [], 0
    for tree in trees:
        length = len(tree.trunk)
        trunk, branches = _Run(tree.trunk, []), [_Run(ids, []) for ids in tree.branches]
        for branch, at in tree.wanted:
            run = trunk if at < length else branches[branch]
            run.asked.append((at if at < length else at - length, number))
            number += 1
        branches = [branch for branch in branches if branch.ids]
        found += [(trunk, branches)] if length else [(branch, []) for branch in branches]
    return found


def _places(runs: Sequence[_Run]) -> list[int]:
    """The places at which any of the runs is asked; one at least."""
    return sorted({place for run in runs for place, _ in run.asked} or {0})


def _asked(runs: Sequence[_Run], keep: list[int], logits: torch.Tensor) -> Found:
    """What each run is asked, of logits (runs, keep, vocab)."""
    column = {place: i for i, place in enumerate(keep)}
    for run, own in zip(runs, logits):
        if run.asked:
            places, numbers = zip(*run.asked)
            yield list(numbers), own[[column[place] for place in places]]
