"""Any causal language model of Hugging Face transformers behind the `LanguageModel` and `Scorer` protocols, and its tokenizer.

The model keeps its own code for everything but the cache: each layer hands its new keys and values to a `KVCache` of left-aligned
rows, and attends to what the cache gives back, under an explicit mask and explicit positions. So rows of any length share a forward,
and fork is the cache's. Attention that looks back over everything is what this can serve; `context_length` limits rows to lengths at
which a sliding window or a rescaled rotary embedding does not show, and `check_cached_decoding` compares a loaded model with itself.

transformers is imported inside of functions only: nothing else of the lab needs it.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch

from nanolab.config import ROOT
from nanolab.data.download import require_hub
from nanolab.data.hf_tokenizer import HFTokenizer
from nanolab.engine import PREFILL_TOKENS, CachedRows, check_spans, length_batches, padded_ids
from nanolab.generation import SpanScore
from nanolab.model.decode import ROWS
from nanolab.model.kv_cache import MULTIPLE, KVCache, rounded
from nanolab.model_source import INSTALL, HubModel, locate
from nanolab.sandbox import Tools
from nanolab.schema import UserError

SCORE_LOGITS = 1 << 27  # logits of one scoring forward at most
TOLERANCE = {
    torch.float32: 1e-3
}  # of cached against full logits: root mean square over their spread; half precision: 0.1


class HFLanguageModel(CachedRows):
    """Rows of a transformers model with a key/value cache; rows and length grow as needed, up to `max_length` positions a row.

    `tools` None, or a tokenizer without the tool tokens: no tool is ever run. `max_length` None: `context_length(model)`. The model
    is used as it is: put it on its device, in its dtype. Raises UserError for a longer `max_length`, for a tokenizer with more
    tokens than the model, and for a model whose layers keep anything but equal keys and values.
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
        self.model, self.tokenizer = model.eval(), tokenizer
        self.tools = tools if tokenizer.has_tools else None
        self.tool_max_output_tokens, self.call_end = tool_max_output_tokens, tokenizer.python_end
        self.vocab_size, self.end_token = (
            model.get_output_embeddings().weight.shape[0],
            tokenizer.assistant_end,
        )
        if tokenizer.vocab_size > self.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} tokens and the model {self.vocab_size}: they do not belong together"
            )
        self.context = context_length(model)
        self.max_length = max_length or self.context
        if self.max_length > self.context:
            raise UserError(
                f"rows of {self.max_length} tokens (prompt and max_new_tokens) are asked of a model that serves at most "
                f"{self.context}; lower max_new_tokens"
            )
        self.device, self.dtype = model.device, model.dtype
        layers, heads, width = _cache_shape(model, self.end_token)
        self.cache = KVCache(layers, heads, width, self.dtype, self.device, 2 * rows, 2 * MULTIPLE)
        self.tokens = {}

    @torch.no_grad()
    def prefill(self, prompts: list[list[int]]) -> list[int]:
        """As the protocol says; prompts of similar length are forwarded together."""
        texts = [prompt[:-1] for prompt in prompts]
        rows = [self.cache.allocate(len(text)) for text in texts]
        self.tokens.update(zip(rows, map(list, texts)))
        order = sorted((i for i, text in enumerate(texts) if text), key=lambda i: len(texts[i]))
        for batch in length_batches(
            order, [len(text) for text in texts], PREFILL_TOKENS[self.device.type]
        ):
            self._prefill([rows[i] for i in batch], [texts[i] for i in batch])
        return rows

    def _prefill(self, rows: list[int], texts: list[list[int]]) -> None:
        """Forward whole texts; what lies beyond the end of a shorter one is masked later, until it is overwritten."""
        ids = padded_ids(texts, self.device)
        count, length = ids.shape
        self.cache.reserve(length)
        slots = torch.tensor([self.cache.slots[row] for row in rows], device=self.device)
        store = self.cache.by_slot()

        def update(
            layer: int, keys: torch.Tensor, values: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            store[0, layer, slots, :, :length], store[1, layer, slots, :, :length] = keys, values
            return keys, values

        places = torch.arange(length, device=self.device).expand(count, length)
        self._forward(ids, places, length, update, [0])

    @torch.no_grad()
    def decode(self, rows: list[int], tokens: list[list[int]]) -> torch.Tensor:
        """As the protocol says: logits (rows, vocab) float32 on the model's device."""
        count, lengths = len(rows), self.cache.lengths
        longest = max(lengths[row] + len(more) for row, more in zip(rows, tokens, strict=True))
        if longest > self.max_length:
            raise UserError(
                f"a row of {longest} tokens does not fit into the context of {self.max_length}"
            )
        self.cache.reserve(longest)
        slots = self.cache.arrange(rows)
        padded, width, length = (
            rounded(count, ROWS),
            max(map(len, tokens)),
            rounded(longest, MULTIPLE),
        )
        ids, places = ([[0] * width for _ in range(padded)] for _ in range(2))
        real: list[
            tuple[int, int, int]
        ] = []  # slot, place in `tokens`, position: padding is never written to the cache
        for row, slot, more in zip(rows, slots, tokens, strict=True):
            start, lengths[row] = lengths[row], lengths[row] + len(more)
            ids[slot][: len(more)] = more
            places[slot][: len(more)] = range(start, start + len(more))
            real += [(slot, i, start + i) for i in range(len(more))]
            self.tokens[row] += more
        slot_of, place_of, position_of = torch.tensor(real, device=self.device).T
        store = self.cache.by_slot()

        def update(
            layer: int, keys: torch.Tensor, values: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            store[0, layer][slot_of, :, position_of] = keys[slot_of, :, place_of]
            store[1, layer][slot_of, :, position_of] = values[slot_of, :, place_of]
            return store[0, layer, :padded, :, :length], store[1, layer, :padded, :, :length]

        ends = [len(more) - 1 for more in tokens]
        keep = sorted(set(ends))
        logits = self._forward(
            torch.tensor(ids, device=self.device),
            torch.tensor(places, device=self.device),
            length,
            update,
            keep,
        )
        return logits[
            torch.tensor(slots, device=self.device),
            torch.tensor([keep.index(end) for end in ends], device=self.device),
        ]

    def _forward(
        self, ids: torch.Tensor, places: torch.Tensor, length: int, update: Any, keep: list[int]
    ) -> torch.Tensor:
        """Logits (rows, keep, vocab) of ids (rows, n) at positions `places` (rows, n), each seeing the cache up to its own."""
        hidden = torch.arange(length, device=self.device) > places[..., None]
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device).masked_fill_(
            hidden, torch.finfo(self.dtype).min
        )
        places = places.clamp(
            max=self.context - 1
        )  # padding may lie beyond the positions that the model has
        return _logits(
            self.model,
            ids,
            keep,
            position_ids=places,
            attention_mask=mask[:, None],
            past_key_values=_own_cache(update),
            use_cache=True,
        )


class HFScorer:
    """The `Scorer` protocol over a transformers model: full forwards of rows of similar length, without a cache."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.tokens = max(
            1, SCORE_LOGITS // model.get_output_embeddings().weight.shape[0]
        )  # padded tokens of one forward at most

    @torch.no_grad()
    def score(self, ids: list[list[int]], spans: list[tuple[int, int]]) -> list[SpanScore]:
        """log p of ids[i][start:end] given ids[i][:start], for (start, end) = spans[i]; raises UserError for a span outside its row."""
        check_spans(ids, spans)
        scores: list[SpanScore | None] = [None] * len(ids)
        for i, logits in self._rows(ids, [list(range(start - 1, end - 1)) for start, end in spans]):
            wanted = torch.tensor(ids[i][slice(*spans[i])], dtype=torch.int64, device=logits.device)
            log_p = torch.log_softmax(logits, -1).gather(1, wanted[:, None])[:, 0].tolist()
            scores[i] = SpanScore(
                float(sum(log_p)), log_p, bool((logits.argmax(-1) == wanted).all())
            )
        return scores

    @torch.no_grad()
    def next_logits(self, ids: list[list[int]]) -> torch.Tensor:
        """Logits after the last token of each row: (rows, vocab) float32 on the CPU."""
        found = dict(self._rows(ids, [[len(row) - 1] for row in ids]))
        return torch.cat([found[i].cpu() for i in range(len(ids))])

    def _rows(self, ids: list[list[int]], wanted: list[list[int]]) -> Any:
        """Pairs of a row's number and its logits (positions, vocab) float32 after the positions `wanted` of it."""
        context = context_length(self.model)
        for i, row in enumerate(ids):
            if not row:
                raise UserError(f"row {i} to score is empty")
            if len(row) > context:
                raise UserError(
                    f"row {i} to score has {len(row)} tokens, more than the {context} that the model serves"
                )
        lengths = [len(row) for row in ids]
        for batch in length_batches(
            sorted(range(len(ids)), key=lengths.__getitem__), lengths, self.tokens
        ):
            keep = sorted({position for i in batch for position in wanted[i]} or {0})
            padded = padded_ids([ids[i] for i in batch], self.model.device)[
                :, :context
            ]  # right of a row's end, where nothing looks
            logits = _logits(self.model, padded, keep, use_cache=False)
            for place, i in enumerate(batch):
                yield i, logits[place, [keep.index(position) for position in wanted[i]]]


def context_length(model: Any) -> int:
    """Positions a row may hold so that every layer looks back over all of it; raises UserError when the config does not say."""
    config = model.config.get_text_config()
    limits = [getattr(config, "max_position_embeddings", None)]
    kinds = getattr(config, "layer_types", None)
    for kind, name in (
        ("sliding_attention", "sliding_window"),
        ("chunked_attention", "attention_chunk_size"),
    ):
        if kinds is None or kind in kinds:
            limits.append(getattr(config, name, None))
    rotary = getattr(config, "rope_parameters", None) or {}
    if (
        rotary.get("rope_type") == "longrope"
    ):  # it changes with the length of the longest row of a batch
        limits.append(rotary.get("original_max_position_embeddings"))
    known = [limit for limit in limits if limit]
    if not known:
        raise UserError(
            f"the config of {type(model).__name__} does not say how many positions it has (max_position_embeddings)"
        )
    return min(known)


def check_cached_decoding(model: Any, tokenizer: HFTokenizer) -> None:
    """Raises UserError when rows of different lengths, decoded together from the cache, get other logits than in full forwards.

    It is run on every loaded model: an architecture may number its positions or mask its attention in a way of its own.
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
            f"{type(model).__name__} cannot be served: its logits from the cache differ from those of a full forward "
            f"by {share:.2g} of their spread"
        )


def _cache_shape(model: Any, token: int) -> tuple[int, int, int]:
    """(layers, heads, width) of the keys and of the values that the model caches, found by one forward of one token."""
    from transformers import DynamicCache

    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    odd = sorted(kinds - {"full_attention", "sliding_attention", "chunked_attention"})
    given = inspect.signature(model.forward).parameters
    if (
        odd
        or getattr(model, "_is_stateful", False)
        or not {"position_ids", "past_key_values"} <= set(given)
    ):
        raise UserError(
            f"{type(model).__name__} cannot be served: its rows cannot be rewound and set side by side "
            f"({', '.join(odd) or 'no attention cache with explicit positions'})"
        )
    with torch.no_grad():
        ids = torch.tensor([[token]], device=model.device)
        cache = model(input_ids=ids, past_key_values=DynamicCache(), use_cache=True).past_key_values
    shapes = {
        tuple(tensor.shape) for layer in cache.layers for tensor in (layer.keys, layer.values)
    }
    if len(shapes) != 1:
        raise UserError(
            f"{type(model).__name__} cannot be served: its layers cache keys and values of different shapes {sorted(shapes)}"
        )
    ((_, heads, _, width),) = shapes
    return len(cache.layers), heads, width


def _own_cache(update: Any) -> Any:
    """A transformers cache that hands every layer's new keys and values (rows, heads, n, width) to update(layer, keys, values)."""
    from transformers import DynamicCache

    class RowsCache(DynamicCache):
        def update(
            self,
            key_states: torch.Tensor,
            value_states: torch.Tensor,
            layer_idx: int,
            *_: Any,
            **__: Any,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            return update(layer_idx, key_states, value_states)

    return RowsCache()


def _logits(model: Any, ids: torch.Tensor, keep: list[int], **given: Any) -> torch.Tensor:
    """Logits (rows, keep, vocab) float32 after the positions `keep` of ids (rows, n)."""
    if (
        "logits_to_keep" in inspect.signature(model.forward).parameters
    ):  # else the logits of all positions are made, and most dropped
        return model(
            input_ids=ids, logits_to_keep=torch.tensor(keep, device=ids.device), **given
        ).logits.float()
    return model(input_ids=ids, **given).logits[:, keep].float()


# ---- loading


def load(source: str, device: torch.device) -> tuple[Any, HFTokenizer]:
    """The model and tokenizer that `hf:NAME-or-folder` names, on `device`, checked by `check_cached_decoding`.

    On CPU in float32, elsewhere in the checkpoint's own dtype. Code that a model brings along is never run. Raises UserError of one
    line when transformers is missing, for a missing or damaged model, and within seconds for a hub that cannot be reached.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"source = {source!r} needs the package transformers; {INSTALL}") from error
    found = locate(source, ROOT)
    folder = _downloaded(found) if isinstance(found, HubModel) else found
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"source = {source!r}: {folder} has no {name}; it must hold what save_pretrained of a model and of its "
                "tokenizer wrote"
            )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if device.type == "cpu" else "auto",
            local_files_only=True,
            output_loading_info=True,
        )
    except (
        Exception
    ) as error:  # the libraries below raise many kinds, a truncated weight file its own
        raise UserError(
            f"source = {source!r} cannot be loaded from {folder} ({type(error).__name__}: {_first_line(error)})"
        ) from error
    lost = [*report["missing_keys"], *report["mismatched_keys"]]
    if lost:  # transformers only warns, and draws them at random
        raise UserError(
            f"source = {source!r}: {folder} has no fitting weights for {len(lost)} parameters, such as "
            f"{sorted(map(str, lost))[0]}"
        )
    adapter, model = HFTokenizer(tokenizer), model.to(device).eval()
    check_cached_decoding(model, adapter)
    return model, adapter


def _downloaded(wanted: HubModel) -> Path:
    """The folder of a hub model: brought up to date where the hub can be reached, else as it lies in the cache."""
    from huggingface_hub import snapshot_download

    def download(*more: str, local: bool = False) -> Path:
        patterns = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors", *more]
        return Path(
            snapshot_download(
                wanted.name,
                revision=wanted.revision,
                allow_patterns=patterns,
                local_files_only=local,
            )
        )

    advice = f"hf:{wanted.name} is neither a folder nor in the cache; give a folder (hf:FOLDER), or download it where there is a network"
    try:
        require_hub(advice)
    except UserError as unreachable:
        try:
            return download(local=True)
        except (OSError, ValueError):
            raise unreachable from None
    try:
        folder = download()
        return folder if list(folder.glob("*.safetensors")) else download("*.bin")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the hub model {wanted.name} at revision {wanted.revision} cannot be had: {_first_line(error)}; "
            f"{advice}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
