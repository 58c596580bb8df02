"""Write the tables of README.md and benchmarks/README.md, and the picture of the curves, from the committed results.

A table stands between two comments, `<!-- table: name -->` and `<!-- end -->`. With `--check` nothing is written, and
the exit status is 1 if anything would change.
"""

import dataclasses
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import curves
import defaults as untuned
import options as measured
import returns as trained
import runs as on_disk
import side_by_side as contestants
import time_to_threshold as threshold
import tyro

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md")
PICTURE = ROOT / "docs" / "pictures" / "curves.png"
PLACE = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """The flags of this script."""

    check: bool = False
    """only tell whether the pages hold what the results say"""


def result(name: str) -> dict[str, Any]:
    """A committed result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is text, and whose others are numbers."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rule, *rows))


def throughput() -> str:
    """Steps/s of one agent."""
    report = result("throughput")
    rows = [
        [
            case["env"],
            f"{case['num_envs']:,}",
            f"{case['lower_seconds'] + case['compile_seconds']:.1f} s",
            millions(case["steps_per_second"]),
            f"{case['fraction_of_peak']:.0%}",
        ]
        for case in report["cases"]
    ]
    peak = f"\nThe peak is {report['peak']['gflops_median']:.0f} GFLOP/s, on {report['machine']['cpu']}.\n"
    return markdown(["environment", "environments", "compile", "steps/s", "of the peak"], rows) + peak


def side_by_side() -> str:
    """How many times the steps/s of each peer ours are, by task."""
    cases = result("side_by_side")["cases"]
    peers = list(dict.fromkeys(row["peer"] for case in cases for row in case["contestants"][1:] if "ratio" in row))
    rows = []
    for case in cases:
        ours, *others = case["contestants"]
        ratios = {
            row["peer"]: f"{row['ratio']:.1f} ({min(row['ratios']):.1f}-{max(row['ratios']):.1f})"
            for row in others
            if "ratio" in row
        }
        rows.append([task(case["task"]), millions(ours["steps_per_second"]), *(ratios.get(peer, "") for peer in peers)])
    titles = [f"times {contestants.PEERS[peer].title}" for peer in peers]
    return markdown(["task", "our steps/s", *titles], rows)


def compiling() -> str:
    """Seconds of compiling, cold and from the cache, and peak memory, of those that compile."""
    cases = result("side_by_side")["cases"]
    rows = []
    for case in cases:
        found = {
            row[
                "peer"
            ]: f"{row['compile_seconds']:.1f} / {row['warm_compile_seconds']:.1f}, {row['peak_bytes'] / 1e6:,.0f}"
            for row in case["contestants"]
            if row.get("compile_seconds") is not None
        }
        rows.append((task(case["task"]), found))
    peers = list(dict.fromkeys(peer for _, found in rows for peer in found))
    lines = [[name, *(found.get(peer, "") for peer in peers)] for name, found in rows]
    return markdown(["seconds cold / warm, MB", *(contestants.PEERS[peer].title for peer in peers)], lines)


def task(fields: dict[str, Any]) -> str:
    """A task in words."""
    seeds = f"{fields['num_seeds']} seeds, each " if fields["num_seeds"] else ""
    return f"{fields['env']}, {seeds}{fields['num_envs']:,} environments"


def time_to_threshold() -> str:
    """Seconds of a fresh process until CartPole is solved."""
    report = result("time_to_threshold")
    rows = []
    for peer in report["peers"]:
        if "reason" in peer:
            continue
        seconds, steps = ([float("inf") if x is None else x for x in peer[key]] for key in ("seconds", "steps"))
        reached = sum(x is not None for x in peer["steps"])
        numbers = [
            f"{reached} of {len(seconds)}",
            f"{statistics.median(seconds):.1f}",
            f"{statistics.median(steps):,.0f}",
            f"{threshold.all_seconds(peer):.1f}",
        ]
        rows.append([contestants.PEERS[peer["peer"]].title, *numbers])
    return markdown(
        ["", "seeds that reach it", "seconds of one seed, median", "steps, median", "seconds of all seeds"], rows
    )


def roofline() -> str:
    """The least share of the time that each resource takes, for each part of an update."""
    report = result("roofline")
    header = ["environment", "part", "ns/step", *report["peak"], "sum", "bound by"]
    rows = [
        [
            f"{part['env']}, {part['num_envs']}",
            part["part"],
            f"{part['nanoseconds_per_step']:.1f}",
            *(f"{share:.0%}" for share in part["shares"].values()),
            f"{sum(part['shares'].values()):.0%}",
            part["bound"],
        ]
        for part in report["parts"]
    ]
    return markdown(header, rows)


def returns() -> str:
    """What every preset learns, in the order of the benchmark."""
    rows = {row["preset"]: row for row in result("returns")["rows"]}
    return markdown(trained.HEADER, [trained.cells(rows[row.preset]) for row in trained.ROWS if row.preset in rows])


def defaults() -> str:
    """What the defaults learn, in the order of the benchmark, each followed by its peers."""
    rows = sorted(result("defaults")["rows"], key=lambda row: untuned.ENVIRONMENTS.index(row["env"]))
    return markdown(untuned.HEADER, [untuned.cells(row) for row in rows])


def options() -> str:
    """What the options that are there for speed do to it, and to the return."""
    return markdown(measured.HEADER, [measured.cells(row) for row in result("options")["rows"]])


def runs() -> str:
    """What a run costs beside the bare `train`."""
    return markdown(on_disk.HEADER, [on_disk.cells(row) for row in result("runs")["cost"]])


def starts() -> str:
    """Seconds until a job trains, when it is started for the first time and again."""
    return markdown(on_disk.STARTS_HEADER, [on_disk.starts_cells(row) for row in result("runs")["starts"]])


def millions(number: float) -> str:
    """Three digits."""
    return f"{number / 1e6:.3g} M"


TABLES: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        throughput,
        side_by_side,
        compiling,
        time_to_threshold,
        roofline,
        returns,
        defaults,
        options,
        runs,
        starts,
    )
}


def filled(text: str) -> str:
    """A page with its tables as the results have them."""
    return PLACE.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}{place[3]}", text)


def main(flags: Flags) -> int:
    """Write or check the pages; draw the curves."""
    changed = [page for page in PAGES if page.read_text() != filled(page.read_text())]
    if flags.check:
        print("\n".join(f"{page} is not what the results say" for page in changed), end="")
        return 1 if changed else 0
    for page in changed:
        page.write_text(filled(page.read_text()))
    curves.draw(result("curves")["cases"]).savefig(PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Flags, description=__doc__)))
