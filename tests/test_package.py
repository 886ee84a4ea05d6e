"""The package as a stranger gets it: built, installed from wheel and from sdist, imported, called.

By default the dependencies are lent by the running environment, so that no network and no gigabytes are
needed. With RETIGAN_CLEAN_INSTALL=1 they are resolved from the package index, as `pip install retigan` does
(that brings fastcore 2, where nbdev 2 holds the development environment at fastcore 1).
"""
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import gate
import pytest
from notebooks import ROOT, settings

MODULES = [f'retigan.{path.stem}' for path in gate.modules()]
PICTURES_AND_NOTEBOOKS = {'.ipynb', '.png', '.jpg', '.jpeg', '.tif', '.tiff', '.gif', '.ppm'}
CLEAN = os.environ.get('RETIGAN_CLEAN_INSTALL') == '1'


def run(*command, cwd=None, timeout=1200, **env) -> str:
    "Run a command to its end; on failure the test shows what it printed."
    done = subprocess.run([str(part) for part in command], cwd=cwd, text=True, capture_output=True, stdin=subprocess.DEVNULL,
                          timeout=timeout, env={name: value for name, value in os.environ.items() if name != 'PYTHONPATH'} | env)
    if done.returncode: pytest.fail(f'{" ".join(map(str, command))}\n{(done.stdout + done.stderr)[-4000:]}', pytrace=False)
    return done.stdout


@pytest.fixture(scope='session')
def dist(tmp_path_factory) -> Path:
    "A folder with the sdist and the wheel that was built from it, from the tree's tracked and new files only."
    tree, out = tmp_path_factory.mktemp('tree'), tmp_path_factory.mktemp('dist')
    listed = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=ROOT, text=True, capture_output=True)
    names = listed.stdout.splitlines() if listed.returncode == 0 else [
        path.relative_to(ROOT).as_posix() for name in ('retigan', 'nbs') for path in (ROOT/name).glob('*.*')] + [
        path.name for path in ROOT.iterdir() if path.is_file()]
    for name in names:
        if not (ROOT/name).is_file(): continue
        (tree/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT/name, tree/name)
    run(sys.executable, '-m', 'build', '--outdir', out, tree)
    return out


def wheel(dist: Path) -> Path: return next(dist.glob('*.whl'))
def sdist(dist: Path) -> Path: return next(dist.glob('*.tar.gz'))


def test_wheel_holds_the_package_and_nothing_else(dist):
    with zipfile.ZipFile(wheel(dist)) as archive:
        names = archive.namelist()
        metadata = next(archive.read(name).decode() for name in names if name.endswith('.dist-info/METADATA'))
        entries = next(archive.read(name).decode() for name in names if name.endswith('entry_points.txt'))
    assert not [name for name in names if Path(name).suffix in PICTURES_AND_NOTEBOOKS]
    info = f"retigan-{settings()['version']}.dist-info"
    assert {Path(name).parts[0] for name in names} == {'retigan', info}
    weights = [path for path in (ROOT/'retigan'/'pretrained').rglob('*') if path.is_file()]
    assert weights and sum(path.stat().st_size for path in weights) < 16e6
    expected = {path.relative_to(ROOT).as_posix() for path in [*(ROOT/'retigan').glob('*.py'), *weights]}
    assert {name for name in names if name.startswith('retigan/')} == expected
    assert any(Path(name).name == 'LICENSE' for name in names)
    for line in settings()['console_scripts'].split(): assert ' = '.join(line.split('=')) in entries
    assert f"Version: {settings()['version']}" in metadata and 'Requires-Python: >=3.10' in metadata
    required = [line.split(': ', 1)[1] for line in metadata.splitlines() if line.startswith('Requires-Dist') and 'extra ==' not in line]
    assert len(required) == len(settings()['requirements'].split())
    assert not [name for name in required if name.startswith(('nbdev', 'execnb', 'jupyter'))]


def test_sdist_can_be_built_from(dist):
    with tarfile.open(sdist(dist)) as archive: names = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'CHANGELOG.md'} <= names
    assert not [name for name in names if Path(name).suffix in PICTURES_AND_NOTEBOOKS]


def new_venv(folder: Path) -> Path:
    "An empty environment; returns its Python."
    run(sys.executable, '-m', 'venv', folder)
    return folder/('Scripts/python.exe' if os.name == 'nt' else 'bin/python')


def site_packages(python: Path) -> Path:
    return Path(run(python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))').strip())


def install_with_lent_dependencies(package: Path, lender: Path, folder: Path) -> Path:
    """A new environment with `package`; what it depends on is seen in `lender`, another site-packages.

    The lender's .pth files are not read, so an editable retigan in it stays invisible, and the new
    environment's own site-packages comes first."""
    python = new_venv(folder)
    (site_packages(python)/'lent.pth').write_text(f'{lender}\n')
    run(python, '-m', 'pip', 'install', '-q', '--no-deps', '--ignore-installed', package)
    return python


@pytest.fixture(scope='module')
def resolved(dist, tmp_path_factory):
    "The Python of a new environment where pip resolved the wheel's dependencies; None unless that was asked for."
    if not CLEAN:
        yield None
        return
    folder = tmp_path_factory.mktemp('resolved')
    python = new_venv(folder/'venv')
    run(python, '-m', 'pip', 'install', '-q', wheel(dist))
    yield python
    shutil.rmtree(folder, ignore_errors=True)       # gigabytes


@pytest.fixture(params=['wheel', 'sdist'], scope='module')
def python(request, dist, resolved, tmp_path_factory):
    "The Python of an environment with retigan from the wheel, then of one with retigan from the sdist."
    if request.param == 'wheel' and resolved: return resolved
    package = {'wheel': wheel, 'sdist': sdist}[request.param](dist)
    lender = site_packages(resolved) if resolved else Path(sysconfig.get_path('purelib'))
    return install_with_lent_dependencies(package, lender, tmp_path_factory.mktemp(f'venv-{request.param}')/'venv')


@pytest.mark.skipif(not CLEAN, reason='dependencies are lent; RETIGAN_CLEAN_INSTALL=1 resolves them')
def test_a_stranger_gets_fastcore_2(resolved):
    "The package is used with fastcore 1 here and with fastcore 2 there; both have to work."
    assert int(run(resolved, '-c', 'from importlib.metadata import version; print(version("fastcore"))').split('.')[0]) >= 2


def test_every_module_imports(python, tmp_path):
    "In the new environment, from another folder, and from the installed files."
    code = ('import importlib, sys\n'
            f'for name in {MODULES}:\n'
            '    module = importlib.import_module(name)\n'
            '    assert module.__file__.startswith(sys.prefix), module.__file__\n'
            '    missing = [n for n in getattr(module, "__all__", []) if not hasattr(module, n)]\n'
            '    assert not missing, (name, missing)\n'
            'import retigan; print(retigan.__version__)')
    assert run(python, '-c', code, cwd=tmp_path).strip() == settings()['version']


@pytest.mark.parametrize('name', [line.split('=')[0] for line in settings()['console_scripts'].split()])
def test_command_is_installed(python, name, tmp_path):
    assert 'usage:' in run(python.parent/name, '--help', cwd=tmp_path).lower()


def test_simulate_writes_eyes(python, tmp_path):
    "README's first command, on two small eyes."
    run(python.parent/'retigan-simulate', '--n', '2', '--size', '64', '--out', 'eyes', cwd=tmp_path, TQDM_DISABLE='1', OMP_NUM_THREADS='1')
    assert sorted(path.name for path in (tmp_path/'eyes'/'images').iterdir()) == ['00000.png', '00001.png']


def test_segment_finds_vessels_with_what_the_package_brings(python, tmp_path):
    "The shipped network, from the installed package, without a network connection."
    env = dict(TQDM_DISABLE='1', OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1')
    run(python.parent/'retigan-simulate', '--n', '1', '--size', '128', '--out', 'eyes', cwd=tmp_path, **env)
    said = run(python.parent/'retigan-segment', 'eyes', '--out', 'trees', '--fast', cwd=tmp_path, **env)
    assert '1 vessel trees written' in said and (tmp_path/'trees'/'masks'/'00000.png').is_file()


@pytest.mark.parametrize('name', MODULES)
def test_import_is_light(name):
    "Importing a module must not pull plotting, widgets or OpenCV into a user's process."
    code = f'import sys, {name}; print(*(set(sys.modules) & {gate.LAZY}))'
    assert run(sys.executable, '-c', code, cwd=ROOT).split() == []
