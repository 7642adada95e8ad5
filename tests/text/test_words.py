import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.text.words import WordVectors, build_word_vectors, tokenize

CAPTIONS = ["slide the spatula under the pancake", "now flip it", "don't let it burn"]


def test_words_are_split_as_published() -> None:
    assert tokenize("Don't stop: 2 eggs, flour-milk!") == ["Don't", "stop", "2", "eggs", "flour", "milk"]
    assert tokenize("") == []


def test_unknown_words_are_left_out() -> None:
    words = WordVectors(["egg", "flip"], np.eye(2))
    assert words.ids("flip the egg egg").tolist() == [1, 0, 0]
    assert words.ids("nothing known").dtype == np.int32


@given(st.dictionaries(st.text(min_size=1), st.lists(st.floats(width=32, allow_nan=False), min_size=3, max_size=3)))
def test_saved_and_loaded(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, list[float]]) -> None:
    path = tmp_path_factory.mktemp("words") / "words.parquet"
    words = WordVectors(list(entries), np.array(list(entries.values()), np.float32).reshape(-1, 3))
    words.save(path)
    loaded = WordVectors.load(path)
    assert loaded.words == words.words
    np.testing.assert_array_equal(loaded.vectors, words.vectors)
    assert [item.name for item in path.parent.iterdir()] == ["words.parquet"]


def test_loading_what_is_not_there_or_not_vectors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no word vectors here"):
        WordVectors.load(tmp_path / "words.parquet")
    (tmp_path / "words.parquet").write_bytes(b"no table")
    with pytest.raises(InputError, match="not a file of word vectors"):
        WordVectors.load(tmp_path / "words.parquet")


def test_vectors_trained_on_captions_are_the_same_in_every_process() -> None:
    program = (
        "from pipeline.text.words import build_word_vectors\n"
        f"words = build_word_vectors('corpus', {CAPTIONS!r}, dim=12, seed=3)\n"
        "print(words.words, words.vectors.tobytes().hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    words = build_word_vectors("corpus", CAPTIONS, dim=12, seed=3)
    assert words.dim == 12 and set(words.words) == {word for caption in CAPTIONS for word in tokenize(caption)}
    assert not np.array_equal(build_word_vectors("corpus", CAPTIONS, 12, seed=4).vectors, words.vectors)
    assert len(build_word_vectors("corpus", [], dim=12)) == 0


def write_binary(path: Path, entries: dict[str, np.ndarray]) -> None:
    rows = b"".join(word.encode() + b" " + vector.astype("<f4").tobytes() + b"\n" for word, vector in entries.items())
    data = f"{len(entries)} 5\n".encode() + rows
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize(
    "name",
    ["vectors.bin", "GoogleNews.bin.gz", "vectors.txt", "windows.vec", "glove.txt.gz", "vectors.kv", "words.parquet"],
)
def test_published_files_give_the_words_that_are_used(tmp_path: Path, name: str) -> None:
    random = np.random.RandomState(1)
    # 600 kB: several reads, so that a row crosses the border between two of them
    entries = {f"word{i}": random.standard_normal(5).astype(np.float32) for i in range(60_000)}
    entries |= {word: random.standard_normal(5).astype(np.float32) for word in ("flip", "Slide", "pancake")}
    path = tmp_path / name
    if name.endswith(".kv"):
        stored = pytest.importorskip("gensim.models").KeyedVectors(vector_size=5)
        stored.add_vectors(list(entries), np.stack(list(entries.values())))
        stored.save(str(path))
    elif name.endswith(".parquet"):
        WordVectors(list(entries), np.stack(list(entries.values()))).save(path)
    elif ".bin" in name:
        write_binary(path, entries)
    else:
        lines = [f"{word} {' '.join(repr(float(x)) for x in vector)}" for word, vector in entries.items()]
        end = "\r\n" if name.startswith("windows") else "\n"
        text = end.join([f"{len(entries)} 5", *lines, ""])
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    words = build_word_vectors(str(path), CAPTIONS)
    assert words.words == ["flip", "pancake"]  # "Slide" is another word than "slide"
    np.testing.assert_array_equal(words.vectors, np.stack([entries["flip"], entries["pancake"]]))
    with_common = build_word_vectors(str(path), CAPTIONS, common=2)
    assert with_common.words == ["word0", "word1", "flip", "pancake"]
    np.testing.assert_array_equal(with_common.vectors[1], entries["word1"])


def test_a_cut_file_of_vectors_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vectors.bin"
    write_binary(path, {"flip": np.zeros(5), "egg": np.zeros(5)})
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"vectors\.bin.*ends early"):
        build_word_vectors(str(path), CAPTIONS)
    path.write_text("2 5\nflip 1 2 3 4 5\n")
    with pytest.raises(InputError, match=r"vectors\.bin.*ends early"):
        build_word_vectors(str(path), CAPTIONS)
    path.write_bytes(b"<html>")
    with pytest.raises(InputError, match="not word vectors"):
        build_word_vectors(str(path), CAPTIONS)
    with pytest.raises(InputError, match="no word vectors here"):
        build_word_vectors(str(tmp_path / "other.bin"), CAPTIONS)
