"""Published figures beside what this store has measured, with interval and cost."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

from IPython.display import HTML, Markdown

from nanolab import files
from nanolab.errors import UserError
from nanolab.evals import published
from nanolab.evals.published import TASK_LABELS, Figure, rows
from nanolab.notebook import cards, records
from nanolab.plan import parameters
from nanolab.plan.parameters import PublishedParameters
from nanolab.report import store_values
from nanolab.results import Score
from nanolab.settings.config import STAGES, StudyConfig
from nanolab.settings.model_name import model_name
from nanolab.settings.study_file import load_study
from nanolab.tracking.run_reader import RunRecord
from nanolab.wording import METHODS

LABELS = {**METHODS, "grpo": "GRPO (training)", "rloo": "RLOO (training)", "": "asked"}
HEADER = (
    *("method", "settings", "published", "ours", "95% interval", "passed"),
    *("published in it", "positions a problem", "time of the step", "from"),
)
NOT_RUN = "not run"


@dataclass(frozen=True)
class Ours:
    """What stands beside a published figure: a score, and the run that measured it."""

    score: Score
    study: str
    run: RunRecord


@dataclass(frozen=True)
class Published:
    """Published figures, each with ours or None."""

    found: list[tuple[Figure, Ours | None]]

    def table(self) -> HTML:
        """A table for each model and task, with its source and what differs."""

        def of(pair: tuple[Figure, Ours | None]) -> tuple[str, ...]:
            return pair[0].model, pair[0].task, pair[0].source, pair[0].url

        pieces = []
        for (model, task, source, url), pairs in groupby(self.found, of):
            own = list(pairs)
            heading = cards.html("published").heading(model, TASK_LABELS[task], source, url)
            table = cards.html().table(HEADER, [_row(*pair) for pair in own], left=2)
            differing = [part for figure, _ in own for part in figure.differs.split("; ")]
            pieces += [heading, table, cards.html().remarks(list(dict.fromkeys(differing)))]
        return HTML("".join(pieces))

    def to_run(self) -> Markdown:
        """The studies of experiments/ that would fill empty rows, with what they cost first."""
        missing = {model_name(figure.model) for figure, ours in self.found if ours is None}
        lines = []
        for study, config in _studies().items():
            if not _models(config) & missing:
                continue
            if config.data.source == "embedded":  # its tasks are others
                continue
            folder = ", where NANOLAB_DATA names a folder of public sets"
            lines.append(
                f"- `{study}`: `python -m nanolab plan {study} --hardware 1xH100` (or `cpu`), then"
                f" `python scripts/run_all.py experiments/{study}.yaml`"
                f"{folder if config.data.source == 'local' else ''}"
            )
        return Markdown("\n".join(lines) or "*Every row that a study here can fill is filled.*")


def choose(models: list[str] | None = None) -> Published:
    """The published figures of the models named (None or none: of all), with what the studies of
    this store measured: of each the newest finished step of that model, task and setting.
    """
    parameters.check(PublishedParameters, {"models": [] if models is None else models})
    wanted = {model_name(model): model for model in models or []}
    figures = [row for row in rows() if not wanted or model_name(row.model) in wanted]
    if absent := wanted.keys() - {model_name(row.model) for row in figures}:
        have = ", ".join(dict.fromkeys(row.model for row in rows()))
        raise UserError(
            f"no published figure of {wanted[min(absent)]!r}; there are those of {have}"
        )
    measured = list(_measured({model_name(row.model) for row in figures}))
    return Published([(figure, _beside(figure, measured)) for figure in figures])


def _measured(models: set[str]) -> Iterable[tuple[str, str, RunRecord, list[Score]]]:
    """(model, study, run, rows) of every finished step of these models on public data, newest
    first: the embedded world's tasks only have the names of the published ones.
    """
    runs = [(study, run) for study in records.studies() for run in records.finished(study)]
    for study, run in sorted(runs, key=lambda pair: -pair[1].start):
        name = model_name(run.params.get("source", ""))
        if name in models and run.params.get("data.source") != "embedded":
            yield name, study, run, store_values.rows_of(run)


def _beside(figure: Figure, measured: list[tuple[str, str, RunRecord, list[Score]]]) -> Ours | None:
    """The newest score of the figure's model and task by its method at its settings."""
    for model, study, run, found in measured:
        if model == model_name(figure.model):
            row = published.ours(figure, found, run.params)
            if row is not None:
                return Ours(row, study, run)
    return None


def _row(figure: Figure, ours: Ours | None) -> list[str]:
    """The cells of a figure."""
    settings = ", ".join(f"{key} {value:g}" for key, value in figure.settings.items())
    count = f" of {figure.n}" if figure.n else ""
    start = [LABELS[figure.method], settings, cards.percent(figure.value) + count]
    if ours is None:
        return [*start, NOT_RUN, *[""] * (len(HEADER) - 4)]
    score = ours.score
    interval, passed = cards.interval(score)
    if score.passed is None and score.n is not None:
        passed = f"{score.n:.0f} problems"
    inside = score.low is not None and score.low <= figure.value <= score.high
    return [
        *start,
        cards.percent(score.value),
        interval,
        passed,
        "yes" if inside else "no",
        cards.number(score.positions and round(score.positions)),
        cards.html("published").time(store_values.seconds(ours.run)),
        records.run_link(ours.run.id, ours.study),
    ]


def _studies() -> dict[str, StudyConfig]:
    """The studies of experiments/."""
    paths = sorted((files.ROOT / "experiments").glob("*.yaml"))
    return {path.stem: load_study(path.stem) for path in paths}


def _models(study: StudyConfig) -> set[str]:
    """The models that a study's settings name."""
    return {model_name(getattr(study.stage(stage), "source", "")) for stage in STAGES}
