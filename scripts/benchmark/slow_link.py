"""A TCP proxy that delays everything by a fixed time each way, and is otherwise as fast as it can.

    slow_link.py LISTEN-PORT TARGET-HOST TARGET-PORT SECONDS-EACH-WAY

Both ports are on loopback. A connection is as slow to open as over a real link: its first bytes wait for
the handshake that the kernel on this side has already answered. Up to 32 MiB a direction are under way
at once, so that no window limits a connection (25 ms of 1.3 GB/s). When it is told to end, it prints how
many bytes have gone from the target to the callers.
"""

import signal
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress

WINDOW = 32 << 20
PIECE = 256 << 10


class Total:
    """Counts the bytes from the target to the callers."""

    def __init__(self):
        self.lock = threading.Lock()
        self.bytes = 0

    def add(self, count):
        with self.lock:
            self.bytes += count


class Direction:
    """One direction of one connection: a ring of bytes and when each piece of it is due."""

    def __init__(self, source, sink, delay, opens, total):
        self.source, self.sink = source, sink
        self.delay, self.opens, self.total = delay, opens, total
        self.ring = memoryview(bytearray(WINDOW))
        self.pieces = deque()
        self.held = 0
        self.broken = False
        self.changed = threading.Condition()

    def start(self):
        for half in self.fill, self.drain:
            threading.Thread(target=self.guard, args=[half], daemon=True).start()

    def guard(self, half):
        """A failure on one side ends the connection on both."""
        try:
            half()
        except OSError:
            for end in self.source, self.sink:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            with self.changed:
                self.broken = True
                self.changed.notify_all()

    def fill(self):
        position = 0
        count = 1
        while count:
            with self.changed:
                self.changed.wait_for(lambda: self.held < WINDOW or self.broken)
                room = WINDOW - self.held
                # Memory that was touched before is faster than the rest of the ring.
                position = position if self.held else 0
            if self.broken:
                return
            end = min(position + min(room, PIECE), WINDOW)
            count = self.source.recv_into(self.ring[position:end])
            due = max(time.monotonic(), self.opens) + self.delay
            with self.changed:
                self.pieces.append((due, position, count))
                self.held += count
                self.changed.notify_all()
            position = (position + count) % WINDOW

    def drain(self):
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.pieces or self.broken)
                if self.broken:
                    return
                due, position, count = self.pieces.popleft()
            time.sleep(max(0, due - time.monotonic()))
            if not count:
                self.sink.shutdown(socket.SHUT_WR)
                return
            self.sink.sendall(self.ring[position : position + count])
            with self.changed:
                self.held -= count
                self.changed.notify_all()
            if self.total:
                self.total.add(count)


def connect(caller, target, delay, total):
    """Joins one caller to the target."""
    opens = time.monotonic() + 2 * delay
    try:
        callee = socket.create_connection(target, timeout=10)
    except OSError:
        caller.close()
        return
    for end in caller, callee:
        end.settimeout(None)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    Direction(caller, callee, delay, opens, None).start()
    Direction(callee, caller, delay, opens, total).start()


def main():
    port, host, target_port, delay = sys.argv[1:]
    total = Total()

    def stop(*_):
        print(total.bytes, flush=True)
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    with socket.create_server(("127.0.0.1", int(port)), backlog=128) as listener:
        while True:
            caller, _ = listener.accept()
            connect(caller, (host, int(target_port)), float(delay), total)


if __name__ == "__main__":
    main()
