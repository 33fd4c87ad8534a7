"""How a path finds its route among those of the APIs."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from webui.api.parsed import Below


def test_a_path_elsewhere_is_held_against_no_route() -> None:
    tried: list[str] = []

    class Noted(APIRoute):
        def matches(self, scope: Any) -> Any:
            tried.append(scope["path"])
            return super().matches(scope)

    app = FastAPI()
    for prefix in ("/a", "/b"):
        routes = Below(prefix=prefix, route_class=Noted)
        routes.add_api_route("/x/{name}", lambda name: name, methods=["POST"])
        app.include_router(routes)
    client = TestClient(app)
    assert client.post("/a/x/one").json() == "one"
    tried.clear()
    assert client.post("/b/x/two").json() == "two"
    from_a = len(tried)
    tried.clear()
    assert client.post("/a/x/two").json() == "two"
    assert from_a == len(tried) > 0  # nothing was tried in vain
    tried.clear()
    assert [client.get(path).status_code for path in ("/ab/x/1", "/", "/c/x/1")] == [404] * 3 and not tried
    assert client.get("/b/x/two").status_code == 405
    assert TestClient(app, root_path="/sub").post("/sub/b/x/three").json() == "three"
