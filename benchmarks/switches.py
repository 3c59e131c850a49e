"""What `benchmarks.ablations` switches off, and what the papers say of it.

`says` is left empty where the paper's text or tables could not be read, or where it
measures nothing of the kind.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One mechanism of a system.

    Attributes:
        system: of the zoo, in its default configuration.
        change: what `--set model.changes.` gets, NAME=VALUE.
        off: what is then missing or different.
        metrics: where it should show, of those that a run reports.
        says: the paper, with author, year and table.
    """

    system: str
    change: str
    off: str
    metrics: tuple[str, ...]
    says: str = ""


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
    "cv_mim": ("--rounds", "40", "--users-per-round", "256"),
    "const_cl": ("--rounds", "30", "--users-per-round", "100"),
    "g_vilm": ("--rounds", "30", "--users-per-round", "120"),
    "univrd": ("--rounds", "60", "--users-per-round", "160"),
    "videoprism": (
        *("--rounds", "30", "--users-per-round", "80"),
        *("--set", "model.changes.shares=[0.4,0.4,0.2]"),
    ),
    "video_language_distillation": ("--rounds", "30", "--users-per-round", "80"),
    "deeplab2": ("--rounds", "40", "--users-per-round", "80"),
    "imagen3": ("--rounds", "30", "--users-per-round", "128"),
}
"""How each is: with fewer rounds and users than its recipe has."""

_CAMERAS = (
    "single_shot_accuracy",
    "cross_view_recall_at_far_1e-1",
    "azimuth_from_pose",
)
_TEXTS = ("text_to_video_recall_at_10",)
_POSES = "Zhao et al. 2021, abstract"
_VIDEOS = "Xiong et al. 2023, Table 6: MSR-VTT, R@1"
_RELATIONS = "Zhao et al. 2023, ablations: HICO-DET, mAP"
_PRISM = "Zhao et al. 2024, Table 26: K400, SSv2"
_ADAPTED = "Zhao et al. 2024, abstract"


def _poses(change: str, off: str, says: str = "") -> Switch:
    return Switch(system="cv_mim", change=change, off=off, metrics=_CAMERAS, says=says)


def _relations(change: str, off: str, says: str = "") -> Switch:
    metrics = ("mean_recall_at_100", "relation_map", "detection_map")
    return Switch(system="univrd", change=change, off=off, metrics=metrics, says=says)


SWITCHES = (
    _poses(
        "sizes.view_weight=0",
        "cross-view term",
        f"it is what makes pose codes independent of the view ({_POSES}); no number",
    ),
    _poses(
        "sizes.disentangle_weight=0",
        "both bounds on what codes share",
        f"it disentangles pose from view ({_POSES}); no number",
    ),
    _poses("sizes.prior_weight=0", "prior", f"it smooths ({_POSES}); no number"),
    _poses("sizes.representation_weight=0", "representation term"),
    _poses('sizes.algorithm="align"', "split into two codes"),
    _poses('sizes.algorithm="infomax"', "InfoMax instead"),
    _poses('sizes.algorithm="autoencoder"', "reconstruction instead"),
    _poses('sizes.fusion="poe"', "fusion by product"),
    _poses('sizes.fusion="cat"', "fusion side by side"),
    Switch(
        system="const_cl",
        change="local_weight=0",
        off="local loss",
        metrics=("view_to_view_recall_at_10", "region_matching", "track_precision"),
    ),
    Switch(
        system="const_cl",
        change="head.guided=false",
        off="decoder: regions are compared as they are",
        metrics=("view_to_view_recall_at_10", "region_matching", "track_precision"),
        says="regions whose looks change should not look alike in both views (Yuan et "
        "al. 2022, abstract); no number",
    ),
    Switch(
        system="g_vilm",
        change="task.weights=[0,0,1]",
        off="grouping and grounding",
        metrics=(*_TEXTS, "grounding_precision"),
        says=f"24.7 to 22.7 ({_VIDEOS})",
    ),
    Switch(
        system="g_vilm",
        change="task.weights=[0,1,1]",
        off="temporal grouping",
        metrics=_TEXTS,
        says=f"24.7 to 23.3 ({_VIDEOS})",
    ),
    Switch(
        system="g_vilm",
        change="task.weights=[1,0,1]",
        off="grounding",
        metrics=(*_TEXTS, "grounding_precision"),
        says=f"24.7 to 24.2 ({_VIDEOS})",
    ),
    Switch(
        system="g_vilm",
        change='task.paste_source="none"',
        off="cut and paste",
        metrics=_TEXTS,
    ),
    _relations("decoupled=false", "cascade", f"29.93 to 24.88 ({_RELATIONS})"),
    _relations(
        "name_prompts=false", "prompts of names", f"29.93 to 28.08 ({_RELATIONS})"
    ),
    _relations(
        "phrase_prompts=false",
        "prompts of phrases",
        f"no difference, 0.00 and +0.01 for other prompts ({_RELATIONS})",
    ),
    _relations('classifiers="ids"', "texts as classifiers"),
    _relations("focal.gamma=0", "focal weights"),
    _relations("suppression=1", "pair-wise NMS", f"29.93 to 27.92 ({_RELATIONS})"),
    _relations("augmentation.mosaics=[1]", "mosaics", f"29.93 to 28.17 ({_RELATIONS})"),
    Switch(
        system="videoprism",
        change='order=["contrastive","alignment"]',
        off="second stage",
        metrics=(*_TEXTS, "probe_accuracy"),
        says="frozen features gain from the first to the last step of Figure 4: K400 "
        "81.7 to 84.2, SSv2 50.0 to 63.6 (Zhao et al. 2024)",
    ),
    Switch(
        system="videoprism",
        change="distillation.shuffled=false",
        off="shuffled tokens",
        metrics=(*_TEXTS, "probe_accuracy"),
        says=f"84.2 to 83.6, 63.6 to 61.8 ({_PRISM})",
    ),
    Switch(
        system="videoprism",
        change="distillation.weights=[1,0]",
        off="global distillation",
        metrics=(*_TEXTS, "probe_accuracy"),
        says=f"84.2 to 83.4, 63.6 to 64.2 ({_PRISM})",
    ),
    Switch(
        system="video_language_distillation",
        change='order=["dual encoder"]',
        off="adaptation of the captioner",
        metrics=_TEXTS,
        says="taught by an adapted model 3.8 better than the strongest baseline that "
        f"has an image-language model, too ({_ADAPTED})",
    ),
    Switch(
        system="video_language_distillation",
        change='order=["language","dual encoder"]',
        off="visual adaptation",
        metrics=_TEXTS,
    ),
    Switch(
        system="video_language_distillation",
        change='captions="original"',
        off="captions that a model writes: people's instead",
        metrics=_TEXTS,
    ),
    Switch(
        system="deeplab2",
        change="losses.center=0",
        off="loss of centres",
        metrics=("pq", "miou"),
    ),
    Switch(
        system="deeplab2",
        change="losses.semantic=0",
        off="loss of classes",
        metrics=("pq", "miou"),
    ),
    Switch(
        system="imagen3",
        change='text_by=["pooled"]',
        off="words one by one: the pooled text alone",
        metrics=("explained",),
    ),
    Switch(
        system="imagen3",
        change="drop=0",
        off="rows that train without text",
        metrics=("explained",),
    ),
)
