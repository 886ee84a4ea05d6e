#!/usr/bin/env python3
"""What smoothing the edges of an image costs, in torch and through OpenCV.

    OMP_NUM_THREADS=1 python benchmarks/smooth_edges.py [--rounds 7] [--out results/smooth_edges.md]

Batches of simulated eyes with their field of view; both methods are timed in turn, round by round, so that a busy
minute hits both, and the medians are shown. The torch method is timed on the CPU and, where there is one, on the
GPU; for OpenCV on GPU images the copies there and back are part of it. Nothing here is asserted; read the table.
"""
import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import cv2
import torch

from retigan.simulate import simulate_eye
from retigan.smooth_edges import smooth_edges


def cpu_name() -> str:
    try: return next(l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration): return platform.processor() or platform.machine()


def batch_of(size: int, n: int):
    eyes = [simulate_eye(size, seed) for seed in range(n)]
    return torch.stack([e.image for e in eyes]), torch.stack([e.fov for e in eyes])


def seconds(images, fov, method: str) -> float:
    wait = torch.cuda.synchronize if images.is_cuda else lambda: None
    wait()
    begin = time.perf_counter()
    smooth_edges(images, fov=fov, method=method)
    wait()
    return time.perf_counter() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, help='also write the table to this file')
    args = parser.parse_args()
    load = f', load average {os.getloadavg()[0]:.1f} at the start' if hasattr(os, 'getloadavg') else ''
    devices = ['cpu'] + (['cuda'] if torch.cuda.is_available() else [])
    names = [cpu_name()] + [torch.cuda.get_device_name() for d in devices if d == 'cuda']
    lines = ['# Smoothing edges', '',
             f'Made by `OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/smooth_edges.py --rounds {args.rounds}` on {", ".join(names)}'
             f' ({os.cpu_count()} cores{load}), torch {torch.__version__} with {torch.get_num_threads()} thread(s), OpenCV {cv2.__version__} with'
             f' {cv2.getNumThreads()}, Python {platform.python_version()}. Default settings, `fov` given. Median (range) in ms an image.', '',
             '| device | size | batch | torch | OpenCV | torch / OpenCV |', '|---|---|---|---|---|---|']
    for device in devices:
        for size in (256, 512):
            for n in (1, 4):
                images, fov = (t.to(device) for t in batch_of(size, n))
                for method in ('torch', 'opencv'): seconds(images, fov, method)        # warm up
                took = {'torch': [], 'opencv': []}
                for _ in range(args.rounds):
                    for method, times in took.items(): times.append(1000 * seconds(images, fov, method) / n)
                cell = {m: f'{statistics.median(t):.1f} ({min(t):.1f}-{max(t):.1f})' for m, t in took.items()}
                ratio = statistics.median(took['torch']) / statistics.median(took['opencv'])
                lines.append(f'| {device} | {size} | {n} | {cell["torch"]} | {cell["opencv"]} | {ratio:.1f} |')
    text = '\n'.join(lines) + '\n'
    print(text, end='')
    if args.out: args.out.write_text(text, encoding='utf-8')


if __name__ == '__main__': main()
