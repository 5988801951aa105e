"""
Links into the store: signed, good for a minute, and exact to the byte.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from datetime import datetime, timedelta
from urllib.parse import quote

import attrs

from .jobs import Job

__all__ = ("Link", "LinkBook")

_SIGNATURE = "&X-Amz-Signature="


@attrs.frozen(kw_only=True)
class Link:
    """
    The right to read one object until a moment in time.

    Attributes:
        target: Path and query.

        expires_at: On the emulator's clock.
    """

    target: str = attrs.field(repr=False)
    job: Job
    expires_at: float
    expires_on: datetime


class LinkBook:
    """
    Signs links, and knows its own again.
    """

    def __init__(self, *, secret: str, seconds: float) -> None:
        self._secret = secret.encode()
        self._seconds = seconds
        self._links: dict[str, Link] = {}

    def __len__(self) -> int:
        """
        Count the links handed out.
        """
        return len(self._links)

    def issue(
        self, job: Job, *, now: float, utcnow: datetime, expired: bool = False
    ) -> Link:
        """
        Hand out one more link to the file of *job*.
        """
        age = self._seconds + 1 if expired else 0.0
        issued_on = utcnow - timedelta(seconds=age)
        target = f"{_path(job)}?{self._query(issued_on)}"
        signed = f"{target}{_SIGNATURE}{self._sign(target)}"

        link = Link(
            target=signed,
            job=job,
            expires_at=now - age + self._seconds,
            expires_on=issued_on + timedelta(seconds=self._seconds),
        )
        self._links[signed] = link

        return link

    def find(self, target: str) -> Link | None:
        """
        Return the link that was handed out with exactly these bytes.

        None when the signature does not fit the path and the query: somebody
        has decoded, quoted or sorted them.
        """
        unsigned, _, signature = target.partition(_SIGNATURE)

        if self._sign(unsigned) != signature:
            return None

        return self._links.get(target)

    def _query(self, issued_on: datetime) -> str:
        # The number makes each link another one, and the fixed part has every
        # character that careless requoting changes: + / = ~ and a space.
        number = len(self._links)
        token = quote(f"FwoGZXIvYXdzE+A/{number}//w==", safe="")
        scope = f"AKIDEMULATOR/{issued_on:%Y%m%d}/us-west-2/s3/aws4_request"
        name = quote('attachment; filename="a+b~c.csv"', safe="~")

        return (
            "X-Amz-Algorithm=AWS4-HMAC-SHA256"
            f"&X-Amz-Credential={quote(scope, safe='')}"
            f"&X-Amz-Date={issued_on:%Y%m%dT%H%M%SZ}"
            f"&X-Amz-Expires={math.ceil(self._seconds)}"
            f"&X-Amz-Security-Token={token}"
            "&X-Amz-SignedHeaders=host"
            f"&response-content-disposition={name}"
        )

    def _sign(self, target: str) -> str:
        raw = target.encode(errors="surrogateescape")

        return hmac.new(self._secret, raw, hashlib.sha256).hexdigest()


def _path(job: Job) -> str:
    key = quote(f"cohort={job.cohort_id}/part+{job.request_id}", safe="")

    return f"/cohort-exports/app%3D{job.app_id}/{key}.csv"
