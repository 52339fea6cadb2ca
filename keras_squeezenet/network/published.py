"""Files on the web that ImageNet's networks and classes come from: where, and their hashes.

What is said of their licences is in `catalogue`.
"""

from keras_squeezenet.downloads import PublishedFile

WEIGHTS = {
    # The paper's authors' own, pruned and 8-bit (arXiv 1510.00149).
    "1.0": PublishedFile(
        what="ImageNet weights of SqueezeNet 1.0",
        name="compressed_SqueezeNet.net",
        url="https://raw.githubusercontent.com/songhan/SqueezeNet-Deep-Compression/"
        "fb13faa2cf121ced9999f8a9d538ec6c56084733/compressed_SqueezeNet.net",
        sha256="e4ab6960ae8cd81505e1c2136921201507e930966c53deaf15862a395b3a3261",
    ),
    # The authors' too, as ncnn keeps them: float16 kernels.
    "1.1": PublishedFile(
        what="ImageNet weights of SqueezeNet 1.1",
        name="squeezenet_v1.1.bin",
        url="https://raw.githubusercontent.com/nihui/ncnn-assets/"
        "9489f876aebdaa846af3786f70ea5da6be198243/models/squeezenet_v1.1.bin",
        sha256="928c82c485a16064df88794d83c333025055e60c08f73217222244ab0ed2dbc6",
    ),
}
# Keras's own, under Keras's name: who has used `decode_predictions` there has it already.
CLASS_INDEX = PublishedFile(
    what="ImageNet class index",
    name="imagenet_class_index.json",
    url="https://storage.googleapis.com/download.tensorflow.org/data/imagenet_class_index.json",
    sha256="a1e7a966a1f601d39e4b43e119b3e7dd4a2ad3ea08cf69847cbaf021013767bc",
)
