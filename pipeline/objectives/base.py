"""What all losses have in common: one process computes them, or many that each compute a share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from pipeline.objectives.contrastive import ALL


class Loss(nn.Module, ABC):
    """The loss of a batch, from what a model gives.

    Of many processes each calls :meth:`prepare` on its own outputs and, once these are gathered, :meth:`share` with the
    slice that is its own. The shares add up to the loss, and so do their gradients.
    """

    def forward(self, outputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms by name, the terms detached.

        Args:
            outputs: what the model gives: ``<name>_embed [batch, dim]``, bool ``<modality>_nonempty_input_mask
                [batch]``, and more.

        Raises:
            InputError: the model does not give what the loss asks for.
        """
        return self.share(self.prepare(outputs))

    def prepare(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What of a process's outputs all processes have to know; raises InputError as :meth:`forward` does."""
        return outputs

    def check_batch(self, clips: int) -> None:
        """Raises InputError where a whole batch of so many clips is too small for this loss."""

    @abstractmethod
    def share(self, prepared: Mapping[str, Tensor], own: slice = ALL) -> tuple[Tensor, dict[str, Tensor]]:
        """What some samples contribute to the loss of the batch and to its terms.

        Args:
            prepared: what :meth:`prepare` gave, of all processes.
            own: the samples.

        Raises:
            InputError: as :meth:`forward` does.
        """
