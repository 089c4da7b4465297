"""Writes the files of tests/corpus: corner cases of each format, whole ones and damaged ones, for tests/fuzz.rs and fuzz/.

    pip install numpy scipy pyarrow safetensors xxhash zstandard
    python tests/corpus/write.py

The columns and arrays that have a role are called x, y (labels), w (weights) and k (text). Files named after a fault found by
fuzzing (hang-…, found-…) were not written by this.
"""

import gzip
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse
import xxhash
import zstandard
from pyarrow import ipc
from safetensors.numpy import save

FOLDER = Path(__file__).parent
HUGE = 1 << 60


def write(target, name, content):
    path = FOLDER / target / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def csv():
    for name, text in {
        "empty": "",
        "line_breaks": "\n\r\n\n",
        "header": "x,y\n",
        "header_without_line_break": "x,y",
        "plain": "x,y,w,k\n1,a,1,b\n-2.5e-3,b,0.5,a\n.5,a,2,b\n",
        "quotes": 'x,"y","k"\n1,"a ""b"", c","line\nbreak"\n"2",b,"""d"""\n',
        "open_quote": 'x,y\n1,"a\n2,b\n3,c\n',
        "open_quote_header": '"x,y\n1,2\n',
        "quote_within": 'x,y\n1,a"b\n2"3,c\n',
        "behind_a_quote": 'x,y\n"1"2,"a"b\n',
        "crlf": "x,y\r\n1,a\r\n\r\n2,b\r\n",
        "cr": "x,y\r1,a\r2,b\r",
        "bom": "\ufeffx,y\n1,a\n2,b\n",
        "tabs": "x\ty\n1\ta\n2\tb\n",
        "semicolons": "x;y\n1,5;a\n2;b\n",
        "spaces": " x , y \n 1 , a \n\t2 ,b\n",
        "nan": "x,y\nNaN,a\n2,b\n",
        "inf": "x,y\n-inf,a\n2,b\n",
        "1e400": "x,y\n1e400,a\n2,b\n",
        "1e-400": "x,y\n1e-400,a\n2,b\n",
        "long_number": f"x,y\n{'1' * 400}e-390,a\n0.{'0' * 300}1e300,b\n",
        "exponent": "x,y\n1e99999999999999999999,a\n1e-99999999999999999999,b\n",
        "ragged_short": "x,y\n1,a\n2\n",
        "ragged_long": "x,y\n1,a\n2,b,c\n",
        "gap": "x,y,k\n1,a,\n,b,u\n",
        "no_name": "x,,y\n1,2,a\n",
        "twice": "x,y,x\n1,a,2\n",
        "no_column": "a,b\n1,2\n3,4\n",
        "text_in_number": "x,y\n1,a\ntwo,b\n",
        "decimal_comma": "x;y\n1,5;a\n2,5;b\n",
        "negative_weight": "x,y,w\n1,a,-1\n2,b,1\n",
        "zero_weights": "x,y,w\n1,a,0\n2,b,0\n",
        "one_class": "x,y\n1,a\n2,a\n",
        "empty_label": "x,y\n1,a\n2,\n",
        "categories": "k,y,x\nred,a,1\nblue,b,2\n10,a,3\n9,b,4\n",
        "category_names": "k,k=a,y,x\na,1,u,1\nb,2,v,2\n",
        "missing_marks": "x,y,k\nNA,a,?\n1,b,-\n",
        "not_utf8": b"x,y\n1,\xff\xfe\n2,b\n",
        "header_not_utf8": b"x,\xffy\n1,a\n",
        "zeros": b"x,y\n1,a\n\0\0,b\n",
        "utf16": "x,y\n1,a\n".encode("utf-16"),
        "one_column": "x\n1\n\n2\n",
        "only_separators": ",,,\n,,,\n",
        "wide": ",".join(f"c{i}" for i in range(300)) + "\n" + ",".join("1" for i in range(300)) + "\n",
    }.items():
        write("csv", name + ".csv", text)


def svmlight():
    for name, text in {
        "plain": "1 1:0.5 3:2\n-1 2:1e-3\n+1 1:1 2:1 3:1\n",
        "comments": "# first\n1 1:1 # more # more\n\n#\n2 2:1#x\n",
        "qid": "1 qid:7 1:1\n2 qid:8 2:1 qid:9\n",
        "zero_based": "1 0:1 5:2\n2 1:1\n",
        "not_sorted": "1 3:1 1:2 2:3\n2 1:1\n",
        "twice": "1 3:1 1:2 3:3\n2 1:1\n",
        "no_label": "1 1:1\n 3:4\n",
        "no_values": "1\n2 1:1\n3\n",
        "zeros": "1 1:0 2:0\n2 1:0\n",
        "dense": "1 1:1 2:1\n2 1:1 2:1\n",
        "highest": "1 16777216:1\n2 1:1\n",
        "above_highest": "1 16777217:1\n2 1:1\n",
        "64_bits": "1 18446744073709551616:1\n2 9223372036854775807:1\n",
        "negative_index": "1 -1:1\n2 1:1\n",
        "text_index": "1 1:1 b:1\n2 1:1\n",
        "nan": "1 1:nan\n2 1:1\n",
        "inf": "1 1:1e400\n2 1:1\n",
        "text_value": "1 1:one\n2 1:1\n",
        "no_value": "1 1:\n2 1:1\n",
        "colons": "1 1:1:1\n2 1:1\n",
        "several_labels": "1,2 1:1\n2 1:1\n",
        "text_label": "1 1:1\nspam 1:1\n",
        "fraction_label": "0.5 1:1\n1.5 1:1\n",
        "long_label": "1e15 1:1\n1e300 1:1\n",
        "crlf": "1 1:1\r\n2 2:1\r\n",
        "bom": "\ufeff1 1:1\n2 2:1\n",
        "tabs": "1\t1:1\t2:1\n2 1:1 \t\n",
        "no_line_break": "1 1:1\n2 2:1",
        "not_utf8": b"1 1:1\n\xff 2:1\n",
        "only_qid": "qid:1\n",
    }.items():
        write("svmlight", name + ".svm", text)


def names():
    for name, text in {
        "plain": "a\nb\n",
        "numbers": "1\n0.5\n",
        "integers": "10\n9\n",
        "empty": "",
        "spaces": " \n\t\n",
        "gap": "a\n\nb\n",
        "one": "a\n",
        "more": "label\na\nb\n",
        "bom": "\ufeffa\r\nb\r\n",
        "not_utf8": b"a\n\xff\n",
        "text_number": "1\none\n",
        "nan": "NaN\n1\n",
        "inf": "1e400\n1\n",
        "negative": "-1\n1\n",
        "zero": "0\n0\n",
        "same": "a\na\n",
        "quotes": '"a"\n"b"\n',
        "large": "9223372036854775808\n-9223372036854775808\n",
    }.items():
        write("names", name + ".txt", text)


def idx():
    def file(kind, shape, values, n=None):
        return bytes([0, 0, kind, len(shape) if n is None else n]) + struct.pack(f">{len(shape)}I", *shape) + values

    plain = file(8, [2, 1], b"\1\2")
    for name, content in {
        "plain": plain,
        "labels": file(8, [2], b"\0\1"),
        "images": file(8, [2, 2, 2], bytes(range(8))),
        "i8": file(9, [2, 1], b"\xff\1"),
        "i16": file(0x0B, [2, 1], b"\xff\xff\0\1"),
        "i32": file(0x0C, [2], struct.pack(">2i", -1, 5)),
        "f32": file(0x0D, [2, 2], struct.pack(">4f", 0.5, 0.5, 1, 0)),
        "f64": file(0x0E, [2], struct.pack(">2d", 1, 2)),
        "nan": file(0x0D, [2, 1], struct.pack(">2f", float("nan"), 1)),
        "large": file(0x0E, [2, 1], struct.pack(">2d", 1e300, 1)),
        "cut": plain[:-1],
        "cut_header": plain[:7],
        "only_magic": b"\0\0",
        "more": plain + b"\0",
        "type": file(0x0A, [2, 1], b"\1\2"),
        "no_dimension": file(8, [], b"\1"),
        "many_dimensions": file(8, [2, 1], b"\1\2", 9),
        "eight_dimensions": file(8, [2] + [1] * 7, b"\1\2"),
        "huge": file(8, [0xFFFFFFFF, 0xFFFFFFFF], b"\1\2"),
        "too_huge": file(0x0E, [0xFFFFFFFF] * 4, b"\1\2"),
        "no_samples": file(8, [0, 3], b""),
        "no_features": file(8, [3, 0], b""),
        "no_samples_huge": file(8, [0] + [0xFFFFFFFF] * 7, b""),
        "no_features_huge": file(8, [0xFFFFFFFF, 0, 0xFFFFFFFF], b""),
    }.items():
        write("idx", name + ".idx", content)


def npy_file(descr, shape, values, fortran=False, version=1, header=None):
    if header is None:
        header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n"
    header = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + values


def npy():
    f = lambda *values: struct.pack(f"<{len(values)}f", *values)
    plain = npy_file("<f4", "(2, 2)", f(1, 0, 0.25, 0.75))
    for name, content in {
        "plain": plain,
        "labels": npy_file("<i8", "(2,)", struct.pack("<2q", -1, 1 << 40)),
        "u8": npy_file("|u1", "(2, 3)", bytes(range(6))),
        "bool": npy_file("|b1", "(2, 1)", b"\0\1"),
        "f2": npy_file("<f2", "(2, 1)", b"\0\x3c\0\x40"),
        "f8": npy_file(">f8", "(2, 1)", struct.pack(">2d", 1, 2)),
        "u8_64": npy_file("<u8", "(2, 1)", struct.pack("<2Q", 1, (1 << 64) - 1)),
        "fortran": npy_file("<f4", "(2, 3)", f(1, 2, 3, 4, 5, 6), fortran=True),
        "fortran_many": npy_file("|u1", "(" + "1, " * 60 + "2, 2)", bytes(4), fortran=True),
        "many_dimensions": npy_file("|u1", "(" + "1, " * 4000 + "2)", bytes(2), fortran=True),
        "names": npy_file("<U3", "(2,)", "a\0\0bcd".encode("utf-32-le")),
        "names_bytes": npy_file("|S2", "(2,)", b"a\0bc"),
        "names_large": npy_file(f"<U{HUGE}", "(2,)", b""),
        "names_none": npy_file(f"|S{HUGE}", "(0,)", b""),
        "names_not_text": npy_file("<U1", "(2,)", struct.pack("<2I", 0x110000, 97)),
        "version_2": npy_file("<f4", "(2, 1)", f(1, 2), version=2),
        "version_9": npy_file("<f4", "(2, 1)", f(1, 2), version=9),
        "long_header": b"\x93NUMPY\2\0\xff\xff\xff\xff",
        "python_2": npy_file("", "", f(1, 2), header="{'shape': (2L, 1L), 'fortran_order': False, 'descr': '<f4'}"),
        "nan": npy_file("<f4", "(2, 1)", f(1, float("nan"))),
        "large": npy_file("<f8", "(2, 1)", struct.pack("<2d", 1e300, 1)),
        "cut": plain[:-1],
        "cut_header": plain[:20],
        "only_magic": plain[:6],
        "more": plain + b"\0",
        "objects": npy_file("|O", "(2,)", b"\x80\3]"),
        "complex": npy_file("<c8", "(2, 1)", bytes(16)),
        "record": npy_file("", "", bytes(16), header="{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }"),
        "scalar": npy_file("<f4", "()", f(1)),
        "vector": npy_file("<f4", "(2,)", f(1, 2)),
        "negative": npy_file("<f4", "(-2, 1)", f(1, 2)),
        "huge": npy_file("<f4", f"({HUGE}, 1)", f(1, 2)),
        "too_huge": npy_file("<f4", f"({HUGE}, {HUGE})", f(1, 2)),
        "no_samples": npy_file("<f4", "(0, 3)", b""),
        "no_samples_huge": npy_file("<f4", f"(0, {HUGE})", b""),
        "no_samples_too_huge": npy_file("<f4", f"(0, {HUGE}, {HUGE})", b""),
        "no_features": npy_file("<f4", f"({HUGE}, 0)", b""),
        "no_header": npy_file("", "", f(1), header="{}"),
        "not_utf8": npy_file("", "", f(1), header=b"{'descr': '\xff'}"),
        "soft_labels": npy_file("<f4", "(2, 2)", f(0.5, 0.6, 1, 0)),
    }.items():
        write("npy", name + ".npy", content)


def zip_file(files, packing=zipfile.ZIP_DEFLATED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", packing) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, packing)
    return content.getvalue()


def npz():
    x = npy_file("<f4", "(2, 2)", struct.pack("<4f", 1, 2, 3, 4))
    y = npy_file("|u1", "(2,)", b"\0\1")
    w = npy_file("<f4", "(2,)", struct.pack("<2f", 1, 2))
    plain = zip_file({"x.npy": x, "y.npy": y, "w.npy": w})
    directory = plain.rindex(b"PK\1\2")

    def changed(at, value, content=plain):
        return content[:at] + value + content[at + len(value) :]

    def sparse(**changes):
        csr = scipy.sparse.csr_matrix(np.array([[0, 1, 0], [2, 0, 3]], dtype=np.float32))
        arrays = dict(indices=csr.indices, indptr=csr.indptr, format=b"csr", shape=csr.shape, data=csr.data)
        arrays.update(changes)
        content = io.BytesIO()
        np.savez(content, **{name: value for name, value in arrays.items() if value is not None})
        return content.getvalue()

    zip64 = io.BytesIO()
    with zipfile.ZipFile(zip64, "w") as archive:
        with archive.open("x.npy", "w", force_zip64=True) as file:
            file.write(x)
    end = plain.rindex(b"PK\5\6")
    zip64_end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, HUGE, HUGE, HUGE, HUGE)
    zip64_end += struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    bomb = npy_file("|u1", f"({4 << 20}, 1)", bytes(4 << 20))
    for name, content in {
        "plain": plain,
        "stored": zip_file({"x.npy": x, "y.npy": y}, zipfile.ZIP_STORED),
        "zip64": zip64.getvalue(),
        "zip64_huge": plain[:end] + zip64_end + plain[end : end + 8] + b"\xff" * 12 + plain[end + 20 :],
        "no_array": zip_file({"readme.txt": b"nothing"}),
        "no_file": zip_file({}) + b"",
        "empty_directory": b"PK\3\4" + zip_file({}),
        "cut": plain[:-30],
        "checksum": changed(plain.index(b"PK\3\4") + 14, b"\0\0\0\0", changed(directory + 16, b"\0\0\0\0")),
        "huge_size": changed(directory + 24, b"\xf0\xff\xff\xff"),
        "huge_name": changed(directory + 28, b"\xff\xff"),
        "huge_offset": changed(directory + 42, b"\xff\xff\xff\x7f"),
        "method": changed(plain.index(b"PK\3\4") + 8, b"\x63\0", changed(directory + 10, b"\x63\0")),
        "encrypted": changed(plain.index(b"PK\3\4") + 6, b"\1\0", changed(directory + 8, b"\1\0")),
        "bomb": zip_file({"x.npy": bomb}),
        "not_npy": zip_file({"x.npy": b"text"}),
        "two_features": zip_file({"a.npy": x, "b.npy": x}),
        "two_labels": zip_file({"x.npy": x, "y.npy": y, "labels.npy": y}),
        "same_name": zip_file({"x.npy": x, "./x.npy": y}),
        "csr": sparse(),
        "csc": sparse(format=b"csc", indptr=np.array([0, 1, 2, 3]), indices=np.array([1, 0, 1])),
        "coo": sparse(format=b"coo", indptr=None, indices=None, row=np.array([1, 1, 0]), col=np.array([2, 2, 0])),
        "64_bits": sparse(indices=np.array([1, 0, 2], dtype=np.int64), indptr=np.array([0, 1, 3], dtype=np.uint64)),
        "index_above": sparse(indices=np.array([1, 0, 3])),
        "index_negative": sparse(indices=np.array([1, 0, -1])),
        "indptr_falls": sparse(indptr=np.array([0, 3, 1, 3]), shape=(3, 3)),
        "indptr_short": sparse(indptr=np.array([0, 3])),
        "many_rows": sparse(format=b"coo", indptr=None, indices=None, row=np.array([0] * 3), col=np.array([0, 1, 2]), shape=(HUGE, 3)),
        "some_rows": sparse(format=b"coo", indptr=None, indices=None, row=np.array([0] * 3), col=np.array([0, 1, 2]), shape=(60_000_000, 3)),
        "many_columns": sparse(shape=(2, HUGE)),
        "most_columns": sparse(shape=(2, 4_000_000_000)),
        "shape_three": sparse(shape=(2, 3, 1)),
        "bsr": sparse(format=b"bsr"),
        "text_data": sparse(data=np.array(["a", "b", "c"])),
        "empty_sparse": sparse(shape=(0, 0), indptr=np.array([0]), indices=np.array([], dtype=np.int32), data=np.array([], dtype=np.float32)),
    }.items():
        write("npz", name + ".npz", content)


def tensors(header, values=b"", length=None):
    header = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + values


def safetensors():
    f = lambda *values: struct.pack(f"<{len(values)}f", *values)
    info = lambda dtype, shape, begin, end: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    x, y, w = info("F32", [2, 2], 0, 16), info("U8", [2], 16, 18), info("F32", [2], 18, 26)
    values = f(1, 2, 3, 4) + b"\0\1" + f(1, 2)
    plain = tensors({"x": x, "y": y, "w": w}, values)
    for name, content in {
        "plain": plain,
        "library": save({"x": np.eye(2, dtype=np.float16), "y": np.array([1, 0])}, {"classes": '["a", "b"]'}),
        "metadata": tensors({"__metadata__": {"classes": '["a", "b"]', "feature_names": '["u", "v"]'}, "x": x, "y": y}, values[:18]),
        "metadata_wrong": tensors({"__metadata__": {"classes": "[1"}, "x": x, "y": y}, values[:18]),
        "class_above": tensors({"__metadata__": {"classes": '["a"]'}, "x": x, "y": y}, values[:18]),
        "overlapping": tensors({"x": x, "y": info("U8", [2], 10, 12)}, values[:16]),
        "gap": tensors({"x": x, "y": info("U8", [2], 18, 20)}, values[:20]),
        "backwards": tensors({"x": info("F32", [2, 2], 16, 0)}, values[:16]),
        "beyond": tensors({"x": info("F32", [2, 2], 0, 32)}, values[:16]),
        "other_size": tensors({"x": info("F32", [2, 3], 0, 16)}, values[:16]),
        "huge": tensors({"x": info("F32", [HUGE >> 4, 1], 0, HUGE >> 2)}, values[:16]),
        "too_huge": tensors({"x": info("F32", [HUGE, HUGE], 0, 16)}, values[:16]),
        "no_samples_huge": tensors({"x": info("F32", [0, HUGE, HUGE], 0, 0), "y": info("F32", [0, HUGE], 0, 0)}),
        "no_features": tensors({"x": info("F32", [HUGE, 0], 0, 0)}),
        "negative": tensors('{"x":{"dtype":"F32","shape":[-2,1],"data_offsets":[0,8]}}', values[:8]),
        "dtype": tensors({"x": info("F8_E5M2", [2, 2], 0, 4)}, bytes(4)),
        "four_bits": tensors({"x": info("F4", [2, 2], 0, 2)}, bytes(2)),
        "unknown_dtype": tensors({"x": info("F128", [2, 2], 0, 64)}, bytes(64)),
        "nan": tensors({"x": info("F32", [2, 1], 0, 8)}, f(1, float("nan"))),
        "no_tensor": tensors({}),
        "only_metadata": tensors({"__metadata__": {}}),
        "long_header": tensors({"x": x}, values[:16], length=99_999_999),
        "longer_header": tensors({"x": x}, values[:16], length=1 << 63),
        "cut": plain[:-1],
        "cut_header": plain[:30],
        "more": plain + b"\0",
        "not_json": tensors("{x", values),
        "nested": tensors("{" + '"a":{' * 2000, values),
        "same_name": tensors('{"x":{"dtype":"U8","shape":[1,1],"data_offsets":[0,1]},"x":{"dtype":"U8","shape":[1,1],"data_offsets":[0,1]}}', b"\1"),
    }.items():
        write("safetensors", name + ".safetensors", content)


def tables():
    """Tables of Arrow, by name."""
    x, y, w = pa.array([1.5, 2.5, -1.0]), pa.array(["a", "b", "a"]), pa.array([1.0, 2.0, 0.5], pa.float32())
    lists = pa.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32()))
    return {
        "plain": dict(x=x, y=y, w=w),
        "types": dict(
            a=pa.array([1, 2, 3], pa.int8()), b=pa.array([1, 2, 3], pa.uint64()), c=pa.array([True, False, True]),
            x=pa.array([1, 2, 3], pa.uint8()), y=pa.array([1, 0, 1], pa.int64()),
        ),
        "half": dict(x=pa.array(np.array([1, 2, 3], dtype=np.float16)), y=y),
        "lists": dict(x=lists, y=pa.array([0, 1, 0], pa.int32())),
        "large_lists": dict(x=lists.cast(pa.large_list(pa.float32())), y=y.cast(pa.large_string())),
        "fixed_lists": dict(x=pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.uint8(), 2)), y=y),
        "ragged_lists": dict(x=pa.array([[1.0, 2.0], [3.0], [5.0, 6.0]]), y=y),
        "empty_lists": dict(x=pa.array([[], [], []], pa.list_(pa.float32())), y=y),
        "null_lists": dict(x=pa.array([[1.0, 2.0], None, [5.0, 6.0]]), y=y),
        "nested_lists": dict(x=pa.array([[[1.0], [2.0]], [[3.0], [4.0]], [[5.0], [6.0]]]), y=y),
        "structs": dict(x=pa.array([{"a": 1, "b": [2]}] * 3), y=y),
        "soft_labels": dict(x=x, y=pa.array([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]], pa.list_(pa.float32(), 2))),
        "nulls": dict(x=pa.array([1.0, None, 3.0]), y=pa.array(["a", None, "b"])),
        "nan": dict(x=pa.array([1.0, float("nan"), 3.0]), y=y),
        "line_breaks_in_names": {"x\r\n\0 1": pa.array([[1.0], [float("nan")], [3.0]]), "y": y},
        "dictionary": dict(x=x, y=y.dictionary_encode()),
        "dates": dict(x=pa.array([1, 2, 3], pa.timestamp("us")), y=y),
        "decimals": dict(x=pa.array([1, 2, 3]).cast(pa.decimal128(38, 2)), y=y),
        "no_rows": dict(x=pa.array([], pa.float32()), y=pa.array([], pa.string())),
        "empty_label": dict(x=x, y=pa.array(["a", "", "b"])),
        "only_y": dict(y=y),
    }


def parquet():
    for name, columns in tables().items():
        content = io.BytesIO()
        pq.write_table(pa.table(columns), content, store_schema=name in ("dictionary", "fixed_lists"))
        write("parquet", name + ".parquet", content.getvalue())
    table = pa.table(tables()["plain"])
    wide = pa.table({"x": pa.array(range(50), pa.int64()), "f": pa.array(np.arange(50) / 4, pa.float32()), "y": pa.array([str(i % 3) for i in range(50)])})
    for name, settings in {
        "delta": dict(use_dictionary=False, column_encoding={"x": "DELTA_BINARY_PACKED", "f": "BYTE_STREAM_SPLIT", "y": "DELTA_BYTE_ARRAY"}),
        "delta_length": dict(use_dictionary=False, column_encoding={"y": "DELTA_LENGTH_BYTE_ARRAY"}),
        "groups": dict(row_group_size=7),
        "pages": dict(data_page_size=16, data_page_version="2.0", write_page_index=True, write_page_checksum=True, compression="zstd"),
        "bare": dict(write_statistics=False, compression="none", store_schema=False),
        "snappy": dict(compression="snappy"),
        "gzip": dict(compression="gzip"),
        "lz4": dict(compression="lz4"),
        "brotli": dict(compression="brotli"),
    }.items():
        content = io.BytesIO()
        pq.write_table(wide, content, **settings)
        write("parquet", name + ".parquet", content.getvalue())
    content = io.BytesIO()
    pq.write_table(table, content, compression="none")
    plain = content.getvalue()
    write("parquet", "only_marks.parquet", b"PAR1PAR1")
    write("parquet", "only_start.parquet", b"PAR1")
    write("parquet", "cut.parquet", plain[:-1])
    write("parquet", "huge_footer.parquet", plain[:-8] + b"\xff\xff\xff\x7fPAR1")
    write("parquet", "encrypted.parquet", plain[:-4] + b"PARE")


def arrow():
    for name, columns in tables().items():
        table = pa.table(columns)
        for extension, new in [("arrows", ipc.new_stream), ("arrow", ipc.new_file)]:
            # Both for some.
            if extension == "arrow" and name not in ("plain", "lists", "dictionary"):
                continue
            content = io.BytesIO()
            with new(content, table.schema) as writer:
                writer.write_table(table)
            write("arrow", f"{name}.{extension}", content.getvalue())
    table = pa.table(tables()["plain"])
    for packing in ["zstd", "lz4"]:
        content = io.BytesIO()
        big = pa.table({"x": pa.array([0.0] * 300), "y": pa.array(["a", "b", "c"] * 100)})
        with ipc.new_stream(content, big.schema, options=ipc.IpcWriteOptions(compression=packing)) as writer:
            writer.write_table(big)
        write("arrow", f"{packing}.arrows", content.getvalue())
    views = pa.table({"x": pa.array([1.0, 2.0]), "y": pa.array(["a", "a name that is long"], pa.string_view())})
    runs = pa.table({"x": pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array([1.0, 2.0])), "y": pa.array(["a", "b", "c"])})
    for name, other in [("views", views), ("runs", runs)]:
        content = io.BytesIO()
        with ipc.new_stream(content, other.schema) as writer:
            writer.write_table(other)
        write("arrow", f"{name}.arrows", content.getvalue())
    content = io.BytesIO()
    with ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table)
    plain = content.getvalue()
    write("arrow", "only_mark.arrow", b"ARROW1\0\0")
    write("arrow", "only_continuation.arrows", b"\xff\xff\xff\xff")
    write("arrow", "huge_message.arrows", b"\xff\xff\xff\xff\xff\xff\xff\x7f" + plain[8:])
    write("arrow", "negative_message.arrows", b"\xff\xff\xff\xff\xff\xff\xff\xff" + plain[8:])
    write("arrow", "cut.arrows", plain[: len(plain) // 2])


def packed():
    text = b"x,y\n" + b"1,a\n2,b\n" * 20
    bomb = bytes(4 << 20)
    one = gzip.compress(text, mtime=0)
    for name, content in {
        "plain": one,
        "members": one + gzip.compress(b"3,c\n", mtime=0),
        "names": gzip.compress(b"a\nb\n", mtime=0),
        "numbers": gzip.compress(b"1\n2\n", mtime=0),
        "npy": gzip.compress(npy_file("|u1", "(2, 1)", b"\1\2"), mtime=0),
        "npz": gzip.compress(zip_file({"x.npy": npy_file("|u1", "(2, 1)", b"\1\2")}), mtime=0),
        "safetensors": gzip.compress(tensors({"x": {"dtype": "U8", "shape": [1, 1], "data_offsets": [0, 1]}}, b"\1"), mtime=0),
        "twice": gzip.compress(one, mtime=0),
        "empty": gzip.compress(b"", mtime=0),
        "bomb": gzip.compress(bomb, mtime=0),
        "bomb_csv": gzip.compress(b"x,y\n" + b"1,a\n" * (1 << 20), mtime=0),
        "bomb_names": gzip.compress(b"a\n" * (1 << 20), mtime=0),
        "huge_npy": gzip.compress(npy_file("|u1", f"({HUGE}, 1)", b"\1\2"), mtime=0),
        "cut": one[:-9],
        "no_checksum": one[:-8],
        "checksum": one[:-8] + b"\0\0\0\0" + one[-4:],
        "only_magic": b"\x1f\x8b",
        "garbage_behind": one + b"garbage",
        "zeros_behind": one + bytes(8),
        "method": one[:2] + b"\7" + one[3:],
        "name": b"\x1f\x8b\x08\x1e\0\0\0\0\0\xff\4\0ab\1\0name\0comment\0" + one[10:],
    }.items():
        write("gzip", name + ".gz", content)
    pack = lambda content, **settings: zstandard.ZstdCompressor(**settings).compress(content)
    one = pack(text)
    skippable = b"\x50\x2a\x4d\x18\4\0\0\0skip"
    for name, content in {
        "plain": one,
        "checksum": pack(text, write_checksum=True),
        "no_size": pack(text, write_content_size=False),
        "frames": one + skippable + pack(b"3,c\n") + skippable,
        "names": pack(b"a\nb\n"),
        "npy": pack(npy_file("|u1", "(2, 1)", b"\1\2")),
        "empty": pack(b""),
        "bomb": pack(bomb),
        "bomb_csv": pack(b"x,y\n" + b"1,a\n" * (1 << 20)),
        "high": pack(bytes(range(256)) * 40 + text, level=19),
        "wrong_checksum": pack(text, write_checksum=True)[:-1] + b"\0",
        "cut": one[:-3],
        "only_magic": one[:4],
        # A window of 2^41 bytes, and a size of 2^60.
        "window": one[:4] + b"\0\xff" + one[6:],
        "huge_size": one[:4] + b"\xe0" + struct.pack("<Q", HUGE) + one[6:],
        "skippable_long": one + b"\x50\x2a\x4d\x18\xff\xff\xff\xff",
        "dictionary": one[:4] + b"\3\1\2\3\4" + one[5:],
        "garbage_behind": one + b"garbage",
    }.items():
        write("zstandard", name + ".zst", content)


def model():
    f = lambda *values: struct.pack(f"<{len(values)}f", *values)
    info = lambda dtype, shape, begin, end: {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    of = {"format_version": 1, "classes": ["a", "b"], "feature_names": ["u", "v", "w"], "training": {"epochs": 3}}
    values = f(1, -2, 0.5, 0.25, 3, 4) + f(0.1, -0.1)

    def file(weight=info("F32", [3, 2], 0, 24), bias=info("F32", [2], 24, 32), values=values, **changes):
        entries = {key: value for key, value in {**of, **changes}.items() if value is not None}
        header = {"__metadata__": {"softreg": json.dumps(entries)}, "weight": weight, "bias": bias}
        return tensors({key: value for key, value in header.items() if value is not None}, values)

    def structured(structure, arrays, n_features=3, bias=(0.1, -0.1), **changes):
        header, all = {}, b""
        for name, (shape, values) in {**arrays, "bias": ([len(bias)], bias)}.items():
            header[name] = info("F32", shape, len(all), len(all) + 4 * len(values))
            all += f(*values)
        entries = {**of, "format_version": 2, "structure": structure, "n_features": n_features, **changes}
        entries = {key: value for key, value in entries.items() if value is not None}
        return tensors({"__metadata__": {"softreg": json.dumps(entries)}, **header}, all)

    phm = {"A": ([2, 2, 2], [1, 0, 0, 1, 0, 1, 1, 0]), "S": ([2, 2, 1], [1, -2, 0.5, 0.25])}
    low_rank = {"U": ([3, 1], [1, -2, 0.5]), "V": ([1, 2], [0.25, 3])}
    quaternion = {"S": ([4, 1, 1], [1, -2, 0.5, 0.25])}

    plain = file()
    for name, content in {
        "plain": plain,
        "phm": structured("phm:2", phm),
        "phm_padded": structured("phm:2", {**phm, "S": ([2, 2, 2], range(8))}, classes=["a", "b", "c"], bias=(1, 2, 3)),
        "low_rank": structured("lowrank:1", low_rank),
        "quaternion": structured("quaternion", quaternion, 4, feature_names=None),
        "structure_unknown": structured("butterfly:2", phm),
        "structure_dense": structured("dense", phm),
        "structure_number": structured(7, phm),
        "phm_0": structured("phm:0", phm),
        "phm_huge": structured(f"phm:{HUGE}", phm),
        "phm_shape": structured("phm:2", {**phm, "S": ([4], [1, 2, 3, 4])}),
        "phm_without_a": structured("phm:2", {"S": phm["S"]}),
        "phm_bias": structured("phm:2", phm, bias=(1,)),
        "phm_too_large": structured("phm:2", {"A": ([2, 2, 2], [1e30] * 8), "S": ([2, 2, 1], [1e30] * 4)}),
        "low_rank_nan": structured("lowrank:1", {**low_rank, "V": ([1, 2], [float("nan"), 3])}),
        "rank_3": structured("lowrank:3", {"U": ([3, 3], range(9)), "V": ([3, 2], range(6))}),
        "structure_names": structured("lowrank:1", low_rank, feature_names=["u"]),
        "n_features_0": structured("phm:2", phm, 0),
        "n_features_huge": structured("phm:2", phm, HUGE),
        "n_features_none": structured("quaternion", quaternion, None, feature_names=None),
        "no_names": file(feature_names=None),
        "empty": b"",
        "cut": plain[:-1],
        "cut_header": plain[:100],
        "more": plain + b"\0",
        "foreign": tensors({"weight": info("F32", [1], 0, 4)}, f(1)),
        "not_safetensors": b"PK\3\4" + bytes(30),
        "metadata_not_json": tensors({"__metadata__": {"softreg": "{"}, "weight": info("F32", [1], 0, 4)}, f(1)),
        "newer": file(format_version=3),
        "no_version": file(format_version=None),
        "version_text": file(format_version="1"),
        "no_classes": file(classes=None),
        "one_class": file(info("F32", [3, 1], 0, 12), info("F32", [1], 12, 16), values[:16], classes=["a"]),
        "same_classes": file(classes=["a", "a"]),
        "classes_numbers": file(classes=[1, 2]),
        "three_classes": file(classes=["a", "b", "c"]),
        "names_short": file(feature_names=["u"]),
        "names_same": file(feature_names=["u", "u", "w"]),
        "no_weight": file(weight=None, bias=info("F32", [8], 0, 32)),
        "dtype": file(info("I32", [3, 2], 0, 24)),
        "vector": file(info("F32", [6], 0, 24)),
        "other_bias": file(info("F32", [5], 0, 20), info("F32", [3], 20, 32)),
        "huge": file(info("F32", [HUGE >> 4, 2], 0, HUGE >> 1)),
        "no_features_huge": file(info("F32", [0, HUGE], 0, 0), info("F32", [8], 0, 32)),
        "no_classes_huge": file(info("F32", [HUGE, 0], 0, 0), info("F32", [0], 0, 0), b"", classes=[], feature_names=None),
        "nan": file(values=values[:-4] + f(float("nan"))),
        "overlapping": file(bias=info("F32", [2], 16, 24), values=values[:24]),
        "deep": tensors({"__metadata__": {"softreg": "[" * 4000}, "weight": info("F32", [1], 0, 4)}, f(1)),
    }.items():
        write("model", name + ".safetensors", content)


def checkpoint():
    f = lambda *values: struct.pack(f"<{len(values)}f", *values)
    d = lambda *values: struct.pack(f"<{len(values)}d", *values)

    def file(arrays, values=None, **changes):
        header, begin, all = {}, 0, b""
        for name, (dtype, shape, content) in arrays.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, begin + len(content)]}
            begin += len(content)
            all += content
        entries = {
            "format_version": 2, "softreg_version": "0.1.0", "run": {"solver": "sgd"}, "device": {}, "n_epochs": 7, "n_samples": 5,
            "best_epoch": None, "n_steps": 40,
            "hash": xxhash.xxh3_64(b"".join(arrays[name][2] for name in sorted(arrays))).hexdigest(),
        }
        entries.update(changes)
        entries = {key: value for key, value in entries.items() if value is not Ellipsis}
        return tensors({"__metadata__": {"softreg_checkpoint": json.dumps(entries)}, **header}, all)

    epochs = ("F64", [2, 4], d(0.5, float("nan"), 1, 0.1, 0.4, 0.3, 2, 1e300))
    nine = ("F32", [3, 3], f(*range(9)))
    stochastic = dict(epochs=epochs, parameters=nine, moments=("F32", [18], f(*range(18))))
    batch = dict(
        epochs=epochs, parameters=("F64", [9], d(*range(9))), pairs=("F64", [1, 2, 9], d(*range(18))),
        numbers=("F64", [7], d(*range(7))),
    )
    of_batch = dict(n_steps=..., n_products=5, n_along=6)
    factors = {**batch, "parameters": ("F64", [8], d(*range(8))), "pairs": ("F64", [1, 2, 8], d(*range(16)))}
    best_factors = dict(best=("F32", [8], f(*range(8))), best_loss=("F64", [1], d(0.1)))
    best = dict(best=nine, best_loss=("F64", [1], d(0.1)))
    plain = file(stochastic)
    for name, content in {
        "sgd": plain,
        "best": file({**stochastic, **best}, best_epoch=2),
        "best_above": file({**stochastic, **best}, best_epoch=3),
        "no_best": file(stochastic, best_epoch=1),
        "lbfgs": file(batch, **of_batch),
        "factors": file({**factors, **best_factors}, **of_batch, best_epoch=2),
        "factors_best_dense": file({**factors, **best}, **of_batch, best_epoch=2),
        "factors_not_finite": file({**factors, "parameters": ("F64", [8], d(*range(7), float("inf")))}, **of_batch),
        "no_numbers": file({key: value for key, value in batch.items() if key != "numbers"}, **of_batch),
        "no_pairs": file({**batch, "pairs": ("F64", [0, 2, 9], b"")}, **of_batch),
        "half_pair": file({**batch, "pairs": ("F64", [9], d(*range(9)))}, **of_batch),
        "five_numbers": file({**batch, "numbers": ("F64", [5], d(*range(5)))}, **of_batch),
        "not_finite": file({**batch, "parameters": ("F64", [9], d(*range(8), float("inf")))}, **of_batch),
        "no_products": file(batch, n_steps=...),
        "no_epochs": file({**stochastic, "epochs": ("F64", [0, 4], b"")}),
        "many_epochs": file(stochastic, n_epochs=1),
        "negative_epochs": file(stochastic, n_epochs=-1),
        "dtype": file({**stochastic, "parameters": ("F64", [9], d(*range(9)))}),
        "hash": file(stochastic, hash="0123456789abcdef"),
        "short": file({**stochastic, "parameters": ("F32", [4], f(*range(4)))}),
        "nan": file({**stochastic, "parameters": ("F32", [9], f(*range(8), float("nan")))}),
        "newer": file(stochastic, format_version=3),
        "no_version": file(stochastic, format_version=...),
        "cut": plain[:-1],
        "foreign": tensors({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\1"),
        "empty": b"",
        "text": b"not a checkpoint",
    }.items():
        write("checkpoint", name + ".checkpoint", content)


for each in [csv, svmlight, names, idx, npy, npz, safetensors, parquet, arrow, packed, model, checkpoint]:
    each()
