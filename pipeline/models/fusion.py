"""MFT's fusion transformer (*Everything at Once*, CVPR 2022, section 3.2): one for any combination of modalities.

Every combination (text alone, text with video, ...) is a sequence of its own, but all run through each layer together,
laid end to end: a token that takes part in three combinations is there three times. Two things are then shared:

* Before the first layer its three copies are equal, so their queries, keys and values are computed once.
* An embedding is a mean over tokens, and the last linear map of the last layer commutes with a mean, so it sees one
  vector per embedding instead of all tokens.

What treats each token by itself runs on rows, the valid tokens of the whole batch one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from pipeline.models.layers import Block
from pipeline.models.rows import Rows

Combination = tuple[str, ...]
"""Modalities that see each other, in the order text, video, audio."""

CLASS = "class"
"""The class token, as a part of a combination."""


class Tokens(NamedTuple):
    """A modality's tokens."""

    values: Tensor
    """``[batch, tokens, dim]``."""
    mask: Tensor
    """Bool ``[batch, tokens]``: which are valid; at least one each."""


class FusionTransformer(nn.Module):
    """The transformer, its masking token and its optional class token.

    Args:
        dim: width of a token.
        depth: number of layers; with none, embeddings are means of the tokens that come in.
        heads: attention heads.
        mlp_ratio: width of a layer's hidden units over ``dim``.
        class_token: whether an embedding is a class token's output instead of the mean over a modality's tokens.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: float, class_token: bool = False) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if class_token else None
        self.masking_token = nn.Parameter(torch.zeros(dim))
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio) for _ in range(depth)))
        # The published program never calls this norm; it stays so that checkpoints keep their layout.
        self.norm = nn.LayerNorm(dim, eps=1e-6).requires_grad_(False)
        self._initialize()

    def _initialize(self) -> None:
        nn.init.trunc_normal_(self.masking_token, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        tokens: Mapping[str, Tokens],
        combinations: Sequence[Combination],
        most: Mapping[str, int] | None = None,
    ) -> dict[tuple[Combination, str], Tensor]:
        """Embeds every combination.

        Args:
            tokens: the modalities' tokens, by name.
            combinations: which modalities are to see each other.
            most: a number of valid tokens that each modality does not exceed in this batch, where it is known.

        Returns:
            ``(combination, modality)`` → ``[batch, dim]``, the mean over the modality's own valid tokens after the
            last layer. With a class token: ``(combination, CLASS)`` → its output.
        """
        sources = self._sources(tokens)
        counts = tuple((name, source.values.shape[1]) for name, source in sources.items())
        valid = torch.cat([source.mask for source in sources.values()], dim=1)
        x = torch.cat([source.values for source in sources.values()], dim=1)
        plan = _plan(counts, tuple(combinations), self.cls_token is not None, x.device)
        valid_copies = plan.lay_out(valid)
        own = plan.embedding_of_copy & valid_copies.unsqueeze(1)
        if not self.blocks:
            return dict(zip(plan.embeddings, _mean(plan.lay_out(x), own).unbind(1), strict=True))
        dim = x.shape[2]
        most_sources, most_copies = plan.limits(most, len(x))
        source_rows, copy_rows = Rows(valid, dim, most_sources), Rows(valid_copies, dim, most_copies)
        rows = source_rows.pick(x)
        last = len(self.blocks) - 1
        for number, module in enumerate(self.blocks):
            block = cast(Block, module)
            qkv = block.attn.qkv(block.norm1(rows))
            if number == 0:
                queries, keys, values = block.attn.split(source_rows.put(qkv))
                queries, rows = plan.lay_out(queries, dim=2), copy_rows.pick(plan.lay_out(x))
                visible = plan.sees_source & valid.unsqueeze(1)
            else:
                queries, keys, values = block.attn.split(copy_rows.put(qkv))
                visible = plan.sees_copy & valid_copies.unsqueeze(1)
            mixed = block.attn.attend(queries, keys, values, visible)
            rows = rows + block.attn.proj(copy_rows.pick(mixed))
            hidden = block.mlp.hidden(block.norm2(rows))
            if number == last:
                rows, hidden = _mean(copy_rows.put(rows), own), _mean(copy_rows.put(hidden), own)
            rows = rows + block.mlp.fc2(hidden)
        return dict(zip(plan.embeddings, rows.unbind(1), strict=True))

    def _sources(self, tokens: Mapping[str, Tokens]) -> dict[str, Tokens]:
        if self.cls_token is None:
            return dict(tokens)
        values, mask = next(iter(tokens.values()))
        class_token = self.cls_token.to(values.dtype).expand(len(values), 1, -1)
        return {CLASS: Tokens(class_token, mask.new_ones(len(mask), 1)), **tokens}


def with_masking_token(values: Tensor, mask: Tensor, masking_token: Tensor) -> tuple[Tokens, Tensor]:
    """Puts the masking token in the first place of every sequence that has no valid token.

    Args:
        values: ``[batch, tokens, dim]``.
        mask: bool ``[batch, tokens]``.
        masking_token: ``[dim]``.

    Returns:
        The tokens, and bool ``[batch]``: which sequences had a valid token of their own.
    """
    present = mask.any(dim=1)
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    stand_in = first & ~present.unsqueeze(1)
    values = torch.where(stand_in.unsqueeze(2), masking_token.to(values.dtype), values)
    return Tokens(values, mask | stand_in), present


class _Plan(NamedTuple):
    """How copies of tokens ("copies") are laid out from the tokens themselves ("sources"), and who sees whom."""

    names: tuple[str, ...]
    """The sources, in order."""
    counts: tuple[int, ...]
    """Tokens of each source."""
    order: tuple[int, ...]
    """The layout: which source each stretch of copies is taken from."""
    sees_source: Tensor
    """Bool ``[copies, sources]``: the source takes part in the copy's combination."""
    sees_copy: Tensor
    """Bool ``[copies, copies]``: both belong to the same combination."""
    embeddings: tuple[tuple[Combination, str], ...]
    embedding_of_copy: Tensor
    """Bool ``[embeddings, copies]``: the copy is one of those that the embedding is the mean of."""

    def lay_out(self, sources: Tensor, dim: int = 1) -> Tensor:
        """Sources along ``dim`` → copies along ``dim``."""
        stretches = sources.split(self.counts, dim=dim)
        return torch.cat([stretches[source] for source in self.order], dim=dim)

    def limits(self, most: Mapping[str, int] | None, batch: int) -> tuple[int | None, int | None]:
        """The most valid sources and the most valid copies of a batch, where the most of each source is known."""
        if most is None:
            return None, None
        of_source = [batch if name == CLASS else most[name] for name in self.names]
        return sum(of_source), sum(of_source[source] for source in self.order)


def _plan(
    counts: tuple[tuple[str, int], ...], combinations: tuple[Combination, ...], class_token: bool, device: torch.device
) -> _Plan:
    return _Plan(*_constants(counts, combinations, class_token, device))


@torch.compiler.assume_constant_result
def _constants(*arguments: Any) -> tuple[Any, ...]:
    """What a plan is made of; a compiled network keeps it, where it would make the tables anew in each step."""
    return tuple(_made_plan(*arguments))


@lru_cache(maxsize=64)
def _made_plan(
    counts: tuple[tuple[str, int], ...], combinations: tuple[Combination, ...], class_token: bool, device: torch.device
) -> _Plan:
    names = [name for name, _ in counts]
    lengths = [count for _, count in counts]
    parts = [(c, name) for c in combinations for name in names if name in c or name == CLASS]
    order = [names.index(name) for _, name in parts]
    embeddings = [part for part in parts if not class_token or part[1] == CLASS]

    def table(rows: list[list[bool]], row_lengths: list[int], column_lengths: list[int]) -> Tensor:
        """A yes or no for each pair of stretches, spread over their tokens."""
        return torch.tensor(rows)[_places(row_lengths)][:, _places(column_lengths)].to(device)

    copies = [lengths[source] for source in order]
    return _Plan(
        names=tuple(names),
        counts=tuple(lengths),
        order=tuple(order),
        sees_source=table([[name in c or name == CLASS for name in names] for c, _ in parts], copies, lengths),
        sees_copy=table([[other == c for other, _ in parts] for c, _ in parts], copies, copies),
        embeddings=tuple(embeddings),
        embedding_of_copy=table([[part == of for part in parts] for of in embeddings], [1] * len(embeddings), copies),
    )


def _places(lengths: list[int]) -> Tensor:
    """Number of the stretch that each token is in."""
    return torch.tensor([number for number, length in enumerate(lengths) for _ in range(length)])


def _mean(copies: Tensor, own: Tensor) -> Tensor:
    """The mean of an embedding's own copies: ``[batch, copies, dim]``, bool ``[batch, embeddings, copies]``."""
    # Ones and zeros are exact in half precision; weights of one over the count would not be.
    return own.to(copies.dtype) @ copies / own.sum(dim=2, keepdim=True)
