import collections
import os
import pickle

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.shards.foreign.unpickle import read_arrays


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_tensors_and_plain_containers_come_back(tmp_path, protocol):
    value = [
        {
            "2d": np.arange(6, dtype=np.float32).reshape(2, 3),
            "half": np.ones(3, np.float16)[::2],
            "audio": torch.arange(6.0).reshape(2, 3)[:, 1:],
            "long": torch.tensor([1, 2]),
            "scalar": np.float64(1.5),
            "texts": ["a", "é"],
            "ordered": collections.OrderedDict(a=1),
            "plain": (None, True, 3, 2.5, b"bytes", {1}, frozenset({2}), 1j),
            "objects": np.array(["x", None], dtype=object),
        }
    ]
    path = tmp_path / "clips.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    (found,) = read_arrays(path)
    (expected,) = value
    assert found.keys() == expected.keys()
    for name in ("audio", "long"):
        assert torch.equal(found[name], expected[name])
    for name in ("2d", "half", "scalar", "objects"):
        np.testing.assert_array_equal(found[name], expected[name])
    for name in ("texts", "ordered", "plain"):
        assert found[name] == expected[name]


class Harmful:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("harm", "name"),
    [
        (Harmful(os.system, "touch harmed"), r"posix\.system"),
        (Harmful(eval, "open('harmed', 'w')"), r"builtins\.eval"),
        (Harmful(getattr, str, "join"), r"builtins\.getattr"),
        (Harmful(np.load, "x"), r"numpy.*load"),
        (Harmful(torch.load, "x"), r"torch.*load"),
        (pytest.MonkeyPatch, r"MonkeyPatch"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda harm: harm, lambda harm: [{"2d": np.array([harm], dtype=object)}]])
def test_anything_else_is_refused_by_its_name(tmp_path, monkeypatch, harm, name, wrap):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "clips.pkl"
    path.write_bytes(pickle.dumps(wrap(harm)))
    with pytest.raises(InputError, match=f"clips.pkl: refused, since it holds .*{name}") as caught:
        read_arrays(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("protocol", "message"),
    [(2, r"refused, since it holds posix\.system"), (4, "not a readable pickle .*none that torch.save wrote")],
)
def test_a_harmful_pickle_within_a_tensor_is_refused(tmp_path, monkeypatch, protocol, message):
    """A tensor's bytes are a pickle of their own, which torch would read without restriction."""
    monkeypatch.chdir(tmp_path)
    inner = pickle.dumps(Harmful(os.system, "touch harmed"), protocol)
    path = tmp_path / "clips.pkl"
    path.write_bytes(pickle.dumps(Harmful(torch.storage._load_from_bytes, inner)))
    with pytest.raises(InputError, match=message) as caught:
        read_arrays(path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("data", [b"", b"nothing", pickle.dumps(np.arange(9.0))[:-20]])
def test_what_is_no_pickle_is_one_line(tmp_path, data):
    path = tmp_path / "clips.pkl"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"clips\.pkl: not a readable pickle"):
        read_arrays(path)
    with pytest.raises(InputError, match="no such file"):
        read_arrays(tmp_path / "none.pkl")
