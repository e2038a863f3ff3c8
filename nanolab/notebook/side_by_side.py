"""Studies side by side: training curves, tasks, power sampling and costs, from MLflow's records."""

import collections
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from IPython.display import HTML, Image, Markdown

from nanolab.errors import UserError
from nanolab.notebook import cards, records
from nanolab.notebook.records import Runs
from nanolab.notebook.stage_results import image
from nanolab.plan import parameters
from nanolab.plan.parameters import CompareParameters
from nanolab.report import outside, store_values
from nanolab.results import Score, accuracies, answered
from nanolab.tracking import comparable, run_reader
from nanolab.tracking.address import shown_uri
from nanolab.wording import MODEL_LABELS, TASK_LABELS, clock, model_label

# studies that are compared when none is named: as many as a figure tells apart at half a page
MOST_STUDIES = 4
TRAINED = {"base_train": "base training", "mid_train": "midtraining", "sft": "SFT"}
TRAINED_BY = {"base": "base_train", "mid": "mid_train", "sft": "sft"}
NAMED = 12  # of a long list of studies


@dataclass(frozen=True)
class Comparison:
    """The chosen studies: what stands for each, and its runs by step."""

    sources: dict[str, str] = field(default_factory=dict)
    runs: dict[str, Runs] = field(default_factory=dict)

    def overview(self) -> HTML | Markdown:
        """Which records are compared, and in which settings the studies differ."""
        if not self.runs:
            return Markdown(records.NOTHING)
        rows = []
        for (study, runs), colour in zip(self.runs.items(), self._colours()):
            last = max(runs.values(), key=lambda run: run.start)  # reused steps: of earlier ones
            link = records.run_link(last.tags.get("mlflow.parentRunId", last.id))
            ended = time.localtime(max(run.end or run.start for run in runs.values()) / 1000)
            name, source = cards.html().strong(study, colour), self.sources[study]
            rows.append([name, link, source, len(runs), time.strftime("%Y-%m-%d %H:%M", ended)])
        table = cards.html().table(["study", "", "read from", "steps", "finished"], rows, left=5)
        note, settings = cards.html("side_by_side").note, self.differences()
        if len(self.runs) < 2:
            return HTML(table + note("Run another study, then this notebook again, to compare."))
        if not settings:
            return HTML(table + note("The same settings in every step that both have."))
        differing = [[key, *values] for key, values in settings.items()]
        differing = self._table(["setting"], differing, left=1 + len(self.runs))
        return HTML(table + cards.html().fold(f"{len(settings)} settings differ", differing))

    def differences(self) -> dict[str, list[str]]:
        """step.setting -> its value in each study, where those that have the step differ."""
        found = {}
        for step in self._steps():
            params = [runs[step].params if step in runs else None for runs in self.runs.values()]
            having = [own for own in params if own is not None]
            for key in sorted({key for own in having for key in own}):
                if len({own.get(key) for own in having}) > 1:
                    found[f"{step}.{key}"] = [(own or {}).get(key, "–") for own in params]
        return found

    def curves(self) -> Image | None:
        """Training loss of each training step, one panel a step, one line a study."""
        histories = {step: found for step in TRAINED if (found := self._curves(step))}
        if not histories:
            return None
        from nanolab.figures import comparison

        return image(comparison.losses(histories, TRAINED, list(self.runs))[0])

    def rewards(self) -> Image | None:
        """Mean reward of the rollouts by policy update."""
        found = self._curves("rl")
        if not found:
            return None
        from nanolab.figures import comparison

        return image(comparison.rewards(found, list(self.runs))[0])

    def tasks(self) -> HTML | None:
        """Bits per byte, and accuracy with its 95% Wilson interval, by model and task."""
        found, notes = [], []
        for model, step in TRAINED_BY.items():
            scores = [records.bits_per_byte(runs, step) for runs in self.runs.values()]
            found.append(([MODEL_LABELS[model], "validation bits per byte"], scores))
        for model, having in self._asked().items():
            measured = {study: store_values.rows_of(run) for study, run in having.items()}
            rows, name = [measured.get(study, []) for study in self.runs], model_label(model)
            for label, task in TASK_LABELS.items():
                found.append(([name, label], [answered(own, task) for own in rows]))
            labels = {f"{name} {label}": task for label, task in TASK_LABELS.items()}
            notes += self._notes(having, labels)
        return self._scores(["model", "task"], found, notes)

    def _asked(self) -> dict[str, Runs]:
        """Model -> study -> the run of the step that asked it: those trained here, then those from
        outside.
        """
        found: dict[str, Runs] = {model: {} for model in outside.OWN}
        for study, runs in self.runs.items():
            steps = {step: run.params for step, run in runs.items()}
            for model, step in outside.asked(steps).items():
                found.setdefault(model, {})[study] = runs[step]
        return found

    def _engines(self) -> str:
        """Why positions of power sampling are not compared: their engines; "" where they are."""
        engines = {
            study: outside.engine_of(run.params)
            for study, run in self._having("power_eval").items()
        }
        if len(set(engines.values())) < 2:
            return ""
        said = ", ".join(f"{study} {engine}" for study, engine in engines.items())
        return f"Positions are not compared: the engines differ, and count otherwise ({said})."

    def power(self) -> Image | Markdown | None:
        """Accuracy of every method against positions a problem, one panel a study; of different
        engines the reason why not.
        """
        if why := self._engines():
            return Markdown(why)
        rows = {}
        for study, own in zip(self.runs, self._rows("power_eval")):
            if found := accuracies(own):
                rows[study] = [
                    vars(row)
                    | {"accuracy": row.value, "positions_per_problem": row.positions}
                    | {"total": row.n}
                    for row in found.values()
                ]
        if not rows:
            return None
        from nanolab.figures import comparison

        return image(comparison.accuracy_by_cost(rows)[0])

    def power_table(self) -> HTML | None:
        """The same in numbers."""
        studies = list(map(accuracies, self._rows("power_eval")))
        if self._engines():
            bare = {"positions": None}
            studies = [{name: replace(own[name], **bare) for name in own} for own in studies]
        found = [
            ([label], [own.get(method) for own in studies])
            for method, label in cards.METHODS.items()
        ]
        return self._scores(["method"], found, self._notes(self._having("power_eval"), TASK_LABELS))

    def costs(self) -> HTML | None:
        """Seconds of each step and in all, earlier attempts and reused steps included."""
        if not self.runs:
            return None
        seconds = [
            {step: store_values.seconds(run) for step, run in runs.items()}
            for runs in self.runs.values()
        ]
        longest = max(max(own.values(), default=0) for own in seconds) or 1
        bar, strong = cards.html("side_by_side").bar, cards.html().strong
        columns = list(zip(seconds, self._colours()))
        rows = [
            [step, *(bar(own.get(step), longest, colour) for own, colour in columns)]
            for step in self._steps()
        ]
        rows.append([strong("in all"), *(strong(clock(sum(own.values()))) for own in seconds)])
        return HTML(self._table(["step"], rows, left=1 + len(self.runs)))

    def _colours(self) -> Iterator[str]:
        from nanolab.figures.style import COLOURS

        return itertools.cycle(COLOURS)

    def _table(self, header: list[str], rows: list[list[str]], left: int) -> str:
        """A table with a column for each study."""
        return cards.html().table([*header, *self.runs], rows, left)

    def _scores(
        self, header: list[str], found: list[tuple[list[str], list[Score | None]]], notes: list[str]
    ) -> HTML | None:
        """The rows (labels, score of each study) that have any."""
        score = cards.html().score
        rows = [[*labels, *map(score, scores)] for labels, scores in found if any(scores)]
        if not rows:
            return None
        return HTML(self._table(header, rows, left=len(header)) + cards.html().remarks(notes))

    def _curves(self, step: str) -> dict[str, Any]:
        return {study: store_values.curves(run) for study, run in self._having(step).items()}

    def _rows(self, step: str) -> list[list[Score]]:
        """What a step measured in each study."""
        every = self.runs.values()
        return [store_values.rows_of(runs[step]) if step in runs else [] for runs in every]

    def _notes(self, having: Runs, labels: dict[str, str]) -> list[str]:
        """Which accuracies are of the same problems; `having` has a run for each study."""
        values = {study: store_values.final_values(run) for study, run in having.items()}
        return comparable.notes(values, labels, "study")

    def _having(self, step: str) -> Runs:
        return {study: runs[step] for study, runs in self.runs.items() if step in runs}

    def _steps(self) -> list[str]:
        """The steps that any study has."""
        return list(records.in_order(dict(collections.ChainMap(*self.runs.values()))))


def choose(studies: list[str] | None = None) -> Comparison:
    """The studies named, or the latest MOST_STUDIES that have a finished step."""
    parameters.check(CompareParameters, {"studies": [] if studies is None else studies})
    if not records.store_exists():
        return Comparison()
    sources, runs = {}, {}
    for name in studies or records.studies():
        if studies and not run_reader.executions(name):
            have = ", ".join(records.studies()[:NAMED])
            raise UserError(f"no study {name!r} in {shown_uri()}; it has {have}")
        source, found = records.latest(name)
        if found and (studies or len(runs) < MOST_STUDIES):
            sources[name], runs[name] = source, found
    return Comparison(sources, runs)
