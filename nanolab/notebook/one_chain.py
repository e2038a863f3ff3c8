"""One problem's Metropolis-Hastings chain from the records of a power evaluation, each step as a
difference: the kept part, then what was redrawn against what stood there.
"""

from dataclasses import dataclass
from typing import Any

from IPython.display import HTML, Image, Markdown

from nanolab import files
from nanolab.errors import UserError
from nanolab.notebook import cards, records
from nanolab.notebook.cards import number
from nanolab.notebook.stage_results import image
from nanolab.plan import parameters
from nanolab.plan.parameters import ChainParameters
from nanolab.tracking import run_reader

Record = dict[str, Any]


@dataclass(frozen=True)
class Chain:
    """One chain of a power evaluation: its lines of chains.jsonl (`life`) and problems.jsonl."""

    run_id: str
    study: str
    step: str
    problem: Record
    life: Record
    others: dict[str, list[int]]  # what became of the answer -> problems

    def question(self) -> HTML:
        """The question, what became of it, and which other problems are worth a look."""
        steps, run = last_steps(self.life), records.run_link(self.run_id)
        return HTML(cards.html("one_chain").question(self, steps, run))

    def figure(self) -> Image:
        """log p of the state after every step (nats), and of each whole proposal."""
        return image(log_p_figure(self.life))

    def steps(self) -> HTML:
        """Every step: where it was cut, what was redrawn, and the decision."""
        state, moves = self.life["first"], []
        for one, log_p in zip(last_steps(self.life), self.life["log_p_by_step"]):
            moves.append((one, state, log_p))
            if one["accepted"]:
                state = one["kept"] + one["proposal"]
        return HTML(cards.html("one_chain").steps(self.life, moves, state))

    def answers(self) -> HTML:
        """What the other methods answered, and what each cost."""
        rows = [
            [
                cards.METHODS.get(name, name),
                cards.html().mark(found["passed"]),
                (found["answer"] or "–") if self.life["expected"] is not None else "",
                cards.html("one_chain").answer(cards.coloured(found.get("text", ""))),
                number(found["positions"]),
                number(found.get("log_p")),
            ]
            for name, found in self.problem["methods"].items()
        ]
        header = ["method", "", "answer", "text", "positions", "log p"]
        return HTML(cards.html().table(header, rows, left=4))


@dataclass(frozen=True)
class Nothing:
    """Stands for a chain where there is none yet."""

    why: str

    def question(self) -> Markdown:
        """The question, what became of it, and which other problems are worth a look."""
        return Markdown(self.why)

    def figure(self) -> None:
        """There is nothing to show."""

    steps = answers = figure


def find(
    study: str, step: str = "power_eval", problem: int | None = None, chain: int = 0
) -> Chain | Nothing:
    """The chain of a problem in the newest finished run of a step; without a number the first that
    goes from wrong to right, else the first that moves most. Raises UserError for one that was not
    run, and for records of an older version.
    """
    given = {"experiment": study, "step": step, "problem": problem, "chain": chain}
    parameters.check(ChainParameters, given)
    if not records.store_exists():
        return Nothing(records.NOTHING)
    runs = records.finished(study, step)
    if not runs:
        having = [f"`{name}`" for name in records.studies() if records.finished(name, step)]
        return Nothing(
            f"Study `{study}` has no finished step `{step}` in this store. Run"
            " [07_power_eval.ipynb](07_power_eval.ipynb) first, or name in `experiment` a study"
            f" that has it: {', '.join(having) or 'none does'}."
        )
    problems, lives = (_lines(runs[0].id, name) for name in ("problems.jsonl", "chains.jsonl"))
    if not lives or not all("kept" in one for life in lives for one in life["steps"]):
        raise UserError(
            f"the newest finished {step} of {study} is of an older version, without chains or not"
            " the text of their steps: run it again, python scripts/run_all.py"
            f" {study} --only {step} --fresh"
        )
    others = notable(problems, lives)
    index = problem if problem is not None else interesting(lives, others)
    for life in lives:
        if (life["index"], life["chain"]) == (index, chain):
            return Chain(runs[0].id, study, step, problems[index], life, others)
    raise UserError(
        f"problem {index}, chain {chain} was not run: {step} has problems 0 to {len(problems) - 1},"
        f" chains 0 to {max(life['chain'] for life in lives)}"
    )


def _lines(run_id: str, name: str) -> list[Record]:
    if name not in run_reader.artifact_names(run_id):
        return []
    return files.read_json_lines(run_reader.artifact(run_id, name))


def notable(problems: list[Record], lives: list[Record]) -> dict[str, list[int]]:
    """Problems that a first chain took from wrong (in the plain sample) to right, and back."""
    kinds: dict[str, list[int]] = {"wrong to right": [], "right to wrong": []}
    for life in lives:
        before = problems[life["index"]]["methods"]["plain"]["passed"]
        if life["chain"] == 0 and before != life["passed"]:
            kinds["wrong to right" if life["passed"] else "right to wrong"].append(life["index"])
    return kinds


def interesting(lives: list[Record], others: dict[str, list[int]]) -> int:
    """The first problem that goes from wrong to right, else the first whose chain moves most."""
    moves = {life["index"]: sum(one["moved"] for one in life["steps"]) for life in reversed(lives)}
    best = max(moves, key=lambda index: (moves[index], -index))
    return next(iter(others["wrong to right"]), best)


def last_steps(life: Record) -> list[Record]:
    """The steps of the last block, whose target is p^alpha itself."""
    first = len(life["steps"]) - (len(life["log_p_by_step"]) - 1)
    return life["steps"][first:]


def log_p_figure(life: Record) -> Any:
    """log p by step and of each proposal; one given up early is marked at the bottom."""
    from nanolab.figures import style

    figure, (axis,) = style.new_figure(height=2.5)
    line = {"color": style.BLUE, "linewidth": 1.6, "marker": "o", "markersize": 4, "zorder": 3}
    axis.plot(life["log_p_by_step"], label="state", **line)
    marks: dict[str, list[tuple[int, float]]] = {}
    for place, one in enumerate(last_steps(life), 1):
        kind = "accepted" if one["accepted"] else "rejected"
        if one["early_rejected"]:
            marks.setdefault("given up early", []).append((place, 0.04))
        else:
            marks.setdefault(kind, []).append((place, one["log_p"]))
    bottom = {"transform": axis.get_xaxis_transform(), "markersize": 5}
    looks = {
        "accepted": {"color": style.GREEN, "marker": "P", "markersize": 7, "alpha": 0.8},
        "rejected": {"color": style.RED, "marker": "X", "markersize": 7, "alpha": 0.8},
        "given up early": {"color": style.RED, "marker": "x", **bottom},
    }
    for kind, look in looks.items():
        if kind in marks:
            axis.plot(*zip(*marks[kind]), label=kind, linestyle="none", zorder=2, **look)
    axis.set_xlabel("Metropolis-Hastings step")
    axis.set_ylabel("log p, nats")
    style.integer_ticks(axis, most=11, steps=None)
    style.legend_above(axis, 4, (0.45, 0.98), handlelength=1.2, columnspacing=0.9)
    return figure
