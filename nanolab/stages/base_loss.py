"""Step base_loss: the base model's bits per byte on training and validation text."""

from typing import Any

from nanolab import checkpoint
from nanolab.config import Job
from nanolab.data.sources import open_source
from nanolab.data.tokenizer import Tokenizer
from nanolab.dist import World, with_dtype
from nanolab.evals.bpb import batches_of_rank, evaluate
from nanolab.files import sha256_text
from nanolab.journal import Run
from nanolab.stages.training import drop_tokens, text_rows

ROWS_AT_ONCE = 16


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: train_bits_per_byte and validation_bits_per_byte, float32, over `loss_tokens` tokens of each split; data."""
    config, source, world = job.config, open_source(job.study.data), with_dtype(world, "float32")
    tokenizer = Tokenizer.load(job.inputs["tok_train"] / "tokenizer")
    model, facts = checkpoint.load_model(
        job.inputs["base_train"] / "checkpoints", config.step, world.device, tokenizer.digest
    )
    length = model.config.sequence_length
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "evaluation")
    metrics: dict[str, Any] = {"step": facts["step"]}
    for split in ("train", "validation"):
        rows = text_rows(source, tokenizer, split, length, job, world)
        batches = batches_of_rank(rows, max(1, config.loss_tokens // length), ROWS_AT_ONCE, world)
        bits = evaluate(model, batches, tokenizer.token_bytes(), world)
        metrics[f"{split}_bits_per_byte"] = bits
        if world.rank == 0:
            print(f"{split}: {bits:.4f} bits per byte", flush=True)
    drop_tokens(job, world)
    return metrics | {"data": source.describe("text")}
