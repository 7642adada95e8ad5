from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backbones.places import Rows, Waiting


@dataclass
class Item:
    place: int


@given(st.integers(1, 9), st.lists(st.integers(0, 2**32), max_size=60))
def test_each_item_comes_once_at_its_place_and_in_order(batch_size: int, places: list[int]) -> None:
    waiting: Waiting[Item] = Waiting(batch_size)
    items = [Item(place) for place in places]
    for item in items:
        waiting.add(item)
    taken: list[Item] = []
    while waiting:
        left = len(waiting)
        batch = waiting.take()
        assert batch and len(waiting) == left - len(batch)
        assert all(item.place % batch_size == place for place, item in batch.items())
        taken += batch.values()
    assert sorted(map(id, taken)) == sorted(map(id, items))
    for place in range(batch_size):
        at_place = [item for item in items if item.place % batch_size == place]
        assert [item for item in taken if item.place % batch_size == place] == at_place


def test_a_batch_is_full_with_every_place_taken_or_two_batches_waiting() -> None:
    waiting: Waiting[Item] = Waiting(3)
    assert not waiting.full()
    for place in (5, 0, 3):
        waiting.add(Item(place))
    assert not waiting.full()  # nothing at place one
    waiting.add(Item(1))
    assert waiting.full()
    waiting.drop(lambda item: item.place == 1)
    assert not waiting.full() and len(waiting) == 3
    for _ in range(3):
        waiting.add(Item(0))
    assert waiting.full()


@given(st.permutations(range(600)))
def test_rows_by_number(order: list[int]) -> None:
    rows = Rows()
    for number in order:
        rows.put(number, np.array([number, -number], np.int16))
    assert rows.joined().tolist() == [[number, -number] for number in range(600)]
