"""Any sequence of adding, tagging and removing, compared with a registry made of dictionaries."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from classifier.artifact import MODEL
from classifier.errors import ModelNotFound, RegistryError
from registry import LocalRegistry
from tests.registry.artifacts import make_files

names = st.sampled_from(["digits", "acme/digits"])
graphs = st.sampled_from(["a", "b", "c"])
aliases = st.sampled_from(["production", "candidate"])
picks = st.integers(min_value=0, max_value=99)


class RegistryMachine(RuleBasedStateMachine):
    """Rules change a registry and dictionaries alike; after each, both must hold the same."""

    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a folder: a sequence syncs some hundred files.
        shm = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None))
        self.registry = LocalRegistry(self.folder / "registry")
        self.versions: dict[tuple[str, int], str] = {}
        self.aliases: dict[tuple[str, str], int] = {}
        self.last: dict[str, int] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(name=names, graph=graphs)
    def add(self, name: str, graph: str) -> None:
        """The same graph makes no second version; another one gets a number that no version ever had."""
        added = self.registry.add(name, make_files(graph))
        known = [version for (other, version), stored in self.versions.items() if (other, stored) == (name, graph)]
        assert added.created == (not known)
        if added.created:
            self.last[name] = self.last.get(name, 0) + 1
            self.versions[name, self.last[name]] = graph
        assert added.artifact.version == (known or [self.last[name]])[0]

    @precondition(lambda self: self.versions)
    @rule(pick=picks, alias=aliases)
    def tag(self, pick: int, alias: str) -> None:
        """An alias points to the version that got it last."""
        name, version = sorted(self.versions)[pick % len(self.versions)]
        self.registry.tag(f"{name}:{version}", alias)
        self.aliases[name, alias] = version

    @precondition(lambda self: self.versions)
    @rule(pick=picks, force=st.booleans())
    def remove_version(self, pick: int, force: bool) -> None:
        """A version with aliases is removed by force alone."""
        name, version = sorted(self.versions)[pick % len(self.versions)]
        standing = {key for key, stands_on in self.aliases.items() if (key[0], stands_on) == (name, version)}
        if standing and not force:
            with pytest.raises(RegistryError, match="--force"):
                self.registry.remove(f"{name}:{version}")
            return
        self.registry.remove(f"{name}:{version}", force=force)
        del self.versions[name, version]
        for key in standing:
            del self.aliases[key]

    @precondition(lambda self: self.aliases)
    @rule(pick=picks)
    def remove_alias(self, pick: int) -> None:
        """An alias is removed alone."""
        name, alias = sorted(self.aliases)[pick % len(self.aliases)]
        self.registry.remove(f"{name}:{alias}")
        del self.aliases[name, alias]

    @invariant()
    def lists_what_there_is(self) -> None:
        """The list has each version once, with its aliases."""
        listed = {(model.name, model.version): set(model.aliases) for model in self.registry.models()}
        assert listed == {
            (name, version): {alias for (of, alias), on in self.aliases.items() if (of, on) == (name, version)}
            for name, version in self.versions
        }

    @invariant()
    def resolves_what_there_is(self) -> None:
        """Each version has its own graph, each alias its version's; a bare name means `production` or the highest."""
        for (name, version), graph in self.versions.items():
            assert self.registry.resolve(f"{name}:{version}").read(MODEL) == graph.encode()
        for (name, alias), version in self.aliases.items():
            assert self.registry.resolve(f"{name}:{alias}").version == version
        for name in ("digits", "acme/digits"):
            versions = [version for of, version in self.versions if of == name]
            if versions:
                assert self.registry.resolve(name).version == self.aliases.get((name, "production"), max(versions))
            else:
                with pytest.raises(ModelNotFound):
                    self.registry.resolve(name)

    @invariant()
    def keeps_the_blobs_that_are_used_and_no_others(self) -> None:
        """Nothing is missing, and nothing is left behind."""
        used = set()
        for model in self.registry.models():
            assert model.verify() == []
            used |= {model.digest, model.manifest.config.digest, *(layer.digest for layer in model.files.values())}
        stored = self.folder.glob("registry/blobs/sha256/*")
        assert {f"sha256:{path.name}" for path in stored} == used


RegistryMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestRegistrySequences = RegistryMachine.TestCase
