import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np

from pipeline.demo import corpus, picture, sound
from pipeline.demo.topics import TOPICS, Scene


def test_the_corpus_is_as_large_and_as_held_out_as_promised() -> None:
    scripts = corpus.scripts()
    assert len(scripts) >= 72 and len(TOPICS) == 12
    assert len({script.video.video_id for script in scripts}) == len(scripts)
    assert all(20 <= script.seconds <= 40 for script in scripts)
    assert Counter(script.video.split for script in scripts) == {
        "train": 12 * (corpus.VIDEOS_PER_TOPIC - corpus.HELD_OUT_PER_TOPIC),
        "test": 12 * corpus.HELD_OUT_PER_TOPIC,
    }


def test_scripts_are_always_the_same_and_captions_lie_in_the_video() -> None:
    first, second = corpus.scripts(), corpus.scripts()
    assert first == second
    for script in first:
        assert script.video.captions
        for caption in script.video.captions:
            assert 0 <= caption.start < caption.end <= script.seconds + 1
            assert caption.text == caption.text.strip() != ""


def test_two_videos_of_a_topic_differ() -> None:
    by_topic = {}
    for script in corpus.scripts():
        by_topic.setdefault(script.topic.title, []).append([scene.end for scene in script.scenes])
    for ends in by_topic.values():
        assert len(set(map(tuple, ends))) == len(ends)


def test_what_is_seen_heard_and_said_depends_on_the_step_its_pace_and_its_side() -> None:
    topic = TOPICS[0]
    background = picture.room(topic, np.random.RandomState(0))
    scenes = [Scene(step, "red", "slowly", "left", 0.0, 1.0) for step in topic.steps]
    scenes += [scenes[0]._replace(pace="quickly"), scenes[0]._replace(side="right")]
    seen = [np.stack(list(picture.frames(scene, background, np.random.RandomState(0)))) for scene in scenes]
    heard = [sound.strokes(scene, np.random.RandomState(0)) for scene in scenes]
    for one, other in itertools.combinations(range(len(scenes)), 2):
        assert (seen[one] != seen[other]).any()
        assert np.allclose(heard[one], heard[other]) == ({one, other} == {0, len(scenes) - 1})


def test_a_drawn_corpus_is_complete_and_not_drawn_again(tmp_path: Path, monkeypatch) -> None:
    few = [script for script in corpus.scripts() if script.topic.title == "make pancakes"][:2]
    monkeypatch.setattr(corpus, "scripts", lambda: few)
    videos = list(corpus.build_corpus(tmp_path, processes=1))
    files = [tmp_path / "videos" / f"{video.video_id}.mp4" for video in videos]
    before = [(file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    assert all(size > 20_000 for _, size in before)
    list(corpus.build_corpus(tmp_path, processes=1))
    assert [(file.stat().st_mtime_ns, file.stat().st_size) for file in files] == before
    rows = [json.loads(line) for line in (tmp_path / "videos.jsonl").read_text().splitlines()]
    assert [row["video_id"] for row in rows] == [video.video_id for video in videos]
    assert not list((tmp_path / "videos").glob("*.tmp"))
