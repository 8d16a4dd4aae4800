"""Where the files of a run lie.

Sample files are kept between runs, in `--data`: a million of them take a while to make. Everything else
(mountpoints, keys, states, caches, logs) is in a directory of this run beside them, on the same disk,
and a tmpfs; both are removed at the end. Only one run at a time uses a data directory; if one was
killed, the next removes what it has left.
"""

import fcntl
import itertools
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from measure import Meter
from processes import Failure, run, unmount_below

PASSWORD = "violet-anchor-teapot-quartz"


@dataclass
class Space:
    """One run's places and programs."""

    data: Path
    work: Path
    programs: Path
    quick: bool
    meter: Meter
    numbers: itertools.count = field(default_factory=itertools.count)

    @property
    def tmpfs(self):
        return self.work / "tmpfs"

    @property
    def password(self):
        """How the programs are told the network's password."""
        return f"@{self.work / 'password'}"

    def path(self, name):
        """A path in this run's directory that nothing has used before."""
        return self.work / f"{next(self.numbers)}-{name}"

    def directory(self, name):
        path = self.path(name)
        path.mkdir()
        return path

    def timed(self, command, timeout, has_tail=True):
        """Runs a command as the work of a contender; gives its Work."""
        return self.meter.timed(command, timeout, has_tail)

    def size(self, full, quick):
        """The size of something in a proper run and in one for development."""
        return quick if self.quick else full


@contextmanager
def space(data, programs, quick, meter):
    """A Space for the length of a `with` block."""
    data.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open(data / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failure(f"another run uses {data}; two would disturb one another") from error
        for left in data.glob("run-*"):
            remove(left)
        yield from own_space(data, programs, quick, meter)


def own_space(data, programs, quick, meter):
    work = Path(tempfile.mkdtemp(prefix="run-", dir=data))
    made = Space(data, work, programs, quick, meter)
    try:
        made.tmpfs.mkdir()
        run(["mount", "-t", "tmpfs", "-o", "size=4G,mode=700", "tinyp2p-bench", made.tmpfs])
        secret = work / "password"
        secret.touch(0o600)
        secret.write_text(PASSWORD + "\n")
        yield made
    finally:
        remove(work)


def remove(work):
    unmount_below(work)
    shutil.rmtree(work, ignore_errors=True)
