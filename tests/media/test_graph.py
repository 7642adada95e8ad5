import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.graph import FrameFormat, middle

sides = st.integers(16, 4000)


def evaluate(expression: str, width: int, height: int) -> int:
    return int(eval(expression, {"iw": width, "ih": height, "min": min}))


@given(width=sides, height=sides, size=st.sampled_from([32, 112, 224]))
def test_the_middle_is_what_scaling_and_then_cropping_keeps(width: int, height: int, size: int) -> None:
    box = [evaluate(expression, width, height) for expression in middle(width, height, size)]
    long, short = (0, 1) if width >= height else (1, 0)
    extent, edge = box[long], box[long + 2]
    assert box[short] == min(width, height) and box[short + 2] == 0
    assert edge >= 0 and edge + extent <= max(width, height)
    scaled = int(max(width, height) * size / min(width, height))
    factor = max(width, height) / scaled
    exact = np.array([(scaled - size) // 2, (scaled - size) // 2 + size]) * factor
    # even pixels, and never narrower than what is looked for but by the picture's own edge
    assert edge % 2 == 0 and exact[0] - 2 < edge <= exact[0] + 1e-9
    assert exact[1] - 1e-9 <= edge + extent < exact[1] + 2 or edge + extent == max(width, height)


def test_a_pancake_is_cut_where_the_published_way_cuts_it() -> None:
    # 426 x 240 becomes 198 x 112, of which columns 43 to 155 are kept: 92.5 to 333.5 of 426
    assert [evaluate(expression, 426, 240) for expression in middle(426, 240, 112)] == [242, 240, 92, 0]
    # the same part when the stream changes to twice the size
    assert [evaluate(expression, 852, 480) for expression in middle(426, 240, 112)] == [485, 480, 185, 0]


def test_published_sizes() -> None:
    whole = FrameFormat(rate=1, size=224)
    assert whole.scaled_size(426, 240) == (397, 224) and whole.scaled_size(240, 426) == (224, 397)
    assert whole.scaled_size(100, 100) == (224, 224)
    assert FrameFormat(rate=24, size=112, crop=True).scaled_size(426, 240) == (112, 112)
