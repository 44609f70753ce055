"""What is secret never gets through; everything else does, unchanged."""

from __future__ import annotations

import io
import json
import os
from unittest import mock
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsay import redaction
from unsay.redaction import REDACTED, RedactedStream, found_in, redact, redacted

names = st.sampled_from(
    ["HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "AWS_SECRET", "DB_PASSWORD", "PGPASSWORD", "my_token", "APIKEY"]
)
# A lone surrogate cannot be in an environment, nor can a null byte.
characters = st.characters(codec="utf-8", exclude_characters="\0")
values = st.text(characters, min_size=redaction.SHORTEST, max_size=60).filter(
    lambda text: len(text.strip()) >= redaction.SHORTEST and len(set(text)) > 3 and text.strip() not in REDACTED
)
words = st.text(st.characters(codec="utf-8", categories=["L", "N", "Z"]), max_size=30)
user_info = st.from_regex(r"[\w.~!$&*+,;=%@:-]{1,30}", fullmatch=True)


def with_environment(**variables: str) -> mock._patch_dict:
    return mock.patch.dict(os.environ, variables, clear=True)


@given(names, values, words, words)
@settings(max_examples=200, deadline=None)
def test_a_token_of_the_environment_never_gets_through(name: str, value: str, before: str, after: str) -> None:
    with with_environment(**{name: value}):
        secret = value.strip()
        for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret)):
            assert form not in redact(f"{before}{form}{after}").replace(REDACTED, "")
        document = {"a": [f"{before} {secret}", {secret: 1.5}], "b": (None, True)}
        assert secret not in json.dumps(redacted(document), ensure_ascii=False).replace(REDACTED, "")
        assert redacted(document)["b"] == [None, True]


@given(user_info, words)
@settings(max_examples=200, deadline=None)
def test_what_stands_before_the_host_of_an_address_never_gets_through(secret: str, before: str) -> None:
    with with_environment():
        shown = redact(f"{before} https://{secret}@host.org/path/x.jsonl failed")
    assert shown == f"{redact(before)} https://{REDACTED}@host.org/path/x.jsonl failed"


@given(st.text(st.characters(codec="utf-8", exclude_characters="@=?&;"), max_size=200))
@settings(deadline=None)
def test_a_text_without_secrets_is_left_as_it_is(text: str) -> None:
    known = ("hf_", "sk-", "gh", "glpat", "xox", "AKIA", "earer", "EARER")
    with with_environment(HF_TOKEN="not in there 1234", HOME="/root", PWD="/root/12345678"):
        if not any(beginning in text for beginning in known):
            assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("git+https://tok3n@github.com/x/y.git", "git+https://[redacted]@github.com/x/y.git"),
        ("proxy http://u:p@ss@proxy:3128 refused", "proxy http://[redacted]@proxy:3128 refused"),
        ("GET /x?a=1&access_token=abc&b=2", "GET /x?a=1&access_token=[redacted]&b=2"),
        ("https://s3/x?X-Amz-Signature=0f0f", "https://s3/x?X-Amz-Signature=[redacted]"),
        ("{'Authorization': 'Bearer abcdefgh.ijk'}", "{'Authorization': 'Bearer [redacted]'}"),
        ("token hf_abcdefghijklmnopqrstuvwxyz is invalid", "token [redacted] is invalid"),
        ("Basic training of bearer bonds", "Basic training of bearer bonds"),
        ("no /data/https:/me:pw@host/x there", "no /data/https:/[redacted]@host/x there"),
        ("https://host/@user/page, 3 @ 5", "https://host/@user/page, 3 @ 5"),
    ],
)
def test_what_a_secret_looks_like(text: str, shown: str) -> None:
    with with_environment():
        assert redact(text) == shown


def test_which_variables_are_secret() -> None:
    environment = {
        "HF_TOKEN": "hf_12345678",
        "SSH_KEY": __file__,
        "MONKEY": "bananabanana",
        "PWD": "/home/somebody",
        "SHORT_KEY": "abc",
        "PRIVATE_KEY": "-----BEGIN-----\n0123456789\nab\n-----END-----",
        "TOKENIZERS_PARALLELISM": "false---",
    }
    found = redaction.secrets(environment)
    assert set(found.values()) == {"HF_TOKEN", "PRIVATE_KEY"}
    assert "0123456789" in found
    assert "ab" not in found


def test_a_stream_redacts_whole_lines_however_they_are_written() -> None:
    target = io.StringIO()
    with with_environment(HF_TOKEN="correct horse"):
        stream = RedactedStream(target)
        for part in ("it was corr", "ect ho", "rse\nbar 10%\rbar 20%\r", "end"):
            stream.write(part)
        assert target.getvalue() == f"it was {REDACTED}\nbar 10%\rbar 20%\r"
        stream.flush()
    assert target.getvalue().endswith("\rend")


def test_what_an_experiment_file_must_not_hold() -> None:
    known = {"correct horse": "HF_TOKEN"}
    assert "HF_TOKEN" in (found_in("notes: correct horse battery", known) or "")
    assert "password in an address" in (found_in("https://me:pw@host/data.jsonl", known) or "")
    assert "access token" in (found_in("hf_abcdefghijklmnopqrstuvwxyz", known) or "")
    for harmless in ("openai/gsm8k", "ssh://git@github.com/x/y", "a@b.org", "#### (.+)", "./data/test.jsonl"):
        assert found_in(harmless, known) is None
