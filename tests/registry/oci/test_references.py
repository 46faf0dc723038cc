"""References: the grammar of container images, and the rule that tells local from remote."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from classifier.errors import InvalidReference
from registry.oci.references import Reference, check_alias

DIGEST = "sha256:" + "0123456789abcdef" * 4

components = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+){0,2}", fullmatch=True).filter(lambda text: len(text) < 60)
names = st.lists(components, min_size=1, max_size=3).map("/".join)
tags = st.one_of(
    st.integers(min_value=1, max_value=10**9).map(str),
    st.from_regex(r"[A-Za-z0-9]+([._-][A-Za-z0-9]+){0,2}", fullmatch=True).filter(lambda text: len(text) < 100),
)
digests = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
hosts = st.one_of(
    st.sampled_from(["localhost", "ghcr.io", "127.0.0.1", "[::1]:5000"]),
    st.tuples(st.sampled_from(["registry", "localhost", "r.example.com"]), st.integers(1, 65535)).map(
        lambda pair: f"{pair[0]}:{pair[1]}"
    ),
)


@given(
    name=names,
    tag=st.none() | tags,
    digest=st.none() | digests,
    host=st.none() | hosts,
)
def test_a_reference_is_what_it_prints(name: str, tag: str | None, digest: str | None, host: str | None) -> None:
    """Parsing a printed reference gives that reference, local or remote, with any of its parts."""
    if host is None and "/" in name and "." in name.partition("/")[0]:
        name = name.replace(".", "-")  # such a name is remote: the test below
    reference = Reference(name=name, tag=tag, digest=digest, host=host)
    assert Reference.parse(str(reference)) == reference


@given(st.text(st.sampled_from("ab/:@.-_0A \n\\%…sha256"), max_size=20) | st.text(max_size=40))
@example("a\n")
@example("digits:3\n")
@example("../../etc/passwd")
def test_any_text_is_a_reference_or_an_error(text: str) -> None:
    """Any text is a reference that prints unchanged, or an error that quotes it."""
    try:
        reference = Reference.parse(text)
    except InvalidReference as error:
        assert text in str(error)  # noqa: PT017 - most texts are not references, and those that are don't raise
    else:
        assert str(reference) == text


@pytest.mark.parametrize(
    ("text", "host", "name", "tag"),
    [
        ("digits", None, "digits", None),
        ("digits:3", None, "digits", "3"),
        ("acme/digits:3", None, "acme/digits", "3"),
        ("ghcr.io/acme/digits:3", "ghcr.io", "acme/digits", "3"),
        ("localhost:5000/digits:3", "localhost:5000", "digits", "3"),
        ("localhost/digits", "localhost", "digits", None),
        ("docker.io/acme/my__digits:v1", "docker.io", "acme/my__digits", "v1"),
        ("my.digits", None, "my.digits", None),
        ("my.models/digits", "my.models", "digits", None),
    ],
)
def test_a_host_makes_a_reference_remote(text: str, host: str | None, name: str, tag: str | None) -> None:
    """Remote if and only if there is a `/` and the part before it has a `.` or `:` or is `localhost`."""
    reference = Reference.parse(text)
    assert (reference.host, reference.name, reference.tag) == (host, name, tag)


@pytest.mark.parametrize(
    ("tag", "version"), [("3", 3), ("120", 120), ("production", None), ("03", None), ("0", None), ("3a", None)]
)
def test_a_version_is_a_number_as_it_is_written(tag: str, version: int | None) -> None:
    """`03` is not version 3: one version has one spelling."""
    assert Reference(name="digits", tag=tag).version == version


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("Digits", "lower-case"),
        ("", "write 'digits'"),
        ("digits:", "neither a version nor an alias"),
        ("digits:a b", "neither a version nor an alias"),
        ("digits@sha256:0123456789ab", "all its 64"),
        ("digits@" + DIGEST.upper(), "all its 64"),
        ("digits@", "all its 64"),
        (DIGEST, f"digits@{DIGEST}"),
        ("my__digits", "single"),
        ("a" * 256, "lower-case"),
        ("a:b/digits", "not a host"),
    ],
)
def test_a_wrong_reference_says_what_a_right_one_looks_like(text: str, remedy: str) -> None:
    """Each common mistake, such as a shortened digest, has its own remedy."""
    with pytest.raises(InvalidReference, match=remedy):
        Reference.parse(text)


@pytest.mark.parametrize("alias", ["production", "v1.2", "Candidate", "2024-11-20", "cafe"])
def test_a_word_can_be_an_alias(alias: str) -> None:
    """Aliases are the words that a team uses for its stages."""
    assert check_alias(alias) == alias


@pytest.mark.parametrize(
    "alias", ["3", "03", "0123456789ab", "deadbeefdeadbeef", "sha256-" + "0" * 64, "", "a b", "a/b", "-a", "a" * 129]
)
def test_what_reads_as_a_version_or_digest_is_no_alias(alias: str) -> None:
    """An alias can't pass for a version, which never moves, or for a digest, which is identity."""
    with pytest.raises(InvalidReference, match="can't be an alias"):
        check_alias(alias)
