"""What the chapter on smoothed edges can't show: other processes, and settings that last for a whole process."""
import os
import subprocess
import sys

import pytest

PRINT_DIGESTS = '''
import hashlib, sys
import torch
from retigan.simulate import simulate_eye
from retigan.smooth_edges import edge_region, smooth_edges
eyes = [simulate_eye(160, seed) for seed in (0, 3)]
images, fov = (torch.stack([getattr(e, f) for e in eyes]) for f in ('image', 'fov'))
for method in ('torch', 'opencv'):
    region = edge_region(images, fov=fov, method=method)[1]
    print(hashlib.sha256(region.numpy().tobytes()).hexdigest())
print(float((smooth_edges(images, fov=fov) - smooth_edges(images, fov=fov, method='opencv')).abs().max()))
'''


def digests(**environment):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', PRINT_DIGESTS], capture_output=True, text=True,
                          env={**os.environ, **environment}, check=True)
    *regions, difference = done.stdout.split()
    assert float(difference) <= 1e-6
    return regions


def test_same_region_without_vector_instructions():
    "Another processor, imitated: OpenCV without AVX, one thread; the region is made of integers and stays."
    here = digests()
    assert here[0] == here[1]
    assert here == digests(OPENCV_CPU_DISABLE='AVX512-SKX,AVX2,FMA3,AVX,FP16,SSE4.2,SSE4.1', OMP_NUM_THREADS='1')


def test_deterministic_algorithms_are_enough():
    torch = pytest.importorskip('torch')
    from retigan.smooth_edges import smooth_edges
    x = torch.rand(2, 3, 40, 50, generator=torch.Generator().manual_seed(0))*2 - 1
    wanted = smooth_edges(x, margin=0)
    torch.use_deterministic_algorithms(True)
    try: assert torch.equal(smooth_edges(x, margin=0), wanted)
    finally: torch.use_deterministic_algorithms(False)


def test_torch_method_needs_no_opencv():
    code = ("import sys; sys.modules['cv2'] = None\n"
            "import torch; from retigan.smooth_edges import smooth_edges\n"
            "print(smooth_edges(torch.zeros(1, 3, 20, 30)).shape)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert 'Size([1, 3, 20, 30])' in done.stdout


def test_cuda_finds_the_same_region():
    torch = pytest.importorskip('torch')
    if not torch.cuda.is_available(): pytest.skip('no CUDA device')
    from retigan.smooth_edges import edge_region, smooth_edges
    x = torch.rand(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))*2 - 1
    assert torch.equal(edge_region(x.cuda(), margin=0)[1].cpu(), edge_region(x, margin=0)[1])
    assert (smooth_edges(x.cuda(), margin=0).cpu() - smooth_edges(x, margin=0)).abs().max() <= 1e-6
