#!/usr/bin/env python3
"""What a LocalEnhancer costs beside the GlobalGenerator alone: weights, operations, saved memory, time a step.

    OMP_NUM_THREADS=1 python benchmarks/local_enhancer.py [--rounds 3] [--out results/local_enhancer.md]

Operations and memory are counted on the meta device. The networks are timed in turn, round by round, in one process,
so that a busy minute hits all of them; a step is forward, mean absolute error and backward, without an optimiser.
Nothing here is asserted; read the table.
"""
import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from machine import processor
from torch.utils.flop_counter import FlopCounterMode

from retigan.generator import GlobalGenerator
from retigan.local_enhancer import LocalEnhancer

NETS = {'GlobalGenerator, filters 64': lambda: GlobalGenerator(check_finite=False),
        'LocalEnhancer, filters 32, 1 enhancer': lambda: LocalEnhancer(check_finite=False),
        'GlobalGenerator, filters 32': lambda: GlobalGenerator(filters=32, check_finite=False),
        'LocalEnhancer, filters 16, 1 enhancer': lambda: LocalEnhancer(filters=16, check_finite=False),
        'LocalEnhancer, filters 16, 2 enhancers': lambda: LocalEnhancer(filters=16, n_local=2, check_finite=False)}


def counted(make, size: int):
    "Parameters in M, GFLOP of a step, MiB kept for the backward pass."
    with torch.device('meta'):
        net, x, kept = make(), torch.empty(1, 3, size, size), {}
        own = {p.untyped_storage()._cdata for p in net.parameters()}

        def keep(t):
            if t.untyped_storage()._cdata not in own: kept[t.untyped_storage()._cdata] = t      # held, so that no id comes twice
            return t
        with FlopCounterMode(display=False) as flops, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t): net(x).sum().backward()
    return sum(p.numel() for p in net.parameters())/1e6, flops.get_total_flops()/1e9, sum(t.untyped_storage().nbytes() for t in kept.values())/2**20


def seconds(net, x) -> float:
    net.zero_grad(set_to_none=True)
    begin = time.perf_counter()
    net(x).abs().mean().backward()
    if x.is_cuda: torch.cuda.synchronize()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--sizes', type=int, nargs='+', default=[64, 128])
    parser.add_argument('--count', type=int, nargs='+', default=[256, 512, 1024], help='sizes that are counted and not timed')
    parser.add_argument('--out', type=Path, help='also write the table to this file')
    args = parser.parse_args()
    load = f', load average {os.getloadavg()[0]:.1f} at the start' if hasattr(os, 'getloadavg') else ''
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    lines = ['# The local enhancer', '',
             f'Made by `OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/local_enhancer.py --rounds {args.rounds}` on {processor()}{load},'
             f' device {device}, torch {torch.__version__}, Python {platform.python_version()}. Batch 1, three condition channels, n_enc 3, n_bottle 9,'
             ' float32. Memory is what the forward pass keeps for the backward pass, weights not counted. Time: median (range) of forward and'
             ' backward; the ratio is against the first row of the same size.', '',
             '| size | network | parameters M | GFLOP a step | kept MiB | seconds | ratio |', '|---|---|---|---|---|---|---|']
    for size in args.sizes + args.count:
        times = {name: [] for name in NETS}
        if size in args.sizes:
            torch.manual_seed(0)
            nets, x = {name: make().to(device) for name, make in NETS.items()}, torch.randn(1, 3, size, size, device=device)
            for net in nets.values(): seconds(net, x)                                    # warm up
            for _ in range(args.rounds):
                for name, net in nets.items(): times[name].append(seconds(net, x))
        first = next(iter(times.values()))
        for name, make in NETS.items():
            m, gflop, mib = counted(make, size)
            t = times[name]
            cell = f'{statistics.median(t):.3g} ({min(t):.3g}-{max(t):.3g}) | {statistics.median(t)/statistics.median(first):.2f}' if t else ' | '
            lines.append(f'| {size} | {name} | {m:.2f} | {gflop:.1f} | {mib:.0f} | {cell} |')
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    if args.out: args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__': main()
