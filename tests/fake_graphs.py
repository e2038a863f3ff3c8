"""CUDA graphs without CUDA: what is captured is replayed call by call on the very tensors it was
captured over.

As on a device, nothing of Python runs again in a replay, addresses stay, and what would have to
wait for the device is refused.
"""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nanolab.inference import decode, kernels
from nanolab.model import linear

# they read a tensor's content on the host, or bring numbers from the host: neither can be captured
REFUSED = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "lift_fresh", "unique")


class Graph:
    """A captured run: each operator with its arguments and what it gave."""

    def __init__(self):
        self.calls, self.pool = [], None

    def replay(self):
        for function, arguments, named, given in self.calls:
            found = function(*arguments, **named)
            if isinstance(found, torch.Tensor):
                given.copy_(found)


class _Capture(TorchDispatchMode):
    def __init__(self, graph, pool):
        super().__init__()
        self.graph, graph.pool = graph, pool

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        name = function.overloadpacket.__name__
        assert not name.startswith(REFUSED), f"{name} cannot be captured"
        given = function(*arguments, **named or {})
        self.graph.calls.append((function, arguments, named or {}, given))
        return given


class _Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture(name="graphs")
def captured_graphs(monkeypatch):
    """Every graph that was captured since; models run the operators that a CUDA device runs, and
    decode with graphs.
    """
    made, pools = [], iter(range(1000))

    def graph():
        made.append(Graph())
        return made[-1]

    fakes = {
        "CUDAGraph": graph,
        "graph": lambda graph, pool=None: _Capture(graph, pool),
        "graph_pool_handle": lambda: next(pools),
        "Stream": _Stream,
        "current_stream": _Stream,
        "stream": lambda stream: contextlib.nullcontext(),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(kernels, "usable", lambda *_: False)
    monkeypatch.setattr(linear, "PACKABLE", False)
    return made


def graphed(language_model):
    """The language model, decoding as it would on CUDA."""
    language_model.shape, language_model.step = decode.graph_shape, decode.GraphedStep()
    return language_model
