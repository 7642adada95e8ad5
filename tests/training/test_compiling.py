import pytest
import torch

from pipeline.config import LossSettings, ModelSettings
from pipeline.errors import InputError
from pipeline.models import build_model
from pipeline.objectives import build_loss
from pipeline.training.compiling import compiled
from pipeline.training.distributed import Ranks
from tests.training.fakes import clips_batch

SIZES = {"video_dim": 12, "text_dim": 10, "embed_dim": 16, "davenet": "small", "davenet_width": 2}
NETWORKS = {
    "mft": (SIZES | {"projection_dim": 8, "heads": 2}, LossSettings()),
    "mcn": (SIZES | {"name": "mcn"}, LossSettings(name="mcn", clusters=0)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_of_several_processes_the_audio_network_is_a_program_of_its_own(name: str) -> None:
    settings, loss_settings = NETWORKS[name]
    programs = {}
    for ranks in (Ranks(), Ranks(0, 2)):
        torch.manual_seed(0)
        torch.compiler.reset()
        model = build_model(ModelSettings(**settings)).train()
        compiled(model, ranks)
        graphs: list[set[str]] = []

        def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor], graphs: list[set[str]] = graphs) -> object:
            graphs.append({name for name, _ in graph.named_parameters()} | {str(node) for node in graph.graph.nodes})
            return graph.forward

        network = torch.compile(model, backend=keep)
        total, _ = build_loss(loss_settings)(network(clips_batch()))
        total.backward()
        programs[ranks.world_size] = total, {n: p.grad for n, p in model.named_parameters()}, graphs
    (alone, gradients, one), (together, same_gradients, two) = programs[1], programs[2]
    assert (len(one), len(two)) == (1, 2)
    assert any("davenet" in node.lower() for node in two[0]) and not any(
        "davenet_layer" in node.lower() for node in two[1]
    )
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(same_gradients, gradients)


def test_what_has_no_compiler_is_told_before_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    for device, name in (("cpu", r"g\+\+"), ("cuda", "gcc")):
        with pytest.raises(InputError, match=f"needs a C compiler, and there is no {name}"):
            compiled(torch.nn.Linear(2, 2), Ranks(device=torch.device(device)))
    monkeypatch.setenv("CC", "mycc")
    with pytest.raises(InputError, match="there is no mycc"):
        compiled(torch.nn.Linear(2, 2), Ranks(device=torch.device("cuda")))
