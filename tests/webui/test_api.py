"""Our own HTTP API."""

from __future__ import annotations

from starlette.testclient import TestClient


def test_prompt_is_explained(client: TestClient) -> None:
    answer = client.post("/api/v1/explain", json={"prompt": "(a fox:1.3) in [snow", "steps": "12", "foreign": 1})
    assert answer.status_code == 200
    told = answer.json()["prompt"]
    assert told["parts"][0]["passes"][0]["steps"] == 12
    weights = {t["text"]: t["weight"] for c in told["texts"][0]["chunks"] for t in c["tokens"]}
    assert weights["fox"] == 1.3
    assert [warning["column"] for warning in told["warnings"]] == [16]


def test_mistake_is_named_with_its_field(client: TestClient) -> None:
    answer = client.post("/api/v1/explain", json={"prompt": "a", "sampler": "Eulr"})
    assert answer.status_code == 422
    assert answer.json()["field"] == "sampler"
    assert "did you mean 'Euler'?" in answer.json()["detail"]


def test_foreign_pages_get_no_answer(client: TestClient) -> None:
    answer = client.post("/api/v1/explain", json={"prompt": "a"}, headers={"origin": "http://evil.example"})
    assert answer.status_code == 403
