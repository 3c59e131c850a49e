"""Options that several commands have: which data, which system, which settings."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

Text = str | None
Number = float | None
Whole = int | None

Dataset = Annotated[
    Text,
    typer.Option(
        help="Data set, or folder:PATH, npz:PATH, parquet:PATH. Default: the model's "
        "own, or openclipart."
    ),
]
_SYSTEM = typer.Option(
    help="System of the zoo: NAME, NAME:CONFIGURATION, or FILE.py:NAME."
)
Model = Annotated[Text, _SYSTEM]
RequiredModel = Annotated[str, _SYSTEM]
Pretrained = Annotated[
    Text,
    typer.Option(
        help="Public initial weights: a backbone.safetensors or a run folder."
    ),
]
Trainable = Annotated[
    Text,
    typer.Option(
        help="Backbone parameters to train: all, norm, last, names:PATTERN,..."
    ),
]
Recipe = Annotated[
    Text, typer.Option(help="Recipe on top of the defaults: a name or a TOML file.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="section.key=value; may be repeated."),
]
Users = Annotated[Whole, typer.Option(help="Users of a synthetic population.")]
Root = Annotated[
    Text,
    typer.Option(help="Where official and prepared data files lie. Default: data."),
]
Amplify = Annotated[
    Whole,
    typer.Option(help="Make this many users from a real data set by per-user styles."),
]
ImageSize = Annotated[Whole, typer.Option(help="Side of the images in pixels.")]
Frames = Annotated[Whole, typer.Option(help="Frames of each clip.")]
UserColumn = Annotated[Text, typer.Option(help="Column of users in a table.")]
LabelColumn = Annotated[Text, typer.Option(help="Column of labels in a table.")]
ImageColumn = Annotated[Text, typer.Option(help="Column of images in a table.")]
SkipBad = Annotated[
    bool,
    typer.Option("--skip-bad", help="Leave out unreadable rows and say how many."),
]
RequireReal = Annotated[
    bool, typer.Option("--require-real", help="Refuse stand-in data.")
]
ReportAsJson = Annotated[
    bool, typer.Option("--json", help="Print report.json on standard output.")
]

DATA = (
    *("users", "root", "amplify", "image_size", "frames", "user_column"),
    *("label_column", "image_column", "skip_bad", "require_real"),
)
"""Options that are keys of the section `data`."""


def chosen(given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sections of a configuration with what was really chosen.

    Options that were left out are None or, of switches, false.

    Example:
        >>> chosen({"data": {"users": 7, "frames": None, "skip_bad": False}})
        {'data': {'users': 7}}
    """
    return {
        section: {
            key: value
            for key, value in values.items()
            if value is not None and value is not False
        }
        for section, values in given.items()
    }
