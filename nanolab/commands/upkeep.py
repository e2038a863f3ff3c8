"""`doctor`: checks this machine, this install and this store, and says what to do; `clean`: what
takes the disk in mlruns/, and its removal, after it was shown.
"""

import argparse
import dataclasses
import json
import sys


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `doctor`."""
    parser.add_argument("--network", action="store_true", help="also try to reach the hub")
    text = "one JSON object a check: name, state, found, fix"
    parser.add_argument("--json", action="store_true", help=text)


def doctor(given: argparse.Namespace) -> int:
    """Prints a line for each check; 1 when one of them is a problem."""
    from nanolab.pipeline import doctor
    from nanolab.terminal import plain

    live = plain.is_live(sys.stdout)
    status = 0
    for check in doctor.examine(given.network):
        status |= check.state == "problem"
        line = f"{check.name:10} {check.found}"
        if given.json:
            print(json.dumps(dataclasses.asdict(check), ensure_ascii=False), flush=True)
        elif live:
            sign = plain.sign(check.state, word=False)
            fix = f"\n{'':13}→ {check.fix}" if check.fix else ""
            plain.console().print(sign.append(f" {line}", "default").append(fix))
        else:
            print(f"{check.state:8} {line}" + (f"; {check.fix}" if check.fix else ""), flush=True)
    return int(status)


def clean_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `clean`."""
    add = parser.add_argument
    text = "look at this study only; may be repeated"
    add("--study", action="append", default=[], metavar="NAME", help=text)
    text = "keep what the N latest finished executions need (1)"
    add("--keep-latest", type=int, default=1, metavar="N", help=text)
    text = "remove only what was not changed for so long"
    add("--older-than", type=float, default=0.0, metavar="DAYS", help=text)
    flag = {"action": "store_true"}
    add("--unfinished", help="also remove attempts that a run would go on from", **flag)
    add("--downloads", help="also remove hub files and compiled kernels", **flag)
    add("--everything", help="with --study: also what its latest results need", **flag)
    text = "remove it, if what was shown as PLAN is still what would be removed"
    add("--yes", metavar="PLAN", help=text)
    add("--json", action="store_true", help="the plan as one JSON object")


def clean(given: argparse.Namespace) -> int:
    """Shows what would be removed, or removes it."""
    from nanolab.pipeline import clean
    from nanolab.terminal import plain
    from nanolab.wording import size

    names = [field.name for field in dataclasses.fields(clean.Choice) if field.name != "studies"]
    choice = clean.Choice(tuple(given.study), **{name: getattr(given, name) for name in names})
    removes = given.yes is not None
    items = clean.remove(choice, given.yes) if removes else clean.survey(choice)
    gone = [item for item in items if item.removable]
    total = sum(item.size for item in gone)
    plan = clean.plan_id(items)
    if given.json:
        rows = [vars(item) for item in items]
        facts = {"plan": plan, "removed": removes, "bytes": total, "items": rows}
        print(json.dumps(facts, default=str))
        return 0
    rows = [
        [
            "removable" if item.removable else "kept",
            size(item.size),
            plain.short_path(item.path),
            item.why,
        ]
        for item in items
    ]
    plain.Table(("state", "size", "folder", "why"), rows, ("size",)).show()
    if removes:
        print(f"removed {len(gone)} folders, {size(total)}")
    elif gone:
        share = f"{size(total)} of {size(sum(item.size for item in items))}"
        print(
            f"\nplan {plan}: {len(gone)} folders, {share} would be removed, nothing was; the same"
            f" command with --yes {plan} removes them"
        )
    else:
        print("\nnothing to remove: --help names what else can be chosen")
    return 0
