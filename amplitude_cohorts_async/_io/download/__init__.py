"""Downloads: from links to a file or to rows."""
