"""The result, as a Markdown table for people and as JSON for programs."""

import statistics

from processes import Failure, run

HEADINGS = ["work", "TinyP2P", "against", "which did", "ratio", "demanded", "result"]


def is_missed(outcomes):
    """Whether any bar was missed or not measured; an aim is not a bar."""
    bars = [(outcome, bar) for outcome in outcomes for bar in outcome.row.bars]
    return any(outcome.judge(bar) != "reached" for outcome, bar in bars if is_bar(bar))


def is_bar(bar):
    return bar.at_least is not None or bar.at_most is not None


def table(outcomes):
    """The table, and below it what its reader should know."""
    lines = [cells(outcome, bar) for outcome in outcomes for bar in outcome.row.bars]
    widths = [max(len(line[i]) for line in [HEADINGS, *lines]) for i in range(len(HEADINGS))]
    rule = ["-" * width for width in widths]
    padded = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        for line in [HEADINGS, rule, *lines]
    ]
    shown = ["| " + " | ".join(line) + " |" for line in padded]
    return "\n".join([*shown, "", *remarks(outcomes)])


def cells(outcome, bar):
    row = outcome.row
    is_measured = not outcome.obstacle(bar)
    theirs = outcome.figures(bar.against) if bar.against else []
    return [
        row.work,
        spread(outcome.figures(row.ours), row.unit),
        bar.against or "",
        spread(theirs, row.unit),
        spread(outcome.ratios(bar.against), "×") if is_measured and bar.against else "",
        demand(row, bar),
        result(outcome, bar),
    ]


def spread(figures, unit):
    """Median and range."""
    if not figures:
        return ""
    middle = f"{short(statistics.median(figures))} {unit}"
    if len(figures) == 1:
        return middle
    return f"{middle} [{short(min(figures))}–{short(max(figures))}]"


def short(figure):
    if figure >= 100:
        return f"{figure:.0f}"
    return f"{figure:.2f}" if figure >= 0.1 else f"{figure:.4f}"


def demand(row, bar):
    if bar.at_most is not None:
        return f"at most {bar.at_most} {row.unit}"
    wanted = [f"{bar.at_least} ×"] if bar.at_least is not None else []
    return ", ".join(wanted + ([f"aim {bar.aim} ×"] if bar.aim is not None else []))


def result(outcome, bar):
    verdict = outcome.judge(bar) if is_bar(bar) or outcome.obstacle(bar) else ""
    if bar.aim is None or outcome.obstacle(bar):
        return verdict
    is_there = statistics.median(outcome.ratios(bar.against)) >= bar.aim
    aim = "aim reached" if is_there else "aim not reached"
    return f"{verdict}, {aim}" if verdict else aim


def remarks(outcomes):
    lines = ["Medians and, in brackets, the range; a ratio compares figures of the same round."]
    for outcome in outcomes:
        lines += [f"{outcome.row.work}: {note}." for note in outcome.notes]
        why = {outcome.obstacle(bar) for bar in outcome.row.bars} - {None}
        lines += [f"{outcome.row.work}: not measured: {reason}" for reason in sorted(why)]
    return lines


def document(machine, settings, warnings, outcomes):
    """Everything, for `json.dump`."""
    return {
        "machine": machine,
        "settings": settings,
        "versions": versions(),
        "warnings": warnings,
        "is_missed": is_missed(outcomes),
        "rows": [describe(outcome) for outcome in outcomes],
    }


def describe(outcome):
    row = outcome.row
    return {
        "key": row.key,
        "work": row.work,
        "unit": row.unit,
        "is_more_better": row.is_more_better,
        "figures": {name: summary(outcome.figures(name)) for name in outcome.names()},
        "rounds": outcome.rounds,
        "bars": [describe_bar(outcome, bar) for bar in row.bars],
        "notes": outcome.notes,
    }


def describe_bar(outcome, bar):
    obstacle = outcome.obstacle(bar)
    ratios = [] if obstacle or not bar.against else outcome.ratios(bar.against)
    return {
        "against": bar.against,
        "at_least": bar.at_least,
        "aim": bar.aim,
        "at_most": bar.at_most,
        "ratio": summary(ratios),
        "result": outcome.judge(bar) if is_bar(bar) else "only an aim",
        "why": obstacle,
    }


def summary(figures):
    if not figures:
        return None
    return {
        "median": statistics.median(figures),
        "min": min(figures),
        "max": max(figures),
    }


def versions():
    """Whom TinyP2P was measured against."""
    found = {}
    for package in "curl", "nginx", "rclone", "sshfs", "openssh-server":
        try:
            found[package] = run(["dpkg-query", "-W", "-f", "${Version}", package])
        except Failure:
            found[package] = None
    return found
