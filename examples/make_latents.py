"""Write a small precomputed data set in the layout that video trainers read.

    python examples/make_latents.py data --samples 24
    python examples/make_latents.py data --layout tokens

`DIR/.precomputed/latents/clip_00/latent_0001.pt` holds `{"latents", "num_frames", "height", "width", "fps"}` and
`DIR/.precomputed/conditions/clip_00/condition_0001.pt` holds `{"prompt_embeds": [L, D], "prompt_attention_mask": [L]}`.
Layout `grid` stores the latents as `[C, F, H, W]`, `tokens` patchified as `[F * H * W, C]`. The values are the same in
both layouts, so a trainer that unpatchifies sees the same numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

CHANNELS, FRAMES, HEIGHT, WIDTH = 8, 3, 4, 6
PROMPT_TOKENS, PROMPT_WIDTH = 10, 16
SAMPLES_PER_CLIP = 5


def make_latents(root: Path, samples: int = 24, layout: str = "grid", seed: int = 0) -> None:
    """Write `samples` pairs of files under `root`; the same seed gives the same values in either layout."""
    generator = torch.Generator().manual_seed(seed)
    for number in range(samples):
        clip, position = divmod(number, SAMPLES_PER_CLIP)
        save(root, "latents", f"clip_{clip:02d}/latent_{position + 1:04d}.pt", latent_part(generator, layout))
        save(root, "conditions", f"clip_{clip:02d}/condition_{position + 1:04d}.pt", condition_part(generator))


def save(root: Path, folder: str, name: str, part: dict[str, object]) -> None:
    path = root / ".precomputed" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(part, path)


def latent_part(generator: torch.Generator, layout: str) -> dict[str, object]:
    latents = torch.randn(CHANNELS, FRAMES, HEIGHT, WIDTH, generator=generator)
    if layout == "tokens":
        latents = latents.permute(1, 2, 3, 0).reshape(-1, CHANNELS).contiguous()
    return {"latents": latents, "num_frames": FRAMES, "height": HEIGHT, "width": WIDTH, "fps": 24.0}


def condition_part(generator: torch.Generator) -> dict[str, object]:
    length = int(torch.randint(3, PROMPT_TOKENS + 1, (), generator=generator))
    return {
        "prompt_embeds": torch.randn(PROMPT_TOKENS, PROMPT_WIDTH, generator=generator),
        "prompt_attention_mask": (torch.arange(PROMPT_TOKENS) < length).long(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a small precomputed data set.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--layout", choices=("grid", "tokens"), default="grid")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    make_latents(args.root, args.samples, args.layout, args.seed)
    print(f"{args.samples} samples, layout {args.layout}, under {args.root / '.precomputed'}")


if __name__ == "__main__":
    main()
