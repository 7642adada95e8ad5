"""The format as docs/formats.md has it: read without the package, and with what a later version may add."""

import io
import json
import tarfile
import zlib

import numpy as np
import pyarrow.parquet as pq

from pipeline.shards.files import Stem
from pipeline.shards.index import write_index
from pipeline.shards.reader import ShardSet
from pipeline.shards.sample import encode
from pipeline.shards.scan import describe
from pipeline.shards.verify import verify
from pipeline.shards.writer import ShardWriter
from tests.shards.samples import assert_same, make_sample, write_shards


def test_the_page_is_enough_to_read_shards(tmp_path):
    samples = {name: make_sample(name) for name in ("one", "dotted.id")}
    samples["quiet"] = make_sample("quiet", modalities=("2d", "text"))
    write_shards(tmp_path, samples.values(), shard_bytes=300_000)
    seen = []
    for index in sorted(tmp_path.glob("*-[0-9][0-9][0-9][0-9][0-9][0-9].parquet")):
        table = pq.read_table(index)
        assert table.schema.metadata[b"format_version"] == b"1"
        data = index.with_suffix(".tar").read_bytes()
        assert len(data) == int(table.schema.metadata[b"tar_size"])
        assert data[-1024:] == bytes(1024)
        end = 0
        for row in table.to_pylist():
            assert row["offset"] == end
            end += row["size"]
            assert zlib.crc32(data[row["offset"] : end]) == row["checksum"]
            values = json.loads(data[row["json_offset"] : row["json_offset"] + row["json_size"]])
            sample = samples[row["video_id"]]
            assert values["video_id"] == row["video_id"]
            assert list(zip(*(values["captions"][name] for name in ("start", "end", "text")), strict=True)) == [
                tuple(caption) for caption in sample.captions
            ]
            times = np.frombuffer(data, "<f8", 3 * row["captions"], row["times_offset"]).reshape(-1, 3)
            assert times[:, :2].tolist() == [list(caption[:2]) for caption in sample.captions]
            assert [0, *times[:, 2].tolist()] == sample.caption_words
            for name in ("text", "2d", "3d", "audio"):
                if name not in sample.arrays:
                    assert row[f"{name}_offset"] is None
                    continue
                length, width = row[f"{name}_length"], row[f"{name}_width"]
                array = np.frombuffer(
                    data, row[f"{name}_dtype"], length * max(width, 1), row[f"{name}_offset"]
                ).reshape((length, width) if width else (length,))
                np.testing.assert_array_equal(array, sample.arrays[name])
                assert row[f"{name}_rate"] == sample.rates.get(name, 0.0)
            seen.append(row["video_id"])
    assert seen == list(samples)


def test_the_page_is_enough_to_read_a_journal(tmp_path):
    writer = ShardWriter(tmp_path, "set", "w0")
    for name in ("one", "two"):
        writer.add(make_sample(name))
    writer.abandon()
    head, *lines = (tmp_path / "set-w0-000000.journal").read_bytes().splitlines()
    assert json.loads(head[9:]) == {"format": 1}
    part = (tmp_path / "set-w0-000000.tar.part").read_bytes()
    for line, name in zip(lines, ("one", "two"), strict=True):
        assert int(line[:8], 16) == zlib.crc32(line[9:])
        row = json.loads(line[9:])
        assert row["video_id"] == name
        assert zlib.crc32(part[row["offset"] : row["offset"] + row["size"]]) == row["checksum"]


def test_what_a_later_version_adds_is_passed_over(tmp_path):
    """Another member in a sample, another key in its JSON, another column in the index."""
    sample = make_sample("one")
    data, row = encode(sample)
    text = data[row.json_offset : row.json_offset + row.json_size]
    longer = text.replace(b'{"backbones"', b'{"added":{"x":1},"backbones"')
    members = {"one.json": longer, "one.added.npy": b"unknown"}
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as tar:
        members |= {member.name: tar.extractfile(member).read() for member in tar if member.name != "one.json"}
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    end = written.getvalue().rstrip(b"\0")
    whole = end + bytes(-len(end) % 512)
    stem = Stem(tmp_path, "set", "w0", 0)
    stem.tar.write_bytes(whole + bytes(1024))
    write_index(stem, [describe(whole)])
    table = pq.read_table(stem.index)
    pq.write_table(table.append_column("added", [["x"]]).replace_schema_metadata(table.schema.metadata), stem.index)
    found = ShardSet(tmp_path).read("one", check=True)
    assert_same(found, sample)
    assert verify(tmp_path).problems == []
