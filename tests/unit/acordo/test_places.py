"""What keeps backups, a directory and a bucket: under its name a file is whole, or as it was."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from acordo import BadRequest
from acordo._bulk import buckets
from acordo._bulk.buckets import PARTS_AT_ONCE, place_of, split
from acordo._bulk.places import Directory, Place
from tests.s3 import BUCKET, S3, served

MIB = 1024 * 1024
PART_BYTES = 5 * MIB  # the least that S3 takes


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PART_BYTES", PART_BYTES)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with served() as one:
        yield one


@pytest.fixture(params=["directory", "bucket", "below a prefix"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "directory":
        return place_of(str(tmp_path))
    s3 = request.getfixturevalue("s3")
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    for key in s3.objects():
        s3.client.delete_object(Bucket=BUCKET, Key=key)
    return place_of(f"s3://{BUCKET}" + ("/some/where" if request.param != "bucket" else ""))


async def of(*pieces: bytes, then: BaseException | None = None) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
    if then is not None:
        raise then


async def content(place: Place, name: str, start: int = 0) -> bytes:
    return b"".join([piece async for piece in place.read(name, start=start)])


async def test_a_file_is_kept_listed_read_and_removed(place: Place) -> None:
    await place.write("b", of(b"of ", b"two"))
    await place.write("a", of(b"x" * (PART_BYTES + MIB), b"y" * PART_BYTES, b"the end"))
    size = 2 * PART_BYTES + MIB + 7
    assert await place.stored() == [("a", size), ("b", 6)]
    assert await content(place, "b") == b"of two"
    assert await content(place, "a", start=size - 9) == b"yythe end"
    await place.write("b", of(b"another"))
    assert await content(place, "b") == b"another"
    await place.remove("a")
    await place.remove("a")
    assert await place.stored() == [("b", 7)]
    with pytest.raises(FileNotFoundError):
        await content(place, "a")


@pytest.mark.parametrize("size", [10, 2 * PART_BYTES + 1])
async def test_a_file_whose_writer_fails_is_as_it_was(place: Place, size: int) -> None:
    await place.write("a", of(b"before"))
    with pytest.raises(ZeroDivisionError):
        await place.write("a", of(b"x" * size, then=ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        await place.write("new", of(b"x" * size, then=ZeroDivisionError()))
    assert await place.stored() == [("a", 6)] and await content(place, "a") == b"before"


@pytest.mark.parametrize("size", [60_000, 300_000], ids=["at the end", "on the way"])
async def test_a_file_for_which_there_is_no_room_leaves_what_was_there(
    size: int, tmp_path: Path
) -> None:
    """The system itself refuses the bytes, as on a full disk; some were buffered before."""
    place = place_of(str(tmp_path))
    await place.write("a", of(b"before"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            await place.write("a", of(*[b"x" * 1000] * (size // 1000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert await content(place, "a") == b"before"


async def test_a_writer_that_is_cancelled_leaves_what_was_there(place: Place, s3: S3) -> None:
    await place.write("a", of(b"before"))
    under_way = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(16):
            yield b"x" * MIB
        under_way.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(place.write("a", endless()))
    await under_way.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await place.stored() == [("a", 6)] and await content(place, "a") == b"before"
    assert s3.uploads() == []


async def test_an_upload_that_stands_holds_a_few_parts_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pulled = 0

    async def much() -> AsyncIterator[bytes]:
        nonlocal pulled
        while True:
            pulled += MIB
            yield b"x" * MIB
            await asyncio.sleep(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            if head.startswith(b"PUT"):
                return  # takes no part, and says nothing
            body = b"<InitiateMultipartUploadResult><UploadId>1</UploadId>"
            body += b"</InitiateMultipartUploadResult>"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "c",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.5):
            await place_of("s3://bucket").write("a", much())
    server.close()
    assert PARTS_AT_ONCE * PART_BYTES <= pulled <= (PARTS_AT_ONCE + 2) * PART_BYTES


async def test_a_bucket_that_is_away_or_refuses_is_an_error_of_the_system_without_secrets(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FileNotFoundError) as missing:
        await place_of("s3://missing").write("a", of(b"x"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(buckets, "RETRIES_MAX", 0)
    with pytest.raises(OSError, match="s3://missing") as away:
        await place_of("s3://missing").stored()
    assert missing.value.filename == "s3://missing/a"
    assert "of-a-test" not in f"{missing.value} {away.value}"


@pytest.mark.parametrize(
    "wrong", ["s3://", "s3://?x", "s3://key:secret@bucket/a", "s3://bucket/a?versionId=1"]
)
def test_what_names_no_bucket_is_refused(wrong: str) -> None:
    with pytest.raises(BadRequest) as caught:
        place_of(wrong)
    assert caught.value.code == "bad_place" and "AWS_ACCESS_KEY_ID" in str(caught.value.allowed)


def test_without_the_library_the_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore.store", None)
    with pytest.raises(BadRequest) as caught:
        place_of("s3://bucket")
    assert caught.value.code == "no_s3" and "acordo[s3]" in str(caught.value.allowed)


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("a.backup", ("", "a.backup")),
        ("/a", ("/", "a")),
        ("to/a", ("to", "a")),
        ("s3://b/k", ("s3://b", "k")),
        ("s3://b/p/q/k", ("s3://b/p/q", "k")),
    ],
)
def test_a_target_is_a_place_and_a_name(target: str, parts: tuple[str, str]) -> None:
    assert split(target) == parts
    assert isinstance(place_of(parts[0]), Directory) != target.startswith("s3")


@pytest.mark.parametrize("wrong", ["", "s3://bucket", "s3://bucket/", "to/", "s3:///k"])
def test_a_target_without_a_name_is_refused(wrong: str) -> None:
    with pytest.raises(BadRequest):
        split(wrong)
