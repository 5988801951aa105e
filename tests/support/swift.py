"""
A real object store for the tests: one-node OpenStack Swift with its S3 API.

It comes as a wheel, needs no root, listens on loopback only, checks signatures of
version 4 and lets links expire, which no mock of S3 that we tried does fully.
"""

from __future__ import annotations

import contextlib
import getpass
import http.client
import json
import os
import ssl
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

from botocore.auth import SIGV4_TIMESTAMP, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from .ports import LOOPBACK, await_port, free_ports

BUCKET = "cohorts"
ACCESS_KEY = "test:tester"
SECRET_KEY = "testing"
REGION = "us-east-1"
SCRIPTS = Path(sys.executable).parent
TESTS = Path(__file__).parents[1]

COMMON = """\
[DEFAULT]
bind_ip = {ip}
bind_port = {port}
user = {user}
swift_dir = {folder}
workers = 0
log_level = WARNING
log_address = {folder}/no-syslog
"""

STORAGE = """\
devices = {folder}/devices
mount_check = false

[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
"""

PROXY = """\
{tls}
[pipeline:main]
pipeline = catch_errors s3like cache s3api tempauth copy slo dlo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:s3like]
paste.filter_factory = support.s3like:filter_factory
journal = {folder}/journal

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:cache]
use = egg:swift#memcache
memcache_servers = {ip}:1

[filter:s3api]
use = egg:swift#s3api
dns_compliant_bucket_names = false
location = us-east-1

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin

[filter:copy]
use = egg:swift#copy

[filter:slo]
use = egg:swift#slo

[filter:dlo]
use = egg:swift#dlo
"""

HASH = """\
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests

[storage-policy:0]
name = only
default = yes
"""

RINGS = """
import sys
from swift.common.ring import RingBuilder

for kind, port in zip(sys.argv[1::2], sys.argv[2::2]):
    builder = RingBuilder(part_power=4, replicas=1, min_part_hours=1)
    where = {"ip": "127.0.0.1", "port": int(port), "device": "one"}
    builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, **where})
    builder.rebalance()
    builder.get_ring().save(f"{kind}.ring.gz")
"""


class Swift:
    """
    A running store with one bucket: put objects, give out links, see what was asked.
    """

    def __init__(
        self,
        folder: Path,
        *,
        certificate: Path | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """
        Prepare a store; entering it starts the servers.

        Args:
            folder: An empty folder for its state.

            certificate: Private key and chain for 127.0.0.1; then it speaks https.

            trust: What its own requests believe, when it speaks https.
        """
        self._folder = folder
        self._certificate = certificate
        self._trust = trust
        self._servers: list[subprocess.Popen[bytes]] = []
        self.origin = ""

    def __enter__(self) -> Self:
        for _ in range(3):  # somebody else may take a free port before we do
            if self._start(free_ports(4)) and self._make_bucket():
                return self
            self._stop()

        raise RuntimeError(f"Swift did not start; its logs are in {self._folder}")

    def __exit__(self, *_: object) -> None:
        self._stop()

    def put(self, key: str, body: bytes, **headers: str) -> str:
        """
        Store an object and return its ETag.

        Args:
            key: The name of the object.

            body: Its bytes.

            headers: Stored with it, as in `content_encoding="gzip"`.
        """
        return self._send(
            *("PUT", f"/{BUCKET}/{key}", body),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        )

    def link(self, key: str, *, seconds: int = 60, at: datetime | None = None) -> str:
        """
        Presign a GET of an object.

        Args:
            key: The name of the object.

            seconds: How long the link lives.

            at: When it was signed; a moment in the past makes an expired link.
        """
        return self._sign("GET", f"/{BUCKET}/{key}", seconds=seconds, at=at)

    def requests(self) -> list[dict[str, Any]]:
        """Tell what arrived so far: `method`, `path`, `query` and `headers` of each."""
        lines = (self._folder / "journal").read_text().splitlines()

        return [json.loads(line) for line in lines]

    def _sign(
        self, method: str, path: str, *, seconds: int = 60, at: datetime | None = None
    ) -> str:
        request = AWSRequest(method, self.origin + quote(path))
        credentials = Credentials(ACCESS_KEY, SECRET_KEY)
        moment = at or datetime.now(UTC)
        _DatedAuth(credentials, moment, seconds).add_auth(request)

        return str(request.url)

    def _send(self, method: str, path: str, body: bytes, **headers: str) -> str:
        url = urlsplit(self._sign(method, path))
        connection = (
            http.client.HTTPSConnection(url.netloc, context=self._trust)
            if self._trust
            else http.client.HTTPConnection(url.netloc)
        )

        with contextlib.closing(connection):
            connection.request(method, f"{url.path}?{url.query}", body, headers)
            answer = connection.getresponse()
            text = answer.read()

        if 200 != answer.status:
            raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")

        return answer.getheader("ETag", "")

    def _make_bucket(self) -> bool:
        # On a busy machine its parts are not at once of one mind.
        for _ in range(20):
            with contextlib.suppress(RuntimeError):
                self._send("PUT", f"/{BUCKET}", b"")
                return True
            time.sleep(0.25)

        return False

    def _start(self, ports: list[int]) -> bool:
        kinds = dict(
            zip(("object", "container", "account", "proxy"), ports, strict=True)
        )
        self._configure(kinds)
        scheme = "https" if self._certificate else "http"
        self.origin = f"{scheme}://{LOOPBACK}:{kinds['proxy']}"
        self._servers = [self._launch(kind) for kind in kinds]

        return all(
            await_port(port, alive=lambda server=server: server.poll() is None)
            for server, port in zip(self._servers, ports, strict=True)
        )

    def _stop(self) -> None:
        for server in self._servers:
            server.kill()
        for server in self._servers:
            server.wait()
        self._servers = []

    def _launch(self, kind: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{kind}.log").open("wb") as log:
            return subprocess.Popen(
                [SCRIPTS / f"swift-{kind}-server", self._folder / f"{kind}.conf"],
                env={**os.environ, "PYTHONPATH": str(TESTS)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _configure(self, kinds: dict[str, int]) -> None:
        folder = self._folder
        (folder / "devices/one").mkdir(parents=True, exist_ok=True)
        (folder / "journal").touch()
        (folder / "swift.conf").write_text(HASH)
        certificate = self._certificate
        tls = (
            f"cert_file = {certificate}\nkey_file = {certificate}"
            if certificate
            else ""
        )

        for kind, port in kinds.items():
            template = COMMON + (PROXY if "proxy" == kind else STORAGE)
            text = template.format(
                ip=LOOPBACK,
                port=port,
                user=getpass.getuser(),
                folder=folder,
                kind=kind,
                tls=tls,
            )
            (folder / f"{kind}.conf").write_text(text)

        words = [str(word) for pair in kinds.items() for word in pair]
        subprocess.run([sys.executable, "-c", RINGS, *words], cwd=folder, check=True)


class _DatedAuth(S3SigV4QueryAuth):
    """Sign as of a given moment, so that a test of expiry need not sleep."""

    def __init__(self, credentials: Credentials, at: datetime, seconds: int) -> None:
        super().__init__(credentials, "s3", REGION, expires=seconds)
        self._at = at

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        request.context["timestamp"] = self._at.strftime(SIGV4_TIMESTAMP)
        super()._modify_request_before_signing(request)
