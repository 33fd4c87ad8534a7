"""Extra networks: LoRA and its relatives, hypernetworks. Their files, their names, their arithmetic, and how they are
put on a model.

`keys`, `metadata`, `hashes`, `arguments`, `listing`, `shelf`, `cards` and `side_files` know them without torch;
`kinds`, `files`, `merging`, `hypernetworks` and `memory` compute.
"""
