"""A server that speaks S3 in this process, with one bucket, for tests of backups."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import boto3  # type: ignore[import-untyped]  # ships no types
from moto.server import ThreadedMotoServer

BUCKET: Final = "backups"


class S3:
    """The server as a client of AWS sees it."""

    def __init__(self, url: str) -> None:
        self.environ = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "of-a-test",
            "AWS_SECRET_ACCESS_KEY": "of-a-test-too",
            "AWS_REGION": "us-east-1",
        }
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="of-a-test",
            aws_secret_access_key="of-a-test-too",
        )
        for each in self.client.list_buckets()["Buckets"]:  # of another server in this process
            self._remove(each["Name"])
        self.client.create_bucket(Bucket=BUCKET)

    def _remove(self, bucket: str) -> None:
        for each in self.client.list_objects_v2(Bucket=bucket).get("Contents", []):
            self.client.delete_object(Bucket=bucket, Key=each["Key"])
        self.client.delete_bucket(Bucket=bucket)

    def objects(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [each["Key"] for each in found]

    def uploads(self) -> list[str]:
        """Return what was begun in parts and is neither completed nor aborted."""
        found = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [each["Key"] for each in found]

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


@contextmanager
def served() -> Iterator[S3]:
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        server.stop()
