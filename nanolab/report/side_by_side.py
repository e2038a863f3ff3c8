"""Studies side by side: training curves, tasks, power sampling and costs, from MLflow's records."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from IPython.display import HTML, Image, Markdown

from nanolab import tracking
from nanolab.config import SOURCE_STEPS, STEPS
from nanolab.report import cards, collect, records
from nanolab.report.cards import Markup
from nanolab.report.markdown import METHOD_LABELS, MODEL_LABELS, TASK_LABELS
from nanolab.report.view import interval, shown
from nanolab.schema import UserError
from nanolab.tracking import RunRecord

MOST = 4  # studies that are compared when none is named: as many as a figure tells apart at half a page
TRAINED = {"base_train": "base training", "mid_train": "midtraining", "sft": "SFT"}
TRAINED_BY = {model: step for model, step in SOURCE_STEPS.items() if step in TRAINED}
NAMED = 12  # of a long list of studies


@dataclass(frozen=True)
class Comparison:
    """The chosen studies: what stands for each, and its runs by step."""

    sources: dict[str, str] = field(default_factory=dict)
    runs: dict[str, dict[str, RunRecord]] = field(default_factory=dict)

    def overview(self) -> HTML | Markdown:
        """Which records are compared, and in which settings the studies differ."""
        if not self.runs:
            return Markdown(records.NOTHING)
        rows = [
            [
                _named(study, place),
                _link(self.runs[study]),
                source,
                str(len(self.runs[study])),
                _when(self.runs[study]),
            ]
            for place, (study, source) in enumerate(self.sources.items())
        ]
        settings = self.differences()
        table = cards.table(["study", "", "read from", "steps", "finished"], rows, left=5)
        if len(self.runs) < 2:
            alone = (
                "One study has nothing to stand beside it: run another, then this notebook again."
            )
            return HTML(f"{table}<div>{cards.muted(alone)}</div>")
        differing = cards.table(
            ["setting", *self.runs],
            [[key, *values] for key, values in settings.items()],
            left=1 + len(self.runs),
        )
        return HTML(
            table
            + (
                cards.fold(f"{len(settings)} settings differ", differing)
                if settings
                else f"<div>{cards.muted('The same settings in every step that both have.')}</div>"
            )
        )

    def differences(self) -> dict[str, list[str]]:
        """step.setting -> its value in each study, of the settings in which they differ; a step that a study lacks is left out."""
        found: dict[str, list[str]] = {}
        for step in self._steps():
            having = [runs[step] for runs in self.runs.values() if step in runs]
            for key in sorted({key for run in having for key in run.params}):
                if len({run.params.get(key) for run in having}) > 1:
                    found[f"{step}.{key}"] = [
                        runs[step].params.get(key, "–") if step in runs else "–"
                        for runs in self.runs.values()
                    ]
        return found

    def curves(self) -> Image | None:
        """Training loss of each training step, one panel a step, one line a study."""
        panels = [step for step in TRAINED if any(step in runs for runs in self.runs.values())]
        if not panels:
            return None
        from nanolab.report import compare_plots

        histories = {
            step: {
                study: collect.curves(runs[step])
                for study, runs in self.runs.items()
                if step in runs
            }
            for step in panels
        }
        return shown(compare_plots.losses(histories, TRAINED, list(self.runs))[0])

    def rewards(self) -> Image | None:
        """Mean reward of the rollouts by policy update."""
        found = {
            study: collect.curves(runs["rl"]) for study, runs in self.runs.items() if "rl" in runs
        }
        if not found:
            return None
        from nanolab.report import compare_plots

        return shown(compare_plots.rewards(found, list(self.runs))[0])

    def tasks(self) -> HTML | None:
        """Bits per byte, and accuracy with its 95% Wilson interval: a row for each model and task, a column for each study."""
        found = {
            study: {(row["model"], row["task"]): row for row in collect.task_results(runs)}
            for study, runs in self.runs.items()
        }
        keys = [
            (model, task)
            for model in collect.MODELS
            for task in TASK_LABELS.values()
            if any((model, task) in own for own in found.values())
        ]
        labels = {task: label for label, task in TASK_LABELS.items()}
        rows = [
            [MODEL_LABELS[model], "validation bits per byte", *values]
            for model, values in self._bits_per_byte().items()
        ]
        rows += [
            [
                MODEL_LABELS[model],
                labels[task],
                *_scores([own.get((model, task)) for own in found.values()]),
            ]
            for model, task in keys
        ]
        return HTML(cards.table(["model", "task", *self.runs], rows, left=2)) if rows else None

    def power(self) -> Image | None:
        """Power sampling and the methods beside it: accuracy against positions a problem, one panel a study."""
        rows = {study: self._methods(study) for study in self.runs}
        if not any(rows.values()):
            return None
        from nanolab.report import compare_plots

        return shown(
            compare_plots.accuracy_by_cost({study: own for study, own in rows.items() if own})[0]
        )

    def power_table(self) -> HTML | None:
        """The same in numbers: accuracy, interval and positions a problem of every method."""
        found = {study: {row["method"]: row for row in self._methods(study)} for study in self.runs}
        methods = [
            method
            for method in ("power", *METHOD_LABELS)
            if any(method in own for own in found.values())
        ]
        rows = [
            [
                METHOD_LABELS.get(method, "power sampling"),
                *_scores([own.get(method) for own in found.values()], cost=True),
            ]
            for method in methods
        ]
        return HTML(cards.table(["method", *self.runs], rows)) if rows else None

    def costs(self) -> HTML | None:
        """Seconds of each step and in all, earlier attempts included; a reused step counts with the seconds it took when it ran."""
        if not self.runs:
            return None
        seconds = {
            study: {step: collect.seconds(run) for step, run in runs.items()}
            for study, runs in self.runs.items()
        }
        longest = max(max(own.values(), default=0) for own in seconds.values()) or 1
        rows = [
            [
                step,
                *(
                    _bar(own.get(step), longest, place)
                    for place, own in enumerate(seconds.values())
                ),
            ]
            for step in self._steps()
        ]
        rows.append(
            [
                Markup("<b>in all</b>"),
                *(
                    Markup(f"<b>{cards.duration(sum(own.values()))}</b>")
                    for own in seconds.values()
                ),
            ]
        )
        return HTML(cards.table(["step", *self.runs], rows, left=1 + len(self.runs)))

    def _bits_per_byte(self) -> dict[str, list[str]]:
        """Model -> the final validation bits per byte of each study, of the models that any of them trained."""
        values = {
            model: [
                collect.final_values(runs[step]).get("validation_bits_per_byte")
                if step in runs
                else None
                for runs in self.runs.values()
            ]
            for model, step in TRAINED_BY.items()
        }
        return {
            model: [cards.number(value) for value in own]
            for model, own in values.items()
            if any(value is not None for value in own)
        }

    def _steps(self) -> list[str]:
        return list(
            dict.fromkeys(
                step
                for step in [*STEPS, *(s for runs in self.runs.values() for s in runs)]
                if any(step in runs for runs in self.runs.values())
            )
        )

    def _methods(self, study: str) -> list[dict[str, Any]]:
        run = self.runs[study].get("power_eval")
        if run is None:
            return []
        values = collect.final_values(run)
        task = "gsm8k" if isinstance(values.get("gsm8k"), float) else "humaneval"
        rows = []
        for method in ("power", *METHOD_LABELS):
            prefix = "" if method == "power" else f"{method}/"
            if values.get(task if method == "power" else f"{method}/accuracy") is not None:
                rows.append(
                    {
                        "method": method,
                        "accuracy": values[task if method == "power" else f"{method}/accuracy"],
                        **{
                            key: values.get(prefix + key)
                            for key in ("passed", "total", "low", "high", "positions_per_problem")
                        },
                    }
                )
        return rows


def choose(studies: list[str] | None = None) -> Comparison:
    """The studies named, or without names the latest MOST that have a finished step. Raises UserError for one that the store lacks."""
    if not records.store_exists():
        return Comparison()
    sources, runs = {}, {}
    for name in studies or records.studies():
        if studies and not tracking.executions(name):
            raise UserError(
                f"no study {name!r} in {tracking.store_uri()}; it has {', '.join(records.studies()[:NAMED])}"
            )
        source, found = records.latest(name)
        if found and (studies or len(runs) < MOST):
            sources[name], runs[name] = source, found
    return Comparison(sources, runs)


# ---- cells


def _scores(rows: list[dict[str, Any] | None], cost: bool = False) -> list[str]:
    """A cell a study: accuracy, interval, and what it cost."""
    cells = []
    for row in rows:
        if row is None:
            cells.append("–")
            continue
        small = [
            " · ".join(interval(row))
        ]  # on lines of their own: four studies stand beside each other
        if cost and row.get("positions_per_problem") is not None:
            small.append(f"{float(row['positions_per_problem']):,.0f} positions")
        lines = "".join(
            f'<div style="font-size:11px;white-space:nowrap">{cards.muted(line)}</div>'
            for line in small
        )
        cells.append(Markup(f"<b>{cards.percent(row['accuracy'])}</b>{lines}"))
    return cells


def _bar(seconds: float | None, longest: float, place: int) -> str:
    if seconds is None:
        return "–"
    from nanolab.report.canvas import COLOURS

    width = max(2, round(110 * seconds / longest))
    return Markup(
        f'<div style="display:flex;align-items:center;gap:6px"><div style="width:{width}px;height:9px;border-radius:3px;'
        f'background:{COLOURS[place % len(COLOURS)]}"></div>{cards.duration(seconds)}</div>'
    )


def _named(study: str, place: int) -> Markup:
    from nanolab.report.canvas import COLOURS

    return Markup(f'<b style="color:{COLOURS[place % len(COLOURS)]}">{cards.escape(study)}</b>')


def _link(runs: dict[str, RunRecord]) -> Markup:
    run = max(runs.values(), key=lambda run: run.start)  # reused steps point to earlier executions
    return records.run_link(run.tags.get("mlflow.parentRunId", run.id))


def _when(runs: dict[str, RunRecord]) -> str:
    return time.strftime(
        "%Y-%m-%d %H:%M",
        time.localtime(max((run.end or run.start) for run in runs.values()) / 1000),
    )
