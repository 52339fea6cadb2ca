"""Learning-rate schedules that Keras has not."""

from typing import Any, Self

import keras
from keras import ops
from keras.optimizers import schedules

from keras_squeezenet.network.data_formats import Tensor
from keras_squeezenet.startup.registration import SAVED_AS


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
