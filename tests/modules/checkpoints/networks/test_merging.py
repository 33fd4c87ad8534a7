"""Networks on a model's weights: what is added, and that nothing is left of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from modules.checkpoints.fingerprint import digest, fingerprint
from modules.checkpoints.model import LatentDiffusion, load
from modules.checkpoints.networks.files import Network
from modules.checkpoints.networks.kinds import Change, change_of
from modules.checkpoints.networks.merging import Applied, Patch, Step, fitting, merged, places_of
from modules.checkpoints.tiny import write_tiny_checkpoint
from modules.devices import Device
from modules.nn import openclip

PLAIN = Device(torch.device("cpu"), torch.float32)
QUERY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
TEXT = "lora_te_text_model_encoder_layers_0_mlp_fc1"
NORM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_norm1"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny.safetensors", seed=5)


@pytest.fixture
def model(path: Path) -> LatentDiffusion:
    return load(path, PLAIN)


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def change(parts: dict[str, Tensor]) -> Change:
    found = change_of(parts)
    assert found is not None
    return found


def lora(seed: int, out: int, *into: int, rank: int = 2) -> Change:
    up = (out, rank, 1, 1) if len(into) == 3 else (out, rank)
    return change({"lora_up.weight": random(seed, *up), "lora_down.weight": random(seed + 1, rank, *into)})


def network(seed: int) -> Network:
    changes = {QUERY: lora(seed, 4, 4), CONV: lora(seed + 10, 4, 4, 3, 3), TEXT: lora(seed + 20, 8, 4)}
    changes[NORM] = change({"w_norm": random(seed + 30, 4), "b_norm": random(seed + 31, 4)})
    return Network(Path("ink.safetensors"), changes)


def on(seed: int, strength: float = 1.0) -> Applied:
    return Applied(("ink", seed), network(seed), strength, strength)


def query(model: LatentDiffusion) -> torch.nn.Linear:
    return model.unet.get_submodule("input_blocks.1.1.transformer_blocks.0.attn1.to_q")  # type: ignore[return-value]


def test_a_weight_is_its_own_and_the_products_of_the_factors(model: LatentDiffusion) -> None:
    before, patch = query(model).weight.clone(), Patch(model)
    parts = network(1).changes[QUERY].parts
    assert patch.put([on(1, 0.5)])
    wanted = before + 0.5 * parts["lora_up.weight"] @ parts["lora_down.weight"]
    torch.testing.assert_close(query(model).weight.data, wanted)


def test_convolutions_norms_and_texts_change_too(model: LatentDiffusion) -> None:
    conv = model.unet.get_submodule("input_blocks.1.0.in_layers.2")
    norm = model.unet.get_submodule("input_blocks.1.1.transformer_blocks.0.norm1")
    text = model.text[0].get_submodule("encoder.layers.0.mlp.fc1")
    before = [module.weight.clone() for module in (conv, norm, text)]  # type: ignore[operator]
    Patch(model).put([on(1)])
    changes = network(1).changes
    up, down = (changes[CONV].parts[f"lora_{side}.weight"] for side in ("up", "down"))
    delta = torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down)
    torch.testing.assert_close(conv.weight.data, before[0] + delta)
    torch.testing.assert_close(norm.weight.data, before[1] + changes[NORM].parts["w_norm"])
    up, down = (changes[TEXT].parts[f"lora_{side}.weight"] for side in ("up", "down"))
    torch.testing.assert_close(text.weight.data, before[2] + up @ down)


def test_after_any_sets_the_weights_are_the_files_own_bytes(model: LatentDiffusion) -> None:
    bits, shape, patch = digest(model), fingerprint(model), Patch(model)
    for applied in ([on(1)], [], [on(2, 0.7)], [on(1), on(2)], [on(1, -1.5)]):
        patch.put(applied)
        assert (digest(model) == bits) == (not applied)
        patch.suspend()
        assert digest(model) == bits and fingerprint(model) == shape


def test_where_there_is_no_room_weights_change_in_their_place_and_come_back(path: Path) -> None:
    with torch.inference_mode():
        model = load(path, PLAIN)
        roomy, bits, shape = load(path, PLAIN), digest(model), fingerprint(model)
        patch = Patch(model, budget=0)
        for applied in ([on(1)], [on(1, 0.3), on(2)]):
            patch.put(applied)
            changed = digest(model)
            beside = Patch(roomy)
            beside.put(applied)
            assert digest(roomy) == changed != bits
            beside.suspend()
        patch.suspend()
        assert digest(model) == bits and fingerprint(model) == shape


def test_what_was_made_stays_for_the_next_batch_that_wants_the_same(model: LatentDiffusion) -> None:
    patch = Patch(model)
    patch.put([on(1)])
    made = query(model).weight
    patch.suspend()
    assert query(model).weight is not made
    patch.put([on(1)])
    assert query(model).weight is made
    assert not patch.put([on(1)])


def test_only_layers_whose_strength_changes_are_made_again(model: LatentDiffusion) -> None:
    patch, changing = Patch(model), on(1)
    patch.put([changing])
    text = model.text[0].get_submodule("encoder.layers.0.mlp.fc1")
    before = text.weight, query(model).weight
    patch.put([Applied(changing.key, changing.network, 1.0, 0.25)])
    assert text.weight is before[0] and query(model).weight is not before[1]


@pytest.mark.parametrize("shape", [(70, 100), (7, 32, 3, 3), (70, 100, 1, 1)])
def test_a_sum_is_written_where_there_is_room_for_it(shape: tuple[int, ...]) -> None:
    """It is that of float64 there too, whatever lay there before, and the weight stays as it was."""
    torch.manual_seed(0)
    out, rest = shape[0], torch.Size(shape[1:]).numel()
    weight = torch.randn(shape)
    if len(shape) == 4:
        weight = weight.to(memory_format=torch.channels_last)
    before = weight.clone()
    pairs = [(torch.randn(out, 4), torch.randn(4, rest)) for _ in range(2)]
    changes = [change_of({"lora_up.weight": up, "lora_down.weight": down.reshape(4, *shape[1:])}) for up, down in pairs]
    into, wrong = torch.full_like(weight, torch.nan), torch.full_like(weight, 5.0, dtype=torch.float64)
    steps = [Step(one, 0.5) for one in changes if one]
    total = merged(weight, steps, lambda step: pytest.fail("it fits"), into)
    other = merged(weight, steps, lambda step: pytest.fail("it fits"), wrong)
    deltas = [0.5 * up.double() @ down.double() for up, down in pairs]
    wanted = before.double() + torch.stack(deltas).sum(0).reshape(shape)
    assert total is not None and other is not None and total.data_ptr() == into.data_ptr()
    assert torch.equal(other, total) and other.dtype == torch.float32 and bool((wrong == 5).all())
    torch.testing.assert_close(total.double(), wanted, rtol=1e-6, atol=2e-6)
    assert torch.equal(weight, before)


def test_an_error_while_others_are_made_leaves_the_weights_as_they_were(
    model: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits, shape, patch = digest(model), fingerprint(model), Patch(model)
    patch.put([on(1)])
    assert digest(model) != bits

    def out_of_memory(*given: object) -> None:
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr("modules.checkpoints.networks.merging.merged", out_of_memory)
        with pytest.raises(MemoryError):
            patch.put([on(2)])
    patch.suspend()
    assert digest(model) == bits and fingerprint(model) == shape
    patch.put([on(1)])
    again = digest(model)
    patch.suspend()
    fresh = Patch(model)
    fresh.put([on(1)])
    assert digest(model) == again
    fresh.suspend()


def test_several_loras_at_once_are_their_sum(model: LatentDiffusion) -> None:
    before, patch = query(model).weight.clone(), Patch(model)
    patch.put([on(1, 0.5), on(2, 0.25), on(3, -1.0)])
    deltas = [
        s * network(n).changes[QUERY].parts["lora_up.weight"] @ network(n).changes[QUERY].parts["lora_down.weight"]
        for n, s in ((1, 0.5), (2, 0.25), (3, -1.0))
    ]
    torch.testing.assert_close(query(model).weight.data, before + sum(deltas))


def test_a_merged_layer_answers_as_the_layer_with_the_network_beside_it() -> None:
    """In each number format within its rounding."""
    x, layer = random(7, 16, 32), torch.nn.Linear(32, 24)
    ink = lora(3, 24, 32, rank=4)
    up, down = ink.parts["lora_up.weight"], ink.parts["lora_down.weight"]
    beside = layer(x) + 0.8 * (x @ down.T) @ up.T
    for dtype, rounding in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)):
        total = merged_of(layer.weight.data.to(dtype), ink, 0.8)
        answer = x @ total.float().T + layer.bias
        assert (answer - beside).abs().max() <= rounding * beside.abs().max()


def merged_of(weight: Tensor, ink: Change, strength: float) -> Tensor:
    total = merged(weight, [Step(ink, strength)], lambda step: pytest.fail("it fits"))
    assert total is not None
    return total


def test_a_change_of_another_shape_is_counted_and_leaves_the_weight(model: LatentDiffusion) -> None:
    bits, patch = digest(model), Patch(model)
    wrong = Network(Path("xl.safetensors"), {QUERY: lora(1, 640, 640), CONV: change({"diff": random(1, 5, 5)})})
    patch.put([Applied("xl", wrong, 1.0, 1.0)])
    assert patch.misfits == {"xl": {QUERY, CONV}} and digest(model) == bits


def test_eight_bit_weights_are_merged_in_the_type_of_the_computations(path: Path) -> None:
    model = load(path, PLAIN)
    layer = query(model)
    layer.weight = torch.nn.Parameter(layer.weight.data.to(torch.float8_e4m3fn), requires_grad=False)
    small = layer.weight.data.clone()
    Patch(model).put([on(1)])
    parts = network(1).changes[QUERY].parts
    wanted = small.float() + parts["lora_up.weight"] @ parts["lora_down.weight"]
    torch.testing.assert_close(layer.weight.data, wanted)


ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


@pytest.mark.parametrize(("family", "prefix", "part"), [("sd2", "lora_te", "text"), ("sdxl", "lora_te2", "text_2")])
def test_one_matrix_of_queries_keys_and_values_changes_in_its_thirds(
    family: str, prefix: str, part: str, tmp_path: Path
) -> None:
    model = load(write_tiny_checkpoint(tmp_path / "tiny.safetensors", family), PLAIN)
    attention = model.parts()[part].get_submodule("transformer.resblocks.0.attn")
    assert isinstance(attention, openclip.Attention)
    fused, out = attention.in_proj_weight, attention.out_proj.weight
    width = fused.shape[1]
    layers = {name: f"{prefix}_text_model_encoder_layers_0_self_attn_{name}" for name in ATTENTION}
    changes = {layer: lora(i, width, width) for i, layer in enumerate(layers.values())}
    patch, bits = Patch(model), digest(model)
    patch.put([Applied("ink", Network(Path("ink"), changes), 0.5, 9.0)])
    products = [0.5 * change.parts["lora_up.weight"] @ change.parts["lora_down.weight"] for change in changes.values()]
    torch.testing.assert_close(attention.in_proj_weight.data, fused + torch.cat(products[:3]))
    torch.testing.assert_close(attention.out_proj.weight.data, out + products[3])
    patch.suspend()
    assert digest(model) == bits
    partial = Network(Path("part"), {layers[name]: changes[layers[name]] for name in ATTENTION[:3]})
    assert patch.touched(partial) == 0  # as in A1111: only where all four are named


def test_both_text_encoders_of_sdxl_and_its_blocks_have_their_places(tmp_path: Path) -> None:
    model = load(write_tiny_checkpoint(tmp_path / "tiny.safetensors", "sdxl"), PLAIN)
    names = [
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_input_blocks_4_1_proj_in",
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
        "lora_unet_up_blocks_0_upsamplers_0_conv",
        "lora_unet_label_emb_0_0",
    ]
    wide = Network(Path("xl"), {name: change({"diff": torch.zeros(1)}) for name in names})
    assert set(fitting(wide, places_of(model))) == set(names)


def test_factors_that_would_make_a_huge_change_are_not_multiplied() -> None:
    """Ten million columns and rows: their product would have 10^14 numbers."""
    long = torch.zeros(1).expand(10_000_000, 1)
    vast = [
        change({"lora_up.weight": long, "lora_down.weight": long.T}),
        change({"hada_w1_a": long, "hada_w1_b": long.T, "hada_w2_a": long, "hada_w2_b": long.T}),
        change({"lokr_w1": long, "lokr_w2": long.T}),
    ]
    misfits: list[Step] = []
    assert merged(torch.zeros(4, 4), [Step(one, 1.0) for one in vast], misfits.append) is None
    assert len(misfits) == 3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_the_sum_once(dtype: torch.dtype, path: Path) -> None:
    """Beside the sum in float64, a weight is off by its own rounding and that of the factors."""
    model, half = load(path, PLAIN), load(path, Device(torch.device("cpu"), dtype))
    for one in (model, half):
        Patch(one).put([on(1), on(2)])
    for name in ("input_blocks.1.1.transformer_blocks.0.attn1.to_q", "input_blocks.1.0.in_layers.2"):
        wanted, found = (one.unet.get_submodule(name).weight for one in (model, half))
        assert isinstance(wanted, Tensor) and isinstance(found, Tensor)
        assert found.dtype == dtype and found.stride() == wanted.stride()
        assert (found - wanted).abs().max() <= 4 * torch.finfo(dtype).eps * wanted.abs().max()
