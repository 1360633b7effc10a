"""Objects in a bucket or behind a web server, read where they lie.

`address` says what an address and its options mean, `profiles` what the vendors'
files and variables add, `stores` opens what they name (the only module that imports
obstore), `reader` reads byte ranges of it, `loop` runs that in one background thread
a process, and `told` tells what went wrong. All of it is imported when it is needed.
"""
