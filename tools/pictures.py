"""
Draw the README's pictures, each of a real run against the emulator.

`python tools/pictures.py` draws them all, `python tools/pictures.py command` one. Needs a
POSIX terminal, and the group `docs`; for `page` also what page_picture.py does.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH, HEIGHT = 96, 40
CTRL_C = b"\x03"
FONT_OF_A_SERVER = re.compile(r"@font-face \{\{.*?\}\}\n", re.DOTALL)
# Python, so that the command under the picture is that of this checkout.
COMMAND = (sys.executable, "-m", "amplitude_cohorts_async")

# What is typed, and after which words of it Ctrl-C is pressed.
SCENES: tuple[tuple[str, str | None], ...] = (
    ("list", None),
    ("plan 26umsb5 9apg8e8f", None),
    ("export 9apg8e8f -o active.parquet -p plan -p country", "requested export"),
    ("export 9apg8e8f -o active.parquet -p plan -p country", None),
)


def draw_command(target: Path) -> None:
    """Draw the command: what there is, what it costs, an interruption, the file."""
    screen = pyte.Screen(WIDTH, HEIGHT)
    terminal = pyte.ByteStream(screen)

    with TemporaryDirectory() as folder, emulator() as variables:
        environment = {
            **os.environ,
            **variables,
            "COLUMNS": str(WIDTH),
            "HOME": folder,
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
            "XDG_DATA_HOME": folder,
        }
        for words, interrupted_after in SCENES:
            terminal.feed(f"$ amplitude-cohorts {words}\r\n".encode())
            for output in typed(words, folder, environment, interrupted_after):
                terminal.feed(output)
            terminal.feed(b"\r\n")

    target.write_text(svg_of(screen))


@contextmanager
def emulator() -> Iterator[dict[str, str]]:
    """Run the emulator as a user does, and tell the variables that it prints."""
    emulate = "emulate --job-seconds 3"
    with subprocess.Popen(
        [*COMMAND, *emulate.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        try:
            yield dict(
                shlex.split(line.removeprefix("export "))[0].split("=", 1)
                for line in lines
            )
        finally:
            process.terminate()


def typed(
    words: str,
    folder: str,
    environment: Mapping[str, str],
    interrupted_after: str | None,
) -> Iterator[bytes]:
    """Run the command at a terminal, and yield what it writes there."""
    process, terminal = pty.fork()
    if process == pty.CHILD:
        os.chdir(folder)
        # Who started this may ignore it, as a shell does for what runs in the background.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execvpe(sys.executable, [*COMMAND, *words.split()], environment)
    seen = b""

    while output := read(terminal):
        seen += output
        yield output.replace(b"^C", b"^C\r\n")
        if interrupted_after is not None and interrupted_after.encode() in seen:
            os.write(terminal, CTRL_C)
            interrupted_after = None

    os.close(terminal)
    os.waitpid(process, 0)


def read(terminal: int) -> bytes:
    """Return what comes from a terminal; nothing once its process has ended."""
    try:
        return os.read(terminal, 65_536)
    except OSError:  # so does Linux tell it
        return b""


def svg_of(screen: pyte.Screen) -> str:
    """Return the screen as a picture that fetches no font."""
    lines = [line_of(screen, row) for row in range(screen.lines)]
    while not lines[-1].plain.strip():
        lines.pop()
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    console.print(*lines, sep="\n", soft_wrap=True)

    return console.export_svg(
        title="amplitude-cohorts",
        theme=MONOKAI,
        code_format=FONT_OF_A_SERVER.sub("", CONSOLE_SVG_FORMAT),
        unique_id="command",
    )


def line_of(screen: pyte.Screen, row: int) -> Text:
    """Return a line of the screen with its colours."""
    line = Text()
    for column in range(screen.columns):
        cell = screen.buffer[row][column]
        colour = {"brown": "yellow"}.get(cell.fg, cell.fg)
        colour = re.sub(r"^bright(?=[a-z])", "bright_", colour)
        styles = ["bold"] * cell.bold + [colour] * (colour != "default")
        line.append(cell.data, " ".join(styles))
    line.rstrip()

    return line


def draw_badges(target: Path) -> None:
    """Draw what README says of the package at a glance, without asking a server."""
    target.write_text(badges())


def badges() -> str:
    """Return the facts of `pyproject.toml` as one picture."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [
        line.rpartition(" ")[2]
        for line in project["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    ]
    facts = (
        ("python", f"{versions[0]} to {versions[-1]}"),
        ("license", project["license"]),
        ("types", "strict"),
    )
    parts, left = [], 0
    for name, value in facts:
        middle, right = left + wide(name), left + wide(name) + wide(value)
        parts += [
            box(left, middle, "#555", name),
            box(middle, right, "#1a5fb4", value),
        ]
        left = right + 6

    label = "; ".join(f"{name}: {value}" for name, value in facts)
    size = f'width="{left - 6}" height="20"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">'

    return "\n".join([head, f"<title>{label}</title>", *parts, "</svg>", ""])


def wide(text: str) -> int:
    """Return the pixels that a box with a text takes."""
    return 7 * len(text) + 14


def box(left: int, right: int, colour: str, text: str) -> str:
    """Return a text on a ground."""
    width = right - left

    return (
        f'<rect x="{left}" width="{width}" height="20" fill="{colour}"/>'
        f'<text x="{left + width // 2}" y="14" fill="#fff" font-size="11" '
        f'font-family="Verdana,DejaVu Sans,sans-serif" text-anchor="middle">{text}</text>'
    )


def draw_page(target: Path) -> None:
    """Draw the page of `serve`."""
    # It needs a browser, and what drives it.
    from page_picture import draw_page  # noqa: PLC0415

    draw_page(target)


# By the file in `docs`.
PICTURES = {
    "badges.svg": draw_badges,
    "command.svg": draw_command,
    "page.png": draw_page,
}


def main(names: list[str]) -> None:
    """Draw the named pictures, or all."""
    files = {Path(file).stem: file for file in PICTURES}
    for name in names or files:
        PICTURES[files[name]](ROOT / "docs" / files[name])


if __name__ == "__main__":
    main(sys.argv[1:])
