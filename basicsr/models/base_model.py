"""Base of all stages: networks, optimisers, averages, precision, one optimisation step, saving and resuming.

A stage (a subclass) says which terms its loss sums; everything else is here once.
"""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.archs import CodeFormerPlusPlus, VQAutoEncoder, build_network
from basicsr.models.checkpoints import check_optimizer, network_file, read_saved, state_file, taking_up
from basicsr.models.schedule import learning_rate
from basicsr.utils.checkpoint import CheckpointError, load_state, load_state_dict_file, save_atomic, unwrap
from basicsr.utils.dist import average_gradients, broadcast_module, get_rank
from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.numerics import computes_bf16
from basicsr.utils.options import OptionError
from basicsr.utils.registry import nearest

PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
SMALLEST_SCALE = 2.0**-10
"""Of fp16 gradients: below, they are not too large but wrong."""
Batch = Mapping[str, Any]
Terms = dict[str, Tensor]

logger = logging.getLogger('basicsr')


class NonFiniteLossError(IDCodeFormerError, RuntimeError):
    """A loss became infinite or not a number; the message names iteration, terms and files."""


def _not_finite(what: str, iteration: int, values: Mapping[str, float], batches: Sequence[Batch]) -> NonFiniteLossError:
    files = ', '.join(str(path) for batch in batches for path in batch.get('gt_path', ['unknown']))
    return NonFiniteLossError(
        f'{what} is not finite at iteration {iteration}: {dict(values)}; files of the batch: {files}. '
        f'The last checkpoint is kept; a lower learning rate, fp32, or train:grad_clip may help'
    )


class BaseModel(ABC):
    """One stage of training.

    Args:
        opt: the checked options of a run; read, never changed.
        device: where to compute.
        is_train: with everything training needs; without, the network alone, for `infer`.
    """

    def __init__(self, opt: Mapping[str, Any], device: torch.device | str = 'cpu', is_train: bool = True) -> None:
        self.is_train = is_train
        self.opt = opt
        self.device = torch.device(device)
        self.train_opt = opt.get('train') or {}
        precision = self.train_opt.get('precision', 'fp32')
        if precision not in PRECISIONS:
            raise OptionError(f"train:precision: unknown '{precision}'{nearest(precision, PRECISIONS)}")
        if precision == 'bf16' and not computes_bf16(self.device):
            logger.warning('train:precision: this processor has no bf16, so the training computes in fp32')
            precision = 'fp32'
        self.amp_dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == 'fp16')
        self.seed = int(opt.get('manual_seed') or 0)
        torch.manual_seed(self.seed)  # of the networks' first weights
        self.networks: dict[str, nn.Module] = {}
        self.averages: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.log: dict[str, float] = {}

    LOSS_SECTIONS: ClassVar[frozenset[str]] = frozenset()
    """The sections and switches of `train` that ask for a loss and that the stage reads; any other is an error."""

    # What a stage defines.

    @abstractmethod
    def generator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Return the terms of the loss, by name and weighted."""

    def after_backward(self) -> None:
        """Update what follows the generator's backward pass, before the discriminator's turn."""

    def discriminator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Return the terms of the discriminator's loss, empty when it is not trained in this iteration."""
        return {}

    @abstractmethod
    def infer(self, batch: Batch) -> Tensor:
        """Return the picture (N,3,H,W) in [-1, 1] that validation judges."""

    def before_iteration(self, iteration: int) -> None:
        """Prepare an iteration, before its losses."""

    def extra_state(self) -> dict[str, Any]:
        """Return what else a resumed run needs (tensors and plain values)."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `extra_state` gave."""

    # Building.

    def add_network(self, name: str, opt: Mapping[str, Any], ema_decay: float = 0) -> nn.Module:
        """Build a trained network, start it from `path:pretrain_network_<g|d>`, and keep an average of it if asked."""
        try:
            network = build_network(opt)
        except (TypeError, ArithmeticError, RuntimeError, MemoryError) as error:
            raise OptionError(f'network_{name[-1]}: no network can be built ({str(error).splitlines()[0]})') from error
        paths = self.opt.get('path') or {}
        which = name[-1]
        pretrained = paths.get(f'pretrain_network_{which}')
        if pretrained:
            state = load_state_dict_file(pretrained, paths.get(f'param_key_{which}'))
            load_state(network, state, strict=paths.get(f'strict_load_{which}', True), source=pretrained)
            logger.info('%s: goes on from %s', name, pretrained)
        network = network.to(self.device).train()
        self.networks[name] = network
        if not self.is_train:
            return network.eval()
        broadcast_module(network)
        if isinstance(network, (VQAutoEncoder, CodeFormerPlusPlus)):
            self._check_size(network)
        if isinstance(network, VQAutoEncoder) and self.train_opt.get('grad_checkpointing'):
            network.set_grad_checkpointing()
        if ema_decay > 0:
            self.averages[name] = copy.deepcopy(network).eval().requires_grad_(False)
        size = sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6
        logger.info('%s: %s, %.2f M trained parameters', name, type(network).__name__, size)
        return network

    def _check_size(self, network: VQAutoEncoder | CodeFormerPlusPlus) -> None:
        """Raise OptionError where the training faces are of another size than the network's."""
        faces = (self.opt.get('datasets') or {}).get('train') or {}
        for key, side in (('gt_size', network.out_size), ('in_size', network.img_size)):
            if faces.get(key) not in (None, side):
                raise OptionError(f'datasets:train:{key} is {faces[key]}, and network_g needs {side}; make them equal')

    def add_optimizer(self, name: str, network: nn.Module) -> None:
        """Build the optimiser `train:<name>` for the parameters of `network` that are trained.

        The learning rate of those called `id_*` (see `IDCodeFormer`) is `train:id_lr_scale` times that of the others.
        """
        section = self.train_opt.get(name)
        if not section:
            raise OptionError(f'train:{name} is missing; give type and lr')
        kwargs = {key: value for key, value in section.items() if key != 'type'}
        kind = getattr(torch.optim, section['type'], None)
        if kind is None:
            raise OptionError(f"train:{name}: no optimiser '{section['type']}'{nearest(section['type'], ['Adam'])}")
        trained = [(key, p) for key, p in network.named_parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{'params': [p for key, p in trained if not key.startswith('id_')]}]
        if told := [p for key, p in trained if key.startswith('id_')]:  # new beside a network that is trained already
            groups.append({'params': told, 'lr_scale': self.train_opt.get('id_lr_scale', 1)})
        self.optimizers[name] = kind(groups, **kwargs)

    def autocast(self) -> torch.autocast:
        """Return the run's precision, for networks and teachers; losses on their results are computed in float32."""
        return torch.autocast(self.device.type, self.amp_dtype, enabled=self.amp_dtype is not None)

    def get_bare_model(self, name: str = 'net_g') -> nn.Module:
        """Return the network that results are made with: the average if there is one."""
        return self.averages.get(name, self.networks[name])

    def to_device(self, batch: Batch) -> dict[str, Any]:
        """Return the batch with its tensors on the device."""
        return {
            key: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for key, value in batch.items()
        }

    # One iteration.

    def optimize_parameters(self, batches: Sequence[Batch], iteration: int) -> None:
        """One iteration: gradients of every batch (accumulated), averaged over processes, clipped, applied.

        Its random draws follow from seed, rank and iteration, so a resumed run draws what an uninterrupted one does.

        Raises:
            NonFiniteLossError: before anything is changed by it.
        """
        # Hashed, as the CPU's generator takes the low 32 bits of a seed.
        torch.manual_seed(int(np.random.SeedSequence([self.seed, get_rank(), iteration]).generate_state(1)[0]))
        self.before_iteration(iteration)
        for name, optimizer in self.optimizers.items():
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group['lr'] = self.learning_rate(name, iteration) * group.get('lr_scale', 1)
        self.log = {}
        for batch in map(self.to_device, batches):
            discriminator = self.networks.get('net_d')
            if discriminator is not None:
                discriminator.requires_grad_(False)
            self._backward(self.generator_losses(batch, iteration), batch, iteration, len(batches))
            self.after_backward()
            if discriminator is not None:
                discriminator.requires_grad_(True)
                self._backward(self.discriminator_losses(batch, iteration), batch, iteration, len(batches))
        due = [name for name in self.optimizers if name != 'optim_g' or self._generator_is_due(iteration)]
        stepped = [self._step(name, batches, iteration) for name in due]
        if any(stepped):
            self.scaler.update()
        if self.scaler.get_scale() < SMALLEST_SCALE:
            raise _not_finite('the fp16 gradient, however small its scale,', iteration, self.log, batches)
        self._update_averages()

    def learning_rate(self, name: str, iteration: int) -> float:
        """Return the learning rate of an optimiser at an iteration."""
        opt = self.train_opt
        return learning_rate(iteration, opt[name]['lr'], opt.get('scheduler'), int(opt.get('warmup_iter') or -1))

    def _backward(self, terms: Terms, batch: Batch, iteration: int, parts: int) -> None:
        if not terms:
            return
        total = torch.stack([term.float() for term in terms.values()]).sum()
        values = {name: term.item() for name, term in terms.items()}
        if not torch.isfinite(total):
            raise _not_finite('the loss', iteration, values, [batch])
        self.scaler.scale(total / parts).backward()
        for name, value in values.items():
            self.log[name] = self.log.get(name, 0) + value / parts

    def _generator_is_due(self, iteration: int) -> bool:
        """After `net_g_start_iter`, every `net_d_iters` iterations."""
        every = int(self.train_opt.get('net_d_iters') or 1)
        return iteration > int(self.train_opt.get('net_g_start_iter') or 0) and iteration % every == 0

    def _step(self, name: str, batches: Sequence[Batch], iteration: int) -> bool:
        """Apply an optimiser's gradients; False if there are none."""
        optimizer = self.optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group['params'] if p.grad is not None]
        if not parameters:
            return False
        average_gradients(parameters)
        self.scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not norm.isfinite() and not self.scaler.is_enabled():  # the scaler leaves such a step out by itself
            raise _not_finite(f'the gradient ({name})', iteration, self.log, batches)
        clip = self.train_opt.get('grad_clip')
        if clip:
            nn.utils.clip_grads_with_norm_(parameters, clip, norm)
        self.log[f'grad_norm_{name[-1]}'] = norm.item()
        self.scaler.step(optimizer)
        return True

    @torch.no_grad()
    def _update_averages(self) -> None:
        decay = self.train_opt.get('ema_decay') or 0
        for name, average in self.averages.items():
            network = self.networks[name]
            for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                if value.requires_grad:
                    mean.lerp_(value, 1 - decay)
            for mean, value in zip(average.buffers(), network.buffers(), strict=True):
                mean.copy_(value)

    # Files.

    @property
    def codebook_size(self) -> int:
        """Number of codes of the network."""
        return cast(VQAutoEncoder, self.networks['net_g']).codebook_size

    def save_network(self, name: str, path: Path) -> None:
        """Write the weights of a network, and their average, to `path`.

        Raises:
            NonFiniteLossError: one of them is infinite or not a number; nothing is written.
        """
        content: dict[str, Any] = {
            'params': self.networks[name].state_dict(),
            'network': getattr(self.networks[name], 'options', None) or dict(self.opt[f'network_{name[-1]}']),
        }
        if name in self.averages:
            content['params_ema'] = self.averages[name].state_dict()
        for group in ('params', 'params_ema'):
            for key, value in content.get(group, {}).items():
                if not value.isfinite().all():
                    raise NonFiniteLossError(
                        f'{path}: not written, since {group}/{key} is not finite. The last checkpoint is kept; a lower '
                        f'learning rate, fp32, or train:grad_clip may help'
                    )
        save_atomic(content, path)

    def save(self, iteration: int, folder: Path, label: str | None = None) -> None:
        """Write `models/<network>_<label>.pth`; with a state to resume from unless it is a labelled copy.

        The state is written last, and one that is there already removed first: where it is, the networks it belongs
        to are whole.

        Raises:
            NonFiniteLossError: weights that are not worth keeping.
            OSError: a file cannot be written.
        """
        if label is None:
            state_file(folder, iteration).unlink(missing_ok=True)
        for name in self.networks:
            self.save_network(name, network_file(folder, name, label or iteration))
        if label is None:
            state = {
                'iter': iteration,
                'optimizers': {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
                'scaler': self.scaler.state_dict(),
                'extra': self.extra_state(),
            }
            save_atomic(state, state_file(folder, iteration))

    def resume_training(self, path: str | Path) -> int:
        """Take up a run at a `training_states/<iter>.state`, with the networks beside it; returns its iteration.

        Raises:
            DamagedError: a file is missing, damaged, or holds something else than a run saves.
            CheckpointError: it belongs to other options.
        """
        state, contents = read_saved(Path(path), self.networks)
        optimizers = state['optimizers']
        if set(optimizers) != set(self.optimizers):
            raise CheckpointError(f'{path}: not a training state of this model (optimisers differ)')
        for name, network in self.networks.items():
            file = network_file(Path(path).parent.parent, name, state['iter'])
            load_state(network, unwrap(contents[name], 'params', str(file)), source=file)
            if name in self.averages:
                load_state(self.averages[name], unwrap(contents[name], 'params_ema', str(file)), source=file)
        with taking_up(Path(path)):
            for name in self.optimizers:
                self._resume_optimizer(name, optimizers[name], Path(path))
            if state['scaler'] and self.scaler.is_enabled():
                self.scaler.load_state_dict(state['scaler'])
            self.load_extra_state(state['extra'])
        return state['iter']

    def _resume_optimizer(self, name: str, state: dict[str, Any], path: Path) -> None:
        """Take up what an optimiser remembers; its options are those of this run.

        Raises:
            CheckpointError: it is of another optimiser, or of other parameters.
        """
        optimizer = self.optimizers[name]
        options = [{key: value for key, value in group.items() if key != 'params'} for group in optimizer.param_groups]
        missing = set(self.train_opt[name]) - {'type', *state['param_groups'][0]}
        try:
            if missing:
                raise ValueError(f'it has no {", ".join(sorted(missing))}')
            optimizer.load_state_dict(state)
        except ValueError as error:
            raise CheckpointError(
                f'{path}: the state of {name} is of another optimiser or of other parameters ({error}); give the '
                f'train:{name}:type and network_g:fix_modules that it was saved with, or begin a new run'
            ) from error
        for group, own in zip(optimizer.param_groups, options, strict=True):
            group.update(own)
        check_optimizer(optimizer)


class Prediction(NamedTuple):
    """Output of a network for degraded faces.

    Attributes:
        lq_feat: encoder features (N,emb_dim,s,s).
        seen: encoder features for the fusion, by side; empty without fusion.
        logits: code logits (N,positions,K).
    """

    lq_feat: Tensor
    seen: Mapping[int, Tensor]
    logits: Tensor

    def fused(self, faces: int | None = None, detach: bool = True) -> dict[int, Tensor]:
        """Return the fused features of the first faces (all by default); detached, as published, or not."""
        return {side: (feat.detach() if detach else feat)[:faces] for side, feat in self.seen.items()}
