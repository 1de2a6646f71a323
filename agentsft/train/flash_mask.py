"""The mask of token trees in CuTe, the language of FlashAttention-4's kernels. Needs that library."""

# No `from __future__ import annotations`: CuTe reads the signatures.
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, Uint32, const_expr
from flash_attn.cute import utils
from flash_attn.cute.mask import AttentionMask
from flash_attn.cute.utils import AuxData
from quack import layout_utils


@cute.jit
def visible(batch: Any, head: Any, q: Any, k: Any, seqlen: Any, tensors: Any) -> Any:
    """Whether token q sees token k: `agentsft.train.attention.visible` on `agentsft.train.flash.tree_places`."""
    places = tensors[0]
    seen = in_subtree(Int32(places[utils.ssa_to_scalar(q)]), places[utils.ssa_to_scalar(k)])
    return utils.scalar_to_ssa(seen, Boolean)


@cute.jit
def in_subtree(index: Any, place: Any) -> Any:
    """Whether the token of this depth-first index is the one at `place` or below it: one comparison, since an index
    before that token's makes a huge number of the difference."""
    return Uint32(index - Int32(place)) < Uint32(place >> 32)


class TreeMask(AttentionMask):
    """The library's masking on Hopper, with a loop of its own for `visible`.

    The library's own asks a mask of each pair, divides for each and looks whether it lies within the lengths. Here
    lengths are whole blocks, and what is known of a query or key is loaded once for all of a thread's pairs.
    """

    @cute.jit
    def apply_mask(
        self,
        acc_S: Any,  # noqa: N803
        batch_idx: Any,
        head_idx: Any,
        m_block: Any,
        n_block: Any,
        thr_mma: Any,
        mask_seqlen: cutlass.Constexpr[bool],
        mask_causal: cutlass.Constexpr[bool],
        mask_local: cutlass.Constexpr[bool] = False,
        mask_mod: cutlass.Constexpr[Any] = None,
        aux_data: AuxData = AuxData(),  # noqa: B008
        fastdiv_mods: Any = (None, None),
    ) -> None:
        """Sets the scores `acc_S` of a block, queries `m_block` and keys `n_block`, to -inf where nothing is seen."""
        if const_expr(mask_mod is visible):
            self.apply_tree(acc_S, m_block, n_block, thr_mma, aux_data.tensors[0])
        else:
            lengths = (mask_seqlen, mask_causal, mask_local)
            blocks = (batch_idx, head_idx, m_block, n_block)
            AttentionMask.apply_mask(self, acc_S, *blocks, thr_mma, *lengths, mask_mod, aux_data, fastdiv_mods)

    @cute.jit
    def apply_tree(self, all_scores: Any, m_block: Any, n_block: Any, thr_mma: Any, places: Any) -> None:
        scores = layout_utils.reshape_acc_to_mn(all_scores, transpose=self.swap_AB)
        block = (self.tile_n, self.tile_m) if const_expr(self.swap_AB) else (self.tile_m, self.tile_n)
        coordinates = thr_mma.partition_C(cute.make_identity_tensor(block))
        at = layout_utils.reshape_acc_to_mn(coordinates, transpose=self.swap_AB)
        query_axis, key_axis = (1, 0) if const_expr(self.swap_AB) else (0, 1)
        index = cute.make_rmem_tensor(cute.size(at.shape[0]), Int32)
        for row in cutlass.range_constexpr(cute.size(at.shape[0])):
            at_query = m_block * self.tile_m + at[row, 0][query_axis]
            # The heads that share a key may be rows of one block, side by side for each query.
            index[row] = Int32(places[at_query // self.qhead_per_kvhead_packgqa])
        for column in cutlass.range_constexpr(cute.size(at.shape[1])):
            place = places[n_block * self.tile_n + at[0, column][key_axis]]
            for row in cutlass.range_constexpr(cute.size(at.shape[0])):
                seen = in_subtree(index[row], place)
                scores[row, column] = scores[row, column] if seen else -Float32.inf
