"""What the three training stages share: the study's scale, the rows, the loop's wiring."""

from __future__ import annotations

import shutil
from typing import Any

import torch

from nanolab import checkpoint, seeds
from nanolab.config import Job
from nanolab.data.batches import (
    CORPORA,
    ChatMixture,
    PackedText,
    Rows,
    chat_conversations,
    mixture_notes,
)
from nanolab.data.requirements import KINDS
from nanolab.data.sources import DataSource, open_source
from nanolab.data.tokenizer import Tokenizer
from nanolab.data.tokens import TokenBlocks
from nanolab.dist import World, barrier, with_dtype
from nanolab.evals.bpb import batches_of_rank, evaluate
from nanolab.files import sha256_text
from nanolab.journal import Run
from nanolab.model.gpt import GPT
from nanolab.model.optim import build_optimizers
from nanolab.model.scaling import Scale, derive, flops_per_token, memory_bytes, parameters
from nanolab.training.loop import Schedule, train


def text_rows(
    source: DataSource,
    tokenizer: Tokenizer,
    split: str,
    sequence_length: int,
    job: Job,
    world: World,
) -> PackedText:
    """Packed rows of a split of the pretraining text; the ranks share its tokenisation through files in the job's folder."""
    blocks = source.blocks(split)
    folder = job.folder / "tokens" / f"{split}-{sha256_text(blocks.layout)[:8]}"
    return PackedText(
        TokenBlocks(blocks, tokenizer, folder, world.rank, world.size), sequence_length
    )


def drop_tokens(job: Job, world: World) -> None:
    """Remove the files of `text_rows`; every rank must be done with its rows."""
    barrier(world)
    if world.rank == 0:
        shutil.rmtree(job.folder / "tokens", ignore_errors=True)


def initial_model(job: Job, scale: Scale) -> GPT:
    """A fresh model, the same whatever the number of processes."""
    torch.manual_seed(seeds.derive(job.study.seed, "base_train", "initialisation"))
    return GPT(scale.model)


def train_base(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Base training on the pretraining text."""
    config, source = job.config, open_source(job.study.data)
    tokenizer = Tokenizer.load(job.inputs["tok_train"] / "tokenizer")
    scale = derive(config, tokenizer.vocab_size)
    facts = {
        "parameters": parameters(scale.model),
        "flops_per_token": flops_per_token(scale.model),
        "memory_estimate_bytes": memory_bytes(scale.model, config.device_batch_size),
    }
    run.params({f"derived.{key}": value for key, value in {**vars(scale.model), **facts}.items()})
    rows = text_rows(source, tokenizer, "train", config.sequence_length, job, world)
    held_out = text_rows(source, tokenizer, "validation", config.sequence_length, job, world)
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "training")
    metrics = _train(
        job,
        world,
        run,
        tokenizer,
        initial_model(job, scale),
        scale,
        rows,
        held_out,
        scale.batch_size,
        scale.steps,
        1.0,
    )
    return metrics | {"parameters": facts["parameters"], "data": source.describe("text")}


def train_chat(job: Job, world: World, run: Run, parent: str) -> dict[str, Any]:
    """Midtraining or SFT: conversations by the config's shares, from the model of step `parent`."""
    config, source = job.config, open_source(job.study.data)
    tokenizer = Tokenizer.load(job.inputs["tok_train"] / "tokenizer")
    model, _ = checkpoint.load_model(
        job.inputs[parent] / "checkpoints", None, "cpu", tokenizer.digest
    )
    scale = derive(job.study.base_train, tokenizer.vocab_size)
    length = model.config.sequence_length
    shares = {kind: getattr(config, f"share_{kind}") for kind in KINDS}
    text = text_rows(source, tokenizer, "train", length, job, world) if config.share_text else None
    kinds = [kind for kind in shares if shares[kind]]
    training, validation = chat_conversations(source, kinds, job.study.data.choice_answers)
    notes = mixture_notes(source, kinds)
    if world.rank == 0 and notes:
        print("\n".join(notes), flush=True)
    run.params(
        {
            "mixture.notes": "; ".join(notes) or "none",
            **{f"mixture.{kind}": len(training[kind]) for kind in kinds},
        }
    )
    shuffled = job.study.data.row_order == "shuffled"
    rows = ChatMixture(
        training,
        shares,
        tokenizer,
        length,
        job.study.seed,
        job.step,
        text,
        config.share_text,
        shuffled,
    )
    held_out = ChatMixture(
        validation,
        shares,
        tokenizer,
        length,
        job.study.seed,
        f"{job.step}/validation",
        shuffled=shuffled,
    )
    for kind, task in CORPORA:
        if shares[kind] and source.has(task or "chat", "train"):
            run.dataset(
                task or "chat",
                source.describe(task or "chat"),
                sha256_text(source.identity()),
                "training",
            )
    batch_size = config.batch_size or scale.batch_size
    metrics = _train(
        job,
        world,
        run,
        tokenizer,
        model,
        scale,
        rows,
        held_out,
        batch_size,
        config.steps,
        config.learning_rate_scale,
    )
    return metrics | {"data": source.describe("gsm8k")}


def _train(
    job: Job,
    world: World,
    run: Run,
    tokenizer: Tokenizer,
    model: GPT,
    scale: Scale,
    rows: Rows,
    held_out: Rows,
    batch_size: int,
    steps: int,
    learning_rate_scale: float,
) -> dict[str, Any]:
    config = job.config
    world = with_dtype(world, config.dtype)
    model = model.to(world.device)
    schedule = Schedule(
        steps,
        batch_size,
        config.device_batch_size,
        config.warmup_steps,
        config.decay_share,
        config.eval_every,
        config.checkpoint_every,
        learning_rate_scale,
    )
    if config.compile:
        model.trunk = torch.compile(
            model.trunk
        )  # the loss is made of few large products: nothing to fuse
    count = max(1, config.eval_tokens // model.config.sequence_length)
    batches, token_bytes = (
        batches_of_rank(held_out, count, config.device_batch_size, world),
        tokenizer.token_bytes(),
    )
    metrics = train(
        model,
        build_optimizers(model, scale, world.dtype),
        rows,
        world,
        run,
        job.folder / "checkpoints",
        schedule,
        lambda: evaluate(model, batches, token_bytes, world),
        {"tokenizer_digest": tokenizer.digest, "made_by": job.step},
    )
    drop_tokens(job, world)
    return metrics
