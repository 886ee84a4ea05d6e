"""What every tool here knows about the notebooks: where they are, their order, and how a cell is read.

The gate, the README, the course site and the runner share these functions, so that "hidden" or
"executed" means one thing in all of them.
"""
import hashlib
import re
from configparser import ConfigParser
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/'nbs'
DIRECTIVE = re.compile(r'^\s*#\s*\|\s*(?P<name>[\w-]+)\s*:?\s*(?P<value>.*?)\s*$')
IMAGE_SUFFIXES = {'image/png': '.png', 'image/jpeg': '.jpg', 'image/svg+xml': '.svg'}


def settings(root: Path = ROOT) -> dict:
    "The values of settings.ini."
    config = ConfigParser(delimiters=['='])
    if not config.read(root/'settings.ini', encoding='utf-8'):
        raise FileNotFoundError(f'{root}/settings.ini: not found; run from a checkout of the project')
    return dict(config['DEFAULT'])


def chapters(root: Path = ROOT) -> list[Path]:
    "The lesson notebooks in course order: nbs/NN_name.ipynb."
    return sorted((root/'nbs').glob('[0-9][0-9]_*.ipynb'))


def notebooks(root: Path = ROOT) -> list[Path]:
    "index.ipynb and the lessons: everything the gate looks at."
    index = root/'nbs'/'index.ipynb'
    return [index]*index.exists() + chapters(root)


def read(path: Path) -> nbformat.NotebookNode:
    "The notebook as it is on disk, nothing upgraded or repaired."
    return nbformat.from_dict(nbformat.reader.reads(Path(path).read_text(encoding='utf-8')))


def title(nb) -> str:
    "The text of the first H1, or an empty string."
    for cell in nb.cells:
        found = re.search(r'^# (.+)$', cell.source, re.M) if cell.cell_type == 'markdown' else None
        if found: return found[1].strip()
    return ''


def directives(source: str) -> dict[str, str]:
    "nbdev's `#| name: value` lines of a cell, `{'export': '', 'fig-alt': 'Four eyes'}`."
    matches = (DIRECTIVE.match(line) for line in source.splitlines())
    return {m['name']: m['value'] for m in matches if m}


def without_directives(source: str) -> str:
    "The cell as a reader should see it: no `#|` line."
    return '\n'.join(line for line in source.splitlines() if not DIRECTIVE.match(line)).strip('\n')


def code_cells(nb) -> list:
    return [cell for cell in nb.cells if cell.cell_type == 'code']


def is_hidden(cell) -> bool:
    "Cells no page shows: `#| hide`, `#| default_exp`, and code cells with nothing but directives."
    if cell.cell_type != 'code': return False
    found = directives(cell.source)
    return 'hide' in found or 'default_exp' in found or not without_directives(cell.source).strip()


def shows_source(cell) -> bool:
    "False for `#| echo: false`: the reader sees only what the cell makes."
    return directives(cell.source).get('echo', '').lower() != 'false'


def is_run(cell) -> bool:
    "Code that a run of the notebook executes: all of it but `#| eval: false`."
    return cell.cell_type == 'code' and directives(cell.source).get('eval', '').lower() != 'false'


def has_image(cell) -> bool:
    return any(kind in IMAGE_SUFFIXES for out in cell.get('outputs', []) for kind in out.get('data', {}))


def is_widget(output) -> bool:
    "A live widget, a progress bar for one: nothing of it but a line of text survives saving."
    return 'application/vnd.jupyter.widget-view+json' in output.get('data', {})


def fingerprint(nb) -> str:
    "SHA-256 over the code that runs, in order. nbdev_clean drops execution counts; this takes their place."
    return hashlib.sha256('\0'.join(cell.source for cell in nb.cells if is_run(cell)).encode()).hexdigest()


def colab_url(path: Path, config: dict) -> str:
    "Where Colab opens a notebook of this project."
    return (f"https://colab.research.google.com/github/{config['user']}/{config['repo']}"
            f"/blob/{config['branch']}/nbs/{path.name}")


def colab_badge(path: Path, config: dict) -> str:
    image = 'https://colab.research.google.com/assets/colab-badge.svg'
    return f'[![Open In Colab]({image})]({colab_url(path, config)})'
