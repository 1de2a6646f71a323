"""From token trees to the tensors of one forward pass: order, splitting, packing, collating."""
