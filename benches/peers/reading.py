"""softreg's readers of text and those of pandas, Polars, PyArrow and scikit-learn on the same files, in turns in one run.

    target/peers/bin/pip install pandas polars pyarrow
    target/peers/bin/python benches/peers/reading.py PROGRAM [--turns N] [--only NAME]

PROGRAM is what `cargo bench --bench peers --no-run` names. The files are made in target/peers/reading, about 200 MB each: numbers of
7 and of 17 digits, whole numbers, numbers beside text, and for svmlight the tf-idf of Banking77 many times over. Each is
read once before it is timed, so that all read from memory; the shapes and the sums of the values must agree. softreg's
values are in single precision, those of the others in double. Prints the median of the turns, MB/s, and how often
softreg's median goes into it.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import time

import numpy as np
import pandas as pd
from sklearn.datasets import load_svmlight_file

FOLDER = pathlib.Path("target/peers/reading")
BANKING77 = pathlib.Path("../shared/data/banking77/train_tfidf.svm")
SIZE = 200_000_000


def make():
    """The files that are not there yet: name, path, and the column of labels."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    part = random.standard_normal((2000, 300))
    header = ",".join(f"x{j}" for j in range(300))
    text = np.array(["red", "dark green", '"blue, light"', "七"])
    formats = {
        "7 digits": lambda row: ",".join(f"{x:.6f}" for x in row),
        "17 digits": lambda row: ",".join(repr(x) for x in row.tolist()),
        "whole numbers": lambda row: ",".join(str(int(1000 * x)) for x in row),
        "numbers and text": lambda row: ",".join(f"{x:.6f}" for x in row) + "," + text[int(1000 * row[0]) % 4],
    }
    files = []
    for name, line in formats.items():
        path = FOLDER / (name.replace(" ", "-") + ".csv")
        has_label = "text" in name
        if not path.exists():
            lines = "".join(line(row) + "\n" for row in part)
            with open(path, "w") as out:
                out.write(header + (",label" if has_label else "") + "\n")
                for _ in range(SIZE // len(lines.encode())):
                    out.write(lines)
        files.append((name, path, "label" if has_label else None))
    if BANKING77.exists():
        path = FOLDER / "tfidf.svm"
        if not path.exists():
            content = BANKING77.read_bytes()
            path.write_bytes(content * (SIZE // len(content)))
        files.append(("svmlight", path, None))
    return files


def polars(path):
    import polars

    frame = polars.read_csv(path)
    return lambda: frame.to_pandas()


def pyarrow(path):
    from pyarrow import csv

    table = csv.read_csv(path)
    return lambda: table.to_pandas()


def pandas(path):
    frame = pd.read_csv(path)
    return lambda: frame


def sklearn(path):
    X, _ = load_svmlight_file(str(path))
    return lambda: X


def summary(data):
    if isinstance(data, pd.DataFrame):
        values = data.select_dtypes("number").to_numpy(dtype=np.float64)
        return (*values.shape, values.size, values.sum())
    return (*data.shape, data.nnz, data.sum())


class Softreg:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, path, label):
        print("read", path, *([label] if label else []), file=self.process.stdin, flush=True)
        seconds, *sizes, total = self.process.stdout.readline().split()
        return float(seconds), (*map(int, sizes), float(total))


def check(name, expected, found, digits):
    if expected[:3] != found[:3] or abs(expected[3] - found[3]) > digits * expected[2] ** 0.5 + 1e-6 * abs(expected[3]):
        raise SystemExit(f"{name}: {found}, where pandas or scikit-learn has {expected}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    softreg = Softreg(arguments.program)
    for name, path, label in make():
        if arguments.only not in name:
            continue
        peers = [sklearn] if path.suffix == ".svm" else [pandas]
        for module, peer in [("polars", polars), ("pyarrow", pyarrow)]:
            try:
                __import__(module)
            except ImportError:
                continue
            if path.suffix == ".csv":
                peers.append(peer)
        expected = summary(peers[0](path)())
        check(name, expected, softreg.read(path, label)[1], 1e-6)
        times = {peer.__name__: [] for peer in peers} | {"softreg": []}
        for _ in range(arguments.turns):
            for peer in peers:
                begin = time.perf_counter()
                result = peer(path)
                times[peer.__name__].append(time.perf_counter() - begin)
                del result
            times["softreg"].append(softreg.read(path, label)[0])
        size = os.path.getsize(path)
        own = statistics.median(times["softreg"])
        print(f"{name} ({size / 1e6:.0f} MB, {os.cpu_count()} cores)")
        for peer, seconds in times.items():
            median = statistics.median(seconds)
            print(f"  {peer:10} {median:7.3f} s  {size / median / 1e6:6.0f} MB/s  {median / own:5.2f}", flush=True)


if __name__ == "__main__":
    main()
