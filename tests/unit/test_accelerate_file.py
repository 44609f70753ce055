"""Accelerate config files: what is taken, what is refused and why; the shipped ones are accelerate's, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from unsay import cli
from unsay.accelerate_file import PLAIN, read, refusals
from unsay.errors import ConfigError
from unsay.settings import Training

EXAMPLES = Path(__file__).parents[2] / "examples" / "accelerate"


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_the_shipped_files_are_read_by_unsay_and_by_accelerate(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import DistributedType

    file = EXAMPLES / f"{name}.yaml"
    assert file.read_text().startswith(f"# unsay run lab.yaml --accelerate examples/accelerate/{name}.yaml\n")
    found = read(file)
    assert found is not None
    theirs = load_config_from_file(str(file))  # refuses keys it does not know
    assert theirs.distributed_type == {"ddp": DistributedType.MULTI_GPU, "fsdp": DistributedType.FSDP}[name]
    assert theirs.num_processes == found["num_processes"] == 2
    assert theirs.mixed_precision == "no"
    if name == "ddp":
        assert found == {**PLAIN, "num_processes": 2}
    else:
        assert theirs.fsdp_config == found["fsdp_config"]


def test_a_number_alone_is_ddp_and_goes_before_the_files() -> None:
    assert read(None) is None
    assert read(None, 1) is None
    assert read(None, 3) == {**PLAIN, "num_processes": 3}
    fsdp = read(EXAMPLES / "fsdp.yaml", 8)
    assert fsdp is not None
    assert (fsdp["num_processes"], fsdp["distributed_type"]) == (8, "FSDP")
    assert read(EXAMPLES / "fsdp.yaml", 1) is None


def changed(name: str, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text())
    return {key: value for key, value in (content | changes).items() if value != "absent"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            changed("ddp", distributed_type="DEEPSPEED"),
            r"distributed_type: expected MULTI_GPU or FSDP .*, got DEEPSPEED",
        ),
        (changed("ddp", num_machines=2), r"num_machines: expected 1 \(unsay trains on one machine\), got 2"),
        (changed("ddp", mixed_precision="bf16"), r"mixed_precision: expected no .*setting `bf16`.*, got bf16"),
        (changed("ddp", num_proceses=2), r"unknown key 'num_proceses'; did you mean 'num_processes'"),
        (changed("ddp", num_processes="absent"), r"num_processes: expected a number from 1 up, got None"),
        (changed("ddp", num_processes=True), r"num_processes: expected a number from 1 up, got True"),
        (changed("fsdp", fsdp_config="absent"), r"fsdp_version: expected 2 .*, got None"),
        (changed("fsdp", fsdp_config={"fsdp_version": 1}), r"fsdp_version: expected 2 .*, got 1"),
        (
            changed("fsdp", fsdp_config={"fsdp_version": 2, "fsdp_offload_params": True}),
            r"fsdp_offload_params: expected False .*, got True",
        ),
        ([1], r"expected the keys of an accelerate config file, got list"),
    ],
    ids=str,
)
def test_what_would_be_ignored_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        read(file)


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text(yaml.safe_dump(changed("fsdp", num_machines=2, mixed_precision="fp16", nothing=1)))
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert len(caught.value.mistakes) == 3
    with pytest.raises(ConfigError, match="expected an accelerate config file"):
        read(tmp_path / "none.yaml")


def test_what_a_training_cannot_do_in_a_group_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fsdp, ddp = read(EXAMPLES / "fsdp.yaml"), read(None, 2)
    assert fsdp is not None
    assert ddp is not None
    assert refusals(fsdp, Training()) == refusals(ddp, Training(quantization_bit=4)) == []
    assert "use DDP" in refusals(fsdp, Training(quantization_bit=4))[0]
    assert refusals({**ddp, "num_processes": 32}, Training()) == []
    assert "at most 32 training processes" in refusals({**ddp, "num_processes": 33}, Training())[0]

    monkeypatch.chdir(tmp_path)
    (tmp_path / "lab.yaml").write_text(
        "experiments:\n"
        "  - {model: unsay-tiny, dataset: wordproblems, method: sft, config: lora/train, quantization_bit: 4}\n"
        "  - {model: unsay-tiny, dataset: wordproblems, method: vanilla, config: fewshot_0}\n"
    )
    command = ["run", "lab.yaml", "--dry-run", "--accelerate", str(EXAMPLES / "fsdp.yaml")]
    assert cli.main(command) == 1
    assert "unsay-tiny/wordproblems/sft/lora/train+bits4: quantization_bit: expected weights" in capsys.readouterr().err
    assert cli.main(["run", "lab.yaml", "--dry-run", "--processes", "2"]) == 0
    capsys.readouterr()
    for options, words in ((["--device", "cuda:1"], "is one device"), (["--rehearse"], "exclude each other")):
        assert cli.main(["run", "lab.yaml", "--processes", "2", *options]) == 2
        assert words in capsys.readouterr().err
