"""The cost model against hand calculations, and its fit against timings with known constants."""

from dataclasses import replace

import numpy as np
import pytest

from keras_squeezenet.communication.cost_model import (
    Case,
    Costs,
    allreduce_seconds,
    computing_seconds,
    efficiency,
    fit,
    halving_seconds,
    leave_one_out,
    parameter_server_seconds,
    ring_seconds,
    sharing,
    step_seconds,
    tree_seconds,
)

FREE = Costs({"net": 0.5}, 0, 0, 0, 0, 0, 0, 0, 1.0, 0)
COSTS = Costs(
    computing={"small": 0.05, "middle": 0.2, "large": 0.1},
    message=5e-5,
    negotiating=2e-3,
    copying=9e-10,
    copying_halves=7e-9,
    buffering=5e-10,
    converting=8e-10,
    updating=6e-10,
    link_efficiency=0.96,
    crowding=0.2,
)
PARAMETERS = {"small": 1_250_000, "middle": 25_000_000, "large": 61_000_000}
ALLREDUCES = (ring_seconds, halving_seconds, tree_seconds, parameter_server_seconds)


def every_case():
    for network, parameters in PARAMETERS.items():
        for accumulation in (1, 4):
            yield Case(network, parameters, 1, None, 4, accumulation, cores=2)
            for ranks in (2, 3):
                for link in (None, 1e9, 1e8):
                    for wire_bytes in (4, 2):
                        yield Case(network, parameters, ranks, link, wire_bytes, accumulation, 2)


class TestByHand:
    # A gradient of 1 MB at 8 Mbit/s, which is 1 MB/s; four ranks.
    case = Case("net", 250_000, 4, 8e6)

    @pytest.mark.parametrize(
        ("allreduce", "payloads", "messages"),
        [
            (ring_seconds, 2 * 3 / 4, 2 * 3),
            (halving_seconds, 2 * 3 / 4, 2 * 2),
            (tree_seconds, 2 * 2, 2 * 2),
            (parameter_server_seconds, 2 * 4, 2),
        ],
    )
    def test_bytes_and_messages_of_an_allreduce(self, allreduce, payloads, messages):
        assert allreduce(FREE, self.case) == pytest.approx(payloads)
        late = replace(FREE, message=10.0)
        assert allreduce(late, self.case) == pytest.approx(payloads + 10 * messages)

    def test_a_step_is_computing_and_then_the_ring(self):
        assert step_seconds(FREE, self.case) == pytest.approx(0.5 + 1.5)

    def test_half_the_bytes_take_half_as_long(self):
        assert ring_seconds(FREE, replace(self.case, wire_bytes=2)) == pytest.approx(0.75)

    def test_four_steps_share_one_allreduce(self):
        assert allreduce_seconds(FREE, replace(self.case, accumulation=4)) == pytest.approx(0.375)

    def test_copies_are_hidden_behind_a_slow_link_and_limit_a_fast_one(self):
        copying = replace(FREE, copying=1e-7)  # 1.5 MB in 0.15 s
        assert ring_seconds(copying, self.case) == pytest.approx(1.5)
        assert ring_seconds(copying, replace(self.case, link=None)) == pytest.approx(0.15)

    def test_copies_that_outlast_the_half_that_is_summed_delay_the_other(self):
        copying = replace(
            FREE, copying=8e-7
        )  # 1.5 MB in 1.2 s, the half of them on the link in 0.75
        assert ring_seconds(copying, self.case) == pytest.approx(1.2 + 0.75)

    def test_each_allreduce_is_negotiated_once(self):
        talking = replace(FREE, negotiating=3.0)
        assert allreduce_seconds(talking, self.case) == pytest.approx(1.5 + 3)
        four = replace(self.case, accumulation=4)
        assert allreduce_seconds(talking, four) == pytest.approx((1.5 + 3) / 4)

    def test_a_burst_leaves_at_once(self):
        assert ring_seconds(FREE, replace(self.case, burst=500_000)) == pytest.approx(1.0)

    def test_a_link_of_half_its_speed_takes_twice_as_long(self):
        half = replace(FREE, link_efficiency=0.5)
        assert ring_seconds(half, self.case) == pytest.approx(3.0)

    def test_the_optimizer_works_once_for_several_steps(self):
        updating = replace(FREE, updating=1e-6)  # 1 s for 1 MB
        assert computing_seconds(updating, self.case) == pytest.approx(0.5 + 1)
        four = replace(self.case, accumulation=4)
        assert computing_seconds(updating, four) == pytest.approx(0.5 + 1 / 4)

    def test_of_three_ranks_on_two_cores_two_take_turns(self):
        crowded = replace(FREE, crowding=0.1)
        shares = [sharing(crowded, replace(self.case, ranks=n, cores=2)) for n in (1, 2, 3)]
        assert shares == pytest.approx([1, 1.1, 2.2])
        assert sharing(crowded, self.case) == 1, "with a core for each nobody waits"

    def test_one_rank_sends_nothing_and_is_perfectly_efficient(self):
        alone = replace(self.case, ranks=1)
        assert allreduce_seconds(COSTS, alone) == 0
        assert efficiency(FREE, alone) == 1

    def test_efficiency_is_the_share_of_computing(self):
        assert efficiency(FREE, self.case) == pytest.approx(0.5 / 2.0)


class TestDirection:
    @pytest.mark.parametrize("allreduce", ALLREDUCES)
    def test_more_parameters_or_a_slower_link_never_take_less(self, allreduce):
        by_size = [
            step_seconds(COSTS, Case("small", n, 8, 1e9), allreduce)
            for n in np.geomspace(1e4, 1e9, 30).astype(int)
        ]
        by_link = [
            step_seconds(COSTS, Case("small", 10**6, 8, link), allreduce)
            for link in np.geomspace(1e11, 1e6, 30)
        ]
        for seconds in (by_size, by_link):
            assert (np.diff(seconds) >= 0).all()
            assert seconds[-1] > 10 * seconds[0]

    def test_one_parameter_server_is_the_worst_of_many_workers(self):
        case = Case("middle", PARAMETERS["middle"], 128, 1e10)
        ring, halving, tree, server = (
            efficiency(COSTS, case, allreduce) for allreduce in ALLREDUCES
        )
        assert halving > ring > tree > server

    def test_a_ring_of_many_workers_is_limited_by_its_messages(self):
        case = Case("small", PARAMETERS["small"], 1024, 1e11)
        assert ring_seconds(COSTS, case) > 2046 * COSTS.message
        assert halving_seconds(COSTS, case) < ring_seconds(COSTS, case) / 5


class TestFit:
    def test_constants_are_recovered_from_their_own_timings(self):
        cases = list(every_case())
        found = fit(cases, [step_seconds(COSTS, case) for case in cases], COSTS.message)
        for network, seconds in COSTS.computing.items():
            assert found.computing[network] == pytest.approx(seconds, rel=0.02)
        for name in (
            *("negotiating", "copying", "copying_halves", "buffering", "converting", "updating"),
            *("link_efficiency", "crowding"),
        ):
            assert getattr(found, name) == pytest.approx(getattr(COSTS, name), rel=0.02), name

    def test_noise_of_five_percent_and_an_outlier_move_predictions_little(self):
        cases = list(every_case())
        noise = np.random.default_rng(0).lognormal(0, 0.05, len(cases))
        noise[40] = 3
        measured = [
            step_seconds(COSTS, case) * factor for case, factor in zip(cases, noise, strict=True)
        ]
        found = fit(cases, measured, COSTS.message)
        errors = [step_seconds(found, case) / step_seconds(COSTS, case) - 1 for case in cases]
        assert np.abs(errors).max() < 0.1

    def test_a_left_out_case_is_predicted_from_the_others_alone(self):
        cases = list(every_case())
        seconds = np.array([step_seconds(COSTS, case) for case in cases])
        wanted = ("large", 3, 1e9)
        of_it = [(case.network, case.ranks, case.link) == wanted for case in cases]
        found = leave_one_out(
            cases, np.where(of_it, 10 * seconds, seconds), COSTS.message, [wanted]
        )
        assert len(found) == sum(of_it) == 4
        for prediction in found:
            assert prediction.error == pytest.approx(-0.9, abs=0.005)

    def test_by_default_each_group_on_several_ranks_is_left_out_once(self):
        cases = list(every_case())[:14]  # the smallest network with one step at a time
        seconds = [step_seconds(COSTS, case) for case in cases]
        found = leave_one_out(cases, seconds, COSTS.message)
        assert sorted(map(hash, (each.case for each in found))) == sorted(
            hash(case) for case in cases if case.ranks > 1
        )

    @pytest.mark.parametrize("seconds", [[], [0.0], [1.0, 2.0]])
    def test_impossible_timings_are_refused(self, seconds):
        with pytest.raises(ValueError, match="Expected a positive time"):
            fit([Case("small", 1, 1, None)], seconds, 0.0)
