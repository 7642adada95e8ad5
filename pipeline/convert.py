"""Features of other programs into shards, and shards back.

    python -m pipeline.convert npz features/ --captions caption.pickle --shards shards/howto100m
    python -m pipeline.convert npy feat_s3d/ --modality 3d --rate-3d 1 --captions caption.json --shards shards/s3d
    python -m pipeline.convert pkl train=youcook_train.pkl test=youcook_val.pkl --shards shards/youcook2
    python -m pipeline.convert pkl test=resnet/youcook_val.pkl --features test=clip/youcook_val.pkl --key-2d clip \\
        --complete --words clip --shards shards/youcook2-clip
    python -m pipeline.convert to-npz shards/mft features/
    python -m pipeline.convert to-pkl shards/youcook2 youcook_val.pkl --split test

It can be stopped and started again. Of a pickle only arrays, tensors and plain containers are read.
"""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.cli import console, positive_float, positive_int, progress_bar, run_verb, verb_parser
from pipeline.errors import InputError
from pipeline.wording import counted

if TYPE_CHECKING:
    from pipeline.shards.foreign.features import Foreign
    from pipeline.shards.writer import ShardWriter
    from pipeline.text.vocabulary import Vocabulary
    from pipeline.text.words import WordVectors
    from pipeline.types import Modality

_MOST_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the verb."""
    parser = verb_parser(__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    npz = actions.add_parser("npz", help="trees of <id>_2d.npz, <id>_3d.npz, <id>_spec.npz (MCN, MFT, AVLnet)")
    npy = actions.add_parser("npy", help="trees of <id>.npy, one array per video (HowTo100M)")
    for action in (npz, npy):
        action.add_argument("folders", type=Path, nargs="+", help="where the files are, at any depth")
        action.add_argument("--captions", type=Path, help="caption.pickle or caption.json; default: no captions")
        action.add_argument("--list", type=Path, help="CSV of the videos to take (column video_id or path)")
        action.add_argument("--split", default="train", help="what the videos are for; default: train")
    npy.add_argument("--modality", choices=["2d", "3d"], default="2d", help="what the arrays are; default: 2d")
    pkl = actions.add_parser("pkl", help="clips of YouCook2 and MSR-VTT in one file (MCN, MFT)")
    pkl.add_argument("files", nargs="+", metavar="SPLIT=FILE", help="train=FILE, test=FILE")
    pkl.add_argument(
        "--features", nargs="+", default=[], metavar="SPLIT=FILE",
        help="files of the same clips in the same order, whose 2D and 3D features are taken instead",
    )  # fmt: skip
    pkl.add_argument("--key-2d", metavar="KEY", help="what 2D features are called: clip; default: 2d_full, else 2d")
    pkl.add_argument("--key-3d", metavar="KEY", help="what 3D features are called: s3d; default: 3d_full, else 3d")
    pkl.add_argument("--complete", action="store_true", help="leave out clips that lack what others have, as MFT does")
    for action in (npz, npy, pkl):
        action.add_argument("--shards", type=Path, required=True, help="folder for the shards, shards/<name>")
        action.add_argument(
            "--words",
            default="word2vec-google-news-300",
            help="word vectors: a gensim name, a file, or corpus; or clip, for CLIP's text tower",
        )
        action.add_argument("--word-dim", type=positive_int, default=300, help="dimensions of vectors of the corpus")
        action.add_argument("--rate-2d", type=positive_float, default=1.0, help="2D features per second; default: 1")
        action.add_argument("--rate-3d", type=positive_float, default=1.5, help="3D features per second; default: 1.5")
        action.add_argument(
            "--shard-bytes", type=positive_int, default=1_000_000_000, help="size of a shard; default: 1e9"
        )
    to_npz = actions.add_parser("to-npz", help="write such a tree, with lists and caption.pickle")
    to_pkl = actions.add_parser("to-pkl", help="write the captions of a split as clips of one file")
    for action in (to_npz, to_pkl):
        action.add_argument("shards", type=Path, help="shards/<name>")
        action.add_argument("target", type=Path, help="what to write")
    to_pkl.add_argument("--split", default="test", help="default: test")
    arguments = parser.parse_args(argv)
    {"npz": _from_tree, "npy": _from_tree, "pkl": _from_pickles, "to-npz": _to_tree, "to-pkl": _to_pickle}[
        arguments.action
    ](arguments)


def _from_tree(arguments: argparse.Namespace) -> None:
    from pipeline.shards.foreign.npz_tree import find_files, read_captions, read_list, read_tree, texts_of

    npy = arguments.modality if arguments.action == "npy" else None
    refused: list[str] = []
    wanted = read_list(arguments.list, refused.append) if arguments.list is not None else None
    captions = read_captions(arguments.captions)
    ids = [id for id in find_files(arguments.folders, npy) if wanted is None or id in wanted]
    words = _words(arguments, texts_of(ids, captions))

    def found(writer: ShardWriter) -> Iterator[Foreign]:
        done = writer.completed

        def skip(video_id: str) -> bool:
            return video_id in done or (wanted is not None and video_id not in wanted)

        return read_tree(arguments.folders, captions, arguments.split, npy, refused.append, skip)

    _write(arguments, words, found, len(ids), refused)


def _from_pickles(arguments: argparse.Namespace) -> None:
    from pipeline.shards.foreign.benchmark_pickle import read_clips
    from pipeline.shards.foreign.features import differs
    from pipeline.shards.reader import ShardSet

    files, features = _by_split(arguments.files), _by_split(arguments.features)
    if features and [split for split, _ in features] != [split for split, _ in files]:
        raise InputError("--features: give a file for each of the clips' files, with the same splits in the same order")
    keys: dict[Modality, str | None] = {"2d": arguments.key_2d, "3d": arguments.key_3d}

    def clips(refused: Callable[[str], None]) -> Iterator[Foreign]:
        seen = Counter[str]()
        for place, (split, path) in enumerate(files):
            visual = features[place][1] if features else None
            yield from read_clips(path, split, arguments.complete, refused, visual, keys, seen)

    texts = [text for clip in clips(lambda message: None) for text in clip.texts]
    words = _words(arguments, iter(texts))

    refused: list[str] = []

    def found(writer: ShardWriter) -> Iterator[Foreign]:
        there = ShardSet(arguments.shards) if any(arguments.shards.glob("*.tar")) else None
        for clip in clips(refused.append):
            if clip.video_id not in writer.completed:
                yield clip
            elif there is not None and clip.video_id in there and differs(clip, there.read(clip.video_id)):
                refused.append(
                    f"{clip.origin}: clip {clip.video_id} is left out: another of this id, of an earlier conversion, "
                    "is there; take another folder, or convert all files with one command"
                )

    _write(arguments, words, found, None, refused)


def _by_split(arguments: Sequence[str]) -> list[tuple[str, Path]]:
    parts = [item.partition("=")[::2] for item in arguments]
    for split, name in parts:
        if not split or not name:
            raise InputError(f"{split or name}: give each file with its split, such as test=youcook_val.pkl")
    return [(split, Path(name)) for split, name in parts]


def _words(arguments: argparse.Namespace, texts: Iterator[str]) -> Vocabulary:
    """The folder's vocabulary, with vectors of the captions' words: new ones come last, so that ids stay."""
    from pipeline.text.vocabulary import build_vocabulary, check_kind
    from pipeline.text.words import WordVectors

    path = arguments.shards / "words.parquet"
    check_kind(path, arguments.words)
    if path.exists() and arguments.words == "corpus":
        return WordVectors.load(path)  # vectors of another training cannot be compared with these
    before = WordVectors.load(path) if path.exists() and arguments.words != "clip" else None
    # the words that are there are looked up again, which tells whether their vectors are of the same source
    texts = itertools.chain(texts, before.words if before is not None else ())
    found = build_vocabulary(arguments.words, texts, arguments.word_dim)
    if before is not None and isinstance(found, WordVectors):
        _check_same_vectors(before, found, path, arguments.words)
        known = set(before.words)
        new = [place for place, word in enumerate(found.words) if word not in known]
        found = WordVectors(
            before.words + [found.words[place] for place in new], np.concatenate([before.vectors, found.vectors[new]])
        )
    arguments.shards.mkdir(parents=True, exist_ok=True)
    found.save(path)
    return found


def _check_same_vectors(before: WordVectors, found: WordVectors, path: Path, source: str) -> None:
    """Refuses to put vectors beside those of another source: they are of different spaces, however wide these are.

    Words that only one of the two has tell nothing: a source may be the ``words.parquet`` of other shards.
    """
    advice = "convert with the same --words as before, or into another folder"
    if before.dim != found.dim:
        raise InputError(f"{path}: has vectors of {before.dim} dimensions and {source} of {found.dim}; {advice}")
    place_of = {word: place for place, word in enumerate(found.words)}
    both = [(place, place_of[word]) for place, word in enumerate(before.words) if word in place_of]
    if before.words and not both:
        raise InputError(f"{path}: {source} has none of the words here, so its vectors are of another source; {advice}")
    for place, other in both:
        if not np.allclose(before.vectors[place], found.vectors[other], rtol=1e-4, atol=1e-6):
            raise InputError(f"{path}: {source} has another vector for {before.words[place]!r}; {advice}")


def _write(
    arguments: argparse.Namespace,
    words: Vocabulary,
    found: Callable[[ShardWriter], Iterator[Foreign]],
    total: int | None,
    refused: list[str],
) -> None:
    """Writes the shards and says what was left out: ``refused``, to which ``found`` and what shards cannot hold add."""
    from pipeline.shards.foreign.features import FeatureRates, to_sample
    from pipeline.shards.writer import ShardWriter

    rates = FeatureRates(arguments.rate_2d, arguments.rate_3d)
    with ShardWriter(arguments.shards, arguments.shards.name, "convert", arguments.shard_bytes) as writer:
        before = len(writer.completed)
        with progress_bar() as bar:
            task = bar.add_task("convert", total=total, completed=before)
            for foreign in found(writer):
                try:
                    writer.add(to_sample(foreign, words.ids, rates))
                except ValueError as error:
                    refused.append(str(error))
                bar.advance(task)
        written = len(writer.completed) - before
    for message in refused[:_MOST_SHOWN]:
        print(message)
    if len(refused) > _MOST_SHOWN:
        print(f"... and {len(refused) - _MOST_SHOWN:,} more")
    console.print(
        f"convert: {written:,} written, {before:,} were there, {len(refused):,} refused → {arguments.shards}",
        soft_wrap=True,
    )


def _to_tree(arguments: argparse.Namespace) -> None:
    from pipeline.shards.foreign.npz_tree import write_tree
    from pipeline.shards.reader import ShardSet

    shards = ShardSet(arguments.shards)
    with progress_bar() as bar:
        task = bar.add_task("convert", total=len(shards))
        lists, incomplete = write_tree(shards, arguments.target, lambda: bar.advance(task))
    for split, count in lists.items():
        console.print(f"convert: {counted(count, 'video')} → {arguments.target / split}.csv", soft_wrap=True)
    if incomplete:
        console.print(
            f"{counted(len(incomplete), 'video')} without some modality or captions in no list, such as {incomplete[0]}"
        )


def _to_pickle(arguments: argparse.Namespace) -> None:
    from pipeline.shards.foreign.benchmark_pickle import captioned_videos, write_clips
    from pipeline.shards.reader import ShardSet

    shards = ShardSet(arguments.shards)
    videos = captioned_videos(shards, arguments.split)
    with progress_bar() as bar:
        task = bar.add_task("convert", total=len(videos))
        clips = write_clips(shards, arguments.target, videos, lambda: bar.advance(task))
    console.print(f"convert: {counted(clips, 'clip')} → {arguments.target}", soft_wrap=True)


if __name__ == "__main__":
    run_verb(main)
