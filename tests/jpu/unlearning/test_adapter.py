from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from jpu.errors import ModelError
from jpu.paths.path import Path
from jpu.unlearning.adapter import (
    adapter_factors,
    adapter_path,
    attach,
    detach,
    load_adapter,
    save_adapter,
    trainable_parameters,
)
from jpu.unlearning.trained import Trained

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT's use of transformers

IDS = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
PATH = Path({0: [1, 5, 9], 2: [0, 19]})
SECOND = Path({0: [4, 5], 1: [7]})
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GATE = "base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight"


def tiny(key_heads: int = 4, seed: int = 0, layers: int = 3) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=20,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=key_heads,
        max_position_embeddings=64,
        initializer_range=0.3,
        tie_word_embeddings=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
        return found


def train(model: PeftModel, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS, use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def merged(model: PeftModel) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.merge_and_unload().state_dict().items()}


@pytest.fixture
def trained(tmp_path: pathlib.Path) -> tuple[PeftModel, pathlib.Path]:
    model = attach(tiny(), PATH, trained=Trained(rank=2))
    train(model)
    save_adapter(model, tmp_path / "adapter")
    return model, tmp_path / "adapter"


def test_a_fresh_adapter_changes_nothing_and_draws_no_random_number() -> None:
    state = torch.random.get_rng_state()
    model = attach(tiny(), PATH, trained=Trained(rank=2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(logits(model), logits(tiny()))


def test_training_moves_the_paths_rows_and_columns_and_nothing_else() -> None:
    before = tiny().state_dict()
    model = attach(tiny(), PATH)
    train(model, 3)
    base = {key.replace(".base_layer", ""): value for key, value in model.get_base_model().state_dict().items()}
    for key, value in before.items():
        assert torch.equal(base[key], value), key
    after = merged(model)
    for key, value in before.items():
        rows = torch.zeros_like(value, dtype=torch.bool)
        layer = int(key.split(".")[2]) if "layers" in key else -1
        units = list(PATH.neurons.get(layer, ()))
        if "gate_proj" in key or "up_proj" in key:
            rows[units] = True
        elif "down_proj" in key:
            rows[:, units] = True
        assert torch.equal(after[key][~rows], value[~rows]), key
        if units and "mlp" in key:
            assert not torch.equal(after[key][rows], value[rows]), key


@pytest.mark.parametrize("key_heads", [4, 2])
def test_path_heads_move_their_own_blocks_only(key_heads: int) -> None:
    before = tiny(key_heads).state_dict()
    model = attach(tiny(key_heads), Path({}, {1: [2]}))
    train(model, 3)
    after = merged(model)
    shared = 2 * key_heads // 4
    blocks = {
        "model.layers.1.self_attn.q_proj.weight": (slice(16, 24), slice(None)),
        "model.layers.1.self_attn.k_proj.weight": (slice(shared * 8, shared * 8 + 8), slice(None)),
        "model.layers.1.self_attn.v_proj.weight": (slice(shared * 8, shared * 8 + 8), slice(None)),
        "model.layers.1.self_attn.o_proj.weight": (slice(None), slice(16, 24)),
    }
    for key, value in before.items():
        moved = after[key] != value
        if key in blocks:
            assert moved[blocks[key]].any()
            moved[blocks[key]] = False
        assert not moved.any(), key


def test_trainable_parameters_are_the_free_factors() -> None:
    model = attach(tiny(), PATH, trained=Trained(rank=2, layers=[1]))
    names = list(trainable_parameters(model))
    assert names == sorted(names)
    assert sum(".mlp." in name for name in names) == 6  # two layers: A of gate and up, B of down
    assert sum(".self_attn." in name for name in names) == 8 and all(".layers.1." in n for n in names if "attn" in n)
    assert sum(part.numel() for name, part in trainable_parameters(model).items() if ".mlp." in name) == 5 * 3 * 32


def test_merged_computes_the_same(trained: tuple[PeftModel, pathlib.Path]) -> None:
    model, _ = trained
    before = logits(model)
    assert not torch.allclose(before, logits(tiny()), atol=1e-2)
    torch.testing.assert_close(logits(model.merge_and_unload()), before, atol=1e-4, rtol=0)


def test_disabled_is_the_original_exactly(trained: tuple[PeftModel, pathlib.Path]) -> None:
    model, _ = trained
    with model.disable_adapter():
        assert torch.equal(logits(model), logits(tiny()))


def test_reloaded_is_the_same_exactly(trained: tuple[PeftModel, pathlib.Path]) -> None:
    model, folder = trained
    loaded = load_adapter(tiny(), folder)
    assert torch.equal(logits(loaded), logits(model))
    assert not trainable_parameters(loaded)


def test_reloaded_to_train_keeps_the_choice_frozen(trained: tuple[PeftModel, pathlib.Path]) -> None:
    model, folder = trained
    loaded = load_adapter(tiny(), folder, trainable=True)
    assert list(trainable_parameters(loaded)) == list(trainable_parameters(model))
    train(loaded)
    assert adapter_path(adapter_factors(loaded)) == PATH
    assert not torch.equal(logits(loaded), logits(model))


def test_plain_peft_reads_the_folder(trained: tuple[PeftModel, pathlib.Path]) -> None:
    model, folder = trained
    plain = PeftModel.from_pretrained(tiny(), str(folder))
    assert torch.equal(logits(plain), logits(model))


def test_a_folder_of_many_modules_is_read_by_plain_peft(tmp_path: pathlib.Path) -> None:
    """PEFT shortens long lists of modules to suffixes; layers that are left out must stay out."""
    path = Path({layer: [layer] for layer in range(12) if layer != 1})
    model = attach(tiny(layers=12), path, trained=Trained(rank=1, layers=[1, 11]))
    train(model)
    save_adapter(model, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert len(config["target_modules"]) == 11 * 3 + 2 * 4
    assert all(name.startswith("model.layers.") for name in config["target_modules"])
    plain = PeftModel.from_pretrained(tiny(layers=12), str(tmp_path / "adapter"))
    assert torch.equal(logits(plain), logits(model))
    assert torch.equal(logits(load_adapter(tiny(layers=12), tmp_path / "adapter")), logits(model))


def test_equal_adapters_give_equal_bytes_and_name_no_machine(
    trained: tuple[PeftModel, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    _, folder = trained
    model = attach(tiny(), PATH, trained=Trained(rank=2))
    model.get_base_model().config._name_or_path = str(tmp_path)
    train(model)
    save_adapter(model, tmp_path / "again")
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert str(tmp_path) not in (tmp_path / "again" / "adapter_config.json").read_text()


def test_the_seed_makes_the_attention_start() -> None:
    first, same, other = (
        adapter_factors(attach(tiny(), Path(), trained=Trained(rank=2), seed=seed)) for seed in (0, 0, 1)
    )
    name = "model.layers.0.self_attn.q_proj"
    assert torch.equal(first[name].a, same[name].a) and not torch.equal(first[name].a, other[name].a)
    assert first[name].b.abs().sum() == 0 and first[name].fixed is None


def test_a_union_computes_the_same_and_keeps_trained_rows(trained: tuple[PeftModel, pathlib.Path]) -> None:
    model, folder = trained
    joined = attach(tiny(), SECOND, trained=Trained(rank=2), previous=folder)
    torch.testing.assert_close(logits(joined), logits(model), atol=1e-5, rtol=0)
    before, after = adapter_factors(model), adapter_factors(joined)
    assert adapter_path(after) == PATH.union(SECOND)
    gate = "model.layers.0.mlp.gate_proj"
    assert after[gate].units == [1, 4, 5, 9]
    assert torch.equal(after[gate].a[[0, 2, 3]], before[gate].a) and after[gate].a[1].abs().sum() == 0
    down = "model.layers.0.mlp.down_proj"
    assert torch.equal(after[down].b[:, [0, 2, 3]], before[down].b) and after[down].b[:, 1].abs().sum() == 0
    attention = "model.layers.1.self_attn.v_proj"
    assert torch.equal(after[attention].a, before[attention].a)
    assert torch.equal(after[attention].b, before[attention].b)


def test_a_union_trains_on_and_grows_the_attention_rank(trained: tuple[PeftModel, pathlib.Path]) -> None:
    model, folder = trained
    joined = attach(tiny(), SECOND, trained=Trained(rank=3), previous=folder)
    assert adapter_factors(joined)["model.layers.0.self_attn.q_proj"].rank == 3
    torch.testing.assert_close(logits(joined), logits(model), atol=1e-5, rtol=0)
    train(joined)
    assert not torch.allclose(logits(joined), logits(model), atol=1e-3)


def test_a_previous_round_without_attention_factors_gets_new_ones(tmp_path: pathlib.Path) -> None:
    first = attach(tiny(), PATH)
    train(first)
    save_adapter(first, tmp_path / "adapter")
    joined = attach(tiny(), Path(), trained=Trained(rank=2), previous=tmp_path / "adapter")
    torch.testing.assert_close(logits(joined), logits(first), atol=1e-5, rtol=0)
    assert adapter_path(adapter_factors(joined)) == PATH


def test_round_zero_counts_as_no_adapter(tmp_path: pathlib.Path) -> None:
    (tmp_path / "round.json").write_text('{"rank": 0, "converged": false}')
    assert torch.equal(logits(attach(tiny(), PATH, previous=tmp_path)), logits(tiny()))
    with pytest.raises(ModelError, match="no adapter in this folder"):
        load_adapter(tiny(), tmp_path)


def test_detached_and_attached_again_with_a_larger_path(trained: tuple[PeftModel, pathlib.Path]) -> None:
    model, _ = trained
    before = logits(model)
    bare, factors = detach(model)
    assert torch.equal(logits(bare), logits(tiny()))
    torch.testing.assert_close(
        logits(attach(bare, SECOND, trained=Trained(rank=2), previous=factors)), before, atol=1e-5, rtol=0
    )


def test_a_plain_lora_of_another_maker_is_read(tmp_path: pathlib.Path) -> None:
    config = LoraConfig(
        r=3,
        lora_alpha=6,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = get_peft_model(tiny(), config)
    plain.save_pretrained(str(tmp_path / "plain"))
    loaded = load_adapter(tiny(), tmp_path / "plain", trainable=True)
    assert torch.equal(logits(loaded), logits(plain))
    assert len(trainable_parameters(loaded)) == 12
    save_adapter(loaded, tmp_path / "again")
    again = PeftModel.from_pretrained(tiny(), str(tmp_path / "again"))
    assert torch.equal(logits(again), logits(plain))


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"path": Path()}, "nothing to train"),
        ({"path": Path({0: [20]})}, "no unit 20"),
        ({"path": Path({3: [0]})}, "no layer 3"),
        ({"path": Path({}, {0: [4]})}, "no unit 39"),
        ({"path": Path({}, {0: [1]}), "trained": Trained(rank=2)}, "both path heads and an attention LoRA"),
    ],
)
def test_what_cannot_be_attached_is_refused_and_leaves_the_model_bare(arguments: dict[str, Any], what: str) -> None:
    model = tiny()
    with pytest.raises(ModelError, match=what) as caught:
        attach(model, **arguments)
    assert caught.value.mend
    assert not any("lora" in name for name, _ in model.named_modules())


def test_attention_trained_in_two_ways_is_refused(trained: tuple[PeftModel, pathlib.Path]) -> None:
    _, folder = trained
    with pytest.raises(ModelError, match="trained in another way"):
        attach(tiny(), Path({}, {0: [1]}), previous=folder)


def test_a_model_with_an_adapter_is_refused(trained: tuple[PeftModel, pathlib.Path]) -> None:
    model, folder = trained
    with pytest.raises(ModelError, match="already has an adapter"):
        attach(model, PATH)
    with pytest.raises(ModelError, match="already has an adapter"):
        load_adapter(model, folder)


def _cut(folder: pathlib.Path) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-11])


def _garbage(folder: pathlib.Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\xff" * 64)


def _empty(folder: pathlib.Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def _without(name: str) -> Callable[[pathlib.Path], None]:
    return lambda folder: (folder / name).unlink()


def _pickled(folder: pathlib.Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def _tensor(value: torch.Tensor | None, name: str = GATE) -> Callable[[pathlib.Path], None]:
    """Put `value` under `name`, or, without a value, drop every tensor whose name holds it."""

    def mutate(folder: pathlib.Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        if value is None:
            tensors = {key: tensor for key, tensor in tensors.items() if name not in key}
        else:
            tensors[name] = value
        save_file(tensors, folder / WEIGHTS)

    return mutate


def _config(**fields: Any) -> Callable[[pathlib.Path], None]:
    def mutate(folder: pathlib.Path) -> None:
        index = folder / CONFIG
        index.write_text(json.dumps(json.loads(index.read_text()) | fields))

    return mutate


def _text(text: str) -> Callable[[pathlib.Path], None]:
    def mutate(folder: pathlib.Path) -> None:
        (folder / CONFIG).write_text(text)

    return mutate


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        pytest.param(_cut, WEIGHTS, id="cut off"),
        pytest.param(_garbage, WEIGHTS, id="garbage"),
        pytest.param(_empty, WEIGHTS, id="empty"),
        pytest.param(_without(WEIGHTS), WEIGHTS, id="no weights"),
        pytest.param(_without(CONFIG), CONFIG, id="no config"),
        pytest.param(_pickled, "adapter_model.bin", id="pickled"),
        pytest.param(_tensor(None), WEIGHTS, id="half a module"),
        pytest.param(_tensor(None, "layers.0.mlp.gate"), WEIGHTS, id="a module too few"),
        pytest.param(_tensor(torch.zeros(2, 2), "model.embed_tokens.weight"), WEIGHTS, id="a tensor too many"),
        pytest.param(_tensor(torch.zeros(4, 32)), WEIGHTS, id="another rank"),
        pytest.param(_tensor(torch.zeros(3, 31)), WEIGHTS, id="another width"),
        pytest.param(_tensor(torch.zeros(3)), WEIGHTS, id="not a matrix"),
        pytest.param(_tensor(torch.zeros(3, 32, dtype=torch.int64)), WEIGHTS, id="not floating"),
        pytest.param(_tensor(torch.full((3, 32), float("nan"))), WEIGHTS, id="not finite"),
        pytest.param(_text("{"), CONFIG, id="config cut off"),
        pytest.param(_text("[]"), CONFIG, id="config no object"),
        pytest.param(_config(peft_type="IA3"), CONFIG, id="not LoRA"),
        pytest.param(_config(r=0), CONFIG, id="rank 0"),
        pytest.param(_config(lora_alpha="16"), CONFIG, id="alpha no number"),
        pytest.param(_config(rank_pattern={"gate_proj": -1}), CONFIG, id="negative rank"),
        pytest.param(_config(rank_pattern={"(": 3}), CONFIG, id="unreadable pattern"),
        pytest.param(_config(use_dora=True), CONFIG, id="DoRA"),
        pytest.param(_config(modules_to_save=["lm_head"]), CONFIG, id="modules to save"),
        pytest.param(_config(surprise=1), CONFIG, id="unknown field"),
        pytest.param(_config(target_modules="all-linear"), CONFIG, id="targets no list"),
        pytest.param(_config(target_modules=["lm_head"]), WEIGHTS, id="other targets"),
    ],
)
def test_a_spoiled_folder_is_refused_before_the_model_is_touched(
    trained: tuple[PeftModel, pathlib.Path],
    tmp_path: pathlib.Path,
    spoil: Callable[[pathlib.Path], None],
    where: str,
) -> None:
    _, folder = trained
    shutil.copytree(folder, tmp_path / "spoiled")
    spoil(tmp_path / "spoiled")
    model = tiny()
    with pytest.raises(ModelError) as caught:
        load_adapter(model, tmp_path / "spoiled")
    assert str(tmp_path / "spoiled" / where) in str(caught.value)
    assert caught.value.mend
    assert not any("lora" in name for name, _ in model.named_modules())


def test_an_adapter_of_another_model_is_refused(trained: tuple[PeftModel, pathlib.Path]) -> None:
    _, folder = trained
    with pytest.raises(ModelError, match="the model's is") as caught:
        load_adapter(tiny(key_heads=2), folder)
    assert WEIGHTS in str(caught.value)
    with pytest.raises(ModelError, match="no linear module"):
        load_adapter(tiny(layers=2), folder)
