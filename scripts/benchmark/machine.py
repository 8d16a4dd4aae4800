"""The machine under the measurements: what it is, whether its memory can be trusted, its caches.

On a virtual machine, memory that was free for a while may have gone back to the hypervisor (free page
reporting of the balloon), and touching it again costs up to six times as much as memory that stayed.
Whoever reads through a page cache then measures the hypervisor. `check_memory` finds that out;
`quiet_memory` cures it while it lasts: it takes most of the free memory once and gives it back with
holes, so that no free block is large enough to be reported.
"""

import mmap
import os
import platform
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from processes import Failure, run

GIB = 1 << 30
MIB = 1 << 20

# Both writes must be faster than that, in bytes per second, for memory to count as quiet.
QUIET = 1.5e9

COMPACTION = Path("/proc/sys/vm/compaction_proactiveness")


def facts():
    """What a reader of the figures must know about the machine."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": os.cpu_count(),
        "processor": processor(),
        "memory_gib": round(meminfo("MemTotal") / GIB, 1),
        "kernel": platform.release(),
        "system": system(),
        "load": round(os.getloadavg()[0], 2),
    }


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def system():
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown"


def meminfo(field):
    """A line of /proc/meminfo, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise Failure(f"no {field} in /proc/meminfo")


def check_memory(tmpfs, size=2 * GIB, pause=5):
    """Writes `size` bytes to a tmpfs twice and gives both rates in bytes per second."""
    rates = []
    for attempt in range(2):
        if attempt:
            time.sleep(pause)
        target = tmpfs / "memory-check"
        began = time.perf_counter()
        run(["dd", "if=/dev/zero", f"of={target}", "bs=1M", f"count={size // MIB}"], timeout=120)
        rates.append(size / (time.perf_counter() - began))
        target.unlink()
    return rates


def is_quiet(rates):
    return min(rates) > QUIET


@contextmanager
def quiet_memory(spare=3 * GIB):
    """Keeps free memory from being reported to the hypervisor for the length of a `with` block.

    Everything available but `spare` is touched once; then one page in 512 KiB stays.
    """
    proactiveness = COMPACTION.read_text() if COMPACTION.exists() else None
    memory = None
    try:
        if proactiveness is not None:
            # The kernel would otherwise move the pages that stay together within minutes.
            COMPACTION.write_text("0")
        memory = touched(meminfo("MemAvailable") - spare)
        punch(memory)
        yield
    finally:
        if memory is not None:
            memory.close()
        if proactiveness is not None:
            COMPACTION.write_text(proactiveness)


def touched(size):
    if size < GIB:
        raise Failure("too little memory is free to keep it from the hypervisor")
    memory = mmap.mmap(-1, size // MIB * MIB, flags=mmap.MAP_PRIVATE)
    # A huge page could not be given back in part without being split first.
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    ones = b"\1" * MIB
    for offset in range(0, len(memory), MIB):
        memory[offset : offset + MIB] = ones
    return memory


def punch(memory, block=512 * 1024):
    page = mmap.PAGESIZE
    for offset in range(0, len(memory), block):
        memory.madvise(mmap.MADV_DONTNEED, offset + page, block - page)


def drop_caches():
    """Empties the page cache and forgets names and attributes of all local disks."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
