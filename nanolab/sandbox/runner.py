"""What the sandbox's own process runs: it confines itself, forks, runs a program in the child and
checks it from the parent.

The halves share no memory, so nothing that the program does to its own interpreter reaches the
tests: they see plain data alone, rebuilt from JSON. One file, because a bare interpreter
(`python -I -S -c`) gets its code and cannot import nanolab; it imports at need, to start fast.

argv[1] holds the settings as JSON (`programs.run_python`); standard input is a file of this code,
the program, and the check as JSON, which only the parent reads.
"""

import json
import os
import sys

# System calls that the filter refuses: name, number on x86-64, on aarch64 (- where there is none).
REFUSED = """
fork 57 - vfork 58 - clone 56 220 clone3 435 435 execve 59 221 execveat 322 281
ptrace 101 117 process_vm_readv 310 270 process_vm_writev 311 271
kill 62 129 tkill 200 130 tgkill 234 131 rt_sigqueueinfo 129 138 rt_tgsigqueueinfo 297 240
pidfd_open 434 434 pidfd_send_signal 424 424 pidfd_getfd 438 438 process_madvise 440 440
prlimit64 302 261 setpriority 141 140 ioprio_set 251 30
sched_setaffinity 203 122 sched_setscheduler 144 119 sched_setparam 142 118 sched_setattr 314 274
migrate_pages 256 238 move_pages 279 239 setsid 112 157 setpgid 109 154
socket 41 198 socketpair 53 199 connect 42 203 bind 49 200
unshare 272 97 setns 308 268 mount 165 40 umount2 166 39 pivot_root 155 41 chroot 161 51
open_tree 428 428 move_mount 429 429 fsopen 430 430 fsmount 432 432 mount_setattr 442 442
bpf 321 280 perf_event_open 298 241 userfaultfd 323 282 io_uring_setup 425 425
add_key 248 217 request_key 249 218 keyctl 250 219
shmget 29 194 msgget 68 186 semget 64 190 mq_open 240 180
chmod 90 - fchmodat 268 53 fchmodat2 452 452 fchmod 91 52
chown 92 - lchown 94 - fchown 93 55 fchownat 260 54
utime 132 - utimes 235 - futimesat 261 - utimensat 280 88
setxattr 188 5 lsetxattr 189 6 fsetxattr 190 7 setxattrat 463 463 file_setattr 469 469
removexattr 197 14 lremovexattr 198 15 fremovexattr 199 16 removexattrat 466 466
"""
# What changes files, in the same form; refused where the program has no folder of its own to write
# in. `open` for writing is refused by its flags.
WRITES = """
truncate 76 45 rename 82 - renameat 264 38 renameat2 316 276 creat 85 - openat2 437 437
mkdir 83 - mkdirat 258 34 rmdir 84 - unlink 87 - unlinkat 263 35 mknod 133 - mknodat 259 33
link 86 - linkat 265 37 symlink 88 - symlinkat 266 36
"""
# the number of open (openat) and the place of its flags among the arguments, on each machine
OPENS = ((2, 1), (257, 2)), ((56, 2),)
WRITE_FLAGS = 0x3 | 0x40 | 0x200  # O_WRONLY O_RDWR, O_CREAT, O_TRUNC
LOAD, IF_EQUAL, IF_AT_LEAST, IF_SET, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # BPF instructions
NO_NEW_PRIVILEGES = 38, 1, 0, 0, 0  # for prctl
BROKEN = 97  # exit status: this level of confinement does not work here
REPLY_BYTES = 1 << 20


def filter_calls(call, writes_allowed):
    """Refuse system calls with EPERM, for good, by seccomp: a BPF program run at each call."""
    import ctypes

    machine = ["x86_64", "aarch64"].index(os.uname().machine)
    columns = (REFUSED if writes_allowed else REFUSED + WRITES).split()
    numbers = [int(number) for number in columns[1 + machine :: 3] if number != "-"]
    opens = () if writes_allowed else OPENS[machine]
    deny = 4 + len(numbers) + 3 * len(opens) + 1  # the last step; the one before it allows
    steps = []

    def step(code, value, yes=0, no=0):
        """Adds an instruction; a comparison goes on at step `yes` or `no`, 0 for the next one."""
        yes, no = (target - len(steps) - 1 if target else 0 for target in (yes, no))
        steps.append(code | yes << 16 | no << 24 | value << 32)

    step(LOAD, 4)
    step(IF_EQUAL, (0xC000003E, 0xC00000B7)[machine], no=deny)  # another architecture's numbers
    step(LOAD, 0)
    step(IF_AT_LEAST, 0x40000000, yes=deny)  # x86-64's second set of numbers
    for number in numbers:
        step(IF_EQUAL, number, yes=deny)
    for number, place in opens:
        after = len(steps) + 3
        step(IF_EQUAL, number, no=after)
        step(LOAD, 16 + 8 * place)
        step(IF_SET, WRITE_FLAGS, yes=deny, no=deny - 1)
    step(RETURN, 0x7FFF0000)
    step(RETURN, 0x00050001)
    filters = (ctypes.c_uint64 * len(steps))(*steps)
    program = (ctypes.c_uint64 * 2)(len(steps), ctypes.addressof(filters))
    require(call.prctl(*NO_NEW_PRIVILEGES) == 0 and call.prctl(22, 2, program, 0, 0) == 0)


def require(works):
    """Ends the process where a means of this level does not work."""
    if not works:
        os._exit(BROKEN)


def lock_files(call, readable, writable):
    """Leave only files beneath these folders open, and no TCP, for good, by landlock."""
    import ctypes

    version = call.syscall(444, None, 0, 1)  # landlock_create_ruleset, asked for its version
    require(version >= 1)
    handled = 0x1FFF | (0x2000 if version >= 2 else 0) | (0x4000 if version >= 3 else 0)
    attributes = (ctypes.c_uint64 * 3)(handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 * (1 + (version >= 4) + (version >= 6))
    rules = call.syscall(444, attributes, size, 0)
    granted = [(folder, 12) for folder in readable]  # 12: read, list
    granted += [(folder, handled) for folder in writable]
    for folder, access in granted:
        rule = (ctypes.c_uint32 * 4)(access, 0, os.open(folder, os.O_PATH), 0)
        require(call.syscall(445, rules, 1, rule, 0) == 0)
    require(rules >= 0 and call.prctl(*NO_NEW_PRIVILEGES) == 0 and call.syscall(446, rules, 0) == 0)


def confine(settings):
    """Mounts, files, limits, user and capabilities; returns Linux's C library."""
    import resource

    call = None
    if sys.platform == "linux":
        import ctypes

        call = ctypes.CDLL(None, use_errno=True)
    if settings["own_mounts"]:
        read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
        # mount_setattr, of every mount below /; 6: no set-user-id, no devices
        require(call.syscall(442, -100, b"/", 0x8000, read_only, 32) == 0)
        options = b"size=16m,nr_inodes=1k,mode=777"
        require(call.mount(b"none", b"/tmp", b"tmpfs", 6, options) == 0)
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
        require(call.prctl(*NO_NEW_PRIVILEGES) == 0 and call.capset(header, none) == 0)
    return call


def plain(value):
    """`value` as JSON keeps it: what JSON has no word for becomes {"kind": ...}. A subclass of a
    plain type becomes that type: a result cannot bring its own idea of equality.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, str):
        text = str.__str__(value)
        broken = any("\ud800" <= c <= "\udfff" for c in value)  # half a pair: no UTF-8
        return {"text": [ord(c) for c in text]} if broken else text
    if isinstance(value, list):
        return [plain(item) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[plain(key), plain(item)] for key, item in dict.items(value)]}
    if isinstance(value, complex):
        return {"complex": [value.real.hex(), value.imag.hex()]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if hasattr(value, "__next__") or isinstance(value, type({}.values())):
        return {"iterator": [plain(item) for item in value]}
    for kind, (maker, accepted) in COLLECTIONS.items():
        if isinstance(value, accepted):
            items = maker.__iter__(value) if isinstance(value, maker) else value
            return {kind: [plain(item) for item in items]}
    raise TypeError(f"a value of type {type(value).__name__} is not plain data")


REBUILT = {
    "float": float.fromhex,
    "text": lambda codes: "".join(map(chr, codes)),
    "complex": lambda parts: complex(*map(float.fromhex, parts)),
    "range": lambda bounds: range(*bounds),
    "iterator": lambda items: iter(rebuilt(items)),
    "dict": lambda pairs: {rebuilt(key): rebuilt(item) for key, item in pairs},
}
COLLECTIONS = {  # kind: what it becomes again, and what is written so
    "tuple": (tuple, tuple),
    "set": (set, (set, type({}.keys()))),
    "frozenset": (frozenset, frozenset),
    "bytes": (bytes, bytes),
    "bytearray": (bytearray, bytearray),
}


def rebuilt(value):
    """The inverse of `plain`."""
    if isinstance(value, list):
        return [rebuilt(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    return REBUILT[kind](items) if kind in REBUILT else COLLECTIONS[kind][0](rebuilt(items))


def described(error):
    """An exception in a few words, as `programs.PythonResult` says."""
    if isinstance(error, SystemExit):
        code = 0 if error.code is None else error.code
        return f"exit {code if isinstance(code, int) else 1}"
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno == 27:
        return "output"
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:  # its own __str__ failed
        return type(error).__name__


def write_line(handle, value):
    """A value as a line of JSON, all of it."""
    text = memoryview(json.dumps(value).encode() + b"\n")
    while text:
        text = text[os.write(handle, text) :]


def serve(source, entry_point, requests, replies):
    """The child: run the program, then answer calls of its function. Never returns."""

    def fail(kind, error):
        """What was printed goes out first: after a reply the process may be ended at any time."""
        for stream in (sys.stdout, sys.stderr):
            try:  # noqa: SIM105 (an import may no longer work here)
                stream.flush()
            except BaseException:  # the program's own stream: its error is already known
                pass
        write_line(replies, {kind: described(error)})

    name = "program" if entry_point else "__main__"  # a function's file is not run as a script
    module = type(sys)(name)
    sys.modules[name] = module
    sys.argv = ["program"]
    try:
        exec(compile(source, "program", "exec"), module.__dict__)
        sys.stdout.flush()
        sys.stderr.flush()
        function = module.__dict__[entry_point] if entry_point else None
    except BaseException as error:
        fail("failed", error)
        os._exit(0)
    write_line(replies, {"ready": True})
    for line in os.fdopen(requests):
        try:
            before, named = json.loads(line)
            arguments = [rebuilt(item) for item in before]
            named = {name: rebuilt(item) for name, item in named.items()}
            value = plain(function(*arguments, **named))
            after = [plain(item) for item in arguments]
            sys.stdout.flush()
            after = None if after == before else after
            write_line(replies, {"value": value, "arguments": after})
        except BaseException as error:
            ordinary = isinstance(error, Exception) and described(error) not in ("memory", "output")
            fail("raised" if ordinary else "failed", error)
    os._exit(0)


class Ended(BaseException):
    """The program's error is the verdict. Not an Exception: no test is to catch it."""


class Program:
    """The parent's end of the child: what it says, and its function as the tests call it."""

    def __init__(self, child, requests, replies):
        self.child, self.requests, self.replies = child, requests, os.fdopen(replies, "rb")

    def next_reply(self):
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
        """The function's value, called in the child; what it changed is changed here too."""
        import builtins

        named = {name: plain(item) for name, item in named.items()}
        asked = [plain(item) for item in arguments], named
        try:  # noqa: SIM105 (contextlib takes time to import)
            write_line(self.requests, asked)
        except BrokenPipeError:
            pass  # the child is gone: `next_reply` finds out how it ended
        said = self.next_reply()
        if "raised" in said:
            name, _, message = str(said["raised"]).partition(": ")
            kind = getattr(builtins, name, None)
            if not (isinstance(kind, type) and issubclass(kind, Exception)):
                kind = type(name, (Exception,), {})
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
    """The parent: why the program fails its tests, None when it passes."""
    try:
        program.next_reply()
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
            os._exit(1)  # whatever the program did to the runner, the child never goes on
    for handle in (ask[0], answer[1]):
        os.close(handle)
    after_fork(call, settings)
    check = json.loads(os.pread(0, os.fstat(0).st_size - end, end))
    program = Program(child, ask[1], answer[0])
    error = judge(program, check)
    verdict = check["word"] if error is None else "!" + error
    os.write(settings["verdict"], verdict.encode("utf-8", "replace"))
    if not settings["seccomp"] and program.child is not None:
        os.kill(program.child, 9)
    os._exit(0)


if __name__ == "__main__":
    main()
