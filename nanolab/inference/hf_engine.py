"""Any causal language model of Hugging Face transformers behind the `LanguageModel` and `Scorer`
protocols.

The model keeps its own code for everything but the cache: each layer hands its new keys and values
to a `KVCache` of left-aligned rows, and attends to what the cache gives back, under an explicit
mask and explicit positions. It must look back over everything: `context_length` limits rows to
lengths at which a sliding window or a rescaled rotary embedding does not show.

transformers is imported inside of functions only: nothing else of the lab needs it.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from nanolab.data.tokens.hf_tokenizer import HFTokenizer
from nanolab.errors import UserError
from nanolab.inference import engine
from nanolab.inference.decode import padded_shape
from nanolab.inference.kv_cache import MULTIPLE, KVCache
from nanolab.inference.protocol import SpanScore
from nanolab.sandbox.programs import Tools

SCORE_LOGITS = 1 << 27  # logits of one scoring forward at most
# of cached against full logits: root mean square over their spread; half precision: 0.1
TOLERANCE = {torch.float32: 1e-3}

KeysValues = tuple[torch.Tensor, torch.Tensor]  # each (rows, heads, n, width)
# from a layer and its new keys and values, those that it attends to
Update = Callable[[int, torch.Tensor, torch.Tensor], KeysValues]


class HFLanguageModel(engine.CachedRows):
    """Rows of a transformers model, which is used as it is: put it on its device, in its dtype.

    A tokenizer without the tool tokens runs no tool. `max_length` None: `context_length(model)`,
    which is also the most. Raises UserError for a model that cannot be served.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: HFTokenizer,
        tools: Tools | None = None,
        rows: int = 64,
        max_length: int | None = None,
        tool_max_output_tokens: int = 128,
    ) -> None:
        super().__init__(tokenizer, tools if tokenizer.has_tools else None, tool_max_output_tokens)
        weight = model.get_output_embeddings().weight
        self.model, self.device, self.vocab_size = model.eval(), model.device, len(weight)
        if tokenizer.vocab_size > self.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {self.vocab_size}:"
                " they do not belong together"
            )
        self.context = context_length(model)
        self.max_length = max_length or self.context
        if self.max_length > self.context:
            raise UserError(
                f"rows of {self.max_length} tokens (prompt and max_new_tokens) are asked of a model"
                f" that serves at most {self.context}; lower max_new_tokens"
            )
        like = torch.empty(0, dtype=model.dtype, device=model.device)
        self.cache = KVCache(
            _cache_shape(model, min(self.end_tokens)), like, 2 * rows, 2 * MULTIPLE
        )

    def _prefill(self, ids: torch.Tensor, slots: torch.Tensor) -> None:
        length, store = ids.shape[1], self.cache.store

        def update(layer: int, keys: torch.Tensor, values: torch.Tensor) -> KeysValues:
            store[0, layer, slots, :, :length] = keys
            store[1, layer, slots, :, :length] = values
            return keys, values

        places = torch.arange(length, device=self.device).expand(ids.shape)
        self._forward(ids, places, length, update, [0])

    def _decode(self, new: list[engine.New], longest: int) -> torch.Tensor:
        padded, length = padded_shape(len(new), longest)
        self.cache.reserve(longest)
        store = self.cache.store
        real = [
            (slot, i, start + i, token) for slot, start, more in new for i, token in enumerate(more)
        ]
        slots, places, positions, tokens = torch.tensor(real, device=self.device).T
        # padding is never written to the cache
        shape = 2, padded, max(len(more) for _, _, more in new)
        ids, positions_of = torch.zeros(shape, dtype=torch.int64, device=self.device)
        ids[slots, places] = tokens
        positions_of[slots, places] = positions

        def update(layer: int, keys: torch.Tensor, values: torch.Tensor) -> KeysValues:
            store[0, layer][slots, :, positions] = keys[slots, :, places]
            store[1, layer][slots, :, positions] = values[slots, :, places]
            return store[0, layer, :padded, :, :length], store[1, layer, :padded, :, :length]

        ends = [len(more) - 1 for _, _, more in new]
        keep = sorted(set(ends))
        logits = self._forward(ids, positions_of, length, update, keep)
        return logits[[slot for slot, _, _ in new], [keep.index(end) for end in ends]]

    def _forward(
        self, ids: torch.Tensor, places: torch.Tensor, length: int, update: Update, keep: list[int]
    ) -> torch.Tensor:
        """Logits (rows, keep, vocab) of ids (rows, n) at positions `places` (rows, n), each seeing
        the cache up to its own.
        """
        from transformers import DynamicCache

        cache, dtype = DynamicCache(), self.model.dtype
        cache.update = lambda keys, values, layer, *_, **__: update(layer, keys, values)
        hidden = torch.arange(length, device=self.device) > places[..., None]
        mask = torch.zeros(hidden.shape, dtype=dtype, device=self.device)
        return _logits(
            self.model,
            ids,
            keep,
            position_ids=places.clamp(max=self.context - 1),  # padding may lie beyond
            attention_mask=mask.masked_fill_(hidden, torch.finfo(dtype).min)[:, None],
            past_key_values=cache,
            use_cache=True,
        )


class HFScorer:
    """The `Scorer` protocol by full forwards of rows of similar length, without a cache."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        # padded tokens of one forward at most
        self.tokens = max(1, SCORE_LOGITS // len(model.get_output_embeddings().weight))

    @torch.no_grad()
    def score(
        self, ids: list[list[int]], spans: list[tuple[int, int]], sizes: Sequence[int] | None = None
    ) -> list[SpanScore]:
        """As the protocol says."""
        engine.check_rows(ids, spans)
        scores = {
            i: engine.span_score(*engine.token_scores(logits, ids[i][slice(*spans[i])]))
            for i, logits in self._rows(ids, [range(start - 1, end - 1) for start, end in spans])
        }
        return [scores[i] for i in range(len(ids))]

    @torch.no_grad()
    def next_logits(self, ids: list[list[int]]) -> torch.Tensor:
        """Logits after the last token of each row: (rows, vocab) float32 on the CPU."""
        engine.check_rows(ids)
        found = dict(self._rows(ids, [[len(row) - 1] for row in ids]))
        return torch.cat([found[i].cpu() for i in range(len(ids))])

    def _rows(self, ids: list[list[int]], wanted: list[Any]) -> Iterator[tuple[int, torch.Tensor]]:
        """Of each row its number and its logits (n, vocab) float32 after its `wanted` positions."""
        context = context_length(self.model)
        lengths = [len(row) for row in ids]
        for i, length in enumerate(lengths):
            if length > context:
                raise UserError(
                    f"row {i} to score has {length} tokens, more than the {context} that the model"
                    " serves"
                )
        order = sorted(range(len(ids)), key=lengths.__getitem__)
        for batch in engine.length_batches(order, lengths, self.tokens):
            keep = sorted({position for i in batch for position in wanted[i]} or {0})
            # padded right of a row's end, where nothing looks
            padded = engine.padded_ids([ids[i] for i in batch], self.model.device)[:, :context]
            logits = _logits(self.model, padded, keep, use_cache=False)
            for place, i in enumerate(batch):
                yield i, logits[place, [keep.index(position) for position in wanted[i]]]


def context_length(model: Any) -> int:
    """Positions a row may hold so that every layer looks back over all of it; raises UserError when
    the config does not say.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    names = ["max_position_embeddings"]
    if kinds is None or "sliding_attention" in kinds:
        names.append("sliding_window")
    if kinds is None or "chunked_attention" in kinds:
        names.append("attention_chunk_size")
    limits = [getattr(config, name, None) for name in names]
    rotary = getattr(config, "rope_parameters", None) or {}
    if rotary.get("rope_type") == "longrope":  # it changes with a batch's longest row
        limits.append(rotary.get("original_max_position_embeddings"))
    if not any(limits):
        raise UserError(
            f"the config of {type(model).__name__} does not say how many positions it has"
            " (max_position_embeddings)"
        )
    return min(filter(None, limits))


def check_cached_decoding(model: Any, tokenizer: HFTokenizer) -> None:
    """Raises UserError when rows of different lengths, decoded together from the cache, get other
    logits than in full forwards: an architecture may number its positions or mask its attention in
    a way of its own.
    """
    language_model = HFLanguageModel(model, tokenizer, rows=2)
    texts = [[(7 * i + 1) % tokenizer.vocab_size for i in range(n)] for n in (5, 11)]
    rows = language_model.prefill(texts)
    language_model.decode(rows, [[text[-1]] for text in texts])
    found = language_model.decode(rows, [[3], [4, 5]]).cpu()
    expected = HFScorer(model).next_logits([[*texts[0], 3], [*texts[1], 4, 5]])
    share = float((found - expected).square().mean().sqrt() / expected.std().clamp(min=1e-6))
    if not share <= TOLERANCE.get(model.dtype, 0.1):
        raise UserError(
            f"{type(model).__name__} cannot be served: its logits from the cache differ from those"
            f" of a full forward by {share:.2g} of their spread"
        )


def _cache_shape(model: Any, token: int) -> tuple[int, int, int]:
    """(layers, heads, width) of what the model caches, found by one forward of one token."""
    from transformers import DynamicCache

    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    odd = sorted(kinds - {"full_attention", "sliding_attention", "chunked_attention"})
    given = inspect.signature(model.forward).parameters
    stateful = getattr(model, "_is_stateful", False)
    if odd or stateful or not {"position_ids", "past_key_values"} <= set(given):
        raise UserError(
            f"{type(model).__name__} cannot be served: its rows cannot be rewound and set side by"
            f" side ({', '.join(odd) or 'no attention cache with explicit positions'})"
        )
    with torch.no_grad():
        ids = torch.tensor([[token]], device=model.device)
        cache = model(input_ids=ids, past_key_values=DynamicCache(), use_cache=True).past_key_values
    shapes = {tuple(kept.shape) for layer in cache.layers for kept in (layer.keys, layer.values)}
    if len(shapes) != 1:
        raise UserError(
            f"{type(model).__name__} cannot be served: its layers cache keys and values of"
            f" different shapes {sorted(shapes)}"
        )
    ((_, heads, _, width),) = shapes
    return len(cache.layers), heads, width


def _logits(model: Any, ids: torch.Tensor, keep: list[int], **given: Any) -> torch.Tensor:
    """Logits (rows, keep, vocab) float32 after the positions `keep` of ids (rows, n)."""
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        given["logits_to_keep"] = torch.tensor(keep, device=ids.device)
        return model(input_ids=ids, **given).logits.float()
    return model(input_ids=ids, **given).logits[:, keep].float()
