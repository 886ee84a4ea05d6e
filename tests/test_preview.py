"""What the chapter on the preview can't show: the thread against a run's folder, and what importing it costs."""
import subprocess
import sys
import time

import pytest

from retigan.datasets import SimulatedEyes
from retigan.model import RetiGANConfig
from retigan.preview import TrainingPreview
from retigan.train import Callback, Trainer, latest_checkpoint


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(.02)


@pytest.fixture
def preview(tmp_path):
    "A training that would go on for hours."
    cfg = RetiGANConfig(size=32, filters=4, n_bottle=1, d_filters=4, perceptual='none', batch_size=2, n_dim=2, steps=100_000)
    preview = TrainingPreview(Trainer(cfg), SimulatedEyes(3, 64, seed=5), every=5, run=tmp_path/'run', widgets=False)
    yield preview
    preview.stop()
    if preview.thread: preview.thread.join(20)


def test_pause_save_resume_stop(preview, tmp_path):
    trainer = preview.start().trainer
    until(lambda: trainer.step >= 5)
    preview.pause()
    asked = trainer.step
    until(lambda: trainer.state == 'paused')
    held = trainer.step
    assert held <= asked + 1, 'Pause took more than a step'
    time.sleep(.4)
    assert trainer.step == held
    preview.save()
    until(lambda: preview.checkpoint == f'step_{held:06}')
    assert latest_checkpoint(tmp_path/'run').name == f'step_{held:06}'
    preview.proceed()
    until(lambda: trainer.step > held + 3)
    preview.stop()
    asked = trainer.step
    preview.wait(30)
    assert not preview.running and trainer.step <= asked + 1 and preview.state == 'stopped'
    assert latest_checkpoint(tmp_path/'run').name == f'step_{trainer.step:06}'


def test_stop_while_paused(preview, tmp_path):
    preview.start()
    until(lambda: preview.trainer.step >= 2)
    preview.pause()
    until(lambda: preview.trainer.state == 'paused')
    preview.stop()
    preview.wait(30)
    assert not preview.running and latest_checkpoint(tmp_path/'run')


def test_stop_before_the_first_step_is_not_lost(preview):
    preview.start().stop()
    preview.wait(30)
    assert not preview.running and preview.trainer.step <= 1


def test_an_error_in_the_thread_comes_out(preview):
    class Unlucky(Callback):
        def after_step(self, trainer):
            if trainer.step == 2: raise RuntimeError('no luck')
    preview.fit_kwargs['callbacks'].insert(0, Unlucky())
    with pytest.raises(RuntimeError, match='no luck'): preview.start().wait(30)
    assert 'no luck' in preview.status() and preview.state == 'failed'


def test_importing_the_preview_imports_no_widgets(child_env):
    code = "import sys, retigan.preview; print([m for m in ('ipywidgets', 'matplotlib', 'IPython', 'cv2') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], env=child_env, capture_output=True, text=True, check=True).stdout.strip() == '[]'
