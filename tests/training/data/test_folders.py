from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from training.data.folders import ImageFolders, hold_out, open_folders

ROOT = Path("/data")
names = st.sets(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1), min_size=2)
fractions = st.floats(0, 1, exclude_min=True, exclude_max=True)


@given(names=names, fraction=fractions, seed=st.integers(0, 9))
def test_hold_out_divides(names: set[str], fraction: float, seed: int) -> None:
    """Every file is in exactly one half, neither half is empty, and the sizes are as near to the fraction as can be."""
    files = {ROOT / f"_{name}" for name in names}
    kept, held = hold_out(files, root=ROOT, fraction=fraction, seed=seed)
    assert sorted(files) == sorted([*kept, *held])
    assert kept
    assert held
    assert len(held) in {1, round(fraction * len(files)), len(files) - 1}


@given(names=names, fraction=fractions)
def test_hold_out_hardly_changes_with_a_new_file(names: set[str], fraction: float) -> None:
    """Adding an image moves at most one other image from one half to the other."""
    files = {ROOT / f"_{name}" for name in names}
    before = set(hold_out(files, root=ROOT, fraction=fraction, seed=0)[1])
    after = set(hold_out({*files, ROOT / "new"}, root=ROOT, fraction=fraction, seed=0)[1])
    assert len((before ^ after) - {ROOT / "new"}) <= 1


def test_hold_out_is_the_same_everywhere() -> None:
    """The halves depend on names and seed alone; these were recorded once."""
    files = [ROOT / f"{number}.png" for number in range(10)]
    held = [hold_out(files, root=ROOT, fraction=0.3, seed=seed)[1] for seed in (0, 1)]
    assert [[file.stem for file in half] for half in held] == [["4", "6", "8"], ["0", "2", "4"]]


def test_labels_and_samples_are_sorted(few_digits: Path) -> None:
    """Labels are the sorted names of the class folders, and samples refer to them by index."""
    folders = open_folders(few_digits, val_fraction=None, seed=0)
    assert folders.labels == ("0", "1", "2", "3")
    assert [sample.label for sample in folders.val] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert all(sample.path.parent.name == folders.labels[sample.label] for sample in folders.train)
    assert list(folders.train) == sorted(folders.train, key=lambda sample: sample.path)


def test_only_images_are_found(my_digits: Path) -> None:
    """Hidden files, hidden folders and other suffixes are ignored; subfolders of a class folder are searched."""
    zero = my_digits / "train" / "0"
    image = next(zero.iterdir())
    for name in (".hidden.png", "notes.txt", ".cache/copy.png", "2024/deep.PNG"):
        (zero / name).parent.mkdir(exist_ok=True)
        (zero / name).write_bytes(image.read_bytes())
    (my_digits / "train" / ".git").mkdir()
    folders = open_folders(my_digits, val_fraction=None, seed=0)
    added = [sample.path for sample in folders.train if sample.path.parent.name not in "0123"]
    assert added == [zero / "2024" / "deep.PNG"]


def test_digest_follows_the_data(my_digits: Path) -> None:
    """The digest changes if an image is added or changes its size, and only then."""

    def digest() -> str:
        return open_folders(my_digits, val_fraction=None, seed=0).digest()

    before = digest()
    assert digest() == before
    image = next((my_digits / "val" / "1").iterdir())
    image.write_bytes(image.read_bytes() + b"\0")
    grown = digest()
    assert grown != before
    (my_digits / "train" / "1" / "new.png").touch()
    assert digest() not in {before, grown}


def test_digest_of_a_moved_data_set(my_digits: Path, few_digits: Path) -> None:
    """The digest doesn't depend on the location: a copy has the same digest."""
    copies: list[ImageFolders] = [open_folders(root, val_fraction=None, seed=0) for root in (my_digits, few_digits)]
    assert copies[0].digest() == copies[1].digest()
