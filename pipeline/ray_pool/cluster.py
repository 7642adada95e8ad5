"""Ray itself: starting it, joining a cluster, and the machines in it."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import InputError

OBJECT_STORE_BYTES = 128 << 20
"""Items and results are small; a larger store would not fit a container's /dev/shm."""
_PRIVATE = {"enable_metrics_collection": False, "prestart_worker_first_driver": False}
"""Of a private Ray: nobody looks at its metrics, and there will be fewer actors than CPUs, for each of which it would
start a process beforehand."""


def start(address: str | None = None, num_cpus: int | None = None) -> None:
    """Starts Ray on this machine, or joins a running cluster; does nothing when Ray already runs.

    Args:
        address: a cluster's address (``host:6379``); None: a private Ray on this machine, gone with this process.
        num_cpus: CPUs that a private Ray may hand out; None: all.

    Raises:
        InputError: nothing answers at ``address``.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    if address is None:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _system_config=_PRIVATE,
            **quiet,
        )
    else:
        _check_address(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(
                f"cannot join the Ray cluster at {address}: {' '.join(str(error).split())[:200]}"
            ) from None
    # Ray prints a paragraph about each worker that dies; the pool reports it as the outcome of an item instead.
    ray._private.worker._worker_logs_enabled = False


def _check_address(address: str) -> None:
    """Ray itself would wait for minutes for a cluster that is not there."""
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return  # "auto": Ray looks it up
    try:
        socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(
            f"no Ray cluster answers at {address} ({error}); start one with: ray start --head --port {port}"
        ) from None


def stop() -> None:
    """Leaves the cluster, or ends the private Ray with all its processes."""
    ray.shutdown()


@dataclass(frozen=True)
class Node:
    """One machine of the cluster (or one ``ray start`` on it)."""

    node_id: str
    host: str
    cpus: float
    gpus: float = 0.0


def alive_nodes() -> list[Node]:
    """The nodes that can run actors now, in a fixed order."""
    nodes = [
        Node(
            node["NodeID"], node["NodeManagerHostname"], *(node["Resources"].get(kind, 0.0) for kind in ("CPU", "GPU"))
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: node.node_id)


def pinned_to(node_id: str) -> dict[str, Any]:
    """Options for an actor that must run on one node and dies with it."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}


@dataclass(frozen=True)
class Share:
    """What each of a number of equal actors claims, such that all of them find a place."""

    actors: int
    cpus: float
    """CPUs that Ray sets aside for each."""
    gpus: float
    """GPUs that Ray sets aside for each: one, or a fraction where several have to share it; 0: there are none."""
    threads: int
    """CPUs that there are for each, whole ones, at least one."""


def shared_out(nodes: Sequence[Node], wanted: int | None, most: int) -> Share:
    """How actors that compute share the machines.

    Args:
        nodes: the machines; those without a GPU are left alone where another has one.
        wanted: number of actors; None: one per GPU, else one per two CPUs of a machine, and two where there are three.
        most: number of things to do: more actors than that are never needed.
    """
    gpus = sum(int(node.gpus) for node in nodes)
    if gpus:
        actors = min(wanted or gpus, most)
        on_each = math.ceil(actors / gpus)
        cpus = min(node.cpus / (int(node.gpus) * on_each) for node in nodes if node.gpus >= 1)
        # a GPU is what is short: claiming more than one CPU beside it could leave it idle
        return Share(actors, min(1.0, cpus), 1 / on_each, max(1, int(cpus)))
    # a cluster's head often gives no CPU, and has no place for an actor
    of_nodes = [int(node.cpus) for node in nodes if node.cpus >= 1] or [1]
    actors = min(wanted or sum(max(cpus // 2, min(cpus, 2)) for cpus in of_nodes), most)
    for threads in range(max(of_nodes), 0, -1):
        if sum(cpus // threads for cpus in of_nodes) >= actors:
            return Share(actors, float(threads), 0.0, threads)
    return Share(actors, 1 / math.ceil(actors / sum(of_nodes)), 0.0, 1)
