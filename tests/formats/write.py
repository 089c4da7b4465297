"""Writes the files of tests/formats: one small data set in every format, by that format's own writer.

    pip install numpy scipy scikit-learn pyarrow safetensors zstandard
    python tests/formats/write.py

tests/formats.rs computes the same numbers from their bits, and reads each file back to them.
"""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse
import zstandard
from pyarrow import ipc
from safetensors import TensorSpec, serialize
from safetensors.numpy import save_file
from sklearn.datasets import dump_svmlight_file

FOLDER = Path(__file__).parent
N, D = 20, 5
FEATURES = ["a", "b", "c", "d e", "ä"]
CLASSES = ["cat", "dog", "Ünï, \"q\""]
NUMBERS = [-3, 0, 10]

# Bits of every kind, none of them of a NaN or an infinity: the smallest and largest numbers, both zeros.
bits = (np.arange(N * D, dtype=np.uint64) * 0x9E3779B9 + 12345) % 2**32
exponent = (bits >> 23) & 0xFF
bits = np.where(exponent == 0xFF, bits & ~np.uint64(1 << 30), bits).astype(np.uint32)
bits[:6] = [0x00000001, 0x807FFFFF, 0x80000000, 0x7F7FFFFF, 0x00800000, 0x00000000]
x = bits.view(np.float32).reshape(N, D)
half_bits = (np.arange(N * D, dtype=np.uint32) * 40503 + 99) % 2**16
half_bits = np.where((half_bits >> 10) & 0x1F == 0x1F, half_bits & ~np.uint32(1 << 14), half_bits).astype(np.uint16)
half_bits[:6] = [0x0001, 0x83FF, 0x8000, 0x7BFF, 0x0400, 0x0000]
half = half_bits.view(np.float16).reshape(N, D)
u8 = (np.arange(N * D) * 37 % 256).astype(np.uint8).reshape(N, D)
assert np.isfinite(x).all() and np.isfinite(half).all()
classes = np.arange(N) * 7 // 3 % 3
names = np.array([CLASSES[c] for c in classes])
numbers = np.array([NUMBERS[c] for c in classes])
weights = (np.arange(N) % 4 + 0.5).astype(np.float32)
sparse = np.where(np.arange(N * D).reshape(N, D) % 3 == 0, x, np.float32(0))


def path(name):
    return str(FOLDER / name)


def numpy_files():
    np.save(path("f32.npy"), x)
    np.save(path("f32_fortran.npy"), np.asfortranarray(x))
    np.save(path("f32_big_endian.npy"), x.astype(">f4"))
    np.save(path("f64.npy"), x.astype(np.float64))
    np.save(path("f16.npy"), half)
    np.save(path("u8.npy"), u8)
    np.save(path("names.npy"), names)
    np.save(path("numbers.npy"), numbers.astype(np.int16))
    np.savez(path("stored.npz"), X=x, y=names, sample_weight=weights)
    np.savez_compressed(path("deflated.npz"), features=half, labels=numbers)
    np.savez(path("unnamed.npz"), numbers, x)
    np.savez_compressed(path("several.npz"), x_train=x, y_train=names, x_test=u8, y_test=numbers)
    for kind in ["csr", "csc", "coo"]:
        scipy.sparse.save_npz(path(f"{kind}.npz"), getattr(scipy.sparse, f"{kind}_matrix")(sparse))


def safetensors_files():
    metadata = {"classes": json.dumps(CLASSES), "feature_names": json.dumps(FEATURES)}
    tensors = {"features": x, "labels": classes.astype(np.uint32), "weights": weights}
    save_file(tensors, path("f32.safetensors"), metadata)
    save_file({"emb": half, "y": numbers}, path("f16.safetensors"))
    save_file({"images": u8.reshape(N, 1, D), "target": numbers.astype(np.int8)}, path("u8.safetensors"))
    # NumPy has no such type: the upper halves of single precision.
    brain = (bits >> 16).astype("<u2")
    tensor = TensorSpec(dtype="bfloat16", shape=[N, D], data_ptr=brain.ctypes.data, data_len=brain.nbytes)
    (FOLDER / "bf16.safetensors").write_bytes(serialize({"features": tensor}))


def arrow_tables():
    scalars = {name: pa.array(x[:, i]) for i, name in enumerate(FEATURES)}
    text = pa.table({**scalars, "kind": pa.array(names), "w": pa.array(weights)})
    kinds = {"kind": pa.array(names).dictionary_encode(), **scalars, "w": pa.array(weights.astype(np.float64))}
    dictionary = pa.table(kinds)
    huggingface = {"info": {"features": {
        "embedding": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "Sequence"},
        "label": {"names": CLASSES, "_type": "ClassLabel"},
    }}}
    embedding = pa.table({
        "id": pa.array([f"row {i}" for i in range(N)]),
        "embedding": pa.array(list(x), pa.list_(pa.float32())),
        "label": pa.array(classes, pa.int64()),
    }).replace_schema_metadata({"huggingface": json.dumps(huggingface)})
    fixed = pa.table({
        "v": pa.FixedSizeListArray.from_arrays(pa.array(half.reshape(-1)), D),
        "y": pa.array(numbers, pa.int32()),
    })
    types = [pa.uint8()] * D
    integers = pa.table({**{f"p{i}": pa.array(u8[:, i], types[i]) for i in range(D)}, "y": pa.array(numbers, pa.int8())})
    return text, dictionary, embedding, fixed, integers


def parquet_files():
    text, dictionary, embedding, fixed, integers = arrow_tables()
    for packing in ["none", "snappy", "gzip", "zstd", "lz4"]:
        pq.write_table(text, path(f"{packing}.parquet"), compression=packing, row_group_size=7)
    pq.write_table(dictionary, path("dictionary.parquet"), data_page_version="2.0", use_dictionary=["kind"])
    pq.write_table(embedding, path("embedding.parquet"), row_group_size=6)
    pq.write_table(fixed, path("fixed.parquet"))
    pq.write_table(integers, path("integers.parquet"), write_page_index=True)
    (FOLDER / "shards").mkdir(exist_ok=True)
    for name, (start, end) in {"part-2": (0, 9), "part-10": (9, 10), "part-11": (10, N)}.items():
        pq.write_table(text.slice(start, end - start), path(f"shards/{name}.parquet"))


def arrow_files():
    text, dictionary, embedding, fixed, integers = arrow_tables()

    def write(new, name, table, packing=None):
        options = ipc.IpcWriteOptions(compression=packing)
        with new(path(name), table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=7)

    write(ipc.new_file, "text.arrow", text)
    write(ipc.new_file, "dictionary_zstd.arrow", dictionary, "zstd")
    write(ipc.new_stream, "embedding_lz4.arrows", embedding, "lz4")
    write(ipc.new_stream, "fixed.arrows", fixed)
    write(ipc.new_file, "integers.arrow", integers)


def text_files():
    with open(path("f32.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*FEATURES, "kind", "w"])
        # str of a NumPy number is the shortest text that reads back to it.
        writer.writerows([*map(str, row), name, str(w)] for row, name, w in zip(x, names, weights))
    content = (FOLDER / "f32.csv").read_bytes()
    (FOLDER / "f32.csv.gz").write_bytes(gzip.compress(content, mtime=0))
    (FOLDER / "f32.csv.zst").write_bytes(zstandard.compress(content))
    with open(path("f32.tsv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow([*FEATURES, "kind", "w"])
        writer.writerows([*map(str, row), name, str(w)] for row, name, w in zip(x, names, weights))
    dump_svmlight_file(sparse, numbers, path("sparse.svm"), zero_based=False)
    (FOLDER / "names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    # There is no writer of IDX in use: a head and the values, big-endian.
    head = bytes([0, 0, 0x0D, 2]) + N.to_bytes(4, "big") + D.to_bytes(4, "big")
    (FOLDER / "f32.idx.gz").write_bytes(gzip.compress(head + x.astype(">f4").tobytes(), mtime=0))


numpy_files()
safetensors_files()
parquet_files()
arrow_files()
text_files()
for file in sorted(FOLDER.rglob("*")):
    if file.is_file() and file.stat().st_size >= 10_000:
        raise SystemExit(f"{file} is larger than a fixture should be")
