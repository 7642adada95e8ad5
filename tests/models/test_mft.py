"""What MFT does beyond the published numbers."""

import pytest
import torch

from pipeline.config import LossSettings, ModelSettings
from pipeline.errors import InputError
from pipeline.models import build_model, rows
from pipeline.objectives import build_loss
from tests.models.golden import TINY

PAIRS = {"tv_embed", "ta_embed", "va_embed"}


def _model(**options):
    torch.manual_seed(0)
    return build_model(ModelSettings(**TINY | options))


def _batch(clips=4, frames=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "text": torch.randn(clips, 7, 5, generator=generator),
        "text_mask": (torch.arange(7) < torch.tensor([[7], [3], [1], [5]])[:clips]).float(),
        "video": torch.randn(clips, 4, 6, generator=generator),
        "video_mask": torch.ones(clips, 4),
        "audio": torch.randn(clips, 40, frames, generator=generator),
        "audio_mask": torch.ones(clips, frames),
        "audio_nframes": torch.full((clips,), float(frames)),
    }


def _token_counts(model, batch):
    lengths = {name: batch[f"{name}_mask"].sum(dim=1) for name in ("text", "video", "audio")}
    return {name: int(count.sum()) for name, count in model.clip_tokens(lengths, batch["audio"].shape[2]).items()}


def _eval(model, batch):
    with torch.no_grad():
        return model.eval()(batch)


@pytest.mark.parametrize("least_dim", [0, 512])
def test_padding_means_nothing(least_dim, monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", least_dim)
    model, batch = _model(depth=2), _batch()
    changed = dict(batch, text=torch.where(batch["text_mask"].unsqueeze(2) > 0, batch["text"], 1e3))
    first, second = _eval(model, batch), _eval(model, changed)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)


def test_a_clips_embeddings_do_not_depend_on_its_neighbours_in_evaluation():
    model, batch = _model(depth=2), _batch()
    alone = _eval(model, {name: value[:1] for name, value in batch.items()})
    together = _eval(model, batch)
    for name, value in alone.items():
        torch.testing.assert_close(together[name][:1], value, rtol=1e-5, atol=1e-6)


def test_a_missing_modality_leaves_the_others_as_they_are():
    model, batch = _model(), _batch()
    without = dict(batch, text_mask=torch.zeros_like(batch["text_mask"]))
    full, lacking = _eval(model, batch), _eval(model, without)
    assert not lacking["text_nonempty_input_mask"].any()
    for name in ("video_embed", "audio_embed", "va_embed"):
        torch.testing.assert_close(lacking[name], full[name])
    assert all(value.isfinite().all() for value in lacking.values())


def test_a_modality_that_the_whole_batch_lacks_while_padding_is_left_out(monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", 0)
    model = _model(depth=2).train()
    batch = dict(_batch(), text_mask=torch.zeros(4, 7))
    total, terms = build_loss(LossSettings())(model(batch))
    total.backward()
    assert total.isfinite() and terms["tv"] == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_the_batch_is_left_as_it_was():
    batch = _batch()
    batch["text_mask"][1] = 0
    before = {name: value.clone() for name, value in batch.items()}
    _eval(_model(), batch)
    assert all(torch.equal(batch[name], value) for name, value in before.items())


def test_pairs_in_training_only_where_asked_for_but_always_in_evaluation():
    model = _model(cross_modal=False)
    assert not PAIRS & set(model.train()(_batch()))
    assert set(_eval(model, _batch())) >= PAIRS
    assert set(_model().train()(_batch())) >= PAIRS


def test_text_and_video_only_needs_no_sound():
    model = _model(text_video_only=True)
    batch = {name: value for name, value in _batch().items() if not name.startswith("audio")}
    outputs = _eval(model, batch)
    assert {name for name in outputs if name.endswith("_embed")} == {"text_embed", "video_embed", "t+v_embed"}
    total, terms = build_loss(LossSettings())(model.train()(batch))
    assert set(terms) == {"tv"}
    torch.testing.assert_close(total, terms["tv"])


def test_features_in_half_precision_are_taken():
    model, batch = _model(), _batch()
    halved = dict(batch, video=batch["video"].half())
    widened = dict(batch, video=batch["video"].half().float())
    torch.testing.assert_close(_eval(model, halved)["video_embed"], _eval(model, widened)["video_embed"])


@pytest.mark.parametrize("frames", [96, 97, 111, 112])
def test_any_number_of_frames(frames):
    assert all(value.isfinite().all() for value in _eval(_model(), _batch(frames=frames)).values())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"text_video_only": True},
        {"per_modality": True},
        {"class_token": True, "individual_projections": False},
        {"per_modality": True, "class_token": True},
        {"positions": True, "max_video_tokens": 4, "max_text_tokens": 7, "max_audio_tokens": 6},
        {"positions": True, "max_video_tokens": 4, "max_text_tokens": 7, "max_audio_tokens": 6, "per_modality": True},
        {
            "positions": True,
            "max_video_tokens": 4,
            "max_text_tokens": 7,
            "max_audio_tokens": 6,
            "text_video_only": True,
        },
    ],
)
def test_every_parameter_that_is_to_be_trained_has_a_gradient(options):
    model = _model(**options).train()
    total, _ = build_loss(LossSettings())(model(_batch()))
    total.backward()
    without = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not without


@pytest.mark.parametrize("least_dim", [0, 512])
def test_mixed_precision_stays_near_full_precision(least_dim, monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", least_dim)
    model, batch = _model(depth=2), _batch()
    full = _eval(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = _eval(model, batch)
    for name in PAIRS:
        torch.testing.assert_close(mixed[name].float(), full[name], rtol=0.1, atol=0.1 * full[name].abs().max().item())


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="individual_projections false"):
        _model(class_token=True)
    with pytest.raises(InputError, match="multiple"):
        _model(heads=3)
    with pytest.raises(InputError, match="max_video_tokens"):
        _model(positions=True)
    with pytest.raises(InputError, match="per_modality"):
        _model(per_modality=True, individual_projections=False)
    with pytest.raises(InputError, match="use linear"):
        _model(projection="none")


def test_more_tokens_than_positions_are_refused():
    model = _model(positions=True, max_video_tokens=4, max_text_tokens=6, max_audio_tokens=6)
    with pytest.raises(InputError, match="7 text tokens"):
        _eval(model, _batch())


def _one_graph(model, graphs):
    """The model compiled as one graph; each program is noted with its inputs, and run as it is."""

    def keep(graph, inputs):
        graphs.append((graph, inputs))
        return graph.forward

    torch.compiler.reset()
    return torch.compile(model, backend=keep, fullgraph=True)


def _assert_gives(expected, compiled, batch):
    with torch.no_grad():
        outputs = compiled(batch)
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value)


@pytest.mark.slow
def test_the_network_is_one_graph_to_the_compiler(monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", 0)
    model, graphs = _model(depth=2), []
    compiled = _one_graph(model, graphs)
    for frames in (96, 112):
        batch = _batch(frames=frames)
        _assert_gives(_eval(model, batch), compiled, batch)
    made = [node for graph, _ in graphs for node in graph.graph.nodes if node.target is torch.tensor]
    assert not made, "who sees whom is not worked out anew in each step"


@pytest.mark.slow
def test_with_limits_of_tokens_it_is_one_graph_of_fixed_shapes(monkeypatch):
    monkeypatch.setattr(rows, "LEAST_DIM", 0)
    model, graphs, batch = _model(depth=2), [], _batch()
    compiled, expected = _one_graph(model, graphs), _eval(model, batch)
    for text in (17, 17, 20, 17):
        model.most_tokens = dict(_token_counts(model, batch), text=text)
        _assert_gives(expected, compiled, batch)
    assert len(graphs) == 2, "one program for each limit"
    assert not [value for _, inputs in graphs for value in inputs if isinstance(value, torch.SymInt)]
