"""Kinetics-400, Moments in Time, Something-Something v2, Diving48 and Charades.

None of the first four says who uploaded a video: the video itself is the user then,
which protects one video, not all of a person's. A file `users.csv` (`video,user`)
beside the annotations names uploaders where they are known.
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from fedemb.errors import UserError
from simulations.datasets.tables import read_csv
from simulations.datasets.videoglue.segments import Segment, number, read_json


def read_users(folder: Path) -> dict[str, str]:
    """Uploaders by video, from `users.csv` if there is one."""
    path = folder / "users.csv"
    if not path.exists():
        return {}
    table = read_csv(path, ("video", "user"))
    return dict(zip(table["video"], table["user"], strict=True))


def kinetics(path: Path, users: Mapping[str, str] | None = None) -> list[Segment]:
    """Kinetics: `label,youtube_id,time_start,time_end,split`.

    Files are named `<youtube_id>_<start>_<end>`, both numbers with six digits, as the
    official downloader does; each holds the stretch alone.

    Raises:
        UserError: columns are missing, or times are no numbers.
    """
    columns = ("label", "youtube_id", "time_start", "time_end")
    table = read_csv(path, columns)
    found = []
    for row, (label, video, start, end) in enumerate(
        zip(*(table[name] for name in columns), strict=True), start=2
    ):
        first, last = (int(number(path, row, text)) for text in (start, end))
        found.append(
            Segment(
                video=f"{video}_{first:06d}_{last:06d}",
                user=(users or {}).get(video, video),
                labels=(label,) if label else (),
            )
        )
    return found


def moments(path: Path, users: Mapping[str, str] | None = None) -> list[Segment]:
    """Moments in Time: rows `class/file.mp4,class,...` without a header.

    Raises:
        UserError: a row without file and class.
    """
    found = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as CSV: {error}.") from error
    for count, row in enumerate(rows, start=1):
        if len(row) < 2 or not row[1].strip():
            raise UserError(f"{path}: row {count} needs a file and a class.")
        video = str(Path(row[0].strip()).with_suffix(""))
        user = (users or {}).get(video, video)
        found.append(Segment(video=video, user=user, labels=(row[1].strip(),)))
    return found


def something(path: Path, users: Mapping[str, str] | None = None) -> list[Segment]:
    """Something-Something v2: a list of `id`, `label`, `template`, `placeholders`.

    The class is the template without its brackets, as `labels.json` spells it.

    Raises:
        UserError: an entry without `id`.
    """
    found = []
    for entry in _entries(path):
        video = str(_need(path, entry, "id"))
        template = str(entry.get("template", ""))
        label = template.replace("[", "").replace("]", "")
        user = (users or {}).get(video, video)
        found.append(Segment(video=video, user=user, labels=(label,) if label else ()))
    return found


def diving(path: Path, users: Mapping[str, str] | None = None) -> list[Segment]:
    """Diving48 (V2): a list of `vid_name`, `label`, `start_frame`, `end_frame`.

    Raises:
        UserError: an entry without name or label.
    """
    found = []
    for entry in _entries(path):
        video = str(_need(path, entry, "vid_name"))
        label = str(_need(path, entry, "label"))
        user = (users or {}).get(video, video)
        found.append(Segment(video=video, user=user, labels=(label,)))
    return found


def charades(path: Path) -> list[Segment]:
    """Charades: `id,subject,...,actions,length`; the subject is the user.

    `actions` is `c092 11.90 21.20;c147 0.00 12.60`: classes with their stretches. One
    segment per video carries all its classes, as the multi-label task asks for.

    Raises:
        UserError: columns are missing, or an action is malformed.
    """
    table = read_csv(path, ("id", "subject", "actions"))
    found = []
    for row, (video, subject, actions) in enumerate(
        zip(table["id"], table["subject"], table["actions"], strict=True), start=2
    ):
        labels = []
        for action in filter(None, actions.split(";")):
            parts = action.split()
            if len(parts) != 3:
                raise UserError(
                    f"{path}: row {row}: {action!r} must be class, start and end."
                )
            number(path, row, parts[1])
            number(path, row, parts[2])
            labels.append(parts[0])
        names = tuple(dict.fromkeys(labels))
        found.append(Segment(video=video, user=subject, labels=names))
    return found


def _entries(path: Path) -> list[dict[str, object]]:
    content = read_json(path)
    if not isinstance(content, list) or not all(isinstance(e, dict) for e in content):
        raise UserError(f"{path} must be a list of objects.")
    return content


def _need(path: Path, entry: Mapping[str, object], key: str) -> object:
    if key not in entry:
        raise UserError(f"{path}: an entry has no {key!r}: {str(dict(entry))[:80]}.")
    return entry[key]
