"""
One download in one way, in a process of its own: `ways.py WAY URL OUT [ticker]`.

Prints what it took as JSON. With a ticker it tells stalls as well, and is slower: in a loop
that is busy the ticker itself takes some percent of the time.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

CLI = {
    "curl": ["curl", "-sf", "-o", "{out}", "{url}"],
    "aria2c -x16": [
        *("aria2c", "-q", "-x16", "-s16", "-k1M", "--allow-overwrite=true"),
        *("--file-allocation=none", "--ca-certificate={trust}"),
        *("-d", "{folder}", "-o", "{name}", "{url}"),
    ],
}


class Watch:
    """What a download takes, from its start to its stop."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self.found: dict[str, float] = {}

    def start(self) -> None:
        """Begin anew."""
        self.late.clear()
        self._memory = _most_memory()
        self._cpu, self._started = time.process_time(), time.perf_counter()

    def stop(self) -> None:
        """Sum up; a second time changes nothing."""
        if self.found:
            return

        seconds = time.perf_counter() - self._started
        cpu = time.process_time() - self._cpu
        memory = _most_memory() - self._memory
        self.found = {"seconds": seconds, "cpu": cpu, "memory": memory}

        if late := sorted(self.late):
            self.found |= {
                "p50": 1e3 * late[len(late) // 2],
                "p99": 1e3 * late[int(len(late) * 0.99)],
                "max": 1e3 * late[-1],
            }


def _most_memory() -> float:
    # In MiB. What resource tells was inherited from whoever started us.
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))

    return int(line.split()[1]) / 1024


watch = Watch()


async def ours(url: str, out: Path, **keywords: object) -> None:
    """Download as a user does: from the client, its job and a link to the store."""
    from amplitude_cohorts_async import CohortsClient  # noqa: PLC0415  its cost is its own
    from amplitude_cohorts_async.limits import UNLIMITED  # noqa: PLC0415
    from amplitude_cohorts_async.policies import Polling  # noqa: PLC0415

    async def answer(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with_file = (
            f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n"
        )
        body = '{"async_status": "JOB COMPLETED"}'
        done = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        while head := await reader.readuntil(b"\r\n\r\n"):
            is_file = b"/file " in head.split(b"\r\n")[0]
            writer.write((with_file if is_file else done).encode())

    service = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = service.sockets[0].getsockname()[1]

    async with CohortsClient(
        "api-key",
        "secret-key",
        base_url=f"http://127.0.0.1:{port}",
        limits=UNLIMITED,
        polling=Polling(initial_delay=0.0, interval=0.01),
        **keywords,  # type: ignore[arg-type]
    ) as client:
        job = await client.resume_export("Sf7M9j").wait()
        # The job itself is Amplitude's business.
        watch.start()
        await job.download(out)
        watch.stop()

    service.close()


async def ordinary(url: str, out: Path) -> None:
    """Download with the fast path switched off."""
    from amplitude_cohorts_async.policies import Downloading  # noqa: PLC0415

    await ours(url, out, downloading=Downloading(fast=False))


async def without_extra(url: str, out: Path) -> None:
    """Download as where the extra ``speed`` is not installed."""
    for package in ("aiofastnet", "isal"):
        sys.modules[package] = None  # type: ignore[assignment]

    await ours(url, out)


async def slow_disk(url: str, out: Path) -> None:
    """Download to a disk on which each write takes twenty milliseconds."""
    real = os.pwrite

    def slow(file: int, data: memoryview, start: int) -> int:
        time.sleep(0.02)
        return real(file, data, start)

    os.pwrite = slow
    await ours(url, out)


async def aiohttp_chunks(url: str, out: Path) -> None:
    """Do what the tutorials say: 64 KiB at a time, written on the loop."""
    import aiohttp  # noqa: PLC0415

    async with aiohttp.ClientSession() as session, session.get(url) as response:
        with out.open("wb") as file:
            async for chunk in response.content.iter_chunked(65_536):
                file.write(chunk)


async def httpx_stream(url: str, out: Path) -> None:
    """Stream with httpx."""
    import ssl  # noqa: PLC0415

    import httpx  # noqa: PLC0415

    context = ssl.create_default_context()
    async with (
        httpx.AsyncClient(verify=context) as client,
        client.stream("GET", url) as response,
    ):
        with out.open("wb") as file:
            async for chunk in response.aiter_raw():
                file.write(chunk)


async def obstore_stream(url: str, out: Path) -> None:
    """Stream with obstore, which is Rust."""
    from obstore.store import HTTPStore  # noqa: PLC0415

    base, _, name = url.rpartition("/")
    options = {"allow_invalid_certificates": True}
    store = HTTPStore.from_url(base, client_options=options)  # type: ignore[arg-type]
    with out.open("wb") as file:
        async for chunk in (await store.get_async(name)).stream(1 << 20):
            file.write(chunk)


async def pyreqwest_stream(url: str, out: Path) -> None:
    """Stream with pyreqwest, which is Rust."""
    from pyreqwest.client import ClientBuilder  # noqa: PLC0415

    trust = Path(os.environ["SSL_CERT_FILE"]).read_bytes()  # noqa: ASYNC240
    builder = ClientBuilder().add_root_certificate_pem(trust)
    async with builder.build() as client, client.get(url).build_streamed() as response:
        with out.open("wb") as file:
            while chunk := await response.body_reader.read_chunk():
                file.write(chunk)


async def pycurl_perform(url: str, out: Path) -> None:
    """Download with pycurl, which keeps the loop waiting until all is there."""
    import pycurl  # noqa: PLC0415

    curl = pycurl.Curl()
    with out.open("wb") as file:
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.CAINFO, os.environ["SSL_CERT_FILE"])
        curl.setopt(pycurl.WRITEDATA, file)
        curl.perform()
    curl.close()


async def bare_inflate(url: str, out: Path) -> None:
    """Inflate a body that is in memory already, and write nothing."""
    import aiohttp  # noqa: PLC0415

    from amplitude_cohorts_async._io.sinks.filters import inflater  # noqa: PLC0415

    async with aiohttp.ClientSession() as session, session.get(url) as response:
        body = await response.read()

    stream, size = inflater(), 0
    watch.start()
    for at in range(0, len(body), 65_536):
        size += len(stream.decompress(body[at : at + 65_536], 1 << 30))
    watch.stop()
    out.write_bytes(bytes(size))  # noqa: ASYNC240


WAYS: dict[str, Callable[[str, Path], Awaitable[None]]] = {
    "ours": ours,
    "ours, uvloop": ours,
    "ours, no extra": without_extra,
    "ours, no extra, uvloop": without_extra,
    "ours, ordinary path": ordinary,
    "ours, slow disk": slow_disk,
    "aiohttp, 64 KiB chunks": aiohttp_chunks,
    "bare inflate": bare_inflate,
    "httpx": httpx_stream,
    "obstore": obstore_stream,
    "pycurl": pycurl_perform,
    "pyreqwest": pyreqwest_stream,
}


async def _measured(way: str, url: str, out: Path, *, ticks: bool) -> dict[str, float]:
    async def tick() -> None:
        while True:
            due = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            watch.late.append(max(0.0, time.perf_counter() - due))

    ticking = asyncio.ensure_future(tick()) if ticks else None
    await asyncio.sleep(0.05)
    watch.start()
    await WAYS[way](url, out)
    watch.stop()
    if ticking is not None:
        ticking.cancel()

    return watch.found


def _commanded(way: str, url: str, out: Path) -> dict[str, float]:
    values = {"url": url, "out": out, "folder": out.parent, "name": out.name}
    values["trust"] = os.environ["SSL_CERT_FILE"]
    command = [word.format(**values) for word in CLI[way]]
    started = time.perf_counter()
    subprocess.run(
        command, check=True, env=os.environ | {"CURL_CA_BUNDLE": str(values["trust"])}
    )
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)

    return {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime}


def _require_extra() -> None:
    # Without it the figures would bear the wrong name.
    import aiofastnet  # noqa: PLC0415

    libraries = aiofastnet.OPENSSL_DYN_LIBS
    engine = libraries.libssl if libraries else "Python's ssl, which is slower"
    print(f"aiofastnet {aiofastnet.__version__} on {engine}", file=sys.stderr)


def main(way: str, url: str, out: str, ticker: str = "") -> None:
    """Download once and print what it took."""
    if way in CLI:
        found = _commanded(way, url, Path(out))
    else:
        if way.startswith("ours"):
            # What a program has imported is not the download's.
            import amplitude_cohorts_async._client  # noqa: F401, PLC0415

            if "no extra" not in way:
                _require_extra()
        run = asyncio.run
        if way.endswith("uvloop"):
            import uvloop  # noqa: PLC0415

            run = uvloop.run
        found = run(_measured(way, url, Path(out), ticks=bool(ticker)))

    print(json.dumps(found | {"size": Path(out).stat().st_size}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
