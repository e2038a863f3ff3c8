"""The model that scripts/bench_core.py judges with: a d4 trained shortly on the folder's text, kept
under mlruns/bench_core.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from bench_power import ROOT

VOCAB, DEPTH, WIDTH, HEADS, CONTEXT = 4096, 4, 256, 4, 2048
STEPS, ROWS, LENGTH = 400, 4, 512  # of the training: optimizer steps, rows a step, tokens a row
MODEL = ROOT / "mlruns" / "bench_core" / f"{STEPS}x{ROWS}x{LENGTH}"
Facts = dict[str, Any]


def data_source() -> Any:
    from nanolab.data.sources.source import open_source
    from nanolab.settings.config import DataConfig

    return open_source(DataConfig(source="local"))


def train_model() -> None:
    """A tokenizer on the folder's text and chats, and a d4 trained for STEPS steps on its text,
    under MODEL.
    """
    from nanolab.data.tokens.tokenizer import train_tokenizer
    from nanolab.model import checkpoint, scaling
    from nanolab.model.gpt import GPT
    from nanolab.model.optim import build_optimizers
    from nanolab.settings.config import BaseTrainConfig

    source, generator = data_source(), torch.Generator().manual_seed(0)
    texts = [document.text for document in source.documents("train")]
    chats = [message["content"] for row in source.chats("train") for message in row["messages"]]
    tokenizer = train_tokenizer(iter(texts + chats), VOCAB)
    tokenizer.save(MODEL / "tokenizer")
    flat = torch.tensor(
        [token for ids in tokenizer.encode_batch(texts) for token in (tokenizer.bos, *ids)]
    )
    rows = flat[: len(flat) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    rows = rows[torch.randperm(len(rows), generator=generator)]
    scale = scaling.derive(
        BaseTrainConfig(
            depth=DEPTH, width=WIDTH, heads=HEADS, sequence_length=CONTEXT, steps=STEPS
        ),
        VOCAB,
    )
    torch.manual_seed(0)
    model = GPT(scale.model)
    optimizers = build_optimizers(model, scale, torch.bfloat16)
    for step, batch in enumerate(rows[: STEPS * ROWS].split(ROWS)):
        with torch.autocast("cpu", torch.bfloat16):
            total, count = model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        (total / count).backward()
        optimizers.step(min(1.0, (step + 1) / 10, max(0.05, 2 * (STEPS - step) / STEPS)))
        optimizers.zero_grad()
        if step % 50 == 0 or step == STEPS - 1:
            print(
                f"training: step {step + 1} of {STEPS}, loss {float(total.detach()) / count:.3f}",
                file=sys.stderr,
                flush=True,
            )
    checkpoint.save(
        MODEL / "checkpoints",
        STEPS,
        model,
        {},
        {"tokenizer_digest": tokenizer.digest, "loss": float(total.detach()) / count},
    )


def load_model() -> tuple[Any, Any, Facts]:
    """The model in evaluation mode, its tokenizer, its checkpoint's facts."""
    from nanolab.data.tokens.tokenizer import Tokenizer
    from nanolab.model import checkpoint

    tokenizer = Tokenizer.load(MODEL / "tokenizer")
    model, facts = checkpoint.load_model(MODEL / "checkpoints", None, "cpu", tokenizer.digest)
    return model.eval(), tokenizer, facts
