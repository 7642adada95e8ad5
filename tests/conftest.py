"""What tests of all rooms share."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.processes import free_port, serve

# a busy machine fails no test, and every run tries the same examples
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN = SHARED / "golden"
VIDEOS = SHARED / "videos"
ANNOTATIONS = SHARED / "annotations"

needs_shared = pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs ../shared: golden numbers and real files")


def pytest_configure(config):
    """GPUs are for the tests that are marked ``gpu``, by themselves (``-m gpu``).

    The others compare bits, and start more processes than a machine has GPUs; they and their processes see none.
    """
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def store():
    """The URL of a bucket in a server that speaks S3."""
    pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    endpoint = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", endpoint.rpartition(":")[2]]
    process = serve(command, endpoint)
    settings = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
    process.kill()
    process.wait()
