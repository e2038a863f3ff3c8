"""`clean`: what takes the disk in mlruns/; removes what no latest result needs, after it was shown."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--study",
        action="append",
        default=[],
        metavar="NAME",
        help="look at this study only; may be repeated",
    )
    parser.add_argument(
        "--keep-latest",
        type=int,
        default=1,
        metavar="N",
        help="keep what the N latest finished executions need (1)",
    )
    parser.add_argument(
        "--older-than",
        type=float,
        default=0.0,
        metavar="DAYS",
        help="remove only what was not changed for so long",
    )
    parser.add_argument(
        "--unfinished", action="store_true", help="also remove attempts that a run would go on from"
    )
    parser.add_argument(
        "--downloads", action="store_true", help="also remove hub files and compiled kernels"
    )
    parser.add_argument(
        "--everything", action="store_true", help="with --study: also what its latest results need"
    )
    parser.add_argument(
        "--yes",
        metavar="PLAN",
        help="remove it, if what was shown as PLAN is still what would be removed",
    )
    parser.add_argument("--json", action="store_true", help="the plan as one JSON object")


def main(given: argparse.Namespace) -> int:
    """Shows what would be removed, or removes it."""
    import json
    import sys

    from nanolab import clean, terminal

    choice = clean.Choice(
        tuple(given.study),
        given.keep_latest,
        given.older_than,
        given.unfinished,
        given.downloads,
        given.everything,
    )
    removes = given.yes is not None
    items = clean.remove(choice, given.yes) if removes else clean.survey(choice)
    gone = [item for item in items if item.removable]
    total = sum(item.size for item in gone)
    plan = clean.plan_id(items)
    if given.json:
        rows = [{**vars(item), "path": str(item.path)} for item in items]
        print(json.dumps({"plan": plan, "removed": removes, "bytes": total, "items": rows}))
        return 0
    rows = [
        [
            "removable" if item.removable else "kept",
            size(item.size),
            terminal.shown(item.path),
            item.why,
        ]
        for item in items
    ]
    if terminal.is_live(sys.stdout):
        from nanolab.terminal_live import show, state_table

        show(state_table(["size", "folder", "why"], rows))
    else:
        for state, amount, path, why in rows:
            print(f"{state:9} {amount:>9}  {path}  ({why})")
    if removes:
        print(f"removed {len(gone)} folders, {size(total)}")
    elif gone:
        share = f"{size(total)} of {size(sum(item.size for item in items))}"
        print(
            f"\nplan {plan}: {len(gone)} folders, {share} would be removed, nothing was; the same command with --yes {plan} removes them"
        )
    else:
        print("\nnothing to remove: --help names what else can be chosen")
    return 0


def size(number: int) -> str:
    """Bytes as a person reads them."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number} B"
