"""Weights rounded to 16 bits are right on average, whatever training moved them by."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from agentsft.train.rounding import round_weights
from tests.train.test_run import config, run
from tests.train.tiny import tiny_model


def rounded(values: torch.Tensor, seed: int = 0, name: str = "weight") -> torch.Tensor:
    module = nn.Module()
    module.register_parameter(name, nn.Parameter(values.clone()))
    round_weights(module, torch.bfloat16, seed)
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
    assert torch.equal(module.weight, expected)


def test_what_a_run_saves_has_moved_as_far_as_it_trained(tmp_path: Path) -> None:
    tiny_model("llama").bfloat16().save_pretrained(tmp_path / "published")
    run(config(str(tmp_path / "published"), tmp_path / "run", max_steps=2, save_steps=2, learning_rate=1e-6))
    start, saved = (load_file(tmp_path / name / "model.safetensors") for name in ("published", "run"))
    [checkpoint] = (tmp_path / "run").glob("checkpoint-*/*.safetensors")
    trained = load_file(checkpoint)
    wanted, found, nearest = (
        torch.cat([(tensors[name].to(dtype).float() - start[name].float()).flatten() for name in start])
        for tensors, dtype in ((trained, torch.float32), (saved, torch.bfloat16), (trained, torch.bfloat16))
    )
    assert float(found @ wanted / wanted.square().sum()) == pytest.approx(1.0, abs=0.1)
    assert float(nearest @ wanted / wanted.square().sum()) < 0.5  # what the nearest would have lost
