"""Rows about two homes behind routers: copies between them, joining by a ticket, and idle nodes.

A relay of our own is in the public network between them, and so are the servers of magic-wormhole. Lines
have 100 Mbit/s and hardly any latency. Everything is copied to memory (tmpfs) and compared with the
original after the clock has stopped. The server's page cache is warm, and it knows the content root.
"""

import time
from contextlib import ExitStack, contextmanager

import data
import hosts
import nat
import others
import rows_get
import rows_idle
import tinyp2p
from contest import Bar, Row
from data import FILE
from machine import GIB, MIB
from measure import figure
from processes import eventually, run, unmount
from rows_start import MOUNT_AND_LIST
from survey import Metric, Survey
from tools import unless_missing

LINE, LINE_RATE = 100e6, "100mbit"


def copies(kind, way):
    """A contest between two homes behind routers of a kind, which must reach one another in that way."""

    @contextmanager
    def contest(space, notes):
        size = space.size(256 * MIB, 32 * MIB)
        share = data.random_file(space, size)
        with (
            nat.lab([kind] * 2, LINE_RATE) as lab,
            nat.relay(space, lab.relay) as reach,
            others.wormhole(space, lab.relay) as wormhole,
        ):
            giver, taker = lab.homes
            server = member(space, share, giver, reach)
            tinyp2p.learn_root(server, FILE, inside=giver.inside)

            def from_mount():
                where = {"listen": taker.address, "inside": taker.inside}
                with (
                    served(server) as ticket,
                    tinyp2p.mount(space, [ticket], FILE, **where) as mount,
                    rows_get.target(space) as into,
                ):
                    until_reached(space, mount.home, way)
                    into.mkdir()
                    work = rows_get.fetch(space, ["cp", mount.path / FILE, into], share, into)
                    until_reached(space, mount.home, way, size)
                    return work

            def by_get():
                with served(server) as ticket:
                    return rows_get.get(space, [ticket], "^file$", share, taker.inside)

            def by_wormhole():
                with (
                    wormhole.sending(share / FILE, giver.inside) as code,
                    rows_get.target(space) as into,
                ):
                    into.mkdir()
                    command = [*taker.inside, *wormhole.receive(code, into / FILE)]
                    return rows_get.fetch(space, command, share, into)

            def turn(fetched):
                data.warm(share / FILE)
                work = fetched()
                return figure(size * 8 / work.seconds / LINE, work.cpu / (size / GIB), work)

            yield {
                "tinyp2p get": lambda: turn(by_get),
                "cp from a mount": lambda: turn(from_mount),
                "magic-wormhole": unless_missing("wormhole", lambda: turn(by_wormhole)),
            }
        notes.append(
            f"a file of {size // MIB} MiB; the share of 100 Mbit/s that its bytes alone take; both "
            "commands join first, the mount is there before; magic-wormhole always sends by its relay"
        )

    return contest


def member(space, share, home, *reach, name="server", peers=()):
    """A Server in a home, which takes part by these relays."""
    options = tuple(f"--reach={relay}" for relay in reach)
    where = {"inside": home.inside, "options": options, "peers": peers}
    return tinyp2p.Server(space, share, home.address, tinyp2p.PORT, name=name, **where)


@contextmanager
def served(server):
    """Starts a server and waits until it can be found by its relay; gives its ticket."""
    with server.running() as daemon:
        yield ticket_of(server, daemon)


def ticket_of(server, daemon):
    def found():
        reach = tinyp2p.status(server.space, server.home).get("reach") or {}
        return reach.get("relay") and reach.get("ticket")

    return eventually(f"{server.name} is at its relay", found, daemons=[daemon])


def until_reached(space, home, way, size=0):
    """Waits until the node of a home reaches its one member in that way, and so many bytes went there."""

    def is_reached():
        members = tinyp2p.status(space, home).get("members", [])
        routes = [member.get("route") or {} for member in members]
        return [route.get("kind") for route in routes] == [way] and routes[0][way] >= size

    eventually(f"the member is reached {way}, for {size} bytes", is_reached)


KINDS = {"port-preserving routers": nat.PORT_PRESERVING, "symmetric routers": nat.SYMMETRIC}


@contextmanager
def first_listing(space, _notes):
    share = data.random_file(space, MIB)
    kinds = [kind for kind in KINDS.values() for _ in range(2)]
    with (
        nat.lab(kinds, LINE_RATE) as lab,
        nat.relay(space, lab.relay) as reach,
        ExitStack() as stack,
    ):

        def starting(giver, taker):
            server = member(space, share, giver, reach)
            tinyp2p.learn_root(server, FILE, inside=giver.inside)
            ticket = stack.enter_context(served(server))
            return lambda: mount_and_list(space, share, taker, ticket)

        pairs = zip(lab.homes[::2], lab.homes[1::2], strict=True)
        yield {name: starting(*pair) for name, pair in zip(KINDS, pairs, strict=True)}


def mount_and_list(space, share, taker, ticket):
    home = space.directory("mount")
    mountpoint = home / "mnt"
    mountpoint.mkdir()
    mounting = [
        *taker.inside,
        *tinyp2p.at_home(home),
        space.programs / "tinyp2p-mount",
        *("--no-share", "--no-discovery", "--log", "warn", "--log-file", home / "log"),
        *("--listen", f"{taker.address}:{tinyp2p.PORT}", "--state-dir", home / "state"),
        *(space.password, mountpoint, ticket),
    ]
    try:
        work = space.timed(["sh", "-c", MOUNT_AND_LIST, "sh", mountpoint, *mounting], timeout=60)
        run(["cmp", share / FILE, mountpoint / FILE])
        return figure(work.seconds, work.cpu * 1e3, work)
    finally:
        unmount(mountpoint)


# Some of what a node says to its relay is said only every few minutes.
SECONDS, QUICK_SECONDS = 300, 60


class IdleNode:
    """A node in a home of its own, which shares one file."""

    def __init__(self, stack, space, home, name, *reach, peers=()):
        share = space.directory(f"share-{name}")
        (share / f"of-{name}").write_text(f"{name}\n")
        self.host = home
        self.server = member(space, share, home, *reach, name=name, peers=peers)
        self.daemon = rows_idle.started(stack, self.server)

    @property
    def ticket(self):
        return ticket_of(self.server, self.daemon)

    def traffic(self):
        return sum(hosts.traffic(self.host, "eth0"))


def idle(space, notes):
    """What it costs to be there, by the ways in which nodes reach one another."""
    kinds = [nat.PORT_PRESERVING] * 4 + [nat.SYMMETRIC] * 2
    with (
        nat.lab(kinds, LINE_RATE) as lab,
        nat.relay(space, lab.relay) as reach,
        ExitStack() as stack,
    ):
        homes = iter(lab.homes)
        start = lambda name, *how, **more: IdleNode(stack, space, next(homes), name, *how, **more)
        groups = {
            "alone, without --reach": [start("quiet")],
            "alone, with --reach": [start("lone", reach)],
        }
        for way in "direct", "relayed":
            first = start(f"{way}-1", reach)
            pair = [first, start(f"{way}-2", reach, peers=(first.ticket,))]
            until_all_reached(space, way, pair)
            groups[f"one of two, {way}"] = pair
        nodes = [node for group in groups.values() for node in group]
        traffic = lambda: sum(node.traffic() for node in nodes)
        notes.append(f"settling took {rows_idle.settle(space, traffic, len(nodes)):.0f} s")
        yield from counted(groups, space.size(SECONDS, QUICK_SECONDS))
        for way in "direct", "relayed":
            until_all_reached(space, way, groups[f"one of two, {way}"])


def until_all_reached(space, way, nodes):
    for node in nodes:
        until_reached(space, node.server.home, way)


def counted(groups, seconds):
    """What the nodes of each group send, receive, use and wake up, for each of them and each minute."""
    nodes = [node for group in groups.values() for node in group]
    wakers = {node: rows_idle.Waker(node.daemon) for node in nodes}
    began = time.monotonic()
    before = {node: (node.traffic(), node.daemon.cpu_seconds()) for node in nodes}
    rows_idle.watch(wakers.values(), seconds)
    after = {node: (node.traffic(), node.daemon.cpu_seconds()) for node in nodes}
    minutes = (time.monotonic() - began) / 60
    for name, group in groups.items():
        share = minutes * len(group)
        traffic, used = (
            sum(after[node][part] - before[node][part] for node in group) for part in range(2)
        )
        wake_ups = sum(wakers[node].count for node in group)
        yield Metric(f"{name}: sent and received", traffic / share, "bytes a minute")
        yield Metric(f"{name}: wake-ups", wake_ups / share, "a minute")
        yield Metric(f"{name}: CPU", used / share * 1e3, "ms a minute")


def copying(key, kind, way, routers):
    return Row(
        key=key,
        work=f"256 MiB between two homes, {way}",
        ours="tinyp2p get",
        unit="of the line",
        is_more_better=True,
        bars=(Bar(at_least=0.9, mine="cp from a mount"), Bar("magic-wormhole")),
        contest=copies(kind, way),
        cpu_unit="CPU s/GiB",
        needs=nat.NEEDS,
        about=f"both behind {routers}, with 100 Mbit/s; by a ticket: cp from a mount, and get; "
        "magic-wormhole, by servers of its own",
    )


ROWS = [
    copying("reach-direct", nat.PORT_PRESERVING, "direct", "routers that keep ports"),
    copying("reach-relayed", nat.SYMMETRIC, "relayed", "symmetric routers"),
    Row(
        key="reach-start",
        work="mounting by a ticket, until ls shows the files",
        ours="port-preserving routers",
        unit="s",
        is_more_better=False,
        bars=(Bar(at_most=3), Bar(at_most=3, mine="symmetric routers")),
        contest=first_listing,
        cpu_unit="CPU ms",
        needs=nat.NEEDS,
        about="from the start of tinyp2p-mount to the end of the first ls that shows a file of a member "
        "behind another router",
    ),
]

IDLE = Survey(
    key="reach-idle",
    work="idle nodes behind routers",
    subject="homes",
    amount=6,
    take=idle,
    needs=nat.NEEDS,
    about="what a node sends, receives and wakes up for in a minute: alone, with and without --reach; as "
    "one of two that reach one another directly, or by a relay",
)
