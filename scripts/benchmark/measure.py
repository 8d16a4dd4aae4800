"""What one turn of a contender took: time, CPU of all its processes, and what others took meanwhile."""

import os
import time
from dataclasses import dataclass

import cpu
from machine import GIB
from processes import timed

# A turn in which others took more than that part of a core is not a quiet one. The machine's own
# counters are read in steps of 10 ms a core, so a short turn is allowed some of those.
OTHERS = 0.05
OTHERS_SECONDS = 0.03

# How long the processes of a contender may still work after its turn, for instance on writing what it
# has read to its cache, and how little CPU in how many seconds says that they do not.
TAIL = 2
STEP = 0.1
IDLE = 0.002


@dataclass(frozen=True)
class Work:
    """What was measured between the start and the end of a command, or of several.

    CPU is that of all processes that this program has started, without its own: contenders take turns,
    so it is that of the contender whose turn it is. All figures are seconds.
    """

    seconds: float
    user: float
    system: float
    others: float
    kernel: float
    output: str = ""
    errors: str = ""

    @property
    def cpu(self):
        return self.user + self.system

    def __add__(self, other):
        return Work(
            self.seconds + other.seconds,
            self.user + other.user,
            self.system + other.system,
            self.others + other.others,
            self.kernel + other.kernel,
        )


@dataclass(frozen=True)
class Figure:
    """The result of a turn: a figure in the unit of its row, what it cost, and how quiet it was.

    `cpu` is in the row's unit of CPU; None where it is not counted. `others` and `kernel` say how many
    cores other processes and kernel threads took.
    """

    value: float
    cpu: float | None = None
    others: float | None = None
    kernel: float | None = None
    is_quiet: bool = True


def figure(value, cpu_figure, work):
    return Figure(
        value=value,
        cpu=cpu_figure,
        others=work.others / work.seconds,
        kernel=work.kernel / work.seconds,
        is_quiet=work.others <= OTHERS * work.seconds + OTHERS_SECONDS,
    )


def rate(work, size):
    """MB/s, and CPU seconds for a GiB."""
    return figure(size / 1e6 / work.seconds, work.cpu / (size / GIB), work)


def duration(work, count):
    """Seconds, and CPU microseconds for each of `count` things."""
    return figure(work.seconds, work.cpu / count * 1e6, work)


class Meter:
    """Runs commands and measures them."""

    def __init__(self, counter):
        self.counter = counter
        self.cores = os.cpu_count()

    def timed(self, command, timeout, has_tail=True):
        """Runs a command; gives its Work.

        With `has_tail`, the CPU figure (not the time) includes what its processes still do after it, for
        at most two seconds. Raises Failure like `processes.timed`.
        """
        machine, used, here = cpu.machine(), self.counter.used(), cpu.used_here()
        done = timed(command, timeout)
        machine_after, used_after = cpu.machine(), self.counter.used()
        own = (used_after - used).total
        others = cpu.taken_by_others(machine, machine_after, own, self.cores)
        total = (self.settled() if has_tail else self.of_children()) - (used - here)
        return Work(
            seconds=done.seconds,
            user=max(0, total.user),
            system=max(0, total.system),
            others=others,
            kernel=machine_after.kernel - machine.kernel,
            output=done.output,
            errors=done.errors,
        )

    def of_children(self):
        return self.counter.used() - cpu.used_here()

    def settled(self):
        """What the children have used, once they use hardly any more."""
        deadline = time.monotonic() + TAIL
        before = self.of_children()
        while time.monotonic() < deadline:
            time.sleep(STEP)
            after = self.of_children()
            if (after - before).total < IDLE:
                return after
            before = after
        return before
