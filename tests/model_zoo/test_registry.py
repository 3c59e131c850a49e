"""The registry: instant to list, clear about what is missing, open to outsiders."""

import json
import pickle
import subprocess
import sys

import pytest

from fedemb.errors import NotAvailable, UserError
from fedemb.stages import Stage
from model_zoo import registry
from model_zoo.system import CLASSES


def test_listing_systems_and_reading_their_cards_imports_no_torch():
    code = (
        "import sys, model_zoo.registry as r\n"
        "cards = [r.get(n) for n in r.names()]\n"
        "print(len(cards), 'torch' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(len(registry.names())), "False"]


@pytest.mark.parametrize("name", registry.names())
def test_descriptions_have_the_keys_that_others_rely_on(name):
    described = registry.describe(name)
    assert set(described) == {"name", "paper", "user", "stages", "configurations"}
    assert described["name"] == name
    assert "arXiv" in described["paper"]
    for found in described["configurations"].values():
        assert set(found) == {
            "backbone_parameters",
            "head_parameters",
            "total_parameters",
            "note",
        }
    json.dumps(described)


def test_a_configuration_is_chosen_after_a_colon():
    assert registry.get("small_cnn").default_configuration == "paper"
    tiny = registry.get("small_cnn:tiny")
    assert tiny.default_configuration == "tiny"
    stage = tiny.build(
        data=registry.DataFacts(example_shape=(28, 28, 1), num_classes=3)
    )[0]
    assert stage.task.embedding_dim == 32
    assert set(registry.describe("small_cnn:tiny")["configurations"]) == {"tiny"}


@pytest.mark.parametrize(
    ("name", "choices"),
    [("lenett", "lenet, "), ("lenet:huge", "paper, tiny"), ("no/file.py:X", "no file")],
)
def test_what_does_not_exist_is_answered_with_the_choices(name, choices):
    with pytest.raises(NotAvailable, match=choices):
        registry.get(name)


@pytest.mark.parametrize("wrong", [{"embedding_dim": 0}, {"temperature": -1.0}])
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="must be positive"):
        registry.TaskOptions(**wrong)


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("const_cl", ("embedding_dim", "temperature", "always_normalize")),
        ("cv_mim", ("head", "label_space", "temperature", "always_normalize")),
        ("deeplab2", ("head", "temperature", "always_normalize")),
        ("g_vilm", ("temperature", "always_normalize")),
        ("imagen3", ("embedding_dim", "always_normalize")),
        ("univrd", ("head", "label_space", "temperature", "always_normalize")),
        ("video_language_distillation", ("temperature", "always_normalize")),
        ("videoprism", ("head", "label_space", "temperature", "always_normalize")),
    ],
)
def test_options_that_a_system_has_no_use_for_are_refused_not_ignored(name, without):
    values = {
        **{"head": "linear", "label_space": "client", "embedding_dim": 8},
        **{"temperature": 0.5, "always_normalize": True},
    }
    system = registry.get(name)
    data = system.configuration().data
    for option in without:
        asked = registry.TaskOptions(**{option: values[option]})
        with pytest.raises(UserError, match=f"{option}={values[option]!r} does not"):
            system.build(data=data, options=asked)


@pytest.mark.parametrize("name", ["const_cl", "g_vilm", "videoglue", "videoprism"])
def test_pictures_are_refused_where_clips_are_needed(name):
    for shape in ((32, 32, 3), (8, 32, 32, 1)):
        facts = registry.DataFacts(example_shape=shape, num_classes=3)
        with pytest.raises(UserError, match="such as clips-plain or videos:PATH"):
            registry.get(name).build(data=facts)


@pytest.mark.parametrize(
    ("name", "data"),
    [("lenet", "openclipart"), ("deeplab2", "scenes"), ("univrd", "relation-scenes")],
)
def test_clips_are_refused_where_pictures_are_needed(name, data):
    facts = registry.DataFacts(example_shape=(8, 32, 32, 3), num_classes=3)
    with pytest.raises(UserError, match=f"trained on pictures.*such as {data}"):
        registry.get(name).build(data=facts)


WITHOUT_CLASSES = (
    *("const_cl", "cv_mim", "g_vilm", "univrd", "video_language_distillation"),
    "videoprism",
)


@pytest.mark.parametrize("name", WITHOUT_CLASSES)
@pytest.mark.parametrize("option", CLASSES)
def test_options_of_class_heads_are_refused_where_nothing_tells_classes(name, option):
    system = registry.get(name)
    value = 0.5 if option == "temperature" else "global"
    options = registry.TaskOptions(**{option: value})
    with pytest.raises(UserError, match=f"{option}=.* does not apply: {name}"):
        system.build(data=system.configuration().data, options=options)


@pytest.mark.parametrize("name", registry.names())
@pytest.mark.parametrize("option", [{"views": 3}, {"augment": "affine-colour"}])
def test_copies_of_pictures_are_made_as_asked_for_or_refused(name, option):
    system, ((asked, value),) = registry.get(name), option.items()

    def stages():
        options = registry.TaskOptions(**option)
        return system.build(data=system.configuration().data, options=options)

    if system.unused:
        with pytest.raises(UserError, match=f"{asked}=.* does not apply: {name}"):
            stages()
    else:
        assert getattr(stages()[0].task, asked) == value


@pytest.mark.parametrize("name", registry.names())
def test_what_a_person_wants_trained_is_what_the_last_stage_trains(name):
    system = registry.get(name)
    options = registry.TaskOptions(trainable="norm")
    stages = system.build(data=system.configuration().data, options=options)
    assert stages[-1].trainable.partition(" of ")[0] == "norm"


@pytest.mark.parametrize("name", registry.names())
def test_stages_travel_to_other_processes(name):
    system = registry.get(name)
    stages = system.build(data=system.configuration().data)
    assert sum(stage.share_of_rounds for stage in stages) == 1
    copies = pickle.loads(pickle.dumps(stages))
    for copy, stage in zip(copies, stages, strict=True):
        assert isinstance(copy, Stage)
        assert (copy.name, copy.task.name) == (stage.name, stage.task.name)


OUTSIDE = """
from functools import partial

from torch import nn

from fedemb.identity import IdentityTask
from fedemb.stages import Stage
from model_zoo.system import Configuration, DataFacts, System, TaskOptions


class Pooled(nn.Module):
    def __init__(self, channels, dim):
        super().__init__()
        self.embedding = nn.Linear(channels, dim)

    def forward(self, images):
        return self.embedding(images.mean((2, 3)))


def build(*, data, options):
    dim = options.embedding_dim or 16
    task = IdentityTask(
        name="pooled",
        backbone=partial(Pooled, data.example_shape[2], dim),
        embedding_dim=dim,
        num_classes=data.num_classes,
        head=options.head or "class-means",
    )
    return (Stage("embedding", task, 1.0, options.trainable or "all"),)


SYSTEM = System(
    name="pooled",
    paper="mine",
    user="a person",
    stages=("embedding",),
    default_dataset="synthetic",
    default_configuration="tiny",
    configurations={
        "tiny": Configuration(
            note="a mean colour",
            build=build,
            data=DataFacts(example_shape=(8, 8, 3), num_classes=10),
            options=TaskOptions(head="linear"),
        )
    },
)
NUMBER = 3
"""


def test_a_system_in_a_scratch_file_needs_no_registration(tmp_path):
    path = tmp_path / "pooled.py"
    path.write_text(OUTSIDE)
    found = registry.describe(f"{path}:SYSTEM")["configurations"]["tiny"]
    assert found["backbone_parameters"] == 3 * 16 + 16
    assert found["head_parameters"] == 16 * 10
    assert registry.get(f"{path}:SYSTEM:tiny").name == "pooled"
    with pytest.raises(NotAvailable, match="SYSTEM"):
        registry.get(f"{path}:OTHER")
    with pytest.raises(UserError, match="is a int"):
        registry.get(f"{path}:NUMBER")


def test_a_broken_scratch_file_is_the_user_s_error(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import nothing_of_this_name\n")
    for _ in range(2):
        with pytest.raises(UserError, match="nothing_of_this_name"):
            registry.get(f"{path}:SYSTEM")


def test_an_installed_package_can_bring_a_system(tmp_path, monkeypatch):
    (tmp_path / "pooled_package.py").write_text(OUTSIDE)
    info = tmp_path / "pooled_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: pooled\nVersion: 1.0\n"
    )
    (info / "entry_points.txt").write_text(
        "[fedemb.systems]\npooled = pooled_package:SYSTEM\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert "pooled" in registry.names()
    assert registry.get("pooled").user == "a person"
