"""What people look at: HTML pages and their figures."""

from keras_squeezenet.extras import require

require("report")
