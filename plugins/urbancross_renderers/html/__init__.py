"""The renderer `html`: a static site that opens from the disk, without network.

`site` says which pages there are; a module for each kind of page says what stands in it, `templates` how.
"""
