"""retigan-train on a folder of one's own: what the chapter on the commands does not show."""
import json
import shutil

import pytest

from retigan.cli import generate, train
from retigan.simulate import write_eyes
from retigan.train import read_notes


@pytest.fixture(scope='module')
def eyes(tmp_path_factory):
    return write_eyes(tmp_path_factory.mktemp('clinic')/'eyes', n=4, size=160)


def test_photographs_that_nobody_has_labelled(eyes, tmp_path, capsys):
    "Refused before anything is made of them, with what to do; which then works."
    shutil.copytree(eyes/'images', tmp_path/'bare')
    with pytest.raises(SystemExit) as stopped: train(data=str(tmp_path/'bare'), steps=2, out=str(tmp_path/'run'))
    assert stopped.value.code == 2 and '--vessels unet' in capsys.readouterr().err
    train(data=str(tmp_path/'bare'), vessels='unet', steps=2, out=str(tmp_path/'run'))
    assert '1 unseen trees' in capsys.readouterr().out
    assert read_notes(tmp_path/'run')['vessels'] == 'unet' and (tmp_path/'run/sheet.jpg').exists()


def test_a_bad_photograph_is_named_before_the_first_step(eyes, tmp_path, capsys):
    shutil.copytree(eyes, tmp_path/'eyes')
    broken = tmp_path/'eyes/images/00002.png'
    broken.write_bytes(broken.read_bytes()[:2000])
    with pytest.raises(SystemExit) as stopped: train(data=str(tmp_path/'eyes'), steps=2, out=str(tmp_path/'run'))
    assert stopped.value.code == 2 and '00002.png' in capsys.readouterr().err
    assert not list((tmp_path/'run').rglob('*')), 'the run began'


def test_a_resume_needs_neither_data_nor_options(eyes, tmp_path, capsys):
    run = str(tmp_path/'run')
    train(data=str(eyes), steps=2, lr=1e-4, perceptual='none', out=run)
    train(out=run, resume=True, steps=3)
    assert json.loads((tmp_path/'run/result.json').read_text())['trees'] == 1
    assert sorted(p.name for p in (tmp_path/'run/checkpoints').glob('step_*')) == ['step_000002', 'step_000003']
    with pytest.raises(SystemExit): train(out=run, resume=True, perceptual='unet')
    assert "config perceptual: 'none' in the run, 'unet' now" in capsys.readouterr().err


def test_painting_again_what_was_painted(tmp_path, capsys):
    "The shipped model, simulated trees; the seeds are kept, and the same seeds give the same bytes."
    for name in ('a', 'b'): generate(simulate=2, seed=40, out=str(tmp_path/name))
    pairs = json.loads((tmp_path/'a/pairs.json').read_text())
    assert [p['seed'] for p in pairs['pairs']] == [40, 41] and pairs['config']['size'] == 128
    for f in sorted((tmp_path/'a').rglob('*.png')): assert f.read_bytes() == (tmp_path/'b'/f.relative_to(tmp_path/'a')).read_bytes()
