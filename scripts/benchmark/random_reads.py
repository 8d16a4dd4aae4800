"""Reads 4 KiB at many places of a file, one after the other, and prints the seconds that it took.

    random_reads.py FILE COUNT SEED

Each read is in a stretch of 128 KiB of its own, so none of them finds what another has brought along.
"""

import os
import random
import sys
import time

READ = 4096
STRETCH = 128 * 1024


def main():
    path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    file = os.open(path, os.O_RDONLY)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    stretches = chance.sample(range(os.fstat(file).st_size // STRETCH), count)
    places = [s * STRETCH + chance.randrange(STRETCH // READ) * READ for s in stretches]
    began = time.perf_counter()
    for place in places:
        if len(os.pread(file, READ, place)) != READ:
            sys.exit(f"a short read at {place}")
    print(time.perf_counter() - began)


if __name__ == "__main__":
    main()
