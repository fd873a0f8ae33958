"""Raw files: archives behind an address, the layouts of the public data sets, and generators of the same layouts."""
