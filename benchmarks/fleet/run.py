"""
A fleet on each engine: `nox -s fleet`, or `run.py` where engines are installed.

Workers export cohorts from the emulator, whose limits and jobs are many times as fast
as the real ones. The ways take turns; each run is compared with the best possible
schedule, and with plain asyncio in the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PATH = [str(ROOT), str(ROOT / "tests"), str(HERE)]
sys.path[:0] = PATH

from chart import draw  # noqa: E402
from fleet import BASE, PLAIN, WAYS, Fleet, running_stores  # noqa: E402
from rehearsal import WINDOW, FailedRunError, Figures  # noqa: E402
from service import running_service  # noqa: E402

Summary = dict[str, dict[str, float]]


def measure(
    fleet: Fleet, names: Sequence[str], rounds: int
) -> list[dict[str, Figures]]:
    """Let the ways take turns; one that fails is left out of its round."""
    done: list[dict[str, Figures]] = []
    for number in range(1, rounds + 1):
        done.append({})
        for order, name in enumerate(names):
            # The windows are empty again, also for who keeps them in memory.
            time.sleep(1.1 * WINDOW[1] / fleet.scale)
            try:
                run = fleet.run(name, f"r{number}w{order}")
            except FailedRunError as error:
                print(f"{name}, round {number}: {error}")
                continue
            done[-1][name] = run
            print(f"{name}, round {number}: {_in_short(run)}", flush=True)

    return done


def _in_short(run: Figures) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in attrs.asdict(run).items())


def summed_up(rounds: Sequence[Mapping[str, Figures]]) -> Summary:
    """Make medians of the runs; the worst of what must hold in each."""
    summary: Summary = {}
    for name in dict.fromkeys(name for each in rounds for name in each):
        runs = [each[name] for each in rounds if name in each]
        added = [
            (each[name].wall - each[BASE].wall) / each[name].spent
            for each in rounds
            if name in each and BASE in each
        ]
        its = {
            field: statistics.median(getattr(run, field) for run in runs)
            for field in ("wall", "best", "of_best", "late", "cpu", "requests")
        }
        if added:
            its |= {
                "added": statistics.median(added),
                "least added": min(added),
                "most added": max(added),
            }
        summary[name] = its | {
            "runs": len(runs),
            "most": max(run.most for run in runs),
            "refused": sum(run.refused for run in runs),
            "broken": sum(run.broken for run in runs),
            "spent": sum(run.spent for run in runs),
            "whole": sum(run.whole for run in runs),
        }

    return summary


def show(summary: Summary) -> None:
    """Print the tables."""
    print(
        "\n| way | of best | s added an export | file late, s | CPU s an export "
        "| requests an export | most in a window | 429s | spent | whole files |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, its in summary.items():
        added = ""
        if name != BASE and "added" in its:
            added = (
                f"{its['added']:.2f} ({its['least added']:.2f} to "
                f"{its['most added']:.2f})"
            )
        print(
            f"| {name} | {its['of_best']:.1%} | {added} | {its['late']:.2f} "
            f"| {its['cpu']:.2f} | {its['requests']:.1f} | {its['most']:.0f} | {its['refused']:.0f} "
            f"| {its['spent']:.0f} | {its['whole']:.0f} |"
        )


def main() -> None:
    """Measure, print the table, and write results and chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exports", type=int, default=24, help="of each run")
    parser.add_argument("--workers", type=int, default=2, help="processes of a way")
    parser.add_argument("--scale", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS])
    parser.add_argument(
        "--python",
        nargs=2,
        action="append",
        default=[],
        metavar=("WAY", "PATH"),
        help="the interpreter of a way that is installed elsewhere",
    )
    parser.add_argument("--json", type=Path, default=HERE / "results.json")
    parser.add_argument("--chart", type=Path, default=ROOT / "docs" / "fleet.svg")
    chosen = parser.parse_args()
    if chosen.exports <= WINDOW[0]:
        parser.error("more than one window of exports is needed")

    with (
        tempfile.TemporaryDirectory() as name,
        running_service(chosen.scale, os.pathsep.join(PATH)) as service,
        running_stores(Path(name)) as stores,
    ):
        fleet = Fleet(
            service=service,
            stores=stores,
            pythons=dict(chosen.python),
            folder=Path(name),
            exports=chosen.exports,
            workers=chosen.workers,
            scale=chosen.scale,
        )
        names = fleet.available(chosen.ways)
        fleet.settle()
        summary = summed_up(measure(fleet, names, chosen.rounds))

    show(summary)
    # What was not measured now keeps its figures.
    if chosen.json.exists():
        summary = json.loads(chosen.json.read_text()) | summary

    chosen.json.write_text(json.dumps(summary, indent=1) + "\n")
    chosen.chart.write_text(draw(summary, plain=[*PLAIN]))


if __name__ == "__main__":
    main()
