"""`unsay export`: a trained adapter as a plain model that others load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.train.test_sft import FAST, Setting
from unsay import cli, merge
from unsay.answering import serve
from unsay.config import Model, trained_model
from unsay.errors import ConfigError
from unsay.evaluate.setup import open_model
from unsay.loading import load_model, read_undo_file
from unsay.model_names import named
from unsay.records import ExperimentRecord
from unsay.store import layout, read, write

FOLDER = Path("tiny") / "mine" / "sft" / "lora"


def record(id: str, identity: str, config: str, *, status: str = "completed") -> ExperimentRecord:
    spec = {"settings": {"training": {"lora_rank": 8}, "decode": {}}, "model": {"template": "plain"}}
    return ExperimentRecord(
        id=id,
        model="tiny",
        dataset="mine",
        method="sft",
        config=config,
        seed=0,
        status=status,
        identity=identity,
        spec=spec,
    )


@pytest.fixture(scope="module")
def made(tiny_models: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Setting]:
    """Return a lab with a trained adapter, which lies with the training that two experiments share."""
    lab = tmp_path_factory.mktemp("export") / "outputs"
    setting = Setting(tiny_models("qwen3", spare_rows=0))
    training = lab / FOLDER / "quick"
    setting.train(layout.train(training), FAST)
    write.write_json(
        layout.train(training) / layout.TRAINED, {"schema": 1, "completed": True, "identities": ["one", "two"]}
    )
    for id, identity in (("ONE", "one"), ("TWO", "two")):
        write.write_json(
            lab / FOLDER / f"quick+{identity}" / layout.EXPERIMENT, record(id, identity, identity).to_json()
        )
    untrained = record("NONE", "three", "three", status="pending")
    write.write_json(lab / FOLDER / "quick+three" / layout.EXPERIMENT, untrained.to_json())
    return lab, setting


def told(capsys: pytest.CaptureFixture[str], lab: Path, *arguments: str, code: int = 0) -> str:
    assert cli.main(["export", *arguments, "--output-dir", str(lab)]) == code
    out, err = capsys.readouterr()
    return err if code else out


def check_plain(folder: Path, lab: Path, setting: Setting) -> None:
    """What plain transformers loads from the folder is what was trained, undo token and all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trained = load_model(setting.path, None, layout.train(lab / FOLDER / "quick"))
    row = setting.rows[0]
    ids = torch.tensor([[*row.prompt_ids, *row.ids]])
    with torch.no_grad():
        ours, theirs = trained(input_ids=ids).logits, plain(input_ids=ids).logits
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / ours.abs().max()) < 1e-5
    undo = read_undo_file(folder / layout.UNDO_TABLE)
    control = setting.table.control("pop")
    assert undo.trained == (control,), "what no row of the data had is not taken for trained"
    assert (undo.table.control("pop"), undo.rows, undo.base_model, undo.context) == (control, 0, None, "keep")
    assert tokenizer.convert_tokens_to_ids(undo.table.names[control]) == control
    assert "assistant" not in tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False), "plain"
    assert setting.prompter.end_id in _list(plain.generation_config.eos_token_id)
    # unsay itself takes it as a model with undo, trained as it was.
    opened = open_model(Model("exported", str(folder)), device="cpu")
    assert opened.table == setting.table
    assert opened.context == "keep"


def test_a_plain_model_that_computes_the_same(made: tuple[Path, Setting], tmp_path: Path) -> None:
    lab, setting = made
    model = trained_model(lab / FOLDER / "quick+two", lab)
    assert model.experiment == f"{FOLDER.as_posix()}/quick"
    adapter = layout.train(lab / FOLDER / "quick")
    order = {"model": asdict(model), "adapter": str(adapter), "folder": str(tmp_path / "plain"), "dtype": "auto"}
    answer = merge.build(json.loads(json.dumps(order)))
    control = setting.table.control("pop")
    assert answer["controls"] == {setting.table.names[control]: control}
    check_plain(tmp_path / "plain", lab, setting)


def test_it_answers_by_its_id_too(made: tuple[Path, Setting]) -> None:
    """`unsay generate` and `unsay lm-eval` take a finished training by its id, as it was trained."""
    lab, setting = made
    found = named("TWO", lab)
    assert found.adapter == layout.train(lab / FOLDER / "quick")
    order = {"model": asdict(found.model), "adapter": str(found.adapter), "decode": {"max_new_tokens": 3}}
    events: list[dict[str, Any]] = []
    serve(iter([order, {"ask": 1, "prompt": "Tom has"}]), events.append, lambda ask: False)
    assert [events[0]["event"], events[-1]["event"]] == ["ready", "done"]
    assert events[0]["undo_table"] == setting.table.to_json()
    assert events[0]["decode"]["undo_context"] == "keep"
    with pytest.raises(ConfigError, match="NONE is pending, not completed; run it first"):
        named("NONE", lab)


@pytest.mark.slow
def test_the_command(made: tuple[Path, Setting], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab, setting = made
    folder = tmp_path / "deep" / "plain"
    found = json.loads(told(capsys, lab, "TWO", str(folder), "--json"))
    assert (found["id"], found["folder"], found["dtype"]) == ("TWO", str(folder), "float32")
    assert {path.name for path in folder.parent.iterdir()} == {"plain"}, "nothing is left beside it"
    check_plain(folder, lab, setting)
    assert "nothing is written over" in told(capsys, lab, "TWO", str(folder), code=1)
    copied = tmp_path / "lab"
    shutil.copytree(lab, copied)
    (layout.train(copied / FOLDER / "quick") / "adapter_model.safetensors").unlink()
    message = told(capsys, copied, "ONE", str(tmp_path / "out"), code=1)
    assert f"{tmp_path / 'out'} was not written: expected an adapter with adapter_model.safetensors" in message
    assert not (tmp_path / "out").exists()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(layout.TEMPORARY_PREFIX)]


def _list(value: int | list[int]) -> list[int]:
    return [value] if isinstance(value, int) else value


@pytest.mark.slow
def test_lm_eval_loads_it(made: tuple[Path, Setting], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import lm_eval.models  # noqa: F401
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lab, _ = made
    told(capsys, lab, "ONE", str(tmp_path / "plain"))
    model = HFLM(pretrained=str(tmp_path / "plain"), device="cpu", dtype="float32", batch_size=1)
    request = Instance("generate_until", {}, ("Tom has 2 apples", {"until": ["\n"], "max_gen_toks": 4}), 0)
    (answer,) = model.generate_until([request], disable_tqdm=True)
    assert isinstance(answer, str)


def test_nothing_is_written_that_cannot_be(
    made: tuple[Path, Setting], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, _ = made
    assert "NONE is pending, not completed; run it first" in told(capsys, lab, "NONE", str(tmp_path / "out"), code=1)
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "dangling", "."):
        assert "nothing is written over" in told(capsys, lab, "ONE", str(tmp_path / name), code=1)
    assert (tmp_path / "file").read_text() == "kept"
    assert {entry.name for entry in read.find(lab)} == {"ONE", "TWO", "NONE"}
