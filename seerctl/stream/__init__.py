"""The tar record stream on a pipe: reader, writer, end marker."""
