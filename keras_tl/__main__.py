"""`python -m keras_tl` is the command `keras-tl`."""

from keras_tl.cli import main

main()
