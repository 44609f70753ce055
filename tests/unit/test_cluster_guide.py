"""docs/cluster.md and its examples say what is so: options, sizes, a profile, a manifest that KubeRay takes."""

from __future__ import annotations

import copy
import dataclasses
import json
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests import test_docs
from unsay import catalog, cli, definitions, placement
from unsay.estimate import GIB, Load, estimate
from unsay.models import Shape
from unsay.settings import Decode, Prompting, Settings, Training

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "cluster.md"
RAYJOB = ROOT / "examples" / "kuberay" / "rayjob.yaml"
SCHEMA = ROOT / "tests" / "kuberay" / "rayjob_v1.schema.json"


@pytest.mark.parametrize("name", ["slurm", "ray"])
def test_every_option_is_listed_with_its_default(name: str) -> None:
    rows = test_docs.table(GUIDE, f"option of `{name}`")
    listed = {
        option: yaml.safe_load(row["default"]) for row in rows for option in test_docs.coded(row[f"option of `{name}`"])
    }
    made = catalog.plugin("executors", name)()
    options = {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}
    assert listed == {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}


def test_every_executor_is_listed() -> None:
    names = {test_docs.coded(row["executor"])[0] for row in test_docs.table(GUIDE, "executor")}
    assert names == set(catalog.names("executors"))


def shapes() -> dict[str, Shape]:
    families = [catalog.plugin("models", name)() for name in catalog.names("models")]
    return {hub_id: shape for family in families for hub_id, shape in family.shapes.items()}


def test_the_sizes_are_the_estimates() -> None:
    load = Load(
        items=1319, prompt_tokens=110, longest_prompt=300, batch_size=32, train_rows=7473, row_tokens=250,
        longest_row=500, answer_tokens=140, control_tokens=1,
    )  # fmt: skip
    ways = {
        "LoRA": Training(),
        "QLoRA (4 bits)": Training(quantization_bit=4),
        "every weight, recomputing": Training(finetuning_type="full", gradient_checkpointing=True),
    }
    rows = test_docs.table(GUIDE, "model")
    known = definitions.builtin().models
    assert {test_docs.coded(row["model"])[0] for row in rows} == known.keys() - {"unsay-tiny"}
    for row in rows:
        shape = shapes()[known[test_docs.coded(row["model"])[0]].path]
        found = {way: estimate(shape, Settings(Prompting(), Decode(), ways[way], None), load) for way in ways}
        said = {way: one.memory["train"] for way, one in found.items()}
        said |= {"evaluation": found["LoRA"].memory["evaluate"], "LoRA at least": found["LoRA"].least}
        assert {way: row[way] for way in said} == {way: f"{size / GIB:.1f}" for way, size in said.items()}


def test_the_profile_can_be_used() -> None:
    found = placement.choose(None, str(ROOT / "examples" / "slurm" / "cluster.yaml"), ["time=8:00:00"])
    assert (found.name, found.options["partition"], found.options["time"]) == ("slurm", "gpu", "8:00:00")
    assert found.executor().setup[0] == "module load cuda"


# -- Kubernetes -------------------------------------------------------------------


def manifest() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(RAYJOB.read_text(encoding="utf-8"))
    return found


def mistakes(document: dict[str, Any]) -> list[str]:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(document)]


def test_the_manifest_is_what_kuberays_schema_asks_for() -> None:
    assert mistakes(manifest()) == []
    assert "Apache License 2.0" in json.loads(SCHEMA.read_text(encoding="utf-8"))["$comment"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("spec", "backoffLimits"), 3, "'backoffLimits' was unexpected"),
        (("spec", "ttlSecondsAfterFinished"), "600", "'600' is not of type 'integer'"),
        (("spec", "rayClusterSpec", "headGroupSpecs"), {}, "'headGroupSpecs' was unexpected"),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "containers", 0, "volumeMount"), [],
         "'volumeMount' was unexpected"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams"), {"num-cpus": 0}, "0 is not of type 'string'"),
    ],
)  # fmt: skip
def test_the_schema_finds_what_is_wrong(path: tuple[str | int, ...], value: Any, said: str) -> None:
    document = copy.deepcopy(manifest())
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert any(said in mistake for mistake in mistakes(document)), mistakes(document)


def test_the_manifest_runs_a_command_that_there_is() -> None:
    words = shlex.split(manifest()["spec"]["entrypoint"])
    assert words[:2] == ["unsay", "run"]
    options = [value for word, value in pairwise(words) if word == "--option"]
    made = placement.choose(None, words[words.index("--executor") + 1], options).executor()
    assert (made.address, made.num_gpus, made.num_cpus) == ("auto", 1, 4)
    known = {option for parameter in test_docs.parameters("run") for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert "run" in cli.commands()


def test_head_and_workers_share_the_lab_and_what_they_ask_for_fits() -> None:
    cluster = manifest()["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    claims = {
        (volume["persistentVolumeClaim"]["claimName"], mount["mountPath"])
        for group in groups
        for volume in group["template"]["spec"]["volumes"]
        for mount in group["template"]["spec"]["containers"][0]["volumeMounts"]
        if mount["name"] == volume["name"]
    }
    assert claims == {("unsay-lab", "/lab")}
    limits = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (int(limits["nvidia.com/gpu"]), int(limits["cpu"]) >= 4) == (1, True)
