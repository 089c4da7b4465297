#!/usr/bin/env python3
"""Test accuracy and loss against parameters, for docs/structured-weights.md: tables on standard output, a plot as SVG.

    benches/structured/run.py SOFTREG DATA OUT.svg [RESULTS.json]

SOFTREG is the program, DATA a folder with banking77/ and mnist-10k/. For each structure the penalty is the one of its set with the
lowest loss on a tenth of the training data that is kept apart; then a model of all training data, the best of SEEDS seeds by
its objective, is measured on the test data. Needs nothing but the standard library. RESULTS.json keeps results: what it has is not run
again.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

OF_SEARCH, OF_FIT = "1e-4", "1e-6"  # tolerances
SEEDS = 3
SETS = {
    "banking77": {
        "title": "Banking77, 10,003 sentences, 384 features, 77 classes",
        "penalties": ["1e-4", "3e-5", "1e-5", "3e-6", "1e-6", "3e-7"],
        "data": ["train_x.npy", "--labels", "train_y.txt", "--test", "test_x.npy", "--test-labels", "test_y.txt"],
        "structures": "dense phm:4 phm:16 phm:18 lowrank:16 quaternion phm:8 phm:10 phm:11 lowrank:9 phm:2 lowrank:32 lowrank:24".split(),
    },
    "mnist-10k": {
        "title": "MNIST, 10,000 images (a fifth for the test), 784 features, 10 classes",
        "penalties": ["1e-2", "3e-3", "1e-3", "3e-4", "1e-4", "3e-5"],
        "data": ["t10k-images-idx3-ubyte.gz", "--labels", "t10k-labels-idx1-ubyte.gz", "--test-split", "0.2"],
        "structures": "dense phm:4 lowrank:3 quaternion phm:8 phm:10 lowrank:2 phm:2 lowrank:5".split(),
    },
}
FAMILIES = [("dense", "#333333"), ("phm", "#0b6fb8"), ("quaternion", "#d1495b"), ("lowrank", "#2e933c")]


def softreg(program, folder, data, more):
    data = [str(folder / part) if (folder / part).exists() else part for part in data]
    command = [program, "train", *data, "--solver", "lbfgs", "--device", "cpu", "--quiet", "--json", "-", *more]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)


def measure(program, folder, of, structure):
    data, penalties = of["data"], of["penalties"]
    weights = ["--weights", structure]
    search = {
        l2: softreg(program, folder, data, [*weights, "--l2", l2, "--validation-split", "0.1", "--tolerance", OF_SEARCH])
        for l2 in penalties
    }
    l2 = min(penalties, key=lambda l2: search[l2]["validation_loss"])
    has_seeds = structure.startswith(("phm", "lowrank"))
    seeds = str(SEEDS if has_seeds else 1)
    fit = softreg(program, folder, data, [*weights, "--l2", l2, "--seeds", seeds, "--tolerance", OF_FIT])
    keys = ["n_parameters", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "n_iterations", "seconds_train"]
    return {"l2": l2, **{key: fit[key] for key in keys}}


def table(results):
    dense = results["dense"]
    lines = ["| weights | parameters | of dense | l2 | test accuracy | less than dense | test loss | training loss |", "|---|---|---|---|---|---|---|---|"]
    for name, r in sorted(results.items(), key=lambda item: -item[1]["n_parameters"]):
        less = dense["test_accuracy"] - r["test_accuracy"]
        share = r["n_parameters"] / dense["n_parameters"]
        lines.append(
            f"| `{name}` | {r['n_parameters']:,} | {share:.3f} | {r['l2']} | {r['test_accuracy']:.4f} | {less:.4f} "
            f"| {r['test_loss']:.4f} | {r['train_loss']:.4f} |"
        )
    return "\n".join(lines)


def panel(results, left, top, width, height, key, title):
    """One plot: parameters on a logarithmic axis, a figure above them."""
    xs = [r["n_parameters"] for r in results.values()]
    ys = [r[key] for r in results.values()]
    low, high = math.log(min(xs)) - 0.15, math.log(max(xs)) + 0.15
    margin = 0.08 * (max(ys) - min(ys))
    bottom_value, top_value = min(ys) - margin, max(ys) + margin
    x = lambda n: left + width * (math.log(n) - low) / (high - low)
    y = lambda value: top + height * (top_value - value) / (top_value - bottom_value)
    out = [
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#999"/>',
        f'<text x="{left}" y="{top - 8}" font-size="13">{title}</text>',
    ]
    step = 10 ** math.floor(math.log10(top_value - bottom_value))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if (top_value - bottom_value) / s <= 7)
    tick = math.ceil(bottom_value / step) * step
    while tick <= top_value:
        out.append(f'<line x1="{left}" x2="{left + width}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" font-size="11" text-anchor="end">{tick:.3g}</text>')
        tick += step
    for n in (500, 1000, 2000, 5000, 10000, 20000, 50000):
        if low <= math.log(n) <= high:
            out.append(f'<line x1="{x(n):.1f}" x2="{x(n):.1f}" y1="{top}" y2="{top + height}" stroke="#eee"/>')
            out.append(f'<text x="{x(n):.1f}" y="{top + height + 16}" font-size="11" text-anchor="middle">{n:,}</text>')
    for family, colour in FAMILIES:
        # By their number, not by their size: phm has each size twice, with most numbers in S or in A.
        number = lambda name: int(name.partition(":")[2] or 0)
        names = sorted((name for name in results if name.split(":")[0] == family), key=number)
        points = [(results[name]["n_parameters"], results[name][key], name) for name in names]
        path = " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value, _ in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>')
        for n, value, name in points:
            label = name.split(":")[-1] if ":" in name else ""
            out.append(f'<circle cx="{x(n):.1f}" cy="{y(value):.1f}" r="3.5" fill="{colour}"/>')
            out.append(f'<text x="{x(n) + 6:.1f}" y="{y(value) + 14:.1f}" font-size="10" fill="{colour}">{label}</text>')
    return out


def plot(all_results):
    width, height, gap = 400, 240, 80
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * width + 2 * gap}" height="{len(SETS) * (height + gap) + 50}" '
        'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>'
    ]
    for index, (family, colour) in enumerate(FAMILIES):
        left = gap + 110 * index
        out.append(f'<circle cx="{left}" cy="16" r="4" fill="{colour}"/><text x="{left + 9}" y="20" font-size="13">{family}</text>')
    for row, (name, results) in enumerate(all_results.items()):
        top = 64 + row * (height + gap)
        for column, (key, what) in enumerate([("test_accuracy", "test accuracy"), ("test_loss", "test loss (nats)")]):
            left = 60 + column * (width + gap)
            out += panel(results, left, top, width, height, key, f"{name}: {what} against parameters")
    return "\n".join([*out, "</svg>"]) + "\n"


def main():
    program, folder, svg = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    kept = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    results = json.loads(kept.read_text()) if kept and kept.exists() else {}
    for name, of in SETS.items():
        found = results.setdefault(name, {})
        for structure in of["structures"]:
            if structure not in found:
                found[structure] = measure(program, folder / name, of, structure)
                print(f"{name} {structure}: {found[structure]}", file=sys.stderr)
                if kept:
                    kept.write_text(json.dumps(results, indent=1))
        print(f"## {of['title']}\n\n{table(found)}\n")
    svg.write_text(plot(results))


if __name__ == "__main__":
    main()
