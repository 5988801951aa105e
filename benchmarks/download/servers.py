"""The servers to download from: nginx, and a store that holds each connection back."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_CONFIGURATION = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; keepalive_requests 100000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port} ssl; root {root};
    ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;
  }}
}}
"""

# Not in the socket module: the kernel's own pacing of one connection.
_SO_MAX_PACING_RATE = 47


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Make an authority and a server's certificate; return authority, chain and key."""
    import trustme  # noqa: PLC0415  its own session installs it

    authority = trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    paths = folder / "authority.pem", folder / "chain.pem", folder / "key.pem"
    authority.cert_pem.write_to_path(paths[0])
    server.cert_chain_pems[0].write_to_path(paths[1])
    server.private_key_pem.write_to_path(paths[2])

    return paths


@contextmanager
def nginx(folder: Path, root: Path, chain: Path, key: Path) -> Iterator[str]:
    """Serve *root* over TLS 1.3."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise FileNotFoundError(
            "nginx is not installed; try apt-get install nginx-light"
        )

    port = _free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(
        _CONFIGURATION.format(folder=folder, port=port, root=root, chain=chain, key=key)
    )
    process = subprocess.Popen([program, "-c", str(configuration)])
    try:
        _await_port(port)
        yield f"https://localhost:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def throttled(file: Path, chain: Path, key: Path, *, rate: float) -> Iterator[str]:
    """Serve one file over TLS, and give each connection *rate* bytes a second."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    body = file.read_bytes()
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(
                    target=_serve, args=(connection, context, body, rate), daemon=True
                ).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"https://localhost:{listener.getsockname()[1]}"
    finally:
        listener.close()


def _serve(
    connection: socket.socket, context: ssl.SSLContext, body: bytes, rate: float
) -> None:
    connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, int(rate))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)

    with suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
        while head := tls.recv(65_536):
            asked = re.search(rb"(?i)range: bytes=(\d+)-(\d*)", head)
            start, end = 0, len(body)
            if asked:
                start = int(asked[1])
                end = int(asked[2]) + 1 if asked[2] else end
            span = f"Content-Range: bytes {start}-{end - 1}/{len(body)}\r\n"
            tls.sendall(
                f"HTTP/1.1 {'206 Partial' if asked else '200 OK'}\r\n"
                f'ETag: "one"\r\nAccept-Ranges: bytes\r\n{span if asked else ""}'
                f"Content-Length: {end - start}\r\n\r\n".encode()
            )
            for at in range(start, end, 65_536):
                tls.sendall(memoryview(body)[at : min(at + 65_536, end)])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


def _await_port(port: int) -> None:
    for _ in range(100):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)

    raise TimeoutError("nginx did not start; see its error.log")
