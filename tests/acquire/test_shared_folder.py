import threading
from pathlib import Path

import pytest

from pipeline.acquire import shared_folder
from pipeline.acquire.ledger import LedgerRow
from pipeline.acquire.shared_folder import SharedFolder
from pipeline.errors import InputError

ROW = LedgerRow("a1", "download", "done", host="node-7")


def put(folder: Path) -> None:
    (folder / "a1").mkdir()
    (folder / "a1" / "a1.webm").touch()


def test_a_machine_with_another_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_folder, "CACHE_SECONDS", 0.0)
    shared = SharedFolder(tmp_path)
    shared.check(LedgerRow("a1", "download", "failed", "removed", host="node-7"))
    with pytest.raises(InputError, match=r"node-7 fetched a1, but it is not in .* same folder of videos"):
        shared.check(ROW)
    put(tmp_path)
    shared.check(ROW)


def test_a_file_that_shows_late_is_waited_for_once(tmp_path: Path) -> None:
    shared = SharedFolder(tmp_path)
    late = threading.Timer(0.2, put, [tmp_path])
    late.start()
    shared.check(ROW)
    assert not late.is_alive()
    shared.check(LedgerRow("b2", "download", "done", host="node-7"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_folder, "CACHE_SECONDS", 0.0)
        with pytest.raises(InputError, match="node-8"):
            shared.check(LedgerRow("b2", "download", "done", host="node-8"))
