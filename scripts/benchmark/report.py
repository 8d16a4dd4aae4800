"""The result: Markdown tables for people, and JSON for programs and for the plots."""

import statistics

from measure import OTHERS
from processes import Failure, run

CONTESTS = ["work", "who", "figure", "ours to this", "CPU", "ours to this", "others"]
SURVEYS = ["of", "what", "figure"]
BARS = ["bar", "demanded", "measured", "result"]

# What the issue about speed demands beyond what a program that measures two binaries can say.
ELSEWHERE = [
    ("1,000 members: bytes a second and node, idle", "at most 20 kB"),
    ("1,000 members: time until all know a newcomer", "at most 30 s"),
]


def text(headline, how, warnings, outcomes, findings):
    """Everything for people."""
    parts = [headline, *warnings]
    if outcomes:
        parts += [table(CONTESTS, contest_lines(outcomes)), reading(how)]
    if findings:
        parts.append(table(SURVEYS, survey_lines(findings)))
    parts.append(table(BARS, bar_lines(outcomes, findings)))
    remarked = remarks(outcomes, findings)
    if remarked:
        parts.append("\n".join(f"- {line}" for line in remarked))
    return "\n\n".join(parts) + "\n"


def reading(how):
    return (
        "Figures are medians with the range in brackets. `ours to this` compares figures of the same "
        "round: how many times as good ours is, and, of CPU, how many times as much ours takes. CPU is "
        f"that of all processes of a contender, counted by {how}; work of kernel threads is not in it. "
        f"`others` is what processes of others took, in cores: a turn with more than {OTHERS} is "
        "repeated, and if it is not quiet then either, it counts and is said here (`!`)."
    )


def table(headings, lines):
    widths = [
        max(len(line[column]) for line in [headings, *lines]) for column in range(len(headings))
    ]
    rule = ["-" * width for width in widths]
    padded = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        for line in [headings, rule, *lines]
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)


def contest_lines(outcomes):
    lines = []
    for outcome in outcomes:
        row = outcome.row
        names = outcome.names() or [row.ours]
        for name in names:
            is_compared = row.is_compared(name)
            lines.append(
                [
                    row.work if name == names[0] else "",
                    name,
                    spread(outcome.figures(name), row.unit) or "not measured",
                    spread(outcome.ratios(name), "×") if is_compared else "",
                    spread(outcome.figures(name, "cpu"), row.cpu_unit),
                    spread(outcome.ratios(name, "cpu"), "×") if is_compared else "",
                    disturbance(outcome, name),
                ]
            )
    return lines


def disturbance(outcome, name):
    """What others took at most during the turns that count."""
    turns = [figures[name] for figures in outcome.rounds if name in figures]
    taken = [turn.others for turn in turns if turn.others is not None]
    if not taken:
        return ""
    return f"{max(taken):.2f}" + ("" if all(turn.is_quiet for turn in turns) else " !")


def survey_lines(findings):
    lines = []
    for found in findings:
        for number, metric in enumerate(found.metrics):
            figure = f"{short(metric.value)} {metric.unit}"
            lines.append(["" if number else found.survey.work, metric.name, figure])
        if not found.metrics:
            lines.append([found.survey.work, "", "not measured"])
    return lines


def bar_lines(outcomes, findings):
    return [
        [bar["bar"], bar["demanded"], bar["measured"], bar["result"]]
        for bar in all_bars(outcomes, findings)
    ]


def all_bars(outcomes, findings):
    """Every bar that concerns what was to be measured, with its verdict."""
    bars = [describe_bar(outcome, bar) for outcome in outcomes for bar in outcome.row.bars]
    for found in findings:
        bars += [
            describe_metric(found.survey, metric) for metric in found.metrics if metric.at_most
        ]
        bars += [
            one_bar(f"{found.survey.work}: {name}", f"at most {at_most}", "", "not measured")
            for name, at_most in found.unmeasured()
        ]
    bars += [one_bar(name, demanded, "", "not measured here") for name, demanded in ELSEWHERE]
    return bars


def one_bar(bar, demanded, measured, result):
    return {"bar": bar, "demanded": demanded, "measured": measured, "result": result}


def describe_bar(outcome, bar):
    row = outcome.row
    mine = bar.mine or row.ours
    subject = f"CPU of {mine}" if bar.of == "cpu" else mine
    against = f", against {bar.against}" if bar.against else ""
    unit = "×" if bar.against else (row.cpu_unit if bar.of == "cpu" else row.unit)
    measured = "" if outcome.obstacle(bar) else spread(outcome.measured(bar), unit)
    return one_bar(
        f"{row.work}: {subject}{against}", demand(bar, unit), measured, outcome.judge(bar)
    )


def demand(bar, unit):
    if bar.at_least is not None:
        return f"at least {bar.at_least} {unit}"
    if bar.at_most is not None:
        return f"at most {bar.at_most} {unit}"
    return f"aim {bar.aim} {unit}" if bar.aim is not None else ""


def describe_metric(survey, metric):
    return one_bar(
        f"{survey.work}: {metric.name}",
        f"at most {metric.at_most} {metric.unit}",
        f"{short(metric.value)} {metric.unit}",
        metric.judge(),
    )


def is_missed(outcomes, findings):
    """Whether any bar was missed or not measured. An aim is not a bar, nor is what is only stated."""
    bars = [bar for bar in all_bars(outcomes, findings) if bar["demanded"].startswith("at ")]
    return any(bar["result"] in ("missed", "not measured") for bar in bars)


def spread(figures, unit):
    """Median and range."""
    if not figures:
        return ""
    middle = f"{short(statistics.median(figures))} {unit}"
    if len(figures) == 1:
        return middle
    return f"{middle} [{short(min(figures))}–{short(max(figures))}]"


def short(figure):
    """Three digits that say something."""
    if figure >= 100:
        return f"{figure:.0f}"
    if figure >= 10:
        return f"{figure:.1f}"
    return f"{figure:.2f}" if figure >= 0.1 or figure == 0 else f"{figure:.4f}"


def remarks(outcomes, findings):
    lines = []
    for outcome in outcomes:
        work = outcome.row.work
        lines += [f"{work}: {note}." for note in outcome.notes]
        lines += [f"{work}: {name}: {why}" for name, why in outcome.failures.items()]
        if outcome.setup_failure:
            lines.append(f"{work}: {outcome.setup_failure}")
        if outcome.repeats:
            lines.append(f"{work}: {outcome.repeats} turns were repeated.")
    for found in findings:
        lines += [f"{found.survey.work}: {note}." for note in found.notes]
        if found.failure:
            lines.append(f"{found.survey.work}: {found.failure}")
    return lines


def document(machine, settings, warnings, outcomes, findings):
    """Everything, for `json.dump`."""
    return {
        "machine": machine,
        "settings": settings,
        "versions": versions(),
        "warnings": warnings,
        "is_missed": is_missed(outcomes, findings),
        "rows": [describe(outcome) for outcome in outcomes],
        "surveys": [describe_survey(found) for found in findings],
        "bars": all_bars(outcomes, findings),
        "remarks": remarks(outcomes, findings),
    }


def describe(outcome):
    row = outcome.row
    return {
        "key": row.key,
        "work": row.work,
        "ours": row.ours,
        "unit": row.unit,
        "cpu_unit": row.cpu_unit,
        "is_more_better": row.is_more_better,
        "contenders": {name: contender(outcome, name) for name in outcome.names()},
        "rounds": [
            {name: vars(figure) for name, figure in figures.items()} for figures in outcome.rounds
        ],
    }


def contender(outcome, name):
    is_compared = outcome.row.is_compared(name)
    return {
        "figure": summary(outcome.figures(name)),
        "cpu": summary(outcome.figures(name, "cpu")),
        "ratio": summary(outcome.ratios(name)) if is_compared else None,
        "cpu_ratio": summary(outcome.ratios(name, "cpu")) if is_compared else None,
    }


def describe_survey(found):
    return {
        "key": found.survey.key,
        "work": found.survey.work,
        "subject": found.survey.subject,
        "amount": found.survey.amount,
        "metrics": [vars(metric) for metric in found.metrics],
        "failure": found.failure,
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
    for package in "curl", "nginx", "rclone", "sshfs", "openssh-server", "rsync", "magic-wormhole":
        try:
            found[package] = run(["dpkg-query", "-W", "-f", "${Version}", package])
        except Failure:
            found[package] = None
    return found
