"""Philox4x32-10 against the known answers published with it (Random123, kat_vectors)."""

from typing import Any

import pytest
import torch

from sparsetrain.reference.philox import philox4x32, random_words, uniform24

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


def test_a_place_is_word_c_mod_4_of_counter_c_div_4_and_row():
    seed = (0x299F31D0 << 32 | 0xA4093822) - (1 << 64) * (0x299F31D0 >> 31)
    got = random_words(torch.tensor([seed]), 3, 11, stream=5)
    assert got.shape == (3, 11)
    for row in range(3):
        for column in range(11):
            counter = (torch.tensor(column // 4), torch.tensor(row), ZERO, torch.tensor(5))
            word = philox4x32(counter, words("a4093822 299f31d0"))[column % 4]
            assert got[row, column] == word


def test_a_negative_seed_is_its_64_bits():
    word = philox4x32((ZERO, ZERO, ZERO, ZERO), words("ffffffff ffffffff"))[0]
    assert random_words(torch.tensor([-1]), 1, 1, stream=0).tolist() == [[int(word)]]


def test_a_number_is_the_high_24_bits_of_its_word():
    word = torch.tensor([0, 255, 256, 0x80000000, 0xFFFFFFFF])
    u = uniform24(word)
    assert u.dtype == torch.float32
    assert u.tolist() == [0, 0, 2**-24, 0.5, 1 - 2**-24]


def test_numbers_are_uniform():
    u = uniform24(random_words(torch.tensor([7]), 250, 400, stream=0))
    share = torch.histc(u, bins=10, min=0, max=1) / u.numel()
    assert (share - 0.1).abs().max() < 5 * (0.09 / u.numel()) ** 0.5


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_no_places_are_an_empty_tensor(shape):
    assert random_words(torch.tensor([7]), *shape, stream=0).shape == shape
