"""Metrics by their names for people, and what they mean."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        label: its name for people.
        meaning: what it measures; may be empty.
        share: whether it lies in [0, 1], larger being better.
        lower: whether smaller is better.
    """

    label: str
    meaning: str = ""
    share: bool = False
    lower: bool = False


def _share(label: str, meaning: str) -> Metric:
    return Metric(label, meaning, share=True)


_METRICS = {
    "recall_at_far_1e-3": _share(
        "Recall at FAR 0.1 %",
        "share of same-class pairs accepted when 1 in 1,000 other pairs is",
    ),
    "recall_at_far_1e-1": _share(
        "Recall at FAR 10 %",
        "share of same-class pairs accepted when 1 in 10 other pairs is",
    ),
    "recall_at_1": _share(
        "Recall at 1", "share of examples whose nearest other is of their class"
    ),
    "roc_auc": _share(
        "ROC-AUC", "chance that a same-class pair is more similar than another pair"
    ),
    "one_shot_20_way": _share(
        "20-way one-shot",
        "share of queries told apart among 20 classes from one example of each",
    ),
    "zero_shot_accuracy": _share(
        "Zero-shot accuracy", "share of clips nearest to the name of their own class"
    ),
    "probe_accuracy": _share(
        "Probe accuracy",
        "share of actions that a linear classifier tells from frozen features",
    ),
    "paste_accuracy": _share(
        "Pasted stretches found",
        "share of time steps told to be of the pasted clip or of its host",
    ),
    "grounding_precision": _share(
        "Nouns found", "share of the patches of a noun's group that lie in its box"
    ),
    "grounding_chance": _share(
        "Nouns found by chance", "share of all patches that lie in a noun's box"
    ),
    "track_precision": _share(
        "Tracking precision",
        "share of things found again within a sixteenth of the frame",
    ),
    "track_success": _share(
        "Tracking success", "mean share of things found again, over all overlaps asked"
    ),
    "region_matching": _share(
        "Regions matched", "share of things told from the others later in the clip"
    ),
    "region_matching_chance": _share(
        "Regions matched by chance", "the same, for a guess among the things in sight"
    ),
    "cider": Metric(
        "CIDEr",
        "likeness of written captions to people's: shared rare phrases, 0 to 10",
    ),
    "caption_log_likelihood": Metric(
        "Caption log-likelihood", "per piece of a person's caption; 0 is certainty"
    ),
    "short_answer_accuracy": _share(
        "Short answers", "share of questions answered right among five answers"
    ),
    "before_after_accuracy": _share(
        "Before and after",
        "share of questions about order answered right among five answers",
    ),
}
_RECALL = re.compile(r"([a-z]+)_to_([a-z]+)_recall_at_(\d+)")
_RANK = re.compile(r"([a-z]+)_to_([a-z]+)_median_rank")


def metric(name: str) -> Metric:
    """How a metric of this name is shown; an unknown one is its name with spaces.

    Example:
        >>> metric("text_to_video_recall_at_5").label
        'Text to video: recall at 5'
        >>> metric("average_precision").label
        'average precision'
    """
    if name in _METRICS:
        return _METRICS[name]
    if found := _RECALL.fullmatch(name):
        asked, sought, k = found.groups()
        own = f"{'other' if asked == sought else 'own'} {sought}"
        nearest = "the nearest" if k == "1" else f"among the {k} nearest"
        meaning = f"share of {asked}s whose {own} is {nearest}"
        return _share(f"{_pair(asked, sought)}: recall at {k}", meaning)
    if found := _RANK.fullmatch(name):
        label = f"{_pair(*found.groups())}: median rank"
        return Metric(label, "place of the right one; 1 is the best", lower=True)
    return Metric(name.replace("_", " "))


def _pair(asked: str, sought: str) -> str:
    return f"{asked.capitalize()} to {sought}"
