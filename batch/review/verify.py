"""Verifies that an output has exactly one row for each image of its plan, and that no byte has changed since.

Everything is read and counted again, part by part, so memory does not grow with the number of images.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from batch.inputs.plan import inputs_of
from batch.pipeline.ahead import map_ahead
from batch.pipeline.loading import decode_threads
from batch.pipeline.reading import read_file, with_data
from batch.rows.formats import read_outcomes
from batch.run.record import RunRecord
from classifier.errors import ImageError, OutputError
from classifier.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batch.inputs.plan import ImageFile
    from batch.review.results import FolderResults, Results
    from batch.rows.columns import Outcome
    from batch.run.record import Commit
    from classifier.progress import Advance


def find_problems(results: Results, advance: Advance) -> Iterator[str]:
    """Yield each problem of an output as a sentence; none if every image has its row and nothing has changed.

    Args:
        results: the results in the output.
        advance: called with the number of images that are newly checked.

    Raises:
        OutputError: a run is under way there.
    """
    if running := next((each for each in results.folders if each.state == "running"), None):
        who = f" ({running.holder})" if running.holder else ""
        raise OutputError(f"a run into '{running.folder.path}' is under way{who}; verify it after it has ended")
    for shard in results.missing:
        yield f"the shard {shard} has not begun in '{results.output}'; run it with --shard {shard}"
    for folder in results.folders:
        yield from _check_folder(folder)
    plan = None
    for folder in results.folders:
        if problem := folder.plan_problem():
            yield problem
        else:
            plan = folder.folder.plan
    images = results.images(plan, inputs_of(results.run.plan)) if plan else None
    for folder, commit in results.parts():
        rows = results.run.plan.rows(commit.chunk)
        files = list(islice(images, rows)) if images else None
        yield from _check_part(folder, commit, files)
        advance(rows)


def _check_folder(results: FolderResults) -> Iterator[str]:
    """Yield each problem of a folder, except those inside its parts."""
    folder, run = results.folder, results.run
    expected = {run.part(chunk) for chunk in run.chunks}
    if absent := len(expected) - len(results.commits):
        why = "has lost" if folder.succeeded else f"was {results.state} before it made"
        parts = f"{absent:,} of its {counted(len(expected), 'part')}"
        yield f"the run in '{folder.path}' {why} {parts}; the same command makes what is missing"
    elif not folder.succeeded:
        yield f"the run in '{folder.path}' has all its parts and no _SUCCESS; the same command writes it"
    try:
        names = {part.name for part in folder.parts.iterdir()}
    except OSError as error:
        yield f"the folder '{folder.parts}' can't be read ({error.strerror}); put that right"
        return
    for name in sorted(names - expected):
        yield f"'{folder.parts / name}' is not a part of this run; move it away"
    committed = RunRecord.of(run, results.commits.values(), results.record.attempts if results.record else ())
    if results.record is None:
        yield f"'{folder.record}' is missing or can't be read; the same command writes it again"
    elif folder.succeeded and replace(results.record, state=committed.state) != committed:
        yield f"the counts in '{folder.record}' differ from the commits; the same command writes it again"


def _check_part(results: FolderResults, commit: Commit, files: Sequence[ImageFile] | None) -> Iterator[str]:
    """Yield each problem of a part. `files` are the plan's images for its rows; None if there is no plan."""
    run, path = results.run, results.folder.parts / commit.part
    again = "remove it, and the same command makes it again"
    try:
        outcomes = read_outcomes(results.folder.read_part(commit), run.columns)
    except OutputError as error:
        yield str(error)
        return
    except ValueError as error:
        yield f"the part '{path}' can't be read as {run.format} ({error}); {again}"
        return
    rows = run.plan.rows(commit.chunk)
    if len(outcomes) != rows:
        yield f"the part '{path}' has {counted(len(outcomes), 'row')}, and its chunk {counted(rows, 'image')}; {again}"
    if files is not None and (fact := _first_other(outcomes, files)):
        yield f"the part '{path}' {fact}; {again}"
    if (row := next((row for row, each in enumerate(outcomes) if not _is_of(each, results)), None)) is not None:
        yield f"row {row} of the part '{path}' can't be of this run: its columns contradict it, or each other; {again}"
    errors = dict(sorted(Counter(each.reason for each in outcomes if each.reason).items()))
    in_class_folders, correct = commit.in_class_folders, commit.correct
    if files is not None:
        in_class_folders, correct = _in_class_folders(outcomes, files, results)
    recounted = replace(commit, rows=len(outcomes), errors=errors, in_class_folders=in_class_folders, correct=correct)
    if recounted != commit:
        yield f"the commit of the part '{path}' has other counts than its rows; {again}"


def _first_other(outcomes: Sequence[Outcome], files: Sequence[ImageFile]) -> str | None:
    """Return the first row that is not the plan's, in words; None if all are."""
    for row, (outcome, file) in enumerate(zip(outcomes, files, strict=False)):
        if (outcome.path, outcome.input) != (file.printable_path, file.printable_input):
            return f"has {outcome.path!r} in row {row}, but the plan has {file.printable_path!r}"
    return None


def _is_of(outcome: Outcome, results: FolderResults) -> bool:
    """Return whether a row is consistent with the run and with itself."""
    run, engine = results.run, results.run.engine
    is_ok = outcome.status == "ok"
    return (
        (outcome.model, outcome.engine) == (run.model, f"{engine.name} {engine.version}")
        and (outcome.device, outcome.precision) == (engine.device, engine.precision)
        and (outcome.status in {"ok", "error"})
        and (outcome.error is None) == is_ok
        and (outcome.label in run.labels if is_ok else outcome.label is None)
        and (outcome.score is not None and 0 <= outcome.score <= 1 if is_ok else outcome.score is None)
    )


def _in_class_folders(
    outcomes: Sequence[Outcome], files: Sequence[ImageFile], results: FolderResults
) -> tuple[int, int]:
    labels = frozenset(results.run.labels)
    folders = [file.label(labels) for file in files]
    correct = sum(folder == outcome.label for folder, outcome in zip(folders, outcomes, strict=False))
    return sum(folder is not None for folder in folders), correct


def find_changed_inputs(results: Results, advance: Advance, *, threads: int | None = None) -> Iterator[str]:
    """Yield each image that changed after it was classified, as a sentence. Images that were never read don't count.

    Raises:
        DataError: an input disappeared, or the file that holds the images can't be read.
        OutputError: a part can't be read.
    """
    expected: deque[Outcome] = deque()
    threads = decode_threads(threads)

    def files() -> Iterator[ImageFile]:
        for file, outcome in _images(results):
            if outcome.sha256 is None:
                advance(1)
            else:
                expected.append(outcome)
                yield file

    with closing(map_ahead(_hash, with_data(files()), threads=threads, ahead=4 * threads)) as found:
        for file, now in found:
            outcome = expected.popleft()
            name = f"'{outcome.input}': {outcome.path!r}"
            if isinstance(now, ImageError):
                file.input.require()
                yield f"the image in {name} can't be read any more ({now.reason}); restore it"
            elif now != (outcome.bytes, outcome.sha256):
                yield f"the image in {name} is not the one that was classified; restore it, or run it again"
            advance(1)


def _images(results: Results) -> Iterator[tuple[ImageFile, Outcome]]:
    """Yield each committed image with its row."""
    plan = results.run.plan
    inputs = tuple(each.on_this_machine() for each in inputs_of(plan))
    files = results.images(results.folders[0].folder.plan, inputs)
    for each, commit in results.parts():
        outcomes = read_outcomes(each.folder.read_part(commit), results.run.columns)
        yield from zip(islice(files, plan.rows(commit.chunk)), outcomes, strict=True)


def _hash(file: ImageFile) -> tuple[ImageFile, tuple[int, str] | ImageError]:
    try:
        data = read_file(file)
    except ImageError as error:
        return file, error
    return replace(file, data=None), (len(data), hashlib.sha256(data).hexdigest())
