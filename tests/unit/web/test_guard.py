"""Who is answered by the viewer, and with which headers: only a browser on this machine that shows its own pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from tests.unit.web.site import ADDRESS, visit
from unsay.store import layout
from unsay.web import guard


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "LOCALHOST:8765", "[::1]:8765"])
def test_its_own_addresses_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:8766", "localhost.evil.example:8765",
        "127.0.0.1:8765.evil.example", "127.0.0.1:8765@evil.example", "0.0.0.0:8765", "",
        " 127.0.0.1:8765,evil.example",
    ],
)  # fmt: skip
def test_a_name_that_was_made_to_mean_this_machine_is_refused(client: TestClient, host: str) -> None:
    for address in ("/", "/index.json", "/static/view.css", "/nothing"):
        answer = client.get(address, headers={"host": host})
        assert answer.status_code == 421
        assert "EXP-001" not in answer.text


@pytest.mark.parametrize("origin", ["http://evil.example", "https://127.0.0.1:8765", "http://localhost:8765", "null"])
def test_a_page_of_another_origin_is_refused(client: TestClient, origin: str) -> None:
    answer = client.get("/index.json", headers={"origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers
    assert client.get("/index.json", headers={"origin": ADDRESS}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"}, 403),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ({"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}, 200),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
    ],
)
def test_other_sites_may_only_be_left_by_a_link(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/index.json", headers=headers).status_code == status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_nothing_can_be_changed(lab: Path, client: TestClient, method: str) -> None:
    before = {path: path.stat().st_mtime_ns for path in lab.rglob("*") if path.is_file()}
    answer = client.request(method, "/experiments/EXP-001")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_head_is_the_headers_of_get(client: TestClient) -> None:
    answer = client.head("/")
    assert answer.status_code == 200
    assert answer.text == ""


@pytest.mark.parametrize(
    ("address", "status"),
    [("/", 200), ("/index.json", 200), ("/static/view.js", 200), ("/nothing", 404), ("/compare", 422)],
)
def test_every_answer_carries_the_headers(client: TestClient, address: str, status: int) -> None:
    answer = client.get(address)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in guard.HEADERS} == guard.HEADERS
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_a_refusal_and_a_mistake_of_ours_carry_them_too(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from unsay.web import pages

    def fails(*arguments: object) -> None:
        raise RuntimeError("a secret of ours")

    with visit(lab) as client:
        assert client.post("/").headers["x-content-type-options"] == "nosniff"
    monkeypatch.setattr(pages, "overview", fails)
    client = TestClient(client.app, base_url=ADDRESS, raise_server_exceptions=False)
    answer = client.get("/")
    assert answer.status_code == 500
    assert answer.headers["content-security-policy"] == guard.POLICY
    assert "secret" not in answer.text


def test_there_are_no_sockets(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/"):
        pass


@pytest.mark.parametrize(
    "path",
    ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static/",
     "/static//etc/passwd", "//etc/passwd"],
)  # fmt: skip
def test_only_the_files_of_the_pages_are_given(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text


def test_files_of_the_lab_itself_have_no_address(client: TestClient) -> None:
    for path in (layout.INDEX, "outputs/.index.sqlite", "qwen3-4b/gsm8k/sft/lora/train_bt/experiment.json"):
        assert client.get(f"/{path}").status_code == 404


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True)]
    + [(host, False) for host in ("0.0.0.0", "::", "192.168.0.1", "localhost.evil.example", "example.com", "")],
)
def test_loopback_is_this_machine_only(host: str, loopback: bool) -> None:
    assert guard.is_loopback(host) is loopback
