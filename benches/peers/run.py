"""softreg and its peers on the same data, in the same order, with the same arithmetic, in turns in one run.

Training is minibatch SGD with Nesterov's momentum, mean cross-entropy, a penalty on W and none on b: PyTorch's convention,
which softreg shares. All start from zero weights. Before anything is timed, two epochs of each are compared with those of
softreg. softreg's epochs include the shuffling; its peers get the order ready-made.
"""

import argparse
import datetime
import os
import pathlib
import platform
import statistics
import subprocess
import time

import numpy as np

LR, MOMENTUM, L2 = 0.05, 0.9, 1e-5
THREADS = os.cpu_count()
FOLDER = pathlib.Path("target/peers/data")


class Softreg:
    """The program of benches/peers/softreg.rs."""

    name = "softreg"

    def __init__(self, program, *command):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer = self.ask(*command)

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"softreg has ended at: {words}")
        return answer

    def epoch(self, number):
        return float(self.ask("epoch", number).split()[0])

    def weights(self, d, q):
        file = FOLDER / "weights"
        self.ask("weights", file)
        return np.fromfile(file, np.float32).reshape(d + 1, q)

    def order(self, number):
        file = FOLDER / "order"
        self.ask("order", number, file)
        return np.fromfile(file, np.uint32).astype(np.int64), np.fromfile(f"{file}.lengths", np.uint32).tolist()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Torch:
    """A linear layer, cross_entropy and torch.optim.SGD: what people write."""

    name = "PyTorch eager"

    def __init__(self, x, y, scale, q):
        import torch

        torch.set_num_threads(THREADS)
        self.torch, self.scale = torch, scale
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y.astype(np.int64))
        self.layer = torch.nn.Linear(x.shape[1], q)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        groups = [{"params": [self.layer.weight], "weight_decay": L2}, {"params": [self.layer.bias]}]
        self.optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM, nesterov=True)

    def epoch(self, order, lengths):
        functional = self.torch.nn.functional
        order = self.torch.from_numpy(order)
        start = 0
        for length in lengths:
            rows = order[start : start + length]
            start += length
            x = self.x[rows]
            if self.scale != 1.0:
                x = x.float().mul_(self.scale)
            self.optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(self.layer(x), self.y[rows]).backward()
            self.optimizer.step()

    def weights(self):
        with self.torch.no_grad():
            return np.vstack([self.layer.weight.numpy().T, self.layer.bias.numpy()])


class Jax:
    """One compiled function for a step, which updates its arguments in place."""

    name = "JAX jit"

    def __init__(self, x, y, scale, q):
        import jax
        import jax.numpy as jnp

        self.jax = jax
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
        self.jax.block_until_ready(self.state)

    def weights(self):
        return np.vstack([np.asarray(self.state[0]), np.asarray(self.state[1])])


def samples(n, d, q, dtype):
    """A centre for each class, and noise; 0..255 for bytes."""
    random = np.random.default_rng(0)
    y = random.integers(0, q, n)
    centres = random.standard_normal((q, d), np.float32)
    x = 0.1 * centres[y] + random.standard_normal((n, d), np.float32)
    if dtype == "u8":
        x = np.clip(64 * x + 128, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(x, np.uint8 if dtype == "u8" else np.float32), y.astype(np.uint32)


def compare(name, found, expected):
    largest = np.abs(expected).max()
    difference = np.abs(found - expected).max() / largest
    if not difference < 1e-3:
        raise SystemExit(f"{name} and softreg disagree: {difference:.1e} of the largest weight")
    return difference


def settle(work):
    """The turn of the next contender begins: a pause, in which the threads of the last one stop spinning for work, then a
    fifth of a second of its own work, in which its threads wake and spread over the cores."""
    time.sleep(0.25)
    begin = time.perf_counter()
    while time.perf_counter() - begin < 0.2:
        work()


def median(times):
    return statistics.median(times)


def training(program, n, d, q, dtype, batch, repeats, peers):
    """Seconds of each epoch, by contender."""
    x, y = samples(n, d, q, dtype)
    np.save(FOLDER / "x.npy", x)
    np.save(FOLDER / "y.npy", y)
    scale = 1 / 255 if dtype == "u8" else 1.0
    softreg = Softreg(program, "train", FOLDER / "x.npy", FOLDER / "y.npy", scale, batch, LR, MOMENTUM, L2)
    contenders = [peer(x, y, scale, q) for peer in peers]
    for number in range(2):
        softreg.epoch(number)
        for peer in contenders:
            peer.epoch(*softreg.order(number))
    for peer in contenders:
        compare(peer.name, peer.weights(), softreg.weights(d, q))
    times = {peer.name: [] for peer in [softreg, *contenders]}
    for number in range(2, 2 + repeats):
        settle(lambda: softreg.epoch(number))
        times[softreg.name].append(softreg.epoch(number))
        order = softreg.order(number)
        for peer in contenders:
            settle(lambda: peer.epoch(*order))
            begin = time.perf_counter()
            peer.epoch(*order)
            times[peer.name].append(time.perf_counter() - begin)
    softreg.close()
    return times


def prediction(program, repeats):
    """Seconds for the probabilities of 3,080 rows, and of one, with 384 features and 77 classes."""
    import torch
    from sklearn.linear_model import LogisticRegression

    n, d, q = 3080, 384, 77
    x, _ = samples(n, d, q, "f32")
    np.save(FOLDER / "x.npy", x)
    softreg = Softreg(program, "model", FOLDER / "x.npy")
    k, j = np.mgrid[0:d, 0:q]
    w = (((k * 31 + j * 17) % 101) / 101 - 0.5).astype(np.float32)
    sklearn = LogisticRegression()
    sklearn.classes_, sklearn.coef_, sklearn.intercept_ = np.arange(q), w.T.copy(), np.zeros(q, np.float32)
    tensor, weights = torch.from_numpy(x), torch.from_numpy(w)

    def torch_proba(rows):
        with torch.inference_mode():
            return torch.softmax(rows @ weights, 1)

    expected = float(softreg.ask("proba").split()[1])
    for name, found in [("scikit-learn", sklearn.predict_proba(x)[0, 0]), ("PyTorch", torch_proba(tensor)[0, 0])]:
        if abs(float(found) - expected) > 1e-4 * expected:
            raise SystemExit(f"{name} and softreg disagree: {found} and {expected}")

    many = {"softreg": [], "PyTorch eager": [], "scikit-learn": []}
    one = {"softreg": [], "PyTorch eager": [], "scikit-learn": []}

    def timed(work, times=1):
        settle(work)
        begin = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - begin) / times

    for _ in range(repeats):
        settle(lambda: softreg.ask("proba"))
        many["softreg"].append(float(softreg.ask("proba").split()[0]))
        many["PyTorch eager"].append(timed(lambda: torch_proba(tensor)))
        many["scikit-learn"].append(timed(lambda: sklearn.predict_proba(x)))
        settle(lambda: softreg.ask("row", 1000))
        one["softreg"].append(float(softreg.ask("row", 10_000).split()[0]) / 10_000)
        one["PyTorch eager"].append(timed(lambda: torch_proba(tensor[:1]), 1000))
        one["scikit-learn"].append(timed(lambda: sklearn.predict_proba(x[:1]), 100))
    softreg.close()
    return many, one


def in_words(seconds):
    for unit, factor in [("s", 1), ("ms", 1e3), ("µs", 1e6)]:
        if seconds * factor >= 1:
            break
    return f"{seconds * factor:.3g} {unit}"


def ratios(times, name):
    """The peer's time over softreg's, pair by pair."""
    return [peer / own for peer, own in zip(times[name], times["softreg"])]


def table(results):
    names = ["softreg", "PyTorch eager", "JAX jit", "scikit-learn"]
    lines = ["| work | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for work, times in results:
        cells = []
        for name in names:
            if name not in times:
                cells.append("")
                continue
            cell = f"{in_words(median(times[name]))} ({in_words(min(times[name]))}–{in_words(max(times[name]))})"
            if name != "softreg":
                cell += f", **{median(ratios(times, name)):.1f}×**"
            cells.append(cell)
        lines.append(f"| {work} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


COLOURS = {"softreg": "#1b6ca8", "PyTorch eager": "#d1682b", "JAX jit": "#5b8c3e", "scikit-learn": "#8a8a8a"}


def chart(results):
    """Bars of time relative to softreg's, as SVG."""
    left, width, bar, gap = 330, 420, 15, 14
    longest = max(median(ratios(times, name)) for _, times in results for name in times)
    rows, y = [], 44
    for work, times in results:
        rows.append(f'<text x="{left - 10}" y="{y + 11}" text-anchor="end">{work}</text>')
        for name in times:
            ratio = median(ratios(times, name))
            length = max(width * ratio / longest, 1)
            rows.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 3}" fill="{COLOURS[name]}"/>')
            label = in_words(median(times[name])) + ("" if name == "softreg" else f" ({ratio:.1f}×)")
            rows.append(f'<text x="{left + length + 5:.1f}" y="{y + 10}" class="value">{label}</text>')
            y += bar
        y += gap
    keys, x = [], left
    for name, colour in COLOURS.items():
        keys.append(f'<rect x="{x}" y="16" width="11" height="11" fill="{colour}"/><text x="{x + 16}" y="26">{name}</text>')
        x += 32 + 8 * len(name)
    style = "text { font: 12px sans-serif; fill: #222 } .value { font-size: 11px; fill: #555 }"
    body = "\n".join(keys + rows)
    total = left + width + 130
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total} {y}" width="{total}" height="{y}">\n'
        f'<style>{style}</style>\n<rect width="{total}" height="{y}" fill="#fff"/>\n{body}\n</svg>\n'
    )


def machine():
    model = platform.processor() or platform.machine()
    try:
        for line in open("/proc/cpuinfo"):
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {THREADS} cores, {platform.system()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", help="the built benches/peers/softreg.rs")
    parser.add_argument("--repeats", type=int, default=9, help="epochs of each contender that are timed (default 9)")
    parser.add_argument("--out", default="docs/benchmarks.md", help="the table; the chart goes beside it")
    args = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)

    import jax
    import sklearn
    import torch

    instructions = None
    results = []
    peers = [Torch, Jax]
    for n, d, q, dtype, batch in [
        (60_000, 784, 10, "f32", 256),
        (60_000, 784, 10, "f32", 1024),
        (60_000, 784, 10, "f32", 8192),
        (60_000, 784, 10, "u8", 1024),
        (20_000, 768, 1000, "f32", 1024),
    ]:
        times = training(args.program, n, d, q, dtype, batch, args.repeats, peers)
        results.append((f"epoch, {n:,} × {d} × {q:,} {dtype}, batch {batch:,}", times))
        print(results[-1][0], {name: in_words(median(each)) for name, each in times.items()}, flush=True)
    many, one = prediction(args.program, args.repeats)
    results.append(("probabilities of 3,080 rows, 384 × 77", many))
    results.append(("probabilities of one row, 384 × 77", one))

    out = pathlib.Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture = out.with_suffix(".svg")
    picture.write_text(chart(results[:-1]))
    revision = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    out.write_text(
        f"""# softreg and its peers on a CPU

`benches/peers/run` made this page on {datetime.date.today()} at revision {revision}: {machine()}; PyTorch
{torch.__version__.split("+")[0]}, JAX {jax.__version__}, scikit-learn {sklearn.__version__}, NumPy {np.__version__}, Python {platform.python_version()}.

Minibatch SGD with Nesterov's momentum on the same data in the same order, from zero weights; after two epochs all have the
same weights to 1e-3 of the largest, before which nothing is timed. The contenders take turns: a pause, in which
the threads of the last one stop spinning for work, a fifth of a second of work that is not timed, then an epoch that is.
Times are medians of {args.repeats} (fastest–slowest); the factor is the median of the peer's time over softreg's in the same turn. softreg's epochs include the
shuffling, its peers get the order ready-made. Where a factor is below 1, the peer is faster.

![Times relative to softreg's]({picture.name})

{table(results)}

The last row, one sample at a time, is left out of the chart, where it would dwarf the others.
"""
    )


if __name__ == "__main__":
    main()
