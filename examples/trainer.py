"""Train a small text-conditioned denoiser on precomputed video latents, with plain PyTorch or with this library.

    python examples/make_latents.py data
    python examples/trainer.py --data data --loader plain
    python examples/trainer.py --data data --loader streaming --workers 2

Both runs see the same samples in the same order, so their losses are equal to the last bit. The lines that differ are
marked `changed line 1` and `changed line 2` in `streaming_dataset`; a third, optional one in `make_loader` lets the
library read ahead in shuffled order.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

Sample = dict[str, Any]

DATA_MAPPING = {"latents": "latent_conditions", "conditions": "text_conditions"}


class PrecomputedDataset(Dataset[Sample]):
    """Samples of `root/.precomputed`, one folder per part, read with `torch.load`.

    Sample `i` is a dict with one entry per value of `data_mapping`, plus `idx`.
    """

    def __init__(self, root: Path, data_mapping: dict[str, str], prepare: Callable[[Sample], Sample]) -> None:
        self._root = root / ".precomputed"
        self._data_mapping = data_mapping
        self._prepare = prepare
        self._names = sorted(
            str(path.relative_to(self._root / "latents")) for path in self._root.glob("latents/**/*.pt")
        )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, idx: int) -> Sample:
        name = self._names[idx]
        files = {"latents": name, "conditions": name.replace("latent_", "condition_")}
        sample: Sample = {
            key: torch.load(self._root / folder / files[folder], map_location="cpu", weights_only=True)
            for folder, key in self._data_mapping.items()
        }
        return {**self._prepare(sample), "idx": idx}


def unpatchify_latents(sample: Sample) -> Sample:
    """Return the sample with its latents as `[C, F, H, W]`, from `[C, F, H, W]` or patchified `[F * H * W, C]`."""
    part = sample["latent_conditions"]
    latents = part["latents"]
    if latents.dim() != 2:
        return sample
    grid = latents.reshape(part["num_frames"], part["height"], part["width"], latents.shape[1])
    # (f h w) c -> c f h w; contiguous, so that both layouts collate to the same memory order
    return {**sample, "latent_conditions": {**part, "latents": grid.permute(3, 0, 1, 2).contiguous()}}


def plain_dataset(root: Path) -> Dataset[Sample]:
    dataset = PrecomputedDataset(root, DATA_MAPPING, prepare=unpatchify_latents)
    return dataset


def streaming_dataset(root: Path) -> Dataset[Sample]:
    from streaming import StreamingDatasetAdapter  # changed line 1

    dataset = StreamingDatasetAdapter(str(root), DATA_MAPPING, prepare=unpatchify_latents)  # changed line 2
    return dataset


def make_loader(dataset: Any, args: argparse.Namespace) -> DataLoader[Sample]:
    sampler: Any = RandomSampler(dataset, generator=torch.Generator().manual_seed(args.seed))
    if args.loader == "streaming":
        sampler = dataset.look_ahead(sampler)  # optional: announces the shuffled order to the prefetcher
    return DataLoader(dataset, batch_size=args.batch_size, sampler=sampler, num_workers=args.workers)


class Denoiser(nn.Module):
    """Predict the velocity of noisy latents from the latents, the noise level and the mean prompt embedding."""

    def __init__(self, channels: int, prompt_width: int, hidden: int = 32) -> None:
        super().__init__()
        self.mix_in = nn.Conv3d(channels, hidden, kernel_size=1)
        self.condition = nn.Linear(prompt_width + 1, hidden)
        self.mix_out = nn.Conv3d(hidden, channels, kernel_size=1)

    def forward(self, noisy: torch.Tensor, level: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        condition = self.condition(torch.cat([prompt, level[:, None]], dim=1))
        hidden = self.mix_in(noisy) + condition[:, :, None, None, None]
        prediction: torch.Tensor = self.mix_out(torch.nn.functional.silu(hidden))
        return prediction


def mean_prompt(text: dict[str, torch.Tensor]) -> torch.Tensor:
    """Average the embeddings `[B, L, D]` of the tokens that the mask `[B, L]` keeps."""
    mask = text["prompt_attention_mask"].float()[:, :, None]
    return (text["prompt_embeds"] * mask).sum(1) / mask.sum(1)


def flow_matching_loss(model: Denoiser, batch: Sample, generator: torch.Generator) -> torch.Tensor:
    latents = batch["latent_conditions"]["latents"]
    noise = torch.randn(latents.shape, generator=generator)
    level = torch.rand(latents.shape[0], generator=generator)
    weight = level[:, None, None, None, None]
    noisy = (1 - weight) * latents + weight * noise
    prediction = model(noisy, level, mean_prompt(batch["text_conditions"]))
    return torch.nn.functional.mse_loss(prediction, noise - latents)


def epochs(loader: DataLoader[Sample]) -> Iterator[Sample]:
    """Yield batches forever, epoch after epoch."""
    while True:
        yield from loader


def train(args: argparse.Namespace) -> list[float]:
    """Run `args.steps` steps and return their losses."""
    torch.manual_seed(args.seed)
    dataset: Any = plain_dataset(args.data) if args.loader == "plain" else streaming_dataset(args.data)
    first = dataset[0]
    channels = first["latent_conditions"]["latents"].shape[0]
    model = Denoiser(channels, prompt_width=first["text_conditions"]["prompt_embeds"].shape[-1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(args.seed)
    losses = []
    for step, batch in zip(range(1, args.steps + 1), epochs(make_loader(dataset, args)), strict=False):
        loss = flow_matching_loss(model, batch, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        print(f"step {step} samples {batch['idx'].tolist()} loss {losses[-1]!r}")
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small denoiser on precomputed latents.")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds .precomputed/")
    parser.add_argument("--loader", choices=("plain", "streaming"), default="plain")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    losses = train(args)
    seconds = round(time.perf_counter() - start, 3)
    print(json.dumps({"loader": args.loader, "workers": args.workers, "losses": losses, "seconds": seconds}))


if __name__ == "__main__":
    main()
