"""The logits processor that vLLM's worker imports by name: `vllm_draws.draw_rows` on its batch."""

from typing import Any

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from nanolab.inference.vllm_draws import DRAWINGS, KEY, Drawing, draw_rows


class AddressedDraws(LogitsProcessor):
    """Draws in the place of vLLM's sampler, which is asked for the most likely token."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.drawings: dict[int, Drawing] = {}  # by row of the batch

    def is_argmax_invariant(self) -> bool:
        """False: it is given the raw logits, and decides the most likely token."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that come, leave and change rows."""
        process_dict_updates(self.drawings, batch_update, _begun)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """As `draw_rows`; rows of other requests are left alone."""
        return draw_rows(logits, self.drawings) if self.drawings else logits


def _begun(params: SamplingParams, prompt: list[int] | None, output: list[int]) -> Drawing | None:
    """The drawing of a request, with the list in which vLLM keeps its tokens."""
    given = (params.extra_args or {}).get(KEY)
    if given is None:
        return None
    drawing = DRAWINGS.setdefault(given.number, given)
    drawing.taken = output
    return drawing
