"""softreg and its peers on the same data, in the same order, with the same arithmetic, in turns in one run.

Training is minibatch SGD with Nesterov's momentum, mean cross-entropy, a penalty on W and none on b: PyTorch's
convention, which softreg shares. All start from zero weights. Before anything is timed, two epochs of each are compared
with those of softreg. softreg's epochs include the shuffling; its peers get the order ready-made. Whole fits differ in
their methods, and are compared by what they reach of one objective.
"""

import argparse
import contextlib
import datetime
import functools
import os
import pathlib
import platform
import statistics
import subprocess
import textwrap
import time
import tomllib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import sklearn
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

LR, MOMENTUM, L2 = 0.05, 0.9, 1e-5
THREADS = os.cpu_count()
FOLDER = pathlib.Path("target/peers/data")
BANKING77 = pathlib.Path("../shared/data/banking77")
BREAST_CANCER = pathlib.Path("tests/parity/breast_cancer.csv")

# Samples, features, classes, precisions of the features (in the same turns), batch.
SHAPES = [
    (60_000, 784, 10, ("f32",), 256),
    (60_000, 784, 10, ("f32", "u8"), 1024),
    (60_000, 784, 10, ("f32",), 8192),
    (20_000, 768, 1000, ("f32",), 1024),
]
WIDE = SHAPES[-1]
BF16_TOLERANCE = 1e-2
ITERATIONS = 50
# The heading of the section on fits that are stopped at what scikit-learn reaches.
OBJECTIVES = "## To scikit-learn's objective"
# Seconds after which a fit is given up, and between two contenders.
LIMIT = 120
PAUSE = 0.25


class Ended(Exception):
    """A program has ended instead of answering; says why."""


class Program:
    """A process that takes commands, one a line, and answers each with a line."""

    def __init__(self, path, **environment):
        environment = {**os.environ, **environment}
        self.process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise Ended(f"ended with status {self.process.wait()}")
        return answer

    def seconds(self, *words):
        return float(self.ask(*words).split()[0])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Softreg(Program):
    """The program of benches/peers/softreg.rs, in a training."""

    name = "softreg"

    def __init__(self, path, scale, batch, **environment):
        super().__init__(path, **environment)
        x, y = FOLDER / "x.npy", FOLDER / "y.npy"
        self.device = self.ask("train", x, y, scale, batch, LR, MOMENTUM, L2)

    def epoch(self, number):
        return self.seconds("epoch", number)

    def weights(self, d):
        self.ask("weights", FOLDER / "weights")
        return weights(d)

    def order(self, number):
        file = FOLDER / "order"
        self.ask("order", number, file)
        return np.fromfile(file, np.uint32).astype(np.int64), np.fromfile(f"{file}.lengths", np.uint32).tolist()


class Torch:
    """A linear layer, cross_entropy and torch.optim.SGD: what people write."""

    tolerance = 1e-3

    def __init__(self, name, device, x, y, scale, q, lengths, bf16=False):
        self.name, self.device, self.scale, self.precision = name, device, scale, contextlib.nullcontext
        self.x, self.y = torch.from_numpy(x).to(device), torch.from_numpy(y.astype(np.int64)).to(device)
        self.layer = torch.nn.Linear(x.shape[1], q, device=device)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        groups = [{"params": [self.layer.weight], "weight_decay": L2}, {"params": [self.layer.bias]}]
        self.optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM, nesterov=True)
        if bf16:
            self.tolerance = BF16_TOLERANCE
            # In the capture of a graph, autocast must not keep what it has converted.
            self.precision = functools.partial(torch.autocast, device, torch.bfloat16, cache_enabled=False)

    def step(self, rows):
        self.optimizer.zero_grad(set_to_none=True)
        x = self.x[rows]
        if self.scale != 1.0:
            x = x.float().mul_(self.scale)
        with self.precision():
            loss = torch.nn.functional.cross_entropy(self.layer(x), self.y[rows])
        loss.backward()
        self.optimizer.step()

    def epoch(self, order, lengths):
        for rows in torch.from_numpy(order).to(self.device).split(lengths):
            self.step(rows)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def weights(self):
        with torch.no_grad():
            return np.vstack([self.layer.weight.cpu().numpy().T, self.layer.bias.cpu().numpy()])


class TorchCompiled(Torch):
    """The step as one function without breaks in its graph, by torch.compile, once for each length of batch: faster
    than compiling the step of `Torch`, which has the gradient and the optimizer in separate graphs."""

    def __init__(self, name, device, x, y, scale, q, lengths):
        super().__init__(name, device, x, y, scale, q, lengths)
        w, b = self.layer.weight.detach(), self.layer.bias.detach()
        functional = torch.nn.functional

        def step(w, b, vw, vb, all_x, all_y, rows):
            x, y = all_x[rows], all_y[rows]
            if scale != 1.0:
                x = x.float() * scale

            def loss(w, b):
                return functional.cross_entropy(functional.linear(x, w, b), y)

            gw, gb = torch.func.grad(loss, (0, 1))(w, b)
            gw = gw + L2 * w
            vw.mul_(MOMENTUM).add_(gw)
            vb.mul_(MOMENTUM).add_(gb)
            w.sub_(LR * (gw + MOMENTUM * vw))
            b.sub_(LR * (gb + MOMENTUM * vb))

        compiled = torch.compile(step, dynamic=False, fullgraph=True)
        self.step = functools.partial(compiled, w, b, torch.zeros_like(w), torch.zeros_like(b), self.x, self.y)


class TorchGraphs(Torch):
    """The same step, gather and all, captured in a CUDA graph for each length of batch; a batch is a replay, after its
    rows were put where those of the capture are."""

    def __init__(self, name, device, x, y, scale, q, lengths, bf16=False):
        super().__init__(name, device, x, y, scale, q, lengths, bf16)
        places = {length: torch.zeros(length, dtype=torch.int64, device=device) for length in lengths}
        # A capture needs a few steps before it, on another stream.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for rows in [*places.values()] * 3:
                super().step(rows)
        torch.cuda.current_stream().wait_stream(stream)
        self.graphs = {}
        for length, rows in places.items():
            graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                super().step(rows)
            self.graphs[length] = graph, rows
        # Back to the start.
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.zero_()
                self.optimizer.state[parameter]["momentum_buffer"].zero_()

    def step(self, rows):
        graph, place = self.graphs[len(rows)]
        place.copy_(rows)
        graph.replay()


class Jax:
    """One compiled function for a step, which updates its arguments in place."""

    name = "JAX jit"
    tolerance = 1e-3

    def __init__(self, x, y, scale, q, lengths):
        self.x, self.y = jnp.asarray(x), jnp.asarray(y.astype(np.int32))
        w, b = jnp.zeros((x.shape[1], q), jnp.float32), jnp.zeros(q, jnp.float32)
        self.state = (w, b, jnp.zeros_like(w), jnp.zeros_like(b))

        def loss(w, b, x, y):
            logits = x @ w + b
            return jnp.mean(jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, y[:, None], axis=1)[:, 0])

        def step(state, all_x, all_y, rows):
            w, b, vw, vb = state
            x = all_x[rows]
            if scale != 1.0:
                x = x.astype(jnp.float32) * scale
            gw, gb = jax.grad(loss, (0, 1))(w, b, x, all_y[rows])
            gw = gw + L2 * w
            vw, vb = MOMENTUM * vw + gw, MOMENTUM * vb + gb
            return w - LR * (gw + MOMENTUM * vw), b - LR * (gb + MOMENTUM * vb), vw, vb

        self.step = jax.jit(step, donate_argnums=0)

    def epoch(self, order, lengths):
        start = 0
        for length in lengths:
            self.state = self.step(self.state, self.x, self.y, order[start : start + length])
            start += length
        jax.block_until_ready(self.state)

    def weights(self):
        return np.vstack([np.asarray(self.state[0]), np.asarray(self.state[1])])


class Gemm:
    """The two products of each step by the gemm crate, which checks itself, and nothing else."""

    name = "gemm"
    tolerance = None

    def __init__(self, path, x, y, scale, q, lengths):
        self.program, self.d, self.q = Program(path), x.shape[1], q

    def epoch(self, order, lengths):
        self.program.ask("gemm", *lengths, self.d, self.q)


def samples(n, d, q, dtype):
    """A centre for each class, and noise; 0..255 for bytes."""
    random = np.random.default_rng(0)
    y = random.permutation(np.arange(n) % q)
    centres = random.standard_normal((q, d), np.float32)
    x = 0.1 * centres[y] + random.standard_normal((n, d), np.float32)
    if dtype == "u8":
        x = np.clip(64 * x + 128, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(x, np.uint8 if dtype == "u8" else np.float32), y.astype(np.uint32)


def save(x, y):
    np.save(FOLDER / "x.npy", x)
    np.save(FOLDER / "y.npy", y)


def weights(d):
    """What a program has written: W above b."""
    return np.fromfile(FOLDER / "weights", np.float32).reshape(d + 1, -1)


def verify(name, found, expected, tolerance):
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    if not difference < tolerance:
        raise SystemExit(f"{name} and softreg disagree: {difference:.1e} of the largest")


def settle(work):
    """The turn of the next contender begins: a pause, in which the threads of the last one stop spinning for work, then
    a fifth of a second of its own work, in which its threads wake and spread over the cores."""
    time.sleep(PAUSE)
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.2:
        work()


def seconds(work, times=1):
    begin = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - begin) / times


def training(program, shape, peers, repeats, **environment):
    """Seconds of each epoch by precision and contender, and the name of softreg's device."""
    n, d, q, dtypes, batch = shape
    teams, results = [], {}
    for dtype in dtypes:
        x, y = samples(n, d, q, dtype)
        save(x, y)
        scale = 1 / 255 if dtype == "u8" else 1.0
        softreg = Softreg(program, scale, batch, **environment)
        lengths = sorted(set(softreg.order(0)[1]))
        contenders = [peer(x, y, scale, q, lengths) for peer in peers]
        for number in range(2):
            softreg.epoch(number)
            for peer in contenders:
                peer.epoch(*softreg.order(number))
        for peer in contenders:
            if peer.tolerance:
                verify(peer.name, peer.weights(), softreg.weights(d), peer.tolerance)
        results[dtype] = {each.name: [] for each in [softreg, *contenders]}
        teams.append((softreg, contenders, results[dtype]))
    for number in range(2, 2 + repeats):
        for softreg, contenders, times in teams:
            settle(lambda: softreg.epoch(number))
            times[softreg.name].append(softreg.epoch(number))
            order = softreg.order(number)
            for peer in contenders:
                settle(lambda: peer.epoch(*order))
                times[peer.name].append(seconds(lambda: peer.epoch(*order)))
    for softreg, _, _ in teams:
        softreg.close()
    return results, softreg.device


def trainings(program, shapes, peers, wide_peers, repeats, **environment):
    """The results of all shapes: (shape, precision, seconds by contender), and the name of softreg's device."""
    results = []
    for shape in shapes:
        also = wide_peers if shape[2] == WIDE[2] else []
        times, device = training(program, shape, [*peers, *also], repeats, **environment)
        for dtype, each in times.items():
            results.append((shape, dtype, each))
            print(title(shape, dtype), {name: in_words(median(values)) for name, values in each.items()}, flush=True)
    return results, device


def objective(x, y, w, l2=L2):
    """J of W above b, in double precision."""
    w = w.astype(np.float64)
    logits = x.astype(np.float64) @ w[:-1] + w[-1]
    largest = logits.max(axis=1)
    log_sums = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return np.mean(log_sums - logits[np.arange(len(y)), y]) + l2 / 2 * (w[:-1] ** 2).sum()


def fits(program, rust, x, y, repeats):
    """Seconds of each contender's fits and what they reach of the objective, or why there are none."""
    save(x, y)
    n, d = x.shape
    files = [FOLDER / "x.npy", FOLDER / "y.npy"]

    def by_program(path, *words):
        line = " ".join(map(str, [*words, FOLDER / "weights"]))
        done = subprocess.run([path], input=line, stdout=subprocess.PIPE, text=True, timeout=LIMIT, check=True)
        return float(done.stdout), weights(d)

    def scikit_learn():
        model = LogisticRegression(C=1 / (L2 * n), max_iter=ITERATIONS)
        took = seconds(lambda: model.fit(x, y))
        return took, np.vstack([model.coef_.T, model.intercept_])

    contenders = {
        "softreg": lambda: by_program(program, "fit", *files, L2),
        "scikit-learn": scikit_learn,
        "linfa-logistic": lambda: by_program(rust, "linfa", *files, n, d, L2, ITERATIONS),
    }
    if not rust:
        del contenders["linfa-logistic"]
    results = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, fit in contenders.items():
            if isinstance(results[name], str):
                continue
            time.sleep(PAUSE)
            try:
                took, w = fit()
            except subprocess.TimeoutExpired:
                results[name] = f"given up after {LIMIT} s"
            except subprocess.CalledProcessError:
                results[name] = "failed"
            else:
                results[name].append((took, objective(x, y, w)))
    return results


def cases_of_objectives(shape):
    """Names, features, labels, l2, and scikit-learn's C, of the fits to what scikit-learn reaches."""
    cases = []
    for name, x, y in data_of_fits(shape):
        l2 = L2 if name == "synthetic" else 1 / (10 * len(x))
        cases.append((name, x, y, l2, 1 / (l2 * len(x))))
    table = np.loadtxt(BREAST_CANCER, dtype=str, delimiter=",", skiprows=1)
    x = np.ascontiguousarray(table[:, :-1], dtype=np.float32)
    y = np.unique(table[:, -1], return_inverse=True)[1].astype(np.uint32)
    # Of two classes, scikit-learn has a single column v: W = (-v/2, v/2), and ||W||^2 = ||v||^2/2.
    cases.append(("breast cancer, not scaled", x, y, 2 / len(x), 1.0))
    return cases


def to_objective(program, x, y, l2, c, repeats):
    """Seconds of scikit-learn's fits and of softreg's L-BFGS, stopped as soon as its J is what that fit has reached. Of two
    classes, unscaled, scikit-learn in single precision does not arrive: softreg goes to 1e-5 of the minimum. Gives the
    lowest J, and (contender, its seconds, its J, its iterations, softreg's seconds, its J, its iterations)."""
    save(x, y)
    softreg = Program(program)
    softreg.ask("reach", FOLDER / "x.npy", FOLDER / "y.npy")

    def by_softreg(target):
        took, iterations, _, reported, *_ = map(float, softreg.ask("fit", l2, target, FOLDER / "weights").split())
        j = objective(x, y, weights(x.shape[1]), l2)
        # What it goes by is what is compared: J of its own weights, but for their rounding to single precision.
        if abs(j - reported) > 1e-6 * j or j > target * (1 + 1e-6) > 0:
            raise SystemExit(f"softreg's objective is {reported}, and {j} here; wanted {target}")
        return took, j, int(iterations)

    def by_scikit_learn(settings, dtype):
        model = LogisticRegression(C=c, **settings)
        data = x.astype(dtype)
        took = seconds(lambda: model.fit(data, y))
        w = np.vstack([model.coef_.T, model.intercept_])
        w = np.hstack([-w / 2, w / 2]) if w.shape[1] == 1 else w
        return took, objective(x, y, w, l2), int(model.n_iter_.max())

    _, lowest, _ = by_softreg(0.0)
    single, double = np.float32, np.float64
    contenders = {"L-BFGS, its defaults": ({}, single), "L-BFGS, max_iter=10000": ({"max_iter": 10_000}, single)}
    if y.max() == 1:
        contenders["Newton-CG, max_iter=10000"] = ({"solver": "newton-cg", "max_iter": 10_000}, single)
        contenders["L-BFGS, max_iter=10000, f64"] = ({"max_iter": 10_000}, double)
        contenders["Newton-Cholesky, f64"] = ({"solver": "newton-cholesky"}, double)
    rows, ends_by_itself = [], False
    for name, how in contenders.items():
        _, _, iterations = by_scikit_learn(*how)
        if name.endswith("defaults"):
            # More iterations than it has by default would be the same fit.
            ends_by_itself = iterations < 100
        elif ends_by_itself and y.max() > 1:
            continue
        pairs = []
        for _ in range(repeats):
            time.sleep(PAUSE)
            theirs = by_scikit_learn(*how)
            time.sleep(PAUSE)
            target = lowest * (1 + 1e-5) if y.max() == 1 else theirs[1]
            pairs.append((theirs, by_softreg(target)))
        rows.append((name, pairs))
        print(name, pairs, flush=True)
    softreg.close()
    return lowest, rows


def objectives_section(program, shapes, repeats):
    """The section of the page on fits to what scikit-learn reaches."""
    rows = []
    for name, x, y, l2, c in cases_of_objectives(shapes[0]):
        work = f"{name}, {x.shape[0]:,} × {x.shape[1]} × {y.max() + 1}, C = {c:.3g}"
        lowest, found = to_objective(program, x, y, l2, c, repeats)
        for peer, pairs in found:
            times = {"softreg": [ours[0] for _, ours in pairs], peer: [theirs[0] for theirs, _ in pairs]}
            (_, j, iterations), (_, our_j, our_iterations) = pairs[-1]
            above, ours_above = (max(0.0, value / lowest - 1) for value in (j, our_j))
            rows.append([
                work,
                f"{peer}: {iterations} iterations",
                f"{above:.1e}",
                f"{span(times[peer])}, **{factor(times, peer)}**",
                f"{span(times['softreg'])}, {our_iterations} iterations",
                f"{ours_above:.1e}",
            ])  # fmt: skip
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    head = ["data", "scikit-learn", "J above the minimum", "time", "softreg's L-BFGS", "J above the minimum"]
    return [
        OBJECTIVES,
        paragraphs(
            f"""Measured on {datetime.date.today()} at revision {revision()}; scikit-learn {sklearn.__version__}; the load
            averages at the end were {load}. Whole fits by L-BFGS, in turns, after the pause alone: scikit-learn's to where
            its own test ends it, on f32 features as they are unless f64 is said; then softreg's, with all that belongs to a
            fit (preparation, evaluation of the model, certificate), stopped after the first iteration whose J is no
            greater. On breast cancer, where scikit-learn in single precision ends before it has arrived, softreg goes to
            1e-5 of the minimum instead. Times are medians of {repeats} (fastest–slowest), the factor is that of the peer's time
            over softreg's in the same turn. J is computed in double precision from the weights that each returns, and is
            the same for both before it counts; the share above the minimum is of J."""
        ),
        table(head, rows),
    ]


def replace_section(page, section):
    """The page with another text in the place of a section, or before that of prediction."""
    heading = section[0] + "\n"
    text = "\n\n".join(section) + "\n\n"
    begin = page.find(heading)
    end = page.index("\n## ", begin + 1) + 1 if begin >= 0 else 0
    if begin < 0:
        begin = end = page.index("## Prediction on the CPU")
    return page[:begin] + text + page[end:]


def revision():
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip()


def prediction(program, repeats):
    """Seconds for the probabilities of 3,080 rows, and of one, with 384 features and 77 classes; and the dtype of the
    weights that scikit-learn has fitted."""
    n, d, q = 3080, 384, 77
    x, y = samples(n, d, q, "f32")
    save(x, y)
    sklearn_model = LogisticRegression(max_iter=5).fit(x, y)
    w = np.vstack([sklearn_model.coef_.T, sklearn_model.intercept_]).astype(np.float32)
    w.tofile(FOLDER / "weights")
    softreg = Program(program)
    softreg.ask("model", FOLDER / "x.npy", FOLDER / "weights")
    softreg.ask("proba")
    softreg.ask("probabilities", FOLDER / "probabilities")
    expected = np.fromfile(FOLDER / "probabilities", np.float32).reshape(n, q)

    tensor, weight, bias = torch.from_numpy(x), torch.from_numpy(w[:-1].T.copy()), torch.from_numpy(w[-1])

    def torch_proba(rows):
        with torch.inference_mode():
            return torch.softmax(torch.nn.functional.linear(rows, weight, bias), 1)

    verify("PyTorch", torch_proba(tensor).numpy(), expected, 1e-5)
    verify("scikit-learn", sklearn_model.predict_proba(x), expected, 1e-5)

    # How often in a turn, and what. softreg takes its times itself.
    many = {
        "softreg": (1, lambda: softreg.seconds("proba")),
        "PyTorch eager": (1, lambda: torch_proba(tensor)),
        "scikit-learn": (1, lambda: sklearn_model.predict_proba(x)),
    }
    one = {
        "softreg": (10_000, lambda: softreg.seconds("row", 10_000)),
        "PyTorch eager": (1000, lambda: torch_proba(tensor[:1])),
        "scikit-learn": (100, lambda: sklearn_model.predict_proba(x[:1])),
    }
    results = []
    for work, contenders in [(f"{n:,} rows", many), ("one row", one)]:
        times = {name: [] for name in contenders}
        for _ in range(repeats):
            for name, (count, run) in contenders.items():
                settle(run)
                times[name].append(run() / count if name == "softreg" else seconds(run, count))
        results.append((f"{work}, {d} × {q}", times))
        print(work, {name: in_words(median(each)) for name, each in times.items()}, flush=True)
    softreg.close()
    return results, sklearn_model.coef_.dtype


def median(values):
    return statistics.median(values)


def in_words(seconds):
    for unit, factor in [("s", 1), ("ms", 1e3), ("µs", 1e6)]:
        if seconds * factor >= 1:
            break
    return f"{seconds * factor:.3g} {unit}"


def ratio(times, name, base="softreg"):
    """One's time over the other's, the median of the turns."""
    return median(one / other for one, other in zip(times[name], times[base]))


def factor(times, name, base="softreg"):
    """The ratio in words."""
    value = ratio(times, name, base)
    return f"{value:.{2 if value < 2 else 1 if value < 10 else 0}f}×"


def title(shape, dtype):
    n, d, q, _, batch = shape
    return f"{n:,} × {d} × {q:,} {dtype}, batch {batch:,}"


def table(head, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def span(values):
    return f"{in_words(median(values))} ({in_words(min(values))}–{in_words(max(values))})"


def cell(times, name):
    """Median, range, and the factor to softreg's."""
    if name not in times:
        return ""
    return span(times[name]) if name == "softreg" else f"{span(times[name])}, **{factor(times, name)}**"


def training_table(results, peak):
    names = list(dict.fromkeys(name for _, _, times in results for name in times if name not in ("softreg", Gemm.name)))
    rows = []
    for shape, dtype, times in results:
        n, d, q, _, _ = shape
        rate = 4 * n * d * q / median(times["softreg"]) / 1e9
        share = f" ({100 * rate / peak:.0f} %)" if peak else ""
        cells = [cell(times, name) for name in names]
        rows.append([title(shape, dtype), cell(times, "softreg"), f"{rate:.3g}{share}", *cells])
    return table(["an epoch of", "softreg", "its GFLOP/s", *names], rows)


def fits_table(all_fits):
    rows = []
    for work, results in all_fits:
        done = {name: fits for name, fits in results.items() if not isinstance(fits, str)}
        reached = {name: median(j for _, j in fits) for name, fits in done.items()}
        times = {name: [took for took, _ in fits] for name, fits in done.items()}
        for name in results:
            if name not in done:
                rows.append([work, name, results[name], "", ""])
                continue
            above = 100 * (reached[name] / min(reached.values()) - 1)
            level = f"{above:.2g} %" if above else "lowest"
            rows.append([work, name, cell(times, name), f"{reached[name]:.5f}", level])
    return table(["data", "fit", "time", "J", "above the lowest J"], rows)


COLOURS = {
    "softreg": "#1b6ca8",
    "PyTorch eager": "#d1682b",
    "PyTorch compiled": "#e8ab82",
    "JAX jit": "#5b8c3e",
    "scikit-learn": "#8a8a8a",
}


def chart(results):
    """Bars of time relative to softreg's, as SVG, of (work, seconds by contender)."""
    left, width, bar, gap = 330, 420, 15, 14
    results = [(work, {name: times[name] for name in COLOURS if name in times}) for work, times in results]
    longest = max(ratio(times, name) for _, times in results for name in times)
    rows, y = [], 44
    for work, times in results:
        rows.append(f'<text x="{left - 10}" y="{y + 11}" text-anchor="end">{work}</text>')
        for name in times:
            length = max(width * ratio(times, name) / longest, 1)
            rows.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 3}" fill="{COLOURS[name]}"/>')
            label = in_words(median(times[name])) + ("" if name == "softreg" else f" ({factor(times, name)})")
            rows.append(f'<text x="{left + length + 5:.1f}" y="{y + 10}" class="value">{label}</text>')
            y += bar
        y += gap
    keys, x = [], left
    for name in [name for name in COLOURS if any(name in times for _, times in results)]:
        keys.append(f'<rect x="{x}" y="16" width="11" height="11" fill="{COLOURS[name]}"/>')
        keys.append(f'<text x="{x + 16}" y="26">{name}</text>')
        x += 32 + 7 * len(name)
    style = "text { font: 12px sans-serif; fill: #222 } .value { font-size: 11px; fill: #555 }"
    body = "\n".join(keys + rows)
    total = max(left + width + 130, x)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {y}" width="{total}" height="{y}">\n'
        f'<style>{style}</style>\n<rect width="{total}" height="{y}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def crates():
    """Names and versions of those that rust-peers compares."""
    with open("benches/peers/rust-peers/Cargo.lock", "rb") as file:
        versions = {package["name"]: package["version"] for package in tomllib.load(file)["package"]}
    return ", ".join(f"{name} {versions[name]}" for name in ["linfa-logistic", "gemm"])


def machine():
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {THREADS} cores, {platform.system()}"


def compile_problem():
    """Why torch.compile cannot compile here, if it cannot."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2))
    except Exception as error:  # Of many kinds: no compiler, one that does not work, a Python that is too new.
        return str(error).strip().splitlines()[0]


def paragraphs(*texts):
    """Each text in lines of no more than 120 characters."""
    texts = [" ".join(text.split()) for text in texts if text]
    return "\n\n".join(textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) for text in texts)


def beside(results):
    """What the table does not have: bytes against f32, and the wide step's products by the gemm crate."""
    sentences = []
    by_work = {(shape, dtype): times for shape, dtype, times in results}
    for (shape, dtype), times in by_work.items():
        if dtype == "u8":
            both = {"f32": by_work[shape, "f32"]["softreg"], "u8": times["softreg"]}
            sentences.append(
                f"""In the same turns, softreg's epoch of {title(shape, "f32")}, takes {factor(both, "f32", "u8")} the
                time of that of u8."""
            )
        if Gemm.name in times:
            sentences.append(
                f"""The two products alone of the steps of {title(shape, dtype)}, X·W and Xᵀ·R, take the gemm crate
                {span(times[Gemm.name])}; in the same turns, softreg's whole epoch takes
                {factor(times, "softreg", Gemm.name)} that time."""
            )
    return " ".join(sentences)


def data_of_fits(shape):
    """Names, features and labels; the features as softreg's default scale leaves them."""
    n, d, q, _, _ = shape
    x, y = samples(n, d, q, "f32")
    data = [("synthetic", x / np.abs(x).max(), y)]
    if BANKING77.exists():
        intents = (BANKING77 / "train_y.txt").read_text().splitlines()
        y = np.unique(intents, return_inverse=True)[1].astype(np.uint32)
        data.append(("Banking77 embeddings", np.load(BANKING77 / "train_x.npy"), y))
    return data


def gpu_section(program, shapes, repeats, gpu, device):
    """softreg on that GPU and PyTorch on that device: the section of the page."""
    name, fastest = "PyTorch eager", Torch
    peers = [functools.partial(Torch, name, device)]
    where = device
    if device == "cuda":
        name, fastest = "PyTorch CUDA graphs", TorchGraphs
        peers.append(functools.partial(TorchGraphs, name, device))
        where = f"{torch.cuda.get_device_name()} with CUDA {torch.version.cuda}"
    half = functools.partial(fastest, f"{name}, bf16", device, bf16=True)
    results, adapter = trainings(program, shapes, peers, [half], repeats, SOFTREG_DEVICE=gpu)
    return [
        "## Training on a GPU",
        paragraphs(
            f"""The same on a GPU: softreg on {adapter}, PyTorch on {where}. The data stays on the device. All in f32,
            without TF32, but for the column that says bf16, which is autocast; its weights are the same to
            {BF16_TOLERANCE:g} of the largest."""
        ),
        training_table(results, None),
    ]


def main():
    parser = argparse.ArgumentParser(prog="benches/peers/run", description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the built benches/peers/softreg.rs; run gives it")
    parser.add_argument("rust_peers", help="the built benches/peers/rust-peers, if it could be built; run gives it")
    parser.add_argument("--repeats", type=int, default=9, help="turns that are timed; fits have 3 at most (default 9)")
    parser.add_argument("--out", default="docs/benchmarks.md", help="the page; the chart goes beside it")
    parser.add_argument("--gpu", help="softreg's GPU, a part of its name (default: the best, where PyTorch has CUDA)")
    parser.add_argument("--device", help="PyTorch's device beside softreg's GPU (default: cuda, or cpu without CUDA)")
    parser.add_argument("--peak", type=float, help="the CPU's peak in GFLOP/s (f32), of which shares are then given")
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the samples: to see that everything works")
    parser.add_argument("--only-objectives", action="store_true", help="measures only that section of the page anew")
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    shapes = [(n // 16, *rest) for n, *rest in SHAPES] if args.quick else SHAPES
    rust = args.rust_peers if os.path.exists(args.rust_peers) else None
    cuda = torch.cuda.is_available()
    gpu = args.gpu or ("gpu" if cuda else None)
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(THREADS)
    torch.backends.cuda.matmul.allow_tf32 = False
    # A compilation for each length of batch of each shape and precision, and never a step that is not compiled.
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True

    out = pathlib.Path(args.out)
    if args.only_objectives:
        section = objectives_section(args.program, shapes, args.repeats)
        out.write_text(replace_section(out.read_text(), section))
        return

    left_out = []
    peers = [functools.partial(Torch, "PyTorch eager", "cpu"), Jax]
    if problem := compile_problem():
        left_out.append(f"PyTorch compiled ({problem})")
    else:
        peers.insert(1, functools.partial(TorchCompiled, "PyTorch compiled", "cpu"))
    if not rust:
        left_out.append("linfa-logistic and gemm (they could not be built)")
    if not BANKING77.exists():
        left_out.append("fits on Banking77 (it is not beside the repository)")

    wide_peers = [functools.partial(Gemm, rust)] if rust else []
    epochs, _ = trainings(args.program, shapes, peers, wide_peers, args.repeats)
    probabilities, dtype = prediction(args.program, args.repeats)
    all_fits = []
    for name, x, y in data_of_fits(shapes[0]):
        work = f"{name}, {x.shape[0]:,} × {x.shape[1]} × {y.max() + 1}"
        all_fits.append((work, fits(args.program, rust, x, y, min(args.repeats, 3))))
        print(*all_fits[-1], flush=True)
    on_gpu = []
    if gpu:
        try:
            device = args.device or ("cuda" if cuda else "cpu")
            on_gpu = gpu_section(args.program, shapes, args.repeats, gpu, device)
        except Ended as reason:
            left_out.append(f"training on a GPU (softreg {reason})")

    objectives = objectives_section(args.program, shapes, min(args.repeats, 5))
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = out.with_suffix(".svg")
    bars = [(f"epoch, {title(shape, precision)}", times) for shape, precision, times in epochs]
    work, times = probabilities[0]
    picture.write_text(chart([*bars, (f"probabilities, {work}", times)]))
    page = [
        "# softreg and its peers",
        paragraphs(
            f"""`benches/peers/run{" --quick" if args.quick else ""}` made this page on {datetime.date.today()} at
            revision {revision()}: {machine()}; PyTorch {torch.__version__.split("+")[0]}, JAX {jax.__version__},
            scikit-learn {sklearn.__version__}, NumPy {np.__version__}, Python {platform.python_version()},
            {crates()}.""",
            f"""The contenders take turns: a pause, in which the threads of the last one stop spinning for work, a fifth
            of a second of work that is not timed, then the work that is. Times are medians of {args.repeats}
            (fastest–slowest); a factor is the median of the peer's time over softreg's in the same turn. Where a factor
            is below 1, the peer is faster.""",
            left_out and f"Left out here: {'; '.join(left_out)}.",
        ),
        f"![Times relative to softreg's]({picture.name})",
        "## Training on the CPU",
        paragraphs(
            """Minibatch SGD with Nesterov's momentum on the same data in the same order, from zero weights; after two
            epochs all have the same weights to 1e-3 of the largest, before which nothing is timed. softreg's epochs
            include the shuffling, its peers get the order ready-made. The GFLOP/s are those of the two products of a
            step: four operations for each sample, feature and class."""
        ),
        training_table(epochs, args.peak),
        paragraphs(beside(epochs)),
        "## To an equal objective",
        paragraphs(
            f"""Whole fits of J = mean cross-entropy + (l2/2)·‖W‖², l2 = {L2:g}, on the same f32 features, synthetic
            ones divided by the largest: softreg by its default, SGD; scikit-learn and linfa-logistic by L-BFGS, of
            {ITERATIONS} iterations at most. Times are medians of {min(args.repeats, 3)}, in turns, after the pause
            alone. J is computed in double precision from the weights that each returns. Lower is better, for time and
            for J."""
        ),
        fits_table(all_fits),
        *objectives,
        "## Prediction on the CPU",
        paragraphs(
            f"""Probabilities by the weights of a scikit-learn LogisticRegression fitted on f32 features, which are
            {dtype}; all have the same to 1e-5 of the largest. One row is left out of the chart, where it would dwarf
            the rest."""
        ),
        table(
            ["probabilities of", *probabilities[0][1]],
            [[work, *(cell(times, name) for name in times)] for work, times in probabilities],
        ),
        *on_gpu,
    ]
    out.write_text("\n\n".join(page) + "\n")


if __name__ == "__main__":
    main()
