"""One problem's Metropolis-Hastings chain, step by step, from the records that a power evaluation keeps of every chain.

A step is shown as a difference: the kept part, then what was redrawn against what stood there. Tool calls are blue, outputs orange.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from IPython.display import HTML, Image, Markdown

from nanolab import tracking
from nanolab.report import cards, records
from nanolab.report.cards import Markup
from nanolab.report.markdown import METHOD_LABELS
from nanolab.report.view import coloured, mark, shown
from nanolab.schema import UserError

Record = dict[str, Any]
MENTIONED = 8  # problems of each kind that are named as worth a look
PRE = "white-space:pre-wrap;margin:0;padding:2px 8px;font-size:13px;line-height:1.45"


@dataclass(frozen=True)
class Chain:
    """One chain of a power evaluation; `life` is its line of chains.jsonl, `problem` its line of problems.jsonl."""

    run_id: str
    study: str
    step: str
    problem: Record
    life: Record
    others: dict[str, list[int]]  # what became of the answer -> problems

    def question(self) -> HTML:
        """The question, what the chain made of its answer, and which other problems are worth a look."""
        # the plain sample is the first state of the first chain, if the chain has one block; no other first state was graded
        graded = self.life["chain"] == 0 and len(last_steps(self.life)) == len(self.life["steps"])
        before = (
            [("first state", _verdict(self.problem["methods"]["plain"]["passed"]))]
            if graded
            else []
        )
        facts = [
            ("problem", str(self.life["index"])),
            ("expected", str(self.life["expected"] or "tests that pass")),
            *before,
            ("last state", _verdict(self.life["passed"])),
            ("steps", str(len(last_steps(self.life)))),
            ("accepted", str(sum(one["accepted"] for one in last_steps(self.life)))),
            ("moved", str(sum(one["moved"] for one in last_steps(self.life)))),
        ]
        worth = (
            "; ".join(
                f"{kind}: {', '.join(map(str, found[:MENTIONED]))}{', …' if len(found) > MENTIONED else ''}"
                for kind, found in self.others.items()
                if found
            )
            or "no answer changed between right and wrong"
        )
        return HTML(
            f'<div style="{cards.FONT}"><b style="font-size:15px">{cards.escape(self.study)} · {cards.escape(self.step)}</b> '
            f'<span style="font-size:12px">{records.run_link(self.run_id)}</span>'
            f'<pre style="{PRE};padding-left:0">{cards.escape(self.life["question"])}</pre>{cards.tiles(facts)}'
            f'<div style="font-size:12px">{cards.muted("Problems worth a look (parameter problem): " + worth)}</div></div>'
        )

    def figure(self) -> Image:
        """log p of the state after every step (nats), and of each whole proposal, accepted or not."""
        return shown(log_p_figure(self.life))

    def steps(self) -> HTML:
        """Every step: where it was cut, what was redrawn, log p before and after, the ratio and the decision."""
        states, state = self.life["log_p_by_step"], self.life["first"]
        pieces = [
            _block(
                "first state, drawn from the proposal",
                f"log p {states[0]:.2f}",
                [("", state, "")],
                cards.GREY,
            )
        ]
        for number, (one, log_p) in enumerate(zip(last_steps(self.life), states), 1):
            pieces.append(_step(number, one, state, log_p))
            if one["accepted"]:
                state = one["kept"] + one["proposal"]
        answer = "no answer" if self.life["answer"] is None else f"answer {self.life['answer']}"
        ending = answer if self.life["expected"] is not None else "the tests were run"
        pieces.append(
            _block(
                f"last state: {_verdict(self.life['passed'])}",
                f"{ending} · log p {states[-1]:.2f}",
                [("", state, "")],
                cards.GREEN if self.life["passed"] else cards.RED,
            )
        )
        return HTML("".join(pieces))

    def answers(self) -> HTML:
        """What the other methods answered to the same question, and what each cost."""
        rows = [
            [
                "power sampling" if name == "power" else METHOD_LABELS.get(name, name),
                mark(found["passed"]),
                (found["answer"] or "–") if self.life["expected"] is not None else "",
                Markup(
                    f'<div style="white-space:pre-wrap">{coloured(found.get("text", ""))}</div>'
                ),
                cards.number(found["positions"]),
                cards.number(found.get("log_p")),
            ]
            for name, found in self.problem["methods"].items()
        ]
        return HTML(
            cards.table(["method", "", "answer", "text", "positions", "log p"], rows, left=4)
        )


@dataclass(frozen=True)
class Nothing:
    """Stands for a chain where there is none yet: it says once what to run, and shows nothing else."""

    why: str

    def question(self) -> Markdown:
        """The line that says what to run first."""
        return Markdown(self.why)

    def figure(self) -> None:
        """Nothing to draw."""

    def steps(self) -> None:
        """No steps."""

    def answers(self) -> None:
        """No answers."""


def find(
    study: str, step: str = "power_eval", problem: int | None = None, chain: int = 0
) -> Chain | Nothing:
    """The chain of a problem in the newest finished run of a step; without a number the first that goes from wrong to right,
    else the first that moves most. Raises UserError for a problem or chain that was not run, and for records of an older version.
    """
    if not records.store_exists():
        return Nothing(records.NOTHING)
    runs = tracking.search(study, f"tags.step = '{step}' and attributes.status = 'FINISHED'")
    if not runs:
        return Nothing(
            f"Study `{study}` has no finished step `{step}` in this store. Run [07_power_eval.ipynb](07_power_eval.ipynb) "
            "first, or name another study in `experiment`" + _have(step)
        )
    names = ("problems.jsonl", "chains.jsonl")
    having = set(names) <= set(tracking.artifact_names(runs[0].id))
    problems, lives = (_lines(runs[0].id, name) if having else [] for name in names)
    if not having or not all("kept" in one for life in lives for one in life["steps"]):
        raise UserError(
            f"the newest finished {step} of {study} is of an older version, which kept no chains or not the text of their "
            f"steps: run it again, python -m nanolab run {study} --only {step} --fresh"
        )
    others = notable(problems, lives)
    number = problem if problem is not None else interesting(lives, others)
    found = [life for life in lives if (life["index"], life["chain"]) == (number, chain)]
    if not found:
        raise UserError(
            f"problem {number}, chain {chain} was not run: {step} has problems 0 to {len(problems) - 1}, "
            f"chains 0 to {max(life['chain'] for life in lives)}"
        )
    return Chain(runs[0].id, study, step, problems[number], found[0], others)


def notable(problems: list[Record], lives: list[Record]) -> dict[str, list[int]]:
    """Which problems' first chains went from wrong to right, and from right to wrong, seen from the plain sample (with one block they
    began with it)."""
    kinds: dict[str, list[int]] = {"wrong to right": [], "right to wrong": []}
    for life in lives:
        before = problems[life["index"]]["methods"]["plain"]["passed"]
        if life["chain"] == 0 and before != life["passed"]:
            kinds["wrong to right" if life["passed"] else "right to wrong"].append(life["index"])
    return kinds


def interesting(lives: list[Record], others: dict[str, list[int]]) -> int:
    """The first problem that goes from wrong to right, else the first whose chain moves most."""
    if others["wrong to right"]:
        return others["wrong to right"][0]
    return max(
        lives, key=lambda life: (sum(one["moved"] for one in life["steps"]), -life["index"])
    )["index"]


def last_steps(life: Record) -> list[Record]:
    """The steps of the last block, whose target is p^alpha itself."""
    count = len(life["log_p_by_step"]) - 1
    return life["steps"][len(life["steps"]) - count :]


def log_p_figure(life: Record) -> Any:
    """The state's log p by step as a line, each proposal beside it; one given up early has no whole log p: it is marked at the bottom."""
    from matplotlib.ticker import MaxNLocator

    from nanolab.report import canvas

    figure, (axis,) = canvas.new_figure(height=2.5)
    states, steps = life["log_p_by_step"], last_steps(life)
    axis.plot(
        range(len(states)),
        states,
        color=canvas.BLUE,
        linewidth=1.6,
        marker="o",
        markersize=4,
        label="state",
        zorder=3,
    )
    for accepted, colour, marker, label in (
        (True, canvas.GREEN, "P", "accepted"),
        (False, canvas.RED, "X", "rejected"),
    ):
        own = [
            (i, one["log_p"])
            for i, one in enumerate(steps, 1)
            if one["accepted"] == accepted and not one["early_rejected"]
        ]
        if own:
            axis.plot(
                *zip(*own),
                color=colour,
                marker=marker,
                linestyle="none",
                markersize=7,
                label=label,
                zorder=2,
                alpha=0.8,
            )
    given_up = [i for i, one in enumerate(steps, 1) if one["early_rejected"]]
    if given_up:
        axis.plot(
            given_up,
            [0.04] * len(given_up),
            color=canvas.RED,
            marker="x",
            linestyle="none",
            markersize=5,
            label="given up early",
            transform=axis.get_xaxis_transform(),
        )
    axis.set_xlabel("Metropolis-Hastings step")
    axis.set_ylabel("log p, nats")
    axis.xaxis.set_major_locator(MaxNLocator(11, integer=True))
    axis.legend(
        fontsize=8,
        frameon=False,
        ncol=4,
        loc="lower center",
        bbox_to_anchor=(0.45, 0.98),
        handlelength=1.2,
        columnspacing=0.9,
    )
    return figure


# ---- the parts of a step


def _step(number: int, one: Record, state: str, log_p: float) -> str:
    ratio = (
        "−∞"
        if one["log_ratio"] is None
        else f"{'at most ' if one['early_rejected'] else ''}{one['log_ratio']:+.2f}"
    )
    facts = f"{one['cut']} of {one['of']} tokens kept · log p {log_p:.2f} → "
    facts += (
        f"{one['log_p']:.2f} when it was given up"
        if one["early_rejected"]
        else f"{one['log_p']:.2f}"
    )
    facts += f" · log ratio {ratio}, log u {one['log_u']:.2f}"
    if one["accepted"] and not one["moved"]:
        return _block(f"step {number}: the same text again", facts, [], cards.GREY)
    title, colour = (
        (f"step {number}: accepted", cards.GREEN)
        if one["accepted"]
        else (f"step {number}: rejected", cards.RED)
    )
    old = state[len(one["kept"]) :] if state.startswith(one["kept"]) else state
    new = one["proposal"] + (" …" if one["early_rejected"] else "")
    parts = [
        ("", one["kept"], f"color:{cards.GREY}"),
        ("−" if one["accepted"] else "=", old, "opacity:.75"),
        (
            "+" if one["accepted"] else "✗",
            new,
            f"border-left:3px solid {colour};background:rgba(128,128,128,.10)",
        ),
    ]
    return _block(title, facts, parts, colour)


def _block(title: str, facts: str, parts: list[tuple[str, str, str]], colour: str) -> str:
    """A titled block; each part is (sign, text, style) and begins on a line of its own."""
    before = parts[0][1] if len(parts) > 1 else ""
    body = "".join(
        f'<div style="display:flex"><div style="width:16px;color:{colour}"><b>{sign}</b></div>'
        f'<pre style="{PRE};{style}">{coloured(text, before if place else "")}</pre></div>'
        for place, (sign, text, style) in enumerate(parts)
        if text
    )
    return (
        f'<div style="{cards.FONT};border-left:3px solid {colour};padding:2px 12px;margin:10px 0">'
        f'<div>{cards.pill(title, colour)} <span style="font-size:12px">{cards.muted(facts)}</span></div>{body}</div>'
    )


def _verdict(right: bool) -> str:
    return "right" if right else "wrong"


def _have(step: str) -> str:
    found = [
        study
        for study in records.studies()
        if tracking.search(study, f"tags.step = '{step}' and attributes.status = 'FINISHED'")
    ]
    return f" (with that step: {', '.join(f'`{study}`' for study in found)})." if found else "."


def _lines(run_id: str, name: str) -> list[Record]:
    return [json.loads(line) for line in tracking.artifact(run_id, name).read_text().splitlines()]
