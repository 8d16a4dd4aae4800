"""Rows about how long a user waits before anything happens: mounting, and the short commands.

Each turn is by a node that has never been there, with one member that runs already.
"""

from contextlib import contextmanager

import data
import others
import tinyp2p
from contest import Bar, Row
from data import FILE
from machine import MIB
from measure import figure
from processes import Failure, unmount
from tools import unless_missing

# Mounts, then lists until the file is there; the mountpoint comes first.
MOUNT_AND_LIST = """
mountpoint=$1; shift
"$@" || exit
until ls "$mountpoint" | grep -qx file; do sleep 0.01; done
"""


@contextmanager
def first_listing(space, _notes):
    share = data.random_file(space, MIB)
    server = tinyp2p.Server(space, share)

    def ours():
        home = space.directory("mount")
        mountpoint = home / "mnt"
        mounting = [
            *tinyp2p.at_home(home),
            space.programs / "tinyp2p-mount",
            *("--no-share", "--no-discovery", "--log", "warn", "--log-file", home / "log"),
            *("--listen", f"127.0.0.1:{tinyp2p.free_port()}", "--state-dir", home / "state"),
            *(space.password, mountpoint, server.peer),
        ]
        return started(mountpoint, mounting)

    def by_sshfs():
        mountpoint = space.directory("sshfs") / "mnt"
        host = f"127.0.0.1:{share}"
        return started(
            mountpoint, ["sshfs", "-F", shell.configuration, "-o", "ro", host, mountpoint]
        )

    def by_rclone():
        home = space.directory("rclone")
        mountpoint = home / "mnt"
        mounting = ["rclone", "mount", "--daemon", ":http:", mountpoint, "--read-only"]
        return started(mountpoint, [*mounting, *web.rclone(home)])

    def started(mountpoint, mounting):
        mountpoint.mkdir()
        try:
            script = ["sh", "-c", MOUNT_AND_LIST, "sh", mountpoint, *mounting]
            work = space.timed(script, timeout=60)
            return figure(work.seconds, work.cpu * 1e3, work)
        finally:
            unmount(mountpoint)

    with server.running(), others.sshd(space) as shell, others.nginx(space, share) as web:
        yield {
            "TinyP2P": ours,
            "sshfs": unless_missing("sshfs", by_sshfs),
            "rclone": unless_missing("rclone", by_rclone),
        }


@contextmanager
def short_commands(space, _notes):
    share = data.random_file(space, MIB)
    server = tinyp2p.Server(space, share)

    def search():
        return of_command("search", "^file$", is_right=lambda output: FILE in output)

    def peers():
        return of_command("peers", is_right=lambda output: str(server.port) in output)

    def of_command(name, *arguments, is_right):
        work = space.timed(tinyp2p.command(space, name, *arguments, server.peer), timeout=60)
        if not is_right(work.output):
            raise Failure(f"tinyp2p {name} does not show what there is: {work.output.strip()}")
        return figure(work.seconds, work.cpu * 1e3, work)

    with server.running():
        yield {"tinyp2p search": search, "tinyp2p peers": peers}


ROWS = [
    Row(
        key="start-mount",
        work="mounting, until ls shows the files",
        ours="TinyP2P",
        unit="s",
        is_more_better=False,
        bars=(Bar("sshfs"), Bar("rclone")),
        contest=first_listing,
        cpu_unit="CPU ms",
        about="from the start of tinyp2p-mount to the end of the first ls that shows a file of a member; "
        "sshfs, rclone mount",
    ),
    Row(
        key="start-search",
        work="tinyp2p search, of one known peer on loopback",
        ours="tinyp2p search",
        unit="s",
        is_more_better=False,
        bars=(Bar(at_most=0.5), Bar(at_most=0.5, mine="tinyp2p peers")),
        contest=short_commands,
        cpu_unit="CPU ms",
        about="from the start of the command to its end; tinyp2p peers is shown beside it",
    ),
]
