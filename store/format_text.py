"""The prose of docs/format.md: what no table says. Pure; for `format_doc` only."""

from __future__ import annotations

INTRODUCTION = """\
# On-disk format of a store

This page is generated from the code (`python -m store.format_doc`); a check in `scripts/check`
and a test fail when it is not current. Numbers are little-endian and unpadded unless it says
otherwise. Checksums named xxh3 are XXH3-64 with seed 0; digests are BLAKE3-256.

Every binary file of our own begins with a magic, the format version and mandatory-feature bits. A
file of a newer version, or with a feature bit that this version does not know, is refused by name
and left alone.

## Folder

| path | what | written by |
| --- | --- | --- |
| `volume.toml` | what the volume is; replaced atomically | the command line |
| `intake/NNNN.ring` | the intake log: ring files of one size, recycled | fsd |
| `segments/FIRST-open.seg` | the segment that batches are appended to; at most one | indexer |
| `segments/FIRST-LAST.seg` | a sealed segment: never changed again | indexer |
| `index/*.mdb` | the LMDB index; can be made again from the segments | indexer |
| `index.new/` | an index that is being rebuilt; left over only by a crash | reindex |
| `state` | shared counters; worthless after a crash, reset at mount | fsd, indexer |
| `lock`, `indexer.lock` | flock(2)ed by the session and by the one writer of the journal | both |
| `control.sock`, `log/` | control socket; logs of the daemon | fsd |

FIRST and LAST are LSNs as 16 hexadecimal digits. Segments join without a gap: FIRST is the
preceding LAST plus one (but for the jump to where the history of a copy begins, see below), and
the first batch of a segment names the digest of the last batch of the one before it. The folder is
0700 and every file in it 0600.

A segment is its header and then batches, back to back. A batch is its header, the frame directory,
the op metadata and the payload frames. Frames cut the raw payload of the batch every FRAME_BYTES
(only the last is shorter), so position P of the payload is in frame P // FRAME_BYTES. A frame is
stored raw unless zstd makes it smaller than 97 % of its raw size.
"""

KINDS = """\
LSN 1 is the MOUNT op of the first session. An ABORT always stands directly behind the op it
cancels, in the same batch. The columns node and offset say what these fields hold.

A *copy* of a volume may begin in the midst of its history, at LSN L, as one made from a tape set
does. Its first batches, the *baseline batches* with LSNs from 1 on (all below L), are no history
but describe the tree at L; all their ops have the flag BASELINE, and times right before that of L.
The first of them is a BASELINE op whose offset is L. Then come, in any order: an ADOPT for each
node (offset L), with all that it was; ADOPT_NAME for its further names (offset L); SETXATTR for
extended attributes that had no room there; BASE for content, at any offset, of which what none
holds are holes; ACTOR with the LSN that the op has in the volume's history as offset;
BASELINE_ROWS. Names may come before their directories, all else of a node only behind its ADOPT.
The next batch starts with a BASELINE op without the flag, at LSN L, in place of the op that the
site has there, and goes on with what follows on it in the site's batch. It carries the site's
digest of that batch, so that the site's next batch follows from it; behind it everything is as at
the site. Ops there that adopt what was seen at L or before, or bring its content, say nothing new.
If the site's op at L sets a mark, the BASELINE op has its name as payload.
"""

PAYLOADS = """\
Payloads that are not mere bytes or names begin with one of these tables. Names are bytes without
NUL and slash. The payload of SETXATTR is the attribute's name (`offset` says how long) and its
value; a BASE op without payload is a hole.
"""

INDEX = """\
One LMDB environment with these tables. Keys are big-endian, so that their order is that of the
numbers in them. The index holds nothing that the segments don't: it may be deleted at any time
while the volume is not mounted, and `cdpfs reindex` makes it again. An index of another
INDEX_VERSION is rebuilt, never converted.
"""

ORDER = """\
## Order of writes, and what a crash leaves

An op, by fsd. After each step stands what a crash right behind it leaves:

1. The record is appended to the intake log (page cache). The op is in the log; recovery makes the
   tree agree with it.
2. The backing tree is changed. The same, already done.
3. When the backing call failed, an ABORT record. The op is in the log and cancelled.
4. At an fsync(2) of an application, fdatasync of the ring files. Everything up to there survives a
   power loss as well.

When a record does not fit, the header of the next ring file is written with the next generation
and the LSN to come. A ring file is taken into use again only when the journal has committed its
last op and the backing tree has been flushed. A torn record at the end of the log is cut off (it
was never acknowledged as durable); a broken one with valid successors is damage, is reported and
nothing is cut.

A commit of the journal, by the indexer, in the same manner:

1. Batches are written to the open segment. Bytes behind the end that the index names, perhaps torn;
   or an open segment that the index does not name.
2. fdatasync of the segment, and fsync of `segments/` if its name is new. The same, whole.
3. LMDB commit with full sync: the index names the batches. Segment and index agree.
4. `state` shows the LSN; from then on the ring files behind it may be recycled. The same.
5. A segment of 64 MiB or more is renamed to its sealed name, with fsync of `segments/`. A sealed
   segment; the next batch starts a new one.

At its start the indexer cuts an open segment back to the end that the index names, and removes an
open one that the index does not name, but only when the intake log still holds the ops from there
on; they are indexed again. Sealed segments hold committed batches only. An index that knows less
than the sealed segments is stale, and the indexer refuses to work on it until it has been rebuilt.

Reindex builds a new index in `index.new/`, commits it with full sync, and swaps the two folders in
one step (renameat2 with RENAME_EXCHANGE). A crash leaves the old index or the new one in place,
and maybe the other one as `index.new/`, which the next run removes. An unfinished batch at the end
of the open segment is left out when the intake log holds its ops; anything else that does not
match its checksum or its predecessor's digest ends the run, with the old index in place.
"""
