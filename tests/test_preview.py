"""What the chapter on the preview can't show: the thread against a run's folder, and a real JupyterLab in a real browser."""
import importlib.util
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from notebooks import ROOT

from retigan.datasets import SimulatedEyes
from retigan.model import RetiGANConfig
from retigan.preview import TrainingPreview
from retigan.train import Callback, Trainer, latest_checkpoint

FINAL = ROOT/'nbs/15_train_retigan.ipynb'        # the last chapter, in its preset demo, with fewer eyes and more samples:
FEWER = {'6 if QUICK else 200': '6', '4 if QUICK else 20': '4', 'run=run, resume=True': 'run=run, resume=True, every=10'}
SMALL = ["""\
from retigan.datasets import SimulatedEyes
from retigan.model import RetiGANConfig
from retigan.preview import TrainingPreview
from retigan.train import Trainer
cfg = RetiGANConfig(size=32, filters=4, n_bottle=1, d_filters=4, perceptual='none', batch_size=2, steps=100_000)
preview = TrainingPreview(Trainer(cfg), SimulatedEyes(3, 64, seed=5), every=5, run='run')
preview.start()""", "print('the notebook', 'stays usable')"]


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


@pytest.fixture
def lab(tmp_path, child_env, request):
    "JupyterLab on this machine only, in a folder with one notebook: its address, and the folder."
    if importlib.util.find_spec('jupyterlab') is None: pytest.skip('jupyterlab is not installed')
    folder = tmp_path/'lab'
    folder.mkdir()
    if request.param == 'small': nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in SMALL])
    else:
        text = FINAL.read_text(encoding='utf-8')
        for old, new in FEWER.items():
            assert old in text, f'{FINAL.name} no longer has {old!r}'
            text = text.replace(old, new)
        nb = nbformat.reads(text, 4)
        for cell in nb.cells:
            if cell.cell_type == 'code': cell.outputs = []
    nb.metadata['kernelspec'] = dict(name='python3', display_name='Python 3', language='python')
    nbformat.write(nb, folder/'train.ipynb')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = {k: v for k, v in child_env.items() if k not in ('IN_TEST', 'MPLBACKEND')}
    env |= {f'JUPYTER_{what}_DIR': str(tmp_path/what) for what in ('CONFIG', 'RUNTIME')} | {'JUPYTERLAB_SETTINGS_DIR': str(tmp_path/'settings'), 'HOME': str(tmp_path)}
    words = ['--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--IdentityProvider.token=preview-test',
             f'--ServerApp.root_dir={folder}', '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
             '--ServerApp.port_retries=0', '--LabApp.extension_manager=readonly']
    log = open(tmp_path/'lab.log', 'w')
    server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *words], cwd=folder, env=env, stdout=log, stderr=log)
    url = f'http://127.0.0.1:{port}'
    def answers():
        assert server.poll() is None, (tmp_path/'lab.log').read_text()
        try: return urllib.request.urlopen(f'{url}/api/status?token=preview-test', timeout=2).status == 200
        except OSError: return False
    until(answers, 60)
    yield url, folder
    server.terminate()
    try: server.wait(20)
    except subprocess.TimeoutExpired: server.kill()
    log.close()


@pytest.mark.parametrize('lab', ['small', 'final'], indirect=True)
def test_a_training_in_jupyterlab(browser, lab, tmp_path):
    "All cells run, the picture moves, Pause holds, the slider shows another step, Stop leaves a checkpoint."
    url, folder = lab
    context = browser.new_context(viewport={'width': 1280, 'height': 1500})
    context.route('**/*', lambda route: route.continue_() if route.request.url.startswith((url, 'data:', 'blob:')) else route.abort())
    context.set_default_timeout(60_000)
    page = context.new_page()
    def shot(name): page.screenshot(path=tmp_path/f'{name}.png')
    page.goto(f'{url}/lab/tree/train.ipynb?token=preview-test&reset', wait_until='load')
    page.locator('.jp-Notebook .jp-Cell').first.wait_for()
    page.get_by_text(re.compile(r'Python 3.*\| Idle')).first.wait_for()           # or JupyterLab asks which kernel to take
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
    status = page.locator('.widget-html', has_text='step ').filter(has_text=' of ').first
    status.wait_for(timeout=120_000)
    def step(): return int(re.search(r'step (\d+) of', status.inner_text())[1])
    row = page.locator('img.widget-image').nth(0)
    until(lambda: step() > 6, 120)
    first = row.get_attribute('src')
    until(lambda: row.get_attribute('src') != first, 60)          # the picture moves while it trains
    if folder.joinpath('run').exists(): page.get_by_text('the notebook stays usable').wait_for()
    shot('running')

    page.get_by_role('button', name='Pause').click()
    page.locator('.widget-html', has_text='paused').first.wait_for()
    time.sleep(.7)
    held = step()
    time.sleep(1.5)
    assert step() == held, 'Pause does not hold'
    shot('paused')

    slider = page.locator('.widget-hslider', has_text='step').first
    readout, newest = slider.locator('.widget-readout'), row.get_attribute('src')
    assert int(readout.inner_text()) > 0, 'the slider does not stand at the newest step'
    slider.scroll_into_view_if_needed()
    track = slider.locator('.noUi-target').bounding_box()
    page.mouse.click(track['x'] + 1, track['y'] + track['height']/2)
    until(lambda: readout.inner_text() == '0' and row.get_attribute('src') != newest, 20)
    shot('slider')

    page.get_by_role('button', name='Resume').click()
    until(lambda: step() > held, 60)
    page.get_by_role('button', name='Stop').click()
    page.locator('.widget-html', has_text='stopped').first.wait_for()
    shot('stopped')
    assert re.search(r'saved (step_\d+)', status.inner_text())
    found = list(folder.glob(f'**/checkpoints/step_{step():06}/model.safetensors'))
    assert found, 'Stop left no checkpoint'
    context.close()
