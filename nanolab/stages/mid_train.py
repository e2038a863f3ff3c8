"""Step mid_train: midtraining on chats, tool use, multiple choice and programs."""

from typing import Any

from nanolab.config import Job
from nanolab.dist import World
from nanolab.journal import Run
from nanolab.stages.training import train_chat


def run(job: Job, world: World, run: Run) -> dict[str, Any]:
    """Flat metrics: steps, batch_size, loss (nats, mean of the last tenth of the steps), validation_bits_per_byte, speed, data."""
    return train_chat(job, world, run, "base_train")
