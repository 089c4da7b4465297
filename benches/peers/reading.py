"""softreg's readers of text and those of pandas, Polars, PyArrow and scikit-learn on the same files, in turns in one run.

    target/peers/bin/pip install pandas polars pyarrow
    target/peers/bin/python benches/peers/reading.py PROGRAM… [--turns N] [--only NAME] [--peers pandas,polars]

PROGRAM is what `cargo bench --bench peers --no-run` names; with several, builds of softreg are compared. The files are made in
target/peers/reading, about 100 MB each: KINDS says what they have. Each is read once before it is timed, so that all read from
memory, and softreg's values must be those of pandas (with `float_precision="round_trip"`, which rounds to the nearest double) in
single precision, every one of them. svmlight is the tf-idf of Banking77 many times over, compared by shape and sum.

Prints the median of the turns, wall and processor time, MB of the file a second, and both times over softreg's: the ratio is how
often the median of softreg (of the last PROGRAM) goes into it.
"""

import argparse
import csv
import gzip
import os
import pathlib
import resource
import statistics
import subprocess
import time
import warnings

import numpy as np
import pandas as pd
from sklearn.datasets import load_svmlight_file

FOLDER = pathlib.Path("target/peers/reading")
SHARED = pathlib.Path("../shared/data")
BANKING77 = SHARED / "banking77/train_tfidf.svm"
MNIST = SHARED / "mnist-10k/t10k-images-idx3-ubyte.gz"
SIZE = 100_000_000
CITIES = ["Paris", "Accra", "São Paulo", "Ulaanbaatar", "Lima", "Port Moresby", "Oslo", "Hanoi"]
COLORS = ["red", "dark green", '"blue, light"', "七"]


def comma(fields):
    return ",".join(fields)


def floats(number):
    return lambda random: comma(number(x) for x in random.standard_normal(300).tolist())


def survey(random):
    """Twelve numbers and two columns of text."""
    numbers = random.standard_normal(12)
    return comma([CITIES[random.integers(8)], *(f"{x:.3f}" for x in numbers), COLORS[random.integers(4)]])


# A row of each kind of file, and the columns of text: of the labels, and of categories.
KINDS = {
    "short floats": (floats(lambda x: f"{x:.3f}"), None, None),
    "7 digits": (floats(lambda x: f"{x:.6f}"), None, None),
    "17 digits": (floats(repr), None, None),
    "exponents": (floats(lambda x: f"{x:.8e}"), None, None),
    "whole numbers": (floats(lambda x: str(int(1000 * x))), None, None),
    "digits of MNIST": (None, "label", None),
    "label column": (lambda random: floats(lambda x: f"{x:.6f}")(random) + "," + COLORS[random.integers(4)], "x300", None),
    "categories": (survey, "x13", "x0"),
    "in quotes": (floats(lambda x: f'"{x:.6f}"'), None, None),
    "CRLF": (floats(lambda x: f"{x:.6f}"), None, None),
    "tabs": (floats(lambda x: f"{x:.6f}"), None, None),
    "gzip": (floats(lambda x: f"{x:.6f}"), None, None),
}


def mnist_rows():
    pixels = np.frombuffer(gzip.decompress(MNIST.read_bytes()), np.uint8, offset=16).reshape(-1, 784)
    return [comma([str(i % 10), *map(str, row)]) for i, row in enumerate(pixels.tolist())]


def make(only):
    """The files that are not there yet: name, path, and the columns of labels and of categories."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, (row, label, categories) in KINDS.items():
        if only not in name or (row is None and not MNIST.exists()):
            continue
        path = FOLDER / (name.replace(" ", "-") + (".csv.gz" if name == "gzip" else ".csv"))
        if not path.exists():
            random = np.random.default_rng(0)
            rows = mnist_rows() if row is None else [row(random) for _ in range(2000)]
            header = [f"x{j}" for j in range(len(next(csv.reader(rows))))]
            if row is None:
                header[0] = "label"
            end = "\r\n" if name == "CRLF" else "\n"
            part = "".join(row + end for row in rows)
            text = comma(header) + end + part * (SIZE // len(part.encode()))
            if name == "tabs":
                text = text.replace(",", "\t")
            content = text.encode()
            path.write_bytes(gzip.compress(content, 6) if name == "gzip" else content)
        yield name, path, label, categories
    if BANKING77.exists() and only in "svmlight":
        path = FOLDER / "tfidf.svm"
        if not path.exists():
            content = BANKING77.read_bytes()
            path.write_bytes(content * (SIZE // len(content)))
        yield "svmlight", path, None, None


def polars(path):
    import polars

    return polars.read_csv(path, separator=separator(path))


def pyarrow(path):
    from pyarrow import csv as of_arrow

    return of_arrow.read_csv(path, parse_options=of_arrow.ParseOptions(delimiter=separator(path)))


def pandas(path):
    return pd.read_csv(path, sep=separator(path))


def sklearn(path):
    return load_svmlight_file(str(path))


def separator(path):
    return "\t" if path.stem == "tabs" else ","


class Softreg:
    """A process that answers; `read` gives what it read: samples, features, values and their sum."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.times = []

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().split()
        if not answer:
            raise SystemExit(f"softreg could not: {' '.join(map(str, words))}")
        return answer

    def read(self, path, label, categories):
        seconds, cpu, *sizes, total = self.ask("read", path, label or "-", categories or "-")
        self.times.append((float(seconds), float(cpu)))
        return (*map(int, sizes), float(total))


def check(name, path, softreg, label, categories):
    """That softreg reads what others do."""
    found = softreg.read(path, label, categories)
    if path.suffix == ".svm":
        X, _ = sklearn(path)
        expected = (*X.shape, X.nnz, X.sum())
        if expected[:3] != found[:3] or abs(expected[3] - found[3]) > 1e-6 * abs(expected[3]):
            raise SystemExit(f"{name}: {found}, where scikit-learn has {expected}")
        return
    with warnings.catch_warnings():
        # From version 3 on it is the default.
        warnings.simplefilter("ignore")
        frame = pd.read_csv(path, sep=separator(path), float_precision="round_trip")
    if label:
        frame = frame.drop(columns=label)
    if categories:
        frame = pd.get_dummies(frame, columns=[categories], dtype=float, prefix_sep="=")
        first = [column for column in frame if column.startswith(categories + "=")]
        frame = frame[sorted(first) + [column for column in frame if column not in first]]
    doubles = frame.to_numpy(dtype=np.float64)
    values = FOLDER / "values"
    softreg.ask("values", path, label or "-", categories or "-", values)
    singles = np.fromfile(values, np.float32)
    values.unlink()
    if found[:2] != doubles.shape or singles.size != doubles.size:
        raise SystemExit(f"{name}: {found[:2]} values, where pandas has {doubles.shape}")
    doubles = doubles.ravel()
    # A double in the middle of two singles may have come of a text that was not.
    is_middle = doubles.view(np.uint64) & ((1 << 29) - 1) == 1 << 28
    wrong = np.flatnonzero((singles != doubles.astype(np.float32)) & ~is_middle)
    if wrong.size:
        i = wrong[0]
        raise SystemExit(f"{name}: {wrong.size} values are others; value {i} is {singles[i]}, pandas has {doubles[i]}")


def processor_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", nargs="+")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--peers", default="pandas,polars,pyarrow")
    arguments = parser.parse_args()
    wanted = [peer for peer in (pandas, polars, pyarrow) if peer.__name__ in arguments.peers.split(",")]
    versions = [f"{peer.__name__} {__import__(peer.__name__).__version__}" for peer in wanted]
    print(f"{', '.join(versions)}; {os.cpu_count()} cores")
    for name, path, label, categories in make(arguments.only):
        builds = [Softreg(program) for program in arguments.program]
        for build in builds:
            check(name, path, build, label, categories)
        peers = [sklearn] if path.suffix == ".svm" else wanted
        times = {peer.__name__: [] for peer in peers}
        for build in builds:
            build.times.clear()
        for turn in range(-1, arguments.turns):
            for peer in peers:
                begin, processor = time.perf_counter(), processor_seconds()
                result = peer(path)
                if turn >= 0:
                    times[peer.__name__].append((time.perf_counter() - begin, processor_seconds() - processor))
                del result
            for build in builds:
                build.read(path, label, categories)
        names = ["softreg"] if len(builds) == 1 else [f"softreg {i + 1}" for i in range(len(builds))]
        for build_name, build in zip(names, builds):
            times[build_name] = build.times[1:]
            build.process.stdin.close()
            build.process.wait()
        size = os.path.getsize(path)
        medians = {who: [statistics.median(column) for column in zip(*pairs)] for who, pairs in times.items()}
        wall, processor = list(medians.values())[-1]
        print(f"{name} ({size / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f})")
        for who, (seconds, cpu) in medians.items():
            print(
                f"  {who:10} {seconds:7.3f} s  {cpu:7.3f} s of processors  {size / seconds / 1e6:6.0f} MB/s"
                f"  ratios {seconds / wall:5.2f} {cpu / processor:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
