import json
import pickle
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets import picklefile
from pipeline.datasets.picklefile import pickle_to_json
from pipeline.datasets.table import Manifest
from pipeline.errors import InputError
from pipeline.manifest import main
from pipeline.types import Caption

_DATA = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.text(max_size=300)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=12), _DATA, max_size=6), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_any_plain_dictionary_of_any_protocol(tmp_path_factory, content, protocol):
    folder = tmp_path_factory.mktemp("pickle")
    # protocols 0 to 2 write booleans as integers of a special form, which compare equal
    (folder / "a.pickle").write_bytes(pickle.dumps(content, protocol))
    pickle_to_json(folder / "a.pickle", folder / "a.json")
    assert json.loads((folder / "a.json").read_text()) == content


def captions(count):
    """As json.load makes them: the fields' names are one object each."""
    text = {f"v{n}": {"start": [0.5, n], "end": [1.5, n + 1], "text": [f"take {n}", "stir"]} for n in range(count)}
    return json.loads(json.dumps(text))


def test_memory_of_what_was_noted_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(picklefile, "REMEMBERED", 50)
    monkeypatch.setattr(picklefile, "FIRST", 20)
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(captions(3000)))
    seen = []
    pickle_to_json(tmp_path / "a.pickle", tmp_path / "a.json", seen.append)
    assert json.loads((tmp_path / "a.json").read_text()) == captions(3000)
    assert seen == sorted(seen) and seen[-1] <= (tmp_path / "a.pickle").stat().st_size
    shared = ["x" * 40]
    (tmp_path / "a.pickle").write_bytes(pickle.dumps({"a": shared, **captions(100), "z": shared}))
    pickle_to_json(tmp_path / "a.pickle", tmp_path / "a.json")  # among the first
    far = {**captions(100), "y": shared, **{f"w{n}": [str(n)] for n in range(100)}, "z": shared}
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(far))
    with pytest.raises(InputError, match="refers far back"):
        pickle_to_json(tmp_path / "a.pickle", tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": date(2020, 1, 1)}), "holds more than dictionaries"),
        (pickle.dumps({"a": print}), "holds more than dictionaries"),
        (pickle.dumps([{"a": 1}]), "outermost object is another"),
        (pickle.dumps(captions(5))[:-40], "not a whole pickle"),
        (b"nonsense", "not a whole pickle"),
        (b"", "not a whole pickle"),
    ],
)
def test_anything_else_is_refused_and_never_run(tmp_path, content, message):
    (tmp_path / "a.pickle").write_bytes(content)
    with pytest.raises(InputError, match=message):
        pickle_to_json(tmp_path / "a.pickle", tmp_path / "a.json")


def test_the_pickled_captions_of_howto100m(tmp_path):
    (tmp_path / "h.csv").write_text("video_id,category_1,category_2,rank,task_id\nv1,A,B,1,2\nv9,A,B,1,2\n")
    (tmp_path / "c.pickle").write_bytes(pickle.dumps(captions(5)))
    files = ["--csv", str(tmp_path / "h.csv"), "--captions", str(tmp_path / "c.pickle")]
    main(["build", "howto100m", *files, "--out", str(tmp_path / "out" / "m.parquet")])
    first, second = Manifest(tmp_path / "out" / "m.parquet")
    assert first.captions == [Caption(0.5, 1.5, "take 1"), Caption(1, 2, "stir")] and second.captions is None
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.parquet"]
