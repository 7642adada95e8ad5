import pytest

from pipeline.errors import InputError
from pipeline.ray_pool.blame import BROKEN_AFTER, STRIKES, Blame


def test_an_item_is_tried_beside_others_then_alone_then_given_up():
    blame = Blame()
    assert [blame.strike("bad", alone=False) for _ in range(STRIKES)] == ["innocent", "suspect", "guilty"]
    assert blame.strike("bad", alone=False) == "innocent"
    blame.strike("good", alone=False)
    blame.ended("good")
    assert blame.strike("good", alone=False) == "innocent"
    blame.forget("good")
    assert blame.strike("good", alone=False) == "innocent"


def test_deaths_without_a_result_between_them_are_not_the_items():
    blame = Blame()
    for _ in range(BROKEN_AFTER - 1):
        blame.death()
    blame.ended("good")
    for _ in range(BROKEN_AFTER - 1):
        blame.death()
    assert blame.deaths == 2 * (BROKEN_AFTER - 1)
    with pytest.raises(InputError, match=f"died {BROKEN_AFTER} times in a row"):
        blame.death()


def test_items_that_die_alone_are_the_cause_until_they_are_too_many():
    blame, given_up = Blame(), 0
    with pytest.raises(InputError, match="in a row"):
        for item in range(100):
            for strike in range(STRIKES):
                blame.death()
                given_up += blame.strike(str(item), alone=strike == STRIKES - 1) == "guilty"
    assert BROKEN_AFTER <= given_up < 2 * BROKEN_AFTER
