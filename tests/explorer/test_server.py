"""Only the page itself is answered, and only what it may ask."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from gradsam_exp.errors import InputError
from gradsam_exp.explorer.server import application, listen
from gradsam_exp.explorer.views import Explorer
from tests.explorer.test_views import picture

TOKEN, PORT = "s3cret", 8123
HERE = f"http://127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def client(explorer: Explorer) -> TestClient:
    return TestClient(application(explorer, TOKEN, PORT, most_upload=100_000), base_url=HERE)


def ask(client: TestClient, kind: str, question: Any, **headers: str) -> Any:
    return client.post(f"/ask/{kind}", json={"page": "p", **question}, headers={"X-Token": TOKEN, **headers})


def last(answer: Any) -> dict[str, Any]:
    return json.loads(answer.text.splitlines()[-1])


def test_the_page_is_whole_and_may_ask_nobody_else(client: TestClient):
    answer = client.get("/", params={"token": TOKEN})
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "unsafe" not in policy
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert answer.text.count("<script") == answer.text.count(f'nonce="{nonce}"') - answer.text.count("<style")
    assert nonce not in client.get("/", params={"token": TOKEN}).headers["content-security-policy"]
    assert TOKEN not in answer.text
    assert answer.headers["referrer-policy"] == "no-referrer"


def test_questions_are_answered_in_lines(client: TestClient):
    answer = ask(client, "picture", {"state": {"choices": {"pipeline": "box"}, "image": 1}})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert last(answer)["answer"]["command"].endswith("pipeline=box")
    wrong = ask(client, "picture", {"state": {"choices": {"pipeline": "bx"}}})
    assert last(wrong)["error"].startswith("pipeline='bx' is not known; did you mean 'box'?")
    sweep = client.post(
        "/sweep", json={"page": "p", "varied": {"bg_threshold": [0.1, 0.2]}}, headers={"X-Token": TOKEN}
    )
    assert sweep.json()["command"].endswith(" bg_threshold=0.1,0.2")


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"X-Token": "wrong"}, 401),
        ({"X-Token": ""}, 401),
        ({"Host": "evil.example"}, 400),
        ({"Host": f"evil.example:{PORT}"}, 400),
        ({"Host": "127.0.0.1:1"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": HERE}, 200),
        ({"Host": f"localhost:{PORT}", "Origin": f"http://localhost:{PORT}"}, 200),
    ],
)
def test_who_is_not_the_page_is_refused(client: TestClient, headers: dict[str, str], code: int):
    answer = ask(client, "names", {}, **headers)
    assert answer.status_code == code
    assert client.get("/", params={"token": headers.get("X-Token", TOKEN)}, headers=headers).status_code == code


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/..%2f..%2fetc/passwd", "/ask/..%2f..%2fetc%2fpasswd", "/static/x", "/ask/close", "/docs"],
)
def test_no_path_is_read(client: TestClient, path: str):
    for method in ("GET", "POST"):
        assert client.request(method, path, headers={"X-Token": TOKEN}).status_code in (404, 405)


@pytest.mark.parametrize(
    "question",
    [
        {"state": {"image": -1}},
        {"state": {"image": "../1"}},
        {"state": {"knobs": {"explainer.target": "${oc.env:HOME}"}}},
        {"state": {"hand": {"points": [[1, 1, 2]]}}},
        {"state": {"hand": {"points": [[1e9, 1, 1]]}}},
        {"values": list(range(21))},
        {"path": "/etc/passwd"},
        {"page": "x" * 41},
    ],
)
def test_questions_that_are_none_are_refused(client: TestClient, question: Any):
    answer = ask(client, "picture", question)
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_what_is_too_large_is_refused_before_it_is_read(client: TestClient):
    assert ask(client, "picture", {"page": "x" * 2_000_000}).status_code == 413
    long = client.post("/upload", content=b"x" * 100_001, headers={"X-Token": TOKEN})
    assert long.status_code == 413
    assert "task.max_upload_mb" in long.json()["error"]
    taken = client.post("/upload", params={"name": "a.png"}, content=picture(), headers={"X-Token": TOKEN})
    assert last(taken)["answer"]["name"] == "a.png"


def test_a_port_in_use_is_refused():
    with listen(0) as opened:
        opened.listen()
        with pytest.raises(InputError, match=r"^task\.port=\d+ cannot be used"):
            listen(opened.getsockname()[1])
