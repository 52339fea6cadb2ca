#!/bin/sh
# make demo: train on real images with Horovod, export, compress, and make pages of it.
#   sh tools/demo.sh FOLDER RANKS
# Repeated, it goes on where it was: a finished training is not run again.
set -eu
run=$1
ranks=$2
bin=.venv/bin

# horovodrun imports TensorFlow itself, and would let it greet.
horovodrun() {
  "$bin/python" -c 'import keras_squeezenet.startup.quiet, sys, horovod.runner.launch as launch
sys.exit(launch.run_commandline())' "$@"
}

set -- "$bin/python" train/train.py --recipe train/recipes/digits.yaml --output "$run" --resume
if [ -x "$bin/horovodrun" ]; then
  horovodrun --gloo -np "$ranks" "$@"
else
  echo "Horovod is not installed: training in one process" >&2
  "$@"
fi

for quantize in none float16 dynamic int8; do
  $bin/keras-squeezenet export "$run/model.keras" "$run/model-$quantize.tflite" --quantize $quantize
done
$bin/keras-squeezenet report "$run"

if [ ! "$run/compressed/report.html" -nt "$run/model.keras" ]; then
  $bin/python train/optimize.py "$run"
fi
echo "the report of the compression: $run/compressed/report.html"
