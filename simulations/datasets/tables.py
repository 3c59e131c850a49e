"""CSV tables of user-partitioned images, read with the errors a person can act on."""

import csv
from collections.abc import Sequence
from pathlib import Path

from fedemb.errors import UserError


def read_csv(path: Path, columns: Sequence[str]) -> dict[str, list[str]]:
    """Some columns of a CSV file with a header row.

    Raises:
        UserError: unreadable, not UTF-8, a column is missing, or a row is too short.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(reader, [])]
            missing = [name for name in columns if name not in header]
            if missing:
                raise UserError(
                    f"{path}: column {missing[0]!r} is missing; the file has "
                    f"{', '.join(header) or 'no header'}, and needs "
                    f"{', '.join(columns)}."
                )
            rows = [row for row in reader if row]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8."
        ) from error
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}.") from error
    short = [i for i, row in enumerate(rows) if len(row) < len(header)]
    if short:
        raise UserError(
            f"{path}: {len(short)} rows have fewer than {len(header)} cells; the first "
            f"is row {short[0] + 2}."
        )
    position = {name: header.index(name) for name in header}
    return {name: [row[position[name]].strip() for row in rows] for name in columns}


def header_of(path: Path) -> list[str]:
    """The names of a CSV file's columns, or none if it cannot be read."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
