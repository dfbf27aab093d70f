"""Option table: name, type, range, default and meaning of every key of an option file, each stated once.

Arguments of networks, losses, metrics and optimisers are not here: they are read off their constructors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from basicsr.models.alignment_term import AlignmentTerm
from basicsr.models.identity_source import IdentitySource
from basicsr.models.style_gradient_loss import StyleGradientLoss

NUMBER = (int, float)


@dataclass(frozen=True)
class Option:
    """Key of an option file.

    Attributes:
        kind: type or tuple of types, or a mapping of types for a section of keys.
        meaning: for the reference page.
        default: value where the key is absent or null; None where that means "off", or where the key is required.
        least: smallest value.
        above: bound that a value exceeds.
        below: bound that a value stays under.
    """

    kind: Any
    meaning: str
    default: Any = None
    least: float | None = None
    above: float | None = None
    below: float | None = None

    @property
    def limits(self) -> str:
        """Range in words; '' for any value."""
        if self.least is not None:
            return f'{self.least} or more' if self.below is None else f'from {self.least} to below {self.below}'
        return '' if self.above is None else f'above {self.above}'

    def allows(self, value: float) -> bool:
        """Return True if a number is within the range."""
        return (
            (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


Table = Mapping[str, Option]

TOP: Table = {
    'name': Option(str, 'name of the run; its folder is `experiments/<name>`'),
    'model_type': Option(str, 'stage: a registered model'),
    'num_gpu': Option((int, str), 'GPUs; 0 computes on the CPU', 'auto'),
    'manual_seed': Option(int, 'seed of weights, order and draws', 0, least=0),
    'datasets': Option(dict, 'sections `train`, `val`, `val_*`, `test_*`'),
    'network_g': Option(dict, 'trained network: `type` and its arguments'),
    'network_d': Option(dict, 'discriminator'),
    'network_vqgan': Option(dict, 'stage I network that gives target codes, with `model_path`'),
    'network_diffusion': Option(
        {'root': str, 'adapter': str, 'image_encoder': str, 'shortcut': bool, 'recognizer': str},
        'RIDFR: frozen diffusion model (a folder), its identity adapter, image encoder and shortcut of a Plus adapter, '
        'and the recognizer of the adapter',
    ),
    'path': Option(dict, 'weights to start from'),
    'train': Option(dict, 'losses, optimisers and schedule'),
    'val': Option(dict, 'validation'),
    'logger': Option(dict, 'logs and checkpoints'),
    'dist_params': Option(dict, 'several processes'),
    'find_unused_parameters': Option(
        bool, 'accepted, without effect: gradients are averaged without wrapping networks'
    ),
    'scale': Option(NUMBER, 'accepted, without effect'),
}

PATH: Table = {
    'pretrain_network_g': Option(str, 'checkpoint that `network_g` starts from'),
    'param_key_g': Option(str, 'its entry, such as `params_ema`', 'the averaged weights if there are any'),
    'strict_load_g': Option(bool, 'an error for missing or unexpected keys', True),
    'pretrain_network_d': Option(str, 'checkpoint that `network_d` starts from'),
    'param_key_d': Option(str, 'its entry'),
    'strict_load_d': Option(bool, 'an error for missing or unexpected keys', True),
    'resume_state': Option(str, 'training state to go on from; `--auto_resume` finds the newest'),
}

TRAIN: Table = {
    'total_iter': Option(int, 'iterations', least=1),
    'optim_g': Option(dict, 'optimiser of `network_g`: `type` of torch.optim and its arguments'),
    'optim_d': Option(dict, 'optimiser of `network_d`'),
    'scheduler': Option(dict, '`MultiStepLR`, `MultiStepRestartLR` or `CosineAnnealingRestartLR`', 'constant'),
    'warmup_iter': Option(int, 'iterations in which the learning rate rises from 0', 0),
    'id_lr_scale': Option(float, 'factor of the learning rate of parameters `id_*`', 1, above=0),
    'ema_decay': Option(float, 'of the averaged weights; 0: none', 0, least=0, below=1),
    'precision': Option(
        str, '`fp32`, `bf16` or `fp16` (autocast); a processor without bf16 computes in `fp32`', 'fp32'
    ),
    'accumulate': Option(int, 'batches an iteration', 1, least=1),
    'grad_clip': Option(float, 'largest norm of the gradient; 0: off', 0, least=0),
    'grad_checkpointing': Option(bool, 'recompute activations: less memory, more time', False),
    'crop': Option(int, 'side in pixels of a random window for pixel, perceptual and adversarial losses', 0, least=0),
    'pixel_opt': Option(dict, 'pixel loss: `type` and its arguments'),
    'perceptual_opt': Option(dict, 'perceptual loss'),
    'gan_opt': Option(dict, 'adversarial loss; needs `network_d`'),
    'codebook_opt': Option({'loss_weight': float}, 'stage I: weight of the codebook loss', 1),
    'identity_opt': Option(
        dict,
        'identity loss: arguments of `IdentityLoss`; from stage II on also `tau`, `start_iter`, `sub_batch`, `grad_to` '
        '(`encoder`, `transformer`, `cft`) and `grad_through_skips`',
    ),
    'alignment_opt': Option(AlignmentTerm.OPTIONS, 'IDCodeFormer: two references, one result'),
    'style_opt': Option(StyleGradientLoss.OPTIONS, 'IDCodeFormer with IA-CFT: gradient of a recognizer as objective'),
    'registration_opt': Option(dict, 'CodeFormer++, stage 1'),
    'metric_opt': Option(dict, 'CodeFormer++, stage 2'),
    'diffusion_opt': Option(
        {'align_weight': NUMBER, 'identity_dropout': NUMBER, 'min_t': int, 'max_t': int},
        'RIDFR: weight of the alignment (0: naive fine-tuning), share of faces trained blind, range of the steps',
        'align_weight 0, identity_dropout 0.1, all steps',
    ),
    'losses': Option(
        list,
        'further losses `loss(pred, target)`: `type` and its arguments, `name`, `every`, `start_iter`, `sub_batch`. '
        'Stage II decodes faces for them at w = 0; the adaptive adversarial weight counts them as reconstruction',
    ),
    'use_hq_feat_loss': Option(bool, 'stages II, III: distance of features to the target codes', True),
    'feat_loss_weight': Option(float, 'its weight', 1.0),
    'cross_entropy_loss': Option(bool, 'stages II, III: cross entropy of the codes', True),
    'entropy_loss_weight': Option(float, 'its weight', 0.5),
    'ste_temperature': Option(float, 'temperature of the soft codes that carry gradients', 1.0, above=0),
    'end_to_end': Option(bool, 'stage III: losses on images reach encoder and Transformer too', False),
    'fidelity_weight': Option(float, 'w of validation; of training with `CodeFormerModel`', '0, in stage III 1'),
    'curriculum': Option(
        list,
        'stage III: phases of `until`, `severity` (`small`, `large`, `mixed`, `both`), `w`, `small_every`',
        'as published',
    ),
    'fix_generator': Option(bool, 'stage III: false where the generator is trained', True),
    'use_adaptive_weight': Option(bool, 'balance adversarial and reconstruction gradients at the last layer', True),
    'scale_adaptive_gan_weight': Option(float, 'factor of that balance', 0.8),
    'disc_weight': Option(float, 'weight of the adversarial loss without it', 0.8),
    'net_g_start_iter': Option(int, 'first iteration that trains `network_g`', 0),
    'net_d_iters': Option(int, 'iterations between two that train `network_g`', 1),
    'net_d_start_iter': Option(int, 'iteration from which on there are adversarial terms', 0),
    'codebook_warmup': Option({'iters': int, 'samples': int}, 'stage I: a plain autoencoder first, then k-means'),
    'codebook_ema': Option(
        {'decay': float, 'dead_code_threshold': float}, 'stage I: codes are running means; unused ones start again'
    ),
    'min_perplexity': Option(float, 'warn when fewer codes are in use; 0: never', '2 % of the codebook', least=0),
    'identity_input': Option(IdentitySource.INPUT_OPTIONS, 'IDCodeFormer: identity of the degraded face itself'),
    'identity_reference': Option(IdentitySource.REFERENCE_OPTIONS, 'IDCodeFormer: embed references in training'),
    'bend': Option(
        {'prob': float, 'deviation': float}, 'CodeFormer++, stage 1: random bends', 'prob 0.5, deviation 0.026'
    ),
    'manual_seed': Option(int, 'as `manual_seed` of the file', least=0),
}

VAL: Table = {
    'val_freq': Option(int, 'iterations between two validations'),
    'save_img': Option(bool, 'keep the restored pictures', False),
    'metrics': Option(dict, 'by name: `type` and arguments of a metric'),
    'best': Option({'metric': str, 'dataset': str}, 'what chooses `net_g_best.pth`', 'the first of each'),
    'grid': Option(int, 'pictures of the validation grid', 8),
    'steps': Option(int, 'RIDFR: steps of sampling', 20, least=2),
    'adain': Option(bool, 'give codes the statistics of the input, as inference does', False),
}

DATASET: Table = {
    'dataroot_gt': Option(str, 'good faces: a folder, or an lmdb'),
    'dataroot_lq': Option(str, 'degraded faces of the same names (pairs)'),
    'dataroot_ref': Option(str, 'references (pairs)'),
    'io_backend': Option(dict, '`type`: `disk`, `lmdb` or `memory`', 'disk'),
    'gt_size': Option(int, 'side of good faces, pixels'),
    'in_size': Option(int, 'side of degraded faces, pixels', '`gt_size`'),
    'scale': Option(int, 'accepted, without effect'),
    'mean': Option(list, 'subtracted from values in [0, 1], by channel', '0.5'),
    'std': Option(list, 'divided by, by channel', '0.5'),
    'use_hflip': Option(bool, 'mirror half of the faces', True),
    'use_corrupt': Option(bool, 'degrade the input', True),
    'gen_inpaint_mask': Option(
        bool, 'the input is the good face, pure white under brush strokes; `use_corrupt` has no effect', False
    ),
    'mask_prob': Option(float, 'share of inputs with brush strokes; the others are degraded as usual', 1, least=0),
    'latent_gt_path': Option(str, 'codes of the good faces (`id-codeformer data latents`)'),
    'component_path': Option(str, 'accepted, without effect'),
    'kernel_list': Option(list, 'kinds of blur: `iso`, `aniso`'),
    'kernel_prob': Option(list, 'their probabilities'),
    'blur_kernel_size': Option(int, 'taps of the blur'),
    'blur_sigma': Option(list, 'deviation of the blur in pixels of `gt_size`'),
    'downsample_range': Option(list, 'factor of the reduction'),
    'noise_range': Option(list, 'deviation of the noise, levels'),
    'jpeg_range': Option(list, 'JPEG quality'),
    **{
        f'{key}_large': Option(list, 'the same for severe damage (stage III)')
        for key in ('blur_sigma', 'downsample_range', 'noise_range', 'jpeg_range')
    },
    'use_motion_kernel': Option(bool, 'motion blur', False),
    'motion_kernel_prob': Option(float, 'its probability', 0.001),
    'color_jitter_prob': Option(float, 'probability of a shift of colours', 0),
    'color_jitter_shift': Option(float, 'largest shift, levels'),
    'color_jitter_pt_prob': Option(float, 'probability of changed brightness, contrast, saturation and hue', 0),
    'brightness': Option(list, 'range of the factor'),
    'contrast': Option(list, 'range of the factor'),
    'saturation': Option(list, 'range of the factor'),
    'hue': Option(list, 'range of the shift'),
    'gray_prob': Option(float, 'probability of a grey input', 0),
    'identities': Option(str, 'list of file and person', 'sub-folders are people'),
    'embeddings': Option(str, 'embeddings of the faces (`id-codeformer data embed`)'),
    'recognizer': Option(str, 'recognizer that they are of'),
    'references': Option(int, 'references of a face', 1),
    'self_reference': Option(bool, 'a person with one photograph is the own reference', False),
    'mismatch_prob': Option(float, 'share of faces that are given a wrong identity', 0),
    'on_error': Option(str, '`raise`, or `skip` pictures that cannot be read', 'raise'),
    'batch_size_per_gpu': Option(int, 'faces of a batch', 1),
    'num_worker_per_gpu': Option(int, 'worker processes of the loader', 0),
    'num_prefetch_queue': Option(int, 'batches that a worker prepares', 2),
    'pin_memory': Option(bool, 'page-locked memory for GPUs', True),
    'seed': Option(int, 'of damage and order', '`manual_seed`'),
}

LOGGER: Table = {
    'print_freq': Option(int, 'iterations between two lines of the log', 100),
    'save_checkpoint_freq': Option(int, 'iterations between two checkpoints', 5000),
    'use_tb_logger': Option(bool, 'write for TensorBoard', True),
    'keep_last': Option(int, 'newest checkpoints that stay', 'all', least=1),
    'keep_every': Option(int, 'checkpoints at multiples stay', least=1),
    'wandb': Option({'project': str, 'resume_id': (str, int)}, 'accepted as null only: runs are logged to TensorBoard'),
}

DIST: Table = {
    'backend': Option(str, '`nccl` or `gloo`', 'nccl on GPUs, else gloo'),
    'port': Option(int, 'port of the first process under Slurm; other launchers choose it'),
    'dead_after': Option(float, 'seconds of silence after which a process counts as dead', 20, least=2),
}

SECTIONS: Mapping[str, Table] = {'path': PATH, 'train': TRAIN, 'val': VAL, 'logger': LOGGER, 'dist_params': DIST}


def kinds(table: Table) -> dict[str, Any]:
    """Return the types of a table's keys, as `check_values` takes them."""
    return {key: option.kind for key, option in table.items()}
