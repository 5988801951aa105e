"""
Where an object goes that is no file of this machine.

`Destination` is what a user may bring; `ObjectDestination` is that of a bucket.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..._locations import Location, checked_location
from ...errors import InvalidInputError, MissingExtraError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_PART = 8 << 20
"""Bytes of a part: a store takes 10,000 at most, which is 80 GB."""

_PARTS_AT_ONCE = 4

_RETRIED_FOR = timedelta(seconds=30)
"""After that a request has failed; a cancelled export waits for it."""

_STATUS = re.compile(r"status code: (\d{3})", re.ASCII)
_CODE = re.compile(r"<Code>([A-Za-z]{1,50})</Code>", re.ASCII)

_REASONS = {
    "FileNotFoundError": "there is no such bucket",
    "NotFoundError": "there is no such bucket",
    "PermissionDeniedError": "its credentials are refused",
    "UnauthenticatedError": "it asks for credentials; set them in the environment",
}


@runtime_checkable
class Destination(Protocol):
    """
    An object that appears when all of it was written, and not before.

    `location` is its address, which is kept and shown: it holds no secret, and its
    end says the format unless ``format=`` does.
    """

    @property
    def location(self) -> str:
        """The address of the object, without secrets."""
        ...

    async def write(
        self,
        blocks: AsyncIterator[bytes],
        *,
        metadata: Mapping[str, str],
        suffix: str = "",
    ) -> str | None:
        """
        Write the object, and return its tag; None if it has none.

        If *blocks* raises, nothing is left, an earlier object stays as it was, and
        the exception or any other is raised. It is never cancelled.

        Args:
            blocks: All of its bytes, in order.
            metadata: What is kept with the object, if the store can: names of letters
                and hyphens, printable values.
            suffix: Is added to the name of the object: that of its manifest.
        """
        ...

    async def tag(self) -> str | None:
        """Return the tag of the object that is there; None if there is none."""
        ...


class ObjectDestination:
    """
    An object of a bucket of S3, Google Cloud Storage or Azure, by way of obstore.

    Args:
        store: A store of obstore's, with credentials of its own.
        key: The name of the object in it.
        location: Its address, as it is kept and shown: ``s3://bucket/key``. Who
            resumes the job elsewhere finds the bucket by it.

    Raises:
        InvalidInputError: *location* is no such address, or is signed.
        MissingExtraError: The extra ``cloud`` is not installed.
    """

    def __init__(self, store: ObjectStore, key: str, *, location: str) -> None:
        require_obstore()
        self._store = store
        self._key = key
        self._location = str(checked_location(location))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._location}>"

    @classmethod
    def at(cls, location: str) -> ObjectDestination:
        """
        Return the object at an address; sends nothing.

        Credentials, region and endpoint come from where the cloud's own programs
        have them: the environment, or the machine's role.

        Raises:
            InvalidInputError: It is no address, or the environment is incomplete.
            MissingExtraError: The extra ``cloud`` is not installed.
        """
        place = checked_location(location)
        require_obstore()

        try:
            store = _opened(place)
        except Exception as error:  # noqa: BLE001 - its text may show a credential
            failure = type(error).__name__
        else:
            return cls(store, place.key, location=str(place))

        # Not in the block above: the error would keep the other one.
        raise InvalidInputError(
            f"{place} cannot be opened ({failure}); look at the environment variables "
            f"that name the credentials, region or account of its cloud"
        )

    @property
    def location(self) -> str:
        """The address of the object."""
        return self._location

    async def write(
        self,
        blocks: AsyncIterator[bytes],
        *,
        metadata: Mapping[str, str],
        suffix: str = "",
    ) -> str | None:
        """See `Destination`; large objects are sent in parts of 8 MiB, 4 at once."""
        import obstore  # noqa: PLC0415 - optional

        try:
            result = await obstore.put_async(
                self._store,
                self._key + suffix,
                blocks,
                attributes=dict(metadata),
                chunk_size=_PART,
                max_concurrency=_PARTS_AT_ONCE,
            )
        except Exception as error:  # noqa: BLE001 - its text may show a credential
            failure = _reason_of(error)
        else:
            return result.get("e_tag")

        # Not in the block above: the error would keep the other one.
        raise OSError(failure)

    async def tag(self) -> str | None:
        """See `Destination`."""
        import obstore  # noqa: PLC0415 - optional

        try:
            found = await obstore.head_async(self._store, self._key)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - its text may show a credential
            failure = _reason_of(error)
        else:
            return found.get("e_tag")

        raise OSError(failure)


def require_obstore() -> None:
    """Raise `MissingExtraError` if obstore is not installed."""
    try:
        import_module("obstore")
    except ModuleNotFoundError as error:
        raise MissingExtraError("targets in buckets", extra="cloud") from error


def _opened(place: Location) -> ObjectStore:
    from obstore.store import from_url  # noqa: PLC0415 - optional

    return from_url(
        f"{place.scheme}://{place.bucket}",
        retry_config={"max_retries": 5, "retry_timeout": _RETRIED_FOR},
    )


def _reason_of(error: Exception) -> str:
    # Their texts quote the request and the answer: those may hold a key's id, a
    # signature or the text that was signed.
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    told = ", ".join(found.group(1) for found in (status, code) if found)
    reason = _REASONS.get(type(error).__name__)

    if reason is None:
        reason = "the store refused it" if told else "the store could not be reached"

    return f"{reason} ({told})" if told else reason
