"""The seams between API workers and coordinator: channel, page, table, blobs. Neither side knows the other."""
