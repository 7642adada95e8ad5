"""What MCN and AVLnet do beyond the published numbers."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.config import LossSettings, ModelSettings
from pipeline.errors import InputError
from pipeline.models import build_model
from pipeline.objectives import build_loss

SIZES = {"video_dim": 6, "text_dim": 5, "embed_dim": 16, "davenet": "small", "davenet_width": 2}
FORMS = {
    "mcn": {"name": "mcn", "reconstruction_dim": 3},
    "mcn with a cluster head": {"name": "mcn", "cluster_classes": 9},
    "mcn with a projected cluster head": {"name": "mcn", "cluster_classes": 9, "cluster_projection_dim": 4},
    "mcn with a wide projected cluster head": {
        "name": "mcn",
        "cluster_classes": 9,
        "cluster_projection_dim": 4,
        "cluster_hidden_dim": 16,
    },
    "avlnet": {"name": "avlnet"},
    "avlnet_text_tri": {"name": "avlnet_text_tri"},
    "avlnet_text_fused": {"name": "avlnet_text_fused"},
}


def _model(**options):
    torch.manual_seed(0)
    return build_model(ModelSettings(**SIZES | options))


def _batch(clips=6, tokens=1):
    generator = torch.Generator().manual_seed(0)
    return {
        "text": torch.randn(clips, 7, 5, generator=generator),
        "video": torch.randn(clips, tokens, 6, generator=generator),
        "video_mask": torch.ones(clips, tokens),
        "audio": torch.randn(clips, 40, 80, generator=generator),
        "audio_nframes": torch.tensor([80.0, 33.0, 5.0, 0.0, 47.0, 64.0])[:clips],
        "video_index": torch.tensor([4, 4, 4, 4, 1, 1])[:clips],
    }


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_that_is_to_be_trained_has_a_gradient(form):
    model = _model(**FORMS[form]).train()
    clusters = 3 if form.startswith("mcn") else 0
    total, _ = build_loss(LossSettings(name="mcn", clusters=clusters))(model(_batch()))
    total.backward()
    assert not {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}


def test_video_tokens_are_pooled_by_their_maximum_over_the_valid_ones():
    model, batch = _model(name="mcn").eval(), _batch(tokens=4)
    batch["video_mask"] = (torch.arange(4) < torch.tensor([[4], [2], [1], [0], [3], [4]])).float()
    expected = torch.stack(
        [video[: int(length)].amax(dim=0) for video, length in zip(batch["video"], [4, 2, 1, 4, 3, 4], strict=True)]
    )
    expected[3] = 0
    with torch.no_grad():
        outputs = model(batch)
        pooled = model({**batch, "video": expected, "video_mask": torch.ones(6, 1)})
    torch.testing.assert_close(outputs["video_embed"], pooled["video_embed"])
    assert outputs["video_nonempty_input_mask"].tolist() == [True, True, True, False, True, True]


@pytest.mark.parametrize(("length", "kept"), [(160, [10, 4, 1, 1]), (100, [7, 5, 1, 1]), (7, [1, 1, 1, 1])])
def test_sound_is_averaged_over_its_real_tokens_as_the_published_program_counts_them(length, kept):
    model = _model(name="avlnet").eval()
    batch = {
        "video": torch.zeros(4, 6),
        "audio": torch.randn(4, 40, length, generator=torch.Generator().manual_seed(1)),
    }
    with torch.no_grad():
        embedded = model({**batch, "nframes": torch.tensor([length, 71, 15, 0])})["audio_embed"]
        tokens = model.DAVEnet(batch["audio"])
        pooled = torch.stack([clip[:count].mean(dim=0) for clip, count in zip(tokens, kept, strict=True)])
        torch.testing.assert_close(embedded, model.DAVEnet_projection(model.GU_audio(pooled)))


def test_sums_in_evaluation_are_plain():
    with torch.no_grad():
        outputs = _model(name="mcn").eval()(_batch())
    torch.testing.assert_close(outputs["v+a_embed"], outputs["video_embed"] + outputs["audio_embed"])


def test_sums_leave_out_what_a_clip_has_not():
    batch = _batch()
    batch["audio_mask"] = torch.ones(6, 80)
    batch["audio_mask"][3] = 0
    with torch.no_grad():
        outputs = _model(name="mcn").eval()(batch)
    torch.testing.assert_close(outputs["v+a_embed"][3], outputs["video_embed"][3])
    torch.testing.assert_close(outputs["t+a_embed"][3], outputs["text_embed"][3])
    torch.testing.assert_close(outputs["v+a_embed"][2], outputs["video_embed"][2] + outputs["audio_embed"][2])


def test_the_first_half_of_each_videos_clips_enters_the_queue():
    outputs = _model(name="mcn")(_batch())
    assert outputs["enters_queue"].tolist() == [True, True, False, False, True, False]


def test_a_lone_clip_of_a_video_enters_the_queue():
    outputs = _model(name="mcn")({**_batch(), "video_index": torch.arange(6)})
    assert outputs["enters_queue"].all()


def test_a_missing_modality_is_not_reconstructed():
    model, batch = _model(**FORMS["mcn"]).eval(), _batch()
    batch["audio_mask"] = torch.ones(6, 80)
    batch["audio_mask"][3] = 0
    with torch.no_grad():
        outputs = model(batch)
        text = model.text_pooling_caption(batch["text"])
        errors = [
            F.mse_loss(model.recon_v(outputs["video_embed"]), batch["video"][:, 0], reduction="none").mean(dim=1),
            F.mse_loss(model.recon_t(outputs["text_embed"]), text, reduction="none").mean(dim=1),
        ]
    torch.testing.assert_close(outputs["reconstruction"][3], errors[0][3] + errors[1][3])


def test_a_cosine_cluster_head_counts_directions_alone():
    model, batch = _model(name="mcn", cluster_classes=9, cluster_cosine=True).eval(), _batch()
    with torch.no_grad():
        outputs = model(batch)
        expected = F.cosine_similarity(outputs["text_embed"].unsqueeze(1), model.classification.weight, dim=2)
        torch.testing.assert_close(outputs["text_cluster"], expected)
        model.classification.weight *= 3
        torch.testing.assert_close(model(batch)["text_cluster"], expected)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="no reconstruction heads"):
        _model(name="avlnet", reconstruction_dim=3)
    with pytest.raises(InputError, match="no cluster head"):
        _model(name="avlnet", cluster_classes=3)
    with pytest.raises(InputError, match="cluster_classes"):
        _model(name="mcn", cluster_projection_dim=3)
    with pytest.raises(InputError, match="cluster_hidden_dim needs"):
        _model(name="mcn", cluster_classes=3, cluster_hidden_dim=3)
    with pytest.raises(InputError, match="cluster_cosine needs"):
        _model(name="mcn", cluster_cosine=True)
    with pytest.raises(InputError, match="even"):
        _model(name="avlnet_text_fused", embed_dim=15)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_one_graph_to_the_compiler(form):
    model, batch = _model(**FORMS[form]).eval(), _batch(tokens=4)
    with torch.no_grad():
        expected = model(batch)
        outputs = torch.compile(model, backend="eager", fullgraph=True)(batch)
    torch.testing.assert_close(outputs, expected)
