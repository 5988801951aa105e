"""From a link to a file or to rows, over as many links as it takes."""
