"""Card of VideoPrism; importing it imports no torch."""

from collections.abc import Mapping
from typing import Any

from model_zoo.system import COPIES, Configuration, DataFacts, System
from model_zoo.videoprism.stages import STAGES, EncoderStages, VideoPrismStages


def _published(size: str) -> dict[str, Any]:
    """Sizes of the released encoders, and of the one that was not."""
    frames, width, spatial, heads, mlp = {
        "base": (16, 768, 12, 12, 3072),
        "large": (8, 1024, 24, 16, 4096),
        "giant": (8, 1408, 40, 16, 6144),
    }[size]
    return {
        **{"patch": 18, "places": (frames, 16, 16), "width": width},
        **{"spatial": spatial, "temporal": 4, "heads": heads, "mlp": mlp},
    }


_TEXT = {
    **{"causal": True, "pool": "class", "positions": "sinusoidal", "scaled": True},
    **{"activation": "relu", "norm_eps": 1e-6, "logit_cap": 50.0},
}


def _paper(size: str, **more: Any) -> VideoPrismStages:
    video = _published(size)
    giant = size == "giant"
    text = {
        **{"vocab_size": 32_000, "length": 64, "heads": video["heads"]},
        **{"layers": 16 if giant else 12, "post_norm": giant},
    }
    width = video.pop("width")
    return VideoPrismStages(
        video=video,
        width=width,
        text=_TEXT | text,
        decoders={"width": 512, "layers": 4, "heads": 8, "mlp": 2048},
        **more,
    )


_TINY = VideoPrismStages(
    video={
        **{"patch": 8, "places": (4, 4, 4), "spatial": 2, "temporal": 1},
        **{"heads": 4, "mlp": 64},
    },
    width=32,
    text={
        **{"vocab_size": 256, "length": 12, "layers": 1, "heads": 4, "mlp": 64},
        **{"pool": "mean", "activation": "relu", "norm_eps": 1e-6, "logit_cap": 50.0},
    },
    contrast={"temperature": 0.2, "dropped": 0.25},
    # What can be switched off is named, so that `model.changes.distillation` finds it.
    distillation={"masked": 0.65, "weights": (1.0, 1.0), "shuffled": True},
    decoders={"width": 16, "layers": 1, "heads": 2, "mlp": 32},
    shares=(0.6, 0.1, 0.3),
    order=STAGES,
    rates=(1.0, 0.1, 0.3),  # at full rate distillation undoes what contrast learned
    towers={"auxiliary": 0, "pooler": 0},
    projected=True,
    trained="names:video.time,video.temporal*,pooler.*,text.*",
    public=True,
    taught=True,
)
_SMALL_VIDEO: dict[str, Any] = {
    **{"patch": 8, "places": (8, 4, 4), "spatial": 4, "temporal": 2},
    **{"heads": 4, "mlp": 256},
}
_SMALL = VideoPrismStages(
    video=_SMALL_VIDEO,
    width=64,
    text=_TEXT | {"vocab_size": 256, "length": 16, "layers": 2, "heads": 4},
    decoders={"width": 32, "layers": 2, "heads": 4, "mlp": 64},
)
_CLIP = DataFacts(example_shape=(8, 32, 32, 3), num_classes=10)


def _films(size: str) -> DataFacts:
    frames = _published(size)["places"][0]
    return DataFacts(example_shape=(frames, 288, 288, 3), num_classes=400)


def _encoder(size: str) -> Configuration:
    return Configuration(
        note=f"the {size} encoder alone, trained by telling classes apart",
        build=EncoderStages(video=_published(size)),
        data=_films(size),
        metric="recall_at_1",
    )


def _classifier(size: str, video: Mapping[str, Any], data: DataFacts) -> Configuration:
    return Configuration(
        note=f"the {size} encoder, an attention pooler and a linear layer, which stays "
        "on the virtual client",
        build=EncoderStages(video=video, pooled=True),
        data=data,
        metric="recall_at_1",
    )


def _video_text(size: str) -> Configuration:
    return Configuration(
        note=f"the {size} video-text model: the contrastive stage alone",
        build=_paper(size, order=STAGES[:1]),
        data=_films(size),
    )


_PUBLIC = (
    "an image transformer that comes with the zoo, trained on generated still pictures "
    "and texts by users that no population has; a stand-in for CoCa",
)

VIDEOPRISM = System(
    name="videoprism",
    unused=COPIES,
    paper="Zhao, Gundavarapu, Yuan, Zhou, Yan, Sun, Friedman, Qian, Weyand, Zhao, "
    "Hornung, Schroff, Yang, Ross, Wang, Adam, Sirotenko, Liu and Gong (2024), "
    "VideoPrism: A Foundational Visual Encoder for Video Understanding, "
    "arXiv:2402.13217",
    user="the uploader of captioned clips",
    stages=(
        "contrastive: clips with half of their tubes dropped find their captions among "
        "the virtual client's own; the temperature stays there",
        "distillation: from 35 % of a clip's tokens a student tells all tokens and the "
        "vector that the frozen first stage sees in the whole clip; both decoders stay "
        "on the virtual client",
        "alignment (tiny, and configurations with -aligned): text tower and pooler are "
        "tuned to the frozen student",
    ),
    default_dataset="clips-plain",
    default_configuration="tiny",
    metric="text_to_video_recall_at_10",
    beside=("zero_shot_accuracy", "probe_accuracy"),
    configurations={
        "tiny": Configuration(
            note="both stages and alignment; 4 frames of 16 tokens, width 32; the "
            "spatial half starts from public eyes for still pictures, a stand-in for "
            "CoCa, and is trained in the second stage alone; its decoders have seen "
            "public clips",
            build=_TINY,
            data=_CLIP,
            public=_PUBLIC,
        ),
        "small": Configuration(
            note="both stages; 8 frames of 16 tokens, width 64; 314,048 in the encoder",
            build=_SMALL,
            data=_CLIP,
        ),
        "small-encoder": Configuration(
            note="the small encoder alone, trained by telling classes apart",
            build=EncoderStages(video=_SMALL_VIDEO | {"width": 64}),
            data=_CLIP,
            metric="recall_at_1",
        ),
        "paper": Configuration(
            note="both stages at base size; counts the frozen teacher, too",
            build=_paper("base"),
            data=_films("base"),
        ),
        "paper-aligned": Configuration(
            note="the same, then a text tower tuned to the frozen student",
            build=_paper("base", order=STAGES),
            data=_films("base"),
        ),
        "small-classifier": _classifier("small", _SMALL_VIDEO | {"width": 64}, _CLIP),
        "base": _encoder("base"),
        "large": _encoder("large"),
        "giant": _encoder("giant"),
        **{
            f"{size}-classifier": _classifier(size, _published(size), _films(size))
            for size in ("base", "large", "giant")
        },
        "base-text": _video_text("base"),
        "large-text": _video_text("large"),
        "giant-text": _video_text("giant"),
    },
)
