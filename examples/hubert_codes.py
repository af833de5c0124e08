"""python examples/hubert_codes.py

Features of speech into discrete units, as HuBERT learns from them (Hsu et al., HuBERT:
self-supervised speech representation learning by masked prediction of hidden units, 2021): a
folder of arrays (frames, features), one per utterance, becomes one sequence of codes per file.
Without --features it makes up utterances of phonemes, and says how well the codes tell these.

The command line does the same, and more, on such a folder:
python train.py fit --config configs/features.yaml --data.init_args.path features
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor

from kmeans_module import ArrayDataModule, ClusterUsage, LitKMeans
from kmeans_module.training.callbacks import RunFolder


def make_utterances(
    folder: Path, *, n_files: int, n_phonemes: int, n_features: int, seed: int
) -> dict[Path, np.ndarray]:
    """Write features of made-up utterances; the phoneme of each frame, by the file's name.

    An utterance is a sequence of 10 to 40 phonemes of 3 to 12 frames each. A phoneme has three
    states, its onset, middle and end, which a speaker's voice shifts and noise blurs.
    """
    random = np.random.default_rng(seed)
    states = random.normal(size=(n_phonemes, 3, n_features))
    phonemes: dict[Path, np.ndarray] = {}
    for i in range(n_files):
        spoken = random.integers(n_phonemes, size=random.integers(10, 41))
        frames = random.integers(3, 13, size=len(spoken))
        state = np.concatenate([np.arange(n) * 3 // n for n in frames])
        phoneme = spoken.repeat(frames)
        voice = 0.2 * random.normal(size=n_features)
        noise = 0.5 * random.normal(size=(len(phoneme), n_features))
        name = Path(f"speaker{i % 4}", f"utterance{i:03}.npy")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, (states[phoneme, state] + voice + noise).astype(np.float32))
        phonemes[name] = phoneme
    return phonemes


def purity(codes: Tensor, phonemes: Tensor, n_codes: int) -> float:
    """Share of the frames whose phoneme is the most frequent one of their code."""
    pairs = torch.zeros(n_codes, int(phonemes.max()) + 1)
    pairs.index_put_((codes, phonemes), torch.ones(len(codes)), accumulate=True)
    return float(pairs.max(dim=1).values.sum() / len(codes))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[1],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--features", type=Path, help="folder of arrays (frames, features), .npy or others")
    add("--codes", type=int, default=100, help="number of codes")
    add("--utterances", type=int, default=200, help="made-up ones, where there is no folder")
    add("--max-iterations", type=int, default=100, help="of k-means")
    add("--seed", type=int, default=0, help="of k-means and of what is made up")
    add("--folder", type=Path, default=Path("runs/hubert_codes"), help="where the results go")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Make features if none are given, cluster them, write codes, and return their figures."""
    options = parse(arguments)
    phonemes: dict[Path, np.ndarray] = {}
    if options.features is None:
        options.features = options.folder / "features"
        phonemes = make_utterances(
            options.features, n_files=options.utterances, n_phonemes=40, n_features=64,
            seed=options.seed,
        )  # fmt: skip
    data = ArrayDataModule(path=str(options.features))
    if data.files is None:
        raise SystemExit(f"--features should be a folder of arrays; got {options.features}")
    model = LitKMeans(options.codes, data.n_features, init="k-means||", seed=options.seed)
    trainer = Trainer(
        max_epochs=options.max_iterations, default_root_dir=options.folder, logger=False,
        callbacks=[RunFolder(summary=False)], enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)

    written = {name: (options.folder / "codes" / name).with_suffix(".npy") for name in data.files}
    codes = {name: torch.from_numpy(np.load(file)) for name, file in written.items()}
    usage = ClusterUsage(options.codes)
    for sequence in codes.values():
        usage.update(sequence)
    found = {"files": len(codes), **{name: float(x) for name, x in usage.compute().items()}}
    told = ""
    if phonemes:
        spoken = torch.from_numpy(np.concatenate(list(phonemes.values())))
        heard = torch.cat([codes[name] for name in phonemes])
        found["purity"] = purity(heard, spoken, options.codes)
        told = f", purity {found['purity']:.3f}"
    print(
        f"{len(codes)} files in {options.folder / 'codes'}, {found['used']:.0%} of "
        f"{options.codes} codes used, perplexity {found['perplexity']:.1f}{told}"
    )
    return found


if __name__ == "__main__":
    main()
