"""Your own model and data: `lightwatch run --tree 2x2 scripts/examples/own_model.py`, or `python` alone."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightwatch import Trainer, TrainingConfig


class Largest(Dataset[tuple[Tensor, Tensor]]):
    """Eight numbers and the place of the largest: sample n is the same on every machine."""

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        numbers = torch.randn(8, generator=torch.Generator().manual_seed(number))
        return numbers, numbers.argmax()


def main() -> None:
    config = TrainingConfig(learning_rate=1e-2, warmup_steps=10, max_steps=80, micro_batches=8, batch_size=32, seed=1)
    torch.manual_seed(config.seed)  # every sphere must build the same v0
    model = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Dropout(0.1), nn.Linear(64, 8))
    trainer = Trainer(model, Largest(), config)
    state = trainer.train()
    print(f"step {state.step}: loss {state.loss:.4f}, digest {trainer.digest()[:16]}")


main()
