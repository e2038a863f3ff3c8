"""Step base_loss: a model's bits per byte on training and validation text."""

from nanolab.artefacts import TOKENIZER, verified
from nanolab.data.sources.source import DataSource, open_source
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.dist import World, say, with_dtype
from nanolab.evals import bpb
from nanolab.evals.subject import in_dtype, outside_subject
from nanolab.files import sha256_text
from nanolab.model import checkpoint
from nanolab.results import StepResult, scalars
from nanolab.settings.config import SOURCE_STEPS, Job
from nanolab.settings.model_source import is_outside
from nanolab.stages.training import drop_tokens, text_rows
from nanolab.tracking.journal import Run

ROWS_AT_ONCE = 16
SPLITS = ("train", "validation")


def run(job: Job, world: World, run: Run) -> StepResult:
    """Bits per byte over `loss_tokens` tokens of each split, in float32 (on vLLM in the study's
    dtype).
    """
    source, world = open_source(job.study.data), with_dtype(world, "float32")
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "evaluation")
    measure = of_outside_model if is_outside(job.config.source) else of_checkpoint
    return measure(job, world, source)


def of_checkpoint(job: Job, world: World, source: DataSource) -> StepResult:
    """Of a model trained here, on packed rows."""
    config = job.config
    tokenizer = Tokenizer.load(verified(job.inputs["tok_train"], TOKENIZER))
    model, facts = checkpoint.load_finished(
        job.inputs[SOURCE_STEPS[config.source]], config.step, world.device, tokenizer.digest
    )
    length = model.config.sequence_length
    rows = scalars(step=facts["step"])
    for split in SPLITS:
        text = text_rows(source, tokenizer, split, length, job, world)
        count = max(1, config.loss_tokens // length)
        batches = bpb.batches_of_rank(text, count, ROWS_AT_ONCE, world)
        bits = bpb.evaluate(model, batches, tokenizer.token_bytes(), world)
        rows.append(bits.score(split))
        say(world, f"{split}: {bits}")
    drop_tokens(job, world)
    return StepResult(rows, {"data": source.describe("text")})


def of_outside_model(job: Job, world: World, source: DataSource) -> StepResult:
    """Of a model from outside, on whole documents."""
    config = job.config
    subject = in_dtype(outside_subject(config.source, world.device, config), "float32")
    rows = []
    for split in SPLITS:
        texts = (document.text for document in source.documents(split))
        bits = bpb.of_documents(subject, texts, config.loss_tokens, world)
        rows.append(bits.score(split))
        say(world, f"{split}: {bits}")
    engine = subject.facts.get("engine")
    served = {"served_by": engine} if engine else {}
    return StepResult(rows, {"data": source.describe("text")} | served)
