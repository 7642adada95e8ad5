import json
from pathlib import Path

import pytest

from pipeline.demo.outcome import check_outcome
from pipeline.errors import InputError


def metrics(folder: Path, found: float, direction: str = "t2va") -> Path:
    path = folder / "metrics.json"
    path.write_text(json.dumps({"retrieval": {direction: {"R10": found}}, "chance": {"R10": 8.5}}))
    return path


@pytest.mark.parametrize("direction", ["t2va", "t2v+a"])
def test_retrieval_that_is_better_than_chance_is_told(tmp_path: Path, direction: str) -> None:
    assert check_outcome(metrics(tmp_path, 40.04, direction)) == f"R@10 of {direction} is 40.0, that of chance 8.5"
    assert check_outcome(metrics(tmp_path, 17.0, direction))


@pytest.mark.parametrize("found", [0.0, 9.2, 16.9, float("nan")])
def test_retrieval_that_is_hardly_better_than_chance_is_an_error_with_both_numbers(
    tmp_path: Path, found: float
) -> None:
    with pytest.raises(InputError, match=rf"metrics.json: R@10 of t2va is {found:.1f}, less than 2 times the 8.5 of"):
        check_outcome(metrics(tmp_path, found))
