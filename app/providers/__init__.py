"""Who carries messages: one file for each vendor, and the registry that names them."""
