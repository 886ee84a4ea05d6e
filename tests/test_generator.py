"""The generator where a notebook is too slow or too small a place: compiling, exporting, sizes, types, devices."""
import shutil
import subprocess
import sys

import pytest
import torch
from retigan.generator import CHECKPOINTS, MODES, GlobalGenerator, icnr_, pad_to_multiple, receptive_field


def small(**changes) -> GlobalGenerator:
    torch.manual_seed(0)
    return GlobalGenerator(**dict(in_channel=2, filters=4, n_enc=2, n_bottle=2) | changes)


def condition(*shape) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def gradients(net, x) -> list:
    net(x).square().sum().backward()
    return [p.grad.clone() for p in net.parameters()]


def test_import_is_light():
    code = 'import sys, retigan.generator; print([m for m in ("matplotlib", "ipywidgets", "cv2", "torchvision", "PIL") if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'


@pytest.mark.parametrize('batch, in_channel', [(1, 1), (3, 3)])
@pytest.mark.parametrize('size', [(16, 16), (17, 16), (16, 600), (33, 64), (101, 99), (584, 565), (599, 600)])
def test_any_size_comes_back(size, batch, in_channel):
    with torch.no_grad(): y = GlobalGenerator(in_channel, 3, 2, n_enc=3, n_bottle=1)(condition(batch, in_channel, *size))
    assert y.shape == (batch, 3, *size) and y.isfinite().all() and y.abs().max() <= 1


def test_padding_leaves_multiples_alone_and_reflects():
    x = condition(1, 1, 16, 24)
    assert pad_to_multiple(x, 8) is x
    y = pad_to_multiple(x[..., :13, :19], 8)
    assert y.shape == x.shape and torch.equal(y[..., :13, :19], x[..., :13, :19])
    assert torch.equal(y[..., 13, :19], x[..., 11, :19])


@pytest.mark.parametrize('n_enc', range(1, 7))
def test_smallest_legal_side(n_enc):
    net, least = GlobalGenerator(1, 1, 1, n_enc, 1), 2**(n_enc + 1)
    with torch.no_grad():
        assert net(condition(1, 1, least, least + 1)).shape == (1, 1, least, least + 1)
        for shape in ((least - 1, least), (least, least - 1)):
            with pytest.raises(ValueError, match=f'at least {least} '): net(condition(1, 1, *shape))


@pytest.mark.parametrize('mode', MODES)
def test_batch_members_do_not_mix(mode):
    net, x = small(mode=mode), condition(3, 2, 20, 28)
    with torch.no_grad(): assert (net(x) - torch.cat([net(one[None]) for one in x])).abs().max() < 1e-5


@pytest.mark.parametrize('mode', MODES)
def test_bfloat16(mode):
    net, x = small(mode=mode), condition(1, 2, 40, 36)
    with torch.no_grad(): expected, y = net(x), net.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16 and (y.float() - expected).abs().mean() < 0.03


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('how', CHECKPOINTS[1:])
def test_checkpointing_gives_the_same_gradients(mode, how):
    x = condition(2, 2, 33, 40)
    for a, b in zip(gradients(small(mode=mode), x), gradients(small(mode=mode, checkpoint=how), x)): assert torch.equal(a, b)


@pytest.mark.parametrize('mode', MODES)
def test_every_weight_learns(mode):
    for grad in gradients(small(mode=mode, n_bottle=1), condition(1, 2, 24, 24)): assert grad.norm() > 1e-6


def test_condition_gets_a_gradient_through_every_checkpoint():
    x = condition(1, 2, 24, 24).requires_grad_()
    expected, = torch.autograd.grad(small()(x).sum(), x)
    for how in CHECKPOINTS[1:]: assert torch.equal(torch.autograd.grad(small(checkpoint=how)(x).sum(), x)[0], expected)


@pytest.mark.parametrize('mode', MODES)
def test_state_dict_round_trip(mode):
    net, other = small(mode=mode), GlobalGenerator(2, 3, 4, 2, 2, mode).init_weights()
    other.load_state_dict(net.state_dict())
    with torch.no_grad(): assert torch.equal(other(x := condition(1, 2, 16, 16)), net(x))


def test_icnr_survives_init_weights():
    for up in small(mode='shuffle').init_weights().up:
        cells = up[1].weight.unflatten(0, (-1, 4))
        assert torch.equal(cells, cells[:, :1].expand_as(cells)) and not torch.equal(cells[0], cells[1])
    with pytest.raises(ValueError, match='weight has shape'): icnr_(torch.zeros(5, 1, 3, 3))


def test_receptive_field_grows_by_four_small_pixels_a_block():
    for mode in MODES:
        for n_enc in range(1, 7): assert receptive_field(n_enc, 5, mode) - receptive_field(n_enc, 4, mode) == 4 * 2**n_enc


def test_finite_check_can_be_switched():
    x = torch.full((1, 2, 16, 16), float('inf'))
    for check in (None, True):
        with pytest.raises(ValueError, match='x holds NaN or infinity'): small(check_finite=check)(x)
    assert not small(check_finite=False)(x).isfinite().all()


@pytest.mark.parametrize('mode', MODES)
def test_export(mode):
    net, x = small(mode=mode).eval(), condition(1, 2, 42, 37)
    program = torch.export.export(net, (x,))
    with torch.no_grad(): assert (program.module()(x) - net(x)).abs().max() < 1e-5


def test_export_with_any_batch_size():
    net = small().eval()
    program = torch.export.export(net, (condition(2, 2, 40, 36),), dynamic_shapes=({0: torch.export.Dim('batch', min=1, max=16)},))
    for batch in (1, 5):
        x = condition(batch, 2, 40, 36)
        with torch.no_grad(): assert (program.module()(x) - net(x)).abs().max() < 1e-5


@pytest.mark.parametrize('backend', ['aot_eager', 'inductor'])
def test_compile(backend):
    if backend == 'inductor' and not (shutil.which('g++') or shutil.which('clang++')): pytest.skip('torch.compile needs a C++ compiler, and none is here')
    if sys.version_info >= (3, 13) and torch.__version__ < '2.7': pytest.skip('this torch does not compile under this Python')
    net, x = small(n_enc=1, n_bottle=1), condition(1, 2, 18, 15)
    torch._dynamo.reset()
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    assert (compiled(x) - net(x)).abs().max() < 1e-5
    expected = gradients(net, x)
    net.zero_grad()
    compiled(x).square().sum().backward()
    for p, grad in zip(net.parameters(), expected): torch.testing.assert_close(p.grad, grad, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')
@pytest.mark.parametrize('mode', MODES)
def test_gpu_gives_what_the_cpu_gives(mode):
    net, x = small(mode=mode), condition(2, 2, 50, 43)
    with torch.no_grad():
        expected = net(x)
        assert (net.cuda()(x.cuda()).cpu() - expected).abs().max() < 1e-2            # TF32 may be on
        assert not net(torch.full_like(x, float('nan')).cuda()).isfinite().all()     # no check, no wait
