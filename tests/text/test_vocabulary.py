import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.text import clip_vocabulary
from pipeline.text.clip_vocabulary import ClipVocabulary
from pipeline.text.vocabulary import build_vocabulary, check_kind, load_vocabulary
from pipeline.text.words import WordVectors

WORDS = st.text(alphabet="abcxyzABC'_019é ñ,.!?-&", max_size=30)


@pytest.fixture
def words() -> ClipVocabulary:
    pytest.importorskip("open_clip")
    return ClipVocabulary()


def test_ids_are_those_of_the_published_vocabulary(words: ClipVocabulary) -> None:
    # OpenAI's own example, without its start and end
    assert words.ids("a diagram").tolist() == [320, 22697]
    assert words.ids("a diagram").dtype == np.int32
    assert words.ids("A  diagram!").tolist() == [320, 22697]
    assert words.ids("").tolist() == [] == words.ids("?!").tolist()


def test_a_row_of_the_file_is_a_piece(words: ClipVocabulary, tmp_path: Path) -> None:
    path = tmp_path / "words.parquet"
    words.save(path)
    assert isinstance(load_vocabulary(path), ClipVocabulary)
    pieces = pq.read_table(path)["word"].to_pylist()
    assert len(pieces) == 49_408
    ids = words.ids("whisk the zabaglione").tolist()
    assert "".join(pieces[place] for place in ids) == "whisk</w>the</w>zabaglione</w>"
    with pytest.raises(InputError, match="not a file of word vectors"):
        WordVectors.load(path)


@given(st.lists(WORDS, max_size=4))
def test_captions_have_the_ids_of_their_words_in_one_text(captions: list[str]) -> None:
    pytest.importorskip("open_clip")
    words = ClipVocabulary()
    apart = [place for caption in captions for place in words.ids(caption).tolist()]
    assert apart == words.ids(" ".join(captions)).tolist()


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    clip_vocabulary._tokenizer.cache_clear()
    for module in ("open_clip", "open_clip.tokenizer"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install 'howto-pipeline\[clip\]'"):
        ClipVocabulary().ids("flip it")


def test_each_source_has_its_kind(tmp_path: Path) -> None:
    assert isinstance(build_vocabulary("clip", []), ClipVocabulary)
    trained = build_vocabulary("corpus", ["flip it", "now flip"], dim=3)
    assert isinstance(trained, WordVectors) and trained.dim == 3
    trained.save(tmp_path / "words.parquet")
    loaded = load_vocabulary(tmp_path / "words.parquet")
    assert isinstance(loaded, WordVectors) and loaded.words == trained.words


def test_ids_of_words_and_of_pieces_are_not_mixed(words: ClipVocabulary, tmp_path: Path) -> None:
    clip, vectors = tmp_path / "clip.parquet", tmp_path / "vectors.parquet"
    words.save(clip)
    WordVectors(["flip"], np.ones((1, 512), np.float32)).save(vectors)
    for path, source in (
        (clip, "clip"),
        (vectors, "corpus"),
        (tmp_path / "none", "clip"),
        (tmp_path / "none", "corpus"),
    ):
        check_kind(path, source)
    with pytest.raises(InputError, match="stand for CLIP's pieces, not for corpus"):
        check_kind(clip, "corpus")
    with pytest.raises(InputError, match="stand for words with vectors, not for clip"):
        check_kind(vectors, "clip")


def test_a_file_of_a_kind_that_is_not_known_or_of_none(tmp_path: Path) -> None:
    path = tmp_path / "words.parquet"
    with pytest.raises(InputError, match="no word vectors here"):
        load_vocabulary(path)
    path.write_bytes(b"no table")
    with pytest.raises(InputError, match="not a file of word vectors"):
        load_vocabulary(path)
    pq.write_table(pa.table({"word": ["a"]}).replace_schema_metadata({"vocabulary": "runes"}), path)
    with pytest.raises(InputError, match="the vocabulary runes, which is not known"):
        load_vocabulary(path)
