#!/usr/bin/env python3
"""What a notebook and a module must be before they land; prints every problem and exits 1 if there is one.

    python tools/gate.py [nbs/00_images.ipynb ...]

Each rule is a function that takes a notebook and returns the list of its problems. `tests/test_gate.py`
runs them on every notebook, and each of them on a notebook made bad on purpose.
"""
import ast
import re
import sys
from pathlib import Path

import nbformat
from notebooks import (ROOT, code_cells, colab_badge, directives, fingerprint, has_image,
                       is_run, is_widget, notebooks, read, settings, without_directives)

MAX_BYTES = 500_000
MAX_EXPORTED_LINES = 40
SECTIONS = ['In this chapter you will', 'Before you start', 'Where it fails', 'Summary', 'Exercises', 'References']
EXPORTS_NOTHING = {'13_clinic', '15_train_retigan'}      # they only use the package
# Paths of one machine, and what a reader should never meet in an output.
MACHINE_PATH = re.compile(r'(?<![\w.])/(?:home|root|tmp|work|Users|mnt|opt|private|var)/[\w.]|\b[A-Z]:\\\w')
TROUBLE = re.compile(r'Traceback \(most recent call last\)|\b\w*Warning: ')
# The floors of CONTRIBUTING.md: a module imports only from floors below its own.
FLOORS = {name: floor for floor, names in {
    0: 'weights',
    1: 'images smooth_edges unet generator discriminator losses metrics',
    2: 'simulate local_enhancer',
    3: 'datasets model',
    4: 'train preview segment synthesis',
    5: 'evaluate',
    6: 'cli'}.items() for name in names.split()}
LAZY = {'cv2', 'matplotlib', 'ipywidgets', 'IPython', 'torchvision', 'torchmetrics'}     # never imported by `import retigan.x` itself


def is_exported(cell) -> bool:
    return any(name in directives(cell.source) for name in ('export', 'exporti', 'exports'))


def output_text(cell) -> str:
    "Everything a code cell printed, errors and HTML included, pictures not."
    parts = []
    for out in cell.get('outputs', []):
        texts = [out.get('text', ''), out.get('evalue', ''), out.get('traceback', '')]
        texts += [text for kind, text in out.get('data', {}).items() if kind.startswith('text/')]
        parts += [''.join(text) for text in texts]
    return '\n'.join(parts)


# Rules for every notebook: nb, path -> problems

def format_and_ids(nb, path):
    problems = []
    if (nb.nbformat, nb.nbformat_minor) != (4, 5):
        problems.append(f'is nbformat {nb.nbformat}.{nb.nbformat_minor}, not 4.5')
    ids = [cell.get('id') for cell in nb.cells]
    if None in ids: problems.append('has a cell without an id')
    problems += [f'uses cell id {i!r} twice' for i in sorted({i for i in ids if i and ids.count(i) > 1})]
    if not problems:
        try: nbformat.validate(nb)
        except nbformat.ValidationError as error: problems.append(f'is not a valid notebook: {error.message[:200]}')
    return problems


def no_widgets(nb, path):
    problems = ['carries metadata.widgets; GitHub would not show it'] if 'widgets' in nb.metadata else []
    return problems + [f'cell {cell.id}: a widget is saved, of which a reader sees nothing' for cell in code_cells(nb)
                       if any(map(is_widget, cell.outputs))]


def size(nb, path):
    n = path.stat().st_size
    return [f'has {n:,} bytes, more than {MAX_BYTES:,}'] if n > MAX_BYTES else []


def clean_outputs(nb, path):
    problems = []
    for cell in code_cells(nb):
        text = output_text(cell)
        if any(out.output_type == 'error' for out in cell.outputs): problems.append(f'cell {cell.id}: an error is saved')
        if any(out.get('name') == 'stderr' for out in cell.outputs): problems.append(f'cell {cell.id}: stderr is saved: a warning, a log or a progress bar')
        if (found := MACHINE_PATH.search(text)): problems.append(f'cell {cell.id}: output shows a path of one machine, {found[0]!r}')
        if (found := TROUBLE.search(text)): problems.append(f'cell {cell.id}: output shows {found[0]!r}')
    return problems


def executed_in_order(nb, path):
    "Outputs come from one run, top to bottom, of the code as it stands."
    again = f'; run `python tools/run_notebook.py nbs/{path.name}`'
    counts = [cell.execution_count for cell in nb.cells if is_run(cell) and cell.source.strip()]
    if any(counts) and counts != list(range(1, len(counts) + 1)):
        return ['was not executed once from top to bottom' + again]
    if nb.metadata.get('executed') != fingerprint(nb):
        return ['has outputs that are not from the code it holds now' + again]
    if not any(cell.outputs for cell in code_cells(nb)): return ['shows no output' + again]
    return []


def alt_text(nb, path):
    return [f'cell {cell.id}: shows a picture and has no `#| fig-alt:`' for cell in code_cells(nb)
            if has_image(cell) and not directives(cell.source).get('fig-alt')]


def links(nb, path):
    "A link to a chapter that is not written yet is a dead end: name it without a link until it is."
    return [f'cell {cell.id}: links to {target}, which does not exist' for cell in nb.cells if cell.cell_type == 'markdown'
            for target in re.findall(r'\]\(([\w./-]+\.ipynb)[)#]', cell.source)
            if not (path.parent/target).is_file() and not (ROOT/'nbs'/target).is_file()]


# Rules for lessons

def first_cell(nb, path):
    name = path.stem[3:]
    code = code_cells(nb)
    wanted = f'#| default_exp {name}'
    if path.stem in EXPORTS_NOTHING: return []
    return [] if code and code[0].source.strip() == wanted else [f'must have {wanted!r} as its first code cell']


def opening(nb, path):
    first = next((cell.source for cell in nb.cells if cell.cell_type == 'markdown'), '')
    problems = []
    if not re.match(r'# \S', first): problems.append('must open with `# Title`')
    if not re.search(r'^> \S', first, re.M): problems.append('has no one-sentence summary (`> …`) under its title')
    if colab_badge(path, settings()) not in first: problems.append('has no Colab badge that opens this notebook under its title')
    return problems


def section_text(nb) -> dict[str, str]:
    "Level-2 sections: heading -> the markdown below it, in order."
    sections, name = {}, None
    for cell in nb.cells:
        if cell.cell_type != 'markdown': continue
        fenced = False
        for line in cell.source.splitlines():
            fenced ^= line.startswith('```')
            if line.startswith('## ') and not fenced: sections[name := line[3:].strip()] = ''
            elif name: sections[name] += line + '\n'
    return sections


def structure(nb, path):
    found = section_text(nb)
    problems = [f'has no section `## {name}`' for name in SECTIONS if name not in found]
    if problems: return problems
    if [name for name in found if name in SECTIONS] != SECTIONS: problems.append(f'must have its sections in this order: {", ".join(SECTIONS)}')
    goals = len(re.findall(r'^[-*] ', found['In this chapter you will'], re.M))
    if not 3 <= goals <= 6: problems.append(f'names {goals} goals, not 3 to 6')
    for name in ('Before you start', 'Where it fails', 'Summary', 'References'):
        if len(found[name].split()) < 5: problems.append(f'has an empty section `## {name}`')
    solutions = len(re.findall(r'<details>\s*<summary>Solution</summary>.*?</details>', found['Exercises'], re.S))
    if not 3 <= solutions <= 5: problems.append(f'has {solutions} exercises with a folded solution, not 3 to 5')
    if 'Next:' not in found['References'] and path.stem not in EXPORTS_NOTHING: problems.append('does not end with a `Next:` line')
    return problems


def exported_cells(nb, path):
    problems = []
    for cell in filter(is_exported, code_cells(nb)):
        source = without_directives(cell.source)
        n = len(source.splitlines())
        if n > MAX_EXPORTED_LINES: problems.append(f'cell {cell.id}: exports {n} lines, more than {MAX_EXPORTED_LINES}')
        problems += [f'cell {cell.id}: exports `from {node.module} import *`' for node in ast.walk(ast.parse(source))
                     if isinstance(node, ast.ImportFrom) and any(name.name == '*' for name in node.names)]
    return problems


EVERY_NOTEBOOK = [format_and_ids, no_widgets, size, clean_outputs, executed_in_order, alt_text, links]
LESSONS = [first_cell, opening, structure, exported_cells]


def notebook_problems(path: Path) -> list[str]:
    "All problems of one notebook, each with the rule's name in front."
    nb = read(path)
    rules = EVERY_NOTEBOOK + (LESSONS if re.match(r'\d\d_', path.name) else [])
    found = format_and_ids(nb, path)        # the other rules read a well-formed notebook
    if found: return [f'format_and_ids: {problem}' for problem in found]
    return [f'{rule.__name__}: {problem}' for rule in rules for problem in rule(nb, path)]


# Rules for modules: name, source -> problems

def imported_modules(tree: ast.AST, package: str):
    "Names of the package's own modules that `tree` imports, anywhere in it, functions included."
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): names = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = f'{package}.{node.module or ""}'.rstrip('.') if node.level else node.module
            names = [f'{base}.{name.name}' for name in node.names] if base == package else [base]
        else: continue
        for name in names:
            if name.startswith(package + '.') and not name.split('.')[1].startswith('_'): yield name.split('.')[1]


def eager_imports(tree: ast.Module):
    "Top packages that merely importing the module imports."
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import): yield from (name.name.split('.')[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level: yield node.module.split('.')[0]
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)): pending += ast.iter_child_nodes(node)


def module_problems(name: str, source: str, package: str = 'retigan') -> list[str]:
    "What is wrong with a module's imports, by the floors."
    tree = ast.parse(source)
    if name not in FLOORS: return [f'{name}: stands on no floor; add it to FLOORS in tools/gate.py and to CONTRIBUTING.md']
    problems = [f'{name} (floor {FLOORS[name]}) imports {other} (floor {FLOORS.get(other, "unknown")})'
                for other in imported_modules(tree, package) if FLOORS.get(other, 99) >= FLOORS[name]]
    return problems + [f'{name}: imports {heavy} when it is imported; import it inside the function that needs it'
                       for heavy in sorted(LAZY & set(eager_imports(tree)))]


def modules(root: Path = ROOT) -> list[Path]:
    return [path for path in sorted((root/'retigan').glob('*.py')) if not path.name.startswith('_')]


def main(names: list[str]) -> int:
    paths = [Path(name) for name in names] or notebooks()
    problems = [f'{path.name}: {problem}' for path in paths for problem in notebook_problems(path)]
    if not names: problems += [problem for path in modules() for problem in module_problems(path.stem, path.read_text(encoding='utf-8'))]
    print('\n'.join(problems) or f'{len(paths)} notebooks pass the gate')
    return bool(problems)


if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
