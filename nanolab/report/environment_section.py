"""The report's section on what a study ran on: code, machine, versions."""

from typing import Any

from nanolab.report.blocks import Block, Item, Part
from nanolab.wording import decimals, or_dash

Values = dict[str, Any]
EXECUTION = (  # stands where a step is named, for what was recorded of the execution itself
    "execution"
)


def parts(environment: Values) -> list[Block]:
    """Git, hardware, software and the size of the code."""
    git, hardware, software = environment["git"], environment["hardware"], environment["software"]
    commit = (
        "-"
        if git.get("commit") is None
        else f"{git['commit'][:7]} ({'dirty' if git['dirty'] else 'clean'})"
    )
    machine = [
        Item("Platform", or_dash(hardware["platform"])),
        Item(
            "CPUs", f"{or_dash(hardware['cores'])} cores ({or_dash(hardware['logical'])} logical)"
        ),
        Item("Memory", f"{or_dash(hardware['memory_gb'], decimals(1))} GB"),
    ]
    if hardware.get("gpu_count"):
        machine += [
            Item("GPUs", f"{hardware['gpu_count']}x {hardware['gpu_name']}"),
            Item("GPU Memory", f"{or_dash(hardware['gpu_memory_gb'], decimals(1))} GB total"),
            Item("CUDA Version", or_dash(hardware.get("cuda"))),
        ]
        if hardware.get("hourly_rate") is not None:
            machine.append(Item("Hourly Rate", f"${float(hardware['hourly_rate']):.2f}/hour"))
    else:
        machine.append(Item("GPUs", "-" if hardware["gpu_count"] is None else "none"))
    groups = {
        "Git Information": [
            Item("Branch", or_dash(git["branch"])),
            Item("Commit", commit),
            Item("Message", or_dash(git["message"])),
        ],
        "Hardware": machine,
        "Software": [
            Item("Python", or_dash(software["python"])),
            Item("PyTorch", or_dash(software["torch"])),
        ],
        "Bloat": bloat(environment["bloat"]),
    }
    return [
        Part(heading, tuple(items), level=3, step=EXECUTION) for heading, items in groups.items()
    ]


def bloat(size: Values) -> list[Item]:
    """How much code there is."""

    def commas(value: Any) -> str:
        return f"{int(value):,}"

    return [
        Item(label, or_dash(size[key], commas))
        for label, key in (
            ("Characters", "characters"),
            ("Lines", "lines"),
            ("Files", "files"),
            ("Tokens (approx)", "tokens"),
            (f"Dependencies ({size['lock_file']} lines)", "lock_lines"),
        )
    ]
