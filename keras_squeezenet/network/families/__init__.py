"""Families of small networks to compare SqueezeNet with: those of papers that Keras does not have.

| module | what is there |
|---|---|
| `alexnet` | AlexNet, as it was published |
| `vgg` | VGG in any width, with batch normalization |
| `shufflenet` | ShuffleNet, version 1 |
| `condensenet` | CondenseNet |
| `condensing` | its training and its form for inference |
| `layers`, `learned_groups` | the layers that Keras does not have, registered |
| `contract` | what the constructors share: input, preprocessing, top, weights |
| `blocks` | what several networks are made of |
"""
