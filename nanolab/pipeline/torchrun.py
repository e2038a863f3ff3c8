"""torchrun, which ends with the first failure (failures.py) instead of a table of processes:
`python -m nanolab.pipeline.torchrun OPTIONS -m nanolab stage job.json`.
"""

import signal
import sys
from argparse import Namespace
from pathlib import Path

from torch.distributed import DistError, run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.elastic.rendezvous import RendezvousError

from nanolab.pipeline.failures import first_failure, note
from nanolab.pipeline.launch import MISTAKE

AT_ONCE = 10.0  # seconds from the first failure; a process that ends later was ended by torchrun


def main(arguments: list[str]) -> int:
    """Runs the processes of a stage; returns 0, 1 for a failure, 2 for a person's mistake."""
    options = run.parse_args(arguments)
    try:
        run.run(options)
    except ChildFailedError as error:
        return _explain(Path(arguments[-1]).absolute().parent, error.failures, options)
    except SignalException as error:  # it was asked to end, and has ended its processes
        return 128 + error.sigval
    except (DistError, RendezvousError) as error:
        if int(options.nnodes) == 1:
            raise
        print(
            f"error: the {options.nnodes} machines did not find each other at"
            f" {options.master_addr}:{options.master_port} ({str(error).splitlines()[0]}): start"
            " the same command on each of them within 10 minutes, each with its own"
            " launch.node_rank, and with launch.rdzv_endpoint an address of machine 0 that all of"
            " them reach",
            file=sys.stderr,
            flush=True,
        )
        return MISTAKE
    return 0


def _explain(folder: Path, ended: dict[int, ProcessFailure], options: Namespace) -> int:
    """Prints why a step failed whose processes `ended` (by rank); returns the exit status."""
    machines = int(options.nnodes)
    processes = int(options.nproc_per_node) * machines
    facts = {"processes": processes, "machine": options.node_rank if machines > 1 else None}
    begun = min(failure.timestamp for failure in ended.values())
    for rank, failure in ended.items():
        by_signal = failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM
        if by_signal and failure.timestamp - begun < AT_ONCE:
            note(folder, "", rank, signal=-failure.exitcode, **facts)
    found = first_failure(folder)
    if found is None:
        rank, failure = min(ended.items(), key=lambda item: item[1].timestamp)
        code = failure.exitcode
        note(folder, f"exit status {code}", rank, signal=max(0, -code), **facts)
        found = first_failure(folder)
    if found is None:  # a full disk has no room for it
        return MISTAKE if any(one.exitcode == MISTAKE for one in ended.values()) else 1
    print(f"{'error: ' if found.mistake else ''}{found.reason}", file=sys.stderr, flush=True)
    return MISTAKE if found.mistake else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
