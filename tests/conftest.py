"""What tests of all rooms share."""

from pathlib import Path

import pytest
from hypothesis import settings

# a busy machine fails no test, and every run tries the same examples
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = SHARED / "golden"
VIDEOS = SHARED / "videos"
ANNOTATIONS = SHARED / "annotations"

needs_shared = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs ../shared: golden numbers and real files")
