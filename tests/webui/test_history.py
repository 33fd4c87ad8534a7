"""The history's routes and HTML."""

from __future__ import annotations

import io
import time
from types import SimpleNamespace
from typing import Any

from PIL import Image
from starlette.testclient import TestClient

from webui.html.history import tiles_html
from webui.services import Services

HOSTILE = '"><img src=x onerror=alert(1)>'


def saved(given: Services, owner: str, name: str) -> int:
    """The number of a picture that a job of ``owner`` has saved."""
    store: Any = given.queue.store  # type: ignore[attr-defined]
    path = given.outputs_dir / name
    Image.new("RGB", (640, 320), "teal").save(path)
    job = store.submit(owner, {"kind": "txt2img"}, "script")  # of a kind that no worker takes
    store.claim("test", script=True)
    store.finish(job.id, {"images": [{"path": str(path)}]})
    number: int = store.pictures(owner)[0].number
    return number


def test_a_picture_and_its_small_copy_are_served_to_their_owner(client: TestClient, given: Services) -> None:
    number = saved(given, "local", "mine.png")
    whole = client.get(f"/api/v1/pictures/{number}")
    assert whole.content == (given.outputs_dir / "mine.png").read_bytes()
    small = client.get(f"/api/v1/pictures/{number}/small")
    assert "private" in small.headers["cache-control"]
    with Image.open(io.BytesIO(small.content)) as image:
        assert (image.format, image.size) == ("WEBP", (256, 128))


def test_others_pictures_and_none_at_all_are_not_found_alike(client: TestClient, given: Services) -> None:
    theirs = saved(given, "somebody", "theirs.png")
    for number in (theirs, 10**9, 0, -1):
        for path in (f"/api/v1/pictures/{number}", f"/api/v1/pictures/{number}/small"):
            answer = client.get(path)
            assert answer.status_code == 404
            assert answer.json()["detail"] == "there is no such picture; it may have been deleted"
    assert client.get("/api/v1/pictures/..%2F..%2Fetc%2Fpasswd").status_code in (404, 422)


def test_what_came_to_nothing_is_told_in_sentences_and_nothing_of_it_is_html() -> None:
    def job(state: str, images: int = 0, **error: str) -> Any:
        spec = {"params": {"prompt": HOSTILE}}
        return SimpleNamespace(id="1", spec=spec, state=state, output={"images": [{}] * images}, error=error)

    jobs = [job("failed", detail=HOSTILE), job("cancelled"), job("cancelled", images=2)]
    picture: Any = SimpleNamespace(number=7, kind=HOSTILE, created=time.time(), path="/x", job="1")
    html = tiles_html([picture], 1234, unmade=jobs)
    assert "<img src=x" not in html
    assert "1,234 pictures" in html
    assert "Without a picture: 1 failed, 1 stopped" in html
    assert html.count("<li>") == 2
    assert 'src="api/v1/pictures/7/small"' in html
    assert "The file is gone" in tiles_html([picture], 1, gone={7})
    assert "Nothing was made yet" in tiles_html([], 0)
