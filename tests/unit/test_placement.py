"""Where experiments run: what an experiment file, a profile and the command line say of it, and which one wins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unsay import catalog, config, identity
from unsay.errors import ConfigError
from unsay.placement import Placement, choose

LINE = "experiments: [{model: unsay-tiny, dataset: wordproblems, method: vanilla, config: fewshot_0}]\n"

PLUGIN = '''
"""A place for tests."""
from dataclasses import dataclass
from typing import ClassVar, Literal
from unsay.errors import ConfigError

@dataclass(frozen=True)
class Place:
    partition: str | None = None
    time: str | None = None
    nodes: int = 1
    mode: Literal["one", "many"] = "one"
    setup: tuple[str, ...] = ()
    at_once: ClassVar[int] = 1

    def __post_init__(self):
        if self.nodes > 1 and self.mode == "one":
            raise ConfigError("nodes is 2 or more, but mode is one; write mode: many")
'''


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add an executor `place`, as another package would, and go to an empty folder."""
    (tmp_path / "a_place_for_tests.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(catalog, "_entry_points", lambda folder: POINTS if folder == "executors" else {})
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    sys.modules.pop("a_place_for_tests", None)
    return work


class _Point:
    module = "a_place_for_tests"


POINTS = {"place": _Point()}


def load(text: str) -> config.Plan:
    Path("lab.yaml").write_text(text + LINE)
    return config.load(Path("lab.yaml"))


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    return list(caught.value.mistakes)


def test_a_file_that_says_nothing_runs_locally() -> None:
    plan = load("")
    assert plan.placement is None
    assert choose(plan.placement, None, []) == Placement("local", {})


def test_a_name_and_a_mapping() -> None:
    assert load("executor: place\n").placement == Placement("place", {})
    text = 'executor: {name: place, partition: gpu, time: 4:00:00, nodes: "2", mode: many, setup: [module load cuda]}\n'
    wanted = {"partition": "gpu", "time": "4:00:00", "nodes": 2, "mode": "many", "setup": ("module load cuda",)}
    assert load(text).placement == Placement("place", wanted)


def test_a_profile_and_what_stands_beside_it(place: Path) -> None:
    (place / "cluster.yaml").write_text("name: place\npartition: gpu\ntime: '60'\n")
    assert load("executor: cluster.yaml\n").placement == Placement("place", {"partition": "gpu", "time": "60"})
    placement = load("executor: {profile: cluster.yaml, time: '90'}\n").placement
    assert placement == Placement("place", {"partition": "gpu", "time": "90"})


def test_the_command_line_goes_over_the_profile_and_the_profile_over_the_file(place: Path) -> None:
    (place / "cluster.yaml").write_text("name: place\npartition: gpu\ntime: '60'\n")
    file = load("executor: {name: place, time: '30', nodes: 1, setup: [a]}\n").placement
    assert choose(file, "place", []).options["time"] == "30"
    placement = choose(file, "cluster.yaml", ["partition=debug", "setup=[b, c]"])
    assert placement == Placement("place", {"time": "60", "nodes": 1, "setup": ("b", "c"), "partition": "debug"})


def test_options_reach_no_other_executor() -> None:
    file = load("executor: {name: place, time: '30'}\n").placement
    assert choose(file, "local", []) == Placement("local", {})
    assert choose(file, "place", []).executor().time == "30"


def test_it_changes_no_identity() -> None:
    plain, placed = load("").experiments[0], load("executor: {name: place, partition: gpu}\n").experiments[0]
    assert identity.identity(plain) == identity.identity(placed)
    assert plain.folder == placed.folder


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("executor: plase\n", "lab.yaml:1: unknown executor 'plase'; did you mean 'place'?"),
        ("executor: 3\n", "executor must be a name, a profile (a YAML file) or a mapping; got 3"),
        ("executor: {partition: gpu}\n", "executor needs `name:` or `profile:`; there are: inline, local"),
        ("executor:\n  name: place\n  partitoin: gpu\n", "lab.yaml:3: unknown key in executor: (place) 'partitoin'; "),
        ("executor:\n  name: place\n  nodes: many\n", "lab.yaml:3: nodes must be a whole number; got 'many'"),
        ("executor: {name: place, mode: few}\n", "mode must be one of one, many"),
        ("executor: {name: place, nodes: 2}\n", "lab.yaml:1: nodes is 2 or more, but mode is one; write mode: many"),
        ("executor: missing.yaml\n", "missing.yaml: there is no such file. Expected a profile"),
        ("executor: {name: place, setup: [export HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyzABCDEFGH]}\n", "a value on"),
    ],
)
def test_mistakes_of_a_file_are_told_with_their_line(text: str, said: str) -> None:
    found = mistakes(text)
    assert any(said in each for each in found), found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: place\npartitoin: gpu\n", "cluster.yaml:2: unknown key in executor: (place) 'partitoin'"),
        ("profile: other.yaml\n", "cluster.yaml:1: a profile cannot name another one"),
        ("partition: gpu\n", "cluster.yaml:1: executor needs `name:`"),
        ("[1, 2]\n", "cluster.yaml:1: executor must be a name"),
        ("name: [\n", "not YAML"),
        ("name: place\nsetup: [export HF_TOKEN=hf_abcdefghijklmnopqrstuvwxyzABCDEFGH]\n", "cluster.yaml:2: a value on"),
    ],
)
def test_mistakes_of_a_profile_are_told_with_its_line(text: str, said: str, place: Path) -> None:
    (place / "cluster.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        choose(None, "cluster.yaml", [])
    assert any(said in each for each in caught.value.mistakes), caught.value.mistakes


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("partition", "--option partition: expected KEY=VALUE"),
        ("=3", "--option =3: expected KEY=VALUE"),
        ("time=", "--option time=: expected KEY=VALUE"),
        ("setup=[a", "the value is not YAML"),
        ("partitoin=gpu", "did you mean 'partition'?"),
        ("nodes=some", "nodes must be a whole number"),
        ("nodes=2", "write mode: many"),
    ],
)
def test_mistakes_of_the_command_line(option: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s).*") as caught:
        choose(None, "place", [option])
    assert said in str(caught.value)
