"""The device's policy, as far as a machine without a card can see it."""

from __future__ import annotations

import pytest
import torch

from modules.devices import DTYPES, Device, choose
from modules.errors import UserError


def test_unknown_device_or_number_type_is_named() -> None:
    with pytest.raises(UserError, match="no device named 'tpu'; there are auto, cpu, cuda, mps, xpu"):
        choose("tpu")
    with pytest.raises(UserError, match="no number type 'int4'"):
        choose("cpu", "int4")


def test_cpu_takes_bfloat16_only_where_it_has_units_for_it() -> None:
    able = torch.cpu.get_capabilities()
    fast = able.get("amx_bf16") or able.get("avx512_bf16")
    assert choose("cpu").dtype == (torch.bfloat16 if fast else torch.float32)
    assert choose("cpu", "float32").dtype == DTYPES["float32"]


def test_weights_are_copied_and_laid_out_for_the_device() -> None:
    device = Device(torch.device("cpu"), torch.float32)
    weight = torch.randn(8, 4, 3, 3)
    ready = device.weight(weight)
    assert ready.data_ptr() != weight.data_ptr()
    assert torch.equal(ready, weight)
    assert ready.is_contiguous(memory_format=torch.channels_last)


def test_prepared_module_computes_what_it_did_before() -> None:
    device = Device(torch.device("cpu"), torch.float32)
    conv = torch.nn.Conv2d(4, 8, 3)
    x = torch.randn(2, 4, 9, 9)
    expected = conv(x)
    assert torch.allclose(device.prepare(conv)(device.place(x)), expected, atol=1e-5)


def test_the_processor_is_told_with_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert Device(torch.device("cpu"), torch.float32).processor().endswith(", 1 thread")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert Device(torch.device("cpu"), torch.float32).processor().endswith(", 8 threads")


def test_only_float16_has_a_wider_format_to_go_on_in(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, card = torch.device("cpu"), torch.device("cuda", 0)
    assert Device(cpu, torch.float32).wider() is None
    assert Device(cpu, torch.bfloat16).wider() is None
    assert Device(cpu, torch.float16).wider() == Device(cpu, torch.bfloat16)
    half = Device(card, torch.float16, graphs=True, shares_prefix=True)
    for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able, **_: able)
        assert half.wider() == Device(card, expected, graphs=True, shares_prefix=True)


def test_a_card_takes_as_many_as_four_fifths_of_its_free_memory_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda _: (600, 10_000))
    monkeypatch.setattr(torch.accelerator, "memory_reserved", lambda _: 700)
    monkeypatch.setattr(torch.accelerator, "memory_allocated", lambda _: 300)  # 400 are kept for what comes
    card = Device(torch.device("cuda", 0), torch.float16)
    assert [card.fits(size, most=8) for size in (50, 100, 200, 800, 801)] == [8, 8, 4, 1, 1]
    assert Device(torch.device("cpu"), torch.float32).fits(10**12, most=8) == 8
