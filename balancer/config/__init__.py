"""What did the operator mean?

    units   "5s", "64k", "0660": the little languages of single values
    model   every key of the file: its type, its default, its unit, its meaning. Frozen.
    read    YAML text to model, each complaint with file, line and column
    check   what no single key can know: names that resolve to nothing, binds that clash

A default stands in `model` and nowhere else.
"""
