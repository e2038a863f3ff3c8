"""Step base_loss: the base model's bits per byte on training and validation text."""

from nanolab.artefacts import TOKENIZER, verified
from nanolab.data.sources.source import open_source
from nanolab.data.tokens.tokenizer import Tokenizer
from nanolab.dist import World, say, with_dtype
from nanolab.evals.bpb import batches_of_rank, evaluate
from nanolab.files import sha256_text
from nanolab.model import checkpoint
from nanolab.results import StepResult, scalars
from nanolab.settings.config import Job
from nanolab.stages.training import drop_tokens, text_rows
from nanolab.tracking.journal import Run

ROWS_AT_ONCE = 16


def run(job: Job, world: World, run: Run) -> StepResult:
    """Bits per byte over `loss_tokens` tokens of each split, in float32."""
    config, source, world = job.config, open_source(job.study.data), with_dtype(world, "float32")
    tokenizer = Tokenizer.load(verified(job.inputs["tok_train"], TOKENIZER))
    model, facts = checkpoint.load_finished(
        job.inputs["base_train"], config.step, world.device, tokenizer.digest
    )
    length = model.config.sequence_length
    run.dataset("text", source.describe("text"), sha256_text(source.identity()), "evaluation")
    rows = scalars(step=facts["step"])
    for split in ("train", "validation"):
        text = text_rows(source, tokenizer, split, length, job, world)
        batches = batches_of_rank(text, max(1, config.loss_tokens // length), ROWS_AT_ONCE, world)
        bits = evaluate(model, batches, tokenizer.token_bytes(), world)
        rows.append(bits.score(split))
        say(world, f"{split}: {bits}")
    drop_tokens(job, world)
    return StepResult(rows, {"data": source.describe("text")})
