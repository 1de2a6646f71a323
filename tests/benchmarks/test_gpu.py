"""How the GPU benchmark counts: it has no GPU here, so the steps and traces are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from agentsft.types import Span, Turn
from benchmarks.cases import all_cases
from benchmarks.gate import Tolerance, token_weights, verdict
from benchmarks.observed import kind_of, summarise
from benchmarks.report import latest, measure, tables
from benchmarks.workload import WORKS, steps_of

KERNELS = {
    "triton_tem_fused_flex_attention_5": "attention forward",
    "triton_tem_fused_flex_attention_backward_9": "attention backward",
    "kernel_cutlass_kernel_flash_attncuteflash_fwd_sm90FlashAttentionForwardSm90_object": "attention forward",
    "kernel_cutlass_kernel_flash_attncuteflash_bwd_sm90FlashAttentionBackwardSm90_object": "attention backward",
    "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN": "matrix products",
    "void cutlass::Kernel2<cutlass_80_simt_sgemm_128x64_8x5_nt_align1>": "matrix products",
    "void at::native::multi_tensor_apply_kernel<FusedAdamMathFunctor>": "optimizer and clipping",
    "void at::native::elementwise_kernel<128, 4, direct_copy_kernel_cuda>": "copies and casts",
    "Memcpy HtoD (Pinned -> Device)": "copies and casts",
    "triton_tem_fused_addmm_t_2": "matrix products",
    "triton_red_fused_flex_attention_backward_mul_7": "element-wise and reductions",
    "triton_poi_fused_mul_silu_3": "element-wise and reductions",
}


def _step(step: int, ended: float, **values: Any) -> dict[str, Any]:
    return {"kind": "step", "step": step, "ended": ended, "memory_gib": 1.0 + step, **values}


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_is_known_by_its_name(name: str) -> None:
    assert kind_of(name) == KERNELS[name]


def test_the_gpu_is_busy_once_however_many_streams_run() -> None:
    def kernel(start: float, end: float, category: str = "kernel") -> dict[str, Any]:
        return {"cat": category, "name": "nvjet", "ts": start * 1e6, "dur": (end - start) * 1e6}

    found = summarise([kernel(0, 2), kernel(1, 3), kernel(1.5, 1.7), kernel(5, 6), kernel(0, 9, "gpu_user_annotation")])
    assert (found["busy_seconds"], found["span_seconds"]) == pytest.approx((4, 6))
    assert found["kinds"]["matrix products"] == pytest.approx(5.2)
    assert [gap for gap, *_ in found["gaps"] if gap > 0] == pytest.approx([2])


def test_a_rate_is_the_median_over_the_steps_after_the_warm_up() -> None:
    plain = [100, 200, 300, 400, 500, 600]
    ends = [50.0, 52.0, 53.0, 57.0]
    found = measure([_step(i, end) for i, end in enumerate(ends)], 10.0, plain, 2, warmup=1, steps=4)
    steps = [sum(plain[i] for i in indices) for indices in steps_of(6, 2, 4)]
    rates = sorted(tokens / seconds for tokens, seconds in zip(steps[1:], (2, 1, 4), strict=True))
    assert found["plain_tokens_per_second"] == pytest.approx(rates[1])
    assert (found["seconds"], found["first_step_seconds"], found["peak_gib"]) == (2.0, 40.0, 4.0)


def test_the_smaller_step_at_an_epochs_end_is_not_timed() -> None:
    rows = [_step(i, end) for i, end in enumerate([0.0, 5.0, 10.0, 11.0, 17.0])]
    found = measure(rows, 0.0, [100] * 7, 2, warmup=1, steps=5)
    assert (found["timed_steps"], found["seconds"]) == (3, 5.0)


def test_a_case_that_was_stopped_keeps_the_steps_that_it_made() -> None:
    found = measure([_step(0, 5.0), _step(1, 7.0)], 0.0, [100] * 4, 2, warmup=1, steps=6)
    assert (found["timed_steps"], found["seconds"]) == (1, 2.0)
    assert "seconds" not in measure([_step(0, 5.0)], 0.0, [100] * 4, 2, warmup=1, steps=6)


def test_compilations_of_the_warm_up_alone_do_not_count() -> None:
    rows = [_step(i, float(i), compilations=count) for i, count in enumerate([7, 7, 9, 9])]
    assert measure(rows, 0.0, [100] * 8, 2, warmup=1, steps=4)["recompilations"] == 2
    assert measure(rows, 0.0, [100] * 8, 2, warmup=3, steps=4)["recompilations"] == 0


def test_a_packing_trainer_counts_its_own_conversations() -> None:
    rows = [_step(i, float(i), plain_tokens=900, conversations=3) for i in range(3)]
    found = measure(rows, 0.0, [100] * 8, 2, warmup=1, steps=3)
    assert (found["plain_tokens_per_second"], found["conversations_per_second"]) == (900, 3)


def test_a_case_on_other_rows_is_called_not_comparable() -> None:
    rows = [_step(i, float(i), rows_of_data=7) for i in range(3)]
    assert measure(rows, 0.0, [100] * 8, 2, warmup=1, steps=3)["notes"]
    assert "notes" not in measure(rows, 0.0, [100] * 7, 2, warmup=1, steps=3)


def test_the_table_shows_the_last_result_of_each_case_and_survives_half_a_line(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    rows = [
        {"case": "T.agentsft", "work": "T", "state": "ok", "plain_tokens_per_second": 100.0},
        {"case": "T.agentsft", "work": "T", "state": "ok", "plain_tokens_per_second": 300.0},
        {"case": "T.trl", "work": "T", "state": "exit code 1: a|b", "plain_tokens_per_second": 100.0},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"case": "T.cut', encoding="utf-8")
    shown = tables(latest(file)).splitlines()
    assert len(shown) == 4
    assert [cell.strip() for cell in shown[3].split("|")][1:3] == ["T.trl", "3.00"]


def test_every_case_has_a_name_of_its_own_and_a_work() -> None:
    cases = all_cases()
    assert len({case.name for case in cases}) == len(cases)
    assert all(case.work in WORKS for case in cases)


def test_the_gate_gives_each_token_the_weight_of_its_heaviest_character(smollm2_tokenizer: Any) -> None:
    spans = (Span(0, 4, 0.0, "thought"), Span(4, 13, 2.0, "action"))
    turn = Turn(2, "prompt", "Thought: look", "<|im_end|>", spans, 0.5)
    _, ids, weights = token_weights(smollm2_tokenizer, turn)
    pieces = smollm2_tokenizer.convert_ids_to_tokens(ids)
    assert dict(zip(pieces, weights, strict=True)) == {"Th": 0, "ought": 2, ":": 2, "Ġlook": 2, "<|im_end|>": 0.5}


@pytest.mark.parametrize("wrong", ["", "items", "loss", "norm", "gradient", "nan"])
def test_the_gate_fails_when_one_figure_is_off(wrong: str, tmp_path: Path) -> None:
    by_itself = {"loss": 0.0, "norm": 0.0, "gradient": {"w": 0.0}}
    facts = {"loss": 2.0, "grad_norm": 3.0, "items": 10, "turns": 1, "rows": 1, "by_itself": by_itself}
    (tmp_path / "reference.json").write_text(json.dumps(facts), encoding="utf-8")
    gradients = {"w": torch.arange(4.0)}
    save_file(gradients, tmp_path / "gradients.safetensors")
    step = {"loss": 2.0, "grad_norm": 3.0, "num_items_in_batch": 10}
    ours = {"w": gradients["w"].roll(1) if wrong == "gradient" else gradients["w"].clone()}
    if wrong == "items":
        step["num_items_in_batch"] = 11
    if wrong in ("loss", "norm", "nan"):
        step["loss" if wrong != "norm" else "grad_norm"] = 2.1 if wrong != "nan" else float("nan")
    save_file(ours, tmp_path / "ours.safetensors")
    passed, _ = verdict(tmp_path, step, tmp_path / "ours.safetensors", Tolerance(1e-3, 1e-3, 1e-3))
    assert passed == (not wrong)
