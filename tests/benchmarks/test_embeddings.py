from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.benchmarks.embeddings import DIRECTIONS, ClipEmbeddings, directions_of, embed_clips, similarity_of


class EchoModel(nn.Module):
    """Its embeddings are its input."""

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        assert not self.training
        assert not torch.is_grad_enabled()
        names = ("text", "video", "audio", "tv", "ta", "va", "t+v", "t+a", "v+a")
        outputs = {f"{name}_embed": batch["values"] * (number + 1) for number, name in enumerate(names)}
        return {**outputs, "audio_nonempty_input_mask": batch["values"][:, 0] > 0}


def batches() -> list[dict[str, Any]]:
    return [
        {"clip_ids": ["a", "b"], "texts": ["one", "two"], "values": torch.tensor([[1.0, 0.0], [0.0, 2.0]])},
        {"clip_ids": ["c", "b"], "texts": ["three", "two"], "values": torch.tensor([[0.0, 1.0], [1.0, 0.0]])},
    ]


def test_parts_of_a_clip_are_averaged_in_the_order_of_first_sight() -> None:
    model = EchoModel().train()
    clips = embed_clips(model, batches(), dict)
    assert clips.clip_ids == ["a", "b", "c"]
    assert clips.embeddings["t"].tolist() == [[1.0, 0.0], [0.5, 1.0], [0.0, 1.0]]
    assert clips.present["a"].tolist() == [True, True, False]
    assert clips.embeddings["a"].tolist() == [
        [3.0, 0.0],
        [1.5, 3.0],
        [0.0, 3.0],
    ]  # a part of b has no sound, and counts
    assert clips.texts == ["one", "two", "three"]
    assert model.training


def test_all_eighteen_directions_and_their_inverses() -> None:
    clips = embed_clips(EchoModel(), batches(), dict)
    assert directions_of(clips) == list(DIRECTIONS)
    matrices = {direction: similarity_of(clips, direction) for direction in DIRECTIONS}
    assert len(DIRECTIONS) == 18
    for direction in DIRECTIONS:
        query, candidates = direction.split("2")
        assert np.allclose(matrices[direction], matrices[f"{candidates}2{query}"].T)


def test_similarity_is_the_models_and_only_of_what_the_model_gives() -> None:
    clips = ClipEmbeddings(
        ["a", "b"], {"t": torch.tensor([[3.0, 0], [0, 0]]), "v": torch.tensor([[2.0, 0], [1, 1]])}, {}
    )
    assert directions_of(clips) == ["t2v", "v2t"]
    assert similarity_of(clips, "t2v").ravel().tolist() == pytest.approx([1.0, 0.5**0.5, 0.0, 0.0])
    clips.similarity = "dot"
    assert similarity_of(clips, "t2v").tolist() == [[6.0, 3.0], [0.0, 0.0]]
