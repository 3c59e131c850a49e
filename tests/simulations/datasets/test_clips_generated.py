"""Generated clips: what their fields promise, and what tells them apart."""

import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fedemb.errors import UserError
from simulations.datasets import load
from simulations.datasets.clip_world.actions import ACTIONS
from simulations.datasets.clip_world.captions import THINGS
from simulations.datasets.clip_world.untrimmed import EVENTS, LongClips
from simulations.datasets.clip_world.world import Clips
from simulations.datasets.clips import LitClips, MotionClips, PlainClips, Stills
from simulations.datasets.shapes import RGB, SHAPES

NAMES = [
    *("clips", "clips-plain", "clips-appearance", "clips-motion", "clips-stills"),
    "clips-lit",
]


@pytest.fixture(scope="module")
def world():
    return Clips(1000)


@pytest.fixture(scope="module")
def clips(world):
    return world.fetch(np.arange(60)).fields


@pytest.fixture(scope="module")
def plain():
    return PlainClips(1000).fetch(np.arange(200)).fields


@pytest.mark.parametrize("name", [*NAMES, "clips-long"])
def test_users_are_independent_and_any_number_costs_nothing(name):
    data = load(name, users=10_000_000)
    users = np.array([9_999_999, 4])
    together = data.fetch(users)
    for position, user in enumerate(users):
        alone = data.fetch(np.array([user])).fields
        for field, values in together.group(position).items():
            if values.dtype.kind == "U":
                assert values.tolist() == alone[field].tolist()
            else:
                np.testing.assert_array_equal(values, alone[field])
    other = load(name, users=10, seed=1).fetch(np.array([4])).fields
    assert not np.array_equal(other["clip"], together.group(1)["clip"])


@pytest.mark.parametrize("name", ["clips", "clips-appearance"])
def test_held_out_classes_are_unseen(name):
    data = load(name, users=40)
    trained = data.fetch(np.arange(40)).fields["label"]
    held_out = data.held_out().fields["label"]
    assert trained.max() < data.num_classes == held_out.min()
    assert held_out.max() == len(data.class_names) - 1


def test_captions_nouns_and_numbers_say_the_same(world, clips):
    for row, label in enumerate(clips["label"]):
        caption = clips["caption"][row]
        assert world.class_names[label] in caption
        for thing, action, noun in zip(
            clips["thing"][row], clips["action"][row], clips["nouns"][row], strict=True
        ):
            assert noun == ("" if thing < 0 else THINGS[thing])
            assert (thing < 0) == (action < 0)
            if thing >= 0:
                assert f"{noun} {ACTIONS[action]}" in caption
        assert (", then " in caption) == bool(clips["segment"][row, -1])
        doing = clips["doing"][row]
        assert doing.sum() == (clips["thing"][row] >= 0).sum() + caption.count("while")
        np.testing.assert_array_equal(clips["events"][row], doing.max(0))


@pytest.mark.parametrize("action", ACTIONS)
def test_things_do_what_the_caption_says(plain, action):
    rows = plain
    chosen = np.flatnonzero(rows["action"][:, 0] == ACTIONS.index(action))
    assert len(chosen) > 20
    for row in chosen:
        box = rows["boxes"][row, :, 0]
        seen = box[:, 0] >= 0
        assert seen.any()
        box = box[seen]
        height, width = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
        x, y = (box[:, 1] + box[:, 3]) / 2, (box[:, 0] + box[:, 2]) / 2
        grown = (height[-1] * width[-1]) / (height[0] * width[0])
        match action:
            case "moves left":
                assert x[-1] - x[0] < -0.15
            case "moves right":
                assert x[-1] - x[0] > 0.15
            case "rises":
                assert y[-1] - y[0] < -0.1
            case "falls":
                assert y[-1] - y[0] > 0.1
            case "grows":
                assert grown > 1.3
            case "shrinks":
                assert grown < 0.75
            case "enters":
                assert seen[-1]
                assert not seen[0]
            case "leaves":
                assert seen[0]
                assert not seen[-1]
            case "bounces":
                assert np.ptp(y) > 0.12
            case "circles":
                assert min(np.ptp(x), np.ptp(y)) > 0.12
            case _:  # nothing but the camera's drift
                assert max(abs(x[-1] - x[0]), abs(y[-1] - y[0])) < 0.2


def test_colours_change_and_turning_shows_even_on_a_ball(plain):
    rows = plain
    balls = rows["thing"][:, 0] // 8 == SHAPES.index("ball")
    colour, pixels = {}, {}
    for action in ("changes", "spins", "waits"):
        changes, turns = [], []
        here = balls & (rows["action"][:, 0] == ACTIONS.index(action))
        for row in np.flatnonzero(here):
            crops = [crop(rows, row, frame) for frame in (0, 3)]
            means = [picture.mean((0, 1)) for picture in crops]
            changes.append(np.abs(means[0] - means[1]).max())
            if crops[0].shape == crops[1].shape:
                turns.append(np.abs(crops[0] - crops[1]).mean())
        colour[action], pixels[action] = np.median(changes), np.median(turns)
    assert colour["changes"] > 25 > 12 > colour["waits"]
    assert colour["spins"] < 12
    assert pixels["spins"] > 2 * pixels["waits"]


def crop(rows, row, frame):
    """The box of the first thing."""
    top, left, bottom, right = (rows["boxes"][row, frame, 0] * 32).round().astype(int)
    return rows["clip"][row, frame, top:bottom, left:right].astype(float)


def test_boxes_hold_the_things_and_no_more(clips):
    """The first thing is drawn last, so its colour fills its box from edge to edge."""
    checked = 0
    for row in range(len(clips["label"])):
        thing = clips["thing"][row, 0]
        if clips["doing"][row, 0, ACTIONS.index("changes")]:
            continue
        frame = 2
        top, left, bottom, right = (clips["boxes"][row, frame, 0] * 32).round()
        if top <= 0 or left <= 0 or bottom >= 32 or right >= 32:
            continue
        picture = clips["clip"][row, frame].astype(float)
        colour = RGB[thing % 8]
        near = np.abs(picture - colour).max(-1) < 55
        near |= np.abs(picture - colour / 2).max(-1) < 30
        inside = near[int(top) : int(bottom), int(left) : int(right)]
        edges = inside[0].any(), inside[-1].any(), inside[:, 0].any()
        checked += 1
        assert all(edges), clips["caption"][row]
        assert inside[:, -1].any()
    assert checked > 200


def test_a_cut_changes_the_place_and_the_things(clips):
    cut = clips["segment"][:, -1] == 1
    assert 0.15 < cut.mean() < 0.35
    frames = clips["clip"].astype(float)
    jumps = np.abs(np.diff(frames, axis=1)).mean((2, 3, 4))
    for row in np.flatnonzero(cut):
        first = int(clips["segment"][row].argmax())
        assert jumps[row].argmax() == first - 1
        seen = clips["boxes"][row, :, :, 0] >= 0
        assert not (seen[:first].any(0) & seen[first:].any(0)).any()
        assert (clips["thing"][row] >= 0).sum() >= 2
    assert jumps[~cut].max() < jumps[cut].max(1).mean()


def test_users_have_habits(plain):
    """A user's clips look more like each other than like those of other users."""
    rows = plain["clip"][: 40 * 16]
    means = rows.reshape(40, 16, -1, 3).mean(2)
    within = means.std(1).mean()
    assert within < 0.8 * means.reshape(-1, 3).std(0).mean()


def test_only_the_order_of_frames_tells_motions_apart():
    data = MotionClips(1000)
    fields = data.fetch(np.arange(300)).fields
    box = fields["boxes"][:, :, 0]
    centres = (box[..., 1] + box[..., 3]) / 2 + 0.5j * (box[..., 0] + box[..., 2])
    centres = 10 * (centres - centres.mean(1, keepdims=True))
    mixed = np.random.default_rng(0).permuted(centres, axis=1)
    scores = []
    for places in (centres, mixed):
        turn = (places[:, 1:] * places[:, :-1].conj()).mean(1)
        features = np.stack([turn.real, turn.imag], axis=1)
        half = len(features) // 2
        model = LogisticRegression(max_iter=300)
        model.fit(features[:half], fields["label"][:half])
        scores.append(model.score(features[half:], fields["label"][half:]))
    assert scores[0] > 0.95
    assert scores[1] < 0.3
    held_out = data.held_out().fields["label"]
    assert set(held_out) == set(range(data.num_classes)) == set(range(4))


def test_stills_are_one_frame_and_captions_have_no_verbs():
    rows = Stills(100).fetch(np.arange(10)).fields
    assert rows["clip"].shape[1] == 1
    for caption, nouns in zip(rows["caption"], rows["nouns"], strict=True):
        left = caption
        for noun in nouns:
            left = left.replace(noun, "", 1)
        assert set(left.split()) <= {"a", "an", "and"}


def test_long_clips_wait_act_and_wait():
    data = LongClips(100, windows=32, events=4)
    rows = data.fetch(np.arange(10)).fields
    assert rows["clip"].shape == (20, 32 * 8, 32, 32, 3)
    windows = rows["clip"].reshape(20, 32, 8, 32, 32, 3).astype(float)
    motion = np.abs(np.diff(windows, axis=2)).mean((2, 3, 4, 5))
    for row in range(20):
        expected = np.full(32, -1)
        for start, end, event in zip(
            rows["start"][row], rows["end"][row], rows["event"][row], strict=True
        ):
            assert (start < 0) == (end < 0) == (event < 0)
            if start >= 0:
                assert 0 <= start < end <= 32
                expected[start:end] = event
                assert EVENTS[event] in rows["caption"][row]
        np.testing.assert_array_equal(rows["window_event"][row], expected)
        assert motion[row][expected < 0].max() == 0  # nothing stirs between events
        assert motion[row][expected >= 0].min() > 0
        assert rows["event"][row, 0] == data._shuffle[rows["label"][row]]


def test_five_thousand_clips_a_second_on_two_cores():
    """Measured in processor time, so that a busy machine does not fail it."""
    data = Clips(1_000_000)
    data.fetch(np.arange(8))
    started = time.process_time()
    rows = data.fetch(np.arange(100, 228))
    assert len(rows) / (time.process_time() - started) > 2_500


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"frames": 0}, "frames=0"),
        ({"cuts": 1.5}, "cuts=1.5"),
        ({"cuts": 0.5, "things": 1}, "needs 6 frames and 2 things"),
        ({"also": -1}, "also=-1"),
    ],
)
def test_knobs_out_of_range_are_refused(change, word):
    with pytest.raises(UserError, match=word):
        Clips(10, **change)
    with pytest.raises(UserError, match="windows=8"):
        LongClips(10, windows=8)
    with pytest.raises(UserError, match="frames=4"):
        MotionClips(10, frames=4)


def test_knobs_are_part_of_what_identifies_a_population():
    assert (
        Clips(10, also=0.1).provenance.checksum
        != Clips(10, also=0.2).provenance.checksum
    )


def test_in_a_coloured_light_moving_things_change_their_looks():
    found = {}
    for kind in (LitClips, PlainClips):
        rows = kind(1000, classes_per_user=1).fetch(np.arange(300)).fields
        shape, act = rows["thing"][:, 0] // 8, rows["doing"][:, 0].argmax(-1)
        ends = rows["boxes"][:, [0, -1], 0]  # the first thing is in front of all others
        solid = (shape != SHAPES.index("ring")) & (ends[..., 0] >= 0).all(1)
        some = np.flatnonzero(solid & (act < 2))  # moves left or right
        middle = (16 * (ends[some, :, :2] + ends[some, :, 2:])).astype(int)
        pixel = rows["clip"][some[:, None], [0, -1], middle[..., 0], middle[..., 1]]
        share = pixel / pixel.sum(-1, keepdims=True)
        found[kind] = np.abs(share[:, 0] - share[:, 1]).max(-1)
        assert len(some) > 10
    assert np.median(found[PlainClips]) < 0.01
    assert np.median(found[LitClips]) > 0.05


def test_clips_in_a_coloured_light_have_one_stage_for_all_users():
    clips = LitClips(1000, classes_per_user=1).fetch(np.arange(50)).fields["clip"]
    empty = np.median(clips, axis=(0, 1)).astype(np.uint8)
    assert (clips == empty).all(-1).mean() > 0.6
