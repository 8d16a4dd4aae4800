"""Measures the two programs side by side with what people use today. Started by scripts/bench."""

import argparse
import json
import os
import random
import re
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from textwrap import wrap

import cpu
import machine
import plot
import report
import rows_files
import rows_get
import rows_idle
import rows_memory
import rows_names
import rows_reach
import rows_reading
import rows_start
from contest import hold, tell
from measure import Meter
from processes import Failure
from space import space
from survey import Survey, conduct

CONTESTS = [
    *rows_reading.ROWS,
    *rows_names.ROWS,
    *rows_get.ROWS,
    *rows_start.ROWS,
    *rows_memory.ROWS,
    *rows_reach.ROWS,
]

LEAST_PAIRS = 5


MEMBERS, QUICK_MEMBERS = (2, 10, 50), (2, 10)
FILES, QUICK_FILES = (10_000, 100_000, 1_000_000), (10_000,)


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""\
Measures TinyP2P side by side with curl, rclone, sshfs, rsync and magic-wormhole, on this machine and in
one run: time, and CPU seconds of all processes of each contender. Says which of its bars it reaches.
Needs root and a machine that does nothing else; takes about two hours, most of that for a million files.""",
        epilog=explained(),
    )
    parser.add_argument("--pairs", type=pairs, metavar="N", help=f"rounds of a row [{LEAST_PAIRS}]")
    parser.add_argument("--rows", type=expression, default="", metavar="REGEX", help="only these")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="write benchmarks.txt, benchmarks.json, benchmarks.svg and growth.svg there, again after "
        "each row",
    )
    parser.add_argument(
        "--quick", action="store_true", help="two rounds with small files, to try the rows out"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="N",
        help="how many turns a round may be repeated because others used the machine; 0 for none, which "
        "is what --quick does [2]",
    )
    parser.add_argument(
        "--members",
        type=amounts,
        metavar="N,N",
        help="sizes of idle networks [2,10,50]; 200 works where there is memory for that many nodes",
    )
    parser.add_argument(
        "--files", type=amounts, metavar="N,N", help="sizes of large shares [10000,100000,1000000]"
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("/var/cache/tinyp2p-bench"),
        metavar="DIR",
        help="where sample files are kept for the next run [%(default)s]",
    )
    parser.add_argument(
        "--leave-memory",
        action="store_true",
        help="only warn when the hypervisor takes back free memory; without this, nearly all memory "
        "is touched once to prevent that, which empties the page cache",
    )
    parser.add_argument("--programs", type=Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.pairs = options.pairs or (2 if options.quick else LEAST_PAIRS)
    if options.repeats is None:
        options.repeats = 0 if options.quick else 2
    if options.pairs < LEAST_PAIRS and not options.quick:
        tell(f"fewer than {LEAST_PAIRS} rounds: the medians say little")
    options.members = options.members or (QUICK_MEMBERS if options.quick else MEMBERS)
    options.files = options.files or (QUICK_FILES if options.quick else FILES)
    try:
        options.rows = chosen(options)
    except Failure as failure:
        parser.error(str(failure))
    return options


def explained():
    lines = ["rows:"]
    for row in every_row(MEMBERS, FILES):
        lines += wrap(
            f"{row.work}: {row.about}",
            width=99,
            initial_indent=f"  {row.key:<14} ",
            subsequent_indent=" " * 17,
        )
    lines += [
        "",
        "A row that needs a tool that is not installed is left out, and the output says so.",
        "",
        "exit status: 0 all bars are met, 1 some are not (or were not measured), 2 wrong usage",
    ]
    return "\n".join(lines)


def every_row(members, files):
    idle = [*rows_idle.surveys(members), rows_reach.IDLE]
    return [*CONTESTS, *idle, *rows_files.surveys(files)]


def chosen(options):
    rows_idle.check_counts(options.members)
    rows_files.check_counts(options.files)
    found = [
        row
        for row in every_row(options.members, options.files)
        if options.rows == "" or options.rows.search(row.key)
    ]
    if not found:
        raise Failure("no row has such a name")
    return found


def amounts(text):
    return tuple(sorted({int(part) for part in text.split(",")}))


def pairs(text):
    if int(text) < 1:
        raise ValueError
    return int(text)


def expression(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"not a regular expression: {error}") from error


def stop(_number, _frame):
    """The first signal cleans up and ends; further ones do not disturb that."""
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, signal.SIG_IGN)
    tell("interrupted; cleaning up")
    sys.exit(130)


def prepare_memory(stack, here, may_cure, warnings):
    """Checks the memory and cures it if need be and allowed. Gives the rates in MB/s."""
    rates = machine.check_memory(here.tmpfs)
    if not machine.is_quiet(rates) and may_cure:
        tell("memory goes back to the hypervisor; keeping it here")
        stack.enter_context(machine.quiet_memory())
        rates = machine.check_memory(here.tmpfs)
    if not machine.is_quiet(rates):
        warnings.append(
            "Memory is slow to touch (2 GB to tmpfs at "
            + " and ".join(f"{rate / 1e9:.1f} GB/s" for rate in rates)
            + "; 1.5 GB/s and more are expected): whoever reads through a page cache looks slower "
            "than it is."
        )
    return [round(rate / 1e6) for rate in rates]


def headline(facts, settings):
    kind = ""
    if settings["is_quick"]:
        kind = "QUICK RUN, small files: the figures only show that it works. "
    return (
        f"{kind}{facts['date']}, {facts['cores']} cores ({facts['processor']}), "
        f"{facts['memory_gib']} GiB, Linux {facts['kernel']}, {settings['rounds']} rounds."
    )


class Result:
    """What has been measured so far."""

    def __init__(self, facts, settings, warnings):
        self.facts, self.settings, self.warnings = facts, settings, warnings
        self.outcomes, self.findings = [], []

    def text(self):
        first = headline(self.facts, self.settings)
        how = self.settings["cpu_is_counted_by"]
        return report.text(first, how, self.warnings, self.outcomes, self.findings)

    def write(self, directory):
        """All that is known, so that an interrupted run is not lost."""
        document = report.document(
            self.facts, self.settings, self.warnings, self.outcomes, self.findings
        )
        encoded = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "benchmarks.txt").write_text(self.text())
        (directory / "benchmarks.json").write_text(encoded)
        (directory / "benchmarks.svg").write_text(plot.rows(document))
        (directory / "growth.svg").write_text(plot.growth(document))

    def is_missed(self):
        return report.is_missed(self.outcomes, self.findings)


def main():
    options = arguments()
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, stop)
    if os.geteuid() != 0:
        sys.exit("bench: mounting, dropping caches and capping links need root")
    facts = machine.facts()
    warnings = []
    if facts["load"] > 0.3 * facts["cores"]:
        warnings.append(f"The machine was busy before (load {facts['load']}).")
    settings = {"is_quick": options.quick, "rounds": options.pairs, "repeats": options.repeats}
    chance = random.Random()
    with ExitStack() as stack:
        counter = stack.enter_context(cpu.counter())
        settings["cpu_is_counted_by"] = counter.how
        here = stack.enter_context(
            space(options.data.resolve(), options.programs, options.quick, Meter(counter))
        )
        may_cure = not (options.quick or options.leave_memory)
        facts["tmpfs_mb_per_second"] = prepare_memory(stack, here, may_cure, warnings)
        result = Result(facts, settings, warnings)
        for row in options.rows:
            if isinstance(row, Survey):
                result.findings.append(conduct(row, here))
            else:
                result.outcomes.append(hold(row, here, options.pairs, options.repeats, chance))
            if options.output:
                result.write(options.output)
    print(result.text(), end="")
    return 1 if result.is_missed() else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failure, OSError) as failure:
        sys.exit(f"bench: {failure}")
