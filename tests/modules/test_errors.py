"""Errors become one sentence."""

from __future__ import annotations

import pytest
import torch

from modules.errors import OutOfMemory, RepriseError, out_of_memory, without_folders

OF_A_CARD = (
    "CUDA out of memory. Tried to allocate 96.00 GiB. GPU 0 has a total capacity of 79.19 GiB of which 71.50 GiB is "
    "free. Process 1 has 7.69 GiB memory in use. If reserved but unallocated memory is large try setting "
    "PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation."
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(OF_A_CARD),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_a_card_without_room_is_one_sentence(error: Exception) -> None:
    assert str(out_of_memory(error)) == "the card has too little memory for this; make the picture or the batch smaller"


def test_a_machine_without_room_is_one_sentence() -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**50)
    for error in (found.value, MemoryError()):
        assert str(out_of_memory(error)).startswith("this machine has too little memory for this; ")


@pytest.mark.parametrize("error", [RuntimeError("expected 4 channels"), ValueError("out of memory"), KeyError(1)])
def test_other_errors_are_none_of_memory(error: Exception) -> None:
    assert out_of_memory(error) is None


def test_the_sentence_stays_itself() -> None:
    told = OutOfMemory("x")
    assert out_of_memory(told) is told


def test_a_place_on_the_disk_is_told_at_the_machine_alone() -> None:
    told = RepriseError("there is no checkpoint in models", hint="put one there", place="/home/ada/models")
    assert "/home" not in f"{told} {told.as_json()}"
    assert told.with_place == "there is no checkpoint in models; put one there (/home/ada/models)"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(13, "Permission denied", "/home/ada b/models/a.ckpt"), "Permission denied: 'a.ckpt'"),
        (OSError(18, "Invalid link", "/home/a.part", None, "/mnt/b"), "Invalid link: 'a.part' -> 'b'"),
        (OSError("cannot identify image file '/home/ada/in/x.png'"), "cannot identify image file 'x.png'"),
        (ValueError("C:\\Users\\ada\\x.png is cut off\nsecond line"), "x.png is cut off"),
        (
            RuntimeError("shapes 4/8 and 1/2, see https://a.example/b/c"),
            "shapes 4/8 and 1/2, see https://a.example/b/c",
        ),
        (KeyError("down_blocks/0/resnets"), "'down_blocks/0/resnets'"),
    ],
)
def test_unexpected_errors_name_files_without_their_folders(error: Exception, told: str) -> None:
    assert without_folders(error) == told
