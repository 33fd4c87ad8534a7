"""The front end: a Gradio page inside a FastAPI application.

Gradio is imported here, before any of our files can, because of what it reads from the environment when it is
imported. A default start looks up huggingface.co and api.gradio.app, and nothing may leave the machine. It also makes
clients for HTTP, and what the environment says of proxies and certificates can end them: ``ALL_PROXY=socks5://...``
asks for a package that is not there, ``http_proxy=ftp://...`` for a scheme that no client knows. Ours ask nobody
anything, so that is hidden from them, and put back afterwards: the worker, pip and what extensions start are other
processes, which get the environment as its owner made it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

OURS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "GRADIO_MCP_SERVER": "False",
    "GRADIO_SHARE": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
API_ONLY = "REPRISE_API_ONLY"
"""In the environment, where `app.py` puts it: the page will not be served, and Gradio is not imported."""
CERTIFICATES = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"})
"""Certificate variables: naming a missing file makes HTTP clients fail on creation."""


def is_for_clients(name: str) -> bool:
    """Whether an environment variable configures HTTP clients (proxies, certificates). Any name with a proxy suffix
    counts, as in `urllib.request.getproxies`; some of Hugging Face's hold numbers that are read at import.
    """
    return name.lower().endswith("_proxy") or name in CERTIFICATES or name.startswith("HF_")


@contextmanager
def no_clients() -> Iterator[None]:
    """Remove the variables for HTTP clients within the block."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if is_for_clients(name) and name not in OURS}
    try:
        yield
    finally:
        os.environ.update(hidden)


# What Gradio is told is told by us alone: a GRADIO_ALLOWED_PATHS would add to the files that are served, and a
# GRADIO_SERVER_PORT that is no number ends the import.
for _name in [name for name in os.environ if name.startswith("GRADIO_")]:
    del os.environ[_name]
os.environ.update(OURS)
if API_ONLY not in os.environ:
    with no_clients():
        import gradio as gradio
