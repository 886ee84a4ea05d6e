#!/usr/bin/env python3
"""What a training step costs: as pix2pixHD's train loop does it, and ours, lever by lever.

    OMP_NUM_THREADS=2 python benchmarks/step.py --sizes 256 --rounds 4 --check --wait --out results/step.md
    OMP_NUM_THREADS=2 python benchmarks/step.py --sizes 512 --rounds 2 --sides all --out results/step_512.md
    OMP_NUM_THREADS=2 python benchmarks/step.py --scale --memory --rounds 1 --limit 65536 --out results/step_scale.md

The plain step runs D on the detached fake for its own loss and once more on the fake for G's, fills D's gradients while
walking back through G's loss, and has two Adams that are not fused. Networks, losses and the smoothed pair are the same
on both sides, and biases before InstanceNorm, which pix2pixHD has, are on neither. The sides alternate step by step in
one process, so that a busy minute hits all of them, and the order turns from round to round; the ratios are within a round.
--check compares terms and gradients, --wait shows the share of a step that waits for the loader, --scale and --memory are
cost against resolution and batch, and memory. What is counted and not measured is named so. Nothing here is asserted.
"""
import argparse
import copy
import os
import platform
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest import mock

import torch
from machine import processor
from torch.utils.flop_counter import FlopCounterMode

from retigan.datasets import SimulatedEyes
from retigan.model import RetiGAN, RetiGANConfig
from retigan.smooth_edges import smooth_edges
from retigan.train import Look, Trainer, make_losses, step_d, step_g


@dataclass
class Parts:
    "Networks and losses of a config."
    G: torch.nn.Module
    D: torch.nn.Module
    loss_g: torch.nn.Module
    loss_d: torch.nn.Module


@dataclass
class Batch:
    condition: torch.Tensor
    real: torch.Tensor
    fov: torch.Tensor
    smoothed: torch.Tensor = None
    features: list = None             # what the perceptual network sees in `real`


def make_parts(cfg, device='cpu') -> Parts:
    with torch.device('meta') if device == 'meta' else nullcontext(): model = RetiGAN(cfg).to(device).train()
    model.G.check_finite = False
    return Parts(model.G, model.D, *(loss.to(device) for loss in make_losses(cfg)))


def make_batch(cfg, device='cpu') -> Batch:
    "Noise, and a condition of tree and field of view: what is in them does not change the cost."
    g, shape = torch.Generator().manual_seed(0), (cfg.batch_size, 1, cfg.size, cfg.size)
    real, fov = torch.rand(cfg.batch_size, 3, *shape[2:], generator=g)*2 - 1, torch.ones(shape)
    trees = (torch.rand(shape, generator=g) < .1).float()
    condition = torch.cat([trees, fov], 1) if cfg.in_channel == 2 else trees
    return Batch(*(t.to(device) for t in (condition, real, fov)))


# --- the two steps

def plain_gradients(p, batch, weights_d):
    "As pix2pixHD: five runs of D, and G's walk back fills D's gradients too, which are then thrown away."
    def on(image): return p.D(torch.cat([batch.condition, image], 1))
    fake = p.G(batch.condition)
    on_painted, on_real, on_smoothed = on(fake.detach()), on(batch.real), on(batch.smoothed)
    terms_d = p.loss_d(on_real, on_painted, on_smoothed)
    terms_g = p.loss_g(on(fake), on_real, fake, batch.features or batch.real)
    terms_g['total'].backward()
    for w in weights_d: w.grad = None
    terms_d['total'].backward()
    return terms_g, terms_d


def our_gradients(p, batch, weights_d):
    "One forward of D for both losses, and D's weights collect nothing on the way to G."
    look = Look(p.G, p.D, batch.condition, batch.real)
    look.real = batch.features or batch.real
    return step_g(look, p.loss_g), step_d(look, p.D, weights_d, p.loss_d, batch.smoothed)


def smoothed(batch): return replace(batch, smoothed=smooth_edges(batch.real, fov=batch.fov))


class Side:
    "One way to do a step: which gradients, whether the true picture's features are kept, which Adam."
    def __init__(self, name, parts, once=False, fused=False, cached=False, bf16=False, tf32=True):
        self.name, self.parts, self.cached, self.bf16, self.tf32 = name, parts, cached, bf16, tf32
        self.gradients, self.weights_d = our_gradients if once else plain_gradients, list(parts.D.parameters())
        self.optimisers = [torch.optim.Adam(net.parameters(), 2e-4, betas=(.5, .999), **({'fused': True} if fused else {})) for net in (parts.G, parts.D)]

    def prepare(self, batch):
        "What is done once a picture and not once a step."
        perceptual = self.parts.loss_g.perceptual
        if not self.cached or perceptual is None: return batch
        with torch.no_grad(), self.autocast(batch): return replace(batch, features=perceptual.perception(batch.real))

    def autocast(self, batch): return torch.autocast(batch.real.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def __call__(self, batch):
        torch.backends.cudnn.allow_tf32 = self.tf32
        for optimiser in self.optimisers: optimiser.zero_grad()
        batch = smoothed(batch)
        with self.autocast(batch): self.gradients(self.parts, batch, self.weights_d)
        for optimiser in self.optimisers: optimiser.step()


class TrainerSide:
    "The step of `Trainer`, which also keeps a moving average of G."
    def __init__(self, name, cfg, **options): self.name, self.trainer = name, Trainer(cfg, **options)
    def prepare(self, batch): return [dict(image=batch.real, vessels=batch.condition[:, :1], fov=batch.fov)]
    def __call__(self, batch): self.trainer._train_step(batch)


def laid_out(parts, compile=False):
    "A copy with channels last, compiled if asked."
    G, D = (copy.deepcopy(net).to(memory_format=torch.channels_last) for net in (parts.G, parts.D))
    return replace(parts, G=torch.compile(G), D=torch.compile(D)) if compile else replace(parts, G=G, D=D)


def make_sides(cfg, device) -> list:
    p, ours = make_parts(cfg, device), dict(once=True, fused=True, cached=True)
    has = p.loss_g.perceptual is not None
    sides = [Side('plain', p), Side('one forward of D on fakes, D frozen for G', p, once=True), Side('fused Adam', p, fused=True),
             *([Side('features of the true picture kept', p, cached=True)] if has else []), Side('all together', p, **ours)]
    if device == 'cpu': return [*sides, TrainerSide('`Trainer`: fixed crops not assumed, moving average of G added', cfg, cpu=True, precision='no')]
    return [*sides, Side('plain, TF32 off', p, tf32=False), Side('all, channels last', laid_out(p), **ours),
            Side('all, channels last, bf16', laid_out(p), bf16=True, **ours),
            Side('all, channels last, bf16, compiled', laid_out(p, True), bf16=True, **ours),
            TrainerSide('`Trainer`: bf16, channels last, moving average of G', cfg)]


# --- timing

def clocked(work) -> tuple:
    "Seconds, and seconds of all this process's threads, which other people's programs disturb less."
    begin, begin_cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter() - begin, time.process_time() - begin_cpu


def seconds(work) -> float: return clocked(work)[0]


def alternate(sides, batch, rounds) -> dict:
    "(seconds, CPU seconds) by side, one pair a round; each round begins with another side."
    batches, times = {s.name: s.prepare(batch) for s in sides}, {s.name: [] for s in sides}
    for k in range(rounds):
        for i in range(len(sides)):
            side = sides[(i + k) % len(sides)]
            times[side.name].append(clocked(lambda: side(batches[side.name])))
    return times


@cache
def operations(cfg, gradients, cached) -> float:
    "TFLOP of a step's forward and backward passes, counted on the meta device."
    parts, batch = make_parts(cfg, 'meta'), make_batch(cfg, 'meta')
    batch.smoothed = batch.real
    if cached and parts.loss_g.perceptual is not None:
        with no_value_checks(): batch.features = parts.loss_g.perceptual.perception(batch.real)
    with no_value_checks(), FlopCounterMode(display=False) as flops: gradients(parts, batch, list(parts.D.parameters()))
    return flops.get_total_flops()/1e12


def no_value_checks(): return mock.patch('torch.isfinite', lambda x: torch.ones((), dtype=torch.bool))   # tensors on meta have no values


def ceiling(device) -> str:
    "What a large matrix product reaches."
    if device == 'cpu': n, dtype, label = 2048, torch.float32, 'fp32'
    else: n, dtype, label = 8192, torch.bfloat16, 'bf16'
    a = torch.randn(n, n, device=device, dtype=dtype)
    best = min(seconds(lambda: a @ a) for _ in range(8))
    return f'a {label} matrix product of {n} reaches {2*n**3/best/1e12:.3g} TFLOP/s'


def time_table(args) -> list:
    lines = ['## A step', '', f'Preset {args.preset}, batch {args.batch}, perceptual network {args.perceptual}. Just before, {ceiling(args.device)}. Time: median '
             '(range). Ratio: median over the rounds of the plain step\'s time by this side\'s in the same round (range). CPU seconds: of all threads of the process, which '
             'waiting for a core does not lengthen. TFLOP: counted for forward and backward '
             'passes on the meta device; TFLOP/s is that by the median time.', '',
             '| size | side | seconds a step | ratio to plain | CPU seconds | their ratio | images/s | TFLOP a step | TFLOP/s |', '|---|---|---|---|---|---|---|---|---|']
    sides = [s for s in make_sides(config(args, args.sizes[0]), args.device) if not args.sides or s.name.startswith(('plain', *args.sides))]
    print('\n'.join(lines), flush=True)
    for k, size in enumerate(args.sizes):
        cfg = config(args, size)
        alternate(sides, make_batch(cfg if args.device == 'cuda' else config(args, 64), args.device), 1)              # warm up
        times = alternate(sides, make_batch(cfg, args.device), args.rounds[min(k, len(args.rounds) - 1)])
        rows = [time_row(cfg, side, times) for side in sides]
        print('\n'.join(rows), flush=True)
        lines += rows
    return lines


def ratio(plain, ours) -> str:
    "Median and range over the rounds."
    r = [a/b for a, b in zip(plain, ours)]
    return f'{statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f})'


def time_row(cfg, side, times) -> str:
    (t, cpu), (plain, plain_cpu) = (list(zip(*times[name])) for name in (side.name, 'plain'))
    median = statistics.median(t)
    tflop = operations(cfg, getattr(side, 'gradients', our_gradients), getattr(side, 'cached', False))
    return (f'| {cfg.size} | {side.name} | {median:.3g} ({min(t):.3g}-{max(t):.3g}) | {ratio(plain, t)} | {statistics.median(cpu):.3g} | {ratio(plain_cpu, cpu)} '
            f'| {cfg.batch_size/median:.3g} | {tflop:.3g} | {tflop/median:.3g} |')


# --- exactness

def checked(cfg, device, dtype) -> list:
    "Rows: the plain step against ours with kept features, from the same weights."
    p = make_parts(cfg, device)
    p = replace(p, **{name: getattr(p, name).to(dtype) for name in ('G', 'D', 'loss_g', 'loss_d')})
    b = make_batch(cfg, device)
    b = smoothed(replace(b, condition=b.condition.to(dtype), real=b.real.to(dtype), fov=b.fov.to(dtype)))
    weights = {f'{n}.{k}': w for n in 'GD' for k, w in getattr(p, n).named_parameters()}
    kept = replace(b, features=p.loss_g.perceptual.perception(b.real)) if p.loss_g.perceptual else b
    found = []
    for gradients, batch in ((plain_gradients, b), (our_gradients, kept)):
        for w in weights.values(): w.grad = None
        terms = gradients(p, batch, list(p.D.parameters()))
        found.append(({f'{n}_{k}': v.detach() for n, t in zip('gd', terms) for k, v in t.items()}, {k: w.grad for k, w in weights.items()}))
    (terms, grads), (our_terms, our_grads) = found
    rows = [(f'term {k}', [(terms[k], our_terms[k])]) for k in terms]
    rows += [(f'gradients of the {sum(k[0] == n for k in grads)} weights of {n}', [(g, our_grads[k]) for k, g in grads.items() if k[0] == n]) for n in 'GD']
    return [f'| {str(dtype)[6:]} | {cfg.size} | {name} | {max(float(a.abs().max()) for a, _ in pairs):.2g} | {max(map(largest, pairs)):.1e} | {max(map(relative, pairs)):.1e} |' for name, pairs in rows]


def largest(pair): return float((pair[0] - pair[1]).abs().max())
def relative(pair): return largest(pair)/max(float(pair[0].abs().max()), 1e-30)


def check_table(args) -> list:
    size = min(args.sizes)
    return ['', '## Exactness', '', 'The plain step against ours with kept features, from the same weights. Relative: the largest difference within a '
            'tensor by that tensor\'s largest entry, the worst tensor.', '', '| dtype | size | what | largest entry | absolute | relative |', '|---|---|---|---|---|---|',
            *checked(config(args, size), args.device, torch.float32), *checked(config(args, size//2), args.device, torch.float64)]


# --- waiting for data

def wait_table(args, steps=4) -> list:
    size = min(args.sizes)
    lines = ['', '## Waiting for data', '', f'Share of a step of `Trainer.fit` at {size} px that waits for the loader: simulated eyes, in the cache after the '
             f'first reading, augmented; median of steps 2 to {steps}.', '', '| workers | waiting | seconds a step |', '|---|---|---|']
    eyes = SimulatedEyes(4, size, seed=5)
    for workers in (0, 1, 2):
        trainer = Trainer(config(args, size), cpu=args.device == 'cpu')
        rows = trainer.fit(eyes, until=steps, workers=workers, log_every=1, n_samples=1, progress=False)
        spent = [b['seconds'] - a['seconds'] for a, b in zip(rows, rows[1:])]
        lines.append(f'| {workers} | {100*statistics.median(r["wait"] for r in rows[1:]):.2f} % | {statistics.median(spent):.3g} |')
        print(lines[-1], flush=True)
    return lines


# --- scale

def scale_table(args) -> list:
    "Cost against resolution and batch; times only where they end in reasonable time."
    lines = ['## Cost against resolution and batch', '', f'Preset {args.preset}, our step with kept features. TFLOP counted on the meta device; seconds: median '
             'of the rounds of one pass through all the rows, then the next.', '', '| size | batch | TFLOP a step | TFLOP an image | seconds a step | seconds an image | TFLOP/s |', '|---|---|---|---|---|---|---|']
    cases = [(size, batch) for size in (128, 256, 512, 1024) for batch in (1, 2, 4)]
    side = Side('all', make_parts(config(args, 128), args.device), once=True, fused=True, cached=True)
    timed = {case: [] for case in cases if args.device == 'cuda' or case[0]**2*case[1] <= args.limit}
    side(side.prepare(make_batch(config(args, 64), args.device)))
    for _ in range(args.rounds[0]):
        for (size, batch), times in timed.items():
            b = side.prepare(make_batch(config(args, size, batch), args.device))
            if args.device == 'cuda': side(b)
            times.append(seconds(lambda: side(b)))
    points = []
    for size, batch in cases:
        tflop, t = operations(config(args, size, batch), our_gradients, True), timed.get((size, batch))
        median = statistics.median(t) if t else None
        points.append((size, batch, tflop, median))
        cell = f'{median:.3g} | {median/batch:.3g} | {tflop/median:.3g}' if t else ' | | '
        lines.append(f'| {size} | {batch} | {tflop:.3g} | {tflop/batch:.3g} | {cell} |')
    if args.out: draw(points, args.out.with_suffix('.png')); lines += ['', f'![Cost of a step]({args.out.with_suffix(".png").name})']
    return lines


def draw(points, path):
    from matplotlib.figure import Figure
    fig = Figure(figsize=(6.4, 2.9), layout='constrained')
    for ax, column, label in zip(fig.subplots(1, 2), (2, 3), ('TFLOP a step, counted', 'seconds a step, measured')):
        for batch in sorted({p[1] for p in points}):
            xy = [(p[0], p[column]) for p in points if p[1] == batch and p[column] is not None]
            ax.loglog(*zip(*xy), 'o-', ms=4, label=f'batch {batch}')
        ax.set(xlabel='side in pixels', ylabel=label, xticks=[128, 256, 512, 1024], xticklabels=['128', '256', '512', '1024'])
        ax.minorticks_off()
        ax.legend(frameon=False)
    fig.savefig(path, dpi=90)


# --- memory

class Kept:
    "What autograd keeps of the forward passes, each storage once, weights left out."
    def __init__(self, parts):
        perceptual = parts.loss_g.perceptual
        nets = [parts.G, parts.D, *([perceptual.perception.network] if perceptual else [])]
        self.own, self.kept = {p.untyped_storage()._cdata for net in nets for p in net.parameters()}, {}

    def keep(self, t):
        s = t.untyped_storage()
        if s._cdata not in self.own: self.kept[s._cdata] = s                      # held, so that no id comes twice
        return t

    def hooks(self): return torch.autograd.graph.saved_tensors_hooks(self.keep, lambda t: t)
    def gib(self): return sum(s.nbytes() for s in self.kept.values())/2**30


def counted_memory(cfg, recompute) -> str:
    parts, batch = make_parts(cfg, 'meta'), make_batch(cfg, 'meta')
    parts.G.checkpoint = recompute
    kept = Kept(parts)
    with no_value_checks():
        if parts.loss_g.perceptual is not None: batch.features = parts.loss_g.perceptual.perception(batch.real)
        with kept.hooks():
            look = Look(parts.G, parts.D, batch.condition, batch.real)
            parts.loss_g(look.on_fake, look.on_real, look.leaf, batch.features or batch.real)
    def numel(net): return sum(p.numel() for p in net.parameters())
    frozen = numel(parts.loss_g.perceptual.perception.network) if parts.loss_g.perceptual is not None else 0
    fixed = 4*(4*(numel(parts.G) + numel(parts.D)) + numel(parts.G) + frozen)/2**30
    return f'| {cfg.size} | {recompute} | {kept.gib():.2f} | {fixed:.2f} | {kept.gib() + fixed:.2f} |'


def measured_memory(cfg, recompute) -> str:
    trainer, batch = Trainer(cfg, recompute=recompute), make_batch(cfg, 'cuda')
    parts = [dict(image=batch.real, vessels=batch.condition[:, :1], fov=batch.fov)]
    trainer._train_step(parts)                                                    # Adam's averages come with the first step
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    t = seconds(lambda: trainer._train_step(parts))
    return f'| {cfg.size} | {recompute} | {trainer.options["precision"]} | {torch.cuda.max_memory_allocated()/2**30:.2f} | {torch.cuda.max_memory_reserved()/2**30:.2f} | {t:.3g} |'


def memory_table(args) -> list:
    cases = [(size, recompute) for size in (512, 1024) for recompute in ('none', 'bottle', 'all')]
    if args.device == 'cuda':
        head = ['Measured: the peak that PyTorch allocated and reserved in a step of `Trainer`.', '',
                '| size | recompute | precision | allocated GiB | reserved GiB | seconds a step |', '|---|---|---|---|---|---|']
        count = measured_memory
    else:
        head = ['Counted on the meta device, not measured on a GPU: float32, batch 1, what autograd keeps when the way back begins (each storage once); '
                'weights, gradients and Adam of G and D, the moving average of G, and the perceptual network. Working space of convolutions, '
                'the parts that are computed again, and the allocator come on top.', '',
                '| size | recompute | kept for the way back GiB | weights, gradients, Adam GiB | together GiB |', '|---|---|---|---|---|']
        count = counted_memory
    return ['', '## Memory', '', *head, *(count(config(args, size, 1), recompute) for size, recompute in cases)]


# --- all together

def config(args, size, batch=None):
    return RetiGANConfig.preset(args.preset, size=size, batch_size=batch or args.batch, perceptual=args.perceptual)


def machine(args, script) -> str:
    load = f', load average {os.getloadavg()[0]:.1f} at the start' if hasattr(os, 'getloadavg') else ''
    name = torch.cuda.get_device_name() if args.device == 'cuda' else 'cpu'
    return (f'Made on {time.strftime("%Y-%m-%d", time.gmtime())} by `OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/step.py {script}` on {processor()}{load}, '
            f'device {name}, torch {torch.__version__}, Python {platform.python_version()}. The machine was shared and busy: the sides alternate '
            'step by step in one process, so read the ratios; seconds are what this machine had left.')


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', default=[256, 512])
    parser.add_argument('--rounds', type=int, nargs='+', default=[4, 2], help='for each size; the last one for those that follow')
    parser.add_argument('--sides', nargs='+', help='only plain and the sides whose names begin so, such as: all')
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--preset', default='paper')
    parser.add_argument('--perceptual', choices=('random', 'unet', 'none'), default='random', help="random: VGG19 with seeded weights, which costs what the true one does")
    parser.add_argument('--threads', type=int)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--check', action='store_true', help='add the differences of terms and gradients')
    parser.add_argument('--wait', action='store_true', help='add the share of waiting for data')
    parser.add_argument('--scale', action='store_true', help='cost against resolution and batch, instead')
    parser.add_argument('--memory', action='store_true', help='memory, instead')
    parser.add_argument('--limit', type=int, default=512**2, help='pixels of a batch that are timed on a CPU, at most')
    parser.add_argument('--out', type=Path, help='also write to this file')
    return parser.parse_args()


def main():
    args = arguments()
    if args.threads: torch.set_num_threads(args.threads)
    lines = ['# A training step' if not (args.scale or args.memory) else '# A training step, larger and smaller', '', machine(args, ' '.join(sys.argv[1:])), '']
    if args.scale: lines += scale_table(args)
    if args.memory: lines += memory_table(args)
    if not (args.scale or args.memory):
        lines += time_table(args)
        if args.check: lines += check_table(args)
        if args.wait: lines += wait_table(args)
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    if args.out: args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__': main()
