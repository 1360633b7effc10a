"""Read and convert the same images with arraystore, its peers and a flat file, in one run.

::

    python -m benchmarks.suite DIR [--size small|full|BYTES] [--rounds N] [--peers WORD ...]

`data` makes the images, `peers` has a class for each format, `measures` times operations in this
process, `fresh` those in new processes, and `report` prints the figures.
"""
