"""
The store behind the links: export jobs, their files, signed links to them,
and answers with the manners of Amazon S3.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import attrs

from .cohorts import GeneratedMembers, Members
from .faults import Edit, Fault
from .files import (
    Columns,
    StoredObject,
    compressed,
    csv_chunks,
    generated_object,
    in_memory,
)
from .messages import Answer, xml_answer
from .options import Options

__all__ = (
    "JOB_SECONDS",
    "Job",
    "Link",
    "LinkTable",
    "ObjectCache",
    "StoreRequest",
    "answer_object",
    "check_age",
    "check_request",
    "object_headers",
    "signature_mismatch",
)

# The file link is valid for seven days.
# https://amplitude.com/docs/apis/analytics/behavioral-cohorts
JOB_SECONDS = 7 * 24 * 3600.0
_SIGNATURE = "&X-Amz-Signature="
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@attrs.define(kw_only=True, eq=False)
class Job:
    """
    One export.

    Attributes:
        members: As they were when the export was asked for.
        requested_at: When that was, on the emulator's clock.
        ready_at: When its file is there.
        outcome: How it ends, if a fault says so.
        edits: Changes by faults to the text of its file.
        stored_edits: Changes by faults to the bytes in the store.
    """

    request_id: str
    cohort_id: str
    app_id: int
    members: Members = attrs.field(repr=False)
    columns: Columns
    requested_at: float
    ready_at: float
    outcome: Literal["failed", "endless"] | None = None
    edits: tuple[Edit, ...] = attrs.field(default=(), repr=False)
    stored_edits: tuple[Edit, ...] = attrs.field(default=(), repr=False)

    def apply(self, fault: Fault) -> None:
        """Apply what a fault does to this job from now on."""
        if fault.job == "endless":
            self.ready_at = math.inf

        self.outcome = fault.job or self.outcome
        self.edits += fault.edits
        self.stored_edits += fault.stored_edits


def _build_object(job: Job, *, compress: bool, cache_dir: Path) -> StoredObject:
    """Make the file of a job as the store holds it; may take seconds."""
    edited = job.edits or job.stored_edits

    if isinstance(job.members, GeneratedMembers) and not edited:
        return generated_object(
            job.members, job.columns, compress=compress, cache_dir=cache_dir
        )

    text = b"".join(csv_chunks(job.members, job.columns))

    for edit in job.edits:
        text = edit(text)

    data = compressed([text]) if compress else text

    for edit in job.stored_edits:
        data = edit(data)

    return in_memory(data)


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


class LinkTable:
    """Issues signed links, and finds them again."""

    def __init__(self, *, secret: str, seconds: float) -> None:
        self._secret = secret.encode()
        self._seconds = seconds
        self._links: dict[str, Link] = {}

    def __len__(self) -> int:
        """Return the number of links issued."""
        return len(self._links)

    def issue(
        self, job: Job, *, now: float, utcnow: datetime, expired: bool = False
    ) -> Link:
        """Issue one more link to the file of *job*."""
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
        Return the link that was issued with exactly these bytes.

        None when the signature does not match the path and the query: the
        client has decoded, quoted or sorted them.
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


class ObjectCache:
    """Makes the files of jobs, in threads, and keeps them."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._objects: dict[tuple[str, int, bool], asyncio.Future[StoredObject]] = {}

    async def get(self, job: Job, *, compress: bool) -> StoredObject:
        """Return the object of a job, as its faults have left it."""
        key = (job.request_id, len(job.edits) + len(job.stored_edits), compress)

        if key not in self._objects:
            self._objects[key] = asyncio.ensure_future(self._build(job, compress))

        # Shielded: others may be waiting for the same file.
        return await asyncio.shield(self._objects[key])

    async def aclose(self) -> None:
        """Cancel the making of files."""
        objects, self._objects = list(self._objects.values()), {}

        for future in objects:
            future.cancel()

        await asyncio.gather(*objects, return_exceptions=True)

    async def _build(self, job: Job, compress: bool) -> StoredObject:
        return await asyncio.to_thread(
            _build_object, job, compress=compress, cache_dir=self._options.cache_dir
        )


@attrs.frozen(kw_only=True)
class StoreRequest:
    """
    A request to the store, as the store sees it.

    Attributes:
        headers: Names in lower case; those that a fault hides are not there.
    """

    method: str
    headers: Mapping[str, str]


def check_request(request: StoreRequest) -> tuple[str, Answer] | None:
    """Return the rule that a request breaks, and the answer to that."""
    if "authorization" in request.headers:
        message = (
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query "
            "parameter, Signature query string parameter or the Authorization "
            "header should be specified"
        )
        answer = xml_answer(
            400, "InvalidArgument", message, ArgumentName="Authorization"
        )
        return "credentials at the store", answer

    if "cookie" in request.headers:
        return "cookie at the store", xml_answer(
            400, "InvalidArgument", "No cookies are for this origin"
        )

    if request.method != "GET":
        return "method at the store", signature_mismatch()

    return None


def check_age(link: Link, *, now: float, utcnow: datetime) -> Answer | None:
    """Return the refusal of a link that is no longer good."""
    if now < link.expires_at:
        return None

    return xml_answer(
        403,
        "AccessDenied",
        "Request has expired",
        Expires=f"{link.expires_on:%Y-%m-%dT%H:%M:%SZ}",
        ServerTime=f"{utcnow:%Y-%m-%dT%H:%M:%SZ}",
    )


def answer_object(
    request: StoreRequest, stored: StoredObject, headers: Mapping[str, str]
) -> Answer:
    """
    Return the object, a part of it, or why not.

    Args:
        headers: What the store sends with this object besides.
    """
    sent = request.headers
    common = {**headers, "ETag": stored.etag, "Accept-Ranges": "bytes"}

    if answer := _condition_failed(sent, stored.etag):
        return answer

    byte_range = None

    if sent.get("if-range", stored.etag) == stored.etag:
        byte_range = _byte_range(sent.get("range", ""), stored.size)

    if byte_range is None:
        return Answer(status=200, headers=common, body=stored.part(0, stored.size))

    start, stop = byte_range

    if start >= stop:
        return _unsatisfiable(sent["range"], stored.size)

    common["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.size}"

    return Answer(status=206, headers=common, body=stored.part(start, stop))


def object_headers(modified: datetime, *, encoding: str | None) -> dict[str, str]:
    """Return the headers that do not depend on the request."""
    headers = {
        "Content-Type": "binary/octet-stream",
        "Last-Modified": format_datetime(modified, usegmt=True),
        "Server": "AmazonS3",
        "x-amz-request-id": "4YHEP1F2R3J7D0AB",
        "x-amz-server-side-encryption": "AES256",
    }

    return headers if encoding is None else {**headers, "Content-Encoding": encoding}


def signature_mismatch() -> Answer:
    """Return the refusal of a request that is not, byte for byte, as signed."""
    return xml_answer(
        403,
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you "
        "provided. Check your key and signing method.",
    )


def _condition_failed(sent: Mapping[str, str], etag: str) -> Answer | None:
    if not _matches(sent.get("if-match", "*"), etag):
        return xml_answer(
            412,
            "PreconditionFailed",
            "At least one of the pre-conditions you specified did not hold",
            Condition="If-Match",
        )

    if "if-none-match" in sent and _matches(sent["if-none-match"], etag):
        return Answer(status=304, headers={"ETag": etag, "Server": "AmazonS3"})

    return None


def _matches(condition: str, etag: str) -> bool:
    # Compared as strong tags: a weak one never matches.
    tags = [tag.strip() for tag in condition.split(",")]

    return "*" in tags or etag in tags


def _byte_range(header: str, size: int) -> tuple[int, int] | None:
    """
    Return start and stop of the bytes that a Range asks for.

    None when it is no single range of bytes: it is ignored then. An empty
    range cannot be satisfied.
    """
    match = _RANGE.fullmatch(header.replace(" ", ""))

    if match is None or match[1] == match[2] == "":
        return None

    if not match[1]:
        last = int(match[2])
        return (max(0, size - last), size) if last else (size, size)

    start = int(match[1])
    stop = int(match[2]) + 1 if match[2] else size

    if match[2] and stop <= start:
        return None

    return start, min(stop, size)


def _unsatisfiable(header: str, size: int) -> Answer:
    answer = xml_answer(
        416,
        "InvalidRange",
        "The requested range is not satisfiable",
        RangeRequested=header,
        ActualObjectSize=str(size),
    )

    return attrs.evolve(
        answer, headers={**answer.headers, "Content-Range": f"bytes */{size}"}
    )
