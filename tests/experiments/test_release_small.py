"""The files under weights/small: the mean of checkpoints, in float16, with the network's options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_faces import save_tiny_model

from basicsr.archs.factory import load_network, tasks_of
from basicsr.utils.checkpoint import CheckpointError, read_checkpoint, read_metadata, save_atomic
from experiments.small_model.release import main


def checkpoint(path: Path, kind: str = 'CodeFormer', **weights: torch.Tensor) -> str:
    save_atomic({'params_ema': weights, 'network': {'type': kind, 'vqgan_path': 'here.pth'}}, path)
    return str(path)


def test_the_mean_is_written_and_ia_cft_as_it_is(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / 'first.pth', shared=torch.tensor([1.0, 2.0]))
    second = checkpoint(tmp_path / 'second.pth', shared=torch.tensor([3.0, 0.0]))
    styled = checkpoint(
        tmp_path / 'styled.pth', 'IDCodeFormer', shared=torch.tensor([9.0, 9.0]), own=torch.tensor([5.0])
    )
    vqgan = checkpoint(tmp_path / 'vqgan.pth', codes=torch.ones(1))
    common = ['--codeformer', first, second, '--vqgan', vqgan, '--output', str(tmp_path / 'out')]
    file = tmp_path / 'out' / 'codeformer_128.safetensors'
    assert main(common) == 0
    assert {name: value.tolist() for name, value in read_checkpoint(file).items()} == {'shared': [2.0, 1.0]}
    assert json.loads(read_metadata(file)['network']) == {'type': 'CodeFormer'}
    assert main([*common, '--ia_cft', styled]) == 0
    state = read_checkpoint(file)
    assert {name: value.tolist() for name, value in state.items()} == {'shared': [2.0, 1.0], 'own': [5.0]}
    assert state['own'].dtype == torch.float16
    assert json.loads(read_metadata(file)['network']) == {'type': 'IDCodeFormer'}
    styled_file = file.rename(tmp_path / 'styled.safetensors')  # a released file serves too
    assert main([*common, '--ia_cft', str(styled_file)]) == 0
    assert read_checkpoint(file)['own'].tolist() == [5.0]


@pytest.mark.parametrize('weights', [{'other': torch.ones(2)}, {'shared': torch.ones(3)}])
def test_weights_of_another_network_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: dict[str, torch.Tensor]
) -> None:
    first = checkpoint(tmp_path / 'first.pth', shared=torch.ones(2))
    second = checkpoint(tmp_path / 'second.pth', **weights)
    assert main(['--codeformer', first, second, '--vqgan', first, '--output', str(tmp_path / 'out')]) == 1
    assert f'{second}: ' in capsys.readouterr().err and not (tmp_path / 'out').exists()
    assert main(['--codeformer', first, '--ia_cft', second, '--vqgan', first, '--output', str(tmp_path / 'out')]) == 1
    assert f'{second}: ' in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_weights_alone_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / 'bare.pth'
    save_atomic({'params_ema': {'shared': torch.ones(2)}}, bare)
    assert main(['--codeformer', str(bare), '--vqgan', str(bare), '--output', str(tmp_path / 'out')]) == 1
    assert f"{bare}: no entry 'network'" in capsys.readouterr().err


@pytest.fixture
def part(tmp_path: Path) -> Path:
    """A released network and, beside it, the part of it that another training changed."""
    whole = torch.load(save_tiny_model(tmp_path / 'whole.pth'), weights_only=True)['params_ema']
    output = tmp_path / 'out'
    first = checkpoint(tmp_path / 'first.pth', **whole)
    assert main(['--codeformer', first, '--output', str(output)]) == 0
    changed = {name: value + 1 if name.startswith('encoder.') else value for name, value in whole.items()}
    assert main(['--tasks', checkpoint(tmp_path / 'tasks.pth', **changed), '--output', str(output)]) == 0
    return output / 'tasks_128.safetensors'


def test_a_part_of_a_network_is_completed_by_the_file_beside_it(part: Path) -> None:
    assert {name.split('.')[0] for name in read_checkpoint(part)} == {'encoder'}
    assert tasks_of(part) == ['colorize', 'inpaint'] and not tasks_of(part.with_name('codeformer_128.safetensors'))
    base = load_network(part.with_name('codeformer_128.safetensors')).state_dict()
    for name, value in load_network(part).state_dict().items():
        moved = 1 if name.startswith('encoder.') else 0
        assert torch.allclose(value, base[name] + moved, atol=2e-3), name


def test_the_mean_of_a_part_and_a_checkpoint_is_a_part(part: Path, tmp_path: Path) -> None:
    before, base = load_network(part).state_dict(), part.with_name('codeformer_128.safetensors')
    assert main(['--tasks', str(part), str(tmp_path / 'first.pth'), '--output', str(base.parent)]) == 0
    assert {name.split('.')[0] for name in read_checkpoint(part)} == {'encoder'}
    for name, value in load_network(part).state_dict().items():
        moved = 0.5 if name.startswith('encoder.') else 0
        assert torch.allclose(value, before[name] - moved, atol=2e-3), name


def test_a_part_without_its_network_is_refused_by_name(part: Path) -> None:
    base = part.with_name('codeformer_128.safetensors')
    content = base.read_bytes()
    base.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f'{part}: a part of the network in {base.name}, which must lie beside'):
        load_network(part)
    base.unlink()
    with pytest.raises(CheckpointError, match=f'{part}: a part of the network in {base.name}'):
        load_network(part)


def test_nothing_to_release_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match='2'):
        main([])
    assert 'give --codeformer, --vqgan or --tasks' in capsys.readouterr().err
