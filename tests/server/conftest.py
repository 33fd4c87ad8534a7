"""The application of the other tests, for attacks on the whole of it."""

from __future__ import annotations

from tests.webui.conftest import client as client
from tests.webui.conftest import given as given
