"""What did the operator mean?

    words      how complaints are worded
    secret     what no complaint repeats
    units      "5s", "64k", "0660": the little languages of single values
    values     what validates a value, what is said of a wrong one, how it looks in the JSON schema
    kinds      the kinds of single values, by name
    rules      the keys of conditions and rules
    logs       the keys of log targets
    model      every key of the file: its type, its default, its unit, its meaning. Frozen.
    format     text with variables: "%[src]"
    logformat  a log line with variables: "%ci %{+Q}r"
    htpasswd   a file of users and hashed passwords
    files      whether a file can be used
    tree       a YAML file with the place of each value; what plain scalars and ${VARIABLES} mean
    read       YAML text to Config, each complaint with file, line and column
    hosts      the overrides of `nodes`: each host's configuration validated and checked
    explain    what pydantic found wrong, in the operator's words
    check      what no single key can know: names that resolve to nothing, parts that do not fit together
    check_logs   the same of logs
    check_rules  the same of acls and rules
    clash      binds that cannot stand side by side
    warn       what can be used, but deserves a line
    effective  what holds once own words, defaults and built-in values are put together
    schema     JSON schema for editors

A default stands in `model` and nowhere else.
"""
