"""No request ends in a 500: what no route can use is answered by one sentence, on every route of the application."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given as given_some
from hypothesis import settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from modules.errors import UserError
from webui.security.bodies import FORMS, Parts, object_in
from webui.security.characters import whole
from webui.security.routes import routes_of

ODD_JSON = [
    '"\\ud800"',
    "NaN",
    "1e999",
    "1" * 5000,
    "[" * 3000,
    '{"a":' * 3000,
    "null",
    "[]",
    "{}",
    " ",
    '{"prompt": "\\ud800"}',
    '{"prompt": "a", "sampler": "\\udfff"}',
    '{"\\ud800": 1}',
    '{"prompt": "a", "steps": NaN}',
    '{"prompt": "a", "seed": 1e400}',
    '{"recipe": {"a": NaN}}',
    '{"recipe": {"a": -Infinity}}',
    '{"recipe": "\\ud800"}',
    '{"image": "\\ud800"}',
    '{"session_hash": "\\ud800", "fn_index": 0, "data": []}',
    '{"session_hash": 1, "fn_index": -1, "data": {}}',
    '{"session_hash": "x", "fn_index": 1e99, "data": [NaN]}',
    '{"session_hash": "x", "fn_index": 99999, "data": []}',
    '{"session_hash": "x", "fn_index": true, "data": null}',
    '{"session_hash": "x", "data": []}',
    '{"event_id": ["x"], "session_hash": null, "fn_index": 0, "data": []}',
    '{"component_id": 1, "fn_name": "x", "session_hash": "x", "data": 1}',
    "\xff\xfe",
]
NAMES = ["%00", str(10**23), "-1", "1" * 5000, "a" * 300, "..", "%ED%A0%80", "NaN", "%5B%3A"]
ENDLESS = re.compile(r".*(heartbeat|queue/data|dev/reload|stream)")
FORM = "multipart/form-data; boundary=xx"


def part(disposition: str) -> bytes:
    return f"--xx\r\nContent-Disposition: form-data{disposition}\r\n\r\nx\r\n--xx--\r\n".encode("latin-1")


ODD_FORMS = [
    (FORM, part("; name=\"files\"; filename*=UTF-8''a.png")),
    (FORM, part('; name="files"; filename*=')),
    (FORM, part('; name="files"')),
    (FORM, part('; name="files"; filename=""')),
    (FORM, part('; name="other"; filename="a.png"')),
    (FORM, part('; filename="a.png"')),
    (FORM, part("")),
    (FORM, part('; name="files"; filename="\xed\xa0\x80.png"')),
    (FORM, part('; name="files"; filename="a\0b"')),
    (FORM, part('; name="files"; filename="..') + part('; name="x"')),
    (FORM, b""),
    (FORM, b"x"),
    (FORM, b"--xx--"),
    ("multipart/form-data", b"x"),
    (f"multipart/form-data; boundary={'x' * 500}", b"x"),
    (f"{FORM}; charset=unicode_escape", part('; name="files"; filename="\\ud800.png"')),
    (f"{FORM}; charset=utf-7", part('; name="username"')),
    (f"{FORM}; charset=hex", part('; name="username"')),
]


def paths(client: TestClient, method: str) -> list[str]:
    """Those that answer at once; of twins with and without a slash, one."""
    found = {path.rstrip("/") or "/" for path, methods in routes_of(client.app) if method in methods}
    return sorted(path for path in found if not ENDLESS.match(path))


def filled(path: str, name: str = "1") -> str:
    return re.sub(r"{[^}]*}", lambda _: name, path)


def test_no_route_fails_on_odd_json(client: TestClient) -> None:
    """28 bodies, each on every route that is posted to."""
    asked = 0
    for path in paths(client, "POST"):
        for body in ODD_JSON:
            headers = {"content-type": "application/json"}
            answer = client.post(filled(path), content=body.encode("latin-1"), headers=headers)
            assert answer.status_code < 500, (path, body[:60], answer.text[:200])
            asked += 1
    assert asked > 28 * 15


def test_no_route_fails_on_odd_forms(client: TestClient) -> None:
    for path in paths(client, "POST"):
        some = ODD_FORMS if FORMS.fullmatch(path) else ODD_FORMS[7:9]
        for kind, body in some:
            answer = client.post(filled(path), content=body, headers={"content-type": kind}, follow_redirects=False)
            assert answer.status_code < 500, (path, kind, body[:90], answer.text[:200])


def test_no_route_fails_on_odd_names(client: TestClient) -> None:
    for path in paths(client, "GET"):
        if "{" in path:
            for name in NAMES:
                answer = client.get(filled(path, name))
                assert answer.status_code < 500, (path, name[:40], answer.text[:200])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/explain", b'{"prompt": "\\ud800"}'),
        ("/api/v1/replay", b'{"recipe": {"a": NaN}}'),
        ("/api/ext/none/none", b'{"a": 1e999}'),
        ("/gradio_api/queue/join", b'{"fn_index": 99999, "data": []}'),
        ("/gradio_api/upload", ODD_FORMS[0][1]),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_all_errors(client: TestClient, path: str, body: bytes) -> None:
    kind = FORM if path.endswith("upload") else "application/json"
    answer = client.post(path, content=body, headers={"content-type": kind})
    assert answer.status_code in (404, 422)
    assert answer.json().keys() == {"error", "detail", "field", "hint"}
    assert "\n" not in answer.json()["detail"]


@pytest.mark.parametrize("number", [10**23, 2**63, -1])
def test_a_picture_whose_number_is_none_is_not_there(client: TestClient, number: int) -> None:
    for end in ("", "/small"):
        answer = client.get(f"/api/v1/pictures/{number}{end}")
        assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")


def test_a_file_is_taken_as_before(client: TestClient) -> None:
    answer = client.post("/gradio_api/upload", files=[("files", ("a b\u00e9.png", b"x")), ("files", ("b.png", b"y"))])
    assert answer.status_code == 200
    assert len(answer.json()) == 2


def test_a_body_that_comes_in_crumbs_is_judged_as_a_whole() -> None:
    good, bad = part('; name="files"; filename="a.png"'), part('; name="files"')
    for body, fault in ((good, ""), (bad, "a part of the form is no file, or has no filename")):
        parts = Parts(b"xx")
        for number in range(len(body)):
            parts.read(body[number : number + 1], ended=number == len(body) - 1)
        assert parts.fault == fault


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given_some(st.dictionaries(st.text(st.characters()), JSON, max_size=4))
def test_what_passes_the_door_can_be_written_down_again(values: dict[str, object]) -> None:
    text = json.dumps(values)
    try:
        found = object_in(text.encode(), mended=True)
    except UserError:
        assert "NaN" in text or "Infinity" in text
        return
    assert found == json.loads(json.dumps(found, ensure_ascii=False, allow_nan=False).encode("utf-8"))
    assert found == json.loads(text) or "\\ud" in text


@settings(max_examples=150, deadline=None)
@given_some(st.text(st.characters(codec=None, exclude_categories=[])))
def test_a_text_loses_halves_of_characters_alone(text: str) -> None:
    found = whole(text)
    assert len(found) == len(text)
    assert all(a == b or (0xD800 <= ord(b) <= 0xDFFF and a == "\ufffd") for a, b in zip(found, text, strict=True))
    found.encode("utf-8")
