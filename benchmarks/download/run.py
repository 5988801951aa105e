"""
Compare ways to bring a file to disk: `nox -s bench`, or `run.py` with the peers.

All ways of a scene take turns, so that a busy machine is unkind to all of them;
the figures are medians, the speed is a ratio to curl's in the same round. Stalls
are of other downloads, each after the one that is timed.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chart import draw
from servers import certificates, nginx, throttled
from ways import CLI

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MB = 1_000_000
PEERS = ("httpx", "obstore", "pycurl", "pyreqwest")
SCENES = ("one", "small", "gzip", "slow", "large", "throttled")
_LARGE = 2048
_THROTTLED = 512
Runs = dict[str, list[dict[str, float]]]


def available(ways: Sequence[str]) -> list[str]:
    """Leave out the ways whose program or package is missing, and say so."""
    found = []
    for way in ways:
        package = "uvloop" if way.endswith("uvloop") else None
        package = way if way in PEERS else package
        program = way.split()[0] if way.startswith(("curl", "aria2c")) else None
        if package and importlib.util.find_spec(package) is None:
            print(f"without {way}: the package {package} is not installed")
        elif program and shutil.which(program) is None:
            print(f"without {way}: the program {program} is not installed")
        else:
            found.append(way)

    return found


def measure(ways: Sequence[str], url: str, out: Path, rounds: int) -> Runs:
    """Let the ways take turns; the first round only warms up."""
    runs: Runs = {way: [] for way in available(ways)}
    for number in range(rounds + 1):
        for way in list(runs):
            done = _download(way, url, out)
            # A peer may crash at its exit, with all its figures printed.
            if not done.stdout:
                why = done.stderr.strip() or f"it ended with {done.returncode}"
                print(f"without {way}: {why.splitlines()[-1]}")
                del runs[way]
            elif number:
                timed = json.loads(done.stdout)
                # A command has no loop to hold up.
                ticked = (
                    "{}" if way in CLI else _download(way, url, out, "ticker").stdout
                )
                runs[way].append(json.loads(ticked) | timed)
            elif done.stderr.startswith("aiofastnet"):
                print(f"{way}: {done.stderr.splitlines()[0]}")

    return runs


def _download(
    way: str, url: str, out: Path, *ticker: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(HERE / "ways.py"), way, url, str(out), *ticker]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    out.unlink(missing_ok=True)

    return done


def summed_up(runs: Runs, base: str) -> dict[str, dict[str, float]]:
    """Make medians of runs, and ratios to the base of the same round."""
    summary = {}
    for way, found in runs.items():
        ratios = [
            b["seconds"] / w["seconds"] for w, b in zip(found, runs[base], strict=True)
        ]
        summary[way] = {
            "times": statistics.median(ratios),
            "rate": statistics.median(run["size"] / run["seconds"] for run in found)
            / MB,
            "cpu": statistics.median(run["cpu"] / run["size"] for run in found) * 1e9,
        }
        for name in ("memory", "p50", "p99", "max"):
            if name in found[0]:
                summary[way][name] = statistics.median(run[name] for run in found)

    return summary


def show(title: str, base: str, summary: dict[str, dict[str, float]]) -> None:
    """Print a scene as a table."""
    print(f"\n### {title}\n")
    print(f"| way | x {base} | MB/s | CPU s/GB | +RSS MiB | stall p50 / p99 / max ms |")
    print("|---|---|---|---|---|---|")
    for way, its in summary.items():
        stall = (
            f"{its['p50']:.1f} / {its['p99']:.1f} / {its['max']:.1f}"
            if "p50" in its
            else ""
        )
        memory = f"{its['memory']:.0f}" if "memory" in its else ""
        print(
            f"| {way} | {its['times']:.2f} | {its['rate']:.0f} | {its['cpu']:.2f} "
            f"| {memory} | {stall} |"
        )


def text(path: Path, size: int) -> None:
    """Write a file of members."""
    chance = random.Random(1)
    with path.open("wb") as file:
        file.write(b'"amplitude_id","user_id"\n')
        block = b"".join(
            b'"%d","user-%07d@example.com"\n'
            % (chance.randrange(10**11, 10**12), number)
            for number in range(200_000)
        )
        while file.tell() < size:
            file.write(block[: size - file.tell()])


def main() -> None:
    """Run all scenes, print their tables, and write the figures and the picture."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--mb", type=int, default=512)
    options.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES)
    options.add_argument("--json", type=Path, default=HERE / "results.json")
    options.add_argument("--chart", type=Path, default=ROOT / "docs" / "speed.svg")
    chosen = options.parse_args()
    memory_disk = "/dev/shm" if Path("/dev/shm").is_dir() else None

    with tempfile.TemporaryDirectory(dir=memory_disk) as name:
        folder = Path(name)
        folder.chmod(0o755)
        results = _scenes(
            folder, chosen.scenes, rounds=chosen.rounds, size=chosen.mb * MB
        )

    # What was not measured now keeps its figures.
    if chosen.json.exists():
        results = json.loads(chosen.json.read_text()) | results

    chosen.json.write_text(json.dumps(results, indent=1) + "\n")
    if "one" in results:
        title = "One connection, times curl"
        chosen.chart.write_text(draw(results["one"], title=title))


def _scenes(
    folder: Path, chosen: Sequence[str], *, rounds: int, size: int
) -> dict[str, dict[str, dict[str, float]]]:
    (folder / "www").mkdir()
    plain, small = folder / "www" / "members.csv", folder / "www" / "small.csv"
    packed = folder / "www" / "packed.csv"
    text(plain, size)
    text(small, 64 * MB)
    packed.write_bytes(gzip.compress(plain.read_bytes(), 6))
    authority, chain, key = certificates(folder)
    os.environ["SSL_CERT_FILE"] = str(authority)
    if importlib.util.find_spec("amplitude_cohorts_async") is None:
        os.environ["PYTHONPATH"] = str(ROOT)
    out = folder / "out.csv"
    results = {}

    def scene(name: str, title: str, base: str, ways: Sequence[str], url: str) -> None:
        if name not in chosen:
            return

        runs = measure(ways, url, out, rounds)
        results[name] = summed_up(runs, base if base in runs else next(iter(runs)))
        show(title, base, results[name])

    everybody = [
        *("curl", "ours", "ours, uvloop"),
        *("ours, no extra", "ours, no extra, uvloop", "ours, ordinary path"),
        *("aiohttp, 64 KiB chunks", *PEERS),
    ]
    try:
        with nginx(folder, folder / "www", chain, key) as url:
            size_mb = size // MB
            scene(
                "one",
                f"One connection, {size_mb} MB, TLS 1.3",
                "curl",
                everybody,
                f"{url}/members.csv",
            )
            scene(
                "small",
                "One connection, 64 MB",
                "curl",
                everybody[:6],
                f"{url}/small.csv",
            )
            scene(
                "gzip",
                f"A gzip body to plain CSV, {size_mb} MB",
                "bare inflate",
                ["bare inflate", "ours", "ours, uvloop"],
                f"{url}/packed.csv",
            )
            scene(
                "slow",
                "A disk of twenty milliseconds a write, 64 MB",
                "ours, slow disk",
                ["ours, slow disk"],
                f"{url}/small.csv",
            )
            if "large" in chosen:
                text(plain, _LARGE * MB)
            scene(
                "large",
                f"Memory, {_LARGE} MB",
                "ours",
                ["ours", "ours, uvloop"],
                f"{url}/members.csv",
            )
    except FileNotFoundError as error:
        print(f"without nginx's scenes: {error}")

    text(plain, _THROTTLED * MB)
    with throttled(plain, chain, key, rate=40e6) as url:
        ways = ["aria2c -x16", "ours", "ours, uvloop", "ours, no extra"]
        scene(
            "throttled",
            f"40 MB/s a connection, {_THROTTLED} MB",
            "aria2c -x16",
            ways,
            f"{url}/members.csv",
        )

    return results


if __name__ == "__main__":
    main()
