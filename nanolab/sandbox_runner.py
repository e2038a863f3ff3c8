"""What the sandbox's own process runs: it confines itself, forks, runs a program in the child and checks it from the parent.

The two halves share no memory after the fork, so nothing that the program does to its own interpreter reaches the tests: they see
plain data alone (numbers, text, lists, tuples, sets, dictionaries), rebuilt from JSON. This file's code is handed to a bare
interpreter (`python -I -S -c`), which cannot import nanolab: it uses the standard library only and imports at need, to start fast.

argv[1] holds the settings as JSON (`sandbox.run_python`); standard input is a file of this code, the program, and the check as JSON,
which only the parent reads.
"""

import json
import os
import sys

# System calls that the filter refuses: (x86-64, aarch64) numbers, None where there is none.
# New processes and threads, other processes, sockets, namespaces and mounts, memory outside of the limits, ways around the filter.
REFUSED = [
    (57, None),
    (58, None),
    (56, 220),
    (435, 435),
    (59, 221),
    (322, 281),  # fork vfork clone clone3 execve execveat
    (101, 117),
    (310, 270),
    (311, 271),
    (62, 129),
    (200, 130),
    (234, 131),  # ptrace process_vm_readv/_writev kill tkill tgkill
    (129, 138),
    (297, 240),
    (434, 434),
    (424, 424),
    (438, 438),
    (440, 440),  # rt_(tg)sigqueueinfo pidfd_open/_send_signal/_getfd madvise
    (302, 261),
    (141, 140),
    (203, 122),
    (144, 119),
    (142, 118),
    (314, 274),  # prlimit setpriority sched_setaffinity/scheduler/param/attr
    (251, 30),
    (256, 238),
    (279, 239),
    (112, 157),
    (109, 154),  # ioprio_set migrate_pages move_pages setsid setpgid
    (41, 198),
    (53, 199),
    (42, 203),
    (49, 200),  # socket socketpair connect bind
    (272, 97),
    (308, 268),
    (165, 40),
    (166, 39),
    (155, 41),
    (161, 51),  # unshare setns mount umount2 pivot_root chroot
    (428, 428),
    (429, 429),
    (430, 430),
    (432, 432),
    (442, 442),  # open_tree move_mount fsopen fsmount mount_setattr
    (321, 280),
    (298, 241),
    (323, 282),
    (425, 425),
    (248, 217),
    (249, 218),
    (250, 219),  # bpf perf_event_open userfaultfd io_uring keys
    (29, 194),
    (68, 186),
    (64, 190),
    (240, 180),
]  # shmget msgget semget mq_open
# Modes, owners, times and attributes of files: chmod fchmod* chown* utime* *xattr.
REFUSED += [
    (90, None),
    (268, 53),
    (452, 452),
    (91, 52),
    (92, None),
    (94, None),
    (93, 55),
    (260, 54),
    (132, None),
    (235, None),
    (261, None),
    (280, 88),
    (188, 5),
    (189, 6),
    (190, 7),
    (197, 14),
    (198, 15),
    (199, 16),
    (463, 463),
    (466, 466),
    (469, 469),
]
# What changes files; refused where the program has no folder of its own to write in. `open` for writing is refused by its flags.
WRITES = [
    (76, 45),
    (82, None),
    (264, 38),
    (316, 276),
    (83, None),
    (258, 34),
    (84, None),
    (86, None),
    (265, 37),
    (87, None),
    (263, 35),
    (88, None),
    (266, 36),
    (133, None),
    (259, 33),
    (85, None),
    (437, 437),
]  # truncate rename* mkdir* rmdir *link* mknod* creat openat2
OPENS = (
    ((2, 1), (257, 2)),
    ((56, 2),),
)  # the number of open (openat) and the place of its flags among the arguments
WRITE_FLAGS = 0x3 | 0x40 | 0x200  # O_WRONLY O_RDWR, O_CREAT, O_TRUNC
BROKEN = 97  # exit status: this level of confinement does not work here
REPLY_BYTES = 1 << 20


def filter_calls(call, writes_allowed):
    """Refuse system calls with EPERM, for good (seccomp: a BPF program that the kernel runs at each call)."""
    import ctypes

    machine = ["x86_64", "aarch64"].index(os.uname().machine)
    numbers = [
        pair[machine]
        for pair in REFUSED + ([] if writes_allowed else WRITES)
        if pair[machine] is not None
    ]
    opens = () if writes_allowed else OPENS[machine]

    def step(code, yes, no, value):
        return code | yes << 16 | no << 24 | value << 32

    total = 4 + len(numbers) + 3 * len(opens) + 2
    deny = total - 1
    steps = [
        step(0x20, 0, 0, 4),
        step(
            0x15, 0, deny - 2, (0xC000003E, 0xC00000B7)[machine]
        ),  # another architecture's numbers
        step(0x20, 0, 0, 0),
        step(0x35, deny - 4, 0, 0x40000000),
    ]  # x86-64's second set of numbers
    for number in numbers:
        steps.append(step(0x15, deny - len(steps) - 1, 0, number))
    for i, (number, place) in enumerate(opens):
        steps.append(step(0x15, 0, 2 if i + 1 < len(opens) else deny - len(steps) - 2, number))
        steps.append(step(0x20, 0, 0, 16 + 8 * place))
        steps.append(step(0x45, deny - len(steps) - 1, deny - len(steps) - 2, WRITE_FLAGS))
    steps += [step(6, 0, 0, 0x7FFF0000), step(6, 0, 0, 0x00050001)]
    filters = (ctypes.c_uint64 * total)(*steps)
    program = (ctypes.c_uint64 * 2)(total, ctypes.addressof(filters))
    if call.prctl(38, 1, 0, 0, 0) or call.prctl(22, 2, program, 0, 0):
        os._exit(BROKEN)


def lock_files(call, readable, writable):
    """Leave only files beneath these folders open, and no TCP, for good (landlock; what it covers grows with the kernel's version)."""
    import ctypes

    version = call.syscall(444, None, 0, 1)  # landlock_create_ruleset, asked for its version
    if version < 1:
        os._exit(BROKEN)
    handled = 0x1FFF | (0x2000 if version >= 2 else 0) | (0x4000 if version >= 3 else 0)
    attributes = (ctypes.c_uint64 * 3)(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    rules = call.syscall(444, attributes, 24 if version >= 6 else 16 if version >= 4 else 8, 0)
    for folder, access in [
        *((folder, 12) for folder in readable),
        *((folder, handled) for folder in writable),
    ]:  # 12: read, list
        rule = (ctypes.c_uint32 * 4)(access, 0, os.open(folder, os.O_PATH), 0)
        if call.syscall(445, rules, 1, rule, 0):
            os._exit(BROKEN)
    if (
        rules < 0 or call.prctl(38, 1, 0, 0, 0) or call.syscall(446, rules, 0)
    ):  # no new privileges; restrict self
        os._exit(BROKEN)


def confine(settings):
    """Mounts, files, limits, user and capabilities; returns the C library where the system is Linux."""
    import resource

    call = None
    if sys.platform == "linux":
        import ctypes

        call = ctypes.CDLL(None, use_errno=True)
    if settings["own_mounts"]:
        read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
        if call.syscall(
            442, -100, b"/", 0x8000, read_only, 32
        ):  # mount_setattr, of every mount below /
            os._exit(BROKEN)
        if call.mount(
            b"none", b"/tmp", b"tmpfs", 6, b"size=16m,nr_inodes=1k,mode=777"
        ):  # 6: no set-user-id, no devices
            os._exit(BROKEN)
        os.chdir("/tmp")
    if settings["landlock"]:
        lock_files(call, settings["folders"], ["/tmp"] if settings["private_tmp"] else [])
    limits = {
        "CPU": settings["cpu_seconds"],
        "AS": settings["memory_bytes"],
        "FSIZE": settings["file_bytes"],
        "NOFILE": 64,
        "CORE": 0,
    }
    for limit, value in limits.items():
        if not (limit == "AS" and sys.platform == "darwin"):
            resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (value, value))
    if settings["drop_user"]:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        call.prctl(1, 9, 0, 0, 0)  # a change of user clears the death signal that unshare set
    if call is not None:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        if call.prctl(38, 1, 0, 0, 0) or call.capset(
            header, none
        ):  # no new privileges, no capabilities
            os._exit(BROKEN)
    return call


def plain(value):
    """`value` as JSON keeps it: what JSON has no word for becomes {"kind": ...}. Raises TypeError for what is not data.

    A subclass of a plain type becomes that type, so that a result cannot bring its own idea of equality.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, str):
        return (
            {"text": [ord(c) for c in str.__str__(value)]}
            if any("\ud800" <= c <= "\udfff" for c in value)
            else str.__str__(value)
        )
    if isinstance(value, list):
        return [plain(item) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"tuple": [plain(item) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[plain(key), plain(item)] for key, item in dict.items(value)]}
    if isinstance(value, (set, type({}.keys()))):
        return {"set": [plain(item) for item in value]}
    if isinstance(value, frozenset):
        return {"frozenset": [plain(item) for item in value]}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, (bytes, bytearray)):
        return {"bytes" if isinstance(value, bytes) else "bytearray": list(value)}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if hasattr(value, "__next__") or isinstance(value, type({}.values())):
        return {"iterator": [plain(item) for item in value]}
    raise TypeError(f"a value of type {type(value).__name__} is not plain data")


def rebuilt(value):
    """The inverse of `plain`."""
    if isinstance(value, list):
        return [rebuilt(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "float":
        return float.fromhex(items)
    if kind == "text":
        return "".join(map(chr, items))
    if kind == "dict":
        return {rebuilt(key): rebuilt(item) for key, item in items}
    if kind == "complex":
        return complex(float.fromhex(items[0]), float.fromhex(items[1]))
    if kind == "range":
        return range(*items)
    make = {
        "tuple": tuple,
        "set": set,
        "frozenset": frozenset,
        "bytes": bytes,
        "bytearray": bytearray,
        "iterator": iter,
    }[kind]
    return make([rebuilt(item) for item in items])


def described(error):
    """An exception in a few words: "exit N", "memory", "output" (too much of it) or "Type: message"."""
    if isinstance(error, SystemExit):
        return "exit " + str(
            0 if error.code is None else error.code if isinstance(error.code, int) else 1
        )
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno == 27:
        return "output"
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:  # its own __str__ failed
        return type(error).__name__


def serve(source, entry_point, requests, replies):
    """The child: run the program, then answer calls of its function until nobody asks any more. Never returns."""

    def reply(what):
        text = memoryview(json.dumps(what).encode() + b"\n")
        while text:
            text = text[os.write(replies, text) :]

    def flush():
        """What was printed goes out before the reply, after which the process may be ended at any time."""
        for stream in (sys.stdout, sys.stderr):
            try:  # noqa: SIM105 (an import may no longer work here)
                stream.flush()
            except (
                BaseException
            ):  # the program's own stream, closed or full: its error is already known
                pass

    name = (
        "program" if entry_point else "__main__"
    )  # what a function's file does as a script is not run
    module = type(sys)(name)
    sys.modules[name] = module
    sys.argv = ["program"]
    try:
        exec(compile(source, "program", "exec"), module.__dict__)
        sys.stdout.flush()
        sys.stderr.flush()
        function = module.__dict__[entry_point] if entry_point else None
    except BaseException as error:
        flush()
        reply({"failed": described(error)})
        os._exit(0)
    reply({"ready": True})
    for line in os.fdopen(requests):
        try:
            before = json.loads(line)
            arguments = [rebuilt(item) for item in before[0]]
            value = plain(
                function(*arguments, **{name: rebuilt(item) for name, item in before[1].items()})
            )
            after = [plain(item) for item in arguments]
            sys.stdout.flush()
            reply({"value": value, "arguments": None if after == before[0] else after})
        except BaseException as error:
            flush()
            ordinary = isinstance(error, Exception) and described(error) not in ("memory", "output")
            reply({"raised" if ordinary else "failed": described(error)})
    os._exit(0)


class Ended(BaseException):
    """The program has failed for good: its error is the verdict. Not an Exception: no test is to catch it."""


class Program:
    """The parent's end of the child: what it says, and its function as the tests call it."""

    def __init__(self, child, requests, replies):
        self.child, self.requests, self.replies = child, requests, os.fdopen(replies, "rb")

    def heard(self):
        """The next reply; raises Ended when there is none, or none that can be read."""
        line = self.replies.readline(REPLY_BYTES)
        if not line.endswith(b"\n"):
            if len(line) == REPLY_BYTES:
                raise Ended("output")
            status = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
            self.child = None  # its number may be another's now
            raise Ended(f"signal {-status}" if status < 0 else f"exit {status}")
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            raise Ended("a broken reply") from None
        if not isinstance(said, dict) or "failed" in said:
            raise Ended(str(said["failed"])[:200] if isinstance(said, dict) else "a broken reply")
        return said

    def __call__(self, *arguments, **named):
        """The function's value, called in the child; a list, set or dictionary that it changed is changed here too."""
        import builtins

        text = json.dumps(
            [
                [plain(item) for item in arguments],
                {name: plain(item) for name, item in named.items()},
            ]
        )
        try:
            asked = memoryview(text.encode() + b"\n")
            while asked:
                asked = asked[os.write(self.requests, asked) :]
        except BrokenPipeError:
            pass  # the child is gone: `heard` finds out how it ended
        said = self.heard()
        if "raised" in said:
            name, _, message = str(said["raised"]).partition(": ")
            kind = getattr(builtins, name, None)
            kind = (
                kind
                if isinstance(kind, type) and issubclass(kind, Exception)
                else type(name, (Exception,), {})
            )
            error = kind.__new__(kind)
            error.args = (message,)
            raise error
        try:
            value, changed = rebuilt(said["value"]), said["arguments"]
            for mine, theirs in zip(arguments, rebuilt(changed or [])):
                if isinstance(mine, list) and isinstance(theirs, list):
                    mine[:] = theirs
                elif isinstance(mine, (set, dict)) and type(mine) is type(theirs):
                    mine.clear()
                    mine.update(theirs)
        except (KeyError, ValueError, TypeError, RecursionError, OverflowError):
            raise Ended("a broken reply") from None
        return value


def judge(program, check):
    """The parent: None when the program ran to its end and its function passes the tests, else why not."""
    try:
        program.heard()
        if check["test"]:
            names = {"__name__": "__main__"}
            exec(compile(check["context"], "context", "exec"), names)
            names[check["entry_point"]] = program
            exec(compile(check["test"], "test", "exec"), names)
            names["check"](program)
    except Ended as ended:
        return ended.args[0]
    except BaseException as error:
        return described(error)
    return None


def after_fork(call, settings):
    """What either half may still do: no more processes, and none of the refused system calls."""
    import resource

    resource.setrlimit(resource.RLIMIT_NPROC, (settings["processes"], settings["processes"]))
    if settings["seccomp"]:
        filter_calls(call, settings["private_tmp"])


def main():
    """Confines this process, runs the program in a second one and its tests here."""
    settings, null = json.loads(sys.argv[1]), os.open("/dev/null", os.O_RDWR)
    start, end = settings["start"], settings["start"] + settings["program_bytes"]
    source = os.pread(0, end - start, start)
    call = confine(settings)
    if call is not None:
        call.prctl(4, 0, 0, 0, 0)  # no process of the same user reads the parent's memory
    ask, answer = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(null, 0)
        for handle in (settings["verdict"], ask[1], answer[0], null):
            os.close(handle)
        try:
            after_fork(call, settings)
            serve(source, settings["entry_point"], ask[0], answer[1])
        finally:
            os._exit(
                1
            )  # whatever the program did to the runner's own means, the child never goes on from here
    for handle in (ask[0], answer[1]):
        os.close(handle)
    after_fork(call, settings)
    check = json.loads(os.pread(0, os.fstat(0).st_size - end, end))
    program = Program(child, ask[1], answer[0])
    error = judge(program, check)
    os.write(
        settings["verdict"],
        (check["word"] if error is None else "!" + error).encode("utf-8", "replace"),
    )
    if not settings["seccomp"] and program.child is not None:
        os.kill(program.child, 9)
    os._exit(0)


if __name__ == "__main__":
    main()
