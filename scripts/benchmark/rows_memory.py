"""Rows about resident memory. They are bounds, not contests, so one round is enough."""

from contextlib import contextmanager

import data
import tinyp2p
from contest import Bar, Row
from data import FILE
from machine import GIB, MIB
from processes import timed
from rows_reading import read


@contextmanager
def streaming(space, notes):
    size = space.size(10 * GIB, GIB)
    share = data.sparse_file(space, size)
    server = tinyp2p.Server(space, share)
    tinyp2p.learn_root(server, FILE)

    def peak():
        with tinyp2p.cold(server, FILE) as mount:
            mount.wait_for_root(FILE)
            work = read(space, mount.path / FILE, size, timeout=900)
            notes.append(f"streamed {size // GIB} GiB at {size / 1e6 / work.seconds:.0f} MB/s")
            return mount.daemon.memory("VmHWM") / MIB

    yield {"TinyP2P": peak}


@contextmanager
def names(space, notes):
    share = data.tree(space, space.size(1000, 50), 1000)
    server = tinyp2p.Server(space, share)

    def growth():
        with server.running() as daemon:
            # A million names are looked through and watched; that is not what is measured.
            daemon.settle(600)
            with tinyp2p.mount(space, [server.peer], "tree") as mount:
                before = mount.daemon.memory("VmRSS")
                done = timed(["find", mount.path / "tree"], timeout=1200)
                count = done.output.count("\n")
                after = mount.daemon.memory("VmRSS")
                notes.append(
                    f"find saw {count} names in {done.seconds:.1f} s; "
                    f"resident before {before / MIB:.0f} MiB, after {after / MIB:.0f} MiB, "
                    f"peak {mount.daemon.memory('VmHWM') / MIB:.0f} MiB"
                )
                return (after - before) / count

    yield {"TinyP2P": growth}


ROWS = [
    Row(
        key="memory-stream",
        work="peak resident memory while streaming 10 GiB",
        ours="TinyP2P",
        unit="MiB",
        is_more_better=False,
        bars=(Bar(at_most=256),),
        contest=streaming,
        about="of a mount, by its peak resident size",
        is_repeated=False,
    ),
    Row(
        key="memory-names",
        work="resident memory after find over 1,000,000 names",
        ours="TinyP2P",
        unit="bytes a name",
        is_more_better=False,
        bars=(Bar(at_most=1024),),
        contest=names,
        about="what find adds to the resident size of a mount",
        is_repeated=False,
    ),
]
