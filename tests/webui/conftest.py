"""The real application with a painter for a model, within this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from tests.webui.fake_server import services
from webui.server import create_app
from webui.services import Services

ORIGIN = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with services(tmp_path_factory.mktemp("data")) as made:
        yield made


@pytest.fixture(scope="module")
def client(given: Services) -> Iterator[TestClient]:
    """What a page of ours would send: the right Host, and the same origin where a browser says so."""
    with TestClient(create_app(given), base_url=ORIGIN, raise_server_exceptions=False) as made:
        yield made
