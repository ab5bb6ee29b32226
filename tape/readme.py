"""The README of a cartridge: for a person who has the cartridge, a drive, and no cdpfs. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from tape.layout import Label

_TEXT: Final = """\
This cartridge was written by cdpfs, which keeps copies of a directory and of its
history on tape. Its files can be got back with tar and mt alone, as root, on Linux.

    cartridge   {barcode}, label {label_id}
    pool        {pool}
    volume      {volume_name} ({volume_uuid})
    labelled    {labelled}
    block size  {block_bytes} bytes

WHAT IS ON IT

The cartridge is a row of tar archives with a filemark behind each. The first one, file 0,
is this text. Each other archive begins with a small member, cdpfs/archive.json, that says
what the archive is. This lists them all:

    T=/dev/nst0                       # the drive, the device that does not rewind
    mt -f $T setblk 0
    n=1
    while mt -f $T asf $n && dd if=$T bs={block_bytes} count=1 of=/tmp/head 2>/dev/null \\
            && [ -s /tmp/head ]; do
        echo "file $n"; tar -xO --occurrence=1 -f /tmp/head cdpfs/archive.json; n=$((n+1))
    done

  "kind": "full"       files of the volume as they were at "time_ns" (nanoseconds since
                       1970, UTC). A full may be several archives, "part" 0, 1, 2 and so
                       on, of one "set_id". They may go on on the next cartridge.
  "kind": "log"        changes after that, for cdpfs only
  "kind": "catalogue"  what the library knew, for cdpfs only
  "key_id"             if it is not empty, the archive is sealed. Without the key file or
                       its backup nobody can read it; with it, see SEALED ARCHIVES.

GETTING THE FILES BACK WITH tar

In an empty directory, for each archive of kind "full" of one "set_id", in the order of
"part" (here: file 1):

    mt -f $T asf 1
    tar -b {blocking} --numeric-owner -p --xattrs --xattrs-include='*' -xf $T

All archives must be unpacked into the same directory: a file with several names is in one
of them, and the others may only have links to it. "tar -b {blocking} -tvf $T" lists an
archive; names of files behind -xf $T get these alone. What matters is in the folder of the
volume's name; cdpfs/ can be deleted.

To copy an archive to a disk first: dd if=$T bs={block_bytes} of=archive.tar

FILES IN PARTS

A file that is larger than an archive comes in parts, NAME.cdpfs-part-0001-of-0003 and so
on. When all parts are there, this puts them together, with owner, mode and times:

    find . -name '*.cdpfs-part-0001-of-*' | while IFS= read -r first; do
        name=${{first%.cdpfs-part-*}}; d=$(dirname "$name"); touch -r "$d" /tmp/d
        touch -r "$first" /tmp/f
        for p in "$name".cdpfs-part-*; do
            [ "$p" = "$first" ] || {{ cat "$p" >>"$first"; rm "$p"; }}
        done
        mv "$first" "$name"; touch -r /tmp/f "$name"; touch -r /tmp/d "$d"
    done

SEALED ARCHIVES

With cdpfs, and the key file (or a new one from the backup on paper: cdpfs key
import-backup), a sealed archive becomes a plain one:

    dd if=$T bs={block_bytes} | cdpfs tape open --key-file KEY >archive.tar

WITH cdpfs

    cdpfs tape scan --library LIBRARY --store STORE

makes the volume anew from cartridges alone, with its history up to the last archive of
kind "log", and needs no catalogue.
"""


def readme(label: Label) -> str:
    """The text for one cartridge."""
    labelled = datetime.fromtimestamp(label.created_ns // 10**9, UTC)
    return _TEXT.format(
        barcode=label.barcode or "(no barcode)",
        label_id=label.label_id,
        pool=label.pool,
        volume_name=label.volume_name,
        volume_uuid=label.volume_uuid,
        labelled=f"{labelled:%Y-%m-%d %H:%M:%S} UTC",
        block_bytes=label.block_bytes,
        blocking=label.block_bytes // 512,
    )
