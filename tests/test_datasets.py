"""Dataset layouts, splits, broken folders and loaders: what the notebook does not show."""
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retigan import datasets
from retigan.datasets import (DatasetError, EpochSampler, EyePairs, FundusSample, SimulatedEyes, eye_loader, eye_transform,
                              find_layout, make_loaders, open_dataset)


# --- small eyes, and a writer for each layout with the names and formats of the original -------------------------

def eye(i, h=48, w=52):
    "A crude photograph (uint8 RGB), vessel mask and field of view (bool)."
    y, x = np.mgrid[:h, :w]
    fov = (x - w/2)**2 + (y - h/2)**2 < (0.46*min(h, w))**2
    vessels = (np.abs(x - w/2 + 4*np.sin(y/7 + i) - i) < 2) & fov
    rgb = np.stack([190 - 40*vessels, 100 - 50*vessels, 40 + 0*vessels], -1) * fov[..., None]
    return rgb.astype(np.uint8), vessels, fov


def save(path, array, kind, palette=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    pic = Image.fromarray(array)
    if palette:
        pic = pic.convert('P') if pic.mode != 'P' else pic
        pic.putpalette([v for c in palette for v in c] + [0]*(768 - 3*len(palette)))
    data = io.BytesIO()
    pic.save(data, kind)
    path.write_bytes(gzip.compress(data.getvalue()) if path.suffix == '.gz' else data.getvalue())


def grey(mask): return mask.astype(np.uint8) * 255


def index(mask):
    "A palette picture with colours 0 and 1."
    return mask.astype(np.uint8)


def write_drive(root):
    for half, numbers in (('training', range(21, 24)), ('test', range(1, 3))):
        for n in numbers:
            rgb, v, f = eye(n)
            save(root/half/'images'/f'{n:02}_{half}.tif', rgb, 'TIFF')
            save(root/half/'1st_manual'/f'{n:02}_manual1.gif', grey(v), 'GIF')
            save(root/half/'mask'/f'{n:02}_{half}_mask.gif', grey(f), 'GIF')
            if half == 'test':      # the second observer's files are palette pictures of (4, 2, 4) and (252, 254, 252)
                save(root/half/'2nd_manual'/f'{n:02}_manual2.gif', index(v), 'GIF', palette=((4, 2, 4), (252, 254, 252)))


def write_stare(root, suffix='.ppm.gz', folder='stare-images'):
    for n in (1, 2, 3, 4, 5, 44, 77, 81, 82, 139):
        rgb, v, _ = eye(n)
        save(root/folder/f'im{n:04}{suffix}', rgb, 'PPM')
        for who in ('ah', 'vk'): save(root/f'labels-{who}'/f'im{n:04}.{who}{suffix}', np.repeat(grey(v)[..., None], 3, 2), 'PPM')


def write_chase(root):
    for child in range(1, 8):
        for side in 'LR':
            rgb, v, _ = eye(child)
            save(root/f'Image_{child:02}{side}.jpg', rgb, 'JPEG')
            for observer in ('1stHO', '2ndHO'): save(root/f'Image_{child:02}{side}_{observer}.png', v, 'PNG')     # 1-bit png


def write_hrf(root):
    for n in range(1, 5):
        for kind in ('dr', 'g', 'h'):
            rgb, v, f = eye(n)
            save(root/'images'/f'{n:02}_{kind}.{"JPG" if kind == "dr" else "jpg"}', rgb, 'JPEG')
            save(root/'manual1'/f'{n:02}_{kind}.tif', grey(v), 'TIFF')
            save(root/'mask'/f'{n:02}_{kind}_mask.tif', np.repeat(grey(f)[..., None], 3, 2), 'TIFF')              # three channels


def write_fives(root):
    for part, count in (('train', 12), ('test', 4)):
        for n in range(1, count + 1):
            rgb, v, _ = eye(n)
            name = f'{n}_{"ADGN"[n % 4]}.png'
            save(root/part/'Original'/name, rgb, 'PNG')
            save(root/part/'Ground truth'/name, np.repeat(grey(v)[..., None], 3, 2), 'PNG')


def write_folder(root, n=10, fov=True):
    for i in range(n):
        rgb, v, f = eye(i)
        save(root/'images'/f'{i:05}.png', rgb, 'PNG')
        save(root/'masks'/f'{i:05}.png', grey(v), 'PNG')
        if fov: save(root/'fov'/f'{i:05}.png', grey(f), 'PNG')


WRITERS = dict(DRIVE=write_drive, STARE=write_stare, CHASE_DB1=write_chase, HRF=write_hrf, FIVES=write_fives, folder=write_folder)
COUNTS = dict(DRIVE=(3, 2), STARE=(7, 3), CHASE_DB1=(10, 4), HRF=(9, 3), FIVES=(12, 4), folder=(7, 3))


@pytest.fixture(params=WRITERS)
def layout(request, tmp_path):
    WRITERS[request.param](tmp_path/'set')
    return request.param, tmp_path/'set'


# --- layouts ------------------------------------------------------------------------------------------------------

def test_layout_is_recognised_and_read(layout):
    name, root = layout
    ds = open_dataset(root, verify=True)
    assert ds.name == name == find_layout(root)[0].name
    assert len(ds) == sum(COUNTS[name]) == len(set(ds.names))
    for s in ds:
        number = int(''.join(c for c in s.name.split('_')[0 if name == 'DRIVE' else 1 if name in ('FIVES', 'CHASE_DB1') else 0] if c.isdigit()))
        _, vessels, fov = eye(number)
        assert s.image.shape == (3, 48, 52) and s.image.dtype == torch.float32 and -1 <= s.image.min() <= s.image.max() <= 1
        assert torch.equal(s.vessels[0].bool(), torch.from_numpy(vessels)), s.name         # nothing lost in palette, gzip or channels
        if ds.files[0].fov: assert torch.equal(s.fov[0].bool(), torch.from_numpy(fov)), s.name
        else: assert 2*(s.fov[0].numpy()*fov).sum() / (s.fov.sum() + fov.sum()) > .95


def test_layout_splits(layout):
    name, root = layout
    train, test = (open_dataset(root, split=s).names for s in ('train', 'test'))
    assert (len(train), len(test)) == COUNTS[name]
    assert not set(train) & set(test) and sorted(train + test) == sorted(open_dataset(root).names)
    if name == 'CHASE_DB1': assert not {n[6:8] for n in train} & {n[6:8] for n in test}
    if name == 'HRF': assert sorted(n.split('_')[1] for n in test) == ['dr', 'g', 'h']


def test_layout_from_its_parent(layout):
    name, root = layout
    (root.parent/'notes.txt').write_text('x')
    assert open_dataset(root.parent).name == name


def test_seeded_split_is_pinned():
    "The split is part of every published number: it must never change by accident."
    children = [f'{n:02}' for n in range(1, 15)]
    assert sorted(datasets.test_groups(children)) == ['01', '04', '07', '10']


@pytest.mark.parametrize('suffix, folder', [('.ppm', 'stare-images'), ('.ppm', 'images'), ('.ppm.gz', '.')])
def test_stare_variants(tmp_path, suffix, folder):
    write_stare(tmp_path, suffix, folder)
    assert open_dataset(tmp_path).name == 'STARE' and len(open_dataset(tmp_path, annotator=2)) == 10


def test_second_observer_palette_is_cut_in_the_middle(tmp_path):
    write_drive(tmp_path)
    first, second = (open_dataset(tmp_path, split='test', annotator=n) for n in (1, 2))
    assert 'observer 2' in repr(second)
    for a, b in zip(first, second): assert torch.equal(a.vessels, b.vessels) and 0 < b.vessels.mean() < .5


@pytest.mark.parametrize('where', ['.', 'images'])
def test_photographs_without_masks(tmp_path, where):
    for i in range(3): save(tmp_path/where/f'p{i}.jpg', eye(i)[0], 'JPEG')
    ds = open_dataset(tmp_path)
    assert (ds.name, len(ds), ds.has_vessels, ds[0].vessels) == ('photographs', 3, False, None)
    with pytest.raises(DatasetError, match='segment it first'): EyePairs(ds)


def test_masks_are_never_dropped_in_silence(tmp_path):
    "A folder that holds pictures nobody can place is refused, not opened as photographs."
    write_drive(tmp_path)
    with pytest.raises(DatasetError, match='1st_manual, mask/ could be their masks|mask, 1st_manual/ could be'): open_dataset(tmp_path/'training')
    for i in range(2): save(tmp_path/'flat'/f'{i}.png', eye(i)[0], 'PNG'); save(tmp_path/'flat'/f'{i}_mask.png', grey(eye(i)[1]), 'PNG')
    with pytest.raises(DatasetError, match='0_mask.png looks like a mask'): open_dataset(tmp_path/'flat')


def test_folders_and_suffixes_in_any_case(tmp_path):
    for i in range(2): save(tmp_path/'Images'/f'{i}.PNG', eye(i)[0], 'PNG'); save(tmp_path/'MASKS'/f'{i}.Tif', grey(eye(i)[1]), 'TIFF')
    assert len(open_dataset(tmp_path)) == 2


def test_hidden_files_of_a_mac_are_left_out(tmp_path):
    write_folder(tmp_path, 2)
    (tmp_path/'images'/'._00000.png').write_bytes(b'junk'); (tmp_path/'.DS_Store').write_bytes(b'junk')
    assert len(open_dataset(tmp_path, verify=True)) == 2


def test_header_check_does_not_decode(tmp_path, monkeypatch):
    write_folder(tmp_path, 3)
    monkeypatch.setattr(datasets, 'read_image', lambda *a: pytest.fail('decoded a photograph at open'))
    assert len(open_dataset(tmp_path)) == 3


def test_exif_rotation_agrees_with_the_mask(tmp_path):
    write_folder(tmp_path, 2, fov=False)
    rgb, v, _ = eye(0)
    (tmp_path/'images'/'00000.png').unlink()
    exif = Image.Exif(); exif[0x0112] = 6
    Image.fromarray(np.rot90(rgb).copy()).save(tmp_path/'images'/'00000.jpg', exif=exif)
    assert open_dataset(tmp_path)[0].image.shape == (3, 48, 52)


# --- what is refused ----------------------------------------------------------------------------------------------

def remove(*names): return lambda root: [(root/n).unlink() for n in names]


BROKEN = {
    'photograph without mask': (remove('masks/00003.png'), 'images/00003.png: photograph without a mask', 1),
    'mask without photograph': (remove('images/00003.png'), 'masks/00003.png: mask without a photograph', 1),
    'fov missing':             (remove('fov/00003.png'), 'images/00003.png: photograph without a field-of-view file', 1),
    'size':                    (lambda r: save(r/'masks/00003.png', grey(eye(3, 48, 40)[1]), 'PNG'), 'masks/00003.png is 40x48', 1),
    'duplicate photograph':    (lambda r: save(r/'images/00003.jpg', eye(3)[0], 'JPEG'), 'duplicate name: 00003.jpg and 00003.png', 1),
    'duplicate mask':          (lambda r: save(r/'masks/00003.gif', grey(eye(3)[1]), 'GIF'), 'duplicate name: 00003.gif and 00003.png', 1),
    'empty file':              (lambda r: (r/'images/00003.png').write_bytes(b''), 'images/00003.png: is empty', 1),
    'not an image':            (lambda r: (r/'masks/00003.png').write_bytes(b'hello'), 'masks/00003.png: has no readable image header', 1),
    'cut photograph':          (lambda r: (r/'images/00003.png').write_bytes((r/'images/00003.png').read_bytes()[:-200]), 'images/00003.png', 1),
    'cut mask':                (lambda r: (r/'masks/00003.png').write_bytes((r/'masks/00003.png').read_bytes()[:-40]), 'masks/00003.png', 1),
    'photograph as mask':      (lambda r: save(r/'masks/00003.png', np.random.default_rng(0).integers(0, 255, (48, 52), np.uint8), 'PNG'), 'grey levels', 1),
    'three at once':           (remove('masks/00001.png', 'masks/00002.png', 'images/00005.png'), 'masks/00005.png: mask without', 3),
}


@pytest.mark.parametrize('case', BROKEN)
def test_broken_folder(tmp_path, case, capsys):
    breaks, says, lost = BROKEN[case]
    write_folder(tmp_path)
    breaks(tmp_path)
    with pytest.raises(DatasetError) as error: open_dataset(tmp_path, verify=True)
    assert says in str(error.value) and str(tmp_path) in str(error.value) and 'on_bad="skip"' in str(error.value)
    ds = open_dataset(tmp_path, on_bad='skip')
    assert len(list(ds)) == 10 - lost and ds.skipped
    assert says.split(':')[0] in repr(ds) and 'skipped' in capsys.readouterr().out


def test_skipping_moves_nobody_to_the_other_part(tmp_path, capsys):
    write_folder(tmp_path)
    parts = [(s, seed) for s in ('train', 'test') for seed in range(6)]
    before = {(s, seed): set(open_dataset(tmp_path, split=s, seed=seed).names) for s, seed in parts}
    remove('masks/00003.png', 'masks/00007.png', 'fov/00001.png')(tmp_path)
    for s, seed in parts: assert set(open_dataset(tmp_path, split=s, seed=seed, on_bad='skip').names) <= before[s, seed]


def test_corrupt_file_is_named_at_first_read(tmp_path):
    write_folder(tmp_path)
    f = tmp_path/'images/00003.png'
    f.write_bytes(f.read_bytes()[:-200])
    ds = open_dataset(tmp_path)          # headers are sound
    with pytest.raises(DatasetError, match='00003.png'): ds[3]
    with pytest.raises(DatasetError, match='00003.png'):
        for _ in eye_loader(EyePairs(ds, 32), 2, workers=1): pass


def test_damaged_gzip(tmp_path, capsys):
    write_stare(tmp_path)
    f = tmp_path/'stare-images/im0044.ppm.gz'
    f.write_bytes(f.read_bytes()[:-100])
    with pytest.raises(DatasetError, match='im0044.ppm.gz'): open_dataset(tmp_path, verify=True)
    assert len(open_dataset(tmp_path, on_bad='skip')) == 9


def test_foreign_name_is_reported(tmp_path):
    write_drive(tmp_path)
    save(tmp_path/'training/images/copy of 21_training.tif', eye(0)[0], 'TIFF')
    with pytest.raises(DatasetError, match='copy of 21_training.tif: name does not fit'): open_dataset(tmp_path)


def test_wrong_places(tmp_path):
    with pytest.raises(DatasetError, match='no such folder'): open_dataset(tmp_path/'nowhere')
    with pytest.raises(DatasetError, match='the folder is empty') as e: open_dataset(tmp_path)
    assert all(l.name in str(e.value) for l in datasets.LAYOUTS)
    (tmp_path/'notes.txt').write_text('x'); (tmp_path/'things').mkdir()
    with pytest.raises(DatasetError, match=r'things/ \(0 images\), 1 .txt files'): open_dataset(tmp_path)
    with pytest.raises(DatasetError, match='is a file'): open_dataset(tmp_path/'notes.txt')
    write_folder(tmp_path/'a', 2), write_hrf(tmp_path/'b')
    with pytest.raises(DatasetError, match=r'2 datasets \(a/ \(folder\), b/ \(HRF\)\)'): open_dataset(tmp_path)


def test_every_photograph_bad(tmp_path, capsys):
    write_folder(tmp_path, 2, fov=False)
    remove('masks/00000.png', 'masks/00001.png')(tmp_path)
    with pytest.raises(DatasetError, match='no sample of split "all" is left'): open_dataset(tmp_path, on_bad='skip')


def test_drive_as_the_challenge_hands_it_out(tmp_path):
    "The drawings of the test half are withheld there."
    write_drive(tmp_path)
    for f in ('1st_manual', '2nd_manual'): shutil.rmtree(tmp_path/'test'/f)
    assert len(open_dataset(tmp_path, split='train')) == 3
    with pytest.raises(DatasetError, match='no folder 1st_manual/'): open_dataset(tmp_path, split='test')
    assert open_dataset(tmp_path, split='test', annotator=None)[0].vessels is None


def test_drive_without_a_half(tmp_path):
    write_drive(tmp_path)
    shutil.rmtree(tmp_path/'test')
    assert len(open_dataset(tmp_path, split='train')) == 3
    with pytest.raises(DatasetError, match='no photographs for split "test"'): open_dataset(tmp_path, split='test')


def test_many_faults_are_counted(tmp_path):
    write_folder(tmp_path, 40, fov=False)
    for i in range(30): (tmp_path/f'masks/{i:05}.png').unlink()
    with pytest.raises(DatasetError, match='30 file.s.') as e: open_dataset(tmp_path)
    assert 'and 10 more' in str(e.value)


def test_grey_mask_warns(tmp_path):
    write_folder(tmp_path, 2)
    (tmp_path/'masks/00001.png').unlink()
    Image.fromarray(grey(eye(1)[1])).save(tmp_path/'masks/00001.jpg', quality=90)
    with pytest.warns(UserWarning, match='00001.jpg: .* grey levels'): s = open_dataset(tmp_path)[1]
    assert torch.equal(s.vessels[0].bool(), torch.from_numpy(eye(1)[1]))


# --- the real set -------------------------------------------------------------------------------------------------

def test_real_drive(drive):
    train, test = (open_dataset(drive, split=s) for s in ('train', 'test'))
    assert (len(train), len(test)) == (20, 20) and {f.size for f in train.files + test.files} == {(584, 565)}
    shares = [float((s.vessels*s.fov).sum() / s.fov.sum()) for ds in (train, test) for s in ds]
    assert abs(np.mean(shares) - .126) < .002
    second = open_dataset(drive, split='test', annotator=2)
    dice = [float(2*(a.vessels*b.vessels).sum() / (a.vessels.sum() + b.vessels.sum())) for a, b in zip(test, second)]
    assert .77 < np.mean(dice) < .81


# --- pairs and loaders --------------------------------------------------------------------------------------------

@pytest.fixture
def ds(tmp_path):
    write_folder(tmp_path, 7)
    return open_dataset(tmp_path)


def digest(loader, epochs=(0, 1)):
    h = hashlib.sha256()
    for e in epochs:
        loader.sampler.set_epoch(e)
        for b in loader:
            for k in ('image', 'vessels', 'fov'): h.update(b[k].numpy().tobytes())
            h.update(' '.join(b['name']).encode())
    return h.hexdigest()


def test_same_bytes_for_any_number_of_workers(ds):
    assert len({digest(eye_loader(EyePairs(ds, 32), 2, workers=w)) for w in (0, 1, 2)}) == 1


def test_same_bytes_in_another_process(ds):
    code = ('import sys; sys.path.insert(0, sys.argv[2]); from test_datasets import *; torch.manual_seed(99); '
            'print(digest(eye_loader(EyePairs(open_dataset(sys.argv[1]), 32), 2)))')
    out = subprocess.run([sys.executable, '-c', code, ds.files[0].image.parents[1], Path(__file__).parent],
                         capture_output=True, text=True, timeout=120, env={**os.environ, 'PYTHONHASHSEED': '5'})
    assert out.returncode == 0, out.stderr
    assert out.stdout.split()[-1] == digest(eye_loader(EyePairs(ds, 32), 2))


@pytest.mark.parametrize('workers', [0, 2])
def test_resume_in_the_middle_of_an_epoch(ds, workers):
    loader = eye_loader(EyePairs(ds, 32), 2, workers=workers)
    loader.sampler.set_epoch(3)
    whole = list(loader)
    loader = eye_loader(EyePairs(ds, 32), 2, workers=workers)        # as a new process would
    loader.sampler.set_epoch(3, skip=2*2)
    assert len(loader) == 2
    for a, b in zip(list(loader), whole[2:], strict=True):
        assert a['name'] == b['name'] and torch.equal(a['image'], b['image'])


def test_global_generators_are_left_alone(ds):
    loader = eye_loader(EyePairs(ds, 32), 2)
    torch_before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    list(loader)
    assert torch.equal(torch_before, torch.random.get_rng_state()) and (np.random.get_state()[1] == numpy_before).all()


def test_epochs_differ_and_cover(ds):
    sampler = EpochSampler(7)
    orders = []
    for e in range(3): sampler.set_epoch(e); orders.append([i for _, i in sampler])
    assert all(sorted(o) == list(range(7)) for o in orders) and len({tuple(o) for o in orders}) == 3


def test_every_epoch_and_seed_augments_anew(ds):
    seen = {EyePairs(ds, 32, seed=seed)[epoch, 2]['image'].numpy().tobytes() for seed in range(2) for epoch in range(3)}
    assert len(seen) == 6


def test_masks_follow_the_photograph(ds):
    "Vessels are painted 50 levels darker: the darkened pixels and the mask must be the same pixels after augmentation."
    pairs = EyePairs(ds, 48, augment=eye_transform(48, colour=0), cache_mb=64)
    for e in range(5):
        for i in range(len(ds)):
            s = pairs[e, i]
            dark = ((s['image'][1] + 1)*127.5 < 75) & (s['fov'][0] > 0)
            inner = torch.nn.functional.max_pool2d(1 - s['fov'], 5, 1, 2)[0] == 0       # the rim of the disc is blurred
            d, v = dark & inner, s['vessels'][0].bool() & inner
            assert 2*(d & v).sum() / (d.sum() + v.sum()) > .85
            assert set(s['vessels'].unique().tolist()) <= {0., 1.} and (s['image'][:, s['fov'][0] == 0] == -1).all()


def test_colour_touches_the_image_only(ds):
    still = dict(flip=0, rotate=0, zoom=1)
    a = EyePairs(ds, 32, augment=eye_transform(32, **still, colour=0), zoom=1)[0, 0]
    b = EyePairs(ds, 32, augment=eye_transform(32, **still, colour=.3), zoom=1)[0, 0]
    assert torch.equal(a['vessels'], b['vessels']) and torch.equal(a['fov'], b['fov']) and not torch.equal(a['image'], b['image'])


def test_cache_is_shared_between_forked_workers_and_within_budget(ds, monkeypatch):
    if torch.multiprocessing.get_start_method() != 'fork': pytest.skip('workers are not forked here')
    pairs = EyePairs(ds, 32)
    list(eye_loader(pairs, 1, workers=2))
    assert int(pairs.cache.full.sum()) == len(ds)                    # the parent sees what its children decoded
    monkeypatch.setattr(datasets, '_load', lambda *a: pytest.fail('decoded again'))
    list(eye_loader(pairs, 1))


def test_small_budget_changes_speed_only(ds):
    with pytest.warns(UserWarning, match='holds 2 of 7 samples'): small = EyePairs(ds, 32, cache_mb=0.017)
    large = EyePairs(ds, 32)
    assert small.cache.slots*small.cache.each <= 0.017*2**20
    assert all(torch.equal(small[2, i]['image'], large[2, i]['image']) for i in range(7))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        none = EyePairs(ds, 32, cache_mb=0)
    assert torch.equal(none[0]['image'], large[0]['image'])


def test_spawned_workers(ds):
    pairs = EyePairs(ds, 32)
    loader = torch.utils.data.DataLoader(pairs, 2, sampler=EpochSampler(7), num_workers=1, multiprocessing_context='spawn')
    assert torch.equal(next(iter(loader))['image'], next(iter(eye_loader(pairs, 2)))['image'])


def test_simulated_eyes_as_pairs():
    sim = SimulatedEyes(3, 64, seed=7)
    assert [s.name for s in sim] == ['00007', '00008', '00009'] == sim.names and sim[-1].name == '00009'
    assert torch.equal(SimulatedEyes(1, 64, seed=8)[0].image, sim[1].image)
    b = next(iter(eye_loader(EyePairs(sim, 32), 3)))
    assert b['image'].shape == (3, 3, 32, 32) and b['vessels'].shape == (3, 1, 32, 32)


def test_what_retigan_simulate_writes_opens(tmp_path):
    from retigan.simulate import write_eyes
    ds, sim = open_dataset(write_eyes(tmp_path/'eyes', 2, size=64, seed=5), verify=True), SimulatedEyes(2, 64, seed=5)
    assert ds.name == 'folder' and len(ds) == 2
    for a, b in zip(ds, sim):
        assert torch.equal(a.vessels, b.vessels) and torch.equal(a.fov, b.fov) and (a.image - b.image).abs().max() < 1e-6


def test_make_loaders(tmp_path):
    write_chase(tmp_path)
    train, test = make_loaders(tmp_path, size=32, batch_size=4, annotator=2)
    assert len(train.dataset) + len(test.dataset) == 14 and train.dataset.transform and not test.dataset.transform
    assert [n for b in test for n in b['name']] == test.dataset.samples.names


def test_list_of_samples(ds):
    samples = [FundusSample(s.image, s.vessels, s.fov, s.name, s.dataset) for s in ds]
    assert torch.equal(EyePairs(samples, 32)[1, 2]['image'], EyePairs(ds, 32)[1, 2]['image'])
