from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from classifier.artifact import GOLDEN
from classifier.errors import SelfTestFailed
from classifier.golden import GoldenSet
from export.entry import self_test_files

if TYPE_CHECKING:
    from registry import Artifact


def test_an_artifact_that_fails_its_self_test_is_refused(artifact: Artifact) -> None:
    files = {file: artifact.read(file) for file in artifact.files}
    self_test_files("digits", files)
    golden = GoldenSet.from_bytes(files[GOLDEN])
    wrong = GoldenSet(images=golden.images, scores=golden.scores[::-1].copy(), tolerances=golden.tolerances)
    with pytest.raises(SelfTestFailed):
        self_test_files("digits", MappingProxyType({**files, GOLDEN: wrong.to_bytes()}))
