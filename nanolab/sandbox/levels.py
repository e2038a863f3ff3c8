"""How far a machine lets a program be confined, and what each level does not hold."""

import functools
import os
import shutil
import sys
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Level:
    """A way to confine a program: a command that starts Python, and what the runner does first."""

    name: str
    prefix: tuple[str, ...] = ()
    # a file system of its own, read-only but for a private /tmp (bubblewrap)
    own_system: bool = False
    own_spaces: bool = False  # no network, and a process tree that ends as a whole
    # the runner makes every mount read-only and mounts a private /tmp of 16 MB
    own_mounts: bool = False
    drop_user: bool = False  # root becomes nobody
    landlock: bool = False  # no file but Python's own and what lies in a private /tmp
    # no new process or thread, no socket, no signal, and no changed file where there is no private
    # /tmp
    seccomp: bool = False

    def __str__(self) -> str:
        more = {"nobody": self.drop_user, "landlock": self.landlock, "seccomp": self.seccomp}
        return "+".join([self.name, *(name for name, is_used in more.items() if is_used)])

    def private_tmp(self) -> bool:
        """Whether the program may write, in a /tmp that nobody else sees."""
        return self.own_system or self.own_mounts

    def settings(self) -> dict[str, Any]:
        """What the runner is told."""
        names = ("own_mounts", "drop_user", "landlock", "seccomp")
        return {"private_tmp": self.private_tmp(), **{name: getattr(self, name) for name in names}}

    def gaps(self) -> tuple[str, ...]:
        """What a program can still do, in words."""
        held = {
            "read this user's files": self.own_system or self.landlock,
            "change this user's files": self.private_tmp() or self.landlock or self.seccomp,
            "change the modes and times of this user's files": self.private_tmp() or self.seccomp,
            "reach the network": self.own_spaces or self.seccomp,
            "start processes that outlive it": self.own_spaces or self.seccomp,
            "start many processes": self.seccomp or not is_root() or self.drop_user,
        }
        return tuple(gap for gap, is_held in held.items() if not is_held)


def is_root() -> bool:
    """Whether this process runs as root, whom the limit on processes does not bind."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


@functools.cache
def python_folders() -> tuple[str, ...]:
    """The folders that Python itself needs to read."""
    folders = [sys.base_prefix, "/usr", "/lib", "/lib64"]
    found = [os.path.realpath(folder) for folder in folders if os.path.isdir(folder)]
    return tuple(dict.fromkeys(found))


def levels() -> list[Level]:
    """Every level that this machine might have, strongest first; whether one works is found out by
    running a program.
    """
    starts: list[Level] = []
    if bwrap := shutil.which("bwrap"):
        starts.append(Level("bwrap", _bwrap(bwrap), own_system=True, own_spaces=True))
    if unshare := shutil.which("unshare"):
        flags = ["--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child=KILL"]
        command = (unshare, "--user", "--map-root-user", *flags)
        userns = Level("userns", command, own_spaces=True, own_mounts=True)
        if is_root():
            root = {"name": "namespaces", "prefix": (unshare, *flags), "drop_user": True}
            starts.append(replace(userns, **root))
        starts.append(userns)
    if is_root():
        starts.append(Level("rlimit", drop_user=True))
    starts.append(Level("rlimit"))
    if sys.platform != "linux":
        return starts
    return [
        replace(start, landlock=landlock, seccomp=seccomp)
        for start in starts
        for seccomp in (True, False)
        for landlock in (True, False)
    ]


def _bwrap(program: str) -> tuple[str, ...]:
    flags = "--unshare-all --die-with-parent --new-session --cap-drop ALL --clearenv"
    command = [program, *flags.split()]
    for folder in python_folders():
        command += ["--ro-bind", folder, folder]
    for link in ("/lib", "/lib64", "/bin"):
        if os.path.islink(link):
            command += ["--symlink", os.readlink(link), link]
    command += [
        "--proc",
        "/proc",
        "--dev",
        "/dev",
        "--size",
        "16777216",
        "--tmpfs",
        "/tmp",
        "--chdir",
        "/tmp",
    ]
    # both are file systems in memory, of no limited size
    return (*command, *["--remount-ro", "/dev", "--remount-ro", "/"])
