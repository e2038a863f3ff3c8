"""`python -m nanolab data fetch STUDY`: bring everything that a study on hub data reads, so that it runs without a network."""

from __future__ import annotations

from collections.abc import Callable

from nanolab.config import StudyConfig
from nanolab.data.hub import HubSource
from nanolab.data.published import CHAT, TEXT, published_task, split_name
from nanolab.data.requirements import check_data, requirements
from nanolab.data.sources import open_source
from nanolab.model.scaling import derive

BYTES_PER_TOKEN = 6  # more than any tokenizer of up to 65,536 tokens makes of English text


def fetch(
    study: StudyConfig, steps: list[str] | None = None, say: Callable[[str], None] = print
) -> None:
    """Bring every split that the study's steps read, each file checked by size and hash; what is here is not brought again.

    Raises UserError of one line for what the source does not have, and when the network fails (run it again: it goes on).
    """
    source = open_source(study.data)
    steps = [step for step in study.steps if step != "report"] if steps is None else steps
    check_data(study, steps, source)
    if not isinstance(source, HubSource):
        say(
            f"{study.data.source} data needs no network: everything that {study.experiment} reads is there"
        )
        return
    wanted = dict.fromkeys(
        (needed.what, needed.split) for needed in requirements(study, steps, source)
    )
    for what, split in wanted:
        if what == "core":
            source.fetch_core()
        elif what == "chat":
            source.fetch(CHAT, split)
        elif what != "text":
            source.fetch(published_task(what), split_name(what, split))
        elif split == "train":
            source.fetch_text(text_bytes(study))
        else:
            continue  # comes with the first training shard
        name = TEXT.repository if what == "text" else what
        say(f"{name} {split}: {source.describe(what)}")
    total = sum(path.stat().st_size for path in source.root.rglob("*") if path.is_file())
    say(
        f"ready in {source.root} ({total / 2**20:,.1f} MiB). On a machine without a network: copy that folder, and set data.root to it"
    )


def text_bytes(study: StudyConfig) -> int:
    """Bytes of text that the tokenizer is trained on, or that fill all rows of one training, whichever are more."""
    scale = derive(study.base_train, study.tokenizer.vocab_size)
    rows = scale.steps * scale.batch_size
    for name in ("mid_train", "sft"):
        stage = study.stage(name)
        rows = max(
            rows, int(stage.share_text * stage.steps * (stage.batch_size or scale.batch_size))
        )
    return max(study.tokenizer.max_chars, rows * study.base_train.sequence_length * BYTES_PER_TOKEN)
