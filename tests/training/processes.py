"""Runs a function in several processes that form a gloo group, as torchrun would start them."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from pipeline.training.distributed import join_ranks


def run_ranks(
    world_size: int, function: Callable[..., Any], *arguments: Any, limit: timedelta = timedelta(minutes=1)
) -> list[Any]:
    """``function(ranks, *arguments)`` on each rank; the results in rank order."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [context.Pipe(duplex=False) for _ in range(world_size)]
    processes = [
        context.Process(target=_run, args=(rank, world_size, port, limit, sender, function, arguments), daemon=True)
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    results = [_answer(process, receiver) for process, (receiver, _) in zip(processes, pipes, strict=True)]
    for process in processes:
        process.join(10)
        process.kill()
    failures = [result for result in results if isinstance(result, str)]
    assert not failures, "\n".join(failures)
    return [result[0] for result in results]


def _answer(process: BaseProcess, receiver: Connection) -> Any:
    """What a process gives or, as text, why it does not."""
    wait([receiver, process.sentinel], timeout=90)
    return receiver.recv() if receiver.poll() else "a process ended without an answer, or gave none within 90 s"


def _run(
    rank: int,
    world_size: int,
    port: int,
    limit: timedelta,
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    torch.multiprocessing.set_sharing_strategy("file_system")
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with join_ranks(limit) as ranks:
            sender.send((function(ranks, *arguments),))
    except Exception:
        sender.send(traceback.format_exc())
