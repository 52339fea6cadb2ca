"""The learning-rate schedules that a recipe may name, and the warm-up before them."""

from typing import TYPE_CHECKING, Any, Self

import keras
from keras import ops
from keras.optimizers import schedules

from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.startup.registration import SAVED_AS

if TYPE_CHECKING:  # the registered class is of the core, recipes are not
    from keras_squeezenet.training.recipe import OptimizerSection


def learning_rate_schedule(
    section: "OptimizerSection", updates_per_epoch: int, epochs: int, ranks: int
) -> schedules.LearningRateSchedule:
    """The rate as a function of the number of updates, scaled by ranks, after a warm-up.

    The schedule spans all epochs and the warm-up multiplies its beginning by a line from 0 to 1
    (Goyal et al., arXiv 1706.02677, section 2.2: a rate scaled by ranks needs one).

    Returns:
        A `keras.optimizers.schedules.LearningRateSchedule`.
    """
    peak = (
        section.learning_rate
        * {"linear": ranks, "sqrt": ranks**0.5, None: 1}[section.scale_by_ranks]
    )
    updates = max(1, round(updates_per_epoch * epochs))
    if section.schedule == "polynomial":
        schedule = schedules.PolynomialDecay(peak, updates, 0.0, power=section.power)
    elif section.schedule == "cosine":
        schedule = schedules.CosineDecay(peak, updates)
    elif section.schedule == "step":
        boundaries = [round(epoch * updates_per_epoch) for epoch in section.step_epochs]
        values = [peak * section.step_factor**drops for drops in range(len(boundaries) + 1)]
        schedule = schedules.PiecewiseConstantDecay(boundaries, values)
    else:
        schedule = schedules.PolynomialDecay(peak, updates, peak)  # constant
    return WarmUp(schedule, round(section.warmup_epochs * updates_per_epoch))


@keras.saving.register_keras_serializable(package=SAVED_AS)
class WarmUp(schedules.LearningRateSchedule):
    """Another schedule, times a line from 0 to 1 over the first steps.

    Args:
        schedule: the schedule to begin gently.
        steps: updates until the schedule's own rate holds; 0 for no warm-up.
    """

    def __init__(self, schedule: schedules.LearningRateSchedule, steps: int) -> None:
        self.schedule = schedule
        self.steps = steps

    def __call__(self, step: Tensor) -> Tensor:
        rate = self.schedule(step)
        if self.steps == 0:
            return rate
        done = (ops.cast(step, rate.dtype) + 1) / self.steps
        return rate * ops.minimum(done, ops.ones_like(done))

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": schedules.serialize(self.schedule),
            "steps": self.steps,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(schedules.deserialize(config["schedule"]), config["steps"])
