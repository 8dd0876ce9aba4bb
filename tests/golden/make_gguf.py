#!/usr/bin/env python3
"""Records tests/golden/gguf/quants.gguf: for each block format a tensor of random blocks, and beside it
the float32 values that the `gguf` package gives for it. Needs: pip install gguf (recorded with 0.19).

usage: make_gguf.py [OUT]
"""
import os
import sys

import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as T, quants
from gguf.constants import GGML_QUANT_SIZES

# Where a block's float16 scales are.
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82],
          T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
ROW, ROWS = 512, 3


def random_blocks(rng, kind):
    block, size = GGML_QUANT_SIZES[kind]
    count = ROW * ROWS // block
    if kind == T.F32:
        return rng.standard_normal(ROW * ROWS).astype(np.float32).view(np.uint8)
    if kind in (T.F16, T.BF16):
        bits = rng.integers(0, 1 << 16, ROW * ROWS, dtype=np.uint16)
        exponent = 0x7c00 if kind == T.F16 else 0x7f80
        bits[(bits & exponent) == exponent] = 0x8001  # no infinity, no NaN; a subnormal instead
        return bits.view(np.uint8)
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scale = (rng.standard_normal(count) * 0.01).astype(np.float16)
        scale[0] = np.float16(6e-8)  # subnormal
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(count, 2)
    return blocks.reshape(-1)


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    out = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "gguf", "quants.gguf")
    rng = np.random.default_rng(7)
    writer = GGUFWriter(out, "llama")
    writer.add_uint8("t.u8", 255)
    writer.add_int8("t.i8", -128)
    writer.add_uint16("t.u16", 65535)
    writer.add_int16("t.i16", -32768)
    writer.add_uint32("t.u32", 4294967295)
    writer.add_int32("t.i32", -2147483648)
    writer.add_uint64("t.u64", 1 << 63)
    writer.add_int64("t.i64", -5)
    writer.add_float32("t.f32", 0.1)
    writer.add_float64("t.f64", 4096.0)
    writer.add_bool("t.true", True)
    writer.add_string("t.str", "Grüße\n")
    writer.add_array("t.strs", ["a", "", "Ġthe", "\U0001f600"])
    writer.add_array("t.ints", [1, -2, 3])
    writer.add_array("t.floats", [0.5, -1.25])
    for kind in [T.F32, T.F16, T.BF16, *SCALES]:
        raw = random_blocks(rng, kind)
        block, size = GGML_QUANT_SIZES[kind]
        values = quants.dequantize(raw.reshape(ROWS, -1), kind).astype(np.float32)
        assert values.shape == (ROWS, ROW) and np.isfinite(values).all()
        writer.add_tensor(kind.name, raw.reshape(ROWS, ROW // block * size), raw_dtype=kind)
        writer.add_tensor(kind.name + ".f32", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
