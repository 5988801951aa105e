"""The command completion: the script with which a shell completes this command."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from . import render
from .common import Output

__all__ = ("completion",)

_BASH = r"""# bash completion of amplitude-cohorts
_amplitude_cohorts() {
    local IFS=$'\n' line value found
    COMPREPLY=()
    found=$(amplitude-cohorts __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ $found == ":files" ]]; then
        compopt -o filenames 2>/dev/null
        local current=${COMP_WORDS[COMP_CWORD]}
        [[ $current == "=" ]] && current=""
        COMPREPLY=($(compgen -f -- "$current"))
        return
    fi
    for line in $found; do
        value=${line%%$'\t'*}
        # bash has taken the word apart at the "=".
        [[ $value == --*=* ]] && value=${value#*=}
        COMPREPLY+=("$value")
    done
}
complete -F _amplitude_cohorts amplitude-cohorts
"""

_ZSH = r"""#compdef amplitude-cohorts
_amplitude_cohorts() {
    local -a lines values
    local line
    lines=("${(@f)$(amplitude-cohorts __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ "${lines[1]}" == ":files" ]]; then
        _files
        return
    fi
    for line in "${lines[@]}"; do
        [[ -n "$line" ]] || continue
        values+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    _describe 'amplitude-cohorts' values
}
if [[ "${funcstack[1]}" == "_amplitude_cohorts" ]]; then
    _amplitude_cohorts "$@"
else
    compdef _amplitude_cohorts amplitude-cohorts
fi
"""

_FISH = r"""# fish completion of amplitude-cohorts
function __amplitude_cohorts_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l found (amplitude-cohorts __complete $before[2..-1] "$current" 2>/dev/null)
    if test "$found[1]" = ":files"
        __fish_complete_path "$current"
    else
        printf '%s\n' $found
    end
end
complete -c amplitude-cohorts -f -a '(__amplitude_cohorts_complete)'
"""


class Shell(StrEnum):
    """The shells that have a script."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_SCRIPTS = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}


def completion(
    output: Output,
    shell: Annotated[
        Shell, typer.Argument(metavar="bash|zsh|fish", help="Which one it is for.")
    ],
) -> None:
    """
    Print the script with which a shell completes commands, options and cohorts.

    For bash, put `eval "$(amplitude-cohorts completion bash)"` into ~/.bashrc; for
    zsh, the same with zsh into ~/.zshrc, behind compinit; for fish, save it as
    ~/.config/fish/completions/amplitude-cohorts.fish.
    """
    if output.as_json:
        render.document("completion", {"shell": shell.value, "script": _SCRIPTS[shell]})
    else:
        sys.stdout.write(_SCRIPTS[shell])
