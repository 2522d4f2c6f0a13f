"""Keep backups in a bucket of S3, or of a service that speaks its protocol.

An object appears once its last part is there and the upload is completed, and never before: an
upload that is interrupted is aborted, and leaves no object.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from acordo._bulk.places import PIECE_BYTES, Directory, Place, Stored
from acordo._errors import BadRequest

if TYPE_CHECKING:
    from obstore.store import S3Config, S3Store

SCHEME: Final = "s3://"
PART_BYTES: Final = 16 * 1024 * 1024
"""One part of an upload. S3 takes 10,000 of them, so a backup has 156 GiB at most."""
PARTS_AT_ONCE: Final = 2
"""Parts under way; with the one that is filled, an upload holds three of them in memory."""
RETRIES_MAX: Final = 5
RETRY_S: Final = 30.0
"""Seconds after which a request that fails is not repeated any more."""


class Bucket:
    """The objects under a prefix of a bucket, as a place."""

    def __init__(self, store: S3Store, url: str) -> None:
        self._store, self._url = store, url

    async def write(self, name: str, pieces: AsyncIterator[bytes]) -> None:
        """Upload in parts; see `Place`."""
        import obstore
        from obstore.exceptions import BaseError

        why: BaseException | None = None
        with _as_os_errors(f"{self._url}/{name}"):
            try:
                # a writer, and no iterator that is handed over: that one leaves the parts of an
                # upload that is cancelled in the bucket
                async with obstore.open_writer_async(
                    self._store, name, buffer_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
                ) as writer:
                    try:
                        async for piece in pieces:
                            await writer.write(piece)
                    except BaseException as exc:
                        why = exc
                        raise
            except BaseError:
                if why is not None:  # the upload could not even be aborted: that is not the cause
                    raise why from None
                raise

    async def read(self, name: str, *, start: int = 0) -> AsyncGenerator[bytes, None]:
        """Download as a stream; see `Place`."""
        import obstore

        with _as_os_errors(f"{self._url}/{name}"):
            found = await obstore.get_async(
                self._store, name, options={"range": {"offset": start}} if start else {}
            )
            async for piece in found.stream(min_chunk_size=PIECE_BYTES):
                yield bytes(piece)

    async def stored(self) -> list[Stored]:
        """List the objects right under the prefix; see `Place`."""
        import obstore

        with _as_os_errors(self._url):
            found = await obstore.list_with_delimiter_async(self._store)
        return sorted(Stored(str(each["path"]), int(each["size"])) for each in found["objects"])

    async def remove(self, name: str) -> None:
        """Delete an object; see `Place`."""
        import obstore

        with _as_os_errors(f"{self._url}/{name}"):
            await obstore.delete_async(self._store, name)


def place_of(where: str) -> Place:
    """Return the place that a directory's path or `s3://BUCKET[/PREFIX]` names.

    Region, credentials and the endpoint of another service are taken from the usual variables of
    AWS (AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_ENDPOINT_URL),
    or from the machine's role. Raises BadRequest if the library is not installed, or the URL is
    none.
    """
    if not where.startswith(SCHEME):
        return Directory(Path(where or "."))
    parts = urlsplit(where)
    if not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise BadRequest(
            f"{where!r} names no bucket",
            code="bad_place",
            allowed="s3://BUCKET/KEY; credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    try:
        from obstore.exceptions import BaseError
        from obstore.store import S3Store
    except ImportError as exc:
        raise BadRequest(
            "s3:// needs a library that is not installed here",
            code="no_s3",
            allowed="pip install 'acordo[s3]'",
        ) from exc
    config: S3Config = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint:
        config["endpoint"] = endpoint
    try:
        store = S3Store(
            parts.netloc,
            prefix=parts.path.strip("/") or None,
            config=config,
            # http is for a service beside this machine; the endpoint has to say it
            client_options={"allow_http": endpoint.startswith("http://")},
            retry_config={"max_retries": RETRIES_MAX, "retry_timeout": timedelta(seconds=RETRY_S)},
        )
    except (BaseError, ValueError) as exc:
        raise BadRequest(f"{where}: {exc}", code="bad_place", allowed="s3://BUCKET/KEY") from exc
    return Bucket(store, where.rstrip("/"))


def split(target: str) -> tuple[str, str]:
    """Return the place of a file and its name there. Raises BadRequest if no name is given."""
    place, _, name = target.rpartition("/")
    bucket = target.startswith(SCHEME)
    if not name or (bucket and len(place) <= len(SCHEME)):
        raise BadRequest(
            f"{target!r} names no file",
            code="bad_place",
            allowed="a file's path, or s3://BUCKET/KEY",
        )
    return (place if place or not target.startswith("/") else "/"), name


@contextmanager
def _as_os_errors(url: str) -> Iterator[None]:
    """Turn what the library raises into an OSError that names the object, never a credential."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as exc:
        raise FileNotFoundError(0, "no such bucket or object", url) from exc
    except BaseError as exc:
        raise OSError(0, _first_line(exc), url) from exc


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
