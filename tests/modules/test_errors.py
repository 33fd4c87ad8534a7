"""Errors become one sentence."""

from __future__ import annotations

import pytest
import torch

from modules.errors import OutOfMemory, out_of_memory

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
