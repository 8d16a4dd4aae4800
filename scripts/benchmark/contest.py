"""A row of the table: contenders that do the same work in turns, and the bars that ours must reach.

The machine is not the same from one minute to the next, so only figures of one round are compared with
one another: in each round every contender has one turn, in shuffled order, and a ratio is the median
over the rounds of ours against theirs. A turn during which others used the machine is repeated, a few
times at most; the quietest counts.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from measure import Figure
from processes import Failure, run
from tools import missing


@dataclass(frozen=True)
class Bar:
    """What a row demands: to be so many times as good as another, or to stay below a figure.

    `of` says which figure: the row's own (`figure`) or its CPU (`cpu`). A ratio of CPU says how many
    times as much ours takes as the other, so it has an `at_most`. `mine` is another contender of ours
    than the row's first. A bar without any demand is there to be stated.
    """

    against: str | None = None
    at_least: float | None = None
    aim: float | None = None
    at_most: float | None = None
    of: str = "figure"
    mine: str | None = None


@dataclass(frozen=True)
class Row:
    """One kind of work.

    `contest(space, notes)` gives a context manager; within it are the contenders, a function for each
    name that does the work once and gives a Figure or a bare number in `unit`. `notes` takes sentences
    for the report. `needs` are the tools without which nothing of it can be measured.
    """

    key: str
    work: str
    ours: str
    unit: str
    is_more_better: bool
    bars: tuple
    contest: Callable
    is_repeated: bool = True
    cpu_unit: str | None = None
    needs: tuple = ()
    about: str = ""

    def is_compared(self, name):
        """Whether a contender is one that ours is compared with, and not just shown beside it."""
        return any(bar.against == name for bar in self.bars)


@dataclass
class Outcome:
    """What became of a row."""

    row: Row
    rounds: list = field(default_factory=list)
    failures: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    setup_failure: str | None = None
    repeats: int = 0

    def figures(self, name, of="figure"):
        """The figures of a contender, or what they cost in CPU; those that there are."""
        found = [figures[name] for figures in self.rounds if name in figures]
        values = [part(each, of) for each in found]
        return [value for value in values if value is not None]

    def names(self):
        """Ours first."""
        return sorted({name for round in self.rounds for name in round}, key=self.rank)

    def rank(self, name):
        return (name != self.row.ours, not name.startswith(self.row.ours), name)

    def ratios(self, other, of="figure", mine=None):
        """For each round that both finished: how many times as good ours was, or as much CPU it took."""
        mine = mine or self.row.ours
        both = [figures for figures in self.rounds if mine in figures and other in figures]
        pairs = [(part(figures[mine], of), part(figures[other], of)) for figures in both]
        pairs = [pair for pair in pairs if None not in pair and min(pair) > 0]
        if self.row.is_more_better or of == "cpu":
            return [ours / theirs for ours, theirs in pairs]
        return [theirs / ours for ours, theirs in pairs]

    def measured(self, bar):
        """What a bar speaks of: the ratios, or the figures of ours."""
        mine = bar.mine or self.row.ours
        if bar.against:
            return self.ratios(bar.against, bar.of, mine)
        return self.figures(mine, bar.of)

    def obstacle(self, bar):
        """Why a bar was not measured; None if it was."""
        if self.setup_failure:
            return self.setup_failure
        for name in bar.mine or self.row.ours, bar.against:
            if name in self.failures:
                return f"{name}: {self.failures[name]}"
        return None if self.measured(bar) else "no round was finished"

    def judge(self, bar):
        """`met`, `missed`, `not measured`, or, of a bar without a demand, `stated`."""
        if self.obstacle(bar):
            return "not measured"
        if bar.at_least is not None:
            return verdict(statistics.median(self.measured(bar)) >= bar.at_least)
        if bar.at_most is not None:
            # A ratio is judged by its median; a figure must never be above its bar.
            middle = statistics.median if bar.against else max
            return verdict(middle(self.measured(bar)) <= bar.at_most)
        if bar.aim is not None:
            is_there = statistics.median(self.measured(bar)) >= bar.aim
            return "aim met" if is_there else "aim missed"
        return "stated"


def verdict(is_met):
    return "met" if is_met else "missed"


def part(figure, of):
    return figure.cpu if of == "cpu" else figure.value


def hold(row, space, pairs, repeats, chance):
    """Runs all rounds of a row. What fails is in the outcome."""
    outcome = Outcome(row)
    began = time.monotonic()
    tell(f"{row.key}: {row.work}")
    try:
        if missing(row.needs):
            raise Failure(f"left out: {', '.join(missing(row.needs))} is not installed")
        with row.contest(space, outcome.notes) as contenders:
            drop_absent(outcome, contenders)
            for number in range(pairs if row.is_repeated else 1):
                figures = play_round(outcome, contenders, repeats * pairs, chance)
                tell(f"  round {number + 1}: {shown(figures, row)}")
                if row.ours in outcome.failures:
                    break
    except (Failure, OSError) as failure:
        outcome.setup_failure = str(failure)
        tell(f"  {failure}")
    tell(f"  took {time.monotonic() - began:.0f} s")
    return outcome


def drop_absent(outcome, contenders):
    """Contenders whose tools are not installed come as a text that says so."""
    for name, contender in contenders.items():
        if isinstance(contender, str):
            outcome.failures[name] = f"left out: {contender}"
            tell(f"  {name}: left out: {contender}")


def shown(figures, row):
    texts = []
    for name, figure in figures.items():
        cost = "" if figure.cpu is None else f" ({figure.cpu:.4g} {row.cpu_unit})"
        texts.append(f"{name} {figure.value:.4g} {row.unit}{cost}")
    return ", ".join(texts)


def play_round(outcome, contenders, repeats, chance):
    """One turn for every contender that has not failed before."""
    turns = [name for name in contenders if name not in outcome.failures]
    chance.shuffle(turns)
    figures = {}
    outcome.rounds.append(figures)
    for name in turns:
        try:
            is_ours = name == outcome.row.ours
            figures[name] = take_quiet_turn(outcome, name, contenders[name], is_ours, repeats)
        except (Failure, OSError) as failure:
            outcome.failures[name] = str(failure)
            tell(f"  {name}: {failure}")
    return figures


# How often one turn is repeated at most.
REPEATS = 2


def take_quiet_turn(outcome, name, contender, is_ours, repeats):
    """One turn, or the quietest of a few. `repeats` bounds those of the whole row."""
    best = take_turn(contender, is_ours)
    for _ in range(REPEATS):
        if best.is_quiet or outcome.repeats >= repeats:
            break
        tell(f"  {name}: others took {best.others:.2f} of a core; once more")
        outcome.repeats += 1
        again = take_turn(contender, is_ours)
        best = min(best, again, key=lambda figure: figure.others)
    return best


def take_turn(contender, is_ours):
    """One turn. Others may fail once and try again, so that theirs is a figure to be compared with."""
    try:
        return play(contender)
    except (Failure, OSError) as failure:
        if is_ours:
            raise
        tell(f"  {failure}; once more")
        return play(contender)


def play(contender):
    # What the turn before has left to be written would be written during this one.
    run(["sync"], timeout=180)
    result = contender()
    return result if isinstance(result, Figure) else Figure(result)


def tell(text):
    """Progress goes to standard error, so that standard output is the table alone."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
