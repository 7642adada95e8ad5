from pipeline.wording import counted, none_of


def test_one_is_not_many():
    assert [counted(count, "clip") for count in (0, 1, 1240)] == ["0 clips", "1 clip", "1,240 clips"]
    assert [none_of(count, "clip") for count in (1, 1240)] == ["no clip", "none of the 1,240 clips"]
