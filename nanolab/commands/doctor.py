"""`doctor`: checks this machine, this install and this store, and says what to do."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--network", action="store_true", help="also try to reach the hub")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a check: name, state, found, fix"
    )


def main(given: argparse.Namespace) -> int:
    """Prints a line for each check; 1 when one of them is a problem."""
    import dataclasses
    import json
    import sys

    from nanolab import doctor, terminal

    worst = 0
    live = not given.json and terminal.is_live(sys.stdout)
    if live:
        from nanolab.terminal_live import console, symbol

        screen = console()
    for check in doctor.examine(given.network):
        worst = max(worst, int(check.state == "problem"))
        if given.json:
            print(json.dumps(dataclasses.asdict(check), ensure_ascii=False), flush=True)
        elif live:
            screen.print(
                symbol(check.state), f" {check.name:10} {check.found}", sep="", markup=False
            )
            if check.fix:
                screen.print(
                    f"{'':13}→ {check.fix}", style=terminal.STATES[check.state][1], markup=False
                )
        else:
            print(
                f"{check.state:8} {check.name:10} {check.found}{f'; {check.fix}' if check.fix else ''}",
                flush=True,
            )
    return worst
