"""Read and convert the same images with arraystore, with its peers, and with the limit, in one run.

::

    python -m benchmarks.suite DIR [--size small|full|BYTES] [--rounds N] [--peers WORD ...]

`data` makes the images, `peers` has a class for each format, `measures` times what they do in
this process and `fresh` in new ones, `report` shows it.
"""
