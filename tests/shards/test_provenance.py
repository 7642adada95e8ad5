from pathlib import Path

import pytest

from pipeline.config import load_recipe
from pipeline.errors import InputError
from pipeline.shards.provenance import claim_folder, read_provenance


def test_a_folder_keeps_to_the_settings_it_began_with(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None
    claim_folder(tmp_path / "new", load_recipe("demo"))
    claim_folder(tmp_path / "new", load_recipe("demo", ["--extract.batch_size", "3", "--train.steps", "1"]))
    (tmp_path / "new" / "new-0-000000.tar.part").touch()
    with pytest.raises(InputError, match="holds shards of other settings"):
        claim_folder(tmp_path / "new", load_recipe("demo", ["--extract.normalize", "true"]))
    remembered = read_provenance(tmp_path / "new")
    assert remembered is not None
    assert (remembered["recipe"], remembered["seeded"], remembered["video_2d"]) == ("demo", True, "seeded_2d")


def test_settings_that_came_to_no_shard_do_not_bind(tmp_path: Path) -> None:
    claim_folder(tmp_path, load_recipe("mft"))
    claim_folder(tmp_path, load_recipe("demo"))
    remembered = read_provenance(tmp_path)
    assert remembered is not None and remembered["recipe"] == "demo"
