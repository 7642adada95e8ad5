"""Damage of a checkpoint is found, whichever byte it is in."""

import zipfile
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from pipeline.models.checkpoints import check_records, read_checkpoint, seal

WEIGHTS = {"model": {"weight": torch.arange(300.0)}, "step": 7}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(WEIGHTS, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def _assert_whole(found: object) -> None:
    assert isinstance(found, dict)
    assert torch.equal(found["model"]["weight"], WEIGHTS["model"]["weight"])  # type: ignore[index]
    assert found["step"] == 7


def test_a_sealed_file_is_read_by_all_and_any_changed_byte_is_noticed(path: Path) -> None:
    seal(path)
    _assert_whole(torch.load(path, weights_only=True))
    _assert_whole(torch.load(path, weights_only=True, mmap=True))
    whole = path.read_bytes()
    found = 0
    for place in range(len(whole)):
        for bits in (1, 0x10, 0xFF):
            changed = bytearray(whole)
            changed[place] ^= bits
            path.write_bytes(changed)
            try:
                _assert_whole(read_checkpoint(path))
            except InputError:
                found += 1
    assert found > 3 * (len(whole) - 7), "only of the seal's own name a change does not matter"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(path)


def test_a_record_that_would_be_taken_for_a_folder_is_noticed(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    entry = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"data/0"))
    whole[entry + 38] |= 0x10
    path.write_bytes(whole)
    with pytest.raises(zipfile.BadZipFile, match="data/0"):
        check_records(path)


def test_a_file_is_sealed_once(path: Path) -> None:
    seal(path)
    with pytest.raises(ValueError, match="comment"):
        seal(path)
