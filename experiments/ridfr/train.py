"""Train the small latent prior, then the content module on it, then its fine-tuning, each for a time.

All steps share one loop: every draw of an iteration follows from seed and iteration, a state is written at the end and
now and then, and a step that was stopped goes on exactly where it was. A step ends after its iterations or its minutes
of wall clock, whichever is first; the time of earlier attempts counts.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from basicsr.archs.content_control_arch import ContentControl
from basicsr.archs.diffusion_prior import DiffusionPrior, PatchFeatures, VQCodec
from basicsr.archs.face_id_adapter import FaceIDProjection, Tokens, adapter_state, add_attention
from basicsr.archs.factory import load_network
from basicsr.data.degradation import LARGE, degrade, to_unit
from basicsr.losses.noise_loss import alignment_losses, content_loss, draw_noise
from basicsr.utils.checkpoint import load_state_dict_file, read_checkpoint, save_atomic
from basicsr.utils.files import replacing
from experiments.ridfr.prepare import reference

SCHEDULE = {
    '_class_name': 'DDPMScheduler', 'num_train_timesteps': 1000, 'beta_start': 0.00085, 'beta_end': 0.012,
    'beta_schedule': 'scaled_linear', 'prediction_type': 'epsilon',
}  # fmt: skip
VECTOR = 512
SAVE_SECONDS = 120.0
WARMUP = 50


class Faces:
    """Prepared faces in memory; see `prepare`.

    Args:
        folder: of the blocks.
        count: faces used.
        components: of the latents used.

    Raises:
        FileNotFoundError: fewer are there.
    """

    def __init__(self, folder: Path, count: int, components: int) -> None:
        blocks = [load_file(path) for path in sorted(folder.glob('[0-9]*.safetensors'))]
        if sum(len(block['latents']) for block in blocks) < count:
            raise FileNotFoundError(f'{folder}: fewer than {count} prepared faces; run the step prepare first')
        self.images, self.latents, self.vectors = (
            torch.cat([block[key] for block in blocks])[:count] for key in ('faces', 'latents', 'vectors')
        )
        self.latents, self.vectors = self.latents[:, :components].float(), self.vectors.float()
        self.ranges = LARGE.scaled(self.images.shape[1])

    def __len__(self) -> int:
        return len(self.latents)

    def references(self, chosen: Tensor) -> Tensor:
        """Return vectors of two references (n,2,V), drawn by torch's generator.

        Real photographs of a person differ more than the synthetic ones do. So the difference between the two
        references of somebody else, up to 2.5 times, is added to one of each person.
        """
        order = torch.randint(2, (len(chosen),))
        found = []
        for number in (order, 1 - order):
            lender = torch.randint(len(self), (len(chosen),))
            lent = self.vectors[lender, 0] - self.vectors[lender, 1]
            found.append(self.vectors[chosen, number] + 2.5 * torch.rand(len(chosen), 1) * lent)
        return F.normalize(torch.stack(found, 1), dim=-1)

    def photographs(self, chosen: Tensor, seed: int) -> Tensor:
        """Return two other photographs of each synthetic person (n,2,3,S,S) in [-1, 1]; see `prepare.reference`."""
        rng = np.random.default_rng(seed)
        pairs = [[reference(self.images[index].numpy(), rng) for _ in range(2)] for index in chosen.tolist()]
        return torch.from_numpy(np.array(pairs)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1

    def degraded(self, chosen: Tensor, seed: int) -> Tensor:
        """Return severely degraded copies (n,3,S,S) in [-1, 1]."""
        rng = np.random.default_rng(seed)
        made = [degrade(to_unit(self.images[index].numpy()), self.ranges, rng) for index in chosen.tolist()]
        return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() * 2 - 1


def build_prior(network: Mapping[str, Any], codec: VQCodec) -> tuple[Any, FaceIDProjection, list[Any]]:
    """Return a fresh U-Net with its attention, and the projection of vectors."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet = UNet2DConditionModel(in_channels=codec.channels, out_channels=codec.channels, **network)
    dim = int(network['cross_attention_dim'])
    attention = add_attention(unet, dim)
    return unet, FaceIDProjection(dim, VECTOR, hidden=2 * dim), attention


def write_prior(root: Path, codec: VQCodec, autoencoder: Path, modules: nn.ModuleDict) -> None:
    """Write a prior in the layout that `DiffusionPrior` reads, with `adapter.safetensors` beside it."""
    unet = cast(Any, modules['unet'])
    for folder in ('unet', 'scheduler', 'vqgan'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in unet.config.items() if not key.startswith('_')}
    (root / 'unet' / 'config.json').write_text(json.dumps({'_class_name': 'UNet2DConditionModel', **config}, indent=1))
    (root / 'scheduler' / 'scheduler_config.json').write_text(json.dumps(SCHEDULE, indent=1))
    processors = [
        layer.processor if isinstance(layer.processor, nn.Module) else None
        for layer in (unet.get_submodule(name.removesuffix('.processor')) for name in unet.attn_processors)
    ]
    files = {
        'unet/diffusion_pytorch_model.safetensors': {
            k: v for k, v in unet.state_dict().items() if '.processor.' not in k
        },
        'adapter.safetensors': adapter_state(cast(FaceIDProjection, modules['projection']), cast(Any, processors)),
        'vqgan/basis.safetensors': {'mean': codec.mean, 'down': codec.down, 'up': codec.up},
        'empty_prompt.safetensors': {'text': torch.zeros(1, 1, unet.config.cross_attention_dim)},
    }
    for name, state in files.items():
        with replacing(root / name) as partial:
            save_file({key: value.contiguous() for key, value in state.items()}, partial)
    (root / 'vqgan' / 'autoencoder.safetensors').write_bytes(autoencoder.read_bytes())


def loop(
    trained: nn.Module,
    losses: Callable[[int], tuple[Tensor, dict[str, float]]],
    out: Path,
    step: Mapping[str, Any],
    seed: int,
) -> nn.Module:
    """Train for a time and return the averaged network.

    Args:
        trained: the network.
        losses: of an iteration: the loss, and what is logged.
        out: folder of `state.pth` and `log.csv`.
        step: `minutes`, `iterations`, `lr`, `ema`, `print_every`.
        seed: of all draws.
    """
    average = copy.deepcopy(trained).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(
        [p for p in trained.parameters() if p.requires_grad], lr=step['lr'], weight_decay=0.01, fused=True
    )
    state, done, spent = out / 'state.pth', 0, 0.0
    out.mkdir(parents=True, exist_ok=True)
    if state.is_file():
        content = read_checkpoint(state)
        trained.load_state_dict(content['trained'])
        average.load_state_dict(content['average'])
        optimizer.load_state_dict(content['optimizer'])
        done, spent = int(content['iteration']), float(content['seconds'])
    begin = saved = time.monotonic()
    sums: dict[str, list[float]] = {}

    def save() -> None:
        content = {
            'trained': trained.state_dict(), 'average': average.state_dict(), 'optimizer': optimizer.state_dict(),
            'iteration': done, 'seconds': spent + time.monotonic() - begin,
        }  # fmt: skip
        save_atomic(content, state)

    while done < step['iterations'] and spent + time.monotonic() - begin < 60 * step['minutes']:
        done += 1
        torch.manual_seed(int(np.random.SeedSequence([seed, done]).generate_state(1)[0]))
        for group in optimizer.param_groups:
            group['lr'] = step['lr'] * min(1.0, done / WARMUP)
        loss, logged = losses(done)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        decay = min(step['ema'], (1 + done) / (10 + done))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), trained.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        for name, value in {'loss': loss.item(), **logged}.items():
            sums.setdefault(name, []).append(value)
        if done % step['print_every'] == 0:
            means = {name: float(np.mean(values)) for name, values in sums.items()}
            seconds = spent + time.monotonic() - begin
            line = ' '.join(f'{name} {value:.4f}' for name, value in sorted(means.items()))
            print(f'{out.name} {done} ({seconds:.0f} s): {line}', flush=True)
            with (out / 'log.jsonl').open('a') as file:
                file.write(json.dumps({'iteration': done, 'seconds': round(seconds), **means}) + '\n')
            sums = {}
        if time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
    save()
    return average


def load_codec(prepared: Path, autoencoder: Path, patch: int, components: int) -> VQCodec:
    """Return the codec of prepared latents, of their first components only."""
    network, found = load_network(autoencoder), load_file(prepared / 'basis.safetensors')
    down, up = found['down'][:components].contiguous(), found['up'][:, :components].contiguous()
    codec = VQCodec(cast(Any, network), found['mean'], down, up, patch)
    return codec.requires_grad_(False).eval()


def train_prior(faces: Faces, codec: VQCodec, autoencoder: Path, out: Path, recipe: Mapping[str, Any]) -> None:
    """Train U-Net and identity adapter together; a share of the faces is drawn blind."""
    step, seed = recipe['prior'], recipe['seed']
    torch.manual_seed(seed)
    unet, projection, _ = build_prior(recipe['network'], codec)
    modules = nn.ModuleDict({'unet': unet, 'projection': projection})
    text = torch.zeros(1, 1, recipe['network']['cross_attention_dim'])
    from basicsr.archs.diffusion_prior import alphas_of

    alphas = alphas_of(SCHEDULE, out)

    def losses(iteration: int) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(faces), (step['batch'],))
        latents = codec.blocks(faces.latents[chosen])
        vectors = faces.references(chosen)[:, :1]
        t, noise = torch.randint(1000, (len(chosen),)), torch.randn_like(latents)
        alpha = alphas[t][:, None, None, None]
        strength = (torch.rand(len(chosen)) >= step['blind']).float()
        tokens = projection(vectors.flatten(0, 1))
        hidden = (text.expand(len(chosen), -1, -1), tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), strength)
        mixed = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        error = (unet(mixed, t, encoder_hidden_states=hidden, return_dict=False)[0] - noise).square().mean((1, 2, 3))
        parts = {}
        for name, inside in (('blind', strength == 0), ('identity', strength > 0)):
            if inside.any():
                parts[name] = error.detach()[inside].mean().item()
        return error.mean(), parts

    average = loop(modules, losses, out, step, seed)
    write_prior(out / 'root', codec, autoencoder, cast(nn.ModuleDict, average))


def train_adapter(faces: Faces, out: Path, recipe: Mapping[str, Any]) -> None:
    """Train a Plus adapter on the frozen U-Net: vectors, and patches of the reference as image features.

    The error is weighed as one of z_0: under equal weights identity is worth a thousandth of the loss, and in the time
    that there is nothing is learnt of it.
    """
    step, seed = recipe['adapter'], recipe['seed'] + 3
    root = out / 'prior' / 'root'
    prior = DiffusionPrior(root)
    torch.manual_seed(seed)
    dim = int(prior.unet.config.cross_attention_dim)
    features = PatchFeatures(**step['features'])
    attention = add_attention(prior.unet, dim)
    projection = FaceIDProjection(dim, VECTOR, 2 * dim, features.width, depth=2)
    trained = nn.ModuleDict({'projection': projection, 'attention': nn.ModuleList(part for part in attention if part)})
    trained.requires_grad_(True)

    def losses(iteration: int) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(faces), (step['batch'],))
        noisy = draw_noise(prior, cast(VQCodec, prior.codec).blocks(faces.latents[chosen]))
        photos = faces.photographs(chosen, int(torch.randint(2**31, ())))[:, 0]
        tokens = projection(faces.references(chosen)[:, 0], features(photos))
        identity = Tokens(tokens, torch.ones(tokens.shape[:2], dtype=torch.bool), torch.ones(len(tokens)))
        alpha = prior.alphas[noisy.t][:, None, None, None]
        weight = ((1 - alpha) / alpha).clamp(max=step['most_weight'])  # of the error of z_0

        def error(told: Tokens | None) -> Tensor:
            return (weight * (prior.eps(noisy.z, noisy.t, identity=told) - noisy.noise).square()).mean()

        loss = error(identity)
        if iteration % 10:
            return loss, {}
        with torch.no_grad():
            blind, wrong = error(None), error(identity._replace(tokens=tokens.roll(1, 0)))
        return loss, {'gain': (blind - loss).item(), 'loss_of_wrong': (wrong - loss).item()}

    average = cast(nn.ModuleDict, loop(trained, losses, out / 'adapter', step, seed))
    averaged = iter(cast(nn.ModuleList, average['attention']))
    parts = [cast(Any, next(averaged)) if part else None for part in attention]
    state = adapter_state(cast(FaceIDProjection, average['projection']), parts)
    with replacing(root / 'adapter.safetensors') as partial:
        save_file(state, partial, {'recognizer': recipe['recognizer'], 'shortcut': 'true'})
    (root / 'image_encoder').mkdir(exist_ok=True)
    config = {'_class_name': PatchFeatures.__name__, **step['features']}
    (root / 'image_encoder' / 'config.json').write_text(json.dumps(config))


def load_prior(out: Path) -> DiffusionPrior:
    """Return the prior with the adapter of `train_adapter`."""
    root = out / 'prior' / 'root'
    return DiffusionPrior(root, root / 'adapter.safetensors', root / 'image_encoder', shortcut=True)


def new_control(prior: DiffusionPrior, condition: str) -> ContentControl:
    """Return a content module that starts from the prior's encoder."""
    config = {key: value for key, value in prior.unet.config.items() if not key.startswith('_')}
    control = ContentControl(config, prior.side, condition, prior.codec.reduction, prior.codec.patch)
    control.start_from(prior.unet)
    return control


def save_control(control: ContentControl, path: Path) -> None:
    """Write a content module as a training of the library does."""
    save_atomic({'params': control.state_dict(), 'network': control.options}, path)


def train_content(faces: Faces, out: Path, recipe: Mapping[str, Any]) -> None:
    """Train the content module without identity (equation 2)."""
    step, seed = recipe['content'], recipe['seed'] + 1
    prior = DiffusionPrior(out / 'prior' / 'root')
    control = new_control(prior, recipe['condition'])

    def losses(iteration: int) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(faces), (step['batch'],))
        noisy = draw_noise(prior, cast(VQCodec, prior.codec).blocks(faces.latents[chosen]))
        condition = control.condition_of(faces.degraded(chosen, int(torch.randint(2**31, ()))))
        return content_loss(prior, control, noisy, condition), {}

    average = loop(control, losses, out / 'content', step, seed)
    save_control(cast(ContentControl, average), out / 'content' / 'net_g.pth')


def train_row(faces: Faces, out: Path, recipe: Mapping[str, Any], row: str) -> None:
    """Fine-tune the content module under two references of each face (equation 6), with the row's `align_weight`."""
    step, seed = recipe['rows'][row], recipe['seed'] + 2
    prior = load_prior(out)
    control = new_control(prior, recipe['condition'])
    control.load_state_dict(load_state_dict_file(out / 'content' / 'net_g.pth'))

    def losses(iteration: int) -> tuple[Tensor, dict[str, float]]:
        chosen = torch.randint(len(faces), (step['batch'],))
        noisy = draw_noise(prior, cast(VQCodec, prior.codec).blocks(faces.latents[chosen]))
        condition = control.condition_of(faces.degraded(chosen, int(torch.randint(2**31, ()))))
        vectors = faces.references(chosen)
        blind = (torch.rand(len(chosen)) >= step['identity_dropout']).float()
        photos = faces.photographs(chosen, int(torch.randint(2**31, ())))
        first, second = (
            prior.tokens(vectors[:, part], photos=photos[:, part]).scaled(blind) for part in (slice(0, 1), slice(1, 2))
        )
        found = alignment_losses(prior, control, noisy, condition, first, second)
        loss = found.diffusion + step['align_weight'] * found.align
        return loss, {'diffusion': found.diffusion.item(), 'align': found.align.item(), **found.gap}

    average = loop(control, losses, out / row, step, seed)
    save_control(cast(ContentControl, average), out / row / 'net_g.pth')
