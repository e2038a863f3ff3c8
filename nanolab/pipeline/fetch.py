"""`python -m nanolab data fetch STUDY`: everything that a study on hub data reads."""

from collections.abc import Callable

from nanolab.data.sources import hub
from nanolab.data.sources.published import CHAT, TEXT, published_task, split_name
from nanolab.data.sources.requirements import check_data, requirements
from nanolab.data.sources.source import open_source
from nanolab.model.scaling import derive
from nanolab.settings.config import StudyConfig
from nanolab.wording import size

BYTES_PER_TOKEN = 6  # more than any tokenizer of up to 65,536 tokens makes of English text


def fetch(
    study: StudyConfig, steps: list[str] | None = None, say: Callable[[str], None] = print
) -> None:
    """Brings every split that the study's steps read into the user's cache of the hub, so that it
    runs without a network; what is there is not brought again. Where the study has a data.root, all
    of it is written there too, as a folder for data.source: local.

    Raises UserError for what the source does not have, and when the network fails.
    """
    source = open_source(study.data)
    steps = [step for step in study.steps if step != "report"] if steps is None else steps
    check_data(study, steps, source)
    if not isinstance(source, hub.HubSource):
        say(
            f"{study.data.source} data needs no network: everything that {study.experiment} reads"
            " is there"
        )
        return
    folder = source.root if study.data.root else None
    needs = requirements(study, steps, source)
    for what, split in dict.fromkeys((needed.what, needed.split) for needed in needs):
        if what == "core":
            source.fetch_core()
        elif what == "text":
            if split != "train":
                continue  # comes with the first training shard
            paths = source.fetch_text(text_bytes(study))
            if folder:
                hub.write_text(paths, folder)
        else:
            published = CHAT if what == "chat" else published_task(what)
            paths = source.fetch(published, split_name(what, split))
            if folder:
                hub.copy_rows(paths, published, folder)
        say(f"{TEXT.repository if what == 'text' else what} {split}: {source.describe(what)}")
    if folder:
        total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        say(
            f"ready in {folder} ({size(total)}). On a machine without a network: copy"
            " that folder, set data.root to it and data.source to local"
        )
    else:
        say(
            f"ready in the cache of the hub (HF_HOME) and {source.root}. For a machine without a"
            " network: set data.root, and everything is written to that folder too"
        )


def text_bytes(study: StudyConfig) -> int:
    """Bytes of text that the tokenizer, or all rows of one training, take, whichever are more."""
    scale = derive(study.base_train, study.tokenizer.vocab_size)
    rows = [scale.steps * scale.batch_size]
    for stage in (study.mid_train, study.sft):
        rows.append(int(stage.share_text * stage.steps * (stage.batch_size or scale.batch_size)))
    length = study.base_train.sequence_length
    return max(study.tokenizer.max_chars, max(rows) * length * BYTES_PER_TOKEN)
