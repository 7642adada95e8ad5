"""Released checkpoints become networks, and networks checkpoints."""

import argparse
import gc
import os
import pathlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
import yaml

from pipeline.config import ModelSettings, Recipe
from pipeline.errors import InputError
from pipeline.models import MCN, MFT, build_model, load_published, save_published
from tests.conftest import needs_shared
from tests.models.golden import TINY, assert_close, batch_of, numbers, published_keys, published_weights

FORMS = {
    "plain": {},
    "deep": {"depth": 3, "mlp_ratio": 2.5},
    "no transformer": {"depth": 0},
    "large audio network": {"davenet": "large"},
    "class token": {"class_token": True, "individual_projections": False},
    "shared projection": {"individual_projections": False},
    "linear projections": {"token_projection": "linear", "projection": "linear"},
    "no final projection": {"projection": "none", "projection_dim": 8},
    "positions": {"positions": True, "max_video_tokens": 4, "max_text_tokens": 5, "max_audio_tokens": 3},
    "pooled audio": {"max_audio_tokens": 2, "audio_pooling": "avg_pool"},
    "one transformer per modality": {"per_modality": True, "cross_modal": False},
    "text and video only": {"text_video_only": True},
    "class tokens of transformers per modality": {"per_modality": True, "cross_modal": False, "class_token": True},
    "class tokens of text and video only": {"text_video_only": True, "class_token": True},
    "class token, no final projection": {
        "class_token": True, "individual_projections": False, "projection": "none", "projection_dim": 8,
    },
    "no pairs in training": {"cross_modal": False},
}  # fmt: skip
MCN_SIZES = {"video_dim": 6, "embed_dim": 8, "davenet": "small", "davenet_width": 2}
MCN_FORMS = {
    "mcn": {"name": "mcn", "reconstruction_dim": 3, "text_dim": 5},
    "mcn with a cluster head": {"name": "mcn", "cluster_classes": 9, "text_dim": 5},
    "mcn with a projected cluster head": {"name": "mcn", "cluster_classes": 9, "cluster_projection_dim": 4},
    "mcn with a wide projected cluster head": {
        "name": "mcn",
        "cluster_classes": 9,
        "cluster_projection_dim": 4,
        "cluster_hidden_dim": 16,
    },
    "avlnet": {"name": "avlnet"},
    "avlnet_text_tri": {"name": "avlnet_text_tri", "text_dim": 5},
    "avlnet_text_fused": {"name": "avlnet_text_fused", "text_dim": 5},
}


def _equal(first, second):
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_mft_comes_back_from_its_published_layout(form, tmp_path):
    settings = ModelSettings(**TINY | FORMS[form])
    model = build_model(settings)
    save_published(model, tmp_path / "latest_model.pth")
    loaded = load_published(tmp_path / "latest_model.pth")
    assert loaded.settings == settings
    assert not loaded.training
    assert _equal(loaded.state_dict(), model.state_dict())
    save_published(loaded, tmp_path / "again.pth")
    assert _equal(torch.load(tmp_path / "again.pth", weights_only=True)["state_dict"], model.state_dict())


@pytest.mark.parametrize("form", MCN_FORMS)
def test_every_form_of_mcn_comes_back_from_its_plain_state_dict(form, tmp_path):
    settings = ModelSettings(**MCN_SIZES | MCN_FORMS[form])
    model = build_model(settings)
    save_published(model, tmp_path / "e15.pth")
    loaded = load_published(tmp_path / "e15.pth")
    assert isinstance(loaded, MCN)
    assert loaded.settings == settings
    assert _equal(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize("config", ["beside", "inside"])
def test_a_checkpoint_as_the_program_writes_it(tmp_path, config):
    """Trained by several GPUs: names with a prefix, Adam's state, the whole of the program's settings."""
    model = build_model(ModelSettings(**TINY, audio_pooling="max_pool", max_audio_tokens=6))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    sum(p.sum() for p in model.parameters() if p.requires_grad).backward()
    optimizer.step()
    fusion = {"embed_dim": 8, "use_cls_token": False, "depth": 1, "num_heads": 2, "mlp_ratio": 1}
    arch = {
        "video_embed_dim": 6, "text_embed_dim": 5, "audio_max_num_STFT_frames": 96, "davenet_v2": False,
        "strategy_audio_pooling": "max_pool", "token_projection": "gated", "use_positional_emb": False,
        "individual_projections": True, "projection_dim": 7, "projection": "gated",
        "fusion_params": OrderedDict(fusion),
    }  # fmt: skip
    settings = {
        "n_gpu": 4,
        "arch": OrderedDict(type="EverythingAtOnceModel", args=OrderedDict(arch)),
        "optimizer": OrderedDict(type="Adam", args=OrderedDict(lr=5e-5)),
        "metrics": ["t2v_metrics"],
        "trainer": OrderedDict(epochs=15, save_dir="./output"),
        "name": "everything_at_once_tva",
    }
    content = {
        "arch": "DataParallel", "epoch": 15, "step": 80000, "optimizer": optimizer.state_dict(), "monitor_best": 0,
        "state_dict": OrderedDict((f"module.{name}", value) for name, value in model.state_dict().items()),
        "config": OrderedDict(settings) if config == "inside" else None,
    }  # fmt: skip
    torch.save(content, tmp_path / "latest_model.pth")
    if config == "beside":
        plain = {**settings, "arch": {"type": "EverythingAtOnceModel", "args": {**arch, "fusion_params": fusion}}}
        plain |= {name: dict(settings[name]) for name in ("optimizer", "trainer")}
        plain["optimizer"]["args"] = {"lr": 5e-5}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain))
    loaded = load_published(tmp_path / "latest_model.pth")
    assert loaded.settings == model.settings
    assert _equal(loaded.state_dict(), model.state_dict())


def test_mcn_without_reconstruction_is_known_by_its_keyword():
    weights = build_model(ModelSettings(name="mcn", **MCN_SIZES)).state_dict()
    assert load_published(weights).settings.name == "avlnet_text_tri"
    assert load_published(weights, name="mcn").settings.name == "mcn"


def test_data_parallel_names_and_amp_checkpoints(tmp_path):
    weights = build_model(ModelSettings(name="avlnet", **MCN_SIZES)).state_dict()
    torch.save({"net": {f"module.{name}": value for name, value in weights.items()}, "amp": {}}, tmp_path / "amp.pt")
    assert _equal(load_published(tmp_path / "amp.pt").state_dict(), weights)


def test_the_loaded_network_shares_nothing_with_the_callers_weights():
    weights = build_model(ModelSettings(**TINY)).state_dict()
    loaded = load_published(weights, heads=2)
    before = weights["fusion.masking_token"].clone()
    with torch.no_grad():
        loaded.fusion.masking_token += 1
    assert torch.equal(weights["fusion.masking_token"], before)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("which", ["", "proj.fc.weight"])
def test_weights_of_any_precision_run_in_float32(kind, which):
    model = build_model(ModelSettings(**TINY))
    weights = {
        name: value.to(kind) if name.endswith(which) and value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    loaded = load_published(weights, heads=2)
    assert {name: value.dtype for name, value in loaded.state_dict().items()} == {
        name: value.dtype for name, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    batch = {"text": torch.rand(2, 3, 5), "text_mask": torch.ones(2, 3), "video": torch.rand(2, 3, 6)}
    batch |= {"video_mask": torch.ones(2, 3), "audio": torch.rand(2, 40, 32), "audio_mask": torch.ones(2, 32)}
    batch["audio_nframes"] = torch.full((2,), 32.0)
    with torch.no_grad():
        assert torch.equal(loaded(batch)["va_embed"], model.eval()(batch)["va_embed"])


def test_keywords_under_the_programs_names():
    weights = build_model(ModelSettings(**TINY)).state_dict()
    ours = load_published(weights, heads=2, max_audio_tokens=6, audio_pooling="max_pool")
    theirs = load_published(weights, num_heads=2, audio_max_num_STFT_frames=96, strategy_audio_pooling="max_pool")
    assert ours.settings == theirs.settings


def test_pooling_without_a_limit_is_refused():
    weights = build_model(ModelSettings(**TINY)).state_dict()
    for name in ("audio_pooling", "strategy_audio_pooling"):
        with pytest.raises(InputError, match="audio_pooling max_pool needs max_audio_tokens"):
            load_published(weights, heads=2, **{name: "max_pool"})


def test_keywords_win_over_the_settings_beside_the_file(tmp_path):
    save_published(build_model(ModelSettings(**TINY)), tmp_path / "latest_model.pth")
    assert load_published(tmp_path / "latest_model.pth", heads=4).settings.heads == 4


def test_settings_inside_the_file_serve_where_none_are_beside_it(tmp_path):
    save_published(build_model(ModelSettings(**TINY)), tmp_path / "latest_model.pth")
    (tmp_path / "config.yaml").unlink()
    assert load_published(tmp_path / "latest_model.pth").settings.heads == 2


def test_settings_of_another_network_beside_the_file_do_not_hide_those_in_it(tmp_path):
    save_published(build_model(ModelSettings(**TINY)), tmp_path / "first.pth")
    save_published(build_model(ModelSettings(**TINY | {"heads": 4})), tmp_path / "second.pth")
    assert load_published(tmp_path / "first.pth").settings.heads == 2
    assert load_published(tmp_path / "second.pth").settings.heads == 4


OWN_FORMS = {
    **{name: {**TINY, "heads": 4, **form} for name, form in FORMS.items()},
    **{name: MCN_SIZES | form for name, form in MCN_FORMS.items()},
    "mcn without heads of its own": {"name": "mcn", **MCN_SIZES},
    "mcn with a cluster head of cosines": {"name": "mcn", **MCN_SIZES, "cluster_classes": 9, "cluster_cosine": True},
}


@pytest.mark.parametrize("form", OWN_FORMS)
def test_a_checkpoint_of_training_needs_no_keyword(form, tmp_path):
    model = build_model(ModelSettings(**OWN_FORMS[form]))
    recipe = Recipe("mine", 1, "a test", model=model.settings)
    torch.save({"version": 1, "step": 2, "recipe": recipe.to_dict(), "model": model.state_dict()}, tmp_path / "own.pt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"arch": {"type": "ResNet"}}))
    loaded = load_published(tmp_path / "own.pt")
    assert loaded.settings == model.settings
    assert _equal(loaded.state_dict(), model.state_dict())


def test_a_recipes_value_that_the_shapes_round_does_not_contradict_them(tmp_path):
    model = build_model(ModelSettings(**TINY, mlp_ratio=0.7))
    recipe = Recipe("mine", 1, "a test", model=model.settings).to_dict()
    torch.save({"recipe": recipe, "model": model.state_dict()}, tmp_path / "own.pt")
    assert load_published(tmp_path / "own.pt").settings.mlp_ratio == 5 / 8


def test_keywords_win_over_a_checkpoints_own_settings(tmp_path):
    model = build_model(ModelSettings(**TINY))
    recipe = Recipe("mine", 1, "a test", model=model.settings).to_dict()
    recipe["model"]["of a later version"] = 3
    torch.save({"recipe": recipe, "model": model.state_dict()}, tmp_path / "own.pt")
    assert load_published(tmp_path / "own.pt", heads=4).settings.heads == 4
    with pytest.raises(InputError, match="depth is said to be 2, but the weights have 1"):
        load_published(tmp_path / "own.pt", depth=2)


def test_what_nobody_tells_is_asked_for():
    weights = build_model(ModelSettings(**TINY)).state_dict()
    with pytest.raises(InputError, match="give heads="):
        load_published(weights)
    with pytest.raises(InputError, match="did you mean heads"):
        load_published(weights, head=2)


def test_contradictions_and_strange_weights_are_named(tmp_path):
    weights = build_model(ModelSettings(**TINY)).state_dict()
    with pytest.raises(InputError, match="depth is said to be 2, but the weights have 1"):
        load_published(weights, heads=2, depth=2)
    with pytest.raises(InputError, match="audio_pooling cannot be 'maxpool'; it is one of none, clip"):
        load_published(weights, heads=2, audio_pooling="maxpool")
    with pytest.raises(InputError, match=r"has no fusion\.norm\.bias"):
        load_published({name: value for name, value in weights.items() if name != "fusion.norm.bias"}, heads=2)
    with pytest.raises(InputError, match="classifier"):
        load_published({**weights, "classifier": torch.zeros(2)}, heads=2)
    with pytest.raises(InputError, match=r"text_norm_layer\.bias has the shape"):
        load_published({**weights, "text_norm_layer.bias": torch.zeros(3)}, heads=2)
    with pytest.raises(InputError, match="no known network"):
        load_published({"fc.weight": torch.zeros(2, 2)})
    with pytest.raises(
        InputError, match=r"neither weights nor settings .*\(no 'fusion\.blocks\.0\.mlp\.fc1\.weight'\)"
    ):
        load_published({name: value for name, value in weights.items() if ".mlp." not in name}, heads=2)
    for heads in (0, "2"):
        with pytest.raises(InputError, match="neither weights nor settings"):
            load_published(weights, heads=heads)
    with pytest.raises(InputError, match="no tensor by name"):
        load_published({1: torch.zeros(2)})
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe")
    torch.save(weights, tmp_path / "latest_model.pth")
    with pytest.raises(InputError, match=r"config\.yaml: not valid YAML"):
        load_published(tmp_path / "latest_model.pth", heads=2)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"arch": {"type": "ResNet"}}))
    torch.save(weights, tmp_path / "latest_model.pth")
    with pytest.raises(InputError, match="ResNet is no MFT"):
        load_published(tmp_path / "latest_model.pth")


class _Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_more_than_weights_is_read_and_nothing_in_it_is_run(tmp_path, zipped):
    weights = build_model(ModelSettings(**TINY)).state_dict()
    content = {
        "arch": "EverythingAtOnceModel",
        "state_dict": weights,
        "monitor_best": np.float64(0.5),
        "args": argparse.Namespace(lr=0.1, where=pathlib.PurePosixPath("/data")),
        "hostile": _Hostile(tmp_path / "built"),
    }
    torch.save(content, tmp_path / "latest_model.pth", _use_new_zipfile_serialization=zipped)
    assert _equal(load_published(tmp_path / "latest_model.pth", heads=2).state_dict(), weights)
    assert not (tmp_path / "built").exists()


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_an_error_of_one_line(tmp_path, content):
    (tmp_path / "latest_model.pth").write_bytes(content)
    with pytest.raises(InputError, match="damaged, or no checkpoint") as error:
        load_published(tmp_path / "latest_model.pth")
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_file_without_weights_are_named(tmp_path):
    with pytest.raises(InputError, match="no such checkpoint"):
        load_published(tmp_path / "nowhere.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="'epoch' is no tensor"):
        load_published(tmp_path / "empty.pth")


@needs_shared
@pytest.mark.parametrize(
    ("case", "hyperparameters"),
    [
        ("mft_base", {}),
        ("mft_depth2", {}),
        ("mft_audio_maxpool", {"strategy_audio_pooling": "max_pool", "audio_max_num_STFT_frames": 96}),
        ("mft_per_modality", {}),
    ],
)
def test_golden_weights_load_without_settings(case, hyperparameters):
    model = load_published(published_weights(case), heads=4, **hyperparameters)
    with torch.no_grad():
        outputs = model(batch_of(case))
    for name, value in numbers(case, "eval").items():
        if name.endswith("_embed"):
            assert_close(outputs[name], value)


def _full_size(case):
    """Weights of the published shapes, small and cheap: nothing here depends on their values."""
    weights = {}
    for name, shape in published_keys(case):
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.zeros(shape, dtype=torch.int64)
        else:
            weights[name] = torch.full(shape, 1.0 if "norm" in name or "bn" in name else 1e-3)
    return weights


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "kind", "told", "parameters"),
    [("mft_published", MFT, {"heads": 64}, 689e6), ("mcn_published", MCN, {}, 0)],
)
def test_the_released_sizes_build_load_and_run(case, kind, told, parameters):
    weights = _full_size(case)
    model = load_published(weights, **told)
    assert isinstance(model, kind)
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == dict(published_keys(case))
    assert sum(value.numel() for value in model.parameters()) >= parameters
    del weights
    batch = {
        "text": torch.ones(2, 20, 300),
        "text_mask": torch.ones(2, 20),
        "video": torch.ones(2, 12, 4096),
        "video_mask": torch.ones(2, 12),
        "audio": torch.ones(2, 40, 768),
        "audio_mask": torch.ones(2, 768),
        "audio_nframes": torch.full((2,), 768.0),
    }
    with torch.no_grad():
        outputs = model(batch)
    assert outputs["v+a_embed"].shape == (2, 6144)
    assert all(value.isfinite().all() for name, value in outputs.items() if name.endswith("_embed"))
    del model
    gc.collect()
