from pipeline.wording import counted


def test_one_is_not_many():
    assert [counted(count, "clip") for count in (0, 1, 1240)] == ["0 clips", "1 clip", "1,240 clips"]
