#!/usr/bin/env python3
"""Write README.md and its pictures from nbs/index.ipynb; needs no Quarto.

    python tools/make_readme.py           write README.md and assets/
    python tools/make_readme.py --check   change nothing; exit 1 and name what differs

Hidden cells are left out, `#|` lines too. Pictures get the names of their cells (assets/CELL.jpg) and
their `#| fig-alt:` as alternative text. Links of the notebook, written for its own folder, are rewritten
to be right from the top of the repository.
"""
import argparse
import base64
import posixpath
import re
import sys
from pathlib import Path

from nbconvert.exporters import MarkdownExporter
from nbformat.v4 import new_markdown_cell
from notebooks import IMAGE_SUFFIXES, ROOT, code_cells, directives, is_hidden, read, shows_source, without_directives

HEAD = '<!-- Written by tools/make_readme.py from nbs/index.ipynb: edit that. -->\n\n'
LINK = re.compile(r'(?<=\]\()(?![a-z]+:|#|/)([^)\s]+)')


def from_top(target: str, folder: str = 'nbs') -> str:
    "A link relative to `folder` as one relative to the repository: `00_images.ipynb` -> `nbs/00_images.ipynb`."
    return posixpath.normpath(posixpath.join(folder, target))


def pictures_out(cell, folder: str) -> dict[str, bytes]:
    "Replace the cell's pictures by Markdown images in `folder`; returns path -> bytes."
    files, alt = {}, directives(cell.source).get('fig-alt', '')
    for out in cell.get('outputs', []):
        kind = next((kind for kind in IMAGE_SUFFIXES if kind in out.get('data', {})), None)
        if kind is None: continue
        data = out.data[kind]
        path = f'{folder}/{cell.id}{f"-{len(files)}" if files else ""}{IMAGE_SUFFIXES[kind]}'
        files[path] = data.encode() if kind.endswith('svg+xml') else base64.b64decode(data)
        out.data = {'text/markdown': f'![{alt}]({path})'}
    return files


def only_output(cell):
    "A cell that shows its pictures, or what it printed, without its code."
    texts = [out.data.get('text/markdown') or out.data.get('text/plain', '') if 'data' in out else out.get('text', '') for out in cell.outputs]
    return new_markdown_cell('\n\n'.join(texts), id=cell.id)


def convert(notebook: Path, folder: str = 'assets') -> dict[str, bytes]:
    "README.md and its pictures as path -> bytes, from the notebook's saved outputs."
    nb, files = read(notebook), {}
    nb.cells = [cell for cell in nb.cells if not is_hidden(cell)]
    for cell in nb.cells:
        if cell.cell_type == 'markdown': cell.source = LINK.sub(lambda m: from_top(m[1]), cell.source)
        elif cell.cell_type == 'code': files |= pictures_out(cell, folder)
    nb.cells = [cell if cell.cell_type == 'markdown' or shows_source(cell) else only_output(cell) for cell in nb.cells]
    for cell in code_cells(nb): cell.source = without_directives(cell.source)
    nb.metadata.setdefault('language_info', {'name': 'python'})
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = '\n'.join(line.rstrip() for line in text.strip().splitlines())
    return {'README.md': (HEAD + re.sub(r'\n{3,}', '\n\n', text) + '\n').encode()} | files


def differences(files: dict[str, bytes], root: Path = ROOT, folder: str = 'assets') -> list[str]:
    "What on disk is not what the notebook gives, pictures nobody uses included."
    stale = [path.relative_to(root).as_posix() for path in (root/folder).glob('*') if path.relative_to(root).as_posix() not in files]
    changed = [name for name, data in files.items() if not (root/name).is_file() or (root/name).read_bytes() != data]
    return [f'{name}: differs from nbs/index.ipynb' for name in changed] + [f'{name}: no longer in nbs/index.ipynb' for name in stale]


def write(files: dict[str, bytes], root: Path = ROOT, folder: str = 'assets'):
    for name, data in files.items():
        (root/name).parent.mkdir(exist_ok=True)
        (root/name).write_bytes(data)
    for path in (root/folder).glob('*'):
        if path.relative_to(root).as_posix() not in files: path.unlink()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--check', action='store_true', help='change nothing, exit 1 if README.md is not what the notebook gives')
    args = parser.parse_args(argv)
    files = convert(ROOT/'nbs'/'index.ipynb')
    if not args.check:
        write(files)
        print(f'wrote {", ".join(files)}')
        return 0
    problems = differences(files)
    print('\n'.join(problems + ['run `python tools/make_readme.py`']) if problems else 'README.md is what nbs/index.ipynb gives')
    return bool(problems)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
