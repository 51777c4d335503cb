"""What the layers for sequences cost beside their maths written by hand: as `layers.py`.

`CRF.forward` and `.train` are of the likelihood, `CRF.decode.forward` is Viterbi's way. The cells
run in `keras.layers.RNN`. `Seq2Seq` has attention; its beam search is of width 4 and 32 tokens.
"""

from __future__ import annotations

from functools import partial

from common import main
from layers import measure

if __name__ == "__main__":
    main(__doc__, partial(measure, cases="sequence_cases", peers_in="sequences_in"))
