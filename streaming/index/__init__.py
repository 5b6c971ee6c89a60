"""The index: where the bytes of each sample are.

`listing` and `containers` read the sources; `sample_parts` and `sample_names` decide what belongs together, and
`matching` joins it. `layout` packs the tables into one buffer, `integrity` checks a buffer, `file` saves and maps it.
`sample_index` holds `SampleIndex`.
"""

from streaming.index.changes import Changes
from streaming.index.configuration import configuration, rules
from streaming.index.listing import validator
from streaming.index.sample_index import Row, SampleIndex

__all__ = ["Changes", "Row", "SampleIndex", "configuration", "rules", "validator"]
