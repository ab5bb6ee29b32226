"""What is kept: the intake log, batches, segments and their disposable LMDB index.

Duty: take ops in one order (LSN), make them durable, and answer "bytes of node N at LSN S".
It knows nothing of FUSE, of clocks that people read, of the network or of tape, and imports
no other package of this project. lmdb is imported by its index modules alone.
"""
