"""`tandem models`, as a user types it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import unicodedata
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from classifier.artifact import CARD, CONFIG, EVALUATION, FILES, MODEL
from classifier.types import to_json
from classifier.wording import table_lines
from registry import LocalRegistry
from registry.oci.manifest import MANIFEST_TYPE, describe
from tests.conftest import TANDEM, Tandem
from tests.registry.artifacts import CONFIG_OF_DIGITS, make_files, put

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def stocked(registry: LocalRegistry) -> LocalRegistry:
    """Return a registry with digits:1 (production), digits:2 and acme/fashion:1."""
    for graph in "ab":
        registry.add("digits", make_files(graph))
    registry.add("acme/fashion", make_files("c"))
    registry.tag("digits:1", "production")
    return registry


def damage(registry: LocalRegistry, reference: str, file: str) -> None:
    digest = registry.resolve(reference).files[file].digest
    (registry.root / "blobs" / "sha256" / digest.removeprefix("sha256:")).write_bytes(b"damaged")


def test_the_list_has_a_line_for_each_version(stocked: LocalRegistry, tandem: Tandem) -> None:
    """Version, aliases, digest and architecture of every model, in columns; nothing is cut off in a pipe."""
    printed = tandem("models", "list").stdout.splitlines()
    assert printed[0].split() == ["MODEL", "ALIASES", "DIGEST", "SIZE", "LABELS", "ARCHITECTURE", "ACC1"]
    assert [line.split()[:2] for line in printed[1:]] == [
        ["acme/fashion:1", "-"], ["digits:1", "production"], ["digits:2", "-"],
    ]  # fmt: skip
    assert stocked.resolve("digits:2").digest[:19] in printed[3]
    assert "small_cnn" in printed[3]


def test_the_list_as_json_is_for_programs(stocked: LocalRegistry, tandem: Tandem) -> None:
    """Every column is a field, digests are whole and sizes are bytes."""
    [_, production, _] = json.loads(tandem("models", "list", "--json").stdout)
    artifact = stocked.resolve("digits:1")
    assert production == {
        "reference": "digits:1", "name": "digits", "version": 1, "aliases": ["production"], "digest": artifact.digest,
        "size_bytes": artifact.size, "labels": 3, "architecture": "small_cnn", "acc1": None, "damaged": None,
    }  # fmt: skip


def test_an_empty_registry_lists_nothing(registry: LocalRegistry, tandem: Tandem) -> None:
    """No error: nothing on stdout, the way to a first model on stderr, and no folder was made."""
    done = tandem("models", "list")
    assert done.stdout == ""
    way = "'tandem train digits" if find_spec("torch") else "mount a TANDEM_HOME that holds one"
    assert f"holds no model yet; {way}" in done.stderr
    assert json.loads(tandem("models", "list", "--json").stdout) == []
    assert not registry.root.exists()


def test_the_list_shows_a_damaged_model_among_the_others(stocked: LocalRegistry, tandem: Tandem) -> None:
    """One damaged manifest doesn't hide the other models."""
    artifact = stocked.resolve("digits:2")
    (stocked.root / "blobs" / "sha256" / artifact.digest.removeprefix("sha256:")).unlink()
    printed = tandem("models", "list").stdout.splitlines()
    assert len(printed) == 4
    assert "damaged" in printed[3]
    summaries = json.loads(tandem("models", "list", "--json").stdout)
    assert [summary["damaged"] is not None for summary in summaries] == [False, False, True]
    assert "is missing" in summaries[2]["damaged"]


def test_show_has_every_file_with_its_digest(stocked: LocalRegistry, tandem: Tandem) -> None:
    """Digests are printed whole, so that they can be copied."""
    artifact = stocked.resolve("digits")
    printed = tandem("models", "show", "digits").stdout
    assert artifact.digest in printed
    for file, descriptor in artifact.files.items():
        [line] = [line for line in printed.splitlines() if line.startswith(f"{file} ")]
        assert line.endswith(descriptor.digest)


def test_show_as_json_has_the_config(stocked: LocalRegistry, tandem: Tandem) -> None:
    """All that a program must know of a model: labels, preprocessing, files."""
    shown = json.loads(tandem("models", "show", "digits:1", "--json").stdout)
    assert shown["config"]["labels"] == ["0", "1", "2"]
    assert shown["config"]["preprocessing"]["crop_size"] == 8
    assert [file["file"] for file in shown["files"]] == list(FILES)


def test_show_prints_the_model_card(stocked: LocalRegistry, tandem: Tandem) -> None:
    """`--card` prints the artifact's README.md byte for byte."""
    assert tandem("models", "show", "digits", "--card").stdout.encode() == make_files()[CARD]


def test_tag_moves_an_alias(stocked: LocalRegistry, tandem: Tandem) -> None:
    """The line that a deployment consists of."""
    printed = tandem("models", "tag", "digits:2", "production").stdout
    assert printed == f"digits:production is digits:2 ({stocked.resolve('digits:2').digest})\n"
    assert stocked.resolve("digits").version == 2


def test_verify_names_what_is_damaged(stocked: LocalRegistry, tandem: Tandem) -> None:
    """Whole models say ok; a damaged one is named with its file, and the command exits with 1."""
    whole = tandem("models", "verify", "--all").stdout.splitlines()
    assert [line.split()[0::2] for line in whole] == [["acme/fashion:1", "ok"], ["digits:1", "ok"], ["digits:2", "ok"]]
    damage(stocked, "digits:2", MODEL)
    done = tandem("models", "verify", "--all", check=False)
    assert done.returncode == 1
    assert "digits:1 " in done.stdout
    assert f"'digits:2' is damaged: {MODEL}:" in done.stdout
    assert done.stderr == "Error: 1 of 3 models can't be used, for the reasons above\n"
    assert tandem("models", "verify", "digits:1").returncode == 0


def test_rm_removes_a_version(stocked: LocalRegistry, tandem: Tandem) -> None:
    """A script isn't asked."""
    assert tandem("models", "rm", "digits:2").stdout.startswith("removed digits:2, ")
    assert [model.reference for model in stocked.models()] == ["acme/fashion:1", "digits:1"]


@pytest.mark.parametrize(("answer", "left"), [(b"n\n", 2), (b"y\n", 1)])
def test_rm_asks_on_a_terminal(stocked: LocalRegistry, answer: bytes, left: int) -> None:
    """A person is asked, with the digest that would go."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [TANDEM, "models", "rm", "digits:2"], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        os.write(ours, answer)
        printed = process.communicate(timeout=60)[0].decode()
    os.close(ours)
    os.close(theirs)
    assert "Remove digits:2 (sha256:" in printed
    assert len([model for model in stocked.models() if model.name == "digits"]) == left


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        (["show", "digits:7"], 1, "'digits' has 1, 2, production"),
        (["show", "Digits"], 1, "lower-case"),
        (["show", "digits@sha256:0123"], 1, "all its 64"),
        (["rm", "ghcr.io/acme/digits:3"], 1, "'tandem models pull ghcr.io/acme/digits:3' fetches it"),
        (["pull", "digits:1"], 2, "names no registry; write its host first"),
        (["push", "digits:1", "acme/digits"], 1, "is not a place to push to"),
        (["show", "digits", "--card", "--json"], 2, "exclude each other"),
        (["tag", "digits:1", "7"], 1, "can't be an alias"),
        (["tag", "digits:1"], 2, "Missing argument 'ALIAS...'"),
        (["verify"], 2, "give --all"),
        (["verify", "digits", "--all"], 2, "give --all"),
        (["verify", "flowers"], 1, "'flowers' is not in the registry"),
        (["rm", "digits"], 1, "name one, 'digits:1'"),
        (["rm", "digits:1"], 1, "'digits:1' is production"),
        (["rm", "digits:1", "--yes"], 1, "--force"),
    ],
)
def test_a_mistake_is_one_sentence(
    stocked: LocalRegistry, tandem: Tandem, command: list[str], code: int, sentence: str
) -> None:
    """Exit code 1 for what can't be done, 2 for how it was asked; no traceback, and nothing was changed."""
    before = (stocked.root / "index.json").read_bytes()
    done = tandem("models", *command, check=False)
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    assert (stocked.root / "index.json").read_bytes() == before


@pytest.mark.parametrize("command", [["list"], ["show", "digits"], ["verify", "--all"], ["tag", "digits:1", "x"]])
def test_a_damaged_index_is_one_sentence(stocked: LocalRegistry, tandem: Tandem, command: list[str]) -> None:
    """Every command says which file is damaged, and none takes the registry for an empty one."""
    (stocked.root / "index.json").write_text('{"schemaVersion": 2, "manif')
    done = tandem("models", *command, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {stocked.root / 'index.json'} is damaged")
    assert len(done.stderr.splitlines()) == 1


def test_the_exported_model_is_listed_with_its_accuracy(tandem_home: Path, tandem: Tandem) -> None:
    """The accuracy that export measured is in the list and on the page, and the model verifies."""
    [summary] = json.loads(tandem("models", "list", "--json").stdout)
    evaluation = json.loads(LocalRegistry(tandem_home / "registry").resolve("digits").read(EVALUATION))
    assert summary["acc1"] == evaluation["precisions"][0]["measurement"]["metrics"]["acc1"] > 0.9
    assert summary["labels"] == 10
    assert f"{summary['acc1']:.2%}" in tandem("models", "list").stdout
    page = tandem("models", "show", "digits").stdout
    assert re.search(rf"^acc1 of torch +{summary['acc1']:.2%}$", page, re.MULTILINE)
    assert re.search(rf"^fp32 +onnxruntime +cpu +{summary['acc1']:.2%} .* yes$", page, re.MULTILINE)
    # Every way of running that was considered is a row, allowed or not.
    rows = [line.split()[:3] for line in page.splitlines() if re.search(r" (yes|no: |yes, )", line)]
    assert rows == [[way[key] for key in ("precision", "engine", "device")] for way in evaluation["precisions"]]
    assert tandem("models", "verify", "--all").stdout.endswith(" ok\n")


def test_nothing_that_a_model_says_moves_the_cursor() -> None:
    """Labels, types and names come from whoever made the model."""
    assert table_lines(("LABELS",), [("a\x1b[2J\nb",)]) == ["LABELS", "a [2J b"]


def test_nothing_moves_the_cursor(registry: LocalRegistry, tandem: Tandem) -> None:
    """A model's card, labels and types may come from anybody; no control character of theirs reaches a terminal."""
    evil = "\x1b[2J\x9b31m\x07"
    config = to_json(replace(CONFIG_OF_DIGITS, labels=("0", evil)))
    registry.add("digits", make_files() | {CARD: f"# digits\n{evil}\n".encode(), CONFIG: config})
    put(registry, "other:1", {"schemaVersion": 2, "config": describe(b"", evil)}, MANIFEST_TYPE)
    shown = [
        tandem("models", "list"),
        tandem("models", "show", "digits"),
        tandem("models", "show", "digits", "--card"),
        tandem("models", "show", "other", check=False),
        tandem("models", "verify", "other:1", check=False),
    ]
    for done in shown:
        assert {char for char in done.stdout + done.stderr if unicodedata.category(char) == "Cc"} <= {"\n"}
    assert "# digits\n" in shown[2].stdout
    assert "[2J" in shown[2].stdout
