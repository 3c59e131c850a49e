"""DigiFace-1M: rendered faces (Bae et al. 2023, arXiv:2210.02579).

`<subject>/<k>.png` below the folder; a subject is a user and a class, and a fifth of
the subjects is held out.
"""

from fedemb.data import Provenance, Source, UserDataset
from simulations.datasets import official
from simulations.datasets.grouping import held_out_classes
from simulations.datasets.images import SUFFIXES
from simulations.datasets.listing import Listing, printable
from simulations.datasets.registry import LoadOptions


def load(options: LoadOptions) -> UserDataset:
    """The faces below the data root.

    Raises:
        NotAvailable: no folder `digiface` with folders of images.
    """
    return official.open_files(listing(options), options)


def listing(options: LoadOptions) -> Listing:
    """Every image of every subject; symbolic links are not followed."""
    root = options.root / "digiface"
    subject_folders = (path for path in root.glob("*") if not path.is_symlink())
    files = sorted(
        path
        for folder in subject_folders
        for path in folder.glob("*")
        if path.suffix.lower() in SUFFIXES and not path.is_symlink()
    )
    if not files:
        raise official.not_found(options)
    subjects = [printable(path.parent.name) for path in files]
    held_out = held_out_classes(subjects, options.seed)
    provenance = Provenance(
        name=options.name,
        source=Source.REAL,
        licence="non-commercial research; see the DigiFace-1M terms",
        description="DigiFace-1M; subject = user = class",
        notices=(
            f"a fifth of the {len(set(subjects)):,} subjects, chosen with seed "
            f"{options.seed}, is held out for evaluation.",
        ),
    )
    return Listing(
        images=files,
        users=subjects,
        labels=subjects,
        held_out=held_out,
        provenance=provenance,
        skip_bad=options.skip_bad,
        channels=3,
    )
