import contextlib
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import pipeline
from pipeline.cli import interruptible, parse_with_recipe, positive_float, positive_int, run_verb, verb_parser
from pipeline.errors import InputError


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("x.csv: no column video_id; name one with --id-column"), 2, "x.csv: no column video_id"),
        (OSError(errno.ENOSPC, "No space left on device", "shards/a.tar"), 2, "the disk is full at shards/a.tar"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), 2, "a/b: Not a directory"),
        (KeyboardInterrupt(), 130, "the same command continues"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_an_exit_code(error, code, says, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        run_verb(raising(error))
    assert stop.value.code == code
    shown = capsys.readouterr().err
    assert says in " ".join(shown.split())
    assert "Traceback" not in shown


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_verb(raising(ZeroDivisionError()))


IN_A_GROUP = """
import atexit, sys, torch.distributed as dist
from pipeline.cli import run_verb
from pipeline.errors import InputError
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=0, world_size=1)
atexit.register(lambda: print("took leave of the others"))
def verb():
    raise eval(sys.argv[2])
run_verb(verb)
"""


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        ("InputError('shard a.tar: damaged')", 2, "error: shard a.tar: damaged"),
        ("ZeroDivisionError('ours')", 1, "ZeroDivisionError: ours"),
        ("KeyboardInterrupt()", 130, "the same command continues"),
    ],
)
def test_a_process_of_several_that_fails_says_why_and_waits_for_no_other(error, code, says, tmp_path: Path) -> None:
    command = [sys.executable, "-c", IN_A_GROUP, str(tmp_path / "store"), error]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == code
    assert says in " ".join(ended.stderr.split())
    assert not ended.stdout


def test_a_reader_of_the_output_that_has_read_enough_is_no_fault() -> None:
    verb = "from pipeline.cli import run_verb; run_verb(lambda: [print('line', number) for number in range(100_000)])"
    with subprocess.Popen([sys.executable, "-c", verb], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"line 0\n"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_what_is_left_on_the_command_line_changes_the_recipe() -> None:
    parser = verb_parser("a verb", recipe="mft")
    parser.add_argument("--shards")
    arguments, recipe = parse_with_recipe(parser, ["--shards", "x", "--train.steps", "7"])
    assert (arguments.shards, recipe.train.steps) == ("x", 7)


def test_a_value_of_a_setting_is_not_taken_for_an_argument_of_the_verb() -> None:
    parser = verb_parser("a verb", recipe="mft")
    parser.add_argument("manifest")
    arguments, recipe = parse_with_recipe(
        parser, ["--loss.margin", "-0.5", "--extract.video_2d", "seeded_2d", "list.parquet", "--train.steps=7"]
    )
    assert arguments.manifest == "list.parquet"
    assert (recipe.extract.video_2d, recipe.train.steps, recipe.loss.margin) == ("seeded_2d", 7, -0.5)


def test_a_setting_without_its_value_is_named() -> None:
    parser = verb_parser("a verb", recipe="mft")
    parser.add_argument("--shards")
    with pytest.raises(InputError, match=r"--train\.steps needs a value"):
        parse_with_recipe(parser, ["--train.steps", "--shards", "x"])


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_whose_exception_is_lost_ends_the_work_all_the_same(kind):
    before = signal.getsignal(kind)
    reached = []
    with pytest.raises(KeyboardInterrupt), interruptible() as asked:
        with contextlib.suppress(KeyboardInterrupt):  # as a library may
            os.kill(os.getpid(), kind)
            asked.wait(5)
        reached.append(asked.is_set())
    assert reached == [True] and signal.getsignal(kind) == before


def test_without_a_signal_nothing_is_raised():
    with interruptible() as asked:
        assert not asked.is_set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--workers", "-1"], "-1"), (["--limit", "many"], "many"), (["--disk-gigabytes", "nan"], "nan")],
)
def test_a_number_that_makes_no_sense_is_told(arguments, said, capsys):
    parser = verb_parser("a verb")
    parser.add_argument("--workers", type=positive_int)
    parser.add_argument("--limit", type=positive_int)
    parser.add_argument("--disk-gigabytes", type=positive_float)
    assert parser.parse_args(["--workers", "3", "--disk-gigabytes", "1e-3"]) == parser.parse_args(
        ["--workers=3", "--disk-gigabytes=0.001"]
    )
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    assert f"argument {arguments[0]}: it is {said} and must be a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "usage"),
    [
        ("status.py", "usage: python -m pipeline.status "),
        ("shards/__main__.py", "usage: python -m pipeline.shards "),
        ("demo/mirror.py", "usage: python -m pipeline.demo.mirror "),
    ],
)
def test_usage_says_how_a_verb_is_called(script, usage, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(Path(pipeline.__file__).parent / script)])
    assert verb_parser("a verb").format_usage().startswith(usage)
