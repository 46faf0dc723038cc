"""Reading an image file: its bytes, or one error with the reason."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from classifier.errors import ImageTooLarge, UnreadableImage
from classifier.images import Limits, read_image
from tests.classifier.images.samples import GOOD


class TestReadImage:
    def test_bytes(self, tmp_path: Path) -> None:
        """A file's bytes are returned unchanged, also through a link and from an empty file."""
        (tmp_path / "image").write_bytes(GOOD["PNG"])
        (tmp_path / "link").symlink_to("image")
        (tmp_path / "empty").touch()
        assert read_image(tmp_path / "image") == GOOD["PNG"] == read_image(tmp_path / "link")
        assert read_image(tmp_path / "empty") == b""

    @pytest.mark.parametrize("name", ["missing.png", "file.png/inside.png", "dangling.png"])
    def test_missing(self, tmp_path: Path, name: str) -> None:
        """The error for a missing file names its path."""
        (tmp_path / "file.png").touch()
        (tmp_path / "dangling.png").symlink_to("nowhere")
        with pytest.raises(UnreadableImage, match=rf"{name}' does not exist") as caught:
            read_image(tmp_path / name)
        assert caught.value.reason == "missing"

    def test_not_a_file(self, tmp_path: Path) -> None:
        """A folder, a pipe without a writer and a device are refused at once."""
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe", Path(os.devnull), Path("/dev/zero")):
            with pytest.raises(UnreadableImage, match="not a regular file") as caught:
                read_image(path)
            assert caught.value.reason == "not_a_file"

    def test_socket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A socket is an error like the others."""
        monkeypatch.chdir(tmp_path)  # A socket's path may have 107 bytes.
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")
            with pytest.raises(UnreadableImage, match="can't be read"):
                read_image(Path("socket"))

    def test_permission_denied(self, tmp_path: Path) -> None:
        """A file without read permission gives the reason `permission_denied`."""
        path = tmp_path / "secret.png"
        path.write_bytes(GOOD["PNG"])
        path.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # The superuser may read everything: nobody may not.
        try:
            with pytest.raises(UnreadableImage, match=r"secret\.png' can't be read by this user") as caught:
                read_image(path)
        finally:
            os.seteuid(user)
        assert caught.value.reason == "permission_denied"

    @pytest.mark.parametrize("name", ["a\0b.png", "x" * 300])
    def test_impossible_name(self, tmp_path: Path, name: str) -> None:
        """An impossible file name is an error like the others."""
        with pytest.raises(UnreadableImage, match="can't be read"):
            read_image(tmp_path / name)

    def test_awkward_name(self, tmp_path: Path) -> None:
        """A name with a line break or with bytes that are not UTF-8 is escaped, so that the message is one line."""
        for name in ("line\nbreak.png", os.fsdecode(b"caf\xe9.png")):
            with pytest.raises(UnreadableImage) as caught:
                read_image(tmp_path / name)
            assert str(caught.value).isprintable()
            assert str(caught.value).encode()

    def test_too_large(self, tmp_path: Path) -> None:
        """A file over the limit is refused by its size, before a byte is read."""
        path = tmp_path / "large.bmp"
        with path.open("wb") as file:
            file.truncate(10 * 2**30)
        with pytest.raises(ImageTooLarge, match=r"large\.bmp' has 10,737,418,240 bytes, over the limit of 67,108,864"):
            read_image(path)
        path.write_bytes(bytes(100))
        assert len(read_image(path, Limits(max_bytes=100))) == 100

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
    def test_too_large_without_saying_so(self) -> None:
        """A file that claims 0 bytes, as in /proc, is read only up to the limit."""
        with pytest.raises(ImageTooLarge, match="has 101 bytes"):
            read_image(Path("/proc/self/maps"), Limits(max_bytes=100))

    def test_no_descriptor_is_left_open(self, tmp_path: Path) -> None:
        """Bad files leave no descriptor open."""
        before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - listing a folder of links that change
        for path in (tmp_path, Path("/dev/zero")):
            with pytest.raises(UnreadableImage):
                read_image(path)
        assert len(os.listdir("/dev/fd")) == before  # noqa: PTH208 - likewise
