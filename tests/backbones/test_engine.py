import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.backbones import engine as engine_module
from pipeline.backbones.engine import Engine

CPU = torch.device("cpu")


class Recorder(nn.Module):
    """Gives the mean colour of each input, and remembers its batches."""

    def __init__(self, effect: Callable[[torch.Tensor], None] = lambda batch: None) -> None:
        super().__init__()
        self.batches: list[torch.Tensor] = []
        self.effect = effect

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.effect(batch)
        self.batches.append(batch)
        return batch.float().flatten(1, -2).mean(dim=1)


def frame(value: int, size: int = 4) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def run_together(engine: Engine, inputs: list[list[np.ndarray]]) -> list[np.ndarray]:
    """One thread per video; all have submitted before the first asks for its results."""
    results: list[np.ndarray] = [np.empty(0)] * len(inputs)
    together = threading.Barrier(len(inputs))

    def video(place: int) -> None:
        with engine.session() as session:
            together.wait()
            for item in inputs[place]:
                session.submit("net", item)
            together.wait()
            results[place] = session.finish("net")

    threads = [threading.Thread(target=video, args=(place,)) for place in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return results


def test_batches_are_gathered_across_videos_and_results_go_home() -> None:
    network = Recorder()
    engine = Engine({"net": network}, CPU, batch_size=8)
    inputs = [[frame(10 * video + place) for place in range(6)] for video in range(4)]
    results = run_together(engine, inputs)
    for video, result in enumerate(results):
        assert result.dtype == np.float16
        assert result[:, 0].tolist() == [10 * video + place for place in range(6)]
    assert [len(batch) for batch in network.batches] == [8] * len(network.batches)
    assert len(network.batches) <= 5  # 24 frames of four videos: one by one it would take four times two


def test_shapes_are_not_mixed() -> None:
    engine = Engine({"net": Recorder()}, CPU, batch_size=4)
    small, large = [frame(value, size=4) for value in (1, 2, 3)], [frame(value, size=6) for value in (4, 5)]
    results = run_together(engine, [small, large])
    assert [result[:, 0].tolist() for result in results] == [[1, 2, 3], [4, 5]]


def test_a_feature_does_not_depend_on_its_neighbours() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 24, 5, 2), nn.ReLU(), nn.Conv2d(24, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    class Network(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return network(batch.movedim(-1, 1).float() / 255).flatten(1)

    random = np.random.RandomState(0)
    ours = [random.randint(0, 256, (40, 52, 3), np.uint8) for _ in range(5)]
    seen = set()
    for others in range(4):
        engine = Engine({"net": Network()}, CPU, batch_size=4)
        neighbours = [random.randint(0, 256, (40, 52, 3), np.uint8) for _ in range(3 * others)]
        seen.add(run_together(engine, [ours, neighbours])[0].tobytes())
        with engine.session() as session:  # and at another place in its session
            for item in [*neighbours[:others], *ours]:
                session.submit("net", item)
            seen.add(session.finish("net")[min(others, len(neighbours)) :].tobytes())
    assert len(seen) == 1


def test_an_input_has_the_place_that_it_has_alone() -> None:
    class Unlike(nn.Module):
        """No two places give the same, as at the ends of a GPU's batches."""

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch.float().flatten(1, -2).mean(dim=1) + torch.arange(len(batch)).unsqueeze(1) / 16

    random = np.random.RandomState(1)
    videos = [[random.randint(0, 256, (4, 4, 3), np.uint8) for _ in range(length)] for length in (3, 20, 9, 31)]
    alone = [run_together(Engine({"net": Unlike()}, CPU, batch_size=8), [video])[0] for video in videos]
    beside = run_together(Engine({"net": Unlike()}, CPU, batch_size=8), videos)
    assert [array.tobytes() for array in beside] == [array.tobytes() for array in alone]


def test_places_of_many_videos_fill_batches() -> None:
    network = Recorder()
    engine = Engine({"net": network}, CPU, batch_size=8)
    random = np.random.RandomState(2)
    videos = [[random.randint(1, 256, (4, 4, 3), np.uint8) for _ in range(11)] for _ in range(16)]
    run_together(engine, videos)
    assert len(network.batches) <= 1.5 * 16 * 11 / 8


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("too much"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")]
)
def test_out_of_memory_halves_the_batch(error: RuntimeError) -> None:
    def refuse_many(batch: torch.Tensor) -> None:
        if len(batch) > 2:
            raise error

    engine = Engine({"net": Recorder(refuse_many)}, CPU, batch_size=8)
    results = run_together(engine, [[frame(value) for value in range(9)], [frame(100)]])
    assert results[0][:, 0].tolist() == list(range(9)) and results[1][:, 0].tolist() == [100]
    assert engine.batch_size == 2


def test_memory_for_not_even_one_fails_that_video_only() -> None:
    def refuse_large(batch: torch.Tensor) -> None:
        if batch.shape[1] > 4:
            raise torch.OutOfMemoryError("too much")

    engine = Engine({"net": Recorder(refuse_large)}, CPU, batch_size=2)
    with engine.session() as session:
        session.submit("net", frame(1, size=8))
        with pytest.raises(torch.OutOfMemoryError):
            session.finish("net")
    with engine.session() as session:
        session.submit("net", frame(7))
        assert session.finish("net")[:, 0].tolist() == [7]


LOST = """
import numpy as np, torch
from pipeline.backbones import engine
class Network(torch.nn.Module):
    def forward(self, batch):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
engine._is_lost = lambda device: True
with engine.Engine({"net": Network()}, torch.device("cpu"), 2).session() as session:
    session.submit("net", np.zeros((4, 4, 3), np.uint8))
    session.finish("net")
"""


def test_a_worker_whose_gpu_is_lost_ends_before_it_fails_video_after_video() -> None:
    ended = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "this worker ends" in ended.stderr and "illegal memory access" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_who_submits_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "PENDING_BYTES", 4 * frame(0).nbytes)
    may_go_on = threading.Event()
    engine = Engine({"net": Recorder(lambda batch: may_go_on.wait(30) and None)}, CPU, batch_size=1)
    submitted = 0

    def video() -> None:
        nonlocal submitted
        with engine.session() as session:
            for value in range(20):
                session.submit("net", frame(value))
                submitted += 1
            assert session.finish("net")[:, 0].tolist() == list(range(20))

    thread = threading.Thread(target=video)
    thread.start()
    thread.join(0.3)
    assert submitted <= 6  # four wait, one is computed, one more may wait for its results
    may_go_on.set()
    thread.join(30)
    assert submitted == 20


def test_a_session_that_is_left_takes_its_frames_along() -> None:
    network = Recorder()
    engine = Engine({"net": network}, CPU, batch_size=4)
    with engine.session() as other:
        with pytest.raises(KeyError), engine.session() as session:
            session.submit("net", frame(1))
            raise KeyError("its file is damaged")
        other.submit("net", frame(2))
        assert other.finish("net")[:, 0].tolist() == [2]
    assert all((batch != 1).all() for batch in network.batches)


def test_no_thread_stays_behind() -> None:
    engine = Engine({"net": Recorder()}, CPU, batch_size=2)
    run_together(engine, [[frame(1)], [frame(2)]])
    for thread in threading.enumerate():
        if thread.name == "backbones":
            thread.join(5)
            assert not thread.is_alive()
