"""Step base_loss: the base model's bits per byte on training and validation text."""

from typing import Any

from nanolab import checkpoint
from nanolab.config import Job
from nanolab.data.sources import open_source
from nanolab.data.tokenizer import Tokenizer
from nanolab.dist import World
from nanolab.evals.bpb import bits_per_byte
from nanolab.files import sha256_text
from nanolab.journal import Run
from nanolab.stages.training import text_rows


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: train_bits_per_byte and validation_bits_per_byte over `loss_tokens` tokens of each split; data."""
    config, source = job.config, open_source(job.study.data)
    tokenizer = Tokenizer.load(job.inputs["tok_train"] / "tokenizer")
    model, _ = checkpoint.load_model(job.inputs["base_train"] / "checkpoints", config.step, world.device, tokenizer.digest)
    length = model.config.sequence_length
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "evaluation")
    metrics: dict[str, Any] = {}
    for split in ("train", "validation"):
        rows = text_rows(source, tokenizer, split, length)
        bits = bits_per_byte(model, rows, max(1, config.loss_tokens // length), 16, tokenizer.token_bytes(), world)
        metrics[f"{split}_bits_per_byte"] = bits
        if world.rank == 0:
            print(f"{split}: {bits:.4f} bits per byte", flush=True)
    return metrics | {"data": source.describe("text")}
