#!/usr/bin/env python3
"""How many images a second the loader feeds, and how many a training step on the CPU eats.

    python benchmarks/loader.py [--size 256] [--seconds 6] [--out results/loader.md]

Loader and training step are timed in turn in one process, several rounds each, and the medians are
compared, so that a busy minute on the machine hits both. Data: simulated eyes written as PNG files and
opened with `open_dataset`, once with the cache cold (files are decoded) and once warm. The step is a
plain convolutional encoder-decoder (pix2pixHD's shape) with an L1 loss and Adam: far less work than RetiGAN's
own step, so the ratio to it is a lower bound. RetiGAN's step at the paper's widths takes about 4.6 s an image
at 256 px on two Zen 3 cores (measured before this benchmark was written). Nothing here is asserted; read the table.
"""
import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from machine import processor
from retigan.datasets import EyePairs, eye_loader, open_dataset
from retigan.simulate import write_eyes

PAPER_STEP = 4.6      # seconds an image at 256 px, one training step of the paper configuration on two Zen 3 cores


def reference_net(filters: int = 32, n_enc: int = 2, blocks: int = 4) -> nn.Sequential:
    layers, c = [nn.Conv2d(1, filters, 7, padding=3), nn.ReLU()], filters
    for _ in range(n_enc): layers += [nn.Conv2d(c, 2*c, 3, 2, 1), nn.ReLU()]; c *= 2
    for _ in range(blocks): layers += [nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1), nn.ReLU()]
    for _ in range(n_enc): layers += [nn.ConvTranspose2d(c, c//2, 3, 2, 1, 1), nn.ReLU()]; c //= 2
    return nn.Sequential(*layers, nn.Conv2d(c, 3, 7, padding=3), nn.Tanh())


def feed(loader, seconds: float, start_epoch: int) -> tuple[float, int]:
    "Images a second from a loader whose workers are up, and the next epoch."
    epoch, n, begin = start_epoch, 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        loader.sampler.set_epoch(epoch)
        for batch in loader: n += len(batch['name'])
        epoch += 1
    return n / (time.perf_counter() - begin), epoch


def cold(ds, size: int, workers: int) -> float:
    "Images a second with nothing cached: one pass over fresh pairs, workers already started."
    loader = eye_loader(EyePairs(ds, size), 4, workers=workers)
    begin = time.perf_counter()
    n = sum(len(b['name']) for b in loader)
    return n / (time.perf_counter() - begin)


def train(net, optimiser, batch, seconds: float) -> float:
    "Images a second that the reference step eats."
    n, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        optimiser.zero_grad()
        (net(batch['vessels']) - batch['image']).abs().mean().backward()
        optimiser.step()
        n += len(batch['name'])
    return n / (time.perf_counter() - begin)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--size', type=int, default=256)
    p.add_argument('--seconds', type=float, default=6, help='for each measurement of each round')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--eyes', type=int, default=32)
    p.add_argument('--out', type=Path, default=Path(__file__).resolve().parent.parent/'results'/'loader.md')
    a = p.parse_args()
    torch.manual_seed(0)
    load = f'{os.getloadavg()[0]:.1f}' if hasattr(os, 'getloadavg') else 'unknown'
    net = reference_net()
    optimiser = torch.optim.Adam(net.parameters())
    with tempfile.TemporaryDirectory() as d:
        ds = open_dataset(write_eyes(Path(d)/'eyes', a.eyes, 584))
        loaders = {w: eye_loader(EyePairs(ds, a.size), 4, workers=w) for w in (0, 1, 2)}
        epoch = {w: feed(l, .1, 0)[1] for w, l in loaders.items()}          # warm: workers up, cache full
        batch = next(iter(loaders[0]))
        train(net, optimiser, batch, .1)
        fed, eaten, fresh = {w: [] for w in loaders}, [], {w: [] for w in loaders}
        for _ in range(a.rounds):
            for w, l in loaders.items():
                rate, epoch[w] = feed(l, a.seconds, epoch[w])
                fed[w].append(rate)
                eaten.append(train(net, optimiser, batch, a.seconds / len(loaders)))
                fresh[w].append(cold(ds, a.size, w))
        del loaders
    step, paper = statistics.median(eaten), 1 / PAPER_STEP
    spread = lambda v: f'{statistics.median(v):.1f} ({min(v):.1f}-{max(v):.1f})'
    rows = [f'# Loader throughput at {a.size} px', '',
            f'Made by `python benchmarks/loader.py --size {a.size}` on {processor()} (load average {load} at the start), '
            f'torch {torch.__version__} with {torch.get_num_threads()} threads, Python {platform.python_version()}; '
            f'{a.eyes} simulated eyes of 584 px as PNG, batch 4, {a.rounds} rounds of {a.seconds:g} s, loader and step in turn. '
            'Median (range) of images a second.', '',
            f'| workers | cache warm | first pass, files decoded | warm / RetiGAN step ({PAPER_STEP} s an image) | warm / reference step |',
            '|---|---|---|---|---|']
    for w in fed:
        m = statistics.median(fed[w])
        rows.append(f'| {w} | {spread(fed[w])} | {spread(fresh[w])} | {m/paper:.0f} | {m/step:.1f} |')
    parameters = sum(q.numel() for q in net.parameters()) / 1e6
    rows += ['', f'Reference step: encoder-decoder of {parameters:.1f} M parameters (filters 32, two stride-2 stages, four blocks), L1, Adam, batch 4, '
             f'timed here: {spread(eaten)} images a second. The first pass includes starting the workers. '
             'Goal: at two workers at least five times what CPU training eats.', '']
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text('\n'.join(rows))
    print('\n'.join(rows))


if __name__ == '__main__': main()
