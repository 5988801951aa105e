"""A bucket of the test store as its owner sees it: objects, and uploads left open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import attrs
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session

from .swift import ACCESS_KEY, REGION, SECRET_KEY

if TYPE_CHECKING:
    from .swift import Swift


@attrs.frozen
class Bucket:
    """One bucket; its calls block."""

    name: str
    client: Any

    def address(self, key: str) -> str:
        """Return the address of an object."""
        return f"s3://{self.name}/{key}"

    def read(self, key: str) -> bytes | None:
        """Return the bytes of an object; None if there is none."""
        try:
            body: bytes = self.client.get_object(Bucket=self.name, Key=key)[
                "Body"
            ].read()
        except ClientError as error:
            if "NoSuchKey" != error.response["Error"]["Code"]:
                raise
            return None

        return body

    def write(self, key: str, body: bytes) -> None:
        """Put an object."""
        self.client.put_object(Bucket=self.name, Key=key, Body=body)

    def metadata(self, key: str) -> dict[str, str]:
        """Return what is kept with an object."""
        found: dict[str, str] = self.client.head_object(Bucket=self.name, Key=key)[
            "Metadata"
        ]
        return found

    def keys(self) -> list[str]:
        """Return the names of all objects."""
        found = self.client.list_objects_v2(Bucket=self.name)

        return [each["Key"] for each in found.get("Contents", [])]

    def open_uploads(self) -> list[str]:
        """Return the names of objects whose upload neither ended nor was given up."""
        found = self.client.list_multipart_uploads(Bucket=self.name)

        return [each["Key"] for each in found.get("Uploads", [])]


def new_bucket(store: Swift) -> Iterator[Bucket]:
    """Make an empty bucket."""
    client = get_session().create_client(
        "s3",
        region_name=REGION,
        endpoint_url=store.origin,
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
    name = f"bucket-{uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)

    try:
        yield Bucket(name, client)
    finally:
        client.close()


def environment(store: Swift) -> dict[str, str]:
    """Return the variables by which a program finds the store."""
    return {
        "AWS_ENDPOINT_URL": store.origin,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": REGION,
    }
