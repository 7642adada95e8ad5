from pathlib import Path

import pytest

from pipeline.replacing import replace_file


def test_a_file_is_the_new_one_or_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"

    def write(part: Path) -> None:
        assert part.parent == tmp_path and part != path
        part.write_text("new")
        assert path.read_text() == "old"

    replace_file(path, lambda part: part.write_text("old"))
    replace_file(path, write)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_what_cannot_be_written_changes_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise error

    with pytest.raises(type(error)):
        replace_file(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_that_write_at_once_each_have_a_place_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.json"

    def write(part: Path) -> None:
        replace_file(path, lambda other: other.write_text("second"), tmp_path / "second")
        part.write_text("first")

    replace_file(path, write, tmp_path / "first")
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
