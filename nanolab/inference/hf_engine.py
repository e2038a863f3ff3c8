"""Any causal language model of Hugging Face transformers behind the `LanguageModel` and `Scorer`
protocols.

The model keeps its own code for everything but the cache: each layer hands its new keys and values
to a `KVCache` of left-aligned rows, and attends to what the cache gives back, at explicit
positions. It must look back over everything: `context_length` limits rows to lengths at which a
sliding window or a rescaled rotary embedding does not show.

A step forwards its rows alone, without rows or positions that only pad. So a row alone costs what
one row costs, and its logits agree with those among others up to rounding, not bit by bit as the
GPT's do: what is recorded of a draw is what it was drawn from.

transformers is imported inside of functions only: nothing else of the lab needs it.
"""

import inspect
from typing import Any

import torch

from nanolab.data.tokens.hf_tokenizer import HFTokenizer
from nanolab.errors import UserError
from nanolab.inference import engine
from nanolab.inference.hf_forward import (
    Cached,
    KeysValues,
    cached_logits,
    can_group,
    causal_logits,
    context_length,
)
from nanolab.inference.hf_scorer import HFScorer
from nanolab.inference.kv_cache import KVCache
from nanolab.sandbox.programs import Tools

LENGTH = 32  # positions of a new cache where memory is taken at once
# of cached against full logits: root mean square over their spread; half precision: 0.1
TOLERANCE = {torch.float32: 1e-3}


class HFLanguageModel(engine.CachedRows):
    """Rows of a transformers model, which is used as it is: put it on its device, in its dtype.

    A tokenizer without the tool tokens runs no tool. For `rows` rows the cache has slots at first.
    `max_length` None: `context_length(model)`, which is also the most. Raises UserError for a model
    that cannot be served.
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
        length = self.max_length if self.device.type == "cpu" else LENGTH
        self.cache = KVCache(_cache_shape(model, min(self.end_tokens)), like, rows, length)

    def _prefill(self, ids: torch.Tensor, slots: torch.Tensor) -> None:
        ids, store = ids[:, : self.context], self.cache.store  # padding may lie beyond
        length = ids.shape[1]

        def update(layer: int, keys: torch.Tensor, values: torch.Tensor) -> KeysValues:
            store[0, layer, slots, :, :length] = keys
            store[1, layer, slots, :, :length] = values
            return keys, values

        causal_logits(self.model, ids, [0], update)

    def _decode(self, new: list[engine.New], longest: int) -> torch.Tensor:
        self.cache.reserve(longest)
        earlier = [(slot, start, more[:-1]) for slot, start, more in new if len(more) > 1]
        if earlier:
            self._extend(earlier)
        last = sorted((slot, start + len(more) - 1, more[-1]) for slot, start, more in new)
        logits = self._step(last, longest)
        slots = [slot for slot, _, _ in new]
        return logits if slots == list(range(len(new))) else logits[slots]

    def _step(self, last: list[tuple[int, int, int]], longest: int) -> torch.Tensor:
        """Logits (n, vocab) after a token of each of the slots 0 .. n-1 (slot, position, token)."""
        count, store = len(last), self.cache.store
        _, _, _, heads, room, width = store.shape
        slots, positions, tokens = torch.tensor(last, device=self.device).T
        lines = slots[:, None] * heads + torch.arange(heads, device=self.device)
        lines = (lines * room + positions[:, None]).flatten()  # of a layer's keys, `width` wide
        seen = None
        if not can_group(self.model) or len({position for _, position, _ in last}) > 1:
            seen = torch.arange(longest, device=self.device) <= positions[:, None, None]

        def update(layer: int, keys: torch.Tensor, values: torch.Tensor) -> KeysValues:
            kept = store[0, layer], store[1, layer]
            for own, added in zip(kept, (keys, values)):
                own.view(-1, width).index_copy_(0, lines, added.reshape(-1, width))
            return kept[0][:count, :, :longest], kept[1][:count, :, :longest]

        cached = Cached(positions[:, None], seen, update)
        return cached_logits(self.model, tokens[:, None], [0], cached)[:, 0]

    def _extend(self, new: list[engine.New]) -> None:
        """Write the keys and values of tokens after which no logits are wanted: all but the last of
        a forced output.
        """
        store = self.cache.store
        ids = engine.padded_ids([more for _, _, more in new], self.device)
        slots, starts = torch.tensor([entry[:2] for entry in new], device=self.device).T
        places = starts[:, None] + torch.arange(ids.shape[1], device=self.device)
        # padding is never written to the cache
        real = [(row, i) for row, (_, _, more) in enumerate(new) for i in range(len(more))]
        rows, columns = torch.tensor(real, device=self.device).T
        targets, positions = slots[rows], places[rows, columns]
        length = max(start + len(more) for _, start, more in new)
        seen = torch.arange(length, device=self.device) <= places[..., None]

        def update(layer: int, keys: torch.Tensor, values: torch.Tensor) -> KeysValues:
            store[0, layer][targets, :, positions] = keys[rows, :, columns]
            store[1, layer][targets, :, positions] = values[rows, :, columns]
            return store[0, layer, slots, :, :length], store[1, layer, slots, :, :length]

        places = places.clamp(max=self.context - 1)  # padding may lie beyond
        cached_logits(self.model, ids, [0], Cached(places, seen, update))


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
