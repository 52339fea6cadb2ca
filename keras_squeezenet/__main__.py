"""`python -m keras_squeezenet`: the command `keras-squeezenet`."""

from keras_squeezenet.cli import main

if __name__ == "__main__":
    main()
