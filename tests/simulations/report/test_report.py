"""The page is self-contained, honest about its data, and safe to open."""

import dataclasses
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedemb.errors import UserError
from fedemb.noise_forecast import noise_forecast
from simulations.report import Gallery, ReportContent, write_report
from simulations.report.tables import disclosures, metric_rows, stage_rows
from simulations.report.wording import epsilon_text, gauge_position

METRICS = ("recall_at_far_1e-3", "recall_at_far_1e-1", "recall_at_1", "roc_auc")
VOID = {"meta", "img", "br", "link", "input", "hr"}
EVIL = "<script>alert('x')</script>\"&' $\\frac{1}$ {{ 7 * 7 }}"


class Page(HTMLParser):
    """Elements with their attributes; fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(text)
        assert not self._open, f"unclosed {self._open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self):
        return re.sub(r"\s+", " ", " ".join(self.text)).replace("\u200b", "")


def gallery(n=60, classes=10, side=40, names=None, seed=0, channels=3):
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = draw.normal(size=(classes, 8))
    return Gallery(
        labels=labels,
        before=draw.normal(size=(n, 6)),
        after=centres[labels] + 0.1 * draw.normal(size=(n, 8)),
        images=draw.integers(0, 256, (n, side, side, channels), dtype=np.uint8),
        class_names=names or [f"kind {c}" for c in range(classes)],
    )


def content(**changes):
    rows = [
        {
            "round": float(t),
            "recall_at_1": 0.2 + t / 100,
            "update_norm": 0.5,
            "expected_noise_norm": 0.1,
            "clip_norm": 1.0,
            "epsilon": t / 25,
        }
        for t in range(0, 51, 10)
    ]
    values = {
        "dataset": {
            "name": "drawings",
            "source": "sample",
            "num_users": 517,
            "num_classes": 100,
        },
        "model": "small_cnn",
        "privacy": {
            "epsilon": 1.98701,
            "epsilon_pld": 1.98701,
            "epsilon_rdp": 2.2111,
            "delta": 4.3216e-05,
            "target_epsilon": 2.0,
            "noise_multiplier": 0.647,
            "rounds": 50,
            "adjacency": "add_or_remove",
            "sampler": "poisson-virtual-clients",
        },
        "metrics": {
            "initial": dict.fromkeys(METRICS, 0.2),
            "final": dict.fromkeys(METRICS, 0.7),
            "non_private": dict.fromkeys(METRICS, 0.8),
        },
        "rounds_completed": 50,
        "performance": {"seconds": 12.5, "engine": "vectorized"},
        "evaluations": rows,
        "noise": noise_forecast(
            trained_parameters=10_000,
            clip_norm=1.0,
            noise_multiplier=0.647,
            expected_virtual_clients=517,
        ),
        "epsilon_at_delta": [(1e-8, 3.0), (1e-6, 2.4), (1e-4, 1.8)],
        "statement": "PRIVACY STATEMENT\n\nAll released parameters are private.",
        "configuration": '[data]\nname = "drawings"\n',
        "environment": {"torch": "2.13.0"},
        "notices": ["3 unreadable images were left out."],
        "gallery": gallery(),
        "diagnostics": {"mean_loss": 1.25},
    }
    return ReportContent(**(values | changes))


def stage(name, rounds):
    return {"name": name, "rounds": rounds, "trainable": "a,b", "learning_rate": 0.1}


def test_stages_are_told_with_their_rounds_where_there_are_several():
    several = [stage("see", 20), stage("ask", 0), stage("read", 40)]
    assert stage_rows(content(stages=several)) == [
        ("see", "rounds 1 to 20: trained a, b at a server rate of 0.1"),
        ("ask", "no round"),
        ("read", "rounds 21 to 50: trained a, b at a server rate of 0.1"),
    ]
    assert stage_rows(content(stages=[stage("all", 50)])) == []


def page_of(folder, **changes):
    path = write_report(folder, content(**changes))
    assert path == folder / "report.html"
    return Page(path.read_text())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("run"))


def test_nothing_is_fetched_and_nothing_runs(page):
    assert not page.all("script") + page.all("link") + page.all("iframe")
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("data:image/", "#"))
    policies = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policies[0].startswith("default-src 'none'")


def test_the_numbers_and_texts_of_the_run_are_there(page):
    for words in (
        "ε = 1.99",
        "δ = 4.32 · 10⁻⁵",
        "PLD 1.99, RDP 2.22",
        "70.0 %",
        "+50.0 points",
        "12.5 % lower than that of the same training without privacy",
        "517 users",
        "10,000 trained parameters",
        "All released parameters are private.",
        'name = "drawings"',
        "3 unreadable images were left out.",
        "2.13.0",
        "vectorized",
        "mean loss",
    ):
        assert words in page.words
    assert len(page.all("svg")) == 1 + 1 + 1 + 1 + 2


def test_pictures_and_tables_can_be_read_by_a_screen_reader(page):
    images = page.all("img")
    assert len(images) == 8 * 11
    assert all(image["alt"].strip() for image in images)
    assert any(image["alt"].endswith("wrong") for image in images)
    assert all(svg["aria-label"] for svg in page.all("svg"))
    assert all(cell.get("scope") in ("row", "col") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    identifiers = [a["id"] for _, a in page.elements if "id" in a]
    assert len(identifiers) == len(set(identifiers))


def test_what_users_and_data_sets_named_is_escaped(tmp_path):
    page = page_of(
        tmp_path,
        dataset={
            "name": EVIL,
            "source": "stand-in",
            "description": EVIL,
            "licence": EVIL,
        },
        model=EVIL,
        statement=EVIL,
        configuration=EVIL,
        notices=[EVIL],
        environment={EVIL: EVIL},
        diagnostics={EVIL: 1.0},
        performance={EVIL: EVIL},
        gallery=gallery(names=[EVIL] * 10),
        metrics={"initial": {EVIL: 1.0}, "final": {EVIL: 2.0}},
        evaluations=[{"round": 0.0, EVIL: 1.0}, {"round": 1.0, EVIL: 2.0}],
    )
    assert not page.all("script")
    assert page.words.count("alert('x')") > 20
    assert "{{ 7 * 7 }}" in page.words
    assert all(EVIL in image["alt"] for image in page.all("img"))


def test_a_stand_in_cannot_be_taken_for_the_real_thing(tmp_path):
    dataset = {"name": "inaturalist", "source": "stand-in", "num_classes": 1203}
    page = page_of(tmp_path, dataset=dataset)
    assert "Stand-in data, not inaturalist" in page.words
    assert "These are not the images of inaturalist." in page.words
    assert "Stand-in for inaturalist" in page.words
    assert "1,203 classes of a stand-in for inaturalist" in page.words
    classes = [a.get("class", "") for a in page.all("div")]
    assert "ribbon" in classes
    assert "banner alarm" in classes


@pytest.mark.parametrize(
    ("source", "badge", "alarms"),
    [
        ("real", "real data", 0),
        ("sample", "sample of real data", 0),
        ("amplified", "amplified data", 1),
        ("synthetic", "synthetic data", 0),
    ],
)
def test_every_source_has_its_badge(tmp_path, source, badge, alarms):
    page = page_of(tmp_path, dataset={"name": "it", "source": source})
    badges = [a for a in page.all("span") if a.get("class", "").startswith("badge")]
    assert badges == [{"class": f"badge {source}"}]
    assert badge in page.words
    classes = [a.get("class", "") for a in page.all("div")]
    assert classes.count("banner alarm") == alarms
    assert "ribbon" not in classes


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="never hides where its data came from"):
        content(dataset={"name": "it"})


@pytest.mark.parametrize("epsilon", [None, float("inf")])
def test_a_run_without_noise_says_so_everywhere(tmp_path, epsilon):
    run = content()
    privacy = dict(run.privacy) | {"epsilon": epsilon, "epsilon_pld": None}
    page = page_of(tmp_path, privacy=privacy)
    assert "no differential privacy" in page.words
    assert "ε = infinite" in page.words
    assert "covered by" not in page.words
    assert "trained on 517 users and 100 classes of drawings for 50 rounds without" in (
        page.words
    )


def test_the_protected_unit_and_the_ledger_are_named(tmp_path):
    assert "with user-level differential privacy" in page_of(tmp_path).words
    privacy = dict(content().privacy) | {"unit": "example", "epsilon_spent": 3.14159}
    page = page_of(tmp_path, privacy=privacy)
    assert "with example-level differential privacy" in page.words
    assert "per example" in page.words
    assert "user-level" not in page.words
    assert "epsilon in the ledger 3.15" in page.words


def test_extrapolation_interruption_and_noise_have_banners(tmp_path):
    noisy = noise_forecast(
        trained_parameters=10**6,
        clip_norm=1.0,
        noise_multiplier=1.0,
        expected_virtual_clients=100,
    )
    privacy = dict(content().privacy) | {"extrapolated": True}
    page = page_of(tmp_path, privacy=privacy, rounds_completed=20, noise=noisy)
    for words in (
        "extrapolated",
        "20 of 50 rounds",
        "10 times the clip norm",
        "--rounds",
    ):
        assert words in page.words


def test_every_shown_number_is_said_to_be_protected_or_not():
    groups = {group.kind: group for group in disclosures(content())}
    private = groups["Released by the private mechanism"]
    assert "epsilon 1.99" in private.protection
    assert any("averaged update" in item for item in private.shown)
    public = groups["Computed on public held-out data"]
    assert any("Recall at 1" in item for item in public.shown)
    assert any("neighbours" in item for item in public.shown)
    exposed = groups["Non-private diagnostics"]
    assert "not protected" in exposed.protection
    assert {"mean loss"} <= set(exposed.shown)
    assert any("without privacy" in item for item in exposed.shown)


def test_parts_that_are_missing_are_left_out(tmp_path):
    path = write_report(
        tmp_path,
        ReportContent(
            dataset={"name": "poses", "source": "synthetic"},
            model="m",
            privacy={"epsilon": 1.0},
            metrics={"final": {"average_precision": 0.25}},
            rounds_completed=1,
        ),
    )
    page = Page(path.read_text())
    assert not page.all("svg") + page.all("img")
    assert "average precision" in page.words
    assert "0.25" in page.words
    for absent in ("What it learned", "What the noise does", "How it learned", "None"):
        assert absent not in page.words


def test_the_metrics_of_a_video_system_have_names_meanings_and_units(tmp_path):
    names = ("recall_at_1", "view_to_view_recall_at_10", "text_to_video_median_rank")
    told = {
        "metrics": {
            "initial": dict(zip(names, (0.1, 0.2, 130.5), strict=True)),
            "final": dict(zip(names, (0.1, 0.85, 7.0), strict=True)),
        },
        "headline": "view_to_view_recall_at_10",
        "gallery": dataclasses.replace(gallery(), noun="clip"),
        "notices": [],
    }
    page = page_of(tmp_path, **told)
    assert "share of views whose other view is among the 10 nearest" in page.words
    assert "85.0 %" in page.words
    assert "1 is the best" in page.words
    assert page.words.index("recall at 10") < page.words.index("Recall at 1 ")
    assert "the clips nearest to them" in page.words
    assert "images" not in page.words
    rows = {row.label: row for row in metric_rows(content(**told))}
    assert rows["Text to video: median rank"].better  # it fell
    assert not rows["Recall at 1"].better


def test_held_out_examples_that_are_not_images_still_have_a_map(tmp_path):
    page = page_of(tmp_path, gallery=dataclasses.replace(gallery(), images=None))
    assert not page.all("img")
    assert "Map of the held-out embeddings" in page.words


@pytest.mark.parametrize("channels", [1, 3])
def test_the_page_stays_small_with_large_incompressible_images(tmp_path, channels):
    big = gallery(n=3000, classes=50, side=128, channels=channels)
    path = write_report(tmp_path, content(gallery=big))
    assert path.stat().st_size < 1_500_000


def test_the_same_content_makes_the_same_page(tmp_path):
    first = write_report(tmp_path, content()).read_bytes()
    assert write_report(tmp_path, content()).read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_cannot_be_written_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file", content())
    with pytest.raises(UserError, match="fedemb report"):
        write_report(tmp_path / "missing", content())
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_write_leaves_the_old_page(tmp_path):
    path = write_report(tmp_path, content())
    before = path.read_bytes()
    (tmp_path / "report.html.tmp").mkdir()
    with pytest.raises(UserError):
        write_report(tmp_path, content(model="other"))
    assert path.read_bytes() == before


@given(st.floats(1e-6, 1e6))
def test_a_printed_epsilon_is_never_below_the_bound(epsilon):
    printed = float(epsilon_text(epsilon))
    assert epsilon * (1 - 1e-9) <= printed <= epsilon * 1.011


@given(st.floats(0, 100), st.floats(0, 100))
def test_the_noise_gauge_is_monotone_and_stays_on_the_scale(low, high):
    low, high = sorted((low, high))
    assert 0 <= gauge_position(low) <= gauge_position(high) <= 100


def test_making_a_page_needs_no_torch():
    code = "import sys, simulations.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
