"""What keeps a connection's files open; apart, because fsspec takes as long to import as a query."""

import fsspec


class Pins(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """A file system without files, which lives as long as the database that it is registered with.

    The Python object of a connection is no measure: its cursors outlive it, and would be left with numbers of
    descriptors that name other files by then.
    """

    protocol = "prunescope-pins"
    cachable = False
