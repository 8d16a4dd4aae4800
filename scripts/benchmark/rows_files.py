"""Surveys of shares with very many files of one byte, a thousand in a directory.

Nothing is compared here: the files are as small as can be, so that all of the cost is that of names,
hashes and bookkeeping. What a start with an empty share takes is subtracted.
"""

import shutil
import time
from contextlib import contextmanager

import data
import tinyp2p
from machine import GIB, MIB
from processes import Failure, eventually, running, timed
from survey import Metric, Survey

# Room that a file of one byte and its inode take on a disk, and what a node keeps of it; both by far.
ROOM = 4096 + 512
KEPT = 1024
SPARE = 2 * GIB

MILLION = 1_000_000
HASHING_AT_MOST = {MILLION: 50}
RESTART_AT_MOST = {MILLION: 5}
FIND_AT_MOST = {MILLION: 8}

HASHING = "first hashing"
RESTART = "restart"
FIND_MEANWHILE = "find while hashing goes on"


def take(count):
    def files(space, notes):
        check_room(space, count)
        share = data.single_bytes(space, count)
        # A file that was changed within the last minute is not hashed yet.
        wait_for_age(share, notes)
        server = tinyp2p.Server(space, share)
        start = cost_of_start(space)
        yield from first_hashing(server, count, start, notes)
        yield from later(space, server, count, start)
        yield from meanwhile(space, tinyp2p.Server(space, share), count, notes)

    return files


def check_room(space, count):
    """Two databases are kept at a time, and the files if they are not there yet."""
    needed = 2 * KEPT * count + SPARE
    if not data.has_single_bytes(space, count):
        needed += ROOM * count
    free = shutil.disk_usage(space.data).free
    if free < needed:
        raise Failure(
            f"left out: it takes {needed / GIB:.1f} GiB in {space.data}, of which {free / GIB:.1f} are free"
        )


def wait_for_age(share, notes, seconds=70):
    age = time.time() - share.stat().st_ctime
    if age < seconds:
        notes.append("the files were made for this run")
        time.sleep(seconds - age)


@contextmanager
def started(server):
    """A server as soon as it listens, with all its work before it."""
    with running(server.command(), server.home / "log", tinyp2p.environment(server.home)) as daemon:
        eventually(f"{server.name} listens", server.is_up, daemons=[daemon])
        yield daemon


def cost_of_start(space):
    """CPU seconds of a start with nothing to share, most of it for the password."""
    with started(tinyp2p.Server(space, space.directory("empty"))) as daemon:
        daemon.finish(60)
        return daemon.cpu_seconds()


def patience(count):
    return 120 + count / 400


def first_hashing(server, count, start, notes):
    began = time.monotonic()
    with started(server) as daemon:
        seconds = daemon.finish(patience(count)) - began
        used, written = daemon.cpu_seconds() - start, daemon.bytes_written()
        yield Metric(HASHING, used / count * 1e6, "CPU us a file", HASHING_AT_MOST.get(count))
        yield Metric("written meanwhile", written / MIB, "MiB")
        yield Metric("resident memory after it", daemon.memory("VmRSS") / MIB, "MiB")
        notes.append(
            f"hashing took {seconds:.0f} s at the lowest priority; "
            f"{directory_size(server.home / 'state') / MIB:.0f} MiB are kept of it"
        )


def directory_size(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def later(space, server, count, start):
    """A start with everything hashed, and what others see then."""
    with started(server) as daemon:
        daemon.finish(patience(count))
        restart = max(0, daemon.cpu_seconds() - start)
        yield Metric(RESTART, restart, "CPU s", RESTART_AT_MOST.get(count))
        with tinyp2p.mount(space, [server.peer], "tree") as mount:
            yield Metric("find after it, cold", find(mount, count), "s")
            yield Metric("find again", find(mount, count), "s")
            # Without this the figures above would be of something else.
            check_hashed(mount, count)
            yield Metric("resident memory of the mount", mount.daemon.memory("VmRSS") / MIB, "MiB")
        yield Metric("search for one name", search(space, server, count), "s")
        yield Metric("resident memory of the server then", daemon.memory("VmRSS") / MIB, "MiB")


def meanwhile(space, server, count, notes):
    """`find` in a mount of a node that has just begun to hash."""
    with (
        started(server) as daemon,
        tinyp2p.mount(space, [server.peer], "tree", is_settled=False) as mount,
    ):
        seconds = find(mount, count)
        yield Metric(FIND_MEANWHILE, seconds, "s", FIND_AT_MOST.get(count))
        used = daemon.cpu_seconds()
        time.sleep(1)
        if daemon.cpu_seconds() - used < 0.05:
            notes.append("hashing was over before that find was")


def find(mount, count):
    """Seconds of a `find` over everything; fails unless it finds everything."""
    done = timed(["find", mount.path / "tree"], timeout=600)
    expected = 1 + -(-count // data.CROWD) + count
    if done.output.count("\n") != expected:
        raise Failure(f"find saw {done.output.count(chr(10))} of {expected} names")
    return done.seconds


def check_hashed(mount, count):
    for number in 0, count // 2, count - 1:
        path = f"tree/album-{number // data.CROWD:04}/photo-{number:07}.jpeg"
        known = lambda path=path: mount.attribute("root", path)
        eventually(f"the content root of {path}", known, timeout=30)


def search(space, server, count):
    """Seconds of the whole command."""
    name = f"photo-{count // 2:07}.jpeg"
    command = tinyp2p.command(space, "search", f"^{name}$", server.peer)
    done = timed(command, timeout=120)
    if len(done.output.splitlines()) != 1 or name not in done.output:
        raise Failure(f"search for {name} found {len(done.output.splitlines())}")
    return done.seconds


def surveys(counts):
    return [
        Survey(
            key=f"files-{count}",
            work=f"{count:,} files of one byte",
            subject="files",
            amount=count,
            take=take(count),
            bars=bars(count),
            about="first hashing, restart, find, search, memory",
        )
        for count in counts
    ]


def bars(count):
    names = [(HASHING, HASHING_AT_MOST), (RESTART, RESTART_AT_MOST), (FIND_MEANWHILE, FIND_AT_MOST)]
    return tuple((name, demanded[count]) for name, demanded in names if count in demanded)


def check_counts(counts):
    if min(counts) < 1000 or max(counts) > 10_000_000:
        raise Failure("--files takes numbers from 1000 to 10000000")
