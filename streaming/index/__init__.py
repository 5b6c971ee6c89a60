"""Which bytes of which object are which sample.

`layout` packs the tables into one buffer, `checks` looks through one that was read, `file` saves and maps it, `listing`
and `lines` read the sources, `parts` and `naming` say what belongs together, `matching` joins it, and `samples` holds
`SampleIndex`.
"""

from streaming.index.listing import validator
from streaming.index.sample_index import Changes, Row, SampleIndex, configuration, rules

__all__ = ["Changes", "Row", "SampleIndex", "configuration", "rules", "validator"]
