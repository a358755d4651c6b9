"""Surgery on the transformers library's models: convert their norms, train, convert back, train on."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

import trimtab as tt
from trimtab.reading.norms import Norm, recognise

transformers = pytest.importorskip("transformers")

CLASSES, BATCH = 3, 8


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1], layer_type="bottleneck", num_labels=CLASSES
    )
    return transformers.ResNetForImageClassification(config)


def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(num_stages=2, hidden_sizes=[8, 16], depths=[1, 1], num_labels=CLASSES)
    return transformers.ConvNextForImageClassification(config)


SMALL = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}


def vit() -> nn.Module:
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=CLASSES, **SMALL)
    return transformers.ViTForImageClassification(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(vocab_size=30, max_position_embeddings=12, num_labels=CLASSES, **SMALL)
    return transformers.BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=30, **SMALL))


def gemma() -> nn.Module:
    config = transformers.GemmaConfig(vocab_size=30, num_key_value_heads=1, head_dim=8, pad_token_id=0, **SMALL)
    return transformers.GemmaForCausalLM(config)


MODELS = [resnet, convnext, vit, bert, gpt2, llama, gemma]


def batch(model: nn.Module) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    classes = torch.randint(CLASSES, (BATCH,), generator=draw)
    if "ImageClassification" in type(model).__name__:
        return {"pixel_values": torch.randn(BATCH, 3, 32, 32, generator=draw), "labels": classes}
    ids = torch.randint(1, 30, (BATCH, 10), generator=draw)
    return {"input_ids": ids, "labels": classes if "Sequence" in type(model).__name__ else ids}


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    losses = []
    for step in range(count):
        torch.manual_seed(step)  # dropout
        optimizer.zero_grad()
        loss = model(**batch(model)).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    return losses


def living(make: Callable[[], nn.Module]) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = make().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    steps(model, optimizer, 2)
    return model, optimizer


def norms(model: nn.Module) -> dict[str, Norm]:
    return {name: norm for name, module in model.named_modules() if isinstance(norm := recognise(module), Norm)}


CONVERSIONS = [
    (resnet, "group_norm"),
    (resnet, "layer_norm"),
    (convnext, "batch_norm"),
    (convnext, "rms_norm"),
    (vit, "rms_norm"),
    (vit, "batch_norm"),
    (bert, "group_norm"),
    (gpt2, "rms_norm"),
    (llama, "layer_norm"),
    (gemma, "layer_norm"),
]


@pytest.mark.parametrize(("make", "to"), CONVERSIONS, ids=lambda value: getattr(value, "__name__", value))
def test_convert_train_convert_back(make, to):
    model, optimizer = living(make)
    parameters = list(model.parameters())
    names = list(model.state_dict())
    classes = [type(module) for module in model.modules()]
    there = norms(model)
    assert there
    training = tt.attach(model, optimizer).apply(f"convert_norm(to={to!r}, groups=4)")

    (change,) = training.changes
    assert change.summary.startswith(f"{len(there)} norms made {to}: ")
    assert len(change.details) == len(there)
    assert {norm.kind for norm in norms(model).values()} == {to}
    assert norms(model).keys() == there.keys()
    dropped = [p for p in parameters if all(p is not q for q in model.parameters())]
    has_bias = any(norm.shift for norm in there.values())
    assert len(dropped) == (len(there) if to == "rms_norm" and has_bias else 0)
    assert sum("its bias left the model and the optimizer" in line for line in change.details) == len(dropped)
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in model.parameters()}
    for parameter in model.parameters():  # none is new, and none forgot its moments
        assert optimizer.state[parameter]["step"] == 2

    steps(model, optimizer, 20)
    training.undo()
    assert [type(module) for module in model.modules()] == classes
    assert list(model.state_dict()) == names
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    assert all(p is q for p, q in zip(optimizer.param_groups[0]["params"], parameters, strict=True))
    for parameter in parameters:
        assert optimizer.state[parameter]["step"] == (2 if any(parameter is p for p in dropped) else 22)
    steps(model, optimizer, 3)
    model.eval()
    assert torch.isfinite(model(**batch(model)).loss)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_convert_and_back_without_a_step_is_no_change_at_all(make):
    model, optimizer = living(make)
    twin, twin_optimizer = living(make)
    training = tt.attach(model, optimizer)
    for to in ("group_norm", "rms_norm", "batch_norm", "instance_norm", "layer_norm", "same"):
        if to in {norm.kind for norm in norms(model).values()}:
            continue
        training.apply(f"convert_norm(to={to!r}, groups=4)").undo()
    assert steps(model, optimizer, 3) == steps(twin, twin_optimizer, 3)
    for mine, other in zip(model.state_dict().values(), twin.state_dict().values(), strict=True):
        assert torch.equal(mine, other)


def test_there_and_back_by_two_conversions():
    model, optimizer = living(bert)
    parameters = list(model.parameters())
    training = tt.attach(model, optimizer).apply("convert_norm(to='group_norm', groups=2)")
    steps(model, optimizer, 20)
    training.apply("convert_norm(to='layer_norm', from_='group_norm')")
    assert all(p is q for p, q in zip(model.parameters(), parameters, strict=True))
    assert all(optimizer.state[p]["step"] == 22 for p in parameters)
    steps(model, optimizer, 3)


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_the_drop_in_of_the_same_kind_computes_the_same(make):
    model, optimizer = living(make)
    inputs, plain = batch(model), copy.deepcopy(model).eval()
    tt.attach(model, optimizer).apply("convert_norm(to='same')")
    torch.testing.assert_close(model.eval()(**inputs).logits, plain(**inputs).logits, rtol=1e-4, atol=1e-5)


def test_the_report_says_what_was_changed_and_what_was_not():
    model, optimizer = living(gpt2)
    training = tt.attach(model, optimizer).apply("convert_norm(to='rms_norm', only='*.ln_1')")
    assert str(training.changes[0]) == (
        "2 norms made rms_norm: transformer.h.0.ln_1, transformer.h.1.ln_1\n"
        "  transformer.h.0.ln_1: LayerNorm(16) became RMSNorm; its bias left the model and the optimizer\n"
        "  transformer.h.1.ln_1: LayerNorm(16) became RMSNorm; its bias left the model and the optimizer"
    )
    training.apply("convert_norm(to='layer_norm')")
    assert str(training.changes[1]) == (
        "2 norms made layer_norm: transformer.h.0.ln_1, transformer.h.1.ln_1; 3 left alone\n"
        "  transformer.h.0.ln_1: RMSNorm(16) became LayerNorm\n"
        "  transformer.h.1.ln_1: RMSNorm(16) became LayerNorm\n"
        "  transformer.h.0.ln_2: left alone: it is a layer_norm already\n"
        "  transformer.h.1.ln_2: left alone: it is a layer_norm already\n"
        "  transformer.ln_f: left alone: it is a layer_norm already"
    )
    with pytest.raises(
        tt.NothingToDo, match=r"transformer.h.0.ln_1: left alone: it has no running statistics to freeze"
    ):
        training.apply("convert_norm(to='frozen_batch_norm')")
    with pytest.raises(tt.NothingToDo, match="the model has no batch_norm"):
        training.apply("convert_norm(from_='batch_norm')")


def test_a_causal_model_stays_causal():
    for to in ("group_norm", "rms_norm"):
        model, optimizer = living(gpt2)
        tt.attach(model, optimizer).apply(f"convert_norm(to={to!r}, groups=2)")
        model.eval()
        ids = batch(model)["input_ids"]
        changed = ids.clone()
        changed[:, 5:] = 1
        torch.testing.assert_close(model(ids).logits[:, :5], model(changed).logits[:, :5])
