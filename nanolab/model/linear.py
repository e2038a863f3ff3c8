"""A linear map that, without gradients on a CPU, multiplies by a copy of its weight packed once for
oneDNN.

That is up to 2.5 times as fast as torch's own product from 32 rows on (LOG.md), a row's result does
not depend on the number of rows, and an activation costs no pass of its own. The operators are
torch's private ones: in a build without them the plain product is used.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_post_hook

PACKABLE = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_reorder_linear_weight", "_linear_pointwise")
)
# bfloat16 needs a processor that has its instructions
PACKED = [torch.float32]
if PACKABLE and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    PACKED.append(torch.bfloat16)
ACTIVATIONS = {"none": lambda x: x, "relu": torch.relu, "tanh": torch.tanh}

# of all optimizers of this process: fused ones write weights without raising their version counters
_optimizer_steps = 0


def _count_step(*_: Any) -> None:
    global _optimizer_steps
    _optimizer_steps += 1


register_optimizer_step_post_hook(_count_step)


def packs(weight: torch.Tensor) -> bool:
    """Whether a product with this weight is made with a packed copy now."""
    return (
        PACKABLE
        and weight.device.type == "cpu"
        and weight.dtype in PACKED
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class Linear(nn.Linear):
    """x (..., in) -> (..., out), without bias, and one of ACTIVATIONS.

    The packed copy is made at first use and remade once an optimizer has made a step or the weight
    was changed in place (not seen: writing through `.data`), dropped at the first product with
    gradients, and neither saved nor copied with the module.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.packed: tuple[tuple[Any, ...], torch.Tensor] | None = None

    def forward(self, x: torch.Tensor, activation: str = "none") -> torch.Tensor:
        weight = self.weight
        if not packs(weight):
            self.packed = None
            return ACTIVATIONS[activation](functional.linear(x, weight))
        state = weight.data_ptr(), weight._version, weight.dtype, _optimizer_steps
        if self.packed is None or self.packed[0] != state:
            self.packed = None  # the old copy goes before the new one comes
            self.packed = state, torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        return torch.ops.mkldnn._linear_pointwise(x, self.packed[1], None, activation, [], "")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "packed": None}
