"""The figures of all reports, a function for each.

Each figure is drawn on its own canvas (Agg), without pyplot and its state, and shown on the page at
100 CSS pixels to the inch, so that its text is as large as the page's. Names of classes and files
come from folders that anybody may have made: they are shown as they are, never as mathematics.
"""

from keras_squeezenet.reports.figures.compression import (
    bytes_spent,
    density_and_bits,
    file_sizes,
    size_and_accuracy,
    weight_histograms,
)
from keras_squeezenet.reports.figures.drawing import CSS_PIXELS_PER_INCH, DPI, PHOTO_DPI
from keras_squeezenet.reports.figures.evaluation import (
    confusion_matrix,
    mistake_caption,
    most_confused,
    worst_mistakes,
)
from keras_squeezenet.reports.figures.grad_cam import (
    EXPLAINED_PICTURES,
    EXPLAINED_SIDE,
    Explanation,
    explanations,
)
from keras_squeezenet.reports.figures.profile import layer_costs
from keras_squeezenet.reports.figures.training import learning_curves

__all__ = [
    "CSS_PIXELS_PER_INCH",
    "DPI",
    "EXPLAINED_PICTURES",
    "EXPLAINED_SIDE",
    "PHOTO_DPI",
    "Explanation",
    "bytes_spent",
    "confusion_matrix",
    "density_and_bits",
    "explanations",
    "file_sizes",
    "layer_costs",
    "learning_curves",
    "mistake_caption",
    "most_confused",
    "size_and_accuracy",
    "weight_histograms",
    "worst_mistakes",
]
