"""Writes what the parity tests compare softreg with: golden.json, and the data of the small cases as CSV.

Run it in the root of the repository, with scikit-learn 1.9.1 (which brings NumPy and SciPy); it takes some minutes:

    OMP_NUM_THREADS=1 python tests/parity/golden.py [--only REGEX]

Each case is a minimum of

    J(W, b) = sum_i s_i loss_i + (l2/2) ||W||^2 + l1 ||W||_1

with s the weights of the samples over their sum (1/n without weights), loss the cross-entropy in nats of
softmax(x W + b), W of shape features x classes, two classes included, and b without a penalty. Features are rounded to
single precision first, as softreg has them; all the rest is double precision at least.

scikit-learn fits, with a tolerance that it can hardly reach; from there Newton's method goes on in NumPy, at last in
the extended precision that x86 has, and a duality gap says how far from the minimum it can still be. Both objectives
are written down. --only computes the cases whose
names match anew and keeps the others; so are those of Banking77 kept where ../shared/data/banking77 is absent.

scikit-learn minimises C sum_i w_i loss_i + ((1 - r)/2) ||W||^2 + r ||W||_1, so that l2 = (1 - r)/(C sum w) and
l1 = r/(C sum w). For two classes it has a single column v instead, and W = (-v/2, v/2) here: ||W||_1 = ||v||_1, but
||W||^2 = ||v||^2/2. Of penalties of both kinds it must be given others then; see to_scikit_learn.
"""

import argparse
import json
import pathlib
import platform
import re
import time
import warnings

import numpy as np
import scipy
import sklearn
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

HERE = pathlib.Path(__file__).parent
BANKING77 = pathlib.Path("../shared/data/banking77")
DIGITS = pathlib.Path("src/data/digits/digits.u8")
TOLERANCE = 1e-12
# Of the objective, what a certificate may leave open.
CERTIFIED = 1e-10


# ---- Data ----


class Data:
    """Features in single precision, and the index of each sample's class among the sorted names."""

    def __init__(self, name, features, labels, feature_names=None):
        self.name = name
        self.x = np.asarray(features, dtype=np.float32)
        self.classes, self.y = np.unique(labels, return_inverse=True)
        self.labels = labels
        self.feature_names = feature_names


def small(name):
    loaded = getattr(datasets, f"load_{name}")()
    feature_names = [re.sub(r"[^\w/]+", "_", feature).strip("_") for feature in loaded.feature_names]
    return Data(name, loaded.data, np.asarray(loaded.target_names)[loaded.target], feature_names)


def digits():
    """Those built into softreg, which are scikit-learn's."""
    loaded = datasets.load_digits()
    records = np.fromfile(DIGITS, dtype=np.uint8).reshape(-1, 65)
    assert (records[:, :64] == loaded.data).all() and (records[:, 64] == loaded.target).all()
    return Data("digits", loaded.data, loaded.target)


def banking77():
    labels = np.array((BANKING77 / "train_y.txt").read_text().split("\n")[:-1])
    return Data("banking77", np.load(BANKING77 / "train_x.npy"), labels)


def write_csv(data):
    """The shortest numbers that single precision reads back unchanged."""
    path = HERE / f"{data.name}.csv"
    with open(path, "w", newline="\n") as file:
        print(*data.feature_names, "class", sep=",", file=file)
        for row, label in zip(data.x, data.labels, strict=True):
            print(*(np.format_float_positional(value, trim="-") for value in row), label, sep=",", file=file)
    read = np.loadtxt(path, dtype=str, delimiter=",", skiprows=1)
    assert (read[:, :-1].astype(np.float32) == data.x).all() and (read[:, -1] == data.labels).all()


# ---- The objective ----


def sample_weights(kind, y):
    """What multiplies each sample's loss before it is divided by the sum of all."""
    n = len(y)
    if kind is None:
        return np.ones(n)
    if kind == "balanced":
        counts = np.bincount(y)
        return (n / (len(counts) * counts))[y]
    assert kind == "(7 i + 3) mod 5"
    return ((7 * np.arange(n) + 3) % 5).astype(float)


class Problem:
    """J, where b is the last row of the parameters; without an intercept there is no such row."""

    def __init__(self, x, y, weights, l2, l1, intercept, precision=np.float64):
        self.arguments = (x, y, weights, l2, l1, intercept)
        n, self.d = x.shape
        self.x = x.astype(precision)
        self.epsilon = np.finfo(precision).eps
        if intercept:
            self.x = np.hstack([self.x, np.ones((n, 1))])
        self.y = y
        self.q = y.max() + 1
        weights = weights.astype(precision)
        self.s = weights / weights.sum()
        self.l2, self.l1, self.intercept = l2, l1, intercept

    def extended(self):
        return Problem(*self.arguments, np.longdouble)

    def logits(self, p):
        return self.x @ p

    def log_loss(self, p):
        """The mean loss. That of a sample classified well keeps its digits, small as it is."""
        margins = self.logits(p)
        rows = np.arange(len(margins))
        margins -= margins[rows, self.y][:, None]
        largest = margins.argmax(axis=1)
        shift = margins[rows, largest]
        terms = np.exp(margins - shift[:, None])
        terms[rows, largest] = 0
        return self.s @ (shift + np.log1p(terms.sum(axis=1)))

    def penalty(self, p):
        w = p[: self.d]
        return self.l2 / 2 * (w**2).sum() + self.l1 * np.abs(w).sum()

    def objective(self, p):
        return self.log_loss(p) + self.penalty(p)

    def probabilities(self, p):
        logits = self.logits(p)
        terms = np.exp(logits - logits.max(axis=1, keepdims=True))
        return terms / terms.sum(axis=1, keepdims=True)

    def residuals(self, probabilities):
        r = probabilities.copy()
        r[np.arange(len(r)), self.y] = 0
        # P - 1 of the sample's class as what the others sum to: exact where P is nearly 1.
        r[np.arange(len(r)), self.y] = -r.sum(axis=1)
        return r

    def loss_gradient(self, probabilities):
        return self.x.T @ (self.s[:, None] * self.residuals(probabilities))

    def smooth_gradient(self, p, probabilities):
        """Of all but l1 ||W||_1."""
        gradient = self.loss_gradient(probabilities)
        gradient[: self.d] += self.l2 * p[: self.d]
        return gradient

    def hessian(self, probabilities):
        """Of all but l1 ||W||_1, for parameters class by class."""
        size = self.x.shape[1]
        hessian = np.empty((self.q, size, self.q, size), self.x.dtype)
        for k in range(self.q):
            for j in range(k + 1):
                curvature = self.s * probabilities[:, k] * ((k == j) - probabilities[:, j])
                hessian[k, :, j] = (self.x * curvature[:, None]).T @ self.x
                hessian[j, :, k] = hessian[k, :, j].T
        for k in range(self.q):
            hessian[k, range(self.d), k, range(self.d)] += self.l2
            if self.intercept:
                # J does not change when all of b shift; nor will Newton's step shift them.
                hessian[k, self.d, :, self.d] += 1 / self.q
        return hessian.reshape(self.q * size, self.q * size).astype(float)

    def hessian_times(self, probabilities, v):
        logits = self.logits(v)
        logits -= (probabilities * logits).sum(axis=1, keepdims=True)
        product = self.x.T @ (self.s[:, None] * probabilities * logits)
        product[: self.d] += self.l2 * v[: self.d]
        return product

    def subgradient(self, p, probabilities):
        """The least element of J's subdifferential: zero at the minimum, and nowhere else."""
        gradient = self.smooth_gradient(p, probabilities)
        w, g = p[: self.d], gradient[: self.d]
        at_zero = np.sign(g) * np.maximum(np.abs(g) - self.l1, 0)
        g[:] = np.where(w != 0, g + self.l1 * np.sign(w), at_zero)
        return gradient

    def gap(self, p):
        """J minus a lower bound of it, from the dual point that the residuals are.

        The bound asks that the residuals sum to zero over the samples for each class, where there is an intercept:
        that is b's gradient, which the certificate has as well.
        """
        probabilities = self.probabilities(p)
        w, g = p[: self.d], self.loss_gradient(probabilities)[: self.d]
        if self.l2 > 0:
            # The loss and the entropy of P differ by <G, W>. The rest is Fenchel's inequality for each weight, with
            # no difference of large numbers; without l1 it is the square of J's gradient over 2 l2.
            beyond = np.maximum(np.abs(g) - self.l1, 0)
            if self.l1 == 0:
                return ((self.l2 * w + g) ** 2).sum() / (2 * self.l2)
            return (self.l2 / 2 * w**2 + self.l1 * np.abs(w) + g * w + beyond**2 / (2 * self.l2)).sum()
        theta = min(1, self.l1 / np.abs(g).max())
        dual = theta * self.residuals(probabilities)
        dual[np.arange(len(dual)), self.y] += 1
        entropy = -(dual * np.log(dual, where=dual > 0, out=np.zeros_like(dual))).sum(axis=1)
        return self.objective(p) - self.s @ entropy


# ---- Its minimum ----


def newton(problem, p, limit=2000):
    """Newton's method on the weights that are not zero, with their signs held, as long as it gets any better.

    A step ends where a weight would change its sign; that weight stays zero. When the others are at their minimum, the
    zero that promises most is set free. Without l1 there is nothing to hold, and this is plain Newton.
    """
    d, l1 = problem.d, problem.l1
    scale = (problem.s[:, None] * np.abs(problem.x)).sum(axis=0)[:, None] + 1e-30
    p = p.astype(problem.x.dtype)
    freed = np.zeros(p.shape)
    best, stalled = np.inf, 0
    for _ in range(limit):
        if l1 > 0 and problem.l2 == 0:
            # The loss does not change when the weights of a feature shift, and the middle one at zero is best.
            middle = np.sort(p[:d], axis=1)[:, (problem.q - 1) // 2]
            p[:d] -= np.where((p[:d] != 0).all(axis=1), middle, 0)[:, None]
        probabilities = problem.probabilities(p)
        smooth = problem.smooth_gradient(p, probabilities)
        signs = np.sign(p) + freed
        signs[d:] = 0
        free = (signs != 0) if l1 > 0 else np.ones(p.shape, bool)
        free[d:] = True
        gradient = np.where(free, smooth + l1 * signs, 0)

        size = np.abs(gradient / scale).max()
        stalled = 0 if size < best / 2 else stalled + 1
        best = min(best, size)
        at_floor = size < 1e-12 and stalled >= 3
        if size < problem.epsilon / 20 or at_floor or stalled >= 40:
            if l1 == 0:
                break
            excess = np.where(free, 0, np.abs(smooth) - l1)
            excess[d:] = 0
            promising = np.where(excess > 50 * problem.epsilon * scale, excess / scale, 0)
            if not promising.any():
                break
            chosen = np.unravel_index(promising.argmax(), p.shape)
            freed[chosen] = -np.sign(smooth[chosen])
            best, stalled = np.inf, 0
            continue

        # Features in units of their own curvature: they may be of very different sizes.
        index = np.flatnonzero(free.T)
        hessian = problem.hessian(probabilities)[np.ix_(index, index)]
        unit = 1 / np.sqrt(np.diag(hessian) + 1e-300)
        hessian *= unit[:, None] * unit
        hessian[np.diag_indices_from(hessian)] += 1e-15
        step = np.zeros(p.size, p.dtype)
        step[index] = -unit * np.linalg.solve(hessian, (unit * gradient.T.ravel()[index]).astype(float))
        step = step.reshape(p.T.shape).T

        against = (signs * step < 0) & (signs != 0) if l1 > 0 else np.zeros(p.shape, bool)
        room = np.full(p.shape, np.inf, p.dtype)
        np.divide(-p, step, where=against, out=room)
        length = min(1, room.min())
        if length == 0:
            # It was set free for rounding alone.
            freed[against & (p == 0)] = 0
            continue
        slope = (gradient * step).sum()
        objective = problem.objective(p)
        while True:
            tried = p + length * step
            tried[room <= length] = 0
            if problem.objective(tried) <= objective + 1e-4 * length * slope + 5 * problem.epsilon * objective:
                break
            length /= 2
            assert length > 1e-20, "no descent"
        p = tried
        freed = np.where(p == 0, freed, 0)
        freed[room <= length] = 0
        if (room <= length).any():
            best, stalled = np.inf, 0
    else:
        raise AssertionError("not at the minimum")
    if l1 > 0 and problem.l2 == 0 and problem.q % 2 == 0:
        # Where several shifts are as good, the middle of them.
        p[:d] -= np.median(p[:d], axis=1, keepdims=True)
    return p


def newton_cg(problem, p):
    """Newton's method with conjugate gradients, for parameters too many for a Hessian. Without l1."""
    assert problem.l1 == 0
    for _ in range(100):
        probabilities = problem.probabilities(p)
        gradient = problem.smooth_gradient(p, probabilities)
        norm = np.linalg.norm(gradient)
        objective = problem.objective(p)
        if norm**2 / (2 * problem.l2) < 1e-14 * objective:
            break
        step, residual = np.zeros_like(p), -gradient
        direction, square = residual, (residual**2).sum()
        for _ in range(1000):
            product = problem.hessian_times(probabilities, direction)
            length = square / (direction * product).sum()
            step = step + length * direction
            residual = residual - length * product
            square, last = (residual**2).sum(), square
            if np.sqrt(square) < min(0.1, np.sqrt(norm)) * norm:
                break
            direction = residual + square / last * direction
        length = 1.0
        slope = (gradient * step).sum()
        while problem.objective(p + length * step) > objective + 1e-4 * length * slope + 1e-15 * objective:
            length /= 2
        p = p + length * step
    # The certificate wants b's gradient to be zero.
    for _ in range(3 * problem.intercept):
        probabilities = problem.probabilities(p)
        weighted = problem.s[:, None] * probabilities
        hessian = np.diag(weighted.sum(axis=0)) - weighted.T @ probabilities + 1 / problem.q
        p[-1] -= np.linalg.solve(hessian, problem.smooth_gradient(p, probabilities)[-1])
    return p


def to_scikit_learn(problem, weights):
    """C and l1_ratio that make scikit-learn's objective C sum_i w_i times ours, for these weights."""
    l2 = problem.l2 / 2 if problem.q == 2 else problem.l2
    return 1 / ((l2 + problem.l1) * weights.sum()), problem.l1 / (l2 + problem.l1)


def scikit_learn(problem, weights, solver, max_iter, tol):
    # None above 1: the step size of its SAGA does not know of weights (scikit-learn's issues 21305 and 31536).
    weights = weights / weights.max()
    c, l1_ratio = to_scikit_learn(problem, weights)
    model = LogisticRegression(
        C=c, l1_ratio=l1_ratio, solver=solver, tol=tol, max_iter=max_iter,
        fit_intercept=problem.intercept, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(problem.x[:, : problem.d], problem.y, sample_weight=weights)
    converged = True
    for warning in caught:
        if issubclass(warning.category, (ConvergenceWarning, scipy.linalg.LinAlgWarning)):
            converged = False
        else:
            print("   ", warning.category.__name__, str(warning.message).split("\n")[0])
    w, b = model.coef_.T, model.intercept_[None]
    if problem.q == 2:
        w, b = np.hstack([-w / 2, w / 2]), np.hstack([-b / 2, b / 2])
    p = np.vstack([w, b]) if problem.intercept else w
    about = {
        "solver": solver, "C": c, "l1_ratio": l1_ratio, "tol": tol, "iterations": int(model.n_iter_.max()),
        "converged": converged,
    }  # fmt: skip
    return p.copy(), about


# ---- The cases ----


def settings():
    """Of each case: data, C, l1_ratio, weights, intercept. l2 = (1 - l1_ratio)/(C sum w), l1 = l1_ratio/(C sum w)."""
    cycle = "(7 i + 3) mod 5"
    for name in ("iris", "wine", "breast_cancer", "digits"):
        for c in (0.01, 1, 100):
            yield name, c, 0, None, True
        yield name, 1, 0, "balanced", True
        yield name, 1, 0, cycle, True
        yield name, 1, 0, None, False
        for c in (0.1, 1, 10):
            yield name, c, 1, None, True
        yield name, 1, 1, "balanced", True
        yield name, 1, 1, cycle, True
        yield name, 1, 1, None, False
        yield name, 0.1, 0.5, None, True
        yield name, 10, 0.5, None, True
        yield name, 1, 0.5, cycle, True
    for c in (1, 10, 100):
        yield "banking77", c, 0, None, True


def title(name, c, l1_ratio, weights, intercept):
    penalty = {0: "l2", 1: "l1"}.get(l1_ratio, "elastic-net")
    kinds = {None: "", "balanced": ", balanced", "(7 i + 3) mod 5": ", sample weights"}
    return f"{name}, {penalty}, C={c}" + kinds[weights] + ("" if intercept else ", no intercept")


def rounded(values, digits=13):
    return [float(f"{value:.{digits}g}") for value in np.ravel(values)]


def case(data, c, l1_ratio, kind, intercept):
    started = time.monotonic()
    weights = sample_weights(kind, data.y)
    unit = 1 / (c * weights.sum())
    problem = Problem(data.x, data.y, weights, (1 - l1_ratio) * unit, l1_ratio * unit, intercept)
    large = data.name == "banking77"
    if large:
        start, about = scikit_learn(problem, weights, "lbfgs", 10_000, 1e-9)
        p = newton_cg(problem, start)
    else:
        solver = "saga" if l1_ratio else "newton-cholesky"
        # SAGA does not arrive on data as it is; it is a start.
        max_iter = 1000 if not l1_ratio else {"iris": 300_000, "digits": 1000}.get(data.name, 3000)
        start, about = scikit_learn(problem, weights, solver, max_iter, TOLERANCE)
        p = newton(problem, start)
        problem = problem.extended()
        p = newton(problem, p)
    about["objective"] = float(problem.objective(start))
    if intercept:
        p[-1] -= p[-1].mean()
    w = p[: data.x.shape[1]]
    subgradient = problem.subgradient(p, problem.probabilities(p))
    objective, gap = float(problem.objective(p)), float(problem.gap(p))
    name = title(data.name, c, l1_ratio, kind, intercept)
    assert abs(gap) <= CERTIFIED * objective, f"{name}: objective {objective}, gap {gap}"
    result = {
        "name": name,
        "data": data.name,
        "n": len(data.x), "d": data.x.shape[1], "q": int(problem.q),
        "C": c, "l1_ratio": l1_ratio,
        "l2": problem.l2, "l1": problem.l1,
        "class_weight": kind if kind == "balanced" else None,
        "sample_weight": None if kind == "balanced" else kind,
        "intercept": intercept,
        "objective": objective,
        "log_loss": float(problem.log_loss(p)),
        "certificate": {
            "gap": gap,
            "max_subgradient_weight": float(np.abs(subgradient[: problem.d]).max()),
            "max_gradient_bias": float(np.abs(subgradient[problem.d :]).max(initial=0)),
        },
        "scikit_learn": about,
        "norm_weight": float(np.sqrt((w**2).sum())), "sum_abs_weight": float(np.abs(w).sum()),
        "norm_bias": float(np.sqrt((p[problem.d :] ** 2).sum())),
    }  # fmt: skip
    if problem.l1 > 0:
        g = problem.smooth_gradient(p, problem.probabilities(p))[: problem.d]
        # Features whose weights may shift at the same J: l1 alone, classes even in number, no zero in the middle.
        middle = np.sort(w, axis=1)[:, problem.q // 2 - 1 : problem.q // 2 + 1]
        shifts = problem.l2 == 0 and problem.q % 2 == 0
        result["shiftable_features"] = np.flatnonzero((middle != 0).any(axis=1)).tolist() if shifts else []
        result["non_zero"] = int((w != 0).sum())
        result["signs"] = ["".join("-0+"[int(sign) + 1] for sign in np.sign(row)) for row in w]
        # How far the pattern is from changing: the smallest weight but zero, and l1 - |gradient| of the nearest zero.
        result["least_non_zero"] = float(np.abs(w[w != 0]).min())
        result["least_slack"] = float((problem.l1 - np.abs(g[w == 0])).min(initial=problem.l1))
    if not large:
        result["weight"] = rounded(w)
        result["bias"] = rounded(p[problem.d :]) if intercept else [0.0] * problem.q
    print(
        f"{name}: {objective:.12f}, gap {gap:.1e}, subgradient {np.abs(subgradient).max():.1e}, "
        f"scikit-learn {about['objective'] - objective:+.1e} after {about['iterations']}"
        f"{'' if about['converged'] else ' (not converged)'}, "
        + (f"{result['non_zero']} of {w.size} weights, " if problem.l1 > 0 else "")
        + f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    return result


def write(path, content):
    """One line a value, so that a difference can be read."""
    cases = content.pop("cases")
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in content.items()]
    texts = []
    for one in cases:
        values = ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in one.items())
        texts.append("  {\n" + values + "\n  }")
    path.write_text("\n".join(["{", *lines, ' "cases": [', ",\n".join(texts), " ]", "}"]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="REGEX", default="", help="compute anew the cases whose names match")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "golden.json")
    arguments = parser.parse_args()

    known = {}
    if arguments.out.exists():
        known = {one["name"]: one for one in json.loads(arguments.out.read_text())["cases"]}
    loaders = {name: lambda name=name: small(name) for name in ("iris", "wine", "breast_cancer")}
    loaders |= {"digits": digits, "banking77": banking77}
    loaded, cases, classes = {}, [], {}
    for name, *setting in settings():
        wanted = re.search(arguments.only, title(name, *setting))
        present = name != "banking77" or BANKING77.exists()
        if wanted and present:
            if name not in loaded:
                loaded[name] = loaders[name]()
                if loaded[name].feature_names:
                    write_csv(loaded[name])
            cases.append(case(loaded[name], *setting))
        elif title(name, *setting) in known:
            cases.append(known[title(name, *setting)])
    versions = {"python": platform.python_version()}
    versions |= {module.__name__: module.__version__ for module in (np, scipy, sklearn)}
    write(arguments.out, {"written_by": "tests/parity/golden.py", "versions": versions, "cases": cases})


if __name__ == "__main__":
    main()
