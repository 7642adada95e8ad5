"""A TORCH_HOME as the published downloads would leave it, with the golden cases' seeded weights."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorchvideo
import torch

from tests.conftest import GOLDEN

HUB_ENTRY = 'dependencies = ["torch"]\nfrom pytorchvideo.models.hub import slowfast_r50, slowfast_r101\n'


def golden_state(case: str, seed: int) -> dict[str, torch.Tensor]:
    """The reference state dict of a golden case, filled by the golden folder's own recipe."""
    fill = _fill_module()
    keys = [(name, shape) for name, shape in json.loads((GOLDEN / f"{case}.keys.json").read_text())]
    return {name: torch.as_tensor(value) for name, value in fill.fill(keys, seed).items()}


def put_checkpoint(torch_home: Path, file_name: str, content: Any) -> Path:
    """Writes a weight file where torch.hub looks for it."""
    path = torch_home / "hub" / "checkpoints" / file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


class _Holder(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def put_program(torch_home: Path, file_name: str, state: dict[str, torch.Tensor]) -> None:
    """Writes weights as a TorchScript program, as OpenAI publishes CLIP."""
    root = _Holder()
    for key, value in state.items():
        *parents, leaf = key.split(".")
        module: torch.nn.Module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, _Holder())
            module = module.get_submodule(parent)
        module.register_buffer(leaf, value)
    path = torch_home / "hub" / "checkpoints" / file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.jit.script(root).save(str(path))


def put_pytorchvideo(torch_home: Path, revision: str) -> Path:
    """Puts the installed PyTorchVideo where torch.hub keeps its repository."""
    folder = torch_home / "hub" / f"facebookresearch_pytorchvideo_{revision}"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(HUB_ENTRY)
    (folder / "pytorchvideo").symlink_to(Path(pytorchvideo.__file__).parent, target_is_directory=True)
    return folder


def _fill_module() -> ModuleType:
    specification = importlib.util.spec_from_file_location("golden_fill", GOLDEN / "fill.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules.setdefault("golden_fill", module)
    specification.loader.exec_module(module)
    return module


def put_clip_text(torch_home: Path) -> torch.nn.Module:
    """Writes OpenAI's file with seeded weights of the text tower; gives open_clip's with the same and no pooling."""
    transformer = pytest.importorskip("open_clip.transformer")
    torch.manual_seed(67)
    tower = transformer.TextTransformer(act_layer=transformer.QuickGELU, pool_type="none").eval()
    state = {key: value.half().float() for key, value in tower.state_dict().items()}
    tower.load_state_dict(state)
    half = {key: value.half() for key, value in state.items()}
    # and what else is in the published file
    put_checkpoint(torch_home, "ViT-B-32.pt", {**half, "visual.proj": torch.zeros(1), "logit_scale": torch.tensor(1.0)})
    return tower
