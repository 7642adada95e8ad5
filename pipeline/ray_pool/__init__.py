"""Ray for the two verbs that use it: a cluster, and a pool of actors that may die."""

from pipeline.ray_pool.cluster import Node, Share, alive_nodes, pinned_to, shared_out, start, stop
from pipeline.ray_pool.outcome import Outcome, WorkerDied
from pipeline.ray_pool.pool import ActorPool

__all__ = [
    "ActorPool",
    "Node",
    "Outcome",
    "Share",
    "WorkerDied",
    "alive_nodes",
    "pinned_to",
    "shared_out",
    "start",
    "stop",
]
