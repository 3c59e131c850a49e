"""Grouping rows by user: order, numbering, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedemb.data import Provenance, Source
from fedemb.errors import UserError
from simulations.datasets.grouping import by_user, held_out_classes, numbered

SOURCE = Provenance(name="toy", source=Source.REAL)
ROWS = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.integers(0, 5), st.booleans()),
    min_size=1,
    max_size=30,
)


def group(rows, users=None):
    return by_user(
        fields={"row": np.arange(len(rows))},
        users=users or [user for user, _, _ in rows],
        labels=[label for _, label, _ in rows],
        held_out=np.array([held_out for _, _, held_out in rows]),
        provenance=SOURCE,
    )


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_every_row_lands_once_with_its_user_and_class(rows):
    trained = {label for _, label, held_out in rows if not held_out}
    if len(trained) < 2 or not any(held_out for _, _, held_out in rows):
        with pytest.raises(UserError):
            group(rows)
        return
    data = group(rows)
    assert data.num_classes == len(trained)
    seen = []
    for user in range(data.num_users):
        rows_of = data.fetch(np.array([user])).fields
        seen += rows_of["row"].tolist()
        for row, label in zip(rows_of["row"], rows_of["label"], strict=True):
            assert data.user_id(user) == rows[row][0]
            assert data.class_names[label] == str(rows[row][1])
    held_out = data.held_out().fields
    seen += held_out["row"].tolist()
    for row, label in zip(held_out["row"], held_out["label"], strict=True):
        assert data.class_names[label] == str(rows[row][1])
        assert (label >= data.num_classes) == (rows[row][1] not in trained)
    assert sorted(seen) == list(range(len(rows)))


def test_users_without_training_rows_are_dropped_and_counted():
    data = group([("u", 0, False), ("u", 1, False), ("v", 2, True), ("", 2, True)])
    assert data.num_users == 1
    assert "1 of 2 users" in data.provenance.notices[0]


def test_training_rows_without_a_user_are_refused():
    with pytest.raises(UserError, match="1 training rows have no user"):
        group([("u", 0, False), ("", 1, False), ("v", 2, True)])


def test_one_class_data_is_refused_by_name():
    with pytest.raises(UserError, match="label 3"):
        group([("u", 3, False), ("v", 3, False), ("v", 2, True)])


def test_held_out_classes_depend_on_names_and_seed_only():
    labels = [f"c{i % 40}" for i in range(400)]
    chosen = {labels[i] for i in np.flatnonzero(held_out_classes(labels, 0))}
    backwards = labels[::-1]
    again = {backwards[i] for i in np.flatnonzero(held_out_classes(backwards, 0))}
    other = {labels[i] for i in np.flatnonzero(held_out_classes(labels, 1))}
    assert chosen == again != other
    assert len(chosen) == 8
    with pytest.raises(UserError, match="too few to hold one out"):
        held_out_classes(["a", "b"], 0)


@pytest.mark.parametrize(("classes", "held_out"), [(3, 1), (4, 2), (9, 2), (20, 4)])
def test_two_classes_are_held_out_where_there_are_four(classes, held_out):
    labels = [f"c{i % classes}" for i in range(2 * classes)]
    mask = held_out_classes(labels, 0)
    assert (
        len({label for label, out in zip(labels, mask, strict=True) if out}) == held_out
    )


def test_numbers_sort_by_value_and_before_words():
    assert numbered(["10", "9", "x", "-1"])[0] == ["-1", "9", "10", "x"]
