"""Commands and background processes, each with a deadline.

Nothing here waits for ever: a command that does not end in time is killed and reported, a process that
does not stop is killed. Commands that touch a mount always run as children, so a mount that hangs
cannot hang this program.
"""

import os
import select
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cpu import process_clock

# Output is parsed here and there, and sorting by locale would be timed.
ENVIRONMENT = {"LC_ALL": "C", "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}


class Failure(Exception):
    """Something could not be done. The text says what, in one line."""


class Done(NamedTuple):
    """A command that succeeded."""

    seconds: float
    output: str
    errors: str


def run(command, timeout=60):
    """Runs a command and gives its standard output."""
    return timed(command, timeout).output


def timed(command, timeout):
    """Runs a command and measures how long that takes, its start included.

    Raises Failure when it fails or is not done after `timeout` seconds.
    """
    command = [str(part) for part in command]
    with memory_file() as out, memory_file() as err:
        began = time.perf_counter()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **ENVIRONMENT},
            start_new_session=True,
        )
        try:
            ended = wait(child, timeout)
            seconds = time.perf_counter() - began
        finally:
            kill_group(child)
        if not ended:
            raise Failure(f"not done after {timeout:g} s: {shown(command)}")
        errors = content(err)
        if child.returncode != 0:
            raise Failure(f"{shown(command)}: {last_line(errors) or status(child)}")
        return Done(seconds, content(out), errors)


def wait(child, timeout):
    """Waits for a child and says whether it ended. Popen.wait would look only every 50 ms."""
    watched = os.pidfd_open(child.pid)
    try:
        poll = select.poll()
        poll.register(watched, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return False
    finally:
        os.close(watched)
    child.wait()
    return True


def kill_group(child):
    """Kills whatever is left of a child and its own children."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    if child.poll() is None:
        try:
            child.wait(10)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"process {child.pid} cannot be killed") from error


@contextmanager
def memory_file():
    with os.fdopen(os.memfd_create("output"), "w+b") as file:
        yield file


def content(file):
    file.seek(0)
    return file.read().decode(errors="replace")


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def status(child):
    return f"exit status {child.returncode}"


def shown(command):
    text = " ".join(str(part) for part in command)
    return text if len(text) <= 160 else text[:157] + "..."


class Daemon:
    """A background process in a session of its own, which ends with this program at the latest."""

    def __init__(self, command, log, environment=None):
        self.command = [str(part) for part in command]
        self.log = log
        with open(log, "ab") as output:
            # Should this program be killed outright, the kernel ends its daemons.
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **ENVIRONMENT, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self):
        return self.child.pid

    def check(self):
        """Raises Failure if it is no longer running."""
        if self.child.poll() is not None:
            with open(self.log, errors="replace") as log:
                why = f"{status(self.child)} {last_line(log.read())}".strip()
            raise Failure(f"{shown(self.command)} ended: {why}")

    def stop(self):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.terminate()
            wait(self.child, 10)
        kill_group(self.child)

    def cpu_seconds(self):
        """CPU time so far, of all its threads."""
        return process_clock(self.pid)

    def switches(self):
        """How often each of its threads has been switched away from so far, by thread."""
        counts = {}
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(OSError):
                lines = (thread / "status").read_text().splitlines()
                counts[thread.name] = sum(
                    int(line.split()[1]) for line in lines if "_switches" in line
                )
        return counts

    def bytes_written(self):
        """To disks so far."""
        with open(f"/proc/{self.pid}/io") as file:
            return int(dict(line.split(": ") for line in file)["write_bytes"])

    def has_work(self):
        """Whether any of its threads runs, wants to, or waits for a disk at this moment."""
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            with suppress(OSError):
                if (thread / "stat").read_text().rpartition(")")[2].split()[0] in "RD":
                    return True
        return False

    def memory(self, field):
        """A line of /proc/PID/status such as VmRSS or VmHWM, in bytes."""
        with open(f"/proc/{self.pid}/status") as file:
            for line in file:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
        raise Failure(f"no {field} of process {self.pid}")

    def settle(self, timeout=60):
        """Waits until it has nothing left to do from its start, such as looking through its share."""
        deadline = time.monotonic() + timeout
        before = self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.25)
            self.check()
            after = self.cpu_seconds()
            if after - before <= 0.02:
                return
            before = after
        raise Failure(f"still busy {timeout} s after its start: {shown(self.command)}")

    def finish(self, timeout):
        """Waits until it has done what it does at a low priority, such as hashing its share.

        It may get hardly any CPU for that, so it counts as done once it has looked idle for three
        seconds, at every look. Gives the moment since when.
        """
        deadline = time.monotonic() + timeout
        since, used = time.monotonic(), self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(0.1)
            self.check()
            if self.has_work() or self.cpu_seconds() - used > 0.03:
                since, used = time.monotonic(), self.cpu_seconds()
            elif time.monotonic() - since > 3:
                return since
        raise Failure(f"still at work after {timeout:.0f} s: {shown(self.command)}")


@contextmanager
def running(command, log, environment=None):
    """A Daemon for the length of a `with` block."""
    daemon = Daemon(command, log, environment)
    try:
        yield daemon
    finally:
        daemon.stop()


def eventually(what, check, timeout=30, daemons=()):
    """Polls until `check()` gives something true, and gives that. Failure if a daemon ends meanwhile."""
    deadline = time.monotonic() + timeout
    while True:
        found = check()
        if found:
            return found
        for daemon in daemons:
            daemon.check()
        if time.monotonic() > deadline:
            raise Failure(f"not within {timeout} s: {what}")
        time.sleep(0.02)


def succeeds(command, timeout=20):
    """Whether a command ends with status 0."""
    try:
        run(command, timeout)
    except Failure:
        return False
    return True


def is_listening(address, inside=()):
    """Whether a process listens at that `host:port`, in the network that the prefix `inside` enters."""
    return bool(run([*inside, "ss", "-Hltn", f"src {address}"]).strip())


def mountpoints():
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file]


def is_mounted(directory):
    return str(directory) in mountpoints()


@contextmanager
def mounted(command, mountpoint, ready, log, environment=None, timeout=30):
    """A foreground mount command for the length of a `with` block.

    `ready` is a path below the mountpoint; the block begins once it can be looked up.
    """
    mountpoint.mkdir()
    try:
        with running(command, log, environment) as daemon:
            try:
                there = lambda: is_mounted(mountpoint) and succeeds(["stat", mountpoint / ready])
                eventually(f"{ready} in the mount of {command[0]}", there, timeout, [daemon])
                yield daemon
            except Failure:
                # If the daemon is gone, that is the cause, and not what came of it.
                daemon.check()
                raise
            finally:
                unmount(mountpoint)
    finally:
        unmount(mountpoint)
        mountpoint.rmdir()


def unmount(directory):
    """Unmounts, lazily if busy. Nothing if it is not mounted."""
    if is_mounted(directory) and not succeeds(["umount", directory]) and is_mounted(directory):
        succeeds(["umount", "-l", directory])


def unmount_below(directory):
    """Unmounts whatever is mounted anywhere in a directory; a deeper mount comes first."""
    for mountpoint in reversed(mountpoints()):
        if mountpoint.startswith(f"{directory}/"):
            unmount(mountpoint)
