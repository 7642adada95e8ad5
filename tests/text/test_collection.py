"""Word vectors by name, from a server that speaks as the collection's does."""

import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.demo.mirror import Fault, Mirror
from pipeline.errors import InputError
from pipeline.text import collection
from pipeline.text.collection import collection_file
from pipeline.text.words import build_word_vectors

NAME = "word2vec-google-news-300"
FILE = f"{NAME}/{NAME}.gz"


@pytest.fixture
def served(tmp_path: Path) -> bytes:
    """300 kB of vectors and the collection's list, in a folder that a server can serve."""
    chance = random.Random(4)
    rows = "".join(f"word{row} {chance.random()} {chance.random()}\n" for row in range(15_000))
    content = gzip.compress(f"15002 2\nflip 1 2\negg 3 4\n{rows}".encode())
    path = tmp_path / "served" / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    models = {name: {"checksum": hashlib.md5(content).hexdigest(), "parts": 1} for name in (NAME, "glove-twitter-25")}
    (tmp_path / "served" / "list.json").write_text(json.dumps({"corpora": {}, "models": models}))
    return content


@pytest.fixture
def serve(tmp_path: Path, served: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Mirror]]:
    """Starts the server with faults of the file; what is fetched goes to ``tmp_path/here``."""
    mirrors = []

    def start(*faults: Fault) -> Mirror:
        mirror = Mirror(tmp_path / "served", {FILE: faults} if faults else {}).__enter__()
        mirrors.append(mirror)
        monkeypatch.setattr(collection, "LIST", f"{mirror.url}/list.json")
        monkeypatch.setattr(collection, "RELEASES", mirror.url)
        return mirror

    monkeypatch.setenv("GENSIM_DATA_DIR", str(tmp_path / "here"))
    monkeypatch.setattr(collection, "_SECONDS_BETWEEN", 0.0)
    yield start
    for mirror in mirrors:
        mirror.__exit__(None, None, None)


def test_it_is_fetched_once_and_read(serve: Callable[..., Mirror], tmp_path: Path) -> None:
    mirror = serve()
    for _ in range(2):
        words = build_word_vectors(NAME, ["flip the egg"])
        assert words.words == ["flip", "egg"] and words.vectors.tolist() == [[1, 2], [3, 4]]
    assert mirror.requests[FILE] == 1
    assert [path.name for path in (tmp_path / "here" / NAME).iterdir()] == [f"{NAME}.gz"]


def test_broken_connections_are_continued(serve: Callable[..., Mirror], served: bytes) -> None:
    mirror = serve(Fault("status", times=1, status=503), Fault("cut", times=2, after=100_000))
    assert collection_file(NAME).read_bytes() == served
    # what was under way when a connection broke is lost
    assert len(served) <= mirror.bytes_sent <= len(served) + 2 * 65_536 + 1000


def test_a_refusal_is_not_tried_again(serve: Callable[..., Mirror]) -> None:
    mirror = serve(Fault("status", status=404))
    with pytest.raises(InputError, match="404"):
        collection_file(NAME)
    assert mirror.requests[FILE] == 1


@pytest.mark.parametrize("faults", [(), (Fault("no_ranges"),)])
def test_what_a_killed_process_left_is_continued(
    serve: Callable[..., Mirror], served: bytes, tmp_path: Path, faults: tuple[Fault]
) -> None:
    mirror = serve(*faults)
    part = tmp_path / "here" / NAME / f".{NAME}.gz.part"
    part.parent.mkdir(parents=True)
    for have in (200_000, len(served)):
        part.write_bytes(served[:have])
        before = mirror.bytes_sent
        path = collection_file(NAME)
        assert path.read_bytes() == served and not part.exists()
        assert faults or mirror.bytes_sent - before < len(served) - have + 1000
        path.unlink()


def test_a_damaged_file_is_refused_and_fetched_anew(serve: Callable[..., Mirror], served: bytes) -> None:
    serve(Fault("flip", times=1, after=1000))
    with pytest.raises(InputError, match="came damaged"):
        collection_file(NAME)
    assert collection_file(NAME).read_bytes() == served


def test_an_unknown_name_is_told_with_those_near_it(serve: Callable[..., Mirror]) -> None:
    serve()
    with pytest.raises(InputError, match=r"no such name in the collection \(near it: glove-twitter-25\): name a file"):
        collection_file("glove-twiter-25")


def test_without_a_network_it_says_what_to_do(serve: Callable[..., Mirror], monkeypatch: pytest.MonkeyPatch) -> None:
    mirror = serve()
    monkeypatch.setattr(collection, "LIST", "http://127.0.0.1:1/list.json")
    with pytest.raises(InputError, match=rf"network does not reach it.*put {mirror.url}/{FILE} there, or name a file"):
        collection_file(NAME)
