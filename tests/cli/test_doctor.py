"""The command looks at itself: keys, region, network, clock, quota, disk, job store."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest

from amplitude_cohorts_async.cli.doctor import command as doctor
from amplitude_cohorts_async.cli.doctor import machine
from amplitude_cohorts_async.models import Region
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, Quotas
from amplitude_cohorts_async.testing.faults import broken, refused
from support.fault_server import closed_port, tls_port

ROOT = Path(__file__).parents[2]


class Regions(NamedTuple):
    """The two places that keys may be of, and a store."""

    us: CohortsEmulator
    eu: CohortsEmulator


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def cohorts_emulator_setup() -> CohortsEmulator:
    """An emulator whose clock is right."""
    return CohortsEmulator(clock=FakeClock(utc=datetime.now(UTC), flows=True))


@pytest.fixture
def regions(
    cohorts_emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Regions]:
    """Both regions on this machine; the keys are of the one in the EU."""
    with CohortsEmulator(api_key="us-key", secret_key="us-secret") as us:
        monkeypatch.delenv("AMPLITUDE_BASE_URL")
        monkeypatch.setattr(Region.US, "_value_", us.base_url)
        monkeypatch.setattr(Region.EU, "_value_", cohorts_emulator.base_url)
        stores = {"us": us.store_url, "eu": cohorts_emulator.store_url}
        monkeypatch.setattr(doctor, "STORES", stores)
        yield Regions(us, cohorts_emulator)


@pytest.fixture
def checked(command) -> Callable[..., tuple[int, dict[str, tuple[str, str]]]]:
    """Run it; return its code, and state and text by name."""

    def run(*words: object) -> tuple[int, dict[str, tuple[str, str]]]:
        done = command("doctor", "--json", *words)
        document = json.loads(done.out)["doctor"]
        assert document["healthy"] == (0 == done.code)
        return done.code, {
            each["name"]: (each["state"], each["text"]) for each in document["checks"]
        }

    return run


def test_all_is_well(checked, cohorts_emulator: CohortsEmulator):
    """Each thing is named; nothing is spent."""
    code, found = checked()
    words = "versions extras proxy disk temporary source network clock keys quota"
    stores = {"job store", "open exports", "object store"}

    assert 0 == code
    assert {*words.split(), *stores} == set(found)
    assert {"ok", "unknown"} == {state for state, _ in found.values()}
    assert "500 of 500" in found["quota"][1]
    assert 0 == cohorts_emulator.spent
    assert 0 == cohorts_emulator.requests("export")


def test_lines_have_three_fields(command):
    """For grep: state, name, text."""
    code, out, _ = command("doctor")

    assert 0 == code
    assert {3} == {len(line.split("\t")) for line in out.splitlines()}


def test_keys_of_the_other_region_are_recognised(checked, regions: Regions):
    """Before anybody says that they are wrong; the way out is named."""
    code, found = checked("--region", "us")

    assert 3 == code
    assert "region eu, not us" in found["keys"][1]
    assert "AMPLITUDE_REGION=eu" in found["keys"][1]
    assert (1, 1) == (regions.us.requests("usage"), regions.eu.requests("usage"))


def test_keys_of_no_region_are_wrong(checked, regions: Regions, monkeypatch):
    """Both were asked."""
    monkeypatch.setenv("AMPLITUDE_SECRET_KEY", "wrong")
    code, found = checked("--region", "eu")

    assert 3 == code
    assert "neither region" in found["keys"][1]


def test_another_region_that_is_away_leaves_it_open(
    checked, regions: Regions, monkeypatch: pytest.MonkeyPatch
):
    """Nothing is claimed of it."""
    with closed_port() as port:
        monkeypatch.setattr(Region.EU, "_value_", f"http://127.0.0.1:{port}")
        code, found = checked()

    assert 3 == code
    assert "could not be asked" in found["keys"][1]


def test_keys_go_nowhere_but_to_a_base_url(checked, regions: Regions):
    """Whoever names a server has named it for the keys."""
    code, found = checked("--base-url", regions.us.base_url)

    assert (3, "failed") == (code, found["keys"][0])
    assert (1, 0) == (regions.us.requests("usage"), regions.eu.requests("usage"))


def test_a_store_of_the_region_is_tried(checked, regions: Regions):
    """It answers, which is all that can be known; no key of ours goes there."""
    _, found = checked("--region", "eu")

    assert "ok" == found["object store"][0]
    assert not [
        each for each in regions.eu.log if "us-key" in str(each.headers.values())
    ]


def test_a_store_that_is_away_is_a_warning(checked, regions, monkeypatch):
    """Only an export shows where its file is."""
    with closed_port() as port:
        stores = dict.fromkeys(("us", "eu"), f"http://127.0.0.1:{port}")
        monkeypatch.setattr(doctor, "STORES", stores)
        code, found = checked("--region", "eu")

    assert (0, "warning") == (code, found["object store"][0])


def test_missing_keys_leave_the_rest(checked, monkeypatch: pytest.MonkeyPatch):
    """What is here is looked at all the same."""
    monkeypatch.delenv("AMPLITUDE_API_KEY")
    code, found = checked()

    assert (2, "failed") == (code, found["keys"][0])
    assert "AMPLITUDE_API_KEY" in found["keys"][1]
    assert {"versions", "disk", "job store"} <= set(found)


def test_a_host_that_is_away(checked):
    """Nothing is said of keys that nobody looked at."""
    with closed_port() as port:
        code, found = checked("--base-url", f"http://127.0.0.1:{port}")

    assert (5, "failed") == (code, found["network"][0])
    assert "certificate" not in found["network"][1]
    assert "keys" not in found
    assert {"open exports", "object store"} <= set(found)


def test_a_certificate_that_is_not_trusted(checked, certificates: tuple[Path, Path]):
    """As that of a proxy that opens TLS: what to set is said."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates[0])

    with tls_port(context) as port:
        code, found = checked("--base-url", f"https://127.0.0.1:{port}")

    assert (5, "failed") == (code, found["network"][0])
    assert "SSL_CERT_FILE" in found["network"][1]


def test_a_server_without_tls(checked, cohorts_emulator: CohortsEmulator):
    """No certificate was seen, so nothing is said of one."""
    url = cohorts_emulator.base_url.replace("http:", "https:")
    code, found = checked("--base-url", url)

    assert (5, "failed") == (code, found["network"][0])
    assert "certificate" not in found["network"][1]


def test_keys_without_a_permission(checked, cohorts_emulator: CohortsEmulator):
    """They are valid."""
    cohorts_emulator.fail_next("usage", refused(403, "not in your plan"))
    code, found = checked()

    assert 3 == code
    assert "valid" in found["keys"][1]


def test_a_server_that_fails(checked, cohorts_emulator: CohortsEmulator):
    """Its error is told in one sentence."""
    cohorts_emulator.fail_next("usage", broken(503), times=None)
    code, found = checked()

    assert (5, "failed") == (code, found["keys"][0])


@pytest.mark.parametrize(("ahead", "side"), [(-300, "ahead of"), (300, "behind")])
def test_a_clock_that_is_off(checked, monkeypatch, ahead: int, side: str):
    """By the time in the service's answer."""

    class Off(datetime):
        """A clock that is not set."""

        @classmethod
        def now(cls, tz=None) -> datetime:
            return datetime.now(tz) - timedelta(seconds=ahead)

    monkeypatch.setattr(doctor, "datetime", Off)
    code, found = checked()

    assert (0, "warning") == (code, found["clock"][0])
    assert f"s {side} the service's" in found["clock"][1]
    assert datetime.now(UTC)


class TestLittleIsLeft:
    """Of the month."""

    @pytest.fixture
    def cohorts_emulator_setup(self) -> CohortsEmulator:
        """A plan of five exports."""
        return CohortsEmulator(quotas=Quotas(month=5))

    def test_it_is_a_warning(self, checked):
        """With when there is more."""
        _, found = checked()

        assert "warning" == found["quota"][0]
        assert "5 of 5 exports left this month, until " in found["quota"][1]


def test_little_room_is_a_warning(checked, monkeypatch: pytest.MonkeyPatch):
    """A large file would not fit."""
    usage = shutil.disk_usage("/")._replace(free=5_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    code, found = checked()

    assert 0 == code
    assert "only 5.0 MB free" in found["disk"][1]


def test_a_proxy_that_is_not_used_is_named(checked, monkeypatch):
    """Whoever sits behind one reads what to type; its address is not shown."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hush@proxy.example:3128")
    state, text = checked()[1]["proxy"]

    assert "warning" == state
    assert "HTTPS_PROXY" in text
    assert "hush" not in text


@pytest.mark.posix
def test_a_record_that_others_can_read(checked, data_folder: Path):
    """It is there, and too open."""
    data_folder.mkdir(parents=True)
    file = data_folder / "exports.db"
    file.touch()
    file.chmod(0o644)

    assert "chmod 600" in checked()[1]["job store"][1]


def test_open_exports_are_counted(checked, command, cohorts_emulator, tmp_path):
    """They are paid for, and wait."""
    cohorts_emulator.add_cohort("long", members=["ann"], job_seconds=9_000)
    command("export", "long", "-o", tmp_path / "x.csv", "--timeout", 1)
    state, text = checked()[1]["open exports"]

    assert ("warning", True) == (state, text.startswith("1 open"))


def test_a_terminal_gets_folded_lines(command, monkeypatch: pytest.MonkeyPatch):
    """At 40 columns nothing is cut, and no line is longer."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    out = command("doctor").out

    assert [] == [line for line in out.splitlines() if len(line) > 40]
    assert "amplitude-cohorts" in out


def test_no_record_is_a_warning(checked):
    """What is spent would be forgotten with the process."""
    assert "warning" == checked("--no-jobs")[1]["job store"][0]


def test_a_record_that_needs_an_extra(checked, monkeypatch: pytest.MonkeyPatch):
    """It is named, and what is here is looked at all the same."""
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    ours = (
        "amplitude_cohorts_async.contrib.redis",
        "amplitude_cohorts_async.contrib._redis",
    )
    for name in [each for each in sys.modules if each.startswith(ours)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("AMPLITUDE_JOBS", "redis://127.0.0.1:1")
    code, found = checked()

    assert (2, "failed") == (code, found["extra"][0])
    assert "redis" in found["extra"][1]


def test_a_record_on_a_server_is_no_file(checked, monkeypatch: pytest.MonkeyPatch):
    """Its address is not shown; whether it answers, its own check says."""
    pytest.importorskip("redis")
    with closed_port() as port:
        monkeypatch.setenv("AMPLITUDE_JOBS", f"redis://me:hush@127.0.0.1:{port}")
        _, found = checked()

    assert ("ok", True) == (found["job store"][0], "server" in found["job store"][1])
    assert "failed" == found["open exports"][0]
    assert "hush" not in str(found)


def test_a_record_that_cannot_be_made(checked, tmp_path: Path, monkeypatch):
    """Exports would be refused, which is said before one is tried."""
    monkeypatch.setattr("os.access", lambda place, _: place != tmp_path)
    code, found = checked("--jobs", tmp_path / "sub" / "exports.db")

    assert "failed" == found["job store"][0]
    assert "cannot be written to" in found["job store"][1]
    assert 0 != code


def test_a_folder_that_is_read_only(checked, tmp_path: Path, monkeypatch):
    """A file could not be saved here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.access", lambda place, _: place != tmp_path)

    assert "warning" == checked()[1]["disk"][0]


def test_missing_extras_are_named(checked, monkeypatch: pytest.MonkeyPatch):
    """Each with its own name."""
    monkeypatch.setattr(machine, "_version", lambda _: "")

    absent = ", ".join(sorted(machine.EXTRAS))

    assert f"installed: none; not installed: {absent}" == checked()[1]["extras"][1]


def test_an_extra_is_installed_as_a_whole(checked, monkeypatch: pytest.MonkeyPatch):
    """One distribution of several is not enough."""
    monkeypatch.setattr(machine, "_version", lambda name: "" if name == "isal" else "1")

    assert checked()[1]["extras"][1].endswith("; not installed: speed")


def test_every_extra_is_known():
    """But for the command's own; each with all that it brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = dict(project["optional-dependencies"])
    del extras["cli"]

    assert {
        extra: {re.match(r"[\w-]+", each)[0] for each in packages}
        for extra, packages in extras.items()
    } == {
        # It comes with psycopg, by an extra of that.
        extra: {*packages} - {"psycopg-pool"}
        for extra, packages in machine.EXTRAS.items()
    }


@pytest.mark.parametrize(
    ("value", "text"), [("env", "HTTP_PROXY"), ("http://127.0.0.1:9", "by --proxy")]
)
def test_a_proxy_that_is_used(checked, monkeypatch, value: str, text: str):
    """By which way."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    assert text in checked("--proxy", value)[1]["proxy"][1]
