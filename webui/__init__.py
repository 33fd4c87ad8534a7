"""The front end: a Gradio page inside a FastAPI application.

Gradio reads these when it is imported, so they are set here, before any of our files imports it: a default start looks
up huggingface.co and api.gradio.app, and nothing may leave the machine.
"""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_RUN_HISTORY"] = "False"
os.environ["GRADIO_MCP_SERVER"] = "False"
os.environ["GRADIO_SHARE"] = "False"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
