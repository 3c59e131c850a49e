"""`fedemb caption`: what the captioner of a run writes about clips."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("caption")(caption)


def caption(
    run: Annotated[Path, typer.Argument(help="Folder of a complete run.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Videos, GIFs, folders of frames, or .npz files with an array `clip`."
        ),
    ],
    samples: Annotated[
        int | None,
        typer.Option(
            help="Draw so many captions of each, instead of the best one by beam "
            "search."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the drawing.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Write a JSON line per clip, with the weights' hash."),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.")
    ] = False,
) -> None:
    """Captions of clips, by a run of video_language_distillation.

    Example: fedemb caption runs/mine clip.mp4 --samples 3 --out captions.jsonl
    """
    from fedemb.cli.console import print_json
    from model_zoo.vld.pseudo import refuse_existing, save_captions
    from simulations.trained import TrainedRun

    if out is not None:
        refuse_existing(out)
    rows = TrainedRun.open(run).caption_files(files, samples, seed)
    if out is not None:
        save_captions(out, rows)
        print(f"captions of {len(rows)} clips in {out}")
    elif json_:
        print_json({"run": str(run), "captions": [asdict(row) for row in rows]})
    else:
        for row in rows:
            for text in row.captions:
                print(f"{row.video_id}: {text}")
