"""Every draw is a function of (key, purpose, counters), and normals are normal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedemb.randomness import KeyStream, RootKey, lattice_normals

purposes = st.text("abcdefgh|", min_size=1, max_size=6)
counters = st.lists(st.integers(0, 10**9), max_size=3).map(tuple)


@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_seeds_reproduce_and_distinct_seeds_differ(one, two):
    keys = [RootKey.from_seed(x).derive("noise", 3) for x in (one, two, one)]
    assert keys[0] == keys[2]
    assert (keys[0] == keys[1]) == (one == two)


@given(st.sets(st.tuples(st.sampled_from(["noise", "cohort"]), counters), min_size=2))
def test_distinct_purposes_and_counters_give_distinct_keys(names):
    key = RootKey.from_seed(0)
    assert len({key.derive(purpose, *count) for purpose, count in names}) == len(names)


def test_a_system_key_is_new_and_a_seed_is_declared():
    assert RootKey.from_system().secret != RootKey.from_system().secret
    assert not RootKey.from_system().seeded
    assert RootKey.from_seed(1).seeded
    assert RootKey.from_seed(1).secret.hex() not in repr(RootKey.from_seed(1))
    with pytest.raises(ValueError, match="needs 32"):
        RootKey(b"short", seeded=False)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=8, unique=True))
def test_the_seed_of_an_id_does_not_depend_on_the_other_ids(ids):
    key, ids = RootKey.from_seed(1), np.array(ids)
    together = key.seeds("client", 4, ids)
    assert [
        int(key.seeds("client", 4, ids[i : i + 1])[0]) for i in range(len(ids))
    ] == (together.tolist())
    assert len(set(together.tolist())) == len(ids)
    assert not set(together.tolist()) & set(key.seeds("client", 5, ids).tolist())


def test_chacha20_gives_the_published_first_block():
    """RFC 8439, appendix A.1, test vector 1: the all-zero key and nonce."""
    assert KeyStream(bytes(32)).words(4).tobytes().hex().startswith("76b8e0ada0f13d90")


def draw(count, scale=1.0, seed=5):
    return lattice_normals(RootKey.from_seed(seed).derive("noise", 0), count, scale)


@pytest.mark.statistical
@pytest.mark.parametrize("scale", [3.0, 2.0**20])
def test_noise_has_the_right_scale_and_not_a_tenth_more_or_less(scale):
    noise = draw(100_000, scale)
    spread = noise + KeyStream(bytes(32)).uniforms(len(noise)) - 0.5  # off the lattice
    sigma = float(np.hypot(scale, 12**-0.5))
    assert stats.kstest(spread / sigma, "norm").pvalue > 1e-3
    for wrong in (0.9, 1.1):
        assert stats.kstest(spread / (wrong * sigma), "norm").pvalue < 1e-9


@pytest.mark.statistical
def test_noise_has_gaussian_tails_and_no_serial_correlation():
    noise = draw(400_000, 2.0**20) / 2.0**20
    assert abs(stats.kurtosis(noise)) < 5 * np.sqrt(24 / len(noise))
    assert abs(stats.skew(noise)) < 5 * np.sqrt(6 / len(noise))

    def tail_p_value(scale, level):
        beyond = int((np.abs(noise) > level * scale).sum())
        chance = 2 * stats.norm.sf(level)
        return stats.binomtest(beyond, len(noise), chance).pvalue

    for level in (2.0, 3.0, 4.0):
        assert tail_p_value(1.0, level) > 1e-4
        for wrong in (0.9, 1.1):  # negative controls
            assert tail_p_value(wrong, level) < 1e-4
    for lag in (1, 2, 1 << 13, 1 << 14):  # neighbours, halves of a pair, blocks
        correlation = np.mean(noise[lag:] * noise[:-lag])
        assert abs(correlation) < 5 / np.sqrt(len(noise) - lag)
    light = KeyStream(bytes(32)).uniforms(len(noise))  # negative control
    assert stats.kurtosis(light) < -1


@pytest.mark.parametrize("count", [0, 1, 2, 3, (1 << 14) - 1, (1 << 14) + 1])
def test_any_number_of_normals_can_be_drawn(count):
    assert len(draw(count)) == count


def test_the_first_normals_do_not_change_where_blocks_end():
    assert draw(3 << 14)[: 1 << 14].tolist() == draw(1 << 14).tolist()


def test_uniforms_are_in_the_open_interval():
    values = KeyStream(bytes(32)).uniforms(100_000)
    assert values.min() > 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("skip", [0, 1, 7, 8, 20000])
def test_a_stream_can_be_entered_anywhere(skip):
    whole = KeyStream(bytes(range(32))).words(skip + 9)
    assert np.array_equal(KeyStream(bytes(range(32)), skip).words(9), whole[skip:])


def test_noise_does_not_depend_on_the_number_of_threads():
    """The same numbers as one stream that is read from its start to its end."""
    count = 5 * 2**14 + 3
    stream, parts = KeyStream(bytes(range(32))), []
    for start in range(0, count, 2**14):
        parts.append(np.rint(stream.normals(min(2**14, count - start)) * 100))
    assert np.array_equal(
        lattice_normals(bytes(range(32)), count, 100.0), np.concatenate(parts)
    )
