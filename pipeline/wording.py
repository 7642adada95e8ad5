"""How messages say things."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the singular for one: ``1 video``, ``1,240 videos``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def none_of(count: int, noun: str) -> str:
    """How a sentence begins that says what no thing did: ``none of the 10 videos``; of a single one: ``no video``."""
    return f"no {noun}" if count == 1 else f"none of the {counted(count, noun)}"


def to_share(what: str) -> str:
    """What to do about a machine of a cluster that has another folder of videos or shards than the rest."""
    return (
        f"all machines have to see the same folder of {what}; mount it there or take that machine out of the cluster, "
        "and run the same command again"
    )


def of_no_use(pytorch: str, cuda: str | None) -> str:
    """How a sentence begins that says that PyTorch cannot use a GPU.

    Args:
        pytorch: its version.
        cuda: that of the CUDA it is built for.
    """
    return f"PyTorch {pytorch} cannot use the NVIDIA GPU (nvidia-smi says whether its driver is good for CUDA {cuda})"
