"""Acclaim's motion capture files: skeletons (ASF) and motions (AMC).

The format of the CMU Graphics Lab Motion Capture Database. A bone has an axis frame C;
its rotation M is about the axes of that frame, so its direction in the world turns by
the product of C M C^-1 down from the root.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedemb.errors import UserError

INCH = 0.0254
"""Metres; CMU's lengths are inches after division by the skeleton's unit `length`."""

JOINT_BONES = (
    "head",
    "lclavicle",
    "rclavicle",
    "lhumerus",
    "rhumerus",
    "lradius",
    "rradius",
    "lhipjoint",
    "rhipjoint",
    "lfemur",
    "rfemur",
    "ltibia",
    "rtibia",
)
"""The bones whose far ends are the 13 joints of `cameras.JOINTS`."""


@dataclass(frozen=True)
class Bone:
    """One bone: unit direction `[3]`, length, axis frame `[3, 3]`, freedoms."""

    direction: NDArray[np.float64]
    length: float
    axis: NDArray[np.float64]
    dof: tuple[str, ...]


@dataclass(frozen=True)
class Skeleton:
    """What an ASF file says.

    Attributes:
        bones: by name.
        parent: of each bone, in an order in which parents come first.
        root_order: the six channels of the root.
        unit: metres for one unit of length.
    """

    bones: dict[str, Bone]
    parent: dict[str, str]
    root_order: tuple[str, ...]
    unit: float

    def joints(
        self, motion: dict[str, NDArray[np.float64]]
    ) -> dict[str, NDArray[np.float64]]:
        """Far end of every bone over time, metres `[frames, 3]`; `root` is the pelvis.

        Raises:
            UserError: the motion is of another skeleton.
        """
        channels = dict(zip(self.root_order, motion["root"].T, strict=True))
        place = np.stack([channels[f"t{axis}"] for axis in "xyz"], axis=-1)
        turn = _turns({a: channels[f"r{a}"] for a in "xyz"}, len(place))
        ends, turns = {"root": place}, {"root": turn}
        for name, parent in self.parent.items():
            bone = self.bones[name]
            values = motion.get(name, np.zeros((len(place), len(bone.dof))))
            if values.shape[1] != len(bone.dof):
                raise UserError(
                    f"bone {name!r} has {values.shape[1]} values a frame in the motion "
                    f"and {len(bone.dof)} degrees of freedom in the skeleton."
                )
            angles = {dof[1]: v for dof, v in zip(bone.dof, values.T, strict=True)}
            local = bone.axis @ _turns(angles, len(place)) @ bone.axis.T
            turns[name] = turns[parent] @ local
            step = turns[name] @ (bone.direction * bone.length)
            ends[name] = ends[parent] + step
        return {name: end * self.unit for name, end in ends.items()}

    def pose(self, motion: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        """The 13 joints in metres from the middle of the hips, `[frames, 13, 3]`."""
        ends = self.joints(motion)
        joints = np.stack([ends[name] for name in JOINT_BONES], axis=1)
        hips = joints[:, 7:9].mean(axis=1, keepdims=True)
        return np.asarray(joints - hips)


def read_asf(path: Path) -> Skeleton:
    """A skeleton.

    Raises:
        UserError: not an ASF file.
    """
    sections = _sections(path)
    try:
        units = dict(line.split()[:2] for line in sections["units"])
        root = {words[0]: words[1:] for words in map(str.split, sections["root"])}
        bones = dict(_bone(block) for block in _blocks(sections["bonedata"]))
        parent: dict[str, str] = {}
        for line in _blocks(sections["hierarchy"])[0]:
            top, *children = line.split()
            parent |= dict.fromkeys(children, top)
        unit = INCH / float(units["length"])
        missing = [name for name in (*parent, *JOINT_BONES) if name not in bones]
        if missing:
            raise ValueError(f"bone {missing[0]!r} is not described")
        order = tuple(name.lower() for name in root["order"])
        if sorted(order) != ["rx", "ry", "rz", "tx", "ty", "tz"]:
            raise ValueError(f"the root's order {order} is not of six channels")
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(f"{path} is not an ASF skeleton ({error}).") from error
    return Skeleton(bones, parent, order, unit)


def read_amc(path: Path) -> dict[str, NDArray[np.float64]]:
    """A motion: values of every bone over time, `[frames, degrees of freedom]`.

    Raises:
        UserError: not an AMC file, or frames of different bones.
    """
    values: dict[str, list[list[float]]] = {}
    frames = 0
    try:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if not words or words[0][0] in "#:":
                continue
            if len(words) == 1 and words[0].isdigit():
                frames += 1
            else:
                values.setdefault(words[0], []).append([float(w) for w in words[1:]])
        motion = {
            name: np.array(rows, dtype=np.float64) for name, rows in values.items()
        }
        if not frames or any(m.ndim != 2 or len(m) != frames for m in motion.values()):
            raise ValueError("frames list different bones, or there are none")
        if "root" not in motion or motion["root"].shape[1] != 6:
            raise ValueError("the root needs six values a frame")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not an AMC motion ({error}).") from error
    return motion


def _turns(angles: dict[str, NDArray[np.float64]], frames: int) -> NDArray[np.float64]:
    """Rotations Rz Ry Rx of degrees about the named axes, `[frames, 3, 3]`."""
    out = np.broadcast_to(np.eye(3), (frames, 3, 3))
    for k, axis in enumerate("xyz"):
        if axis in angles:
            c, s = np.cos(np.radians(angles[axis])), np.sin(np.radians(angles[axis]))
            turn = np.zeros((frames, 3, 3))
            i, j = (k + 1) % 3, (k + 2) % 3
            turn[:, k, k] = 1
            turn[:, i, i] = turn[:, j, j] = c
            turn[:, j, i], turn[:, i, j] = s, -s
            out = turn @ out
    return np.asarray(out)


def _sections(path: Path) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    for line in map(str.strip, text.splitlines()):
        if line.startswith(":"):
            current = sections.setdefault(line[1:].split()[0].lower(), [])
        elif line and not line.startswith("#"):
            current.append(line)
    return sections


def _blocks(lines: Sequence[str]) -> list[list[str]]:
    """The lines between each `begin` and `end`."""
    blocks: list[list[str]] = []
    for line in lines:
        if line == "begin":
            blocks.append([])
        elif line != "end":
            blocks[-1].append(line)
    return blocks


def _bone(block: Sequence[str]) -> tuple[str, Bone]:
    facts = {words[0]: words[1:] for words in map(str.split, block)}
    degrees = np.array([float(v) for v in facts["axis"][:3]])
    if facts["axis"][3:] not in ([], ["XYZ"]):
        raise ValueError(f"axis order {facts['axis'][3:]} is not XYZ")
    axis = _turns({a: degrees[k : k + 1] for k, a in enumerate("xyz")}, 1)[0]
    direction = np.array([float(v) for v in facts["direction"]])
    return facts["name"][0], Bone(
        direction / max(float(np.linalg.norm(direction)), 1e-12),
        float(facts["length"][0]),
        axis,
        tuple(dof for dof in facts.get("dof", []) if dof[0] == "r"),
    )
