"""CPU time: of everything that this program starts, of the machine's kernel threads, and of others.

A cgroup (version 2) counts it exactly, of processes that have ended and of short ones, too. This program
moves into a cgroup of its own, so that all of its children are born there. Where that is not allowed, the
clocks of the processes below this one are added up.

Kernel threads belong to nobody: what they do for a contender, such as writing back what it has written, is
in no figure of it. It is told apart from what other processes took.
"""

import os
import resource
import signal
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

PREFIX = "tinyp2p-bench-"

# The parent of all kernel threads.
KTHREADD = 2


class Used(NamedTuple):
    """CPU seconds."""

    user: float
    system: float

    @property
    def total(self):
        return self.user + self.system

    def __sub__(self, other):
        return Used(self.user - other.user, self.system - other.system)

    def __add__(self, other):
        return Used(self.user + other.user, self.system + other.system)


def used_here():
    """What this program has used itself."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return Used(usage.ru_utime, usage.ru_stime)


class Group:
    """Counts by the cgroup that this program is in."""

    how = "a cgroup (cpu.stat)"

    def __init__(self, path):
        self.path = path

    def used(self):
        """By this program and everything that it has started, ended or not."""
        lines = (self.path / "cpu.stat").read_text().splitlines()
        fields = dict(line.split() for line in lines)
        return Used(int(fields["user_usec"]) / 1e6, int(fields["system_usec"]) / 1e6)


class Tree:
    """Counts by adding up processes. What had a parent that ended before it is not found."""

    how = "the clocks of processes, added up (no cgroup could be made)"

    def used(self):
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = used_here() + Used(ended.ru_utime, ended.ru_stime)
        for pid in descendants(os.getpid()):
            with suppress(OSError):
                total += used_by_process(pid)
        return total


def descendants(root):
    """The processes below one, in no order."""
    children = {}
    for pid in process_ids():
        with suppress(OSError):
            children.setdefault(int(stat_fields(pid)[1]), []).append(pid)
    found, unseen = [], list(children.get(root, []))
    while unseen:
        pid = unseen.pop()
        found.append(pid)
        unseen += children.get(pid, [])
    return found


def used_by_process(pid):
    """By all threads of a process, ended ones too, and by its children that have ended."""
    fields = stat_fields(pid)
    user, system, ended_user, ended_system = (
        int(text) / TICKS_PER_SECOND for text in fields[11:15]
    )
    exact = process_clock(pid)
    # The clock is exact and does not tell user from system; the ticks do.
    ticks = user + system
    of_system = exact * system / ticks if ticks else 0
    return Used(exact - of_system + ended_user, of_system + ended_system)


def process_clock(pid):
    """CPU seconds of all threads of a process, to the nanosecond. OSError if there is no such process."""
    # What clock_getcpuclockid(3) makes of a process id.
    return time.clock_gettime((~pid << 3) | 2)


def process_ids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def stat_fields(pid):
    """The fields of /proc/PID/stat after the name: the state first, then the parent."""
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()


class Machine(NamedTuple):
    """The whole machine at one moment. All in seconds."""

    moment: float
    idle: float
    kernel: float


def machine():
    moment = time.monotonic()
    with open("/proc/stat") as file:
        fields = file.readline().split()
    # The fourth is idle, the fifth idle while a disk works.
    idle = (int(fields[4]) + int(fields[5])) / TICKS_PER_SECOND
    return Machine(moment, idle, used_by_kernel_threads())


def used_by_kernel_threads():
    nanoseconds = 0
    for pid in process_ids():
        with suppress(OSError):
            if int(stat_fields(pid)[1]) == KTHREADD:
                with open(f"/proc/{pid}/schedstat") as file:
                    nanoseconds += int(file.read().split()[0])
    return nanoseconds / 1e9


def taken_by_others(before, after, own, cores):
    """CPU seconds between two `Machine`s that neither `own` nor kernel threads account for.

    What the hypervisor gave to other machines is among them.
    """
    busy = cores * (after.moment - before.moment) - (after.idle - before.idle)
    return max(0, busy - own - (after.kernel - before.kernel))


@contextmanager
def counter():
    """A Group for the length of a `with` block, or a Tree.

    At its end, whatever was started within and still runs is killed.
    """
    mount = cgroup_mount()
    home = mount and mount / own_cgroup()
    group = mount and mount / f"{PREFIX}{os.getpid()}"
    try:
        if group is None:
            raise OSError("no cgroup of version 2 is mounted")
        remove_left(mount)
        group.mkdir()
        enter(group)
    except OSError:
        yield Tree()
        return
    try:
        yield Group(group)
    finally:
        enter(home)
        remove(group)


def cgroup_mount():
    with open("/proc/self/mountinfo") as file:
        for line in file:
            fields, _, kind = line.partition(" - ")
            if kind.startswith("cgroup2 "):
                return Path(fields.split()[4])
    return None


def own_cgroup():
    """Relative to the mount."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return next(line[len("0::/") :] for line in lines if line.startswith("0::/"))


def enter(group):
    (group / "cgroup.procs").write_text(str(os.getpid()))


def remove_left(mount):
    """Ends what a run that was killed has left."""
    for group in mount.glob(f"{PREFIX}*"):
        if not Path("/proc", group.name.removeprefix(PREFIX)).exists():
            remove(group)


def remove(group, patience=10):
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        for pid in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.02)
