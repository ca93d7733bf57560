"""Ways around XLA's compiler for CPUs. Each says what, why, and which row of `streamgrad bench` shows it.

- `options`: wide vectors, XLA's own sums over streams, nothing that a piece cannot hold;
- `piece`: a small step as one kernel, instead of dozens that are started one by one;
- `materialise`: coefficients that are computed once, and not for every parameter;
- `loop`: one program for a step and for many, whose length is known when it runs;
- `order`, `ordered_loop`: arrays that are overwritten after their last reading, without a copy;
- `branches`: updates that happen at some steps only, without a copy at all others.

All were measured with jaxlib 0.10. On other backends they fall away, or cost nothing.
"""
