"""GPUs and what was measured on them: the only place where the plan's constants stand."""

from __future__ import annotations

from dataclasses import dataclass

from agentsft.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class Gpu:
    """`memory` is what a program can take, in GiB; `peak` the dense bfloat16 FLOP/s of the maker's data sheet.

    `utilisation` is the lowest, the usual and the highest share of the peak that training steps reached, counted as
    in metrics.jsonl's mfu but with AHEAD, and `source` says where. `link` is the bandwidth of a GPU to others of its
    machine in one direction, bytes/s, from the data sheet, and `network` its share of the machine's to other machines,
    from the data sheet of the maker's own machine with 8 of them (DGX, HGX; for L40S a card of 200 Gb/s for two).
    """

    name: str
    memory: float
    peak: float
    utilisation: tuple[float, float, float]
    source: str
    link: float
    network: float

    def bandwidth(self, gpus: int) -> float:
        """Bytes/s in one direction at which a GPU exchanges with `gpus` - 1 others, if all links are in use.

        Between machines each of them sends what crosses its border through the network of all its GPUs together.
        """
        return self.link if gpus <= MACHINE else min(self.link, MACHINE * self.network)


MACHINE = 8
"""GPUs of a machine."""

AHEAD = 800
"""Attention takes as long as if every token saw so many more: short contexts fill the kernels' blocks in part."""

_H100, _H200 = (0.48, 0.50, 0.52), (0.49, 0.53, 0.57)
_MEASURED = "docs/performance.md: 1.7B in full, 8B with LoRA, packs of 12k to 128k tokens"
_ASSUMED = "not measured; that of an H100 is assumed"
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100", 79.1, 989e12, _H100, _MEASURED, 450e9, 50e9),
        Gpu("H200", 139.8, 989e12, _H200, _MEASURED, 450e9, 50e9),
        Gpu("B200", 178.0, 2250e12, _H100, _ASSUMED, 900e9, 50e9),
        Gpu("A100", 79.1, 312e12, _H100, _ASSUMED, 300e9, 25e9),
        Gpu("A100-40", 39.4, 312e12, _H100, _ASSUMED, 300e9, 25e9),
        Gpu("L40S", 44.4, 362e12, _H100, _ASSUMED, 32e9, 12.5e9),
        Gpu("MI300X", 191.5, 1307e12, _H100, _ASSUMED, 448e9, 50e9),
    )
}
USABLE = 0.95
"""Share of a GPU's memory that a run may fill: the rest is lost between blocks, and what PyTorch itself takes."""


def gpu_named(name: str) -> Gpu:
    """The GPU of that name, in any case. Raises UserError for one that is not known."""
    found = next((gpu for key, gpu in GPUS.items() if key.lower() == name.lower()), None)
    if found is None:
        raise UserError(f"--gpu is one of {', '.join(GPUS)}; not {name!r}.{nearest(name, tuple(GPUS))}")
    return found
