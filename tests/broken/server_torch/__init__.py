import torch  # noqa: F401


def register(host):
    pass
