"""Whatever a model wrote, or somebody called a folder: pages show it as text, and documents give it unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from tests.unit.lab import Arm, change_record, make
from tests.unit.web.site import Page, document, page
from unsay.records import Attempt, Counts, Key, Prompt, Trace
from unsay.store import layout, write

UNDO = "qwen3-4b/gsm8k/sft/lora/train_bt"
TRAIN = "qwen3-4b/gsm8k/sft/lora/train"
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "closing": "</pre></script></style></textarea></title><img src=x onerror=alert(1)>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "svg": "<svg onload=alert(1)><a xlink:href=javascript:alert(1)>",
    "link": "javascript:alert(1)",
    "template": "{{ 7 * 7 }}{% raw %}${7*7}<%= 7 %>",
    "entity": "&lt;b&gt; &#60;script&#62; &amp;",
    "bidi": "price \u202e54321\u202c \u2066x\u2069 \u200f",
    "terminal": "\x1b[2J\x1b]0;title\x07 \x00 \x9b31m \x7f",
    "surrogates": "half \ud83d and \udc80 other",
    "separators": "a\u2028b\u2029c\x85d\ufeffe\u200bf",
    "long word": "w" * 5000,
    "zalgo": "Z" + "\u0301" * 400,
}
ACTING = set(
    "\x00\x1b\x07\x9b\x7f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u2028\u2029\u200b\ufeff"
)
HUGE = "<b>1 MB</b> " * 87_400


def answers(folder: Path, texts: list[str]) -> None:
    """Replace everything that a model wrote in an experiment, and what it was asked."""
    lines = [{"prompt": text, "predict": text, "label": text} for text in texts]
    for name in (layout.TRACES, layout.PROMPTS):
        (folder / name).unlink(missing_ok=True)
    for path in folder.glob("samples_*"):
        docs = [
            {"doc_id": at, "doc": {"question": text, "answer": text}, "filter": "strict-match"}
            for at, text in enumerate(texts)
        ]
        path.write_text("".join(json.dumps(line) + "\n" for line in docs))
    write.write_bytes(folder / layout.PREDICTIONS, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    scores = [
        {"schema": 1, "item": str(at), "question": None, "label": str(at), "scores": {"exact_match_strict": 0.0}}
        for at in range(len(texts))
    ]
    write.write_bytes(folder / layout.SCORES, b"".join(json.dumps(line).encode() + b"\n" for line in scores))
    with write.Journal(folder / layout.TRACES) as traces, write.Journal(folder / layout.PROMPTS) as prompts:
        for at, text in enumerate(texts):
            key, piece = Key("gsm8k", at), text[:6000]
            counts = Counts(1, 1, 0, 0, 0, 0, (), (), None)
            traces.append(Trace(key, "p", "e", 0, (7,), (piece,), (7,), text, "max_steps", counts).to_json())
            prompts.append(Prompt(key, text, (7,), (piece,), "p").to_json())


def is_harmless(shown: Page) -> None:
    """Assert that a page has nothing but what our templates have: no script, handler, address or style of the lab's."""
    assert {str(script.get("src")) for script in shown.all("script")} == {"/static/sort.js", "/static/view.js"}
    for tag, attributes in shown.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base", "style", "b", "template", "math"), tag
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcdoc", "xlink:href")]
        for name in ("href", "src", "action"):
            address = attributes.get(name)
            assert address is None or address.startswith(("/", "#")), address
            assert address is None or not address.startswith("//"), address
    assert not ACTING & set(shown.html)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_are_text_everywhere(lab: Path, client: TestClient, name: str) -> None:
    text = HOSTILE[name]
    for folder in (UNDO, TRAIN):
        answers(lab / folder, [text, "calm"])
    addresses = [
        f"/experiments/{UNDO}", f"/samples/{UNDO}", f"/sample/{UNDO}?item=0",
        f"/compare?of={TRAIN}&of={UNDO}&item=0",
    ]  # fmt: skip
    for address in addresses:
        is_harmless(page(client, address))
    found = document(client, f"/sample/{UNDO}.json?item=0")
    assert found["answer"] == found["reference"] == found["prompt"] == found["question"] == text
    assert found["tokens"][0]["piece"] == text
    if text.isprintable():
        assert text in "".join(page(client, f"/sample/{UNDO}?item=0").texts)
    filtered = client.get(f"/samples/{UNDO}", params={"search": text.encode("utf-8", "replace")[:500]})
    is_harmless(Page(filtered.text))


def test_what_acts_on_the_screen_is_spelled_out(lab: Path, client: TestClient) -> None:
    answers(lab / UNDO, [HOSTILE["bidi"], HOSTILE["terminal"], HOSTILE["surrogates"]])
    assert "price ⟨U+202E⟩54321" in page(client, f"/sample/{UNDO}?item=0").text
    assert "␛[2J␛]0;title␇ ␀" in page(client, f"/sample/{UNDO}?item=1").text
    assert "half ⟨U+D83D⟩ and ⟨U+DC80⟩ other" in page(client, f"/sample/{UNDO}?item=2").text


def test_a_megabyte_is_shown_in_part_and_given_whole(lab: Path, client: TestClient) -> None:
    for folder in (UNDO, TRAIN):
        answers(lab / folder, [HUGE] * 3)
    assert len(HUGE) > 2**20
    for address in (f"/samples/{UNDO}", f"/compare?of={TRAIN}&of={UNDO}&item=0", f"/sample/{UNDO}?item=0"):
        shown = page(client, address)
        is_harmless(shown)
        assert len(shown.html) < 2**20
    assert "characters left out here" in page(client, f"/sample/{UNDO}?item=0").text
    assert document(client, f"/sample/{UNDO}.json?item=0")["answer"] == HUGE
    assert len(client.get(f"/samples/{UNDO}.json").content) < 10_000


@pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"long word", "zalgo"}))
def test_hostile_names_notes_and_errors_are_text(lab: Path, client: TestClient, name: str) -> None:
    text = HOSTILE[name]
    change_record(
        lab / UNDO,
        id=f"EXP {text}", model=text, config=text, notes=text, warnings=(text,),
        facts={text: text, "prompt_0": text}, hashes={"eval": text},
        spec={"settings": {"decode": {text: [text]}}},
    )  # fmt: skip
    attempt = Attempt(text, text, 1, "boot", outcome=text, error=text, hardware={text: text}, versions={text: text})
    failed = make(lab, Arm("EXP-020", config="broken", status="failed"))
    change_record(failed, attempts=(replace(attempt, timings={text: 1.0}),))
    for address in ("/", f"/?search={UNDO}", f"/experiments/{UNDO}", f"/samples/{UNDO}", "/experiments/EXP-020"):
        is_harmless(page(client, address))
    is_harmless(page(client, f"/compare?of={TRAIN}&of={UNDO}"))
    assert document(client, f"/experiments/{UNDO}.json")["notes"] == text
    is_harmless(Page(client.get("/", params={"model": text.encode("utf-8", "replace")}).text))


@pytest.mark.parametrize(
    "name",
    ["a <script> b", "a\"b'c", "100% & more?x=1#y", "caf\u00e9 \u202e", "tab\there", "line\nbreak", "un\udcff\udcfe"],
)
def test_folders_of_any_name_have_an_address(lab: Path, client: TestClient, name: str) -> None:
    make(lab, Arm("EXP-030", config=name, right=0.4))
    shown = page(client, "/?search=EXP-030")
    is_harmless(shown)
    (link,) = shown.all("a", data_open=True)
    for address in (str(link["href"]), str(link["href"]).replace("/experiments/", "/samples/")):
        opened = page(client, address)
        is_harmless(opened)
        assert "EXP-030" in opened.text
    found = document(client, str(link["href"]) + ".json")
    assert found["config"] == name


@pytest.mark.parametrize(
    "name", ["tab\there", "line\nbreak", "100%", "a%20b", "\x1b[2J", "un\udcff\udcfe", "caf\u00e9 \u202e"]
)
def test_marks_filters_and_items_of_any_name_are_understood(lab: Path, client: TestClient, name: str) -> None:
    folder = make(lab, Arm("EXP-030", method="sft", config=name, right=0.4))
    for place in (folder, lab / TRAIN):
        for file in (layout.SCORES, layout.TRACES):
            (place / file).unlink()
        lines = [
            {"schema": 1, "item": item, "question": None, "label": "l", "scores": {"exact_match_strict": 0.0}}
            for item in (name, *map(str, range(1, 200)))
        ]
        write.write_bytes(place / layout.SCORES, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    shown = page(client, "/")
    values = {str(box["aria-label"]): box["value"] for box in shown.all("input", name="of")}
    marked = [values["Compare EXP-003"], values["Compare EXP-030"]]
    compared = Page(client.get("/compare", params={"of": marked}).text)
    is_harmless(compared)
    assert "EXP-030 minus EXP-003" in compared.text
    hidden = [field["value"] for field in compared.all("input", type="hidden", name="of")]
    assert hidden[:2] == marked
    (item,) = [one["value"] for one in compared.all("button", name="item") if one["value"] in (name, quoted(name))]
    assert client.get("/compare.json", params={"of": marked, "item": item}).json()["item"]["item"] == name
    (option,) = [one["value"] for one in shown.all("option") if one["value"] in (name, quoted(name))]
    filtered = client.get("/", params={"config": option})
    assert "1 of 8 experiments" in Page(filtered.text).text
    assert Page(filtered.text).all("option", value=option, selected=True)
    link = page(client, f"/samples/{quoted(folder.relative_to(lab).as_posix())}").all("a", data_open=True)[0]
    assert document(client, str(link["href"]).replace("?", ".json?"))["item"] == name


def quoted(name: str) -> str:
    return quote(name.encode("utf-8", "surrogateescape"))
