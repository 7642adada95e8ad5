"""The settings' types: what a recipe can say, section by section, with the defaults.

:mod:`pipeline.config` reads them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class DownloadSettings:
    """How videos are fetched."""

    template: str | None = "https://www.youtube.com/watch?v={video_id}"
    """Where a video is when its manifest row has no URL; null: only ``sources`` are asked."""
    sources: list[str] = field(default_factory=list)
    """Asked first, in this order; each a URL template with ``{video_id}`` or a local folder. The next is asked when one
    says that it has not got the video."""
    auth_host: str | None = None
    """The host that gets a user id and password: from the environment (``DOWNLOAD_USER``, ``DOWNLOAD_PASSWORD``), else
    from ``~/.netrc``. They are shown nowhere."""
    cookies: str | None = None
    """A file of cookies in Netscape's format; it is read, not changed."""
    cookies_from_browser: str | None = None
    """A browser, or ``browser:profile``, whose cookies are used."""
    proxy: str | None = None
    """URL of a proxy; one with a password goes into the environment (``HTTPS_PROXY``)."""
    extractor_args: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """yt-dlp's extractor arguments: ``{"youtube": {"player_client": ["web"]}}``."""
    subtitles: str | None = "en"
    """Language in which a site's subtitles are fetched for videos without captions in the manifest, those that people
    wrote before recognised ones; null: none."""
    concurrency: int = 4
    """Downloads at once on each node."""
    attempts: int = 4
    """Tries per video and run before a temporary failure is left for the next run."""
    backoff: float = 2.0
    """Seconds before the second try; doubled with jitter for each further one."""
    requests_per_second: float | None = None
    """Requests of a node, at most (a video on a page takes several); null: as many as ``concurrency`` gives."""
    megabytes_per_second: float | None = None
    """Of each node, at most; null: no limit."""
    daily_gigabytes: float | None = None
    """Fetched in 24 hours, at most; null: no limit."""
    min_free_gigabytes: float = 1.0
    """The run ends when the disk of the videos has less room than this."""
    pause: float = 30.0
    """Seconds that a node leaves a source alone when it complains of too many requests; doubled each time."""
    give_up_after_pauses: int = 8
    """Pauses without a success between them after which a node gives a source up."""
    give_up_after: int = 50
    """Tries that a source refuses, without a success between them, after which a node gives it up."""
    timeout: float = 20.0
    """Seconds without a byte before a connection is given up."""
    min_height: int = 224
    """Smallest number of lines that serves: the smallest format above it is taken."""
    max_bytes: int = 2_000_000_000
    """A larger file is refused as too_large."""
    max_seconds: float | None = None
    """A longer video is refused as too_long, where the source says how long it is; null: no limit."""
    min_speed: float = 1000.0
    """Bytes per second below which a transfer is given up, averaged over ``timeout`` seconds."""


@dataclass
class ExtractSettings:
    """Which features are computed, and how they are stored."""

    video_2d: str | None = "resnet152"
    """Frame backbone, by its name in the registry; null: none."""
    video_3d: str | None = "resnext101_3d"
    """Clip backbone, by its name in the registry; null: none."""
    audio: bool = True
    """Whether the log-mel spectrogram is stored."""
    audio_dtype: Literal["float16", "8bit"] = "float16"
    """What it is stored as; ``8bit`` takes half the bytes and is 0.18 dB off at most."""
    words: str = "word2vec-google-news-300"
    """Word vectors: a name of gensim's collection, a word2vec file, other shards' ``words.parquet``, or ``corpus``
    (trained on the manifest's captions). Or ``clip``: no vectors, but the pieces of words that its text tower takes."""
    word_dim: int = 300
    """Dimensions of the vectors when they are trained on the corpus."""
    normalize: bool = False
    """Whether features are L2-normalised before they are stored."""
    batch_size: int | None = None
    """Frames or clips that a backbone sees at once; null: 32 on a GPU, 1 on a CPU, which more does not make faster."""
    timeout: float = 3600.0
    """Seconds for one video; more is the failure ``timeout``."""
    shard_bytes: int = 1_000_000_000
    """A shard is sealed once it is this large."""

    def fingerprint(self) -> str:
        """Names what decides the stored values; two shards of one fingerprint can be mixed."""
        decisive = [self.video_2d, self.video_3d, self.audio, self.words, self.word_dim, self.normalize]
        if self.audio and self.audio_dtype != "float16":
            decisive.append(self.audio_dtype)  # so shards from before there was a choice keep theirs
        return hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:16]


@dataclass
class ClipSettings:
    """How training clips are drawn from a video and what they hold."""

    sampling: Literal["mft", "mcn", "avlnet", "caption"] = "mft"
    """``mft``: random windows of ``seconds``, which become the clip of a caption that they find. ``mcn``: windows that
    grow around captions. ``avlnet``: random windows, whatever is said. ``caption``: captions' own windows."""
    per_video: int = 10
    """Clips drawn from each video."""
    seconds: float = 8.0
    """Length of an ``mft`` or ``avlnet`` window, least length of an ``mcn`` one. A ``caption`` window is as long as it
    is."""
    misaligned_audio: bool = True
    """Whether the sound starts half a window late, so that speech does not give the text away."""
    max_words: int = 20
    """Words of a clip, or pieces of words for CLIP's text tower; what comes after is left out."""
    max_video_tokens: int = 12
    """0: one token, what ``video_pooling`` makes of the clip's 2D and of its 3D features (MCN, AVLnet)."""
    video_pooling: Literal["max", "mean"] = "max"
    max_audio_frames: int = 768
    video_tokens: Literal["clip", "nearest", "max_pool"] = "clip"
    """What happens to more video features than ``max_video_tokens``."""
    pieces: int = 1
    """A benchmark's clip is cut into up to this many pieces of ``max_video_tokens`` and ``max_audio_frames`` each,
    whose embeddings are averaged; 1: it is not cut, and ``video_tokens`` says what happens to a long one."""
    shuffle_shards: int = 64
    """Videos are shuffled within this many shards at a time, so that reads stay local."""
    last_batch: Literal["drop", "keep"] = "drop"
    """Videos that do not fill a last batch: left out of the epoch (others each time), or a smaller batch."""
    damaged: Literal["fatal", "skip"] = "fatal"
    """``skip``: a video that cannot be read is named in the log, and its clips are empty."""


@dataclass
class ModelSettings:
    """The network."""

    name: Literal["mft", "mcn", "avlnet", "avlnet_text_tri", "avlnet_text_fused"] = "mft"
    video_dim: int = 4096
    """Width of a video token: 2D and 3D features concatenated."""
    text_dim: int = 300
    """Width of a word vector, or of a feature of CLIP's text tower (512)."""
    embed_dim: int = 4096
    """Width of the transformer's tokens."""
    projection_dim: int = 6144
    """Width of the space in which similarities are taken."""
    depth: int = 1
    """Layers of the transformer."""
    heads: int = 64
    mlp_ratio: float = 1.0
    """Width of a layer's hidden units over ``embed_dim``."""
    token_projection: Literal["gated", "linear", "none"] = "gated"
    projection: Literal["gated", "linear", "none"] = "gated"
    davenet: Literal["small", "large"] = "large"
    """Audio network: four stages, a token per 16 frames, or six stages, a token per 64."""
    davenet_width: int = 128
    """Channels of the audio network's first stage; each further stage doubles them."""
    audio_pooling: Literal["none", "clip", "nearest", "max_pool", "avg_pool"] = "none"
    """What happens to more audio tokens than ``max_audio_tokens``."""
    max_audio_tokens: int | None = None
    max_video_tokens: int | None = None
    """Positions that ``positions`` knows; likewise ``max_text_tokens``."""
    max_text_tokens: int | None = None
    class_token: bool = False
    """Whether an embedding is a class token's output; pairs of modalities then need shared projections."""
    positions: bool = False
    """Whether tokens carry learned positions; ``per_modality`` has them too, but as published adds them to nothing."""
    individual_projections: bool = True
    """Whether each modality has a final projection of its own."""
    per_modality: bool = False
    """Whether each modality has a transformer of its own, which no pair goes through."""
    cross_modal: bool = True
    """Whether pairs of modalities are embedded while training; in evaluation they always are."""
    text_video_only: bool = False
    """Whether sound is left out."""
    reconstruction_dim: int | None = None
    """Hidden units of MCN's reconstruction heads; null: none."""
    cluster_classes: int | None = None
    """Outputs of MCN's optional cluster head, which is clustered instead of the embeddings; null: none."""
    cluster_projection_dim: int | None = None
    """Width of the optional projection before the cluster head; null: none."""
    cluster_hidden_dim: int | None = None
    """Hidden units of that projection; null: an eighth of ``embed_dim``."""
    cluster_cosine: bool = False
    """Whether the cluster head's scores are cosines: its rows count by their direction alone."""


@dataclass
class LossSettings:
    """What training minimises."""

    name: Literal["norm_softmax", "mms", "mil_nce", "mcn"] = "norm_softmax"
    """``mcn``: ``mms`` on raw dot products, summed over the pairs, with clusters and reconstruction; AVLnet's too."""
    temperature: float = 0.05
    """What similarities are divided by; ``mms`` takes them as they are."""
    margin: float = 0.001
    """How much a positive has to win by under ``mms``."""
    weights: dict[str, float] = field(
        default_factory=lambda: {"tv": 1.0, "ta": 0.1, "va": 0.1, "t_va": 0.1, "v_ta": 0.1, "a_tv": 0.1}
    )
    """Weight of each term of the combinatorial loss."""
    contrast: Literal["pairs", "text_to_sum"] = "pairs"
    """What ``mcn`` contrasts: all pairs, or, to fine-tune for retrieval, text with the sum of video and sound."""
    clusters: int = 256
    """Centroids of ``mcn``, or outputs of its cluster head under ``sinkhorn``; 0: no clustering."""
    clustering: Literal["kmeans", "sinkhorn"] = "kmeans"
    """How ``mcn`` finds clusters: online k-means, or Sinkhorn's equal partition over ``model.cluster_classes``."""
    cluster_targets: Literal["fused", "joint", "swapped"] = "fused"
    """What predicts whose cluster. ``fused``: each modality that of the fused embedding; ``joint``: the fused embedding
    its own; ``swapped``: each modality those of the others (``sinkhorn``)."""
    soft_labels: bool = False
    """Whether a target is ``sinkhorn``'s whole distribution over the clusters, else the most likely one."""
    cluster_temperature: float = 1.0
    """What the cluster head's scores are divided by under ``sinkhorn``."""
    queue_size: int = 20
    """Batches that ``mcn`` clusters at once, and steps between two runs of k-means; 0: each batch by itself."""
    cluster_weight: float = 1.0
    reconstruction_weight: float = 50.0


@dataclass
class TrainSettings:
    """The training loop."""

    batch_videos: int = 224
    """Videos in a global batch; each gives ``clips.per_video`` clips."""
    accumulate: int = 1
    """Parts into which each process's batch is cut to save memory; the loss is that of the whole batch all the same."""
    epochs: int = 15
    steps: int | None = None
    """Stop after this many steps, whatever the epoch; null: after ``epochs``."""
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    optimizer: Literal["adam", "adamw"] = "adam"
    schedule: Literal["constant", "exponential", "cosine"] = "exponential"
    decay: float = 0.9
    """Factor per epoch of the exponential schedule."""
    warmup_steps: int = 0
    clip_gradient: float | None = None
    """Largest norm of all gradients together; null: not clipped."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the network's matrix products; similarities and losses are float32 always, and norms are worked out in it."""
    compile: bool = False
    """Whether ``torch.compile`` makes one program of the network. What that is worth on a device, ``benchmarks/step.py
    --compile`` tells; on a CPU it is nothing."""
    tune: bool = True
    """Whether a run on a GPU begins with timing ways to compute the same (convolutions by transform, padding left out)
    on its first batch, to take the fastest; under ``compile`` each costs a compilation."""
    eval_mode: bool = False
    """Whether the network trains in eval mode: batch norm keeps its statistics (MFT's fine-tuning)."""
    batch_norm: Literal["per_rank", "synchronized"] = "per_rank"
    """Whether each process's part of the batch has its own statistics, as when published, or all share theirs."""
    workers: int = 4
    """Loader processes."""
    seed: int = 1
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep: int = 3
    """Checkpoints kept, beside the best."""
    evaluate_every: int | None = None
    """Steps between evaluations on ``evaluate.split``, which choose the best checkpoint; null: none."""
    log_every: int = 10


@dataclass
class EvaluateSettings:
    """Retrieval on held-out clips."""

    split: str = "test"
    batch_clips: int = 64
    max_words: int = 30
    windows: int = 1
    """Most of a clip that is looked at, in training windows (``clips.seconds``); what comes after is left out
    (under ``max_pool`` and ``nearest`` of the sound; all of the video is pooled or resampled)."""
    strategy: Literal["at_once", "cut", "max_pool", "nearest"] = "at_once"
    """What is done with a clip longer than a training window: all its tokens at once; cut into windows, whose
    embeddings are averaged; tokens max-pooled or resampled to as many as a window has."""
    step_radius: int = 1
    """For step localisation: of a video's second so many on both sides are seen too."""
    step_sound: int | None = None
    """For step localisation: seconds of sound around a second; null: as many as are seen."""


@dataclass
class Recipe:
    """Named settings: everything a run needs but its data."""

    name: str
    version: int
    description: str
    seeded: bool = False
    """Whether features come from seeded stand-ins for published weights; shown wherever a result is."""
    download: DownloadSettings = field(default_factory=DownloadSettings)
    extract: ExtractSettings = field(default_factory=ExtractSettings)
    clips: ClipSettings = field(default_factory=ClipSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and values, as written to ``config.yaml`` and into shards."""
        return dataclasses.asdict(self)
