"""The execution of notebooks with papermill."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanolab import files
from nanolab.errors import UserError
from nanolab.files import ROOT
from nanolab.pipeline import launch
from nanolab.plan import interpreter

SOCKET_PATH = 100  # bytes of a socket's path at most: Linux has room for 107, macOS for 103


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised an error; `line` says why in one line."""

    def __init__(self, text: str, line: str):
        super().__init__(text)
        self.line = line


def execute(
    notebook: Path, output: Path, values: dict[str, Any], printed: Any = sys.stdout
) -> None:
    """Executes a notebook with injected parameters; what its kernel prints is written to `printed`;
    `output` is kept whatever happens.

    Raises UserError when a cell raised one, when its kernel was killed or the disk is full,
    NotebookFailed for any other failure.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _local_kernels() as kernel:
            papermill.execute_notebook(
                *(str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output)),
                parameters=values,
                kernel_name="python3",
                progress_bar=False,
                stdout_file=printed,
                stderr_file=printed,
                cwd=str(ROOT),
                start_timeout=120,
                kernel_manager_class=kernel,
                shutdown_kernel="immediate",  # all is written by then; a polite end takes seconds
            )
    except papermill.PapermillExecutionError as error:
        if error.ename == "UserError":
            raise UserError(error.evalue) from error
        if files.is_full(error.evalue):
            raise UserError(files.full_line()) from error
        printed.write(f"{error}\n")
        raise NotebookFailed(str(error), _reason(error.ename, error.evalue)) from error
    except DeadKernelError as error:
        raise UserError(
            f"the kernel of {notebook.name} was killed, by hand or by the system (out of memory?):"
            " run the same command again, it goes on from there; with less memory at hand, lower"
            " device_batch_size and batch_rows"
        ) from error


@contextlib.contextmanager
def _local_kernels() -> Iterator[type]:
    """Gives a manager class of kernels on this interpreter, with the code of this clone, whatever
    kernel specifications this machine has; ends all of them at the end.

    They are reached over sockets in a folder of their own: they open no port, and meet no other
    study's.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    made: list[AsyncKernelManager] = []
    place = tempfile.gettempdir()
    longest = os.path.join(place, "nanolab-12345678", "0-99999")
    place = place if len(os.fsencode(longest)) <= SOCKET_PATH else "/tmp"
    with tempfile.TemporaryDirectory(prefix="nanolab-", dir=place) as folder:

        class LocalKernel(AsyncKernelManager):
            kernel_spec = KernelSpec(
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                display_name="Python 3",
                language="python",
            )

            def __init__(self, *arguments: Any, **options: Any):
                ip = f"{folder}/{len(made)}"
                options |= {"transport": "ipc", "ip": ip, "connection_file": f"{ip}.json"}
                super().__init__(*arguments, **options)
                made.append(self)

            async def start_kernel(self, **options: Any) -> None:
                options |= {"env": interpreter.environment(), "preexec_fn": launch.die_with_parent}
                await super().start_kernel(**options)

        try:
            yield LocalKernel
        finally:  # papermill forgets a kernel that an interrupt meets while it starts
            for manager in made:
                process = manager.provisioner and manager.provisioner.process
                if process:
                    process.kill()
                    process.wait()
                # else its end waits for messages that nobody reads
                manager.context.destroy(linger=0)


def _reason(name: str, text: str) -> str:
    """The line that says why a cell failed: of a stage's process the last one that it printed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if name == "StageFailed" and lines:
        first = lines[0].partition("; its last lines")[0]  # how it ended
        return first if len(lines) == 1 or "ended by signal" in first else lines[-1]
    return f"{name}: {lines[0]}" if lines else name
