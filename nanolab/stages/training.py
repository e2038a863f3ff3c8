"""The steps that train on text: the model, its rows, the loop's wiring.

Step base_train: pretraining on text.
Step mid_train: midtraining on chats, tool use, multiple choice and programs.
Step sft: supervised fine-tuning on the assistant's tokens.
"""

import shutil
from dataclasses import dataclass

import torch

from nanolab import seeds
from nanolab.artefacts import TOKENIZER, verified
from nanolab.data.sources.requirements import KINDS
from nanolab.data.sources.source import DataSource, open_source
from nanolab.data.tokens.batches import (
    CORPORA,
    ChatMixture,
    Mix,
    PackedText,
    Rows,
    chat_conversations,
    mixture_notes,
)
from nanolab.data.tokens.token_files import TokenBlocks
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.dist import World, barrier, say, with_dtype
from nanolab.evals.bpb import batches_of_rank, evaluate
from nanolab.files import sha256_text
from nanolab.model import checkpoint
from nanolab.model.gpt import GPT
from nanolab.model.optim import build_optimizers
from nanolab.model.scaling import Scale, derive, flops_per_token, memory_bytes, parameters
from nanolab.results import Score, StepResult, scalars
from nanolab.settings.config import Job
from nanolab.tracking.journal import Run
from nanolab.training.loop import Schedule, Trainer


def text_rows(
    source: DataSource,
    tokenizer: Tokenizer,
    split: str,
    length: int,
    job: Job,
    world: World,
) -> PackedText:
    """Packed rows of a split of the pretraining text; the ranks share its tokenisation through
    files in the job's folder.
    """
    blocks = source.blocks(split)
    folder = job.folder / "tokens" / f"{split}-{sha256_text(blocks.layout)[:8]}"
    return PackedText(TokenBlocks(blocks, tokenizer, folder, world.rank, world.size), length)


def drop_tokens(job: Job, world: World) -> None:
    """Remove the files of `text_rows`; every rank must be done with its rows."""
    barrier(world)
    if world.rank == 0:
        shutil.rmtree(job.folder / "tokens", ignore_errors=True)


@dataclass
class Parts:
    """What a training is made of."""

    tokenizer: Tokenizer
    model: GPT
    scale: Scale
    rows: Rows
    held_out: Rows


def run(job: Job, world: World, run: Run) -> StepResult:
    """Train; the rows of `training.loop.Trainer.train`."""
    source = open_source(job.study.data)
    tokenizer = Tokenizer.load(verified(job.inputs["tok_train"], TOKENIZER))
    make = _base if job.step == "base_train" else _chat
    parts = make(job, world, run, source, tokenizer)
    rows = _train(job, world, run, parts)
    if job.step != "base_train":
        return StepResult(rows, {"data": source.describe("gsm8k")})
    rows += scalars(parameters=parameters(parts.scale.model))
    return StepResult(rows, {"data": source.describe("text")})


def _base(job: Job, world: World, run: Run, source: DataSource, tokenizer: Tokenizer) -> Parts:
    """Base training: a fresh model, the same whatever the number of processes, and text."""
    config = job.config
    scale = derive(config, tokenizer.vocab_size)
    run.params(
        {
            **{f"derived.{key}": value for key, value in vars(scale.model).items()},
            "derived.parameters": parameters(scale.model),
            "derived.flops_per_token": flops_per_token(scale.model),
            "derived.memory_estimate_bytes": memory_bytes(scale.model, config.device_batch_size),
        }
    )
    rows, held_out = (
        text_rows(source, tokenizer, split, config.sequence_length, job, world)
        for split in ("train", "validation")
    )
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "training")
    torch.manual_seed(seeds.derive(job.study.seed, "base_train", "initialisation"))
    return Parts(tokenizer, GPT(scale.model), scale, rows, held_out)


def _chat(job: Job, world: World, run: Run, source: DataSource, tokenizer: Tokenizer) -> Parts:
    """Midtraining or SFT: the model of the step before, conversations by the config's shares."""
    config, study = job.config, job.study
    parent = "base_train" if job.step == "mid_train" else "mid_train"
    model, _ = checkpoint.load_finished(job.inputs[parent], None, "cpu", tokenizer.digest)
    length = model.config.sequence_length
    text = text_rows(source, tokenizer, "train", length, job, world) if config.share_text else None
    shares = {kind: getattr(config, f"share_{kind}") for kind in KINDS}
    kinds = [kind for kind in shares if shares[kind]]
    training, validation = chat_conversations(source, kinds, study.data.choice_answers)
    notes = mixture_notes(source, kinds)
    for note in notes:
        say(world, note)
    counts = {f"mixture.{kind}": len(training[kind]) for kind in kinds}
    run.params({"mixture.notes": "; ".join(notes) or "none", **counts})
    for kind, task in CORPORA:
        name = task or "chat"
        if shares[kind] and source.has(name, "train"):
            run.dataset(name, source.describe(name), sha256_text(source.identity()), "training")
    mix = Mix(shares, study.data.row_order == "shuffled", config.share_text)
    own, other = (study.seed, job.step), (study.seed, f"{job.step}/validation")
    return Parts(
        tokenizer,
        model,
        derive(study.base_train, tokenizer.vocab_size),
        ChatMixture(training, mix, tokenizer, length, own, text),
        ChatMixture(validation, mix._replace(text_share=0.0), tokenizer, length, other),
    )


def _train(job: Job, world: World, run: Run, parts: Parts) -> list[Score]:
    config, model, scale = job.config, parts.model, parts.scale
    world = with_dtype(world, config.dtype)
    model = model.to(world.device)
    if config.compile:  # the loss is made of few large products: nothing to fuse
        model.trunk = torch.compile(model.trunk)
    count = max(1, config.eval_tokens // model.config.sequence_length)
    batches = batches_of_rank(parts.held_out, count, config.device_batch_size, world)
    token_bytes = parts.tokenizer.token_bytes()
    measured = Trainer(
        model=model,
        optimizers=build_optimizers(model, scale, world.dtype),
        rows=parts.rows,
        schedule=Schedule(
            config.steps or scale.steps,
            config.batch_size or scale.batch_size,
            config.device_batch_size,
            config.warmup_steps,
            config.decay_share,
            config.eval_every,
            config.checkpoint_every,
            getattr(config, "learning_rate_scale", 1.0),  # base training has its rates
        ),
        validate=lambda: evaluate(model, batches, token_bytes, world),
        world=world,
        run=run,
        folder=job.folder / "checkpoints",
        facts={"tokenizer_digest": parts.tokenizer.digest, "made_by": job.step},
    ).train()
    drop_tokens(job, world)
    return measured
