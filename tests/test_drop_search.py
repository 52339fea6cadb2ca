"""The search for the smallest file that loses no more than it may."""

from types import SimpleNamespace

import numpy as np
import pytest

from keras_squeezenet.compression.without_training import drop_search
from keras_squeezenet.errors import InputError


class TestSearch:
    """A million weights; a network is a price, and its file has 1/price bytes."""

    MODEL = SimpleNamespace(count_params=lambda: 1_000_000)

    @pytest.fixture(autouse=True)
    def prices(self, monkeypatch):
        self.sizes = []

        def price_for(size):
            self.sizes.append(size)
            return 1 / size

        rounding = SimpleNamespace(price_for=price_for, network=lambda price: price)
        monkeypatch.setattr(drop_search, "Rounding", lambda *_, **__: rounding)
        monkeypatch.setattr(drop_search.sqz, "encode", lambda price: bytes(round(1 / price)))

    @pytest.mark.parametrize("least_size", [900_000, 400_000, 187_501, 187_499, 50_000])
    def test_it_ends_near_the_price_at_which_no_more_is_lost(self, least_size):
        found = drop_search.fit_to_drop(
            self.MODEL, None, lambda price: 1e6 * price, 1e6 / least_size
        )
        assert least_size <= 1 / found <= np.sqrt(2) * least_size

    def test_where_nothing_is_lost_it_ends_with_the_highest_price(self):
        found = drop_search.fit_to_drop(self.MODEL, None, lambda price: 0.0, 0.0)
        assert found == pytest.approx(drop_search.PRICES[1])
        assert self.sizes == [187_500], (
            "the price of 8 bits a weight, which takes long, is not asked"
        )

    @pytest.mark.parametrize("largest", [150_000, 60_000])
    def test_files_that_are_smaller_at_any_price_still_get_coarser(self, monkeypatch, largest):
        """A pruned network's: up to some price all are alike."""
        monkeypatch.setattr(
            drop_search.sqz, "encode", lambda price: bytes(min(largest, round(1 / price)))
        )
        rounding = SimpleNamespace(
            price_for=lambda size: 1e-10 if size > largest else 1 / size,
            network=lambda price: price,
            largest_size=lambda: largest,
        )
        monkeypatch.setattr(drop_search, "Rounding", lambda *_, **__: rounding)
        found = drop_search.fit_to_drop(self.MODEL, None, lambda price: 1e6 * price, 1e6 / 20_000)
        assert 20_000 <= 1 / found <= np.sqrt(2) * 20_000

    def test_where_nothing_is_gained_it_ends(self, monkeypatch):
        monkeypatch.setattr(drop_search.sqz, "encode", lambda price: b"all alike")
        lines = []
        drop_search.fit_to_drop(self.MODEL, None, lambda price: 0.0, 0.0, progress=lines.append)
        assert len(lines) == 2

    def test_a_loss_that_8_bits_a_weight_exceed_is_refused(self):
        with pytest.raises(InputError, match="Received: max_drop=0,"):
            drop_search.fit_to_drop(self.MODEL, None, lambda price: price, 0)
