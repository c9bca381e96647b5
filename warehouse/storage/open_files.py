"""Open files of a connection. A module of its own, because importing fsspec takes as long as a query."""

import fsspec


class OpenFiles(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """A file system without files, which lives as long as the database that it is registered with.

    The Python object of a connection is no measure: its cursors outlive it, and would be left with numbers of
    descriptors that name other files by then.
    """

    protocol = "prunescope-pins"
    cachable = False
