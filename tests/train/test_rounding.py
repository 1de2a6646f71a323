"""Weights in 16 bits are right on average, whatever training moved them by: as they are computed with, and saved."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from agentsft.train.rounding import CHUNK, _random, place_weights, round_weights
from tests.train.test_run import config, run
from tests.train.tiny import tiny_model


def rounded(values: torch.Tensor, seed: int = 0, name: str = "weight") -> torch.Tensor:
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(values.clone()))
    round_weights(module, torch.bfloat16, seed)
    module.to(torch.bfloat16)
    return module.get_parameter(name).detach()


def test_a_weight_goes_to_one_of_its_two_neighbours_and_is_right_on_average() -> None:
    random = torch.Generator().manual_seed(1)
    values = torch.randn(64, generator=random) * torch.logspace(-30, 30, 64)
    down = (values.view(torch.int32) & -(1 << 16)).view(torch.float32)
    step = ((values.view(torch.int32) & -(1 << 16)) + (1 << 16)).view(torch.float32) - down
    found = rounded(values.repeat(20_000, 1)).float()
    assert ((found == down) | (found == down + step)).all()
    share_up, expected = (found != down).double().mean(0), ((values - down) / step).double()
    assert ((share_up - expected).abs() < 5 * (expected * (1 - expected) / 20_000).sqrt() + 1e-9).all()


def test_bfloat16_values_stay() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    exact = values.bfloat16()
    assert torch.equal(rounded(exact.float()), exact)
    assert not torch.equal(rounded(values), exact)


def test_seed_and_name_decide_the_numbers() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(rounded(values, 5), rounded(values, 5))
    assert not torch.equal(rounded(values, 5), rounded(values, 6))
    assert not torch.equal(rounded(values, 5), rounded(values, 5, "other"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_formats_get_the_nearest_value(dtype: torch.dtype) -> None:
    module = nn.Linear(20, 20)
    expected = module.weight.detach().to(dtype)
    round_weights(module, dtype, 0)
    assert torch.equal(module.weight.to(dtype), expected)


def placed(published: torch.Tensor, seed: int = 0) -> torch.Tensor:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(published.float()))
    place_weights(module, seed)
    return module.get_parameter("weight").detach()


def test_placed_weights_are_in_bfloat16_what_they_were_and_fill_the_space_between() -> None:
    random = torch.Generator().manual_seed(4)
    published = (torch.randn(16, 4, generator=random) * torch.logspace(-36, 30, 16)[:, None]).bfloat16()
    published[0] = torch.tensor([0.0, -0.0, 1.0, -2.0])
    found = placed(published.repeat(8192, 1))
    assert torch.equal(found.bfloat16(), published.repeat(8192, 1))
    assert (found[::16, :2] == 0).all()
    bits, start = (values.view(torch.int32).long() for values in (found, published.float().repeat(8192, 1)))
    distance = (bits - start).double()[published.repeat(8192, 1) != 0]  # in the last of float32's bits
    assert distance.abs().max() > 0x7F00
    assert abs(float(distance.mean())) < 5 * 0x8000 / 3**0.5 / len(distance) ** 0.5
    assert float(distance.std()) == pytest.approx(0x8000 / 3**0.5, rel=0.01)


def test_only_trained_matrices_on_the_grid_are_placed_and_seed_and_name_decide_where() -> None:
    published = torch.randn(64, 64, generator=torch.Generator().manual_seed(5)).bfloat16()
    once = placed(published, 1)
    assert not torch.equal(once, published.float())
    assert torch.equal(once, placed(published, 1))
    assert not torch.equal(once, placed(published, 2))
    again = nn.Parameter(once.clone())
    module = nn.ParameterDict({"again": again, "bias": nn.Parameter(published[0].float())})
    module["frozen"] = nn.Parameter(published.float(), requires_grad=False)
    before = copy.deepcopy(module)
    place_weights(module, 3)
    assert (again != once).float().mean() < 1e-3  # what has left the grid stays where it is, unless by chance on it
    assert torch.equal(module["bias"], before["bias"])
    assert torch.equal(module["frozen"], before["frozen"])
    place_weights(module, 3, least=1)
    assert not torch.equal(module["bias"], before["bias"])


def test_random_numbers_know_their_place_and_bits_are_even_and_unrelated() -> None:
    whole = _random("key", 0, torch.empty(1 << 16))
    assert torch.equal(whole[1000:3000], _random("key", 1000, torch.empty(2000)))
    other = _random("yek", 0, whole)
    bits = torch.stack([(numbers >> k & 1).double() for numbers in (whole, other) for k in range(32)])
    related = torch.corrcoef(bits).fill_diagonal_(0)
    bound = 5 / len(whole) ** 0.5
    assert related.abs().max() < bound
    assert (bits.mean(1) - 0.5).abs().max() < bound / 2
    neighbours = (bits[:, 1:] - 0.5) @ (bits[:, :-1] - 0.5).T / len(whole) * 4
    assert neighbours.abs().max() < bound


def test_parts_of_a_weight_have_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    published = torch.ones(64, 64).bfloat16()
    whole = placed(published)
    monkeypatch.setattr("agentsft.train.rounding.CHUNK", 100)
    assert CHUNK != 100
    assert torch.equal(placed(published), whole)


def test_it_does_not_matter_how_a_weight_lies_in_memory() -> None:
    published = torch.randn(64, 32, generator=torch.Generator().manual_seed(8)).bfloat16()
    by_columns = published.T.contiguous().T
    assert not by_columns.is_contiguous()
    assert torch.equal(placed(by_columns), placed(published))
    moved = placed(published) + 1e-3
    assert torch.equal(rounded(moved.T.contiguous().T), rounded(moved))


def test_what_was_placed_is_saved_as_what_it_was_computed_with() -> None:
    published = torch.randn(64, 64, generator=torch.Generator().manual_seed(6)).bfloat16()
    module = nn.ParameterDict({"matrix": nn.Parameter(published.float()), "norm": nn.Parameter(published[0].float())})
    place_weights(module, 0)
    with torch.no_grad():
        module["norm"] += 1e-4
    nearest, moved = module["matrix"].bfloat16(), module["norm"].detach().clone()
    round_weights(module, torch.bfloat16, 0, placed=2)
    module.to(torch.bfloat16)
    assert torch.equal(module["matrix"], nearest)
    assert not torch.equal(module["norm"], moved.bfloat16())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_run_saves_has_moved_as_far_as_it_trained(tmp_path: Path, precision: str) -> None:
    tiny_model("llama").bfloat16().save_pretrained(tmp_path / "published")
    begun = tiny_model("llama").bfloat16().float()
    if precision == "bf16":
        place_weights(begun, config("", tmp_path).seed)
    settings = {"max_steps": 2, "save_steps": 2, "learning_rate": 1e-6, "precision": precision}
    run(config(str(tmp_path / "published"), tmp_path / "run", **settings))
    start, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("published", "run"))
    [checkpoint] = (tmp_path / "run").glob("checkpoint-*/*.safetensors")
    trained, first = load_file(checkpoint), dict(begun.named_parameters())
    wanted, found, nearest = (
        torch.cat([(tensors[name].to(dtype).float() - before[name].float()).flatten() for name in start])
        for tensors, before, dtype in (
            (trained, first, torch.float32),
            (saved, start, torch.bfloat16),
            (trained, start, torch.bfloat16),
        )
    )
    wanted = wanted.detach()
    assert 0 < wanted.abs().max() < 2.5e-6
    assert float(found @ wanted / wanted.square().sum()) == pytest.approx(1.0, abs=0.1)
    lost = float(nearest @ wanted / wanted.square().sum())  # what the model saw, and the nearest would have saved
    assert lost == pytest.approx(1.0, abs=0.1) if precision == "bf16" else lost < 0.5


def test_a_run_in_bfloat16_that_moves_nothing_saves_the_published_model(tmp_path: Path) -> None:
    tiny_model("llama").bfloat16().save_pretrained(tmp_path / "published")
    settings = {"max_steps": 2, "save_steps": 1, "learning_rate": 1e-60, "precision": "bf16"}
    run(config(str(tmp_path / "published"), tmp_path / "run", **settings))
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    start, saved, trained = (
        load_file(tmp_path / name / "model.safetensors") for name in ("published", "run", "run/checkpoint-1")
    )
    assert all(torch.equal(saved[name], start[name]) for name in start)
    matrices = [name for name in start if start[name].ndim > 1]
    assert not any(torch.equal(trained[name].float(), start[name].float()) for name in matrices)
    run(config(str(tmp_path / "published"), tmp_path / "run", **settings, resume=True))
    again = load_file(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(again[name], start[name]) for name in start)
