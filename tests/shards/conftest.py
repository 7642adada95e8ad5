"""Shards to damage."""

import shutil

import pytest

from tests.shards.mending import IDS
from tests.shards.samples import small_sample, write_shards


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three shards of two samples."""
    return write_shards(tmp_path_factory.mktemp("whole") / "set", map(small_sample, IDS), shard_bytes=6000)


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")
