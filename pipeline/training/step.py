"""One step's mathematics: embed, gather, loss, gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from pipeline.errors import InputError
from pipeline.objectives import Loss
from pipeline.training.batches import Batch
from pipeline.training.distributed import Ranks
from pipeline.training.state import random_state, set_random_state

Precision = Literal["float32", "bfloat16", "float16"]


def loss_and_gradients(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    ranks: Ranks,
    precision: Precision = "float32",
    scaler: torch.amp.GradScaler | None = None,
    parts: int = 1,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The global batch's loss; gradients are added to the parameters'.

    Args:
        model: batch → named embeddings.
        loss: of the global batch; this rank computes its clips' share of it.
        batch: this rank's part of the batch.
        ranks: who else has a part.
        precision: of the network; embeddings reach the loss in float32.
        scaler: scales the loss so that float16 gradients do not vanish.
        parts: the batch is embedded in so many equal parts, see :func:`_in_parts`.

    Returns:
        The total and its terms, detached, on the device; the same on all ranks.
    """

    def loss_of(outputs: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        clips = next(len(value) for value in outputs.values() if isinstance(value, Tensor))
        total, terms = loss.share(ranks.gather(loss.prepare(outputs)), ranks.own(clips))
        (total if scaler is None else scaler.scale(total)).backward()
        summed = ranks.sum({"": total.detach(), **{name: term.detach() for name, term in terms.items()}})
        return summed.pop(""), summed

    if parts > 1:
        return _in_parts(model, batch, loss_of, precision, parts, ranks)
    with ranks.summing_gradients(model.parameters()):
        return loss_of(embed(model, batch, precision))


def _in_parts(
    model: nn.Module,
    batch: Batch,
    loss_of: Callable[[Mapping[str, Any]], tuple[Tensor, dict[str, Tensor]]],
    precision: Precision,
    parts: int,
    ranks: Ranks,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the whole batch with the memory of a part of it.

    A contrastive loss of small batches is another loss. So embeddings of all parts are computed first, without what
    their gradients need; the loss of all of them gives the embeddings' gradients; then each part is embedded once
    more, and its embeddings' gradients go on into the network (Gao et al., *Scaling Deep Contrastive Learning Batch
    Size under Memory Limited Setup*, 2021). Batch norm sees a part at a time.
    """
    device = next(model.parameters()).device
    pieces = _split(batch, parts)
    buffers = [buffer.clone() for buffer in model.buffers()]
    random_states, outputs = [], []
    with torch.no_grad():
        for piece in pieces:
            random_states.append(random_state(device))
            outputs.append(embed(model, piece, precision))
        # a second pass over the parts must not count twice in batch norm's statistics
        for buffer, before in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    cached = {name: _joined([output[name] for output in outputs]) for name in outputs[0]}
    result = loss_of(cached)
    gradients = {
        name: value.grad.chunk(parts) for name, value in cached.items() if isinstance(value, Tensor) and value.is_leaf
        and value.grad is not None
    }  # fmt: skip
    for number, (piece, state) in enumerate(zip(pieces, random_states, strict=True)):
        set_random_state(state, device)
        output = embed(model, piece, precision)
        reached = [name for name in gradients if output[name].requires_grad]
        with ranks.summing_gradients(model.parameters()) if number == parts - 1 else nullcontext():
            torch.autograd.backward([output[name] for name in reached], [gradients[name][number] for name in reached])
    return result


def _split(batch: Batch, parts: int) -> list[Batch]:
    chunks = {name: value.chunk(parts) for name, value in batch.items() if isinstance(value, Tensor)}
    return [{name: chunk[number] for name, chunk in chunks.items()} for number in range(parts)]


def _joined(values: list[Any]) -> Any:
    if not isinstance(values[0], Tensor):
        return values[0]
    joined = torch.cat(values)
    return joined.requires_grad_(joined.is_floating_point())


def embed(model: nn.Module, batch: Mapping[str, Any], precision: Precision) -> dict[str, Any]:
    """The model's outputs; the network in the given precision, embeddings in float32.

    Raises:
        InputError: batch norm trains on a single value.
    """
    device = next(model.parameters()).device.type
    if precision == "float32":
        return dict(_outputs(model, batch))
    with torch.autocast(device, dtype=getattr(torch, precision)):
        outputs = _outputs(model, batch)
    return {name: _widen(value) for name, value in outputs.items()}


def _outputs(model: nn.Module, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return cast(Mapping[str, Any], model(batch))
    except (ValueError, RuntimeError) as error:  # torch.compile gives it another type
        if "Expected more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "batch norm has a single value to take statistics of, as a process embeds one clip at a time: raise "
            "train.batch_videos, clips.per_video or clips.max_audio_frames, or lower train.accumulate"
        ) from None


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
