"""Run commands that answer and commands that refuse; record exit codes, JSON and sentences."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.system.released_outputs.tree import flat, together, without

if TYPE_CHECKING:
    from tests.system.released_outputs.tree import Facts, Tree

_OUT = ("--output", "OUT")
"""Refusals run at the same time, so each gets its own folder in place of OUT."""
_NO_HOST = "localhost:1/acme/colours:1"

ANSWERS: dict[str, tuple[str, ...]] = {
    "list": ("models", "list"),
    "list --json": ("models", "list", "--json"),
    "show": ("models", "show", "colours"),
    "show --json": ("models", "show", "colours:1", "--json"),
    "show --card": ("models", "show", "colours", "--card"),
    "verify": ("models", "verify", "colours:1"),
    "verify --all": ("models", "verify", "--all"),
    "tag": ("models", "tag", "colours:1", "production", "candidate"),
    "list of tagged": ("models", "list", "colours", "--json"),
    "rm of an alias": ("models", "rm", "colours:candidate"),
    "rm of a version with an alias": ("models", "rm", "colours:1"),
    "attach": ("models", "attach", "colours:1", "sound/red/0.png", "--type", "image/png"),
    "show of attached": ("models", "show", "colours:1"),
    "gc": ("models", "gc"),
    "classify": ("classify", "sound/red/0.png"),
    "classify --json": ("classify", "sound/red/0.png", "awkward/photo.jpg", "--json", "--top-k", "2"),
    "classify of failures": ("classify", "awkward/text.png", "sound", "nowhere.png", "awkward/huge.png", "--json"),
    "selftest": ("selftest",),
    "selftest --json": ("selftest", "colours", "--json"),
    "selftest --all": ("selftest", "--all", "--json"),
}
"""Commands that answer. They run in this order in one registry."""

REFUSALS: dict[str, tuple[str, ...]] = {
    "no such command": ("frobnicate",),
    "no such option": ("batch", "sound", *_OUT, "--frobnicate"),
    "no output": ("batch", "sound"),
    "no input": ("batch", *_OUT),
    "mistyped command": ("batch", "statsu", "sound"),
    "missing input": ("batch", "nowhere", *_OUT),
    "empty input": ("batch", "empty", *_OUT),
    "input that is a pipe": ("batch", "awkward/pipe.jpg", *_OUT),
    "input twice": ("batch", "sound", "sound/red", *_OUT),
    "missing list": ("batch", "--files-from", "nowhere", *_OUT),
    "missing column": ("batch", "table.parquet", "--column", "nothing", *_OUT),
    "output within the input": ("batch", "sound", "--output", "sound/out"),
    "output with something else in it": ("batch", "sound", "--output", "awkward"),
    "output that can't be made": ("batch", "sound", "--output", "/proc/out"),
    "output below a file": ("batch", "sound", "--output", "list.txt/out"),
    "metrics in no folder": ("batch", "sound", *_OUT, "--metrics-file", "nowhere/batch.prom"),
    "missing model": ("batch", "sound", *_OUT, "--model", "birds"),
    "missing version": ("batch", "sound", *_OUT, "--model", "colours:7"),
    "malformed reference": ("batch", "sound", *_OUT, "--model", "Colours:"),
    "unreachable registry": ("batch", "sound", *_OUT, "--model", _NO_HOST),
    "no GPU": ("batch", "sound", *_OUT, "--device", "cuda:7"),
    "no such device": ("batch", "sound", *_OUT, "--device", "tpu"),
    "no such engine": ("batch", "sound", *_OUT, "--engine", "abacus"),
    "precision that is not allowed": ("batch", "sound", *_OUT, "--precision", "int8"),
    "no labels": ("batch", "sound", *_OUT, "--top-k", "0"),
    "no such format": ("batch", "sound", *_OUT, "--format", "xlsx"),
    "no such shard": ("batch", "sound", *_OUT, "--shard", "4/3"),
    "rate above 1": ("batch", "sound", *_OUT, "--max-failure-rate", "2"),
    "time that is not a number": ("batch", "sound", *_OUT, "--image-timeout", "nan"),
    "status of no run": ("batch", "status", "sound"),
    "status of nothing": ("batch", "status", "nowhere"),
    "verify of no run": ("batch", "verify", "sound"),
    "merge of no run": ("batch", "merge", "sound"),
    "report of no run": ("batch", "report", "sound"),
    "show of no model": ("models", "show", "birds"),
    "show of two things": ("models", "show", "colours", "--card", "--json"),
    "verify of nothing": ("models", "verify"),
    "verify with a missing key": ("models", "verify", "colours", "--key", "nowhere.pem"),
    "tag with a number": ("models", "tag", "colours", "7"),
    "rm of any version": ("models", "rm", "colours"),
    "rm of no model": ("models", "rm", "birds:1"),
    "pull without a host": ("models", "pull", "colours"),
    "pull of an unreachable registry": ("models", "pull", _NO_HOST),
    "push to an unreachable registry": ("models", "push", "colours:1", _NO_HOST),
    "list of an unreachable registry": ("models", "list", "localhost:1/acme/colours"),
    "sign with a missing key": ("models", "sign", "colours", "--key", "nowhere.pem"),
    "attach of a missing file": ("models", "attach", "colours", "nowhere", "--type", "a/b"),
    "attach of no type": ("models", "attach", "colours", "list.txt", "--type", "ab"),
    "classify of nothing": ("classify",),
    "selftest of no model": ("selftest", "birds"),
    "parity with nobody": ("parity", "colours", "sound", "--service", "http://127.0.0.1:1"),
    "parity with no service": ("parity", "colours", "sound"),
    "package for a GPU": ("package", "colours", "--device", "cuda"),
    "train without a run to resume": ("train", "digits", "--resume"),
    "train with a wrong option": ("train", "digits", "--epochs", "0"),
    "export without a name": ("export", "nowhere"),
    "export in no precision": ("export", "nowhere", "--name", "x", "--precisions", "fp8"),
    "evaluate without a folder": ("evaluate", "colours"),
}
"""Commands that refuse, all without torch."""


def answers(tree: Tree) -> tuple[Facts, Facts]:
    """Return facts and words of commands that answer."""
    facts: Facts = {}
    words: Facts = {}
    for name, call in ANSWERS.items():
        ended = tree.tandem(*call)
        facts[name] = {"exit": ended.code}
        words[name] = tree.words(ended)
        if "--json" in call:
            answer = tree.answer(ended)
            facts[name]["json"] = without(answer, "message")
            words[name]["stdout"] = [place for place in flat(answer).items() if place[0].endswith("message")]
    return facts, words


def refusals(tree: Tree) -> tuple[Facts, Facts]:
    """Return facts and words of commands that refuse. Files that they leave behind are facts."""
    before = set(tree.work.rglob("*"))
    calls = {
        name: partial(tree.tandem, *(f"out, {name}" if word == "OUT" else word for word in call))
        for name, call in REFUSALS.items()
    }
    calls["no model at all"] = partial(tree.tandem, "batch", "sound", *_OUT, TANDEM_HOME=str(tree.work / "empty"))
    ended = together(calls)
    behind = set(tree.work.rglob("*")) - before
    return (
        {
            "exits": {name: each.code for name, each in ended.items()},
            "printed": [name for name, each in ended.items() if each.stdout],
            "left behind": sorted(str(path.relative_to(tree.work)) for path in behind),
        },
        {name: tree.words(each) for name, each in ended.items()},
    )
