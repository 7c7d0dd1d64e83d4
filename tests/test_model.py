"""The byte-level GPT: causal, deterministic, of the size that is promised; sampling disturbs nothing."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightwatch.config import PRESET, GPTConfig
from lightwatch.errors import LightwatchError
from lightwatch.model import GPT, generate

SMALL = GPTConfig(layers=2, heads=2, width=32, context=16)


def made(config: GPTConfig = SMALL, seed: int = 1) -> GPT:
    torch.manual_seed(seed)
    return GPT(config)


def tokens(batch: int = 3, length: int = 16, seed: int = 5) -> Tensor:
    return torch.randint(0, 256, (batch, length), generator=torch.Generator().manual_seed(seed))


def test_at_the_start_every_byte_is_about_equally_likely() -> None:
    """The loss of a fresh model is near ln 256, for the preset's size too, and logits have the shape of the tokens."""
    for config in (SMALL, PRESET.model):
        model = made(config)
        x = tokens(4, config.context)
        logits = model(x)
        assert logits.shape == (4, config.context, 256)
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens(4, config.context, seed=6).flatten())
        assert abs(loss.item() - math.log(256)) < 0.1
        assert logits.std() > 0.01  # but not by ignoring its input


def test_the_preset_has_the_promised_size() -> None:
    """3 to 6 M parameters, and a count that can be checked by hand."""
    count = sum(parameter.numel() for parameter in made(PRESET.model).parameters())
    assert 3_000_000 < count < 6_000_000
    config, w = SMALL, SMALL.width
    block = (3 * w * w + 3 * w) + (w * w + w) + (4 * w * w + 4 * w) + (4 * w * w + w) + 4 * w
    expected = 256 * w * 2 + config.context * w + config.layers * block + 2 * w
    assert sum(parameter.numel() for parameter in made().parameters()) == expected


@pytest.mark.parametrize("at", [0, 1, 7, 15])
def test_a_later_byte_changes_no_earlier_prediction(at: int) -> None:
    """Causal: logits before the changed byte are the same bits, from it on they differ."""
    model = made().eval()
    x = tokens()
    changed = x.clone()
    changed[:, at] = (changed[:, at] + 1) % 256
    before, after = model(x), model(changed)
    assert torch.equal(before[:, :at], after[:, :at])
    assert all(not torch.equal(before[:, place], after[:, place]) for place in range(at, 16))


def test_a_byte_is_told_by_its_place_too() -> None:
    """Positions are learned: the same bytes in another order give another prediction at the end."""
    model = made().eval()
    x = torch.tensor([[1, 2, 3, 4], [2, 1, 3, 4]])
    logits = model(x)
    assert not torch.allclose(logits[0, -1], logits[1, -1], atol=1e-6)
    same = model(torch.full((1, 4), 7))
    assert not torch.allclose(same[0, 0], same[0, 1], atol=1e-6)


def test_it_computes_what_a_plain_transcription_computes() -> None:
    """Against the textbook: softmax over a masked square of scores, written out with the model's own weights."""
    model = made().eval()
    x = tokens(2, 9)
    h = model.tokens.weight[x] + model.positions.weight[:9]

    def norm(layer: nn.Module, value: Tensor) -> Tensor:
        centred = value - value.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()
        return centred * scale * layer.weight + layer.bias  # type: ignore[operator]

    for block in model.blocks:
        n = norm(block.norm_attention, h)  # type: ignore[arg-type]
        q, k, v = (n @ block.attention.all.weight.T + block.attention.all.bias).split(32, dim=-1)  # type: ignore[union-attr, operator]
        heads = []
        for part in (slice(0, 16), slice(16, 32)):
            scores = q[..., part] @ k[..., part].transpose(1, 2) / 4.0
            scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ v[..., part])
        h = h + block.attention.out(torch.cat(heads, -1))  # type: ignore[union-attr, operator]
        n = norm(block.norm_linear, h)  # type: ignore[arg-type]
        inner = block.grow(n)  # type: ignore[operator]
        h = h + block.shrink(inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))  # type: ignore[operator]
    expected = norm(model.norm, h) @ model.head.weight.T
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_the_weights_are_a_function_of_the_seed() -> None:
    """The same seed gives the same bits, another seed others; nothing but torch's default generator is asked."""
    random.seed(1), np.random.seed(1)
    one = made(seed=3).state_dict()
    random.seed(2), np.random.seed(2)
    same, other = made(seed=3).state_dict(), made(seed=4).state_dict()
    assert all(torch.equal(one[name], same[name]) for name in one)
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert len(differing) == sum(parameter.dim() == 2 and "norm" not in name for name, parameter in one.items())


def test_it_starts_with_small_normal_weights() -> None:
    """0.02, and less by sqrt(2 * layers) where the residual stream is fed; biases 0, norms 1."""
    config = GPTConfig(layers=2, heads=2, width=128, context=64)
    for name, parameter in made(config).named_parameters():
        if parameter.dim() == 2:
            residual = "attention.out" in name or "shrink" in name
            expected = 0.02 / math.sqrt(4) if residual else 0.02
            assert abs(parameter.std().item() / expected - 1) < 0.05 and abs(parameter.mean().item()) < 0.002, name
        else:
            assert set(parameter.tolist()) == ({0.0} if name.endswith("bias") else {1.0}), name


def test_it_has_no_buffers_and_trains_every_parameter() -> None:
    """What a micro-batch computes depends on weights and bytes alone; each weight gets a gradient."""
    for config in (SMALL, GPTConfig(layers=1, heads=2, width=32, context=16, tied=True)):
        model = made(config)
        assert list(model.buffers()) == []
        torch.autograd.backward(model(tokens()).square().mean())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_tied_weights_are_one_parameter() -> None:
    """The head is the embedding: 256 x width fewer parameters, one name fewer to train, both names in the state."""
    tied = made(GPTConfig(layers=2, heads=2, width=32, context=16, tied=True))
    assert tied.head.weight is tied.tokens.weight
    difference = sum(p.numel() for p in made().parameters()) - sum(p.numel() for p in tied.parameters())
    assert difference == 256 * 32


def test_dropout_follows_the_seed_in_training_and_is_off_in_evaluation() -> None:
    """Another seed, another mask; the same seed, the same bits; none in eval mode; each of its places drops."""
    model = made(GPTConfig(layers=2, heads=2, width=32, context=16, dropout=0.5))
    x = tokens()

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        result: Tensor = model(x)
        return result

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert len(rates) == 5 and set(rates.values()) == {0.5}
    for module in model.modules():  # what is left when all nn.Dropout are off is the dropout inside attention
        module.training = not isinstance(module, nn.Dropout)
    assert not torch.equal(run(1), run(2))


@pytest.mark.parametrize("shape", [(3,), (2, 17), (1, 2, 3)])
def test_tokens_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    """The sentence says context and shape; nothing is cut off silently."""
    with pytest.raises(LightwatchError, match=r"context 16, got \("):
        made()(torch.zeros(shape, dtype=torch.long))


def test_it_learns_a_short_text_and_says_it_again() -> None:
    """Forty steps on one sentence, then generation continues it: the whole way from bytes to bytes."""
    text = b"to be or not to."
    model = made()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    line = torch.tensor([list(text)])
    for _ in range(40):
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(line[:, :-1]).flatten(0, 1), line[:, 1:].flatten()))
        optimizer.step()
    assert generate(model, text[:4], 12, seed=1, temperature=0.0) == text[4:]


def test_sampling_leaves_generators_and_modes_as_they_were() -> None:
    """Global random numbers go on undisturbed; each module stays in its mode, train or eval, also on failure."""
    model = made(GPTConfig(layers=2, heads=2, width=32, context=16, dropout=0.5))
    model.train()
    model.blocks[1].eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = (torch.rand(3).tolist(), random.random(), float(np.random.rand()))
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    generate(model, b"abc", 5, seed=2)
    assert (torch.rand(3).tolist(), random.random(), float(np.random.rand())) == expected
    assert [module.training for module in model.modules()] == modes
    assert torch.is_grad_enabled()
    broken = model.norm.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
    with pytest.raises(RuntimeError, match="broken"):
        generate(model, b"abc", 5, seed=2)
    broken.remove()
    assert [module.training for module in model.modules()] == modes


def test_sampling_is_a_function_of_its_seed() -> None:
    """The same seed, the same bytes, whatever the mode; another seed, others; the length is what was asked for."""
    model = made(GPTConfig(layers=1, heads=2, width=32, context=16, dropout=0.5))
    first = generate(model, b"def ", 40, seed=7)
    assert len(first) == 40 and generate(model.eval(), b"def ", 40, seed=7) == first
    assert generate(model, b"def ", 40, seed=8) != first
    assert generate(model, b"def ", 0, seed=7) == b""
    assert generate(model, b"", 3, seed=7) == generate(model, b"\n", 3, seed=7)


def test_sampling_sees_the_last_bytes_of_a_long_prompt() -> None:
    """What lies before the context changes nothing, what lies in it does."""
    model = made()
    end = bytes(range(100, 116))
    with torch.no_grad():
        model.head.weight.mul_(20)  # sure of itself, so that a change of input shows
    assert generate(model, b"one" + end, 8, seed=1) == generate(model, b"another" * 9 + end, 8, seed=1)
    assert generate(model, end, 20, seed=1) != generate(model, end[::-1], 20, seed=1)


def test_a_larger_vocabulary_still_gives_bytes() -> None:
    """Tokens that are no bytes are never drawn."""
    model = made(GPTConfig(layers=1, heads=1, width=8, context=8, vocabulary=5000))
    assert len(generate(model, b"x", 30, seed=1, temperature=5.0)) == 30


def test_temperature_goes_from_the_likeliest_to_the_even() -> None:
    """0 and next to 0 take the maximum, a high one spreads; what is no temperature is refused."""
    model = made()
    likeliest = int(model.eval()(torch.tensor([[65]]))[0, -1].argmax())
    assert generate(model, b"A", 1, seed=1, temperature=0.0) == bytes([likeliest])
    assert generate(model, b"A", 1, seed=1, temperature=1e-30) == bytes([likeliest])
    assert len(set(generate(model, b"A", 60, seed=1, temperature=100.0))) > 30
    for temperature in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            generate(model, b"A", 1, seed=1, temperature=temperature)
    with pytest.raises(ValueError, match="got -1"):
        generate(model, b"A", -1, seed=1)
