"""A sweep beside scikit-learn's LogisticRegressionCV: 10 C from 1e-4 to 1e4, 5 folds, log loss, refit. In turns; times and their ratios.

    target/peers/bin/python benches/peers/sweep.py SOFTREG DATA [--turns N] [--optimum]

SOFTREG is the program, DATA a folder with train_x.npy and train_y.txt, as shared/data/banking77. softreg's times are of the whole process,
with reading the data; scikit-learn's of the fit alone. Both must choose the same C. `--optimum` takes half an hour more: scikit-learn fits
each of the 50 models to a gradient of 1e-10 in double precision, each from the last one, and the validation losses of softreg's are compared
with theirs. benches/peers/run makes target/peers.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

N_FOLDS = 5
CS = np.logspace(-4, 4, 10)


def softreg(program, data):
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [program, "sweep", data / "train_x.npy", "--labels", data / "train_y.txt", "--cv", N_FOLDS]
        command += ["--c", ",".join(map(repr, CS.tolist())), "--device", "cpu", "--quiet", "--json", report.name]
        begin = time.perf_counter()
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin, json.load(open(report.name))


def scikit_learn(x, y):
    search = LogisticRegressionCV(Cs=CS, cv=N_FOLDS, scoring="neg_log_loss", use_legacy_attributes=False)
    begin = time.perf_counter()
    search.fit(x, y)
    return time.perf_counter() - begin, float(np.ravel(search.C_)[0])


def optima(x, y):
    """The validation loss of each fold and C at the minimum."""
    x = x.astype(np.float64)
    losses = {}
    for fold, (train, validation) in enumerate(StratifiedKFold(N_FOLDS).split(x, y)):
        model = LogisticRegression(warm_start=True, max_iter=20_000)
        for candidate, c in enumerate(CS):
            # In steps: a new call forgets a history that would no longer help.
            for tolerance in (1e-6, 1e-8, 1e-9, 1e-10):
                model.set_params(C=c, tol=tolerance).fit(x[train], y[train])
            probabilities = model.predict_proba(x[validation])
            losses[fold, candidate] = log_loss(y[validation], probabilities, labels=model.classes_)
    return losses


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("softreg", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--optimum", action="store_true")
    arguments = parser.parse_args()
    x = np.load(arguments.data / "train_x.npy")
    y = np.array((arguments.data / "train_y.txt").read_text().split("\n")[: len(x)])
    warnings.filterwarnings("ignore")

    ours, theirs, report = [], [], None
    for turn in range(arguments.turns):
        seconds, report = softreg(arguments.softreg, arguments.data)
        ours.append(seconds)
        seconds, c = scikit_learn(x, y)
        theirs.append(seconds)
        assert abs(report["chosen"]["c"] / c - 1) < 1e-6, f"softreg chooses C = {report['chosen']['c']}, scikit-learn {c}"
        print(f"turn {turn + 1}: softreg {ours[-1]:.2f} s, scikit-learn {sklearn.__version__} {theirs[-1]:.2f} s", flush=True)
    ratios = [b / a for a, b in zip(ours, theirs)]
    print(f"medians: {statistics.median(ours):.2f} s and {statistics.median(theirs):.2f} s; ratios {min(ratios):.2f} to {max(ratios):.2f}, median {statistics.median(ratios):.2f}")
    print(f"both choose C = {c:.4g}")

    if arguments.optimum:
        losses = optima(x, y)
        for candidate, c in enumerate(CS):
            heads = [head for head in report["heads"] if head["candidate"] == candidate]
            off = max(abs(head["validation_loss"] - losses[head["fold"], candidate]) for head in heads)
            print(f"C = {c:10.4g}: validation losses within {off:.1e}")


main()
