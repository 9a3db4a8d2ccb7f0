"""Philox4x32-10 against the known answers published with it (Random123, kat_vectors)."""

from typing import Any

import pytest
import torch

from sparsetrain.reference.philox import philox4x32, uniform

ZERO = torch.tensor(0)


def words(text) -> Any:
    """Give the words of a line of the published file, as many as there are."""
    return tuple(torch.tensor(int(word, 16)) for word in text.split())


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        (
            "00000000 00000000 00000000 00000000",
            "00000000 00000000",
            "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
        ),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_known_answers(counter, key, answer):
    assert philox4x32(words(counter), words(key)) == words(answer)


def test_number_n_is_word_n_mod_4_of_counter_n_div_4_shifted_to_24_bits():
    seed = (0x299F31D0 << 32 | 0xA4093822) - (1 << 64) * (0x299F31D0 >> 31)
    u = uniform(torch.tensor([seed]), 11)
    for n in range(11):
        counter = (torch.tensor(n // 4), ZERO, ZERO, ZERO)
        word = philox4x32(counter, words("a4093822 299f31d0"))[n % 4]
        assert u[n].item() == int(word) // 2**8 / 2**24


def test_a_negative_seed_is_its_64_bits():
    word = philox4x32((ZERO, ZERO, ZERO, ZERO), words("ffffffff ffffffff"))[0]
    assert uniform(torch.tensor([-1]), 1).item() == int(word) // 2**8 / 2**24


def test_numbers_are_uniform_below_one():
    u = uniform(torch.tensor([7]), 100_000)
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    share = torch.histc(u, bins=10, min=0, max=1) / u.numel()
    assert (share - 0.1).abs().max() < 5 * (0.09 / u.numel()) ** 0.5


def test_no_numbers_are_an_empty_tensor():
    assert uniform(torch.tensor([7]), 0).shape == (0,)
