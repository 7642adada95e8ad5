import pickle
from pathlib import Path

import pytest
import torch

from pipeline.errors import InputError
from pipeline.training.checkpoint import Checkpoints, read_checkpoint


def state(step: int) -> dict:
    return {"model": {"weight": torch.full((300,), float(step))}, "step": step, "names": ["a", None, 1.5]}


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score in [(1, 0.1), (2, 0.9), (3, 0.3), (4, None), (5, 0.2)]:
        checkpoints.save(step, state(step), score)
    assert checkpoints.steps() == [2, 4, 5]
    assert checkpoints.best() == (2, 0.9)
    assert read_checkpoint(checkpoints.path(2))["step"] == 2


def test_the_best_is_among_what_is_there_after_going_back(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    for step, score in [(1, 0.2), (2, 0.4), (3, None), (4, 0.9)]:
        checkpoints.save(step, state(step), score)
    checkpoints.go_back(checkpoints.path(3), 3)
    assert checkpoints.best() == (2, 0.4)
    checkpoints.save(4, state(4), 0.3)
    assert checkpoints.best() == (2, 0.4)
    checkpoints.go_back(checkpoints.path(2), 2)
    assert checkpoints.best() == (2, 0.4)
    checkpoints.go_back(checkpoints.path(1), 1)
    assert checkpoints.best() == (1, 0.2)
    checkpoints.go_back(checkpoints.path(1), 0)
    assert checkpoints.best() is None
    checkpoints.save(1, state(1), 0.1)
    assert checkpoints.best() == (1, 0.1)


def test_the_best_of_those_that_are_whole_follows_one_that_is_damaged(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    for step, score in [(1, 0.6), (2, 0.4), (3, 0.9)]:
        checkpoints.save(step, state(step), score)
    checkpoints.path(3).write_bytes(checkpoints.path(3).read_bytes()[:100])
    found = checkpoints.last(lambda message: None)
    assert found is not None and found[0] == checkpoints.path(2)
    assert checkpoints.best() == (1, 0.6)


@pytest.mark.parametrize("where", [0.01, 0.3, 0.5, 0.7, 0.99])
@pytest.mark.parametrize("how", ["flip", "cut"])
def test_damage_is_found_wherever_it_is(tmp_path: Path, where: float, how: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    paths = [checkpoints.save(step, state(step)) for step in (1, 2)]
    whole = paths[1].read_bytes()
    at = int(len(whole) * where)
    changed = whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :] if how == "flip" else whole[:at]
    paths[1].write_bytes(changed)
    told: list[str] = []
    found = checkpoints.last(told.append)
    assert found is not None
    if found[0] == paths[1]:
        # the byte was padding between records: what is read is what was written
        assert torch.equal(found[1]["model"]["weight"], state(2)["model"]["weight"])
        return
    assert found[0] == paths[0]
    assert len(told) == 1
    assert str(paths[1]) in told[0]
    assert "damaged" in told[0]
    assert checkpoints.steps() == [1]


def test_a_crash_while_writing_leaves_the_ones_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))
    with pytest.raises((AttributeError, pickle.PicklingError)):  # the latter since Python 3.14
        checkpoints.save(2, {"model": {}, "not storable": lambda: None})
    (tmp_path / "step-00000003.pt.part").write_bytes(b"half")
    found = checkpoints.last(pytest.fail)
    assert found is not None
    assert found[0] == checkpoints.path(1)


def test_nothing_whole_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.last(pytest.fail) is None
    checkpoints.save(1, state(1)).write_bytes(b"")
    with pytest.raises(InputError, match=r"all checkpoints in .* are damaged"):
        checkpoints.last(lambda _: None)


def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(InputError, match="there is no checkpoint"):
        read_checkpoint(path)
    path.write_text("hello")
    with pytest.raises(InputError, match="damaged"):
        read_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(InputError, match="holds no model"):
        read_checkpoint(path)
    torch.save({"model": Path}, path)
    with pytest.raises(InputError, match="not a checkpoint of this program"):
        read_checkpoint(path)


def test_a_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state(1))

    def lacking(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", lacking)
        with pytest.raises(InputError, match="not enough memory for checkpoint"):
            checkpoints.last(pytest.fail)
    assert checkpoints.last(pytest.fail) is not None


def test_a_score_is_not_lost_by_a_kill_right_after_its_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, state(1), 1.0)
    best = (tmp_path / "best.json").read_bytes()
    checkpoints.save(2, state(2), 9.0)
    (tmp_path / "best.json").write_bytes(best)
    checkpoints.last(pytest.fail)
    assert checkpoints.best() == (2, 9.0)
    checkpoints.save(3, state(3), 2.0)
    assert checkpoints.steps() == [2, 3]
