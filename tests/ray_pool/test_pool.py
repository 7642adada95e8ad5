import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray

from pipeline import ray_pool
from pipeline.errors import InputError
from pipeline.ray_pool import ActorPool, WorkerDied


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    ray_pool.start(num_cpus=2)
    yield
    ray_pool.stop()


@ray.remote(num_cpus=0)
class Worker:
    """Doubles numbers; notes each one it begins in a folder; dies on the names it is told."""

    def __init__(self, folder, poison=()):
        self.folder, self.poison = Path(folder), poison

    def double(self, number):
        with (self.folder / f"{number}").open("a") as begun:
            begun.write(f"{os.getpid()}\n")
        if number in self.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            raise ValueError("negative")
        time.sleep(0.02)
        return 2 * number

    def pid(self):
        return os.getpid()

    def close(self, error):
        (self.folder / f"closed-{os.getpid()}").touch()
        raise error


@ray.remote(num_cpus=0)
class Broken:
    def __init__(self, error):
        raise error

    def double(self, number):
        return number


@ray.remote(num_cpus=0)
class Slow:
    def double(self, number):
        time.sleep(600)


def make_pool(folder, poison=(), size=2, concurrency=1, **options):
    def create(_):
        return Worker.options(max_concurrency=concurrency).remote(str(folder), poison)

    return ActorPool(create, size, "double", **options)


def begun(folder, number):
    path = folder / f"{number}"
    return len(path.read_text().split()) if path.exists() else 0


def test_every_item_comes_back_once_and_the_stream_is_read_lazily(tmp_path):
    read = []

    def numbers():
        for number in range(20):
            read.append(number)
            yield number

    with make_pool(tmp_path, in_flight=2) as pool:
        outcomes = []
        for outcome in pool.run(numbers()):
            outcomes.append(outcome)
            assert len(pool.flying) <= 4
            assert len(read) <= len(outcomes) + 4
    assert sorted(outcome.item for outcome in outcomes) == list(range(20))
    assert all(outcome.result == 2 * outcome.item and outcome.error is None for outcome in outcomes)


def test_an_exception_is_the_outcome_of_its_item_alone(tmp_path):
    with make_pool(tmp_path) as pool:
        outcomes = {outcome.item: outcome for outcome in pool.run([1, -1, 2])}
    assert isinstance(outcomes[-1].error, ValueError)
    assert outcomes[1].result == 2 and outcomes[2].result == 4


def test_a_killed_worker_is_replaced_and_its_items_are_done(tmp_path):
    with make_pool(tmp_path, size=2, in_flight=2) as pool:
        outcomes = []
        for outcome in pool.run(range(40)):
            outcomes.append(outcome)
            if len(outcomes) in (5, 15):
                os.kill(pool.broadcast("pid")[0], signal.SIGKILL)
        assert pool.deaths == 2
    assert sorted(outcome.result for outcome in outcomes) == [2 * number for number in range(40)]


def test_an_item_that_kills_its_worker_is_given_up_and_its_neighbours_are_not(tmp_path):
    with make_pool(tmp_path, poison=(3,), size=1, in_flight=3, concurrency=3) as pool:
        outcomes = {outcome.item: outcome for outcome in pool.run(range(8))}
    assert isinstance(outcomes[3].error, WorkerDied)
    assert begun(tmp_path, 3) == 3
    assert [outcomes[number].result for number in range(8) if number != 3] == [0, 2, 4, 8, 10, 12, 14]


def test_the_hook_runs_before_lost_items_go_out_again_and_spares_those_done(tmp_path):
    calls = []

    def on_replaced(slot, lost):
        calls.append((slot, sorted(lost), [begun(tmp_path, number) for number in lost]))
        return {"1"} if 1 in lost else set()

    with make_pool(tmp_path, poison=(1,), size=1, on_replaced=on_replaced) as pool:
        outcomes = {outcome.item: outcome for outcome in pool.run(range(4))}
    assert calls == [(0, [1], [1])]
    assert outcomes[1].recovered and begun(tmp_path, 1) == 1
    assert [outcomes[number].result for number in (0, 2, 3)] == [0, 4, 6]


def test_a_retired_slot_gets_nothing_more_and_its_items_go_to_others(tmp_path):
    with make_pool(tmp_path, size=2) as pool:
        retired, seen = None, []
        for outcome in pool.run(range(20)):
            assert outcome.slot in (0, 1) and outcome.slot != retired
            if retired is None:
                retired = outcome.slot
                pool.retire(retired)
                pool.resubmit(outcome.item)
            else:
                seen.append(outcome.item)
        assert sorted(seen) == list(range(20))
    with make_pool(tmp_path, size=1) as pool:
        seen = []
        for outcome in pool.run(range(20)):
            seen.append(outcome.item)
            if len(seen) == 3:
                pool.retire(outcome.slot)
        assert seen == [0, 1, 2]


def test_a_slot_may_be_given_up(tmp_path):
    made = []

    def create(slot):
        made.append(slot)
        return Worker.remote(str(tmp_path), (2,)) if len(made) <= 2 else None

    with ActorPool(create, 2, "double") as pool, pytest.raises(RuntimeError, match="all workers are gone"):
        list(pool.run(range(30)))
    assert len(made) == 4


def test_deaths_whatever_the_item_stop_the_run(tmp_path):
    with (
        make_pool(tmp_path, poison=range(100), size=2) as pool,
        pytest.raises(InputError, match="in a row"),
    ):
        list(pool.run(range(100)))


def test_a_few_items_that_kill_their_workers_do_not_stop_the_others(tmp_path):
    poison = range(6)
    with make_pool(tmp_path, poison=poison, size=1) as pool:
        outcomes = {outcome.item: outcome for outcome in pool.run(range(8))}
    assert sorted(outcomes) == list(range(8))
    assert {item for item, outcome in outcomes.items() if outcome.error is not None} == set(poison)


def test_an_error_of_one_that_all_were_asked_is_raised_as_it_is_once_all_have_answered(tmp_path):
    with make_pool(tmp_path, size=2) as pool:
        list(pool.run(range(4)))
        asked = len(pool.broadcast("pid"))  # one that still starts is not
        with pytest.raises(OSError, match="No space") as caught:
            pool.broadcast("close", OSError(28, "No space left on device", "x.tar.part"))
        assert caught.value.errno == 28 and type(caught.value) is OSError
    assert len(list(tmp_path.glob("closed-*"))) == asked


def test_a_constructor_that_refuses_is_reported_as_it_is():
    with (
        ActorPool(lambda _: Broken.remote(InputError("no such model")), 1, "double") as pool,
        pytest.raises(InputError, match=r"^no such model$"),
    ):
        list(pool.run([1]))
    with (
        ActorPool(lambda _: Broken.remote(ValueError("bad")), 1, "double") as pool,
        pytest.raises(RuntimeError, match="could not start: ValueError: bad"),
    ):
        list(pool.run([1]))
    with (
        ActorPool(lambda _: Broken.remote(ModuleNotFoundError("No module named 'timm'")), 1, "double") as pool,
        pytest.raises(InputError, match=r"could not start on [\d.]+ \(No module named 'timm'\): install"),
    ):
        list(pool.run([1]))


def test_drain_finishes_what_flies_and_dispatches_nothing(tmp_path):
    with make_pool(tmp_path, size=2) as pool:
        stream = pool.run(range(50))
        seen = [next(stream).item for _ in range(5)]
        seen += [outcome.item for outcome in pool.drain(10)]
        assert not pool.flying
    assert 5 <= len(seen) <= 7 and len(set(seen)) == len(seen)
    assert sum(begun(tmp_path, number) for number in range(50)) == len(seen)


def test_a_cluster_that_is_not_there_is_an_input_error(tmp_path):
    ray_pool.stop()
    try:
        with pytest.raises(InputError, match="no Ray cluster answers"):
            ray_pool.start("127.0.0.1:1")
    finally:
        ray_pool.start(num_cpus=2)


def test_a_stream_without_anything_now_is_asked_again_and_holds_nothing_up(tmp_path):
    asked, finished = [], []

    def numbers():
        yield 0
        while 0 not in finished:  # what flies is collected although the stream has nothing to hand out
            asked.append(1)
            yield None
        yield from (None, None, 1, None)

    with make_pool(tmp_path, size=1, in_flight=2) as pool:
        for outcome in pool.run(numbers()):
            finished.append(outcome.item)
    assert finished == [0, 1] and asked


def test_a_pool_told_to_stop_leaves_what_flies_to_drain(tmp_path):
    stop = threading.Event()
    with make_pool(tmp_path, size=2, stop=stop) as pool:
        seen = []
        for outcome in pool.run(range(50)):
            seen.append(outcome.item)
            if len(seen) == 5:
                stop.set()
        assert 5 <= len(seen) <= 7
        seen += [outcome.item for outcome in pool.drain(10)]
        assert not pool.flying
    assert len(set(seen)) == len(seen) == sum(begun(tmp_path, number) for number in range(50))


def test_a_pool_is_told_to_stop_while_all_its_workers_are_busy():
    stop = threading.Event()

    def numbers():
        yield 0
        threading.Timer(0.5, stop.set).start()
        yield 1

    with ActorPool(lambda _: Slow.remote(), 1, "double", in_flight=2, stop=stop) as pool:
        assert list(pool.run(numbers())) == [] and pool.flying == [0, 1]
