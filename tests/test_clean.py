"""What is generated is in step with its source: modules, index, clean notebooks, README."""
import shutil
import subprocess
import sys
from pathlib import Path

import make_readme
import pytest
from notebooks import ROOT, chapters, colab_badge, settings

GENERATED = ['nbs', 'retigan', 'settings.ini', 'setup.py', 'pyproject.toml', 'README.md']
IGNORE = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', '*.part', '.last_checked')


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob('*'))
            if path.is_file() and '__pycache__' not in path.parts}


@pytest.fixture
def copy(tmp_path) -> Path:
    "The parts of the tree that nbdev reads and writes, away from the tree."
    for name in GENERATED:
        source = ROOT/name
        if source.is_dir(): shutil.copytree(source, tmp_path/name, ignore=IGNORE)
        else: shutil.copy2(source, tmp_path/name)
    return tmp_path


def nbdev(command: str, root: Path, env: dict):
    "Run one nbdev command in `root`."
    call = f'from nbdev.clean import nbdev_clean; from nbdev.doclinks import nbdev_export; {command}()'
    done = subprocess.run([sys.executable, '-c', call], cwd=root, env=env, text=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def changed(before: dict, after: dict) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def test_cleaning_changes_nothing(copy, child_env):
    before = files(copy)
    nbdev('nbdev_clean', copy, child_env)
    assert not (names := changed(before, files(copy))), f'run `nbdev_clean` and commit {names}'


def test_exporting_changes_nothing(copy, child_env):
    "From nothing: nbdev keeps what it finds in `__all__`, so an export over old modules can hide a name that is gone."
    before = files(copy)
    for module in (copy/'retigan').glob('*.py'): module.unlink()
    nbdev('nbdev_export', copy, child_env)
    assert not (names := changed(before, files(copy))), f'delete {names}, run `nbdev_export` and commit'


def test_an_edited_module_is_noticed(copy, child_env):
    "The comparison above can fail: a module edited by hand is written anew."
    module = next(path for path in (copy/'retigan').glob('*.py') if not path.name.startswith('_'))
    module.write_text(module.read_text() + '\nby_hand = 1\n')
    nbdev('nbdev_export', copy, child_env)
    assert 'by_hand = 1' not in module.read_text()


def test_an_unclean_notebook_is_noticed(copy, child_env):
    notebook = copy/'nbs'/chapters()[0].name
    notebook.write_text(notebook.read_text().replace('"metadata": {}', '"metadata": {"scrolled": true}', 1))
    assert 'scrolled' in notebook.read_text()
    nbdev('nbdev_clean', copy, child_env)
    assert 'scrolled' not in notebook.read_text()


def test_readme_is_what_the_index_gives():
    problems = make_readme.differences(make_readme.convert(ROOT/'nbs'/'index.ipynb'))
    assert not problems, '\n'.join(problems + ['run `python tools/make_readme.py`'])


def test_readme_check_notices(tmp_path):
    given = make_readme.convert(ROOT/'nbs'/'index.ipynb')
    make_readme.write(given, tmp_path)
    assert make_readme.differences(given, tmp_path) == []
    (tmp_path/'README.md').write_text('by hand')
    (tmp_path/'assets').mkdir(exist_ok=True)
    (tmp_path/'assets'/'old.jpg').touch()
    assert [problem.split(':')[0] for problem in make_readme.differences(given, tmp_path)] == ['README.md', 'assets/old.jpg']


def test_readme_links_lead_somewhere():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    targets = make_readme.LINK.findall(text)
    assert targets and not [target for target in targets if not (ROOT/target.split('#')[0]).exists()]


def test_readme_shows_no_hidden_cell():
    text = (ROOT/'README.md').read_text(encoding='utf-8')
    assert '#|' not in text and 'test_eq' not in text and 'tempfile' not in text


def test_the_map_holds_the_whole_course():
    "Every chapter that exists is linked with its badge; the others stand there as planned, without a link."
    names = ('00_images 01_simulate 02_datasets 02_weights 03_unet 04_metrics 04_segment 05_generator 06_local_enhancer 07_discriminator '
             '08_losses 09_smooth_edges 10_model 11_train 12_preview 12_synthesis 13_clinic 13_evaluate 14_cli 15_train_retigan').split()
    here = {path.stem: path for path in chapters()}
    assert set(here) <= set(names)
    rows = {line.split('|')[1].strip(): line for line in (ROOT/'README.md').read_text(encoding='utf-8').splitlines() if line.startswith('|')}
    for name in names:
        if name in here:
            row = rows[f'[{name}](nbs/{name}.ipynb)']
            assert colab_badge(here[name], settings()) in row
        else: assert 'planned' in rows[name] and '](' not in rows[name]
