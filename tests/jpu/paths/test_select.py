from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from jpu.paths.igi import PathScores, best
from jpu.paths.passes import Exchanges
from jpu.paths.select import Samples, contrasted, identify, overlap, rectified
from jpu.paths.selectors import Search, select

Tiny = Callable[..., LlamaForCausalLM]
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing")  # PEFT's use of transformers


def scores(*layers: list[float], k: int = 2) -> PathScores:
    tensors = [torch.tensor(layer) for layer in layers]
    return PathScores("neurons", tensors, tensors, [best(layer, k) for layer in tensors])


def test_excluded_units_are_replaced_by_the_next_best() -> None:
    jailbreak = scores([0.9, 0.8, 0.7, 0.1], [0.0, 0.2, 0.4, 0.6])
    utility = scores([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0])
    assert rectified(jailbreak, 2) == {0: [0, 1], 1: [2, 3]}
    assert rectified(jailbreak, 2, utility, 0.25) == {0: [1, 2], 1: [1, 2]}


def test_exclusion_leaves_enough_to_choose_from() -> None:
    chosen = rectified(scores([0.9, 0.8, 0.7, 0.1]), 3, scores([1.0, 0.9, 0.8, 0.0]), 1.0)
    assert chosen == {0: [1, 2, 3]}


def test_taken_units_are_not_chosen_again() -> None:
    assert rectified(scores([0.9, 0.8, 0.7, 0.1]), 2, taken={0: [0, 2]}) == {0: [1, 3]}


def test_what_carries_the_refusal_too_counts_less() -> None:
    found = {"jailbreak": scores([0.9, 0.8, 0.7, 0.1]), "contrast": scores([1.0, 0.2, 0.0, 0.9])}
    assert rectified(contrasted(found, 0.0), 2) == {0: [0, 1]}
    # 0.9 + 0, 0.8 + 0.8, 0.7 + 1, 0.1 + 0.1: the order of 0.9 - 1, 0.8 - 0.2, 0.7 - 0, 0.1 - 0.9.
    torch.testing.assert_close(contrasted(found, 1.0).scores[0], torch.tensor([0.9, 1.6, 1.7, 0.2]))
    assert rectified(contrasted(found, 1.0), 2) == {0: [1, 2]}
    # A barred unit stays barred, however low the others are.
    assert rectified(contrasted(found, 1.0), 3, scores([0.0, 0.0, 1.0, 0.0]), 0.25) == {0: [0, 1, 3]}
    assert contrasted({"jailbreak": found["jailbreak"]}, 1.0) is found["jailbreak"]


def test_the_contrast_is_read_from_the_same_prompts(tiny: Tiny, exchanges: Exchanges) -> None:
    swapped = Exchanges(exchanges.prompts, exchanges.answers[::-1])
    search = Search(k=3, steps=2, positions=2)
    found = identify(tiny(), Samples(jailbreak=exchanges, contrast=swapped), search, contrast=1.0)
    assert dict(found.path.neurons) == {
        layer: tuple(units) for layer, units in rectified(contrasted(found.neurons, 1.0), 3).items()
    }
    assert "contrast.0" in found.path.scores


def test_overlap_by_hand() -> None:
    (found,) = overlap(scores([1.0, 0.0, 1.0, 0.0]), scores([1.0, 1.0, 0.0, 0.0]))
    assert found.jaccard == pytest.approx(1 / 3)
    assert found.chance == pytest.approx(1 / 3)
    assert found.cosine == pytest.approx(0.5)


def test_identify_joins_paths_of_the_size_asked_for(tiny: Tiny, exchanges: Exchanges) -> None:
    swapped = Exchanges(exchanges.prompts, exchanges.answers[::-1])
    samples = Samples(jailbreak=exchanges, direct=swapped, safety=exchanges, utility=swapped)
    found = identify(tiny(key_heads=2), samples, Search(k=3, steps=2, positions=2), safety_k=2, heads=1, exclude=0.2)
    # The same exchanges for jailbreak and safety: a path of five all the same.
    assert [len(units) for units in found.path.neurons.values()] == [5, 5, 5]
    assert [len(units) for units in found.path.heads.values()] == [1, 1, 1]
    assert set(found.neurons) == set(found.heads) == {"jailbreak", "direct", "safety", "utility"}
    assert {"layer.0", "heads.2", "direct.1", "safety_heads.0", "utility.2"} <= set(found.path.scores)
    torch.testing.assert_close(found.path.scores["layer.1"], found.neurons["jailbreak"].scores[1])
    for layer, units in found.path.neurons.items():
        barred = best(found.neurons["utility"].scores[layer], 4)
        assert not set(rectified(found.neurons["jailbreak"], 3, found.neurons["utility"], 0.2)[layer]) & set(barred)
        assert set(units) >= set(rectified(found.neurons["jailbreak"], 3, found.neurons["utility"], 0.2)[layer])


def test_the_safety_path_is_read_from_the_frozen_original(tiny: Tiny, exchanges: Exchanges) -> None:
    config = LoraConfig(r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(tiny(), config)
    search = Search(k=2, steps=2, positions=2)
    found = identify(adapted, Samples(exchanges, safety=exchanges), search)
    plain = select(tiny(), exchanges, search)
    for layer in range(3):
        torch.testing.assert_close(found.neurons["safety"].attribution[layer], plain.attribution[layer])
    assert not torch.allclose(found.neurons["jailbreak"].attribution[0], plain.attribution[0], atol=1e-3)


def test_heads_alone_make_a_path(tiny: Tiny, exchanges: Exchanges) -> None:
    found = identify(tiny(), Samples(exchanges), Search(k=0, steps=2, positions=2), heads=2)
    assert not found.path.neurons
    assert [len(units) for units in found.path.heads.values()] == [2, 2, 2]
