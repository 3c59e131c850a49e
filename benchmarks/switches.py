"""What `benchmarks.ablations` switches off, and what the papers say of it.

`says` is left empty where the paper's text or tables could not be read, or where it
measures nothing of the kind.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal

Move = Literal["falls", "rises", "stays", ""]
"""What the paper says that a metric does without a mechanism; "" if it says nothing."""


@dataclass(frozen=True)
class Switch:
    """One mechanism of a system.

    Attributes:
        system: of the zoo, NAME or NAME:CONFIGURATION.
        metrics: where it should show, of those that a run reports.
        change: what `--set model.changes.` gets, NAME=VALUE.
        off: what is then missing or different.
        says: the paper, with author, year and table.
        moves: what that says of each of the metrics; of none if empty.
        options: of the command line, of the runs with the mechanism and without it.
    """

    system: str
    metrics: tuple[str, ...]
    change: str
    off: str
    says: str = ""
    moves: tuple[Move, ...] = ()
    options: tuple[str, ...] = ()

    def move(self, metric: str) -> Move:
        """What the paper says of a metric."""
        told: dict[str, Move] = dict(zip(self.metrics, self.moves, strict=False))
        return told.get(metric, "")

    @property
    def together(self) -> str:
        """What runs with and without it have besides the options of the system."""
        words = " ".join(word for word in self.options if word != "--set")
        return f"; both with `{words}`" if words else ""


SHARED = (
    "--users",
    "20000",
    "--noise-multiplier",
    "0",
    "--set",
    "run.evaluate_every=0",
)
"""How all of them are trained here."""

OPTIONS = {
    "cv_mim": ("--rounds", "160", "--users-per-round", "64"),
    "const_cl": ("--rounds", "100", "--users-per-round", "10"),
    "const_cl:tiny-carried": (
        *("--dataset", "clips-lit"),
        *("--rounds", "100", "--users-per-round", "8"),
    ),
    "g_vilm": ("--rounds", "120", "--users-per-round", "16"),
    "univrd": ("--rounds", "160", "--users-per-round", "30"),
    "videoprism": (
        *("--rounds", "100", "--users-per-round", "16"),
        *("--set", "model.changes.shares=[0.4,0.4,0.2]"),
    ),
    "video_language_distillation": ("--rounds", "30", "--users-per-round", "80"),
    "deeplab2": ("--rounds", "300", "--users-per-round", "16"),
    "imagen3": ("--rounds", "150", "--users-per-round", "24"),
}
"""How each is: mostly with more rounds of fewer users than its recipe has.

Many users make up for noise, of which there is none here: their time is better spent on
rounds.
"""

_TEXTS = ("text_to_video_recall_at_10",)
_POSES = "Zhao et al. 2021, abstract"
_REGIONS = (
    "next to global contrast alone, AVA 24.1 and 18.4, OTB2015 precision 78.1 and 75.4 "
    "(Yuan et al. 2022, tables of the public code)"
)
_GUIDED = (
    "regions whose looks change should not look alike in both views (Yuan et al. 2022, "
    "abstract); no number"
)
_VIDEOS = "Xiong et al. 2023, Table 6: MSR-VTT, R@1"
_RELATIONS = "Zhao et al. 2023, ablations: HICO-DET, mAP"
_PRISM = "Zhao et al. 2024, Table 26: K400, SSv2"
_ADAPTED = "Zhao et al. 2024, abstract"


_CODES = (
    *("single_shot_accuracy", "cross_view_recall_at_far_1e-1"),
    "azimuth_from_pose",
)
_poses = partial(Switch, "cv_mim", (*_CODES, "view_from_pose"))
_regions = partial(
    Switch,
    "const_cl",
    ("view_to_view_recall_at_10", "region_matching", "track_precision"),
)
_carried = partial(
    Switch,
    "const_cl:tiny-carried",
    (
        *("view_to_view_recall_at_10", "view_matching", "region_matching"),
        "track_precision",
    ),
)
_texts = partial(Switch, "g_vilm", _TEXTS)
_grounded = partial(Switch, "g_vilm", (*_TEXTS, "grounding_precision"))
_relations = partial(
    Switch, "univrd", ("mean_recall_at_100", "relation_map", "detection_map")
)
_prism = partial(Switch, "videoprism", (*_TEXTS, "probe_accuracy"))
_captions = partial(Switch, "video_language_distillation", _TEXTS)
_maps = partial(Switch, "deeplab2", ("pq", "miou", "instance_ap_50"))
_pictures = partial(Switch, "imagen3", ("explained", "condition_gain"))
_CRITICS = (
    *("--set", "local.steps=9", "--set", "local.head_steps=8"),
    *("--set", "local.head_lr_scale=0.0003"),
    *("--set", "model.changes.sizes.critics_rate=1000"),
)
_DECODERS = ("--set", "local.steps=4", "--set", "local.head_steps=3")
_WORSE: tuple[Move, ...] = ("falls", "falls", "")
_FALLS: tuple[Move, ...] = ("falls", "falls", "falls")
_SAME: tuple[Move, ...] = ("stays", "stays", "")

SWITCHES = (
    _poses(
        "sizes.view_weight=0",
        "cross-view term",
        f"it is what makes pose codes independent of the view ({_POSES}); no number",
        ("falls", "falls", "rises", ""),
    ),
    _poses(
        "sizes.disentangle_weight=0",
        "both bounds on what codes share",
        f"it disentangles pose from view ({_POSES}); no number",
        ("", "", "rises", "rises"),
    ),
    _poses(
        "sizes.disentangle_weight=0",
        "both bounds, by estimators that learn",
        f"the same ({_POSES})",
        ("", "", "rises", "rises"),
        _CRITICS,
    ),
    _poses("sizes.prior_weight=0", "prior", f"it smooths ({_POSES}); no number"),
    _poses("sizes.representation_weight=0", "representation term"),
    Switch("cv_mim", _CODES, 'sizes.algorithm="align"', "split into two codes"),
    _poses('sizes.algorithm="infomax"', "InfoMax instead"),
    _poses('sizes.algorithm="autoencoder"', "reconstruction instead"),
    _poses('sizes.fusion="poe"', "fusion by product"),
    _poses('sizes.fusion="cat"', "fusion side by side"),
    _regions("global_weight=0", "global loss"),
    _regions("local_weight=0", "local loss", _REGIONS, ("", "falls", "falls")),
    _regions(
        "head.guided=false",
        "decoder: regions are compared as they are",
        _GUIDED,
        ("", "falls", "falls"),
    ),
    _carried("global_weight=0", "global loss"),
    _carried("local_weight=0", "local loss", _REGIONS, ("", *_FALLS)),
    _carried("head.guided=false", "decoder", _GUIDED, ("", *_FALLS)),
    _grounded(
        "task.weights=[0,0,1]",
        "grouping and grounding",
        f"24.7 to 22.7 ({_VIDEOS})",
        ("falls", ""),
    ),
    _texts(
        "task.weights=[0,1,1]",
        "temporal grouping",
        f"24.7 to 23.3 ({_VIDEOS})",
        ("falls",),
    ),
    _grounded(
        "task.weights=[1,0,1]", "grounding", f"24.7 to 24.2 ({_VIDEOS})", ("falls", "")
    ),
    _texts('task.paste_source="none"', "cut and paste"),
    _relations("decoupled=false", "cascade", f"29.93 to 24.88 ({_RELATIONS})", _WORSE),
    _relations(
        "name_prompts=false",
        "prompts of names",
        f"29.93 to 28.08 ({_RELATIONS})",
        _WORSE,
    ),
    _relations(
        "phrase_prompts=false",
        "prompts of phrases",
        f"no difference, 0.00 and +0.01 for other prompts ({_RELATIONS})",
        _SAME,
    ),
    _relations('classifiers="ids"', "texts as classifiers"),
    _relations("focal.gamma=0", "focal weights"),
    _relations(
        "suppression=1", "pair-wise NMS", f"29.93 to 27.92 ({_RELATIONS})", _WORSE
    ),
    _relations(
        "augmentation.mosaics=[1]",
        "mosaics",
        f"29.93 to 28.17 ({_RELATIONS})",
        _WORSE,
    ),
    _prism(
        'order=["contrastive","alignment"]',
        "second stage",
        "frozen features gain from the first to the last step of Figure 4: K400 "
        "81.7 to 84.2, SSv2 50.0 to 63.6 (Zhao et al. 2024)",
        ("", "falls"),
    ),
    _prism(
        'order=["contrastive","alignment"]',
        "second stage, by decoders that learn",
        "the same (Zhao et al. 2024)",
        ("", "falls"),
        _DECODERS,
    ),
    _prism("taught=false", "decoders learned from public clips: random ones"),
    _prism(
        "distillation.shuffled=false",
        "shuffled tokens",
        f"84.2 to 83.6, 63.6 to 61.8 ({_PRISM})",
        ("", "falls"),
    ),
    _prism(
        "distillation.weights=[1,0]",
        "global distillation",
        f"84.2 to 83.4, 63.6 to 64.2 ({_PRISM})",
    ),
    _captions(
        'order=["dual encoder"]',
        "adaptation of the captioner",
        "taught by an adapted model 3.8 better than the strongest baseline that "
        f"has an image-language model, too ({_ADAPTED})",
        ("falls",),
    ),
    _captions('order=["language","dual encoder"]', "visual adaptation"),
    _captions('captions="original"', "captions that a model writes: people's instead"),
    _maps("losses.center=0", "loss of centres"),
    _maps("losses={center=0,offset=0}", "losses of centres and of offsets"),
    _maps("losses.semantic=0", "loss of classes"),
    _pictures('text_by=["pooled"]', "words one by one: the pooled text alone"),
    _pictures('text_by=["tokens"]', "pooled text: words one by one alone"),
    _pictures("text_by=[]", "text"),
    _pictures("drop=0", "rows that train without text"),
)
