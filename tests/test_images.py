"""Pictures as they come in and as they are kept."""

import base64
import errno
import os
import time
from pathlib import Path

import pytest

from models.preprocess import UnreadableImage
from service.images import (
    DiskFull,
    ImageNotFound,
    ImageStore,
    InvalidBase64,
    TooManyBytes,
    from_base64,
    media_type,
)
from tests.fakes import square

PIXELS = 1_000_000


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path, PIXELS)


def test_base64_is_read_with_or_without_a_data_uri_and_with_line_breaks() -> None:
    data = square("red")
    encoded = base64.b64encode(data).decode()
    wrapped = "\n".join(encoded[i : i + 40] for i in range(0, len(encoded), 40))
    for text in (
        encoded,
        wrapped,
        f"data:image/png;base64,{encoded}",
        f"data:image/svg+xml;charset=utf-8;base64,{encoded}",
    ):
        assert from_base64(text, 10_000) == data


@pytest.mark.parametrize("text", ["no base64!", "AAA", "data:text/html;base64,AAAA", "AA=A", "AAAA=", "é"])
def test_what_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidBase64):
        from_base64(text, 10_000)


def test_a_long_text_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(TooManyBytes):
        from_base64("A" * 2000, 1000)


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("GIF", "image/gif"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("AVIF", "image/avif"),
        ("PPM", "image/x-portable-anymap"),
    ],
)
def test_the_media_type_is_told_by_the_content(format: str, expected: str) -> None:
    assert media_type(square("red", format=format)) == expected


def test_what_was_put_can_be_got_and_is_kept_once(store: ImageStore, tmp_path: Path) -> None:
    sha256 = store.put(square("red"))
    assert store.put(square("red")) == sha256
    assert store.get(sha256) == square("red")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [sha256]


def test_a_thumbnail_fits_its_size_and_is_made_once(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = store.put(square("blue", side=400))
    first = store.thumbnail(sha256, 100)
    monkeypatch.setattr(store, "get", lambda sha256: pytest.fail("it was made again"))
    assert store.thumbnail(sha256, 100) == first
    assert media_type(first) == "image/webp"


def test_a_missing_picture_is_told(store: ImageStore) -> None:
    with pytest.raises(ImageNotFound):
        store.get("0" * 64)
    with pytest.raises(ImageNotFound):
        store.thumbnail("0" * 64, 128)


def test_what_is_no_picture_gives_an_error_and_no_thumbnail(store: ImageStore, tmp_path: Path) -> None:
    sha256 = store.put(b"not a picture")
    with pytest.raises(UnreadableImage):
        store.thumbnail(sha256, 128)


def test_a_full_disk_is_told_and_leaves_no_partial_file(
    store: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull):
        store.put(square("red"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_pruning_takes_only_old_pictures_that_nobody_uses(store: ImageStore, tmp_path: Path) -> None:
    used, orphan, young = (store.put(square(colour)) for colour in ("red", "green", "blue"))
    store.thumbnail(orphan, 128)
    hour_ago = time.time() - 3600
    for path in tmp_path.rglob("*"):
        if path.is_file() and young not in path.name:
            os.utime(path, (hour_ago, hour_ago))
    assert store.prune({used}, older_than_s=60) == 2
    assert store.get(used)
    assert store.get(young)
    with pytest.raises(ImageNotFound):
        store.get(orphan)


def test_a_full_disk_does_not_keep_a_thumbnail_from_being_shown(
    store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha256 = store.put(square("red", side=200))

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("service.images.tempfile.mkstemp", full)
    assert media_type(store.thumbnail(sha256, 128)) == "image/webp"
    with pytest.raises(DiskFull):
        store.put(square("blue"))


def test_a_damaged_blob_is_not_served_and_heals_when_sent_again(store: ImageStore, tmp_path: Path) -> None:
    sha256 = store.put(square("red"))
    (blob,) = tmp_path.glob("blobs/*/*")
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(ImageNotFound, match="damaged"):
        store.get(sha256)
    store.put(square("red"))
    assert store.get(sha256) == square("red")
