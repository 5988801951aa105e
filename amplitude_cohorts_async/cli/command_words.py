"""Says errors whose advice is a parameter in the words of the command's options."""

from __future__ import annotations

import re

from ..errors import (
    AmbiguousExportError,
    InvalidIdsError,
    JobStoreUnavailableError,
    PartialWriteError,
    RemovalGuardError,
)

__all__ = ("in_command_words", "refused_ids")

_RESUME = re.compile(r'resume_export\("?([^")]*)"?\)')

_WORDS = (
    (
        "pass read_ids(path, column=...)",
        "name the column of ids with --column",
    ),
    ("pass format=", "pass --format"),
    (
        "(address already in use); pass another one, or 0 for a free one",
        "(address already in use); pass another --port, or 0 for a free one",
    ),
    (", or pass allow_http=True if you trust the network", ""),
    ("; see the error's .details and .metadata", ""),
    ("region='eu'", "--region eu"),
    (
        "pass the keys as api_key and secret_key",
        "the keys belong into AMPLITUDE_API_KEY and AMPLITUDE_SECRET_KEY",
    ),
    ("`jobs()`", "`amplitude-cohorts jobs`"),
    ("`list_cohorts()`", "`amplitude-cohorts list`"),
    (" missing; pass it, or set ", " missing; set "),
    (
        " and use `CohortsClient.from_env()`",
        ", or keep the keys in a profile: `amplitude-cohorts profiles add NAME`",
    ),
    (", or a base_url", ", or --base-url"),
    ("id_type=IdType.USER_ID", "--id-type user"),
    (
        "sync_membership(..., max_removed=1.0)",
        "`amplitude-cohorts sync ID FILE --max-removed 1`",
    ),
    # Another export is not the first thing to try: it is spent.
    (", or request the export again", ""),
)
"""What errors say to callers of the library, and to users of the command."""

_SHOWN_IDS = 5
_SHOWN_LENGTH = 60
"""Characters of each."""


def in_command_words(error: BaseException) -> str:
    """Return the text of an error, with the options that help."""
    match error:
        case RemovalGuardError():
            return _of_guard(error)
        case AmbiguousExportError():
            return (
                f"{error.doubt}. Nothing more was spent: compare with "
                f"`amplitude-cohorts usage`; `export` and `sync` request another one "
                f"with --on-unknown spend"
            )
        case JobStoreUnavailableError():
            return f"{error}; --jobs names another one, --no-jobs does without"
        case _:
            return _in_words(_of_refused(error))


def _in_words(text: str) -> str:
    # The advice of errors that any caller of the library may see.
    text = _RESUME.sub(
        lambda found: f"amplitude-cohorts resume {found[1]}".strip(), text
    )

    for python, shell in _WORDS:
        text = text.replace(python, shell)

    return text


def refused_ids(error: BaseException) -> InvalidIdsError | None:
    """Return the refusal of ids that an error is, or tells of; else None."""
    reason = error.__cause__ if isinstance(error, PartialWriteError) else error

    return reason if isinstance(reason, InvalidIdsError) else None


def _of_refused(error: BaseException) -> str:
    if (refused := refused_ids(error)) is None:
        return str(error)

    if isinstance(error, PartialWriteError):
        return (
            f"{error.next_batch} batches are written to cohort {error.cohort_id}, and "
            f"the next one failed: {_of_ids(refused)}. Repeating those does no harm"
        )

    return _of_ids(refused)


def _of_ids(error: InvalidIdsError) -> str:
    shown = [
        id_ if len(id_) <= _SHOWN_LENGTH else f"{id_[:_SHOWN_LENGTH]}..."
        for id_ in error.sample[:_SHOWN_IDS]
    ]
    rest = ", ..." if len(error.sample) > _SHOWN_IDS else ""

    return (
        f"Amplitude does not know at least {len(error.sample):,} of the ids, and wrote "
        f"none of their request: {', '.join(shown)}{rest}; take them out, or leave "
        f"--strict out to skip them (--skipped FILE keeps them)"
    )


def _of_guard(error: RemovalGuardError) -> str:
    if error.removed is None or error.current is None:
        return (
            "it is unknown how many members this would remove, because the list of "
            "cohorts does not show this one, or not its size; nothing was written. "
            "Check the id, and pass --max-removed 1 to replace it all the same"
        )

    return (
        f"this would remove at least {error.removed:,} of the {error.current:,} members "
        f"({error.removed / error.current:.0%}), and --max-removed {error.max_removed:g} "
        f"is the limit; nothing was written. Pass a larger one if it is meant"
    )
