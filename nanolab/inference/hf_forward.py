"""One forward of a transformers causal language model over keys and values that the caller keeps.

The model keeps its own code for everything but the cache: each layer hands its new keys and values
over, and attends to what it gets back. Rows that are padded at their ends need no mask as long as
nobody looks back from behind one.

transformers is imported inside of functions only: nothing else of the lab needs it.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from nanolab.errors import UserError

GROUPED = "nanolab_grouped"  # the name of `grouped_attention` among transformers' own

KeysValues = tuple[torch.Tensor, torch.Tensor]  # each (rows, heads, n, width)
# from a layer and its new keys and values, those that it attends to
Update = Callable[[int, torch.Tensor, torch.Tensor], KeysValues]


class Cached(NamedTuple):
    """Where the tokens (rows, n) of a forward stand behind what is cached, and what they see."""

    places: torch.Tensor  # (rows, n) positions
    # (rows, n, length) bool: which of the `length` positions that `update` returns; None: all of
    # them, which one token a row may ask for where `can_group`
    seen: torch.Tensor | None
    update: Update


def causal_logits(
    model: Any, ids: torch.Tensor, keep: Sequence[int], update: Update | None = None
) -> torch.Tensor:
    """Logits (rows, keep, vocab) float32 after the places `keep` of ids (rows, n), rows that begin
    at position 0; `update` None: nobody wants their keys and values.
    """
    if update is None:
        return _logits(model, ids, keep, use_cache=False)
    places = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    return _logits(model, ids, keep, position_ids=places, **_cache(update))


def cached_logits(
    model: Any, ids: torch.Tensor, keep: Sequence[int], cached: Cached
) -> torch.Tensor:
    """Logits (rows, keep, vocab) float32 after the places `keep` of ids (rows, n)."""
    places, seen, update = cached
    single = ids.shape[1] == 1 and can_group(model)
    assert single or seen is not None, "more than one token a row, and no mask"
    mask = None
    if seen is not None:
        mask = torch.zeros(seen.shape, dtype=model.dtype, device=ids.device)
        mask = mask.masked_fill_(~seen, torch.finfo(model.dtype).min)[:, None]
    given = {"position_ids": places, "attention_mask": mask, **_cache(update)}
    with grouped(model) if single else contextlib.nullcontext():
        return _logits(model, ids, keep, **given)


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


def can_group(model: Any) -> bool:
    """Whether a step may run under `grouped`: the model takes its attention by name, and runs that
    of torch, which has no extras such as sinks or a soft cap.
    """
    config = model.config.get_text_config()
    return config._attn_implementation == "sdpa" and model._supports_attention_backend


@contextlib.contextmanager
def grouped(model: Any) -> Iterator[None]:
    """The model attends by `grouped_attention` meanwhile."""
    from transformers import AttentionInterface

    AttentionInterface.register(GROUPED, grouped_attention)
    config = model.config.get_text_config()
    config._attn_implementation = GROUPED
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one token a row, as transformers asks for it: query (rows, heads, 1, width), key
    and value (rows, key heads, length, width) -> (rows, 1, heads, width).

    The query heads that share a key head stand where a query's positions would, so that keys and
    values are read where they lie, once a group. transformers' own copies them for every head.
    """
    rows, heads, count, width = query.shape
    assert count == 1 and given.get("position_bias") is None
    groups = key.shape[1]
    query = query.reshape(rows, groups, heads // groups, width)
    out = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=attention_mask, scale=scaling
    )
    return out.reshape(rows, 1, heads, value.shape[-1]), None


def _cache(update: Update) -> dict[str, Any]:
    from transformers import DynamicCache

    cache = DynamicCache()
    cache.update = lambda keys, values, layer, *_, **__: update(layer, keys, values)
    return {"past_key_values": cache, "use_cache": True}


@functools.cache
def _keeps_some(kind: type) -> bool:
    """Whether models of a class make the logits of chosen places alone."""
    return "logits_to_keep" in inspect.signature(kind.forward).parameters


def _logits(model: Any, ids: torch.Tensor, keep: Sequence[int], **given: Any) -> torch.Tensor:
    if _keeps_some(type(model)):
        given["logits_to_keep"] = torch.tensor(keep, device=ids.device)
        return model(input_ids=ids, **given).logits.float()
    return model(input_ids=ids, **given).logits[:, keep].float()
