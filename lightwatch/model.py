"""A byte-level GPT, small enough to read: pre-norm blocks, causal attention, learned positions, no buffers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import GPTConfig
from .errors import DataError

INIT_STD = 0.02
BYTES = 256


class GPT(nn.Module):
    """Logits for the next token at every position.

    Initialised from torch's default generator: seed it first, every sphere must build the same weights.
    Registration order is the layout of the weights; changing it changes every digest.
    """

    def __init__(self, config: GPTConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GPTConfig()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.head.weight = self.tokens.weight
        self._initialise()

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: integers (batch, length), length at most the context. Returns logits (batch, length, vocabulary)."""
        if tokens.dim() != 2 or tokens.shape[1] > self.config.context:
            raise DataError(
                f"GPT takes tokens of shape (batch, length) with length <= context {self.config.context}, "
                f"got {tuple(tokens.shape)} [LW208]"
            )
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]  # (batch, length, width)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def _initialise(self) -> None:
        """Normal with 0.02; what is added to the residual stream smaller by sqrt(2 * layers), so its variance stays."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                residual = name.endswith(("attention.out.weight", "shrink.weight"))
                nn.init.normal_(parameter, std=INIT_STD / math.sqrt(2 * self.config.layers) if residual else INIT_STD)


class Block(nn.Module):
    """Attention, then two linear layers, each added to what came in."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.norm_linear = nn.LayerNorm(config.width)
        self.grow = nn.Linear(config.width, 4 * config.width)
        self.shrink = nn.Linear(4 * config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, length, width), and the same out."""
        x = x + self.attention(self.norm_attention(x))
        added: Tensor = self.dropout(self.shrink(functional.gelu(self.grow(self.norm_linear(x)))))
        return x + added


class Attention(nn.Module):
    """Each position looks at itself and at those before it."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.rate = config.dropout
        self.all = nn.Linear(config.width, 3 * config.width)  # query, key and value in one product
        self.out = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, length, width), and the same out."""
        batch, length, width = x.shape
        split = self.all(x).view(batch, length, 3, self.heads, width // self.heads)
        query, keys, values = split.permute(2, 0, 3, 1, 4)  # (batch, heads, length, width of a head) each
        rate = self.rate if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, keys, values, dropout_p=rate, is_causal=True)
        mixed: Tensor = self.dropout(self.out(seen.transpose(1, 2).reshape(batch, length, width)))
        return mixed


@torch.no_grad()
def generate(model: GPT, prompt: bytes, length: int, *, seed: int, temperature: float = 0.8) -> bytes:
    """Return `length` new bytes after the prompt (which is not repeated; an empty one counts as a line's end).

    Draws from a generator of its own: the global ones, and each module's train or eval mode, are as they were.
    temperature 0 takes the likeliest byte. Costs a forward over the context for each byte: 10 ms for 5 M parameters.
    """
    if length < 0 or not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"length and temperature must be finite and >= 0, got {length} and {temperature}")
    modes = [(module, module.training) for module in model.modules()]
    device = model.head.weight.device
    generator = torch.Generator().manual_seed(seed)
    text = list(prompt or b"\n")
    start = len(text)
    model.eval()
    try:
        for _ in range(length):
            window = torch.tensor([text[-model.config.context :]], device=device)
            logits = model(window)[0, -1, :BYTES].float().cpu()
            if temperature == 0:
                text.append(int(logits.argmax()))
            else:
                chances = torch.softmax((logits - logits.max()) / temperature, dim=-1)  # never inf / inf
                text.append(int(torch.multinomial(chances, 1, generator=generator)))
    finally:
        for module, training in modes:
            module.training = training
    return bytes(text[start:])
