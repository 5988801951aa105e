# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2025.2.9"]
# ///
"""
Every check of the project, each in an environment of its own.

`nox` runs them all, `nox -l` lists them, `nox -s lint types` runs two of them.
Options after `--` go to pytest: `nox -s quick -- -k windows`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from itertools import chain
from pathlib import Path
from tempfile import gettempdir

import nox

ROOT = Path(__file__).parent
PACKAGE = "amplitude_cohorts_async"
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
EXTRAS = dict(PROJECT["project"]["optional-dependencies"])

# Each has many packages and constraints of its own: it is in none of the other sessions.
ENGINES = {
    name: EXTRAS.pop(name)
    for name in ("airflow", "dagster", "dbos", "procrastinate")
    if name in EXTRAS
}
# They live together in one environment, and run the scenes of `conformance`.
CONFORMING = ("dagster", "dbos", "procrastinate")
ALL_EXTRAS = f"[{','.join(EXTRAS)}]"

# The running Python gets the whole suite: `coverage` and `heavy`. The others get parts
# of it, so that all ends within half an hour:
# - the oldest of them what calls the dependencies, with the oldest of them (`lowest`);
# - the newest what needs no extra, without any (`bare`), and what moves bytes with all of
#   them (`wire`).
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
VERSIONS = nox.project.python_versions(PROJECT)
OTHERS = [
    version
    for version in reversed(VERSIONS)
    if version != RUNNING and shutil.which(f"python{version}")
]
NEWEST = OTHERS[0] if OTHERS else None
LAST = OTHERS[-1] if OTHERS else None
HEAVY = "big or forced or hostile or slow"
FEW_EXAMPLES = "--hypothesis-profile=quick"
QUICK = ("-m", f"not services and not ({HEAVY})", FEW_EXAMPLES)

# They have sessions of their own.
ALONE = ("tests/browser", "tests/docs", "tests/engines")

# What another release of a dependency cannot change, and what needs extras.
OURS = ("tests/core", "tests/hostile", "tests/io/limits", "tests/jobs", "tests/public")
WITH_EXTRAS = ("tests/blocking", "tests/cli", "tests/contrib", "tests/web")

# What another loop can change, and of that what another TLS can.
WIRE = ("tests/exports", "tests/io/download", "tests/io/fast", "tests/io/http")
BYTES = ("tests/io/download", "tests/io/fast", "tests/io/http", "tests/writes")

# Of the scenes of `conformance`, those for recipes; `-- -k ""` runs them all.
FEW_SCENES = "polled or sent or two_workers or not test_conformance"

# Two workers a processor, within reason: a test waits for a third of its time, and
# one that starts processes for half of it.
PROCESSORS = min(2, os.cpu_count() or 1)
WORKERS = (f"--numprocesses={2 * PROCESSORS}",)
MORE_WORKERS = (f"--numprocesses={3 * PROCESSORS}",)

# What sessions have counted for `report`.
COUNTED = ROOT / ".nox" / "counted"

# What decides the meaning of a call is tested to the last line and branch.
DECIDING = ["_core/*", "errors.py", "limits.py", "models.py"]

# What the comparisons take, and with what: all of them take about 15 minutes.
PEERS = (
    *("duckdb", "httpx", "obstore", "pandas", "polars"),
    *("pycurl", "pyreqwest", "trustme", "uvloop"),
)
BENCHMARKS = {"download": (), "documents": (), "rows": ("--rounds", "3")}

nox.needs_version = ">=2025.2.9"
# It installs an environment in seconds, for which pip takes half a minute.
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.stop_on_first_error = False


def show_pyenv() -> None:
    """Let pyenv's other Pythons be found, where there is a pyenv."""
    if pyenv := shutil.which("pyenv"):
        root = subprocess.check_output([pyenv, "root"], text=True).strip()  # noqa: S603
        versions = sorted(
            path.name for path in Path(root, "versions").glob("3.1[1-9].*")
        )
        os.environ.setdefault("PYENV_ROOT", root)
        os.environ["PYENV_VERSION"] = ":".join(versions) or "system"


show_pyenv()


def heed_pip() -> None:
    """Let uv use the index and the certificates that pip is configured with."""
    pip = (sys.executable, "-m", "pip", "config", "list")
    listed = subprocess.run(pip, capture_output=True, text=True, check=False).stdout  # noqa: S603
    variables = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}

    for line in listed.splitlines():
        key, _, value = line.partition("=")
        if variable := variables.get(key.rpartition(".")[2]):
            os.environ.setdefault(variable, value.strip("'"))


heed_pip()

# With it each process that a test starts compiles all it imports: measured for
# `amplitude-cohorts list --help`, 2.4 s of a processor in place of 0.8.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def group(*names: str) -> tuple[str, ...]:
    """Return the requirements of dependency groups; older pips cannot read them."""
    return nox.project.dependency_groups(PROJECT, *names)


@cache
def dist(session: nox.Session) -> Path:
    """Return the folder of what is built, which is built once in a run."""
    folder = session.cache_dir / "dist"
    shutil.rmtree(folder, ignore_errors=True)

    return folder.absolute()


def counting(session: nox.Session, name: str) -> tuple[str, ...]:
    """Return what runs pytest so that `report` knows the lines it has reached."""
    COUNTED.mkdir(parents=True, exist_ok=True)
    for old in COUNTED.glob(f"{name}.*"):
        old.unlink()

    session.env["COVERAGE_FILE"] = str(COUNTED / name)
    session.env["COVERAGE_RCFILE"] = str(ROOT / "pyproject.toml")

    return ("coverage", "run", "-m")


def installed(session: nox.Session) -> str:
    """Return the versions of all that is installed in a session."""
    return str(session.run("uv", "pip", "list", silent=True))


def engine_extras(*names: str) -> str:
    """Return the extras of engines, as far as they are here, and of their stores."""
    here = [name for name in names if name in ENGINES]

    return f"[{','.join(['cli', 'postgres', 'redis', *here])}]"


def install(session: nox.Session, *requirements: str, extras: str = ALL_EXTRAS) -> None:
    """Install the wheel of the checkout with extras, and other requirements."""
    folder = dist(session)
    if not folder.exists():
        session.run_install(
            *("uv", "build", "--quiet", "--wheel", f"--out-dir={folder}", str(ROOT))
        )
    (wheel,) = folder.glob("*.whl")
    # An environment that is used again may have one of the same version.
    again = f"--reinstall-package={PROJECT['project']['name']}"
    session.install(again, *requirements, f"{wheel}{extras}")


def without_engines(session: nox.Session) -> Path:
    """Copy the package without its adaptors, whose bases are unknown here."""
    folder = Path(session.create_tmp(), "without-engines").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    adaptors = shutil.ignore_patterns(*ENGINES, *(f"{name}.py" for name in ENGINES))
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=adaptors)

    return folder


def pytest(
    session: nox.Session,
    *args: str,
    folders: tuple[str, ...] = ("tests",),
    without: tuple[str, ...] = (),
    under: tuple[str, ...] = (),
) -> None:
    """
    Test the installed wheel from a folder where the checkout cannot be imported.

    Args:
        session: Where the wheel is installed.

        args: For pytest; options after `--` on the command line are added.

        folders: Which tests.

        without: Which of them are left out, beside those of a session of their own.

        under: What runs pytest, if not its own command.
    """
    # They need an engine, a browser or what the documents show.
    elsewhere = ALONE if folders == ("tests",) else ()
    session.chdir(session.create_tmp())
    # The path of a socket has room for 107 bytes: none is below a deep checkout.
    session.env["TMPDIR"] = gettempdir()
    session.run(
        *(*under, "pytest", f"--config-file={ROOT / 'pyproject.toml'}"),
        *(f"--rootdir={ROOT}", f"--override-ini=cache_dir={ROOT / '.pytest_cache'}"),
        *(*args, *session.posargs),
        *(f"--ignore={ROOT / each}" for each in (*without, *elsewhere)),
        *(str(ROOT / each) for each in folders),
    )


@nox.session(tags=["in-process"])
def lint(session: nox.Session) -> None:
    """Hold the form: ruff, its formatter, spelling, docstrings."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")
    session.run("interrogate", "--quiet", PACKAGE)


@nox.session(tags=["in-process"])
def layers(session: nox.Session) -> None:
    """Hold the floor plan: imports point down, the core stays pure."""
    session.install(*group("lint"))
    session.run("lint-imports", "--no-cache")


@nox.session(tags=["in-process"])
def types(session: nox.Session) -> None:
    """Ask two type checkers, and a third question: is every public name typed?"""
    install(session, *group("tests", "services", "typing"))
    # The node that its wheel brings: nothing is fetched, none of the system is used.
    session.env["PYRIGHT_PYTHON_GLOBAL_NODE"] = "0"
    session.run("mypy")
    session.run("pyright")
    session.env["PYTHONPATH"] = str(without_engines(session))
    session.run("pyright", "--ignoreexternal", "--verifytypes", PACKAGE)


@nox.session(tags=["in-process"])
def package(session: nox.Session) -> None:
    """Build, install without extras, and look at what a user would get."""
    session.install(*group("tests"))
    built = Path(session.create_tmp(), "dist").absolute()
    session.run("uv", "build", "--quiet", f"--out-dir={built}", str(ROOT))
    (wheel,) = built.glob("*.whl")
    session.install(str(wheel))
    session.run("python", str(ROOT / "tests/support/import_cost.py"))
    pytest(session, folders=("tests/public",))
    session.install(f"{wheel}[cli]")
    session.run("amplitude-cohorts", "--help", silent=True)


@nox.session(tags=["in-process"])
def docs(session: nox.Session) -> None:
    """Run every example of the documents against the emulator, and build their site."""
    install(session, *group("docs"))
    pytest(session, *WORKERS, folders=("tests/docs",))


@nox.session(tags=["processes"])
def browser(session: nox.Session) -> None:
    """Use the page of `serve` in a Chromium, which BROWSER names or the path has."""
    install(session, *group("browser"))
    pytest(session, folders=("tests/browser",))


@nox.session(python=NEWEST, tags=["in-process"])
def bare(session: nox.Session) -> None:
    """Without any extra, on the ordinary path: the core works, the rest says why not."""
    install(session, *group("tests"), extras="")
    session.env["AMPLITUDE_FAST"] = "0"
    pytest(session, *WORKERS, *QUICK, without=WITH_EXTRAS)


@nox.session(python=LAST, tags=["in-process"])
def lowest(session: nox.Session) -> None:
    """Test with the oldest direct dependencies that we claim to work with."""
    claims = chain(PROJECT["project"]["dependencies"], *EXTRAS.values())
    constraints = Path(session.create_tmp(), "lowest.txt")
    # A constraint names no extras.
    oldest = (re.sub(r"\[.*\]", "", claim).replace(">=", "==") for claim in claims)
    constraints.write_text("\n".join(oldest))
    install(session, "--constraint", str(constraints), *group("tests"))
    pytest(session, *WORKERS, *QUICK, without=OURS)


@nox.session(tags=["in-process"])
def coverage(session: nox.Session) -> None:
    """Count the lines that are reached without processes of our own."""
    install(session, *group("tests", "services"))
    options = (*WORKERS, "-m", f"not ({HEAVY})", FEW_EXAMPLES)
    pytest(session, *options, under=counting(session, "coverage"))


@nox.session(python=VERSIONS, default=False)
def tests(session: nox.Session) -> None:
    """Run the quick part of the suite on any Python."""
    install(session, *group("tests"))
    pytest(session, *WORKERS, *QUICK)


@nox.session(tags=["processes"])
def heavy(session: nox.Session) -> None:
    """
    Run what is too much for a tracer.

    Processes, kills, faults, two million rows, and all examples of each law.
    """
    install(session, *group("tests", "services"))
    pytest(session, *MORE_WORKERS, "-m", f"{HEAVY} or hypothesis")


@nox.session(python=NEWEST, tags=["in-process"])
def wire(session: nox.Session) -> None:
    """Run what moves bytes on uvloop, and what TLS can change on aiofastnet."""
    install(session, *group("tests", "uvloop"))
    quick = (*WORKERS, *QUICK)
    # On uvloop nothing that a signal raises ends a test; a thread ends the worker.
    pytest(session, *quick, "--uvloop", "--timeout-method=thread", folders=WIRE)
    pytest(session, *quick, "--aiofastnet", folders=BYTES)


@nox.session(tags=["processes"])
@nox.parametrize("name", [*ENGINES])
def engine(session: nox.Session, name: str) -> None:
    """Test one engine's adaptor: its types, its newest release and its lowest."""
    # mypy reads the modules of buckets, Postgres and Redis, too.
    extras = f"[{name},cloud,postgres,redis]"
    install(session, *group("tests", "services"), "mypy", extras=extras)
    home = ROOT / PACKAGE / "contrib"
    # By name, because mypy leaves out the modules of a package that is excluded.
    modules = [*home.glob(f"{name}.py"), *home.glob(f"{name}/*.py")]
    session.run("mypy", *map(str, modules))
    # Two workers of pytest-xdist died beside Airflow once, without a word.
    few = f"--numprocesses={0 if name == 'airflow' else PROCESSORS}"
    folders = (f"tests/engines/test_{name}.py",)
    pytest(session, few, folders=folders, under=counting(session, name))
    newest = installed(session)
    session.install(*(claim.replace(">=", "==") for claim in ENGINES[name]))
    if installed(session) != newest:
        pytest(session, few, folders=folders)


@nox.session(tags=["processes"])
@nox.parametrize("engines", ["airflow", "others"])
def conformance(session: nox.Session, engines: str) -> None:
    """
    Kill the workers of every engine that is here, and let others go on.

    Airflow's own processes are tested in the same environment: they take a minute.
    """
    # It does not live with the others in one environment.
    alone = engines == "airflow"
    extras = engine_extras(*(["airflow"] if alone else CONFORMING))
    install(session, *group("tests", "services"), extras=extras)
    scenes = ("-m", "not recipes", "-k", "airflow" if alone else "not airflow")
    pytest(session, *MORE_WORKERS, *scenes, folders=("tests/engines/conformance",))
    if alone:
        # In one process, for one home of Airflow, which takes half a minute to make.
        folders = ("tests/engines/test_airflow_processes.py",)
        pytest(session, folders=folders, under=counting(session, "airflow_processes"))


@nox.session(tags=["processes"])
def recipes(session: nox.Session) -> None:
    """Run the programs of examples/engines with their servers, and kill some."""
    needs = group("tests", "services", "recipes")
    install(session, *needs, "mypy", extras="[cli,cloud,postgres,redis]")
    session.run("mypy", *map(str, ROOT.glob("examples/engines/*.py")))
    folders = ("tests/engines/recipes", "tests/engines/conformance")
    few = ("-m", "recipes", "-k", FEW_SCENES)
    pytest(session, *WORKERS, *few, folders=folders)


@nox.session
def report(session: nox.Session) -> None:
    """Judge the lines that `coverage` and the sessions of engines have reached."""
    session.install(*(need for need in group("tests") if need.startswith("coverage")))
    files = [*COUNTED.iterdir()]
    session.run("coverage", "combine", "--quiet", *map(str, files))
    reached = {path.name.partition(".")[0] for path in files}
    missing = ",".join(
        # A module, or a package: a `*` does not match a slash.
        f"*/contrib/{name}.py,*/contrib/{name}/*"
        for name in ENGINES
        if name not in reached
    )
    session.run(
        *("coverage", "report", "--skip-covered", "--fail-under=94"),
        *(f"--omit={names}" for names in [missing] if names),
    )
    deciding = ",".join(f"*/{PACKAGE}/{name}" for name in DECIDING)
    session.run("coverage", "report", f"--include={deciding}", "--fail-under=100")


@nox.session(default=False)
def reliability(session: nox.Session) -> None:
    """
    Kill five hundred processes; a seed of yours: AMPLITUDE_KILLS_SEED.

    About four minutes on two processors.
    """
    install(session, *group("tests"))
    session.env["AMPLITUDE_KILLS"] = "500"
    loop = "tests/reliability/test_crash_loop.py"
    pytest(session, *WORKERS, "-rP", folders=(loop,))


@nox.session(default=False)
def quick(session: nox.Session) -> None:
    """
    Check style, layers, types and most tests, in one environment: for each change.
    """
    install(session, *group("lint", "tests"), "mypy")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports", "--no-cache", silent=True)
    session.run("mypy")
    pytest(session, *WORKERS, *QUICK)


@nox.session(default=False)
def api(session: nox.Session) -> None:
    """Write down the public surface, after a wanted change."""
    install(session)
    with (ROOT / "tests/public/api.txt").open("w") as promised:
        session.run("python", "tests/support/surface.py", stdout=promised)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """
    Compare speed and memory with the peers', one benchmark after the other.

    Name some to run only these: ``nox -s bench -- download rows``. Never a gate.
    The server is nginx, and curl and aria2c come from the system; what is missing
    is left out, and the run says so.
    """
    names = session.posargs or list(BENCHMARKS)

    if not BENCHMARKS.keys() >= set(names):
        session.error(f"name some of: {', '.join(BENCHMARKS)}")

    install(session, *PEERS)
    session.chdir(session.create_tmp())

    for name in names:
        run = ROOT / "benchmarks" / name / "run.py"
        session.run("python", str(run), *BENCHMARKS[name])


@nox.session(default=False)
def fleet(session: nox.Session) -> None:
    """
    Export with a fleet on each engine, beside plain asyncio, in 40 minutes.

    Options after ``--`` go to benchmarks/fleet/run.py. Never a gate. The engines that
    can live in one environment are here; its ``--python`` names that of another.
    """
    install(session, *group("tests", "services"), extras=engine_extras(*CONFORMING))
    session.chdir(session.create_tmp())
    run = ROOT / "benchmarks" / "fleet" / "run.py"
    session.run("python", str(run), *session.posargs)
