"""Which tests need a POSIX system: what their source names, in the same module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

NAMES = frozenset(
    {
        *("chmod", "chown", "fork", "geteuid", "getuid", "killpg", "mkfifo", "openpty"),
        *(
            "seteuid",
            "setrlimit",
            "setsid",
            "st_mode",
            "symlink_to",
            "umask",
            "waitpid",
        ),
        *("SIGALRM", "SIGCONT", "SIGHUP", "SIGKILL", "SIGSTOP", "SIGXFSZ"),
    }
)
MODULES = frozenset({"fcntl", "grp", "pty", "pwd", "resource", "termios"})
MARKS = frozenset({"posix", "services", "skipif"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


def unmarked(path: Path) -> Iterator[Function]:
    """Yield the tests of a module that need POSIX and do not say so."""
    module = ast.parse(path.read_text())

    if any(_names(each) & MARKS for each in module.body if _is_mark(each)):
        return

    functions = {each.name: each for each in ast.walk(module) if _is_function(each)}
    needing = {name for name, each in functions.items() if _names(each) & NAMES}

    while (
        more := {name for name, each in functions.items() if _words(each) & needing}
        - needing
    ):
        needing |= more

    for name, function in functions.items():
        marks = {word for each in function.decorator_list for word in _names(each)}
        if name.startswith("test_") and name in needing and not marks & MARKS:
            yield function


def imported(path: Path) -> set[str]:
    """Return the modules of POSIX that a file needs to be imported at all."""
    found: set[str] = set()

    for each in ast.parse(path.read_text()).body:
        if isinstance(each, ast.Import):
            found |= {alias.name for alias in each.names} & MODULES

    return found


def _is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node.targets[0])


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, Function)


def _names(node: ast.AST) -> set[str]:
    return {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}


def _words(function: Function) -> set[str]:
    # A fixture is named by an argument.
    names = {each.id for each in ast.walk(function) if isinstance(each, ast.Name)}

    return names | {each.arg for each in function.args.args} - {function.name}
